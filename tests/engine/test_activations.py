"""What a step is said to take, beside what it is measured to take."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyla.caches import Cache
from hyla.engine.activations import LargestStep, activation_bytes
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops import backends

FAMILIES = ("qwen3", "kimi_linear", "qwen3_next", "deepseek_v32", "nemotron_h")


class Storages(TorchDispatchMode):
    """Bytes of the storages that were made inside, and the most that lived at once."""

    def __init__(self):
        super().__init__()
        self.living: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {place(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor) and place(made) not in given | self.living.keys():
                storage = made.untyped_storage()
                self.living[place(made)] = storage.nbytes()
                weakref.finalize(storage, self.living.pop, place(made), None)
        self.peak = max(self.peak, sum(self.living.values()))
        return out


def place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@torch.inference_mode()
def measured(model: Model, lengths: list[int], start: int = 0) -> int:
    """The peak of one step of the portable arithmetic that adds so many rows to sequences of `start` tokens."""
    cache = Cache(model.cache_specs(), num_pages=80, num_slots=len(lengths))
    sequences = [cache.open() for _ in lengths]
    if start:
        before = [(sequence, start) for sequence in sequences]
        model(torch.ones(start * len(sequences), dtype=torch.int64), cache.batch(before), cache.layers)
        for sequence in sequences:
            cache.commit(sequence, start)
    with Storages() as storages:
        batch = cache.batch(list(zip(sequences, lengths)))
        hidden = model(torch.ones(sum(lengths), dtype=torch.int64), batch, cache.layers)
        model.head_logits(hidden[: len(lengths)])
    return storages.peak


def said(model: Model, lengths: list[int], context_len: int) -> int:
    step = LargestStep(sum(lengths), len(lengths), num_logit_rows=len(lengths), context_len=context_len)
    return activation_bytes(model.config, step)


@pytest.fixture(autouse=True)
def portable():
    backends.use("portable")
    yield
    backends.use("auto")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_takes_no_more_than_is_said_and_not_much_less(family):
    model = initialize(Model(family_of(family).tiny), 5, std=0.2).eval()
    for lengths in ([256], [40] * 6):
        assert 1 < said(model, lengths, max(lengths)) / measured(model, lengths) < 5
    assert 1 < said(model, [1] * 32, 6) / measured(model, [1] * 32, start=5) < 40


def test_logits_count_where_they_are_the_most():
    config = family_of("qwen3").tiny
    step = LargestStep(num_rows=8, num_sequences=8, num_logit_rows=64, context_len=64)
    few = activation_bytes(config.model_copy(update={"vocab_size": 10_000}), step)
    many = activation_bytes(config.model_copy(update={"vocab_size": 20_000}), step)
    assert many - few == 3 * 4 * 64 * 10_000
