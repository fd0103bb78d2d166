"""The run of examples/grpo.py with rollouts by transformers' generate, beside the same run with our own.

    python -m bench rl --folder FOLDER [--seeds 0 1 2] [--steps 120]

Warm start, tasks, rewards, seeds, trainer and updates are the same; what differs is who draws the answers of a round,
and whose log-probabilities the loss divides by. transformers gets the trainer's weights before every round, and draws
at the same temperature, 64 rows at a time, padded on the left. Held-out tasks are answered by our engine in
both runs: one judge. Runs are kept in FOLDER, and go on where they were.
"""

from bench.rl.command import THREADS, add_options, run

__all__ = ["THREADS", "add_options", "run"]
