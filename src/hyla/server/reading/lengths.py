"""Texts that cannot fit a model's context whatever they say, refused before they are encoded."""

from __future__ import annotations

from hyla.checkpoints import Tokenizer
from hyla.engine.requests.facts import CONTEXT_EXCEEDED
from hyla.errors import FieldError

SHRINKAGE = 4
"""Bytes of a text for one byte of what a normalizer makes of it, at most: one of four bytes becomes one of one."""


def most_text_bytes(tokenizer: Tokenizer, context_len: int) -> int:
    """The bytes, in UTF-8, that so many tokens can stand for: a longer text has more tokens.

    A tokenizer that leaves out what it does not know, or spaces, has texts that are longer and would fit.
    """
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    longest = max((len(text.encode("utf-8", "surrogatepass")) for text in vocabulary), default=1)
    return context_len * longest * (SHRINKAGE if tokenizer.backend.normalizer is not None else 1)


def check_length(text: str, most_bytes: int, context_len: int, name: str = "the prompt") -> None:
    """Raise RequestError for a text of more bytes. name: of the text, in the message."""
    # Characters first: they are known, and no text has fewer bytes.
    num_bytes = len(text) if len(text) > most_bytes else len(text.encode("utf-8", "surrogatepass"))
    if num_bytes > most_bytes:
        raise FieldError(
            "{name} has {value} bytes or more, and the {context_len} tokens of a context hold at most {limit}; "
            "shorten it",
            "prompt",
            CONTEXT_EXCEEDED,
            name=name,
            context_len=context_len,
            value=num_bytes,
            limit=most_bytes,
        )
