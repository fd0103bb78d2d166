"""Hyla beside llama.cpp, vLLM's CPU build, OpenVINO and transformers: one run, the same weights, engines in turn.

    python -m bench peers --install DIR
    python -m bench peers --environments DIR --folder FOLDER [--parts one_stream,prefill,...] [--engines hyla,llama,...]

Every engine is a process in an environment of its own. In a round each does the same work once; all the others are
stopped meanwhile (SIGSTOP), since engines spin while they rest. Ratios are Hyla over the other, within rounds: above 1
Hyla is faster. What does not install, load or answer is said with its reason. Before a model is timed its engines
choose tokens after the same prompts, and one that chooses unlike Hyla is named.
"""

from bench.peers.command import add_options, run

__all__ = ["add_options", "run"]
