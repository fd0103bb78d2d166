"""Which mixer, in which ratio, at which budget: runs of arms that differ in one thing, and what they show. No PyTorch
is loaded by reading results and by reporting them."""
