"""One arithmetic: a token's logits have the same bits whatever way the tokens arrive (tiny models, fp32 and bf16)."""

import pytest
import torch

from hyla.caches import Cache
from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops import backends

pytestmark = pytest.mark.usefixtures("each_backend")

FAMILIES = tuple(sorted(family.name for family in families()))
DTYPES = (torch.float32, torch.bfloat16)
LENGTH = 140
OTHERS = (1, 63, 64, 65, 7, 130, 2, 100)


def tiny_model(family: str, dtype: torch.dtype) -> Model:
    return cast(initialize(Model(family_of(family).tiny), 5, std=0.2), dtype)


def prompt(model: Model, length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (length,), generator=generator).tolist()


@torch.inference_mode()
def in_pieces(model: Model, prompts: list[list[int]], pieces: list[list[int]]) -> list[torch.Tensor]:
    """Logits of prompts that arrive side by side, prompt n in steps of pieces[n] rows (0: it waits)."""
    cache = Cache(model.cache_specs(), num_pages=64, num_slots=len(prompts))
    sequences = [cache.open() for _ in prompts]
    logits = [[] for _ in prompts]
    for step in range(max(len(row) for row in pieces)):
        parts = [(n, row[step]) for n, row in enumerate(pieces) if step < len(row) and row[step]]
        batch = cache.batch([(sequences[n], count) for n, count in parts])
        tokens = [prompts[n][start : start + count] for (n, count), start in zip(parts, batch.starts)]
        hidden = model(torch.tensor([token for row in tokens for token in row]), batch, cache.layers)
        for (n, count), rows in zip(parts, model.head_logits(hidden).split(batch.lengths)):
            cache.commit(sequences[n], count)
            logits[n].append(rows)
    for sequence in sequences:
        cache.close(sequence)
    cache.ledger.check()
    return [torch.cat(rows) for rows in logits]


def cut(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


@pytest.fixture(scope="module", params=[(family, dtype) for family in FAMILIES for dtype in DTYPES], ids=str)
def whole(request, each_backend):
    """A model, a prompt, and the prompt's logits under autograd in training mode, before anything is packed."""
    model = tiny_model(*request.param).train()
    ids = prompt(model, LENGTH)
    (logits,) = model.logits([ids])
    assert logits.requires_grad and logits.dtype == torch.float32
    return model, ids, logits.detach()


@pytest.mark.parametrize("size", [1, 7, 64, 100, LENGTH])
def test_prefill_chunks_and_decode_give_the_trainer_s_logits(whole, size):
    model, ids, logits = whole
    (got,) = in_pieces(model, [ids], [cut(LENGTH, size)])
    assert torch.equal(got, logits)


def test_a_batch_of_nine_mixed_requests_changes_no_bit(whole):
    model, ids, logits = whole
    prompts = [ids] + [prompt(model, length, seed=n) for n, length in enumerate(OTHERS, start=1)]
    # Every request its own mixture of prefill and decode, some of them starting later.
    pieces = [cut(LENGTH - 20, 50) + [1] * 20] + [
        [0] * n + cut(length, 33) if n % 2 else [0] * n + cut(max(length - 9, 1), 70) + [1] * min(9, length - 1)
        for n, length in enumerate(OTHERS)
    ]
    got = in_pieces(model, prompts, pieces)
    assert torch.equal(got[0], logits)
    for one, alone in zip(got[1:], model.logits(prompts[1:])):
        assert torch.equal(one, alone)


def test_packed_weights_change_no_bit(whole):
    model, ids, logits = whole
    try:
        model.pack()
        with torch.inference_mode():
            assert torch.equal(model.logits([ids])[0], logits)
        (got,) = in_pieces(model, [ids], [[100] + [1] * (LENGTH - 100)])
        assert torch.equal(got, logits)
    finally:
        model.unpack()
    assert torch.equal(model.logits([ids])[0], logits)


def one_ulp_up(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The next larger values in the model's dtype (an fp32 ulp of a state may rightly vanish in a bf16 output)."""
    above = torch.nextafter(tensor.to(dtype), torch.full((), float("inf"), dtype=dtype))
    return above.to(tensor.dtype)


CHECKED = ("anchor", "u", "conv", "k", "k_t", "v")
"""Cached tensors whose last bit shows in the logits. (The last bit of an index key rarely changes what is selected.)"""


def test_a_one_ulp_error_in_any_cached_tensor_is_seen(whole):
    """The mutation check: the comparisons above must be able to fail."""
    model, ids, logits = whole
    names = {spec.name for layer in model.cache_specs() for spec in (*layer.page_tensors, *layer.slot_tensors)}
    assert names.intersection(CHECKED)
    for name in names.intersection(CHECKED):
        cache = Cache(model.cache_specs(), num_pages=8, num_slots=1)
        sequence = cache.open()
        with torch.inference_mode():
            batch = cache.batch([(sequence, 100)])
            model(torch.tensor(ids[:100]), batch, cache.layers)
            cache.commit(sequence, 100)
            layer = next(layer for layer in cache.layers if name in layer)
            layer[name].copy_(one_ulp_up(layer[name], model.dtype))
            batch = cache.batch([(sequence, LENGTH - 100)])
            got = model.head_logits(model(torch.tensor(ids[100:]), batch, cache.layers))
        assert not torch.equal(got, logits[100:]), name


def test_a_one_ulp_error_in_one_product_is_seen(whole, monkeypatch):
    from hyla.ops.exact import portable, rows
    from hyla.ops.native import products

    model, ids, logits = whole
    is_portable, is_native = backends.is_portable(model.device), backends.on(model.device) == "native"
    homes = {"portable": (portable, "library_linear"), "native": (products, "product"), "torch": (rows, "linear_once")}
    home, name = homes["portable" if is_portable else "native" if is_native else "torch"]
    plain = getattr(home, name)

    def nudged(x_RD, *operands, **named):
        # A single row: by itself, or alone in a tile of zeros.
        out, is_single = plain(x_RD, *operands, **named), x_RD.shape[0] in (1, 2) or not x_RD[2:].any()
        return one_ulp_up(out, out.dtype) if is_single else out

    monkeypatch.setattr(home, name, nudged)
    (got,) = in_pieces(model, [ids], [[100] + [1] * (LENGTH - 100)])
    assert not torch.equal(got, logits)


def test_two_threads_keep_the_promise_as_well():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        model = tiny_model("kimi_linear", torch.float32)
        ids = prompt(model, 100)
        assert torch.equal(in_pieces(model, [ids], [[70] + [1] * 30])[0], model.logits([ids])[0].detach())
    finally:
        torch.set_num_threads(before)
