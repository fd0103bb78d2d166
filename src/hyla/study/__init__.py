"""Studies: which mixer, which ratio, at which budget."""
