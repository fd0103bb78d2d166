"""Generate text: python examples/generate.py [FOLDER or org/name] [PROMPT]

Without a folder, a tiny random model is made in a temporary one; `hyla quickstart` makes a real one in two minutes.
"""

import sys
import tempfile
from pathlib import Path

from tiny_folder import write_tiny_folder

import hyla


def main(folder: str | Path, prompt: str) -> None:
    # An engine holds one model and its caches. Requests that run together share its steps; what a request gets never
    # depends on the others.
    engine = hyla.Engine(folder, memory=256 << 20)

    # Temperature 0 takes the most likely token each time.
    greedy = hyla.SamplingParams(max_tokens=24, temperature=0)
    (completion,) = engine.generate([prompt], greedy)
    print("greedy: ", repr(completion.text))

    # Otherwise tokens are drawn; with a seed, the same ones every time, alone or among others.
    drawn = hyla.SamplingParams(max_tokens=24, temperature=0.8, top_p=0.95, seed=7)
    first, second = engine.generate([prompt, prompt], drawn)
    print("sampled:", repr(first.text))
    assert first.token_ids == second.token_ids, "one seed, one text"

    # Tokens as they come.
    print("stream: ", end=" ")
    for event in engine.stream(prompt, greedy):
        print(event.token_ids, end=" ", flush=True)

    # The prompt's beginning was kept, so asking again computes less.
    (again,) = engine.generate([prompt * 8], greedy)
    (again,) = engine.generate([prompt * 8], greedy)
    print(f"\n{again.usage.cached_tokens} of {again.usage.prompt_tokens} prompt tokens came from the prefix cache")


if __name__ == "__main__":
    prompt = sys.argv[2] if len(sys.argv) > 2 else "def read(path):\n    return path."
    if len(sys.argv) > 1:
        main(sys.argv[1], prompt)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(write_tiny_folder(Path(temporary) / "tiny"), prompt)
