"""A byte-level BPE tokenizer trained on the corpus, and the corpus as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.checkpoints.tokenizer import Tokenizer
from hyla.data.encoding import Encoder
from hyla.data.records import Damaged, Record
from hyla.errors import ConfigError
from hyla.train.corpus import Document

END_OF_TEXT = "<|endoftext|>"
"""The only special token, id 0: it stands before and after every document."""

END_OF_TEXT_ID = 0


def train_tokenizer(documents: Sequence[Document], vocab_size: int, max_len: int) -> Tokenizer:
    """Train on the documents; every byte has a token, so no text is unknown.

    vocab_size: most entries that the vocabulary may have (less on tiny corpora), at least 257.
    max_len: longest context that the tokenizer's settings declare.
    It has no chat template: a model of plain text knows no turns, and says so to whoever would talk to it.
    The result depends on the documents only.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((document.text for document in documents), trainer)
    return Tokenizer(
        backend,
        special=dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT),
        settings={"model_max_length": max_len, "clean_up_tokenization_spaces": False},
    )


def encode_documents(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[list[int]]:
    """Token ids of each document between two end-of-text tokens (the first one is the tokenizer's beginning, where it
    has one). Special tokens in the text stay plain text. Raises ConfigError for a tokenizer without an end."""
    encoder = Encoder(tokenizer)
    records = [Record(document.name, text=document.text) for document in documents]
    found = []
    for one in encoder.encode(records):
        if isinstance(one, Damaged):
            raise ConfigError(f"{one.place}: {one.reason}")
        found.append(one.ids)
    return found
