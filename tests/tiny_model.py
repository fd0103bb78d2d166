"""A tiny hybrid model, and a folder that holds one with a tokenizer."""

from pathlib import Path

from matrix.mixers import MIXERS, SOFTMAX

from hyla.checkpoints import save_model
from hyla.checkpoints.chat_template import ChatTemplate
from hyla.models.config import MLPConfig, ModelConfig, SublayerConfig
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.corpus import Document
from hyla.train.recipe import HybridRecipe
from hyla.train.tokenizer import END_OF_TEXT_ID, train_tokenizer

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

RECIPE = HybridRecipe(
    pattern="KM",
    vocab_size=300,
    hidden_dim=48,
    num_heads=2,
    head_dim=16,
    rope_dim=8,
    kv_lora_dim=24,
    dense_dim=40,
    num_experts=4,
    expert_dim=24,
    shared_dim=24,
    max_len=1024,
)


def tiny_model(seed: int = 0) -> Model:
    """Random weights, two layers (KDA and MLA), a mixture of experts."""
    return initialize(Model(RECIPE.model_config_of(RECIPE.vocab_size, END_OF_TEXT_ID)), seed)


def sandwich(mixer: str, vocab_size: int, **more) -> ModelConfig:
    """A mixer of the matrix, softmax attention, the mixer, with MLPs between them. more: other fields of the config."""
    own, attention = SublayerConfig(module=MIXERS[mixer]), SublayerConfig(module=SOFTMAX)
    mlp = SublayerConfig(module=MLPConfig(intermediate_dim=20))
    layers = (own, mlp, attention, mlp, own)
    return ModelConfig(family="hyla", vocab_size=vocab_size, hidden_dim=24, sublayers=layers, max_len=512, **more)


def save_tiny_folder(folder: Path, *, is_chat: bool = True) -> Path:
    """A Hugging Face folder of `tiny_model`. is_chat: with a chat template that joins the messages."""
    text = "def read(path):\n    return path.read_text()\n\nimport os, sys\n" * 20
    tokenizer = train_tokenizer([Document("a.py", text)], RECIPE.vocab_size, RECIPE.max_len)
    if is_chat:
        tokenizer.chat_template = ChatTemplate(CHAT_TEMPLATE)
    config = RECIPE.model_config_of(tokenizer.vocab_size, END_OF_TEXT_ID)
    save_model(initialize(Model(config), 0), folder, tokenizer=tokenizer)
    return folder
