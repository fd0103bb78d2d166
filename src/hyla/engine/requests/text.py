"""Text of a growing list of token ids: whole characters only, and nothing that may still become a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

REPLACEMENT = "\ufffd"


class TextCodec(Protocol):
    """What the engine needs of a tokenizer (`hyla.checkpoints.Tokenizer` is one)."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...


@runtime_checkable
class EndsText(Protocol):
    """A tokenizer that knows the token at the end of a text."""

    @property
    def eos_token_id(self) -> int | None: ...


@runtime_checkable
class HasBackend(Protocol):
    """A tokenizer over one of the tokenizers library."""

    @property
    def backend(self) -> object: ...


class Detokenizer:
    """Decodes ids as they come.

    Only a window is decoded again: the ids since the last clean end, with those of the stretch before it, because some
    decoders treat the first token of a text (its space) differently.
    """

    def __init__(self, tokenizer: TextCodec, *, skip_special_tokens: bool = True):
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self._window: list[int] = []
        self._num_context = 0
        self._context_text = ""
        self._num_given = 0
        """Characters after the context's that were given out."""

    def push(self, token_id: int) -> str:
        """The new text that is certain after this token, often empty."""
        self._window.append(token_id)
        text = self._new_text()
        certain = text.rstrip(REPLACEMENT)
        new = certain[self._num_given :]
        self._num_given = max(self._num_given, len(certain))
        if text and len(certain) == len(text):
            self._window = self._window[self._num_context :]
            self._num_context = len(self._window)
            self._context_text = self._decode()
            self._num_given = 0
        return new

    def flush(self) -> str:
        """What is left at the end: bytes that never became a character, as U+FFFD."""
        rest = self._new_text()[self._num_given :]
        self._num_given += len(rest)
        return rest

    def _new_text(self) -> str:
        if len(self._window) == self._num_context:
            return ""
        return self._decode()[len(self._context_text) :]

    def _decode(self) -> str:
        return self.tokenizer.decode(self._window, skip_special_tokens=self.skip_special_tokens)


class StopStrings:
    """Finds the earliest stop string in text that arrives in pieces, and holds back what may be the start of one.

    keeps_stop: show the stop string itself as well.
    """

    def __init__(self, stops: Sequence[str], *, keeps_stop: bool = False):
        self.stops, self.keeps_stop = tuple(stops), keeps_stop
        self._held = ""
        self._num_early = 0
        """Held characters at which no stop string may end."""
        self._is_leading = False
        """Whether nothing but space came since the text that was passed by."""
        self.found: str | None = None
        """The stop string that was found."""

    def push(self, text: str, *, may_stop: bool = True) -> tuple[str, bool]:
        """(text that may be shown, whether a stop string was found); what stands behind a stop string is dropped.

        may_stop: False lets stop strings that are whole by now pass; one that this text begins still counts later.
        """
        rest = text.lstrip() if self._is_leading else text
        space = text[: len(text) - len(rest)]
        shown = self._push(space, may_stop=False)[0] if space else ""
        if not rest:
            return shown, False
        self._is_leading = False
        more, is_found = self._push(rest, may_stop=may_stop)
        return shown + more, is_found

    def pass_by(self, text: str) -> str:
        """Text in which no stop string is looked for, with what was held back; none begins in it, and none is the space
        that follows."""
        self._is_leading = True
        return self.flush() + text

    def _push(self, text: str, *, may_stop: bool) -> tuple[str, bool]:
        held = self._held + text
        if may_stop:
            found = [(place, len(stop), stop) for stop in self.stops if (place := self._place(stop, held)) >= 0]
        else:
            found, self._num_early = [], len(held)
        if found:
            self._held = ""
            place, size, self.found = min(found)
            return held[: place + size if self.keeps_stop else place], True
        keep = self._possible_start(held)
        self._held = held[len(held) - keep :]
        self._num_early = max(self._num_early - (len(held) - keep), 0)
        return held[: len(held) - keep], False

    def _place(self, stop: str, held: str) -> int:
        """Where a stop string that ends late enough begins, -1 when nowhere."""
        return held.find(stop, max(self._num_early - len(stop) + 1, 0))

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of the text that a longer stop string begins with."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - size :]
            if any(len(stop) > size and stop.startswith(end) for stop in self.stops):
                return size
        return 0

    def flush(self) -> str:
        """What was held back, when the text ends without a stop string."""
        held, self._held, self._num_early = self._held, "", 0
        return held
