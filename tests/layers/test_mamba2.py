"""The Mamba-2 layer: the published formula, limits of dt, gradients, and one result whatever way the rows arrive."""

import pytest
import torch

from hyla.layers.mamba2 import Mamba2
from hyla.ops.batch import Batch

D, HEADS, P, GROUPS, N, TAPS, EPS = 20, 6, 12, 3, 18, 4, 1e-5
INF = float("inf")
TOLERANCE = 5e-6
"""fp32 against float64, relative to the largest value; measured: below 1e-6."""


def build(dt_bias=None, limit=(0.0, INF), dtype=torch.float32):
    module = Mamba2(
        D,
        num_heads=HEADS,
        head_dim=P,
        num_groups=GROUPS,
        state_dim=N,
        conv_len=TAPS,
        norm_eps=EPS,
        time_step_limit=limit,
    )
    generator = torch.Generator().manual_seed(0)
    module.initialize(0.3, generator)
    with torch.no_grad():
        module.norm.weight.normal_(1.0, 0.3, generator=generator)
        module.D.normal_(1.0, 0.5, generator=generator)
        if dt_bias is not None:
            module.dt_bias.fill_(dt_bias)
    for name, parameter in module.named_parameters():
        if name not in module.fp32_parameters:
            parameter.data = parameter.data.to(dtype)
    return module


def make_rows(count, dtype=torch.float32):
    return torch.randn(count, D, generator=torch.Generator().manual_seed(1)).to(dtype)


def formula(module, x_TD):
    """One sequence, token by token, in float64, as the paper writes it: h is [H, P, N]."""
    w = {name: parameter.detach().double() for name, parameter in module.named_parameters()}
    x_TD = x_TD.double()
    z, x, b, c, dt = (x_TD @ w[f"{name}.weight"].t() for name in ("z", "x", "b", "c", "dt"))
    xbc = torch.cat([torch.zeros(TAPS - 1, module.channels).double(), torch.cat([x, b, c], dim=1)])
    mixed = sum(xbc[j : j + len(x_TD)] * w["conv_weight"][:, j] for j in range(TAPS)) + w["conv_bias"]
    x, b, c = torch.nn.functional.silu(mixed).split([HEADS * P, GROUPS * N, GROUPS * N], dim=1)
    dt = torch.nn.functional.softplus(dt + w["dt_bias"]).clamp(*module.time_step_limit)
    rate, h, rows = -w["A_log"].exp(), torch.zeros(HEADS, P, N).double(), []
    for t in range(len(x_TD)):
        x_HP = x[t].view(HEADS, P)
        b_HN, c_HN = (part[t].view(GROUPS, N).repeat_interleave(HEADS // GROUPS, 0) for part in (b, c))
        h = (rate * dt[t]).exp()[:, None, None] * h + (dt[t, :, None] * x_HP)[:, :, None] * b_HN[:, None]
        rows.append(((h * c_HN[:, None]).sum(-1) + w["D"][:, None] * x_HP).flatten())
    gated = (torch.stack(rows) * torch.nn.functional.silu(z)).view(-1, GROUPS, HEADS * P // GROUPS)
    normed = gated / (gated.square().mean(-1, keepdim=True) + EPS).sqrt()
    return (normed.flatten(1) * w["norm.weight"]) @ w["o.weight"].t()


@pytest.mark.parametrize(
    "dt_bias, limit", [(None, (0.0, INF)), (-9.0, (0.0, INF)), (3.0, (0.0, INF)), (-1.0, (0.2, 0.4))]
)
def test_the_output_equals_the_formula(dt_bias, limit):
    module, x_TD = build(dt_bias, limit), make_rows(150)
    expected = formula(module, x_TD)
    with torch.no_grad():
        got = module(x_TD, Batch.packed([150]), None)
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_a_small_dt_is_not_raised_to_a_minimum():
    x_TD = make_rows(100)
    with torch.no_grad():
        free, raised = (build(-9.0, limit)(x_TD, Batch.packed([100]), None) for limit in ((0.0, INF), (1e-3, INF)))
    assert (free - raised).abs().max() > 1e-3 * free.abs().max()


def test_gradients_equal_those_of_the_same_layer_in_float64():
    x_TD = make_rows(130)
    weights = torch.randn(130, D, generator=torch.Generator().manual_seed(2))
    grads = []
    for dtype in (torch.float32, torch.float64):
        module = build().to(dtype)
        (module(x_TD.to(dtype), Batch.packed([100, 30]), None) * weights).sum().backward()
        grads.append({name: parameter.grad for name, parameter in module.named_parameters()})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        want = grads[1][name]
        assert (grad - want).abs().max() <= 10 * TOLERANCE * want.abs().max(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_company_packing_and_autograd_change_no_bit(dtype):
    module, lengths = build(dtype=dtype), [140, 65]
    x_TD = make_rows(sum(lengths), dtype)
    trained = module(x_TD, Batch.packed(lengths), None)
    assert trained.requires_grad and trained.dtype == dtype
    sequences = x_TD.split(lengths)
    pieces = [[70, 1, 1, 30] + [1] * 38, [1, 5, 58, 1]]
    with torch.no_grad():
        for is_packed in (False, True):
            if is_packed:
                for projection in module.projections:
                    projection.pack()
            cache = {
                spec.name: torch.zeros(3, *spec.shape, dtype=spec.dtype) for spec in module.cache_spec().slot_tensors
            }
            done, parts = [0, 0], [[], []]
            for step in range(max(map(len, pieces))):
                active = [(n, pieces[n][step]) for n in range(2) if step < len(pieces[n])]
                rows = torch.cat([sequences[n][done[n] : done[n] + count] for n, count in active])
                counts = tuple(count for _, count in active)
                starts, slots = tuple(done[n] for n, _ in active), tuple(n + 1 for n, _ in active)
                out = module(rows, Batch(counts, starts, slots, ((),) * len(active)), cache)
                for (n, count), part in zip(active, out.split(counts)):
                    parts[n].append(part)
                    done[n] += count
            assert done == lengths
            assert torch.equal(torch.cat([torch.cat(rows) for rows in parts]), trained.detach()), is_packed


def test_what_must_stay_fp32_is_declared_and_starts_in_range():
    module = build()
    assert set(module.fp32_parameters) == {"A_log", "D", "dt_bias"}
    dt = torch.nn.functional.softplus(module.dt_bias.detach())
    assert dt.min() >= 1e-3 and dt.max() <= 0.1 + 1e-6
    assert module.A_log.min() >= 0.0 and module.A_log.max() <= torch.tensor(16.0).log()
