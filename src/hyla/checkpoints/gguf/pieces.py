"""A `llama` vocabulary (SentencePiece): pieces with scores, spaces as U+2581, bytes for what is in no piece."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, normalizers

from hyla.checkpoints.gguf.vocabulary import BYTE, CONTROL, UNUSED, USER_DEFINED, Vocabulary
from hyla.checkpoints.library_errors import failures_as
from hyla.errors import CheckpointError

SPACE = "▁"
MAX_PIECE = 512
"""Characters; SentencePiece makes pieces of 16 unless it is told otherwise."""


def piece_tokenizer(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """BPE whose merges are all ways to put a piece together from two others, the highest score first.

    SentencePiece takes the leftmost of equal scores; here ways to make the same piece are ordered by their ids, as in
    Hugging Face's conversion. Only texts that can be cut in both ways at once show it.
    """
    ids = {text: number for number, text in enumerate(vocabulary.texts)}
    unknown = vocabulary.special_id("unknown")
    has_bytes = BYTE in vocabulary.types
    path = vocabulary.keys.path
    with failures_as(lambda reason: CheckpointError(f"{path}: its pieces make no tokenizer: {reason}; fetch it again")):
        model = models.BPE(
            ids,
            _merges(vocabulary, ids),
            unk_token=None if unknown is None else vocabulary.texts[unknown],
            fuse_unk=True,
            byte_fallback=has_bytes,
        )
    backend = tokenizers.Tokenizer(model)
    prefixes = vocabulary.keys.flag("add_space_prefix", True)
    replace = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefixes else replace
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixes else steps)
    return backend


def _merges(vocabulary: Vocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    scores = vocabulary.scores
    ways = []
    for number, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.types)):
        if kind in (CONTROL, USER_DEFINED, UNUSED, BYTE):
            continue
        if len(text) > MAX_PIECE:  # every way to cut it is tried
            raise CheckpointError(
                f"{vocabulary.keys.path}: token {number} has {len(text):,} characters, and a piece at most "
                f"{MAX_PIECE}; convert the model again"
            )
        score = -float(scores[number])
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                ways.append((score, number, left, right))
    ways.sort()
    texts = vocabulary.texts
    return [(texts[left], texts[right]) for _, _, left, right in ways]
