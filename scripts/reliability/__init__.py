"""The service under load, faults, overload and damaged input."""
