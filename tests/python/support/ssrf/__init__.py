"""A simulated network: web servers on public and private addresses, and a name server with false answers."""
