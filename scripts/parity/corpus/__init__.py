"""Generates image files of every format and variant that the service accepts or refuses."""
