"""A network namespace whose "public" servers answer, behind a DNS that lies."""
