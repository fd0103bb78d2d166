"""RULER's kinds of long contexts (arXiv 2404.06654), from text on the machine, at any length."""
