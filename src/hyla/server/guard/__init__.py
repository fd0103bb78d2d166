"""Bounds of a server: keys, limits, slow and oversized connections."""
