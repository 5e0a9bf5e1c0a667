"""What is measured: the service, raw sessions and a Python server."""
