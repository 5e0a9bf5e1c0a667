"""One module for each fault, with `TITLE` and `run`."""
