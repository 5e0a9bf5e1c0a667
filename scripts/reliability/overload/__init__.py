"""Ten times the load that the service can carry: `make overload`."""
