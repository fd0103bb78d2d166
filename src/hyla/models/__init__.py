"""Whole models: configs, the one trunk, published formats."""
