"""A study that is trained in seconds, on a text that is written here."""

import random

STUDY = """
question = "Is a hybrid as good as full attention?"
reference = "softmax only"
seeds = [0, 1]
length = 64
batch_tokens = 256
task_share = 0.5
test_tokens = 256
test_examples = 8
dtype = "fp32"
text = "texts"

[grid]
mixers = ["kda"]
ratios = ["0:1", "1:1"]

[[points]]
budget = 8.28e8
sizes = [{ hidden_dim = 16, num_layers = 2, num_heads = 2, head_dim = 8, mlp_dim = 16 }]

[tuning]
budgets = [8.28e8]
rates = [1e-3, 3e-3, 9e-3]
most_rates = 4

[tasks.recall]
kind = "recall"
length = 32
keys = 16
values = 8
"""
TURNS = """
[tasks.turns-2]
kind = "turns"
turns = 2
tool_tokens = 2
keys = 4
values = 4
fillers = 2

[test_tasks.turns-4]
kind = "turns"
turns = 4
tool_tokens = 2
keys = 4
values = 4
fillers = 2
"""


def write_study(folder, text=STUDY, name="small"):
    """The study's file beside its texts."""
    draw, words = random.Random(0), ["one", "two", "three", "state", "key", "value"]
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    for number in range(60):
        lines = [" ".join(draw.choices(words, k=8)) for _ in range(12)]
        (texts / f"{number}.txt").write_text("\n".join(lines))
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file
