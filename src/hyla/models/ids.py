"""Token ids that a model has."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.errors import RequestError


def check_ids(ids: Sequence[int], vocab_size: int, name: str) -> None:
    """Raise RequestError unless ids are a non-empty list of ids below `vocab_size`. name: of the list, in the message.

    >>> check_ids([7], 8, "the prompt")
    """
    if len(ids) == 0:
        raise RequestError(f"{name} is empty; give at least one token", param="prompt")
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise RequestError(f"{name} holds token id {wrong}; this model's ids are 0 to {vocab_size - 1}", param="prompt")
