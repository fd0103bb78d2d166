"""Flags for ablations: each computes its formula, has its gradients, and is one arithmetic whatever way rows arrive."""

from pathlib import Path

import pytest
import torch
from flagged import FLAGGED, GATED, GLA, KDA, LIGHTNING, MAMBA2, SOFTMAX, changed, formula

from hyla.errors import ConfigError
from hyla.layers.carry import Carry
from hyla.layers.slopes import slopes
from hyla.layers.standalone import MixerCache
from hyla.models.build import build_module
from hyla.ops.batch import Batch

D = 20
TOLERANCE = 2e-6
"""fp32 outputs against float64, relative to the largest value; measured: below 7e-7."""
GRADIENT_TOLERANCE = 1e-5
"""fp32 gradients against float64; measured: below 4e-6."""
EXACT = 1e-12
"""float64 against float64, outputs and gradients; measured: below 2e-14."""
each = pytest.mark.parametrize("name", FLAGGED)
on_each_backend = pytest.mark.usefixtures("each_backend")


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def made(name, dtype=torch.float32):
    module = build_module(FLAGGED[name], D)
    generator = torch.Generator().manual_seed(1)
    module.initialize(0.3, generator)
    with torch.no_grad():
        for parameter_name, parameter in module.named_parameters():
            if "norm" in parameter_name:
                parameter.normal_(1.0, 0.3, generator=generator)
            if dtype == torch.float64 or parameter_name not in module.fp32_parameters:
                parameter.data = parameter.data.to(dtype)
    return module


def relative_error(got, want):
    return (got.double() - want).abs().max() / want.abs().max()


@on_each_backend
@each
@torch.no_grad()
def test_a_flag_computes_its_formula(name):
    module, x = made(name), drawn(90, D)
    parameters = {name: parameter.double() for name, parameter in module.named_parameters()}
    want = formula(FLAGGED[name], parameters, x.double())
    assert relative_error(module(x, Batch.packed([90]), None), want) <= TOLERANCE


@each
def test_gradients_of_a_flag_are_those_of_its_formula(name):
    module, x = made(name, torch.float64), drawn(70, D, dtype=torch.float64).requires_grad_()
    weights = drawn(70, D, seed=3, dtype=torch.float64)
    leaves = {"x": x, **dict(module.named_parameters())}
    want_rows = formula(FLAGGED[name], dict(module.named_parameters()), x)
    rows = module(x, Batch.packed([70]), None)
    assert relative_error(rows, want_rows) <= EXACT
    wanted = torch.autograd.grad((want_rows * weights).sum(), list(leaves.values()))
    got = torch.autograd.grad((rows * weights).sum(), list(leaves.values()))
    for leaf, grad, want in zip(leaves, got, wanted):
        assert want.abs().max() > 0 and relative_error(grad, want) <= EXACT, leaf


@on_each_backend
@each
def test_fp32_gradients_of_a_flag_are_near_those_of_float64(name):
    """Those that the CPU's kernels compute."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        module, x = made(name, dtype), drawn(70, D, dtype=dtype).requires_grad_()
        (module(x, Batch.packed([50, 20]), None) * drawn(70, D, seed=3, dtype=dtype)).sum().backward()
        found[dtype] = {"x": x.grad, **{name: p.grad for name, p in module.named_parameters()}}
    for leaf, want in found[torch.float64].items():
        assert relative_error(found[torch.float32][leaf], want) <= GRADIENT_TOLERANCE, leaf


@on_each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each
def test_rows_have_the_same_bits_however_they_arrive(name, dtype):
    """Packed and trained; and in pieces of two sequences in one cache, over ends of pages, chunks and blocks of 16."""
    module, lengths = made(name, dtype), (131, 70)
    x = drawn(sum(lengths), D, dtype=dtype)
    trained = module(x.clone().requires_grad_(), Batch.packed(lengths), None)
    assert trained.requires_grad and trained.dtype == dtype
    cache, done, parts = MixerCache(module.cache_spec(), 2, x.device), [0, 0], ([], [])
    with torch.no_grad():
        assert torch.equal(module(x, Batch.packed(lengths), None), trained)
        for counts in ((3, 0), (1, 15), (59, 1), (1, 1), (1, 47), (66, 1), (0, 5)):
            begins = (done[0], lengths[0] + done[1])
            rows = torch.cat([x[begin : begin + count] for begin, count in zip(begins, counts)])
            out = module(rows, cache.batch(counts), cache.tensors)
            for kept, part in zip(parts, out.split(counts)):
                kept.append(part)
            cache.advance(counts)
            done = [held + count for held, count in zip(done, counts)]
    assert tuple(done) == lengths
    assert torch.equal(torch.cat([*parts[0], *parts[1]]), trained)


@on_each_backend
@each
def test_gradients_of_rows_do_not_depend_on_what_comes_with_them(name):
    module, x, weights = made(name), drawn(90, D), drawn(90, D, seed=3)

    def gradient(first, lengths):
        leaf = x[first : first + sum(lengths)].clone().requires_grad_()
        rows = module(leaf, Batch.packed(lengths), None)
        (rows * weights[first : first + sum(lengths)]).sum().backward()
        return leaf.grad

    together = gradient(0, [20, 70])
    assert torch.equal(gradient(0, [20]), together[:20]) and torch.equal(gradient(20, [70]), together[20:])


@on_each_backend
@pytest.mark.parametrize("name", [name for name, config in FLAGGED.items() if config.kind != "softmax"])
def test_a_document_in_pieces_that_hand_their_states_on_has_the_bits_of_the_whole(name):
    module, x = made(name), drawn(150, D)
    whole, carry, parts = module(x, Batch.packed([150]), None), Carry(), []
    for first, last in ((0, 64), (64, 128), (128, 150)):
        batch = Batch((last - first,), (first,), (0,), ((),))
        parts.append(module(x[first:last], batch, carry))
        carry = carry.next([0])
    assert torch.equal(torch.cat(parts), whole)


@on_each_backend
@each
@torch.no_grad()
def test_what_a_flagged_mixer_has_inside_is_what_its_formula_has(name):
    module, config = made(name), FLAGGED[name]
    inside = module.inside(drawn(40, D), Batch.packed([40]))
    gate = getattr(config, "output_gate", "none")
    if gate in ("none", False):
        assert inside.gate is None
    else:
        gate = getattr(config, "gate_activation", gate)
        assert inside.gate is not None and (inside.gate.min() < 0) == (gate == "silu")
    if getattr(config, "negative_eigenvalues", False):
        assert 1.0 < inside.beta_TH.max() < 2.0
    if "none" in (getattr(config, "decay", ""), getattr(config, "slopes", "")):
        assert inside.log_decay.count_nonzero() == 0


def test_a_slope_of_fla_is_a_straight_line_over_heads_and_layers():
    first = slopes(4, schedule="fla", layer=0, num_layers=2)
    assert first == (0.0, 2.0, 4.0, 6.0) and slopes(4, schedule="fla", layer=1, num_layers=2) == (0.0, 1.0, 2.0, 3.0)
    assert slopes(3, schedule="none", layer=1, num_layers=2) == (0.0, 0.0, 0.0)


def test_flags_at_their_defaults_are_not_written_and_others_are():
    for config in (KDA, GATED, GLA, LIGHTNING, MAMBA2, SOFTMAX):
        assert not config.later & config.model_dump().keys()
        assert not config.later & config.model_dump(mode="json").keys()
    bare = FLAGGED["kda bare"].model_dump()
    assert (bare["decay"], bare["output_gate"], bare["negative_eigenvalues"]) == ("none", "none", True)
    # An infinite largest step stays a number in what is written as JSON.
    assert changed(MAMBA2, output_gate="none").model_dump(mode="json")["time_step_limit"] == [0.0, float("inf")]
    assert MAMBA2.model_dump(mode="json")["time_step_limit"] == [0.0, float("inf")]


@pytest.mark.parametrize(
    "config, fields, message",
    [
        (KDA, {"decay": "none", "decay_lower_bound": -5.0}, "decay_lower_bound -5.0 bounds nothing"),
        (KDA, {"negative_eigenvalues": 1}, "negative_eigenvalues"),
        (KDA, {"conv_len": -1}, "conv_len"),
        (GATED, {"decay": "channel"}, "decay"),
        (GLA, {"output_gate": True}, "output_gate"),
        (SOFTMAX, {"gate_activation": "silu"}, "gate_activation = 'silu' needs output_gate"),
        (MAMBA2, {"output_gate": "relu"}, "output_gate"),
    ],
)
def test_a_flag_that_cannot_be_is_refused_by_name(config, fields, message):
    with pytest.raises(ConfigError, match=message):
        changed(config, **fields)


def test_the_page_of_layers_lists_every_flag_of_every_mixer():
    page = (Path(__file__).parents[2] / "docs" / "layers.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[1:3] for line in page.partition("## Flags for ablations")[2].splitlines() if line[:3] == "| `"
    ]
    listed = {
        (flag, mixer) for flags, mixers in rows for flag in flags.split("`")[1::2] for mixer in mixers.split("`")[1::2]
    }
    for config in (KDA, GATED, GLA, LIGHTNING, MAMBA2, SOFTMAX):
        wanted = (
            config.later - {"qkv_bias", "out_bias", "state_dtype"} | {"conv_len"} & type(config).model_fields.keys()
        )
        assert {(flag, config.kind) for flag in wanted} <= listed
    assert ["`state_dtype`", "all with a state"] in [[part.strip() for part in row] for row in rows]
