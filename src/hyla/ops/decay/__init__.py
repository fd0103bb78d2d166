"""What linear attentions with decay and without a solve share: the chunk chain, its gradient, and the appended row.

Not an operator of its own. An operator measures `Intra` (its decays and dots) for a stretch of chunks; everything else,
the plan of chunks included (`ops.delta.plan`), is the same for all of them. Open rows in the cache are k and v.
"""
