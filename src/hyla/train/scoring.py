"""Bits per byte of texts under a model, in windows that overlap.

The tokens t_0 .. t_n of a text stand after the tokenizer's bos token, where it has one; row i reads t_i and predicts
t_{i+1}. A window is at most `context` rows. Each but the first begins with `overlap` rows that the one before has
scored: they are read again as context, and not counted twice. Without a bos token nothing predicts t_0, so that it and
its bytes are not counted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from hyla.checkpoints.library_errors import failures_as
from hyla.checkpoints.tokenizer import Tokenizer
from hyla.errors import ConfigError, RequestError
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.ops.exact.logprobs import of_tokens
from hyla.train.corpus import Document

Progress = Callable[[float], None]

DEFAULT_CONTEXT = 2048
OVERLAP_SHARE = 4
"""The default overlap is the context divided by this."""
CALL_ROWS = 4096
"""Rows of one call of the model, unless one window is longer."""
LOGIT_ROWS = 128
"""Rows whose logits live at once."""


@dataclass(frozen=True)
class Windows:
    """How texts are cut. context: rows of a window; overlap: how many of them the window before has scored."""

    context: int
    overlap: int

    @classmethod
    def of(cls, max_len: int, context: int | None = None, overlap: int | None = None) -> Windows:
        """With defaults for a model of this context: 2,048 rows or what it has, a quarter of them read again.

        Raises ConfigError for what does not fit.
        """
        rows = min(DEFAULT_CONTEXT, max_len) if context is None else context
        if not 1 <= rows <= max_len:
            raise ConfigError(f"context = {rows} tokens is not within 1 to {max_len}, the context of this model")
        again = rows // OVERLAP_SHARE if overlap is None else overlap
        if not 0 <= again < rows:
            raise ConfigError(f"overlap = {again} tokens must be 0 to {rows - 1}, less than the context of {rows}")
        return cls(rows, again)

    def cut(self, num_rows: int) -> Iterator[tuple[int, int, int]]:
        """(first row, row after the last, first scored row) of each window.

        >>> list(Windows(4, 1).cut(9))
        [(0, 4, 0), (3, 7, 4), (6, 9, 7)]
        """
        scored = 0
        while scored < num_rows:
            first = max(0, scored - self.overlap)
            end = min(first + self.context, num_rows)
            yield first, end, scored
            scored = end


@dataclass(frozen=True)
class ScoredText:
    """What one text costs. bits: of all its tokens after the first known one; 0 tokens: nothing could be predicted."""

    name: str
    num_bytes: int
    num_tokens: int
    bits: float


@dataclass
class _Text:
    """A text whose windows are on their way."""

    name: str
    num_bytes: int
    num_tokens: int
    num_windows: int
    bits: float = 0.0

    def done(self) -> ScoredText:
        return ScoredText(self.name, self.num_bytes, self.num_tokens, self.bits)


@dataclass(frozen=True)
class _Window:
    """tokens: its rows' inputs and, one further, their targets. num_read: rows that are read only."""

    text: _Text
    tokens: Sequence[int]
    num_read: int


def score(
    model: Model,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    windows: Windows,
    *,
    call_rows: int = CALL_ROWS,
    progress: Progress = lambda num_bytes: None,
) -> Iterator[ScoredText]:
    """What each text costs, in their order, as it is known. Special tokens in a text are read as plain text.

    call_rows: how many rows are computed at once; windows of several texts share a call. It changes no bit of a result:
    rows are exact, and a window's sum is taken alone. progress: told of bytes as they are scored.
    Raises RequestError for a token that the model does not have.
    """
    waiting: list[_Window] = []
    texts: deque[_Text] = deque()
    for document in documents:
        text, own = _windows_of(document, tokenizer, model, windows)
        texts.append(text)
        for window in own:
            if waiting and _num_rows(waiting) + _num_rows([window]) > call_rows:
                _compute(model, waiting, progress)
                waiting = []
            waiting.append(window)
        while texts and not texts[0].num_windows:
            yield texts.popleft().done()
    if waiting:
        _compute(model, waiting, progress)
    yield from (text.done() for text in texts)


def _windows_of(
    document: Document, tokenizer: Tokenizer, model: Model, windows: Windows
) -> tuple[_Text, list[_Window]]:
    """A text as tokens, cut."""
    encoding = encode_plain(tokenizer, document.text)
    bos = tokenizer.bos_token_id
    tokens = [*([] if bos is None else [bos]), *encoding.ids]
    num_bytes = len(document.data)
    if bos is None and encoding.ids:
        num_bytes -= len(document.text[: encoding.offsets[0][1]].encode("utf-8"))
    if tokens:
        model.check_ids(tokens, document.name)
    num_rows = max(len(tokens) - 1, 0)
    cuts = list(windows.cut(num_rows))
    text = _Text(document.name, num_bytes, num_rows, len(cuts))
    return text, [_Window(text, tokens[first : end + 1], scored - first) for first, end, scored in cuts]


def encode_plain(tokenizer: Tokenizer, text: str):
    """The `tokenizers.Encoding` of a text in which special tokens are text as well, with none that a template adds."""
    backend = tokenizer.backend
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        with failures_as(lambda reason: RequestError(f"the model's tokenizer fails on this text: {reason}")):
            return backend.encode(text, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before


def _num_rows(windows: Iterable[_Window]) -> int:
    return sum(len(window.tokens) - 1 for window in windows)


@torch.inference_mode()
def _compute(model: Model, windows: Sequence[_Window], progress: Progress) -> None:
    """One call of the model; each window's bits join those of its text."""
    lengths = [len(window.tokens) - 1 for window in windows]
    inputs = [token for window in windows for token in window.tokens[:-1]]
    batch = Batch.packed(lengths, device=model.device)
    hidden_TD = model(torch.tensor(inputs, device=model.device), batch)
    for window, own_TD in zip(windows, hidden_TD.split(lengths)):
        targets = torch.tensor(window.tokens[1 + window.num_read :], device=model.device)
        window.text.bits += bits_of(model, own_TD[window.num_read :], targets)
        window.text.num_windows -= 1
        progress(window.text.num_bytes * len(targets) / window.text.num_tokens)


def bits_of(model: Model, hidden_RD: torch.Tensor, targets_R: torch.Tensor) -> float:
    """Bits of the tokens int64 [R] that final hidden states [R, D] predict; summed without rounding, rounded once."""
    nats: list[float] = []
    for hidden_CD, targets_C in zip(hidden_RD.split(LOGIT_ROWS), targets_R.split(LOGIT_ROWS)):
        nats += of_tokens(model.head_logits(hidden_CD), targets_C).tolist()
    return -math.fsum(nats) / math.log(2)
