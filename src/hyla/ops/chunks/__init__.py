"""What the operators with a state share: plans of chunks on the 64-token grid, and the walks over them.

Not an operator of its own. `delta_*` walks with a triangular solve (the delta rules), `decay_*` without one (lightning,
linear attention, the state space dual). Each has a *rule* (what an operator measures inside chunks), a *chain* (the
fixed order of operations), a *walk* (whole sequences, or new rows against a cache) and a *function* (autograd).
`routing` splits a cached batch into single rows and chunks, `states` checks what is handed in and out.
"""
