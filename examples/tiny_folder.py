"""A tiny random model with a tokenizer, as a Hugging Face folder: good for trying things, it writes nonsense."""

from pathlib import Path

import hyla
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.corpus import Document
from hyla.train.recipe import HybridRecipe
from hyla.train.tokenizer import END_OF_TEXT_ID, train_tokenizer

# "KKM": two layers of Kimi Delta Attention (a memory of one size), then one of MLA (it keeps every token).
RECIPE = HybridRecipe(pattern="KKM", vocab_size=300, hidden_dim=64, num_heads=2, dense_dim=96, num_experts=4)


def write_tiny_folder(folder: Path) -> Path:
    """Train a tokenizer on a few lines, draw random weights, save both."""
    text = "def read(path):\n    return path.read_text()\n\nfor line in open(path):\n    print(line)\n" * 20
    tokenizer = train_tokenizer([Document("a.py", text)], RECIPE.vocab_size, RECIPE.max_len)
    config = RECIPE.model_config_of(tokenizer.vocab_size, END_OF_TEXT_ID)
    hyla.save(initialize(Model(config), 0), folder, tokenizer=tokenizer)
    return folder
