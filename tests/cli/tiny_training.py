"""Sizes of a training run of seconds, and text for it."""

from pathlib import Path

TINY = """
[recipe]
pattern = "KM"
vocab_size = 280
hidden_dim = 32
num_heads = 2
head_dim = 16
rope_dim = 8
kv_lora_dim = 24
dense_dim = 40
num_experts = 4
expert_dim = 16
shared_dim = 16

[train]
steps = 4
batch_tokens = 128
max_document_tokens = 80
checkpoint_every = 2
"""


def write_text(folder: Path) -> Path:
    """Six small files."""
    folder.mkdir(parents=True)
    for number in range(6):
        body = "".join(f"def name{number}(value):\n    return value * {i}\n\n" for i in range(20))
        (folder / f"file{number}.py").write_text(body)
    return folder
