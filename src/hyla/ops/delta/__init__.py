"""What the delta rules share: the chunk plan, the chain of anchors over chunks, and the appended row.

Not an operator of its own; `hyla.ops.gated_delta` and `hyla.ops.kda` differ only in how they measure decay.
"""
