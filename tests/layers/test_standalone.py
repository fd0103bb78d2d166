"""Mixers alone in somebody's own model: [B, T, D] or packed rows, gradients, steps with a cache."""

import copy
import re
from pathlib import Path

import pytest
import torch

import hyla.layers
from hyla.errors import RequestError
from hyla.layers.standalone import StandaloneMixer

DIM = 44
DOCS = Path(__file__).parents[2] / "docs" / "layers.md"
OPTIONS = {
    "KDA": {"num_heads": 2, "key_dim": 12, "value_dim": 20},
    "GLA": {"num_heads": 3, "key_dim": 8, "value_dim": 16},
    "GatedDelta": {"num_key_heads": 2, "num_value_heads": 4, "key_dim": 12, "value_dim": 20},
    "LinearAttention": {"num_heads": 3, "key_dim": 10, "value_dim": 14},
    "SoftmaxAttention": {"num_heads": 6, "num_kv_heads": 2, "head_dim": 12, "rotary_dim": 6},
    "MLA": {"num_heads": 3, "kv_lora_dim": 28, "nope_dim": 8, "rope_dim": 4, "value_dim": 12, "rotary_dim": 4},
    "SparseMLA": {"num_heads": 3, "q_lora_dim": 20, "kv_lora_dim": 28, "nope_dim": 8, "rope_dim": 4, "value_dim": 12,
                  "rotary_dim": 4, "num_index_heads": 5, "index_dim": 12, "num_selected": 40},
    "Lightning": {"num_heads": 3, "head_dim": 12, "slopes": (0.5, 0.1, 0.02), "scale": 12**-0.5, "rotary_dim": 6},
    "Mamba2": {"num_heads": 4, "head_dim": 12, "num_groups": 2, "state_dim": 20},
}  # fmt: skip


@pytest.fixture(params=OPTIONS)
def layer(request):
    torch.manual_seed(3)
    return getattr(hyla.layers, request.param)(DIM, init_std=0.2, **OPTIONS[request.param])


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_exported_mixer_is_tested_and_listed_in_the_docs():
    exported = {
        name
        for name in hyla.layers.__all__
        if issubclass(getattr(hyla.layers, name), StandaloneMixer) and name != "StandaloneMixer"
    }
    assert exported == set(OPTIONS)
    assert all(f"| `{name}` |" in DOCS.read_text(encoding="utf-8") for name in exported)
    with pytest.raises(AttributeError, match="it has GLA, KDA"):
        _ = hyla.layers.Nothing


def test_weights_start_sane_and_follow_the_seed(layer):
    y = layer(rows(2, 70, DIM))
    assert y.isfinite().all() and y.abs().max() > 0
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    torch.manual_seed(3)
    layer.reset_parameters(0.2)
    assert all(torch.equal(parameter, before[name]) for name, parameter in layer.named_parameters())
    layer.reset_parameters(0.2)
    assert not torch.equal(layer.mixer.o.weight, before["mixer.o.weight"])


def test_a_batch_equals_its_packed_rows_bit_for_bit(layer):
    x = rows(3, 67, DIM)
    packed = layer(x.flatten(0, 1), lengths=torch.tensor([67, 67, 67]))
    assert torch.equal(layer(x), packed.view_as(x))
    alone = layer(x[1, :30])
    assert torch.equal(alone, layer(x)[1, :30])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_with_a_cache_equal_the_whole_bit_for_bit(layer, dtype):
    layer, x = layer.to(dtype), rows(2, 140, DIM).to(dtype)
    cache = layer.new_cache(2)
    pieces = [layer(x[:, :50], cache=cache), layer(x[:, 50:120], cache=cache)]
    pieces += [layer(x[:, t : t + 1], cache=cache) for t in range(120, 140)]
    assert torch.equal(torch.cat(pieces, dim=1), layer(x))
    assert cache.lengths == [140, 140] and cache.nbytes > 0


def test_sequences_of_one_cache_go_on_at_their_own_pace(layer):
    x = rows(2, 90, DIM)
    cache, whole = layer.new_cache(2), layer(x)
    layer(torch.cat([x[0, :70], x[1, :5]]), lengths=[70, 5], cache=cache)
    waited = layer(x[1, 5:80], lengths=[0, 75], cache=cache)
    assert torch.equal(waited, whole[1, 5:80])
    fork = copy.deepcopy(cache)
    for held in (cache, fork):
        last = layer(torch.cat([x[0, 70:], x[1, 80:]]), lengths=[20, 10], cache=held)
        assert torch.equal(last, torch.cat([whole[0, 70:], whole[1, 80:]]))
    cache.reset()
    assert torch.equal(layer(x, cache=cache), whole)


def test_a_cache_goes_from_inference_mode_to_training_code_and_back(layer):
    x = rows(1, 200, DIM)
    cache = layer.new_cache()
    with torch.inference_mode():
        first = layer(x[:, :130], cache=cache)
    second = layer(x[:, 130:], cache=cache)
    assert not second.requires_grad
    assert torch.equal(torch.cat([first, second], dim=1), layer(x))


def test_gradients_reach_every_weight_and_the_input(layer):
    x = rows(2, 70, DIM).requires_grad_()
    (layer(x) * rows(2, 70, DIM, seed=1)).sum().backward()
    assert x.grad.abs().min(-1)[0].count_nonzero() == 140
    # What an indexer selects is a constant: its weights have no part in the gradient (ops/sparse/README.md).
    selecting = {name for name, _ in layer.named_parameters() if ".indexer." in name}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is None if name in selecting else parameter.grad.count_nonzero(), name


def test_sequences_of_a_batch_do_not_see_each_other(layer):
    x = rows(2, 70, DIM)
    changed = x.clone()
    changed[0, 3] += 1.0
    assert torch.equal(layer(changed)[1], layer(x)[1])
    assert torch.equal(layer(changed)[0, :3], layer(x)[0, :3])
    assert not torch.equal(layer(changed)[0, 3:], layer(x)[0, 3:])


def test_what_must_stay_fp32_stays_fp32_in_bf16():
    layer = hyla.layers.KDA(DIM, **OPTIONS["KDA"])
    kept = layer.mixer.A_log.detach().clone()
    layer.bfloat16()
    assert torch.equal(layer.mixer.A_log, kept) and layer.mixer.dt_bias.dtype == torch.float32
    assert layer.mixer.q.weight.dtype == torch.bfloat16
    assert layer.double().mixer.A_log.dtype == torch.float64


def test_a_layer_on_the_meta_device_has_no_weights_to_draw():
    with torch.device("meta"):
        layer = hyla.layers.GatedDelta(DIM, **OPTIONS["GatedDelta"])
    assert all(parameter.is_meta for parameter in layer.parameters())


@pytest.mark.parametrize(
    "shape, lengths, message",
    [
        ((2, 5, DIM + 1), None, r"x is \(2, 5, 45\)"),
        ((DIM,), None, "must be"),
        ((2, 5, DIM), [5, 5], "lengths go with packed rows"),
        ((5, DIM), [2, 2], r"lengths \[2, 2\] make 4 rows, but x has 5"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shape, lengths, message):
    layer = hyla.layers.LinearAttention(DIM, **OPTIONS["LinearAttention"])
    with pytest.raises(RequestError, match=message):
        layer(torch.zeros(shape), lengths=lengths)
    with pytest.raises(RequestError, match="do not fit a cache of 2 sequences"):
        layer(torch.zeros(5, DIM), cache=layer.new_cache(2))


def test_the_example_of_the_docs_runs_and_keeps_its_word():
    code = "".join(re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    names = {"__name__": "layers_example"}
    exec(compile(code, "docs/layers.md", "exec"), names)
    assert names["losses"][-1] < names["losses"][0]
    whole = names["layer"](names["x"])
    assert torch.equal(names["pieces"], whole)
    assert torch.equal(names["packed"], torch.cat([whole[0, :30], whole[1, :7], whole[2, :64]]))
