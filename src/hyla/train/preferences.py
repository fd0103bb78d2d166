"""Direct preference optimisation: pairs of answers of which one is preferred (DPO, arXiv 2305.18290, eq. 7).

    L = -log sigmoid(beta ((ln p(c) - ln q(c)) - (ln p(r) - ln q(r))))

p is the model, q what it was before; c and r are the preferred and the other answer, whose log-probabilities are sums
over the tokens that the two do not share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import Field

from hyla.adapters import LoraConfig
from hyla.checkpoints import Tokenizer
from hyla.data.encoding import Encoder
from hyla.data.epochs import EpochSteps
from hyla.data.packing import PackedRows, TokenStore
from hyla.data.records import Damaged, Record, are_messages
from hyla.errors import CheckpointError, ConfigError
from hyla.models.config import Config, Count
from hyla.models.trunk import Model
from hyla.ops.exact.logprobs import token_logprobs
from hyla.train.config import TrainConfig
from hyla.train.files import writing
from hyla.train.loop import Trainer
from hyla.whole_files import partial_name

KEYS = {"chosen", "rejected"}


class DPOConfig(Config):
    """How a preference becomes a loss."""

    pairs: str
    """JSON lines of conversations: `chosen` and `rejected`, lists of messages, after those of `prompt` where it is
    given."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How dearly the model pays for leaving what it was. Smaller: it moves further."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Chance that a preference is the wrong way round (conservative DPO)."""
    pairs_per_step: Count = 8
    """Pairs of one optimizer step."""


@dataclass(frozen=True)
class PairedRows(PackedRows):
    """Documents in pairs, the preferred one first. pairs: their numbers in the store."""

    pairs: tuple[int, ...] = ()

    @property
    def denominator(self) -> int:
        return len(self.pairs)

    def to(self, device: torch.device) -> PairedRows:
        rows = super().to(device)
        return PairedRows(rows.tokens_T, rows.targets_T, rows.lengths, rows.is_learnt_T, self.pairs)

    def micro_batches(self, most_rows: int | None) -> list[PackedRows]:
        """Pairs are not parted; one that is longer than most_rows is a pass of its own."""
        groups: list[list[int]] = []
        sizes = [sum(self.lengths[2 * place : 2 * place + 2]) for place in range(len(self.pairs))]
        for place, size in enumerate(sizes):
            if most_rows is not None and (not groups or sum(sizes[p] for p in groups[-1]) + size > most_rows):
                groups.append([place])
            else:
                groups = groups or [[]]
                groups[-1].append(place)
        return [self._part(group, sizes) for group in groups]

    def _part(self, places: Sequence[int], sizes: Sequence[int]) -> PairedRows:
        first = sum(sizes[: places[0]])
        here = slice(first, first + sum(sizes[place] for place in places))
        assert self.is_learnt_T is not None
        lengths = self.lengths[2 * places[0] : 2 * places[-1] + 2]
        pairs = tuple(self.pairs[place] for place in places)
        return PairedRows(self.tokens_T[here], self.targets_T[here], lengths, self.is_learnt_T[here], pairs)


class PairSizes:
    """Rows of each step of pairs."""

    def __init__(self, rows_of: Callable[[int], int]):
        self.of = lru_cache(maxsize=None)(rows_of)

    def before(self, step: int) -> int:
        """Rows of all steps before `step`."""
        return sum(self.of(each) for each in range(step))


class PairSource:
    """Steps of `count` pairs; every epoch is one permutation of them, a function of (seed, epoch)."""

    def __init__(self, store: TokenStore, count: int, seed: int):
        """store: preferred and other documents in turn. Raises ConfigError for fewer pairs than one step."""
        self.store = store
        starts = torch.cat([store.ends.new_zeros(1), store.ends[:-1]])
        self._pieces = [(start, end - start - 1) for start, end in zip(starts.tolist(), store.ends.tolist())]
        self.num_pairs = len(self._pieces) // 2
        if self.num_pairs < count:
            raise ConfigError(f"{self.num_pairs} pairs are fewer than dpo.pairs_per_step = {count}; lower it")
        self._pairs = EpochSteps(self.num_pairs, count, seed)
        self.sizes = PairSizes(lambda step: sum(rows for _, rows in self._pieces_of(self._pairs.of(step))))

    def step(self, step: int) -> PairedRows:
        """The rows of optimizer step `step` (0-based)."""
        return self.rows(self._pairs.of(step))

    def _pieces_of(self, pairs: Sequence[int]) -> list[tuple[int, int]]:
        """(first row, rows) of both documents of each pair."""
        return [self._pieces[2 * pair + side] for pair in pairs for side in (0, 1)]

    def rows(self, pairs: Sequence[int]) -> PairedRows:
        """These pairs, one after the other."""
        rows = self.store.rows(self._pieces_of(pairs))
        return PairedRows(rows.tokens_T, rows.targets_T, rows.lengths, rows.is_learnt_T, tuple(pairs))


class PreferenceLosses(NamedTuple):
    """Sums over pairs, divided. Only `total` has a gradient."""

    total: torch.Tensor
    loss: torch.Tensor
    preferred: torch.Tensor
    """Pairs whose margin is positive: the model moved towards the preferred answer."""
    margin: torch.Tensor
    """beta times what the model gained on the preferred answer beyond the other."""


def answer_logprobs(model: Model, rows: PackedRows, chunk_rows: int) -> torch.Tensor:
    """ln p of each document's learnt tokens, a sum; [documents], differentiable."""
    hidden_TD = model(rows.tokens_T, rows.batch)
    assert rows.is_learnt_T is not None
    number_T = torch.repeat_interleave(torch.tensor(rows.lengths)).to(hidden_TD.device)[rows.is_learnt_T]
    logprobs_R = token_logprobs(
        hidden_TD[rows.is_learnt_T],
        model.head.weight,
        rows.targets_T[rows.is_learnt_T],
        chunk_rows=chunk_rows,
    )
    sums = logprobs_R.new_zeros(len(rows.lengths), dtype=torch.float64)
    return sums.index_add(0, number_T, logprobs_R.double())


class PreferenceTrainer(Trainer):
    """A run over pairs."""

    names = ("loss", "preferred", "margin")
    source: PairSource

    def __init__(
        self,
        model: Model,
        source: PairSource,
        config: TrainConfig,
        folder: Path,
        dpo: DPOConfig,
        lora: LoraConfig | None = None,
    ):
        super().__init__(model, source, config, folder, lora=lora)
        self.dpo = dpo
        self._reference: torch.Tensor | None = None

    def reference(self) -> torch.Tensor:
        """ln q of every document, float64 [2 pairs]: of the model as it is when this is asked first, kept in the run's
        folder. Ask before anything is trained or resumed."""
        file = self.folder / "reference.safetensors"
        if self._reference is None and file.exists():
            self._reference = _read_reference(file, 2 * self.source.num_pairs)
        if self._reference is None:
            found = []
            with torch.no_grad():
                for pair in range(self.source.num_pairs):  # alone: no answer's bits depend on the others
                    rows = self.source.rows([pair]).to(self.model.device)
                    found.append(answer_logprobs(self.model, rows, self.config.loss_rows).cpu())
            self._reference = torch.cat(found)
            _write_reference(file, self._reference)
        return self._reference

    def resume(self, say: Callable[[str], None] = lambda line: None) -> int:
        self.reference()
        return super().resume(say)

    def _losses(self, rows: PackedRows, denominator: int) -> PreferenceLosses:
        assert isinstance(rows, PairedRows)
        found = answer_logprobs(self.model, rows, self.config.loss_rows)
        places = [2 * pair + side for pair in rows.pairs for side in (0, 1)]
        gained = (found - self.reference()[places].to(found.device)).view(-1, 2)
        margin = self.dpo.beta * (gained[:, 0] - gained[:, 1])
        smoothing, log_sigmoid = self.dpo.label_smoothing, torch.nn.functional.logsigmoid
        total = -((1 - smoothing) * log_sigmoid(margin) + smoothing * log_sigmoid(-margin)).sum() / denominator
        preferred = (margin.detach() > 0).double().sum() / denominator
        return PreferenceLosses(total, total.detach(), preferred, margin.detach().sum() / denominator)


def _write_reference(file: Path, logprobs: torch.Tensor) -> None:
    """Whole or not at all. Raises CheckpointError."""
    from hyla.checkpoints.tensor_files import write_tensors

    partial = partial_name(file)
    with writing(file):
        write_tensors({"logprobs": logprobs}, partial)
        os.replace(partial, file)


def _read_reference(file: Path, count: int) -> torch.Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(file)["logprobs"]
    except (SafetensorError, OSError, KeyError) as error:
        found, reason = None, str(error)
    else:
        reason = f"{found.numel()} log-probabilities, not {count}"
    if found is None or found.shape != (count,):
        raise CheckpointError(
            f"{file} is damaged ({reason}); delete it: it is computed again from the model that the run began with"
        )
    return found


def read_pairs(file: Path, tokenizer: Tokenizer, *, max_document_tokens: int, say: Callable[[str], None]) -> TokenStore:
    """The pairs of a file as documents in turn, learnt where they differ.

    Raises ConfigError for a line that is no pair. Pairs longer than max_document_tokens are left out, and counted.
    """
    encoder, documents, learnt, long = Encoder(tokenizer, is_chat=True), [], [], 0
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"dpo.pairs: {file} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        both = [_ids(encoder, messages, f"{file}, line {number}") for messages in _pair(line, f"{file}, line {number}")]
        if max(len(ids) for ids, _ in both) > max_document_tokens + 1:
            long += 1
            continue
        shared = next((p for p, (a, b) in enumerate(zip(both[0][0], both[1][0])) if a != b), None)
        if shared is None:
            raise ConfigError(f"{file}, line {number}: chosen and rejected are the same, or one continues the other")
        for ids, is_learnt in both:
            documents.append(ids)
            learnt += [own and place >= shared for place, own in enumerate(is_learnt)]
    if long:
        say(f"{long} pairs are longer than max_document_tokens = {max_document_tokens} and are left out")
    store = TokenStore.from_lists(documents)
    return TokenStore(store.tokens, store.ends, torch.tensor(learnt, dtype=torch.uint8))


def _pair(line: str, place: str) -> tuple[list[dict], list[dict]]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not JSON: {error}") from None
    if not isinstance(found, dict) or not found.keys() >= KEYS:
        raise ConfigError(f"{place}: a pair has the keys chosen and rejected, and perhaps prompt")
    prompt, chosen, rejected = found.get("prompt") or [], found["chosen"], found["rejected"]
    for name, messages in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not are_messages(messages) or (name != "prompt" and not messages):
            raise ConfigError(f"{place}: {name} must be a list of messages, each with a role and content")
    return prompt + chosen, prompt + rejected


def _ids(encoder: Encoder, messages: list[dict], place: str) -> tuple[list[int], list[bool]]:
    """The conversation up to its last answer. Where a template tells it in several documents, the last one."""
    if messages[-1].get("role") != "assistant":
        raise ConfigError(f"{place}: the last message of chosen and rejected must be the assistant's")
    last = None
    for one in encoder.encode([Record(place, messages=messages)]):
        if isinstance(one, Damaged):
            raise ConfigError(f"{place}: {one.reason}")
        last = one
    assert last is not None and last.is_learnt is not None
    return last.ids, last.is_learnt
