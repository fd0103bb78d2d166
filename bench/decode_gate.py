"""The decode gate: one appended row of an open chunk against one step of the recurrent form.

512 head instances, K = V = 128, fp32. First the appended rows are compared bit for bit with the whole chunk; then both
are timed in turn, so that a change of the machine's speed meets both. Target: at most 1.5 times the recurrent step.

    python -m bench decode_gate
"""

from __future__ import annotations

import argparse
import statistics

import torch

from bench.outcome import Outcome
from bench.timing import medians, timed
from hyla.ops import gated_delta, kda
from hyla.ops.batch import Batch
from hyla.ops.chunks.plan import row_plan

SEQUENCES, HEADS, DIM = 16, 32, 128
TARGET, THREADS = 1.5, 2


def draw(tokens: int, per_channel: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    q, k = (torch.nn.functional.normalize(randn(tokens, HEADS, DIM), dim=-1) for _ in range(2))
    decay = -randn(*((tokens, HEADS, DIM) if per_channel else (tokens, HEADS))).abs()
    return [q, k, randn(tokens, HEADS, DIM), decay, randn(tokens, HEADS).sigmoid()]


def recurrent_step(state, q, k, v, log_decay, beta):
    """The usual decode step, in place, as fast as PyTorch operators make it; B = sequences x heads."""
    state.mul_(torch.exp(log_decay)[..., None] if log_decay.dim() == 2 else torch.exp(log_decay)[:, None, None])
    error = beta[:, None] * (v - torch.bmm(k[:, None], state)[:, 0])
    state.baddbmm_(k[:, :, None], error[:, None])
    return torch.bmm(q[:, None], state)[:, 0]


def measure(operator, cache_tensors, per_channel: bool) -> dict:
    """Milliseconds of both forms, paired, at a row in the middle of the chunk."""
    cache = {name: torch.zeros(SEQUENCES + 1, *shape, dtype=dtype) for name, shape, dtype, _ in cache_tensors}
    inputs = draw(SEQUENCES * 64, per_channel)
    whole = operator(*inputs, batch=Batch.packed([64] * SEQUENCES), scale=1.0).view(SEQUENCES, 64, HEADS, DIM)
    rows = [x.view(SEQUENCES, 64, *x.shape[1:]) for x in inputs]
    state = torch.zeros(SEQUENCES * HEADS, DIM, DIM)
    slots, pages = tuple(range(1, SEQUENCES + 1)), ((),) * SEQUENCES
    ours, theirs, is_equal = [], [], True
    with torch.inference_mode():
        for place in range(64):
            batch = Batch((1,) * SEQUENCES, (place,) * SEQUENCES, slots, pages)
            row = [x[:, place].contiguous() for x in rows]
            plan = row_plan(batch)  # made once per step of a model, shared by its layers
            assert plan.covers_batch
            flat = [x.reshape(SEQUENCES * HEADS, *x.shape[2:]) for x in row]
            mine, out = timed(lambda: operator(*row, batch=batch, cache=cache, scale=1.0))  # noqa: B023
            other, _ = timed(lambda: recurrent_step(state, *flat))  # noqa: B023
            is_equal &= torch.equal(out, whole[:, place])
            if place != 63:
                ours.append(mine)
                theirs.append(other)
    ratio = statistics.median(one / other for one, other in zip(ours, theirs))
    return {"is_equal": is_equal, **medians({"row_ms": ours, "recurrent_ms": theirs}, 1e3, 2), "ratio": round(ratio, 2)}


def run(options: argparse.Namespace) -> Outcome:
    sizes = {"key_dim": DIM, "value_dim": DIM}
    delta = gated_delta.cache_tensors(num_key_heads=HEADS, num_value_heads=HEADS, **sizes)
    results = {
        "gated_delta": measure(gated_delta.gated_delta, delta, False),
        "kda": measure(kda.kda, kda.cache_tensors(num_heads=HEADS, **sizes), True),
    }
    for name, result in results.items():
        print(f"{name:12} {result}")
    passed = all(result["is_equal"] for result in results.values()) and results["gated_delta"]["ratio"] <= TARGET
    return Outcome({"target_ratio": TARGET, **results}, passed=passed)
