"""The parameters of each kind of layer, one file a kind. Plain integers in, rows out; needs no PyTorch.

Every file has `parameters(hidden_dim, ...)`, whose rows are named relative to the module of that kind.
"""
