"""Faults, one module each, with a `TITLE` and a function `run` that causes the fault and checks.

No request may be lost: each gets the right caption, or an error that says what to do. Where a
connection must break (the process is killed), its client gets an error and its next attempt is
answered.
"""
