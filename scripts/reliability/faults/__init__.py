"""Faults, one module each: `TITLE`, and `run`, which brings it about and says what was lost.

Nothing may be: every request gets the right caption, or a refusal that says what to do. Where a
connection itself must break (the process is killed), its client sees that and its next attempt is
answered.
"""
