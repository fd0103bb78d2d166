"""Softmax attention by the CPU's own kernel: decoding, prefill, and beside PyTorch's functions.

8 query and 2 key heads of 256, the attention of bench/qwen35_folder.py. Every case first compares the kernel with
float64 and a decoded row with the same row of a whole sequence, bit for bit; then candidates are timed in turn.

    python -m bench attention_kernel [--threads 2]

Decode at 32,768 tokens of context reads 403 MB in six layers (bf16): target 11 to 15 ms a token.
"""

from __future__ import annotations

import argparse

import torch
from torch.nn.functional import scaled_dot_product_attention

from bench.outcome import Outcome
from bench.timing import alternated, medians
from hyla.grid import CHUNK
from hyla.ops import backends
from hyla.ops.attention import PagedKV, attention
from hyla.ops.batch import Batch
from hyla.ops.host_memory import keep_freed_memory

HEADS, KEY_HEADS, DIM, LAYERS = 8, 2, 256, 6
SCALE = DIM**-0.5
THREADS = 2
ERROR = 2e-6
"""Relative error of a row against float64."""


def draw(tokens: int, heads: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(tokens, heads, DIM, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_backend(name: str, call):
    def run():
        backends.use(name)
        return call()

    return run


def filled_pages(count: int, dtype: torch.dtype) -> list[PagedKV]:
    """Random keys and values of all layers."""
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(count, KEY_HEADS, DIM, CHUNK, generator=generator).to(dtype)
    return [PagedKV(keys.clone(), keys.transpose(2, 3).flip(0).contiguous()) for _ in range(LAYERS)]


def check_decode(context: int, pages: PagedKV, table: tuple[int, ...], rows) -> bool:
    """A decoded row against float64."""
    keys = pages.k_pages[list(table)].permute(0, 3, 1, 2).flatten(0, 1)[:context].double()
    values = pages.v_pages[list(table)].transpose(1, 2).flatten(0, 1)[:context].double()
    batch = Batch((1,), (context - 1,), (1,), (table,))
    q_THK, k_TGK, v_TGV = rows
    out = attention(*rows, batch=batch, cache=pages, scale=SCALE)
    keys[-1], values[-1] = k_TGK[0].double(), v_TGV[0].double()
    by_head = q_THK[0].double().view(KEY_HEADS, -1, DIM)
    weights = (torch.einsum("grk,jgk->grj", by_head, keys) * SCALE).softmax(-1)
    expected = torch.einsum("grj,jgv->grv", weights, values).flatten(0, 1)
    return ((out[0] - expected).abs().max() <= ERROR * expected.abs().max()).item()


def decode(count: int, context: int, dtype: torch.dtype, repeats: int) -> dict:
    """Milliseconds of the attention of all layers for one token of `count` sequences."""
    each = -(-context // CHUNK)
    order = torch.randperm(count * each, generator=torch.Generator().manual_seed(2)) + 1
    tables = tuple(tuple(order[n * each : (n + 1) * each].tolist()) for n in range(count))
    layers = filled_pages(1 + count * each, dtype)
    q, k, v = draw(count, HEADS, torch.float32, 3), draw(count, KEY_HEADS, dtype, 4), draw(count, KEY_HEADS, dtype, 5)
    is_right = check_decode(context, layers[0], tables[0], [x[:1] for x in (q, k, v)])
    batch = Batch((1,) * count, (context - 1,) * count, tuple(range(1, count + 1)), tables)

    def step():
        return [attention(q, k, v, batch=batch, cache=pages, scale=SCALE) for pages in layers]

    bytes_read = LAYERS * count * each * CHUNK * KEY_HEADS * 2 * DIM * dtype.itemsize
    total = torch.ones(bytes_read // 4)
    ways = {"native": with_backend("native", step), "torch": with_backend("torch", step), "read": total.sum}
    found = medians(alternated(ways, repeats), 1e3)
    rate = bytes_read / found["native"] / 1e6
    return {"is_right": is_right, "mb": round(bytes_read / 1e6), **found, "gb_s": round(rate, 1)}


def prefill(tokens: int, dtype: torch.dtype, repeats: int) -> dict:
    """Milliseconds of one layer's causal attention over a whole sequence."""
    q, k, v = draw(tokens, HEADS, dtype, 6), draw(tokens, KEY_HEADS, dtype, 7), draw(tokens, KEY_HEADS, dtype, 8)
    batch = Batch.packed([tokens])
    by_head = [x.transpose(0, 1)[None].contiguous() for x in (q, k, v)]
    full = [by_head[0], *(x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in by_head[1:])]

    def ours():
        return attention(q, k, v, batch=batch, cache=None, scale=SCALE)

    def sdpa():
        return scaled_dot_product_attention(*full, is_causal=True, scale=SCALE)

    last = tokens - 1
    backends.use("native")
    pages = PagedKV(
        torch.zeros(2 + last // CHUNK, KEY_HEADS, DIM, CHUNK, dtype=dtype),
        torch.zeros(2 + last // CHUNK, KEY_HEADS, CHUNK, DIM, dtype=dtype),
    )
    table = tuple(range(1, 2 + last // CHUNK))
    attention(*(x[:last] for x in (q, k, v)), batch=Batch((last,), (0,), (1,), (table,)), cache=pages, scale=SCALE)
    one = Batch((1,), (last,), (1,), (table,))
    row = attention(*(x[last:] for x in (q, k, v)), batch=one, cache=pages, scale=SCALE)
    whole = ours()
    right = scaled_dot_product_attention(*(x.double() for x in full), is_causal=True, scale=SCALE)[0].transpose(0, 1)
    is_right = torch.equal(row[0], whole[last]) and bool((whole - right).abs().max() <= ERROR * right.abs().max())
    ways = {"native": with_backend("native", ours), "torch": with_backend("torch", ours), "sdpa": sdpa}
    found = medians(alternated(ways, repeats), 1e3)
    rate = 2 * tokens * (tokens + 1) * HEADS * DIM / found["native"] / 1e6
    ratio = round(found["sdpa"] / found["native"], 2)
    return {"is_right": is_right, **found, "gflop_s": round(rate), "sdpa_over_native": ratio}


def run(options: argparse.Namespace) -> Outcome:
    keep_freed_memory()
    results = {}
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32):
            name = str(dtype).removeprefix("torch.")
            results[f"prefill_512_{name}"] = prefill(512, dtype, 20)
            results[f"prefill_4096_{name}"] = prefill(4096, dtype, 4)
            results[f"decode_16_at_512_{name}"] = decode(16, 512, dtype, 20)
            results[f"decode_32_at_512_{name}"] = decode(32, 512, dtype, 20)
        results["decode_1_at_32768_bfloat16"] = decode(1, 32768, torch.bfloat16, 10)
    backends.use("auto")
    for name, result in results.items():
        print(f"{name:28} {result}")
    return Outcome(results, passed=all(result["is_right"] for result in results.values()))
