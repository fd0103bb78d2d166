"""Sampling parameters that name tokens, against one model's vocabulary and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.engine.requests.params import SamplingParams
from hyla.engine.requests.text import TextCodec
from hyla.errors import FieldError


def check_token_ids(params: SamplingParams, vocab_size: int) -> None:
    """Raises FieldError for an id that the model does not have. Bad words must be ids already."""
    named = {
        "stop_token_ids": params.stop_token_ids,
        "logit_bias": params.logit_bias,
        "allowed_token_ids": params.allowed_token_ids or (),
        "bad_words": (token for word in params.bad_words for token in word),
        "thinking_start_ids": params.thinking_start_ids,
        "thinking_end_ids": params.thinking_end_ids,
    }
    for name, ids in named.items():
        wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
        if wrong is not None:
            template = f"{{{name}}} holds {{value}}; this model's ids are 0 to {{limit}}"
            raise FieldError(template, name, value=wrong, limit=vocab_size - 1)


def bad_word_ids(words: Sequence[str | tuple[int, ...]], tokenizer: TextCodec | None) -> tuple[tuple[int, ...], ...]:
    """Bad words as token sequences, each once: a text as the tokenizer writes it alone and after a space."""
    sequences: dict[tuple[int, ...], None] = {}
    for word in words:
        if not isinstance(word, str):
            sequences[tuple(word)] = None
            continue
        if tokenizer is None:
            raise FieldError(
                "{bad_words} as text need a tokenizer; give token ids or Engine(..., tokenizer=)", "bad_words"
            )
        for text in (word, f" {word.lstrip(' ')}"):
            sequences[tuple(tokenizer.encode(text, add_special_tokens=False))] = None
    if () in sequences:
        raise FieldError("{bad_words} holds a text for which the tokenizer writes no token; leave it out", "bad_words")
    return tuple(sequences)
