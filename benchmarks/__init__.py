"""Measurements of the library, outside the package: public names only."""
