"""Builds and runs the fuzz targets of `fuzz/`: `make fuzz`."""
