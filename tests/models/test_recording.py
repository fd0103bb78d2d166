"""Recorded decode steps: the bits of the ordinary forward, whatever came before, and what runs in Python there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hyla.caches import Cache
from hyla.models import recording
from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.recording import StepForward
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops import backends, native

pytestmark = pytest.mark.skipif(native.why_missing() is not None, reason="no kernels on this machine")

FAMILIES = tuple(sorted(family.name for family in families()))
DTYPES = (torch.float32, torch.bfloat16)
IN_PYTHON = {"gla", "linear", "sparse_mla"}
"""Kinds of sublayers that compute with PyTorch between their kernels. All others are recorded."""


@pytest.fixture(autouse=True)
def native_backend():
    backends.use("native")
    yield
    backends.use("auto")


def tiny(family: str, dtype: torch.dtype = torch.float32) -> Model:
    return cast(initialize(Model(family_of(family).tiny), 5, std=0.2), dtype).pack()


class Sequences:
    """Sequences over one cache that are read and decoded; results by step."""

    def __init__(self, model: Model, count: int, *, is_on: bool, num_pages: int = 64):
        self.cache = Cache(model.cache_specs(), num_pages=num_pages, num_slots=count + 2)
        self.forward, self.model = StepForward(model, is_on=is_on), model
        self.open = [self.cache.open() for _ in range(count)]
        self.generator = torch.Generator().manual_seed(1)
        self.found: list[torch.Tensor] = []

    @torch.inference_mode()
    def step(self, lengths: list[int], *, kept: list[int] | None = None) -> None:
        """New rows of each open sequence, of which `kept` are committed."""
        parts = [(sequence, length) for sequence, length in zip(self.open, lengths) if length]
        batch = self.cache.batch(parts, certain=[0 if kept else length for _, length in parts])
        ids_T = torch.randint(self.model.config.vocab_size, (batch.num_tokens,), generator=self.generator)
        hidden = self.forward(ids_T, batch, self.cache.layers)
        self.found += [hidden.head_TD, hidden.next_TD]
        for (sequence, length), count in zip(parts, kept or lengths):
            self.cache.commit(sequence, count if kept else length)


def pair(model: Model, count: int, **options) -> tuple[Sequences, Sequences]:
    return Sequences(model, count, is_on=True, **options), Sequences(model, count, is_on=False, **options)


def check_equal(recorded: Sequences, ordinary: Sequences) -> None:
    assert len(recorded.found) == len(ordinary.found)
    for step, (got, expected) in enumerate(zip(recorded.found, ordinary.found)):
        assert torch.equal(got, expected), f"step {step // 2}"
    assert ordinary.forward.num_replayed == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_steps_have_the_ordinary_forward_s_bits(family, dtype):
    """Past the ends of a page and a chunk, with one, two and five sequences."""
    model = tiny(family, dtype)
    for count in (1, 2, 5):
        both = pair(model, count)
        for one in both:
            one.step([60 + n for n in range(count)])
            for _ in range(7):
                one.step([1] * count)
        check_equal(*both)
        assert both[0].forward.num_replayed == 5
        assert set(both[0].forward.report()["in_python"]) <= IN_PYTHON


def test_what_runs_in_python_is_known():
    found = set()
    for family in FAMILIES:
        one = Sequences(tiny(family), 1, is_on=True)
        for _ in range(3):
            one.step([1])
        found |= set(one.forward.report()["in_python"])
    assert found == IN_PYTHON - {"gla"}, "no published family has gla layers; what is recorded now leaves IN_PYTHON"


@pytest.mark.parametrize("family", ["llama", "mimo_v2_flash", "qwen3_5_text"])
def test_sequences_that_leave_and_come_meet_no_old_addresses(family):
    """Slots and pages change hands, batches grow and shrink, contexts outgrow their recorded page lists."""
    both = pair(tiny(family, torch.bfloat16), 3)
    for one in both:
        one.step([5, 70, 130])
        for lengths in ([1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 1], [300, 1, 1], [1, 1, 1], [1, 1, 1]):
            one.step(lengths)
        one.cache.close(one.open.pop(0))
        one.open.append(one.cache.open())
        one.step([0, 0, 64])
        for _ in range(4):
            one.step([1, 1, 1])
    check_equal(*both)
    assert both[0].forward.num_replayed >= 5


@pytest.mark.parametrize("family", ["llama", "qwen3_5_text", "kimi_linear"])
def test_rows_of_drafts_are_recorded_and_may_be_taken_back(family):
    both = pair(tiny(family), 2)
    for one in both:
        one.step([61, 10])
        for kept in ([1, 3], [2, 1], [3, 3], [1, 1]):
            one.step([3, 3], kept=kept)
    check_equal(*both)
    assert both[0].forward.num_replayed == 2


def test_weights_that_are_stored_anew_are_not_read_at_their_old_place():
    model = tiny("llama")
    both = pair(model, 1)
    for one in both:
        one.step([9])
        for _ in range(3):
            one.step([1])
        model.unpack()
        with torch.no_grad():
            model.sublayers[0].module.o.weight.mul_(2.0)
        model.pack()
        for _ in range(4):
            one.step([1])
        model.unpack()
        with torch.no_grad():
            model.sublayers[0].module.o.weight.div_(2.0)
        model.pack()
    check_equal(*both)
    assert both[0].forward.num_replayed == 4


class Leaky(nn.Module):
    """A channel mixer with something that cannot be recorded."""

    def __init__(self, inner: nn.Module, does):
        super().__init__()
        self.inner, self.does = inner, does

    def forward(self, x_TD, *others):
        self.does(*others)
        return self.inner(x_TD, *others)


@pytest.mark.parametrize(
    "index, does, reason",
    [
        (1, lambda: torch.zeros(2) + 1, "add"),
        (0, lambda batch, cache: batch.starts[0], "batch.starts"),
        (0, lambda batch, cache: batch.memo("mine", tuple), "batch.memo"),
    ],
)
def test_what_cannot_be_recorded_is_seen_and_runs_in_python(index, does, reason):
    model = tiny("llama")
    both = pair(model, 2)
    model.sublayers[index].module = Leaky(model.sublayers[index].module, does)
    for one in both:
        for _ in range(5):
            one.step([1, 1])
    check_equal(*both)
    kind = model.sublayers[index].config.module.kind
    in_python = both[0].forward.report()["in_python"]
    assert set(in_python) == {kind} and reason in in_python[kind]
    assert both[0].forward.num_replayed == 3


def test_large_and_ragged_steps_and_other_dtypes_are_computed_in_python():
    model = tiny("llama")
    one = Sequences(model, 2, is_on=True)
    for lengths in ([1, 2], [recording.MAX_ROWS, 0], [recording.MAX_ROWS, recording.MAX_ROWS]):
        one.step([recording.MAX_ROWS + 1, 1])
        one.step(lengths)
    oracle = Sequences(cast(initialize(Model(family_of("llama").tiny), 5), torch.float64), 1, is_on=True)
    for _ in range(3):
        oracle.step([1])
    assert oracle.forward.report() == {"kept": 0, "bytes": 0, "replayed": 0, "in_python": {}}
    assert one.forward.num_replayed == 0


def test_few_steps_are_kept_and_all_can_be_forgotten(monkeypatch):
    monkeypatch.setattr(recording, "MAX_RECORDED", 2)
    one = Sequences(tiny("llama"), 3, is_on=True)
    for lengths in ([1, 0, 0], [1, 1, 0], [1, 1, 1]):
        one.step(lengths)
        one.step(lengths)
    assert one.forward.report()["kept"] == 2
    one.forward.forget()
    assert one.forward.report()["kept"] == 0
