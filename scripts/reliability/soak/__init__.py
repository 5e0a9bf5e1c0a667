"""A mix of all kinds of requests for an hour, with the allowed outcomes of each: `make soak`."""
