"""A mix of all kinds of requests for an hour, each with its allowed outcomes: `make soak`."""
