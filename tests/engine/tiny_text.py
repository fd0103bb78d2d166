"""A byte-level tokenizer with a chat template, and tiny real models over its vocabulary."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from hyla.checkpoints import Tokenizer
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

END = 256
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Tokenizer:
    """Id n is byte n; 256 is the end of text."""
    to_char = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = {byte: char for byte, char in byte_to_char().items()}
    vocab = {alphabet[byte]: byte for byte in range(256)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = to_char
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    return Tokenizer(backend, special={"eos_token": "<|end|>"}, chat_template=chat_template)


def byte_to_char() -> dict[int, str]:
    """The printable stand-in of each byte in byte-level vocabularies (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    assert set(table.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return table


def tiny_model(name: str = "kimi_linear", *, seed: int = 3, max_len: int = 512, std: float = 0.3) -> Model:
    """A family's first and last layer with 259 ids, and logits wide enough apart to have opinions."""
    config = family_of(name).tiny
    update = {"vocab_size": 259, "max_len": max_len, "eos_token_ids": (END,)}
    config = config.model_copy(update=update | {"sublayers": config.sublayers[:2] + config.sublayers[-2:]})
    return initialize(Model(config), seed, std=std)
