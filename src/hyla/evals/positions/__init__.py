"""Bits per byte by position in the context: how much of a long context a model makes use of."""
