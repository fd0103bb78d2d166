"""The tokens of a GGUF file: texts, types, special ids. No PyTorch, and no tokenizer is built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hyla.checkpoints.gguf.metadata import Metadata
from hyla.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens."""

ENDS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
        "[EOT]",
        "[EOS]",
        "<EOT>",
    ]
)
"""Texts that end an answer wherever they are control or user-defined tokens: a file names one end only."""

OF_LLAMA = {"bos": 1, "eos": 2, "unknown": 0}
"""Special ids of a `llama` vocabulary that does not give them."""


@dataclass(frozen=True)
class Vocabulary:
    """What a file says about its tokens."""

    keys: Metadata
    """Below "tokenizer.ggml."."""

    @cached_property
    def model(self) -> str | None:
        """gpt2, llama, ...; None where the file has no tokenizer."""
        found = self.keys.maybe_text("model")
        return None if found in ("none", "no_vocab") else found

    @cached_property
    def texts(self) -> list[str]:
        """By id. An empty one gets a name of its own. Raises CheckpointError for one that is there twice."""
        found = []
        for number, raw in enumerate(self.keys.texts("tokens")):
            try:
                found.append(raw.decode("utf-8") or f"[EMPTY_{number}]")
            except UnicodeDecodeError as error:
                raise CheckpointError(
                    f"{self.keys.path}: token {number} = {raw!r} is not UTF-8; convert the model again"
                ) from error
        if len(set(found)) != len(found):
            ids: dict[str, int] = {}
            first, second, text = next(
                (ids[text], number, text) for number, text in enumerate(found) if ids.setdefault(text, number) != number
            )
            raise CheckpointError(f"{self.keys.path}: tokens {first} and {second} are both {text!r}; convert it again")
        return found

    @cached_property
    def types(self) -> list[int]:
        """By id; all normal where the file does not say."""
        found = self.keys.array("token_type")
        if found is None:
            return [NORMAL] * len(self.texts)
        self._check_length("token_type", found)
        return [int(kind) for kind in found]

    @cached_property
    def scores(self) -> np.ndarray:
        """By id, of a `llama` vocabulary."""
        found = self.keys.array("scores")
        if found is None:
            raise CheckpointError(
                f"{self.keys.path}: a llama vocabulary without tokenizer.ggml.scores; convert it again"
            )
        self._check_length("scores", found)
        return found

    def _check_length(self, key: str, found: np.ndarray) -> None:
        if len(found) != len(self.texts):
            raise CheckpointError(
                f"{self.keys.path}: tokenizer.ggml.{key} has {len(found):,} entries for {len(self.texts):,} tokens; "
                "convert the model again"
            )

    def special_id(self, role: str) -> int | None:
        """The id that the file gives a role ("bos", "eos", ...), or the format's default."""
        found = self.keys.maybe_integer(f"{role}_token_id")
        if found is None and self.model == "llama":
            found = OF_LLAMA.get(role)
        if found is not None and found >= len(self.texts):
            raise CheckpointError(
                f"{self.keys.path}: tokenizer.ggml.{role}_token_id = {found:,} of {len(self.texts):,} tokens; "
                "convert the model again"
            )
        return found

    @cached_property
    def ends(self) -> list[int]:
        """Ids that end an answer: those that the file names, then those with the text of an end."""
        named = [self.special_id(role) for role in ("eos", "eot", "eom")]
        marked = [
            number
            for number, (text, kind) in enumerate(zip(self.texts, self.types))
            if kind in (CONTROL, USER_DEFINED) and text in ENDS
        ]
        return list(dict.fromkeys(number for number in (*named, *marked) if number is not None))

    def config_keys(self) -> dict:
        """The ids in config.json."""
        if self.model is None:
            return {}
        ends = self.ends
        found = {
            "bos_token_id": self.special_id("bos"),
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            "pad_token_id": self.special_id("padding"),
        }
        return {key: value for key, value in found.items() if value is not None}
