"""What the operators with a state share: plans of chunks on the 64-token grid, and the walk over them.

Not an operator of its own. `delta_*` walks with a triangular solve (the delta rules), `decay_*` without one. An
operator measures its own decays and dots inside chunks; the rest is the same for all of them.
"""
