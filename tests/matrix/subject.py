"""The models that cells compute with: the tiny ones by mixer, or one given model whatever the mixer's name is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from matrix import mixers

from hyla.models.initialize import initialize
from hyla.models.trunk import Model

FEW_IDS = (3, 7, 8, 20)
"""What may be sampled, so that n-grams repeat and drafts are often right."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What a cell needs of its models."""

    model_of: Callable[[str, str], Model]
    """By mixer and dtype; not packed, and the same object each time."""
    draft_model: Callable[[], Model]
    """Another model of the same vocabulary."""
    vocab: int
    few_ids: tuple[int, ...] = FEW_IDS
    memory: int = 8 << 20
    """Bytes for caches; room for 32 sequences."""


TINY = Subject(mixers.model_of, mixers.draft_model, mixers.VOCAB)


def subject_of(load: Callable[[str], Model], *, memory: int = 8 << 20, few_ids: tuple[int, ...] = FEW_IDS) -> Subject:
    """Cells of one model in each dtype, whatever their mixer is called. load: the model in a dtype, by its name.

    few_ids: four of its ids, none of which ends a text.
    """
    model_of = cache(load)
    return Subject(
        lambda mixer, dtype: model_of(dtype),
        cache(lambda: _draft_model(model_of("float32").config.vocab_size)),
        model_of("float32").config.vocab_size,
        few_ids,
        memory,
    )


def _draft_model(vocab: int) -> Model:
    """Random: it proposes what is wrong, and among four ids right now and then."""
    config = mixers.config_of("gated_delta").model_copy(update={"mtp": (), "vocab_size": vocab})
    return initialize(Model(config), 11, std=0.3).eval()
