"""A tiny corpus, recipe and run for the tests of training."""

from pathlib import Path

import torch

from hyla.data.packing import TokenStore
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.recipe import HybridRecipe
from hyla.train.sources import packer_of

RECIPE = HybridRecipe(
    pattern="KM",
    vocab_size=300,
    hidden_dim=32,
    num_heads=2,
    head_dim=16,
    rope_dim=8,
    kv_lora_dim=24,
    dense_dim=48,
    num_experts=4,
    expert_dim=16,
    shared_dim=32,
)

CONFIG = TrainConfig(steps=9, seed=3, batch_tokens=192, max_document_tokens=70, checkpoint_every=4, loss_rows=100)


def tiny_store(num_documents: int = 12) -> TokenStore:
    """Documents of 1 to 130 random ids between two ends of text."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 131, (num_documents,), generator=generator).tolist()
    documents = [[0, *torch.randint(1, 300, (n,), generator=generator).tolist(), 0] for n in lengths]
    return TokenStore.from_lists(documents)


def tiny_trainer(folder: Path, config: TrainConfig = CONFIG) -> Trainer:
    model = initialize(Model(RECIPE.model_config_of(300, 0)), config.seed)
    return Trainer(model, packer_of(tiny_store(), config), config, folder)


def write_text_folder(folder: Path, num_files: int = 8) -> Path:
    """Small Python-like files, one of them in a subfolder."""
    folder.mkdir(parents=True)
    (folder / "inner").mkdir()
    for number in range(num_files):
        place = folder / "inner" if number == 0 else folder
        body = "".join(f"def f{number}_{i}(value):\n    return value + {i * number}\n\n" for i in range(25))
        (place / f"part{number}.py").write_text(body, encoding="utf-8")
    return folder
