"""Sampled answers with log-probabilities: Hyla's engine beside transformers' generate, in one run.

    python -m bench rollouts [--shapes example kda-5m ...] [--folder FOLDER] [--rounds 5] [--cpu-time]

Both have the same random weights, prompts, temperature and number of new tokens (an end of text ends nothing), and give
the log-probability of every drawn token. Each does the whole work once in a round, in turn, 64 rows at a time:
transformers' are padded on the left, the engine packs them, and its prefix cache is empty when a round begins, as after
new weights. First, what transformers drew is scored by the arithmetic of Hyla's trainer: that it is the same model is
checked before anything is timed, and how far the log-probabilities lie apart is told.

Target: 5 times the tokens a second.
"""

from bench.rollouts.command import THREADS, add_options, run

__all__ = ["THREADS", "add_options", "run"]
