"""The kernels called through one build or another, on inputs with tails, infinities, subnormals and NaN."""

from __future__ import annotations

import ctypes
from functools import cache, partial
from pathlib import Path

import torch
from test_attention import SCALE

from hyla.errors import BackendUnavailable
from hyla.ops import gated_delta, gla, kda, lightning, linear, ssd
from hyla.ops.batch import Batch
from hyla.ops.chunks import delta_native
from hyla.ops.native import attentions, build, gates, gradients, kernels, latents, mixers, moes, products, streams
from hyla.ops.native.tiles import in_tiles
from hyla.ops.weights.blocks import num_blocks, strips

SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-41, -1e-44, 3.4e38, -88.0, 89.0, 1e-30)
WIDTHS = (1, 4, 15, 16, 17, 31, 33, 64, 100, 130)
DTYPES = (torch.float32, torch.bfloat16)


def compiled(wanted: build.Build, compiler: str | None = None) -> Path:
    """The file of this build, from the cache folder or made now."""
    return build.cached(wanted, compiler or build.find_compiler())


def every_build() -> tuple[build.Build, ...]:
    """What this processor can run and a compiler here can make."""
    try:
        build.find_compiler()
    except BackendUnavailable:
        return ()
    return build.runnable()


@cache
def library(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def draw(*shape: int, seed: int, dtype=torch.float32, scale: float = 1.0, special: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator) * scale
    if special:
        places = torch.randperm(x.numel(), generator=generator)[: max(1, x.numel() // 7)]
        x.view(-1)[places] = torch.tensor(SPECIAL)[torch.arange(len(places)) % len(SPECIAL)]
    return x.to(dtype)


def elementwise() -> list[torch.Tensor]:
    found = []
    for seed, width in enumerate(WIDTHS):
        x = draw(5, width, seed=seed, scale=20.0, special=True)
        found += [kernels.unary(kind, x) for kind in kernels.KINDS]
        for dtype in DTYPES:
            a, b = (draw(5, width, seed=seed + n, scale=4.0, dtype=dtype, special=n == 0) for n in (0, 1))
            found += [kernels.swiglu(a, b), kernels.sigmoid_gate(a.float(), b, dtype)]
            found += [kernels.sigmoid_gate(b.float(), a, other) for other in DTYPES]
            for weight in (None, *(draw(width, seed=2, dtype=other) for other in DTYPES)):
                found += [kernels.norm(x, weight, shift=1.0, eps=1e-6, divisor=float(width)) for x in (a, b)]
    for dtype in DTYPES:
        x, cos_sin = draw(3, 2, 40, seed=3, dtype=dtype), draw(3, 24, seed=4)
        for out in DTYPES:
            for weight, eps in ((None, None), (draw(40, seed=5), 1e-6)):
                sizes = {"shift": 0.0, "dtype": out}
                found += [
                    kernels.norm_and_rotate(x, weight, eps, angles, interleaved=interleaved, **sizes)
                    for interleaved in (False, True)
                    for angles in (cos_sin, None)
                ]
    return found


def weight_gradients() -> list[torch.Tensor]:
    """Of one row, of several sums of rows, and of weights that are larger than a turn's part."""
    sizes = ((1, 3, 5), (128, 17, 33), (129, 64, 16), (300, 130, 257), (5, 520, 512))
    cases = [(size, dtype, special) for size in sizes for dtype in DTYPES for special in (False, True)]
    return [
        gradients.weight(draw(t, o, seed=1, dtype=dtype, special=special), draw(t, d, seed=2, dtype=dtype))
        for (t, o, d), dtype, special in cases
    ]


def convolution() -> list[torch.Tensor]:
    found = []
    for taps in (2, 4, 5):
        for channels in (16, 300, 19):
            for dtype in DTYPES:
                x, weight = draw(30, channels, seed=taps, dtype=dtype, special=True), draw(taps, channels, seed=7)
                ring = torch.zeros(2, taps + 2, channels, dtype=dtype)
                for first, last in ((0, 1), (1, 3), (3, 20), (20, 30)):
                    spans = torch.tensor([[0], [last - first], [first], [1]])
                    found.append(kernels.conv(x[first:last], weight.t(), spans, ring))
                found += [ring, kernels.conv(x, weight.t(), torch.tensor([[0, 11], [11, 19], [0, 0], [0, 0]]), None)]
    return found


def convolved_heads() -> list[torch.Tensor]:
    found = []
    for key_dim in (16, 20, 300):
        for dtype in DTYPES:
            channels = 4 * key_dim + 2 * 27
            x, weight = draw(30, channels, seed=8, dtype=dtype, special=True), draw(channels, 4, seed=9, dtype=dtype)
            ring, tail = torch.zeros(2, 16, channels, dtype=dtype), torch.zeros(2, 3, channels, dtype=dtype)
            spans = torch.tensor([[0, 11], [11, 19], [60, 0], [1, 0]])
            sizes = {"key_heads": 2, "key_dim": key_dim, "value_heads": 2}
            found += [*kernels.conv_heads(x, weight, spans, ring, tail, eps=1e-6, scale=0.3, **sizes), ring, tail]
    return found


def delta_gates() -> list[torch.Tensor]:
    found = []
    for channels in (1, 16, 37):
        for dtype in DTYPES:
            raw, beta = (
                draw(9, 3 * channels, seed=1, scale=20.0, dtype=dtype, special=True),
                draw(9, 3, seed=2, dtype=dtype),
            )
            for bound in (None, -5.0):
                found += gates.decays(raw, beta, draw(3, seed=3), draw(3 * channels, seed=4), bound)
            x, weight = draw(9, 3, channels, seed=5, special=True), draw(channels, seed=6, dtype=dtype)
            for activation in gates.ACTIVATIONS:
                options = {"shift": 0.0, "eps": 1e-6, "activation": activation}
                found += [gates.gated_norm(x, weight, raw, dtype=out, **options) for out in DTYPES]
    return found


def delta_inputs(kind: str, tokens: int, key_heads: int, heads: int, key_dim: int, value_dim: int, special: bool):
    q, k = (torch.nn.functional.normalize(draw(tokens, key_heads, key_dim, seed=seed), dim=-1) for seed in (0, 1))
    v = draw(tokens, heads, value_dim, seed=2, special=special)
    decay = -draw(tokens, heads, *((key_dim,) if kind == "kda" else ()), seed=3).abs() * 0.3
    return q * 0.3, k, v, decay, draw(tokens, heads, seed=4).sigmoid()


DELTA_SIZES = ((2, 4, 24, 20), (1, 1, 128, 128), (1, 2, 17, 148), (1, 1, 16, 33), (1, 1, 130, 20))
"""Heads of keys and of values, and their dims."""


def delta_cases(kind: str, tokens: int):
    """(sizes, inputs) of each of `DELTA_SIZES`, without special values and with them."""
    for key_heads, heads, *dims in DELTA_SIZES:
        sizes = (heads if kind == "kda" else key_heads, heads, *dims)
        for special in (False, True):
            yield sizes, delta_inputs(kind, tokens, *sizes, special)


def delta(kind: str) -> list[torch.Tensor]:
    found = []
    tokens, operator = 149, kda.kda if kind == "kda" else gated_delta.gated_delta
    for (key_heads, heads, key_dim, value_dim), inputs in delta_cases(kind, tokens):
        found += operator(*inputs, batch=Batch.packed([tokens - 30, 1, 29]), scale=1.0, return_state=True)
        if kind == "kda":
            specs = kda.cache_tensors(num_heads=heads, key_dim=key_dim, value_dim=value_dim)
        else:
            sizes = {"key_dim": key_dim, "value_dim": value_dim}
            specs = gated_delta.cache_tensors(num_key_heads=key_heads, num_value_heads=heads, **sizes)
        cache = {name: torch.zeros(2, *shape, dtype=dtype) for name, shape, dtype, _ in specs}
        start = 0
        for rows in (3, 1, 62, 1, 1, 5, tokens - 73):
            batch = Batch((rows,), (start,), (1,), ((),))
            part = (x[start : start + rows] for x in inputs)
            found.append(operator(*part, batch=batch, cache=cache, scale=1.0))
            start += rows
        found += [cache[name] for name in sorted(cache)]
    assert delta_native.forward  # the operators reach the kernels through it
    return found


def delta_back(kind: str) -> list[torch.Tensor]:
    """Gradients, of first states too, with and without what comes from behind the last rows."""
    found = []
    tokens, operator = 149, kda.kda if kind == "kda" else gated_delta.gated_delta
    for (_, heads, key_dim, value_dim), inputs in delta_cases(kind, tokens):
        states, grad_final = (draw(3, heads, key_dim, value_dim, seed=seed) for seed in (5, 6))
        leaves = [x.requires_grad_() for x in (*inputs, states)]
        batch = Batch.packed([tokens - 30, 1, 29])
        o, final = operator(*leaves[:5], batch=batch, scale=1.0, state=leaves[5], return_state=True)
        grad_o = draw(tokens, heads, value_dim, seed=7)
        found += torch.autograd.grad((o, final), leaves, (grad_o, grad_final))
        found += torch.autograd.grad(operator(*leaves[:5], batch=batch, scale=1.0), leaves[:5], grad_o)
    return found


def decay_calls(kind: str, key_dim: int, value_dim: int, special: bool):
    """(operator of inputs, its inputs for 149 tokens, its cache tensors): 2 groups of keys where heads share them."""
    tokens, heads = 149, 4 if kind == "ssd" else 2
    q, k = (draw(tokens, 2, key_dim, seed=seed) * 0.3 for seed in (0, 1))
    v = draw(tokens, heads, value_dim, seed=2, special=special)
    sizes = {"num_heads": heads, "key_dim": key_dim, "value_dim": value_dim}
    if kind == "lightning":
        slopes = (0.0, 0.3)
        return partial(lightning.lightning, slopes=slopes, scale=0.7), [q, k, v], lightning.cache_tensors(**sizes)
    if kind == "linear":
        return partial(linear.linear_attention, eps=1e-3), [q.abs(), k.abs(), v], linear.cache_tensors(**sizes)
    if kind == "ssd":
        decay = -draw(tokens, heads, seed=3).abs() * 0.3
        return ssd.ssd, [q, k, v, decay], ssd.cache_tensors(num_groups=2, **sizes)
    decay = -draw(tokens, heads, key_dim, seed=3).abs() * 0.3
    return partial(gla.gla, scale=0.7), [q, k, v, decay], gla.cache_tensors(**sizes)


def decay(kind: str) -> list[torch.Tensor]:
    """Whole sequences with their states, then pieces against a cache: fewer rows than go together, and more."""
    found = []
    for key_dim, value_dim in ((24, 20), (128, 64), (17, 148), (16, 9)):
        for special in (False, True):
            operator, inputs, specs = decay_calls(kind, key_dim, value_dim, special)
            found += operator(*inputs, batch=Batch.packed([119, 1, 29]), return_state=True)
            cache = {name: torch.zeros(2, *shape, dtype=dtype) for name, shape, dtype, _ in specs}
            start = 0
            for rows in (3, 1, 62, 1, 1, 5, 9, 67):
                batch = Batch((rows,), (start,), (1,), ((),))
                found.append(operator(*(x[start : start + rows] for x in inputs), batch=batch, cache=cache))
                start += rows
            found += [cache[name] for name in sorted(cache)]
    return found


def decay_gradients(kind: str) -> list[torch.Tensor]:
    """Of whole sequences and of their states, through outputs and last states."""
    found = []
    for key_dim, value_dim in ((24, 20), (128, 64), (17, 148), (16, 9)):
        for special in (False, True):
            operator, inputs, _ = decay_calls(kind, key_dim, value_dim, special)
            inputs = [x.requires_grad_() for x in inputs]
            for with_states in (False, True):
                found_o = operator(*inputs, batch=Batch.packed([119, 1, 29]), return_state=with_states)
                o, *final = found_o if with_states else (found_o,)
                loss = (o * draw(*o.shape, seed=5)).sum() + sum((x * draw(*x.shape, seed=6)).sum() for x in final)
                found += torch.autograd.grad(loss, inputs)
    return found


def around_mixers() -> list[torch.Tensor]:
    found = []
    for dtype in DTYPES:
        for head in (12, 64):
            width = 6 * head
            x, wide = draw(18, width, seed=1, special=True), draw(18, width + 3, seed=2, dtype=dtype, scale=4.0)
            gate, weight = wide[:, 3:], draw(width, seed=3, dtype=dtype)
            skip = (draw(18, width, seed=4), draw(6, seed=5))
            found += [mixers.activated(gate, activation) for activation in mixers.ACTIVATIONS]
            for is_gate_first, added in ((False, None), (True, skip)):
                options = {"groups": 3, "eps": 1e-5, "activation": "silu", "is_gate_first": is_gate_first}
                found.append(mixers.group_norm(x, gate, weight, added, dtype=dtype, **options))
            steps = (draw(18, 6, seed=6, dtype=dtype, scale=9.0, special=True), draw(6, seed=7), -draw(6, seed=8).abs())
            found += mixers.rates(x, weight, *steps, head_dim=head // 2, limit=(0.1, 5.0))
    return found


def attention() -> list[torch.Tensor]:
    found = []
    for heads, groups, key_dim, value_dim, is_latent in (
        (8, 2, 64, 48, False),
        (3, 3, 20, 20, False),
        (5, 1, 72, 52, True),
    ):
        for dtype in DTYPES:
            for window, with_sinks, special in ((None, False, False), (70, True, False), (None, False, True)):
                lengths = (1, 90, 133)
                tokens = sum(lengths)
                q, k = draw(tokens, heads, key_dim, seed=0), draw(tokens, groups, key_dim, seed=1, dtype=dtype)
                v = None if is_latent else draw(tokens, groups, value_dim, seed=2, dtype=dtype, special=special)
                pages = [-(-length // 64) for length in lengths]
                first = torch.tensor([0, pages[0], pages[0] + pages[1]])
                k_pages = torch.zeros(sum(pages), groups, key_dim, 64, dtype=dtype)
                v_pages = None if is_latent else torch.zeros(sum(pages), groups, 64, value_dim, dtype=dtype)
                offsets = torch.tensor([0, lengths[0], lengths[0] + lengths[1]])
                spans = torch.stack([offsets, torch.tensor(lengths), torch.zeros(3, dtype=torch.int64), first])
                out = kernels.attention(
                    q, k, v, (first, torch.arange(sum(pages))), spans, k_pages, v_pages, scale=SCALE,
                    value_dim=value_dim, window=window, sinks=draw(heads, seed=5) if with_sinks else None,
                    with_statistics=True,
                )  # fmt: skip
                found += [x for x in (*out, k_pages, v_pages) if x is not None]
    return found


def attention_gradients() -> list[torch.Tensor]:
    """Of an output that need not be the forward pass's own, and statistics near it."""
    found = []
    lengths = (1, 90, 133)
    tokens = sum(lengths)
    spans = torch.tensor([(0, 1, 91), lengths, (0, 0, 0), (0, 0, 0)])
    for heads, groups, key_dim, value_dim in ((8, 2, 64, 48), (3, 3, 20, 133), (5, 1, 72, 52)):
        for dtype in DTYPES:
            for window, with_sinks, special in ((None, False, False), (70, True, False), (None, True, True)):
                q, k = draw(tokens, heads, key_dim, seed=0), draw(tokens, groups, key_dim, seed=1, dtype=dtype)
                v = None if heads == 5 else draw(tokens, groups, value_dim, seed=2, dtype=dtype, special=special)
                grad_o, o = (draw(tokens, heads, value_dim, seed=seed) for seed in (3, 4))
                forward = (o, 30.0 + draw(tokens, heads, seed=6), draw(tokens, heads, seed=7).abs() + 1.0)
                sinks = draw(heads, seed=5) if with_sinks else None
                out = attentions.attention_grad(
                    grad_o, q, k, v, sinks, forward, spans, scale=SCALE, value_dim=value_dim, window=window
                )
                found += [x for x in out if x is not None]
    return found


def dense_weights() -> list[torch.Tensor]:
    """Of all 256 codes, and of rows whose length no vector divides."""
    found = []
    for inner in (256, 133):
        codes = torch.arange(256).repeat(2)[: 2 * inner].view(1, 2, inner).to(torch.uint8).view(torch.float8_e4m3fn)
        for kind in products.SCALE_KINDS:
            scales = torch.tensor([0.75, 2.0, 0.5, 1.0])[: -(-inner // 128)].view(1, 1, -1).to(kind)
            for dtype in DTYPES:
                out = torch.empty(2, inner, dtype=dtype)
                products.fp8_dense(products.Stored(codes, codes.shape, scales=scales, strips=((0, 2, 0),)), 0, 0, out)
                found.append(out)
    return found


def stored_products() -> list[torch.Tensor]:
    """Rows in every number of them that is computed together, with every kind of weight. (No subnormal sums: the
    processor's instruction for bf16 takes them as zero.)"""
    found = []
    for outputs, inner in ((70, 1), (64, 511), (130, 516), (3, 257)):
        weight, bias = draw(outputs, inner, seed=outputs), draw(outputs, seed=1)
        codes = weight.clamp(-400, 400).to(torch.float8_e4m3fn)
        scales = draw(*num_blocks(codes.shape), seed=2).abs() + 0.5
        fp8 = products.Stored(codes, codes.shape, scales=scales, strips=strips(outputs))
        kinds = {torch.float32: [fp8], torch.bfloat16: [fp8]}
        for dtype in DTYPES:
            plain = weight.to(dtype)
            tiles = in_tiles(*plain.split([1, outputs - 1]))
            stored = [products.Stored(plain, plain.shape), products.Stored(tiles, plain.shape, is_tiled=True)]
            stored.append(products.plain(plain.t().contiguous().t()))  # read as it lies
            kinds[torch.float32] += stored
            kinds[dtype] += stored if dtype == torch.bfloat16 else []
            found.append(tiles)
        for dtype, stored in kinds.items():
            x = draw(125, inner, seed=3, dtype=dtype)
            found += [
                products.product(x[:rows], one, bias) for one in stored for rows in (1, 2, 3, 4, 5, 6, 7, 15, 125)
            ]
    return found


def head_products() -> list[torch.Tensor]:
    """A matrix of each head, in tiles and plain, into a part of wider rows."""
    found = []
    for outputs, inner in ((70, 33), (64, 512), (16, 7)):
        for dtype in DTYPES:
            weight, x = draw(3, outputs, inner, seed=1, dtype=dtype), draw(7, 3, inner, seed=2)
            stored = [
                products.Stored(weight, weight.shape),
                products.Stored(in_tiles(weight), weight.shape, is_tiled=True),
                products.plain(weight.mT.contiguous().mT),
            ]
            for one in stored:
                out = torch.zeros(7, 3, outputs + 5)
                products.head_product(x, one, out[:, :, 5:])
                found += [out, products.head_product(x[:1], one)]
    return found


def latent() -> list[torch.Tensor]:
    """Heads into parts of wider rows, and their outputs with and without gates."""
    found = []
    for width in (1, 16, 40, 133):
        for dtype in DTYPES:
            o, gate = (
                draw(5, 3, width, seed=width, special=True),
                draw(5, 3, seed=1, scale=20.0, dtype=dtype, special=True),
            )
            found += [latents.gate_heads(o, gate, out) for out in DTYPES]
            x, out = draw(5, 3, width, seed=2, dtype=dtype), torch.zeros(5, 3, width + 7, dtype=dtype)
            kernels.norm_and_rotate(
                x, draw(width, seed=3), 1e-6, None, shift=0.0, interleaved=False, dtype=dtype, out=out[:, :, 3:-4]
            )
            found.append(out)
        found.append(latents.gate_heads(o, None, torch.bfloat16))
    return found


def experts() -> list[torch.Tensor]:
    """Routing with ties, groups and biases; rows by expert; sums over slots; what joins them."""
    found = []
    common = {"num_chosen": 3, "scaling": 2.5, "eps": 0.0}
    for num_experts in (6, 16, 40, 129):
        scores = draw(9, num_experts, seed=num_experts, scale=4.0)
        logits, bias = torch.cat([scores, scores.round()]), draw(num_experts, seed=1)
        found += [moes.softmax(logits), moes.softmax(draw(5, num_experts, seed=2, special=True))]
        num_groups = 2 if num_experts % 2 == 0 else 3
        for groups, kept in ((1, 1), (num_groups, num_groups - 1)):
            for is_sigmoid in (False, True):
                for own in (None, bias):
                    options = {"num_groups": groups, "num_groups_kept": kept, "is_sigmoid": is_sigmoid}
                    found += moes.route(logits, own, normalize=is_sigmoid, **options, **common)
        weights, ids = found[-2:]
        for dtype in DTYPES:
            for width in (1, 16, 45):
                x = draw(18, width, seed=3, dtype=dtype, special=True)
                rows, spans, order, places = moes.group(x, ids, num_experts)
                found += [rows, spans, order, places, moes.combine(rows, places, weights), streams.relu2(x)]
                for gate in (None, draw(18, 1, seed=4, scale=20.0, dtype=dtype)):
                    found.append(moes.join(draw(18, width, seed=5, dtype=dtype), x, gate))
        found.append(streams.scaled(draw(18, num_experts, seed=6, dtype=torch.bfloat16), 1.0, torch.float32))
    return found


def stream() -> list[torch.Tensor]:
    """Sums, plain and weighted, and rows in another dtype; rows that stand apart."""
    found = []
    for seed, width in enumerate(WIDTHS):
        for dtype in DTYPES:
            x, y = (draw(5, width + 3, seed=seed + n, dtype=dtype, special=True)[:, :width] for n in (0, 1))
            found += [streams.weighted_sum(x, y), streams.weighted_sum(x, y, 0.7, 1.3)]
            found += [streams.scaled(x, factor, out) for factor in (1.0, 0.3) for out in DTYPES]
            found.append(streams.concatenated(x[0], y[1]))
    return found


def gradients_by_rows() -> list[torch.Tensor]:
    """Of non-linearities, losses, norms, gates and steps."""
    found = []
    for seed, width in enumerate(WIDTHS):
        x, grad = draw(70, width, seed=seed, scale=4.0, special=True), draw(70, width, seed=1)
        found += [gradients.unary(kind, x, grad) for kind in gradients.KINDS]
        logits = draw(9, 40 * width, seed=2, scale=9.0)
        found += gradients.row_sums(logits)
        found += gradients.chunk_loss(logits, torch.arange(9), 0.3)
        for dtype in DTYPES:
            gate, up, of_y = (draw(70, width + 3, seed=seed + n, dtype=dtype)[:, 3:] for n in (0, 1, 2))
            found += [y for y in gradients.swiglu(of_y, gate, up, draw(70, seed=3)) if y is not None]
            found.append(gradients.swiglu(of_y, gate, up)[0])
            for weight in (None, draw(width, seed=4)):
                found += [
                    y for y in gradients.norm(of_y, gate, weight, eps=1e-6, divisor=float(width)) if y is not None
                ]
            for bound in (None, -5.0):
                found += gradients.decays(grad, gate, draw(1, seed=5), draw(width, seed=6), bound)
    for dtype in DTYPES:
        x, gate, of_y = (
            draw(70, 36, seed=1),
            draw(70, 40, seed=2, dtype=dtype)[:, 4:],
            draw(70, 36, seed=3, dtype=dtype),
        )
        for activation in gradients.ACTIVATIONS:
            options = {"groups": 2, "eps": 1e-6, "activation": activation}
            found += gradients.gated_norm(of_y, x, gate, draw(18, seed=4), is_gate_first=False, **options)
            skip = (draw(70, 36, seed=5), draw(4, seed=6))
            found += gradients.gated_norm(of_y, x, gate, draw(36, seed=4), skip, is_gate_first=True, **options)
        grads = (draw(70, 36, seed=7), draw(70, 4, 7, seed=8), draw(70, 4, seed=9))
        steps = (draw(36, seed=2), draw(70, 4, seed=3, dtype=dtype, scale=3.0), draw(4, seed=4), -draw(4, seed=5).abs())
        found += gradients.rates(grads, x, *steps, limit=(0.1, 2.0))
    return found


def convolution_gradients() -> list[torch.Tensor]:
    found, spans = [], torch.tensor([[0, 70, 71], [70, 1, 2], [0, 0, 0], [0, 0, 0]])
    for taps in (1, 4, 5):
        for dtype in DTYPES:
            for key_dim in (16, 21, 300):
                channels = 4 * key_dim + 26
                x, weight = draw(73, channels, seed=1, dtype=dtype), draw(channels, taps, seed=2, dtype=dtype)
                found += gradients.conv((draw(73, channels, seed=3),), x, weight, spans)
                grads = (draw(73, 2, key_dim, seed=4), draw(73, 2, key_dim, seed=5), draw(73, 2, 13, seed=6))
                sizes = {"key_heads": 2, "key_dim": key_dim, "eps": 1e-6, "scale": 0.3}
                found += gradients.conv(grads, x, weight, spans, **sizes)
    return found


KERNELS = {
    "gradients by rows": gradients_by_rows,
    "gradients of convolutions": convolution_gradients,
    "gradients of weights": weight_gradients,
    "elementwise": elementwise,
    "stream": stream,
    "conv": convolution,
    "conv_heads": convolved_heads,
    "gates": delta_gates,
    "gated_delta": lambda: delta("gated_delta"),
    "kda": lambda: delta("kda"),
    "gated_delta, backward": lambda: delta_back("gated_delta"),
    "kda, backward": lambda: delta_back("kda"),
    "lightning": lambda: decay("lightning"),
    "linear": lambda: decay("linear"),
    "ssd": lambda: decay("ssd"),
    "gla": lambda: decay("gla"),
    "gradients of lightning": lambda: decay_gradients("lightning"),
    "gradients of linear": lambda: decay_gradients("linear"),
    "gradients of ssd": lambda: decay_gradients("ssd"),
    "gradients of gla": lambda: decay_gradients("gla"),
    "around mixers": around_mixers,
    "attention": attention,
    "attention_grad": attention_gradients,
    "fp8_dense": dense_weights,
    "latent": latent,
    "experts": experts,
    "product": stored_products,
    "product of heads": head_products,
}
"""By what is computed: all its outputs."""


def bits(x: torch.Tensor) -> torch.Tensor:
    """A tensor's bits, where every NaN is the same: which one an operation gives is the processor's own choice."""
    if not x.is_floating_point():
        return x
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.masked_fill(x.isnan(), float("nan")).contiguous().view(integers)
