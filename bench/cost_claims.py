"""Published efficiency claims beside what the cost model gives for the same comparison: the table of docs/cost.md.

    python -m bench cost_claims

Nothing is tuned to a claim: devices, efficiencies and formulas are the defaults of `hyla cost`. Where a paper does not
say its devices, the ones used here are named in the row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from bench.outcome import Outcome
from hyla.cost import Question, Serving, Target, find_device, find_target, full_attention_twin, model_memory
from hyla.cost.comparison import crossover, crossovers
from hyla.cost.figures import serving
from hyla.cost.training import train_flops_per_token
from hyla.cost.work import decoded_cache_bytes
from hyla.models.config import ModelConfig, SoftmaxConfig

K, M = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Claim:
    """One row."""

    source: str
    claim: str
    published: str
    ours: str
    reason: str
    """Why the two differ, or what was compared."""


def on(config: ModelConfig, device: str, count: int = 1, **fields) -> Serving:
    """A model on some devices, in the arithmetic of other engines."""
    question = Question(device=find_device(device), num_devices=count, arithmetic="usual", **fields)
    return serving(Target("", config), question)


def preset(name: str) -> ModelConfig:
    return find_target(name).config


def times(value: float) -> str:
    return f"{value:.1f}x"


def length(context: int) -> str:
    return f"{context // M}m" if context % M == 0 else f"{context // K}k"


def full_speed(each: Serving, context: int) -> float:
    """Tokens per second at the largest batch."""
    return each.tokens_per_second(context, each.largest_batch(context))


def kimi() -> Iterator[Claim]:
    """Kimi Linear against MLA in every layer, 48B-A3B (arXiv 2510.26692)."""
    hybrid = preset("kimi-linear-48b-a3b")
    twin = full_attention_twin(hybrid)
    less = 1 - model_memory(hybrid).kv_bytes_per_token / model_memory(twin).kv_bytes_per_token
    source = "Kimi Linear"
    yield Claim(
        source, "KV cache", "-75%", f"-{100 * less:.1f}%", "20 of 27 layers, not 3 of 4: the last one is MLA too"
    )
    one, other = on(hybrid, "h200"), on(twin, "h200")
    unsaid = "devices not stated; here one H200, bf16"
    for context, paper in ((512 * K, "1.8x"), (M, "2.2x")):
        ratio = other.token_seconds(context) / one.token_seconds(context)
        where = f"token time, batch 1, {length(context)}"
        yield Claim(source, where, paper, times(ratio), unsaid)
    for context, paper in ((512 * K, "2.3x"), (M, "2.9x")):
        ratio = other.first_token_seconds(context) / one.first_token_seconds(context)
        why = "near 27 / 7 MLA layers = 3.9x; less where KDA or the experts are slower than our constants"
        yield Claim(source, f"prefill, {length(context)}", paper, times(ratio), why)
    one, other = on(hybrid, "h200", 8), on(twin, "h200", 8)
    ratio = full_speed(one, M) / full_speed(other, M)
    why = (
        f"8 H200, {one.largest_batch(M)} against {other.largest_batch(M)} sequences: when caches are all that is read "
        "and kept, speed goes as their sizes, 3.8x at most; 6.3x needs the twin at a smaller batch than fits (next row)"
    )
    yield Claim(source, "time per token, largest batch, 1m", "6.3x", times(ratio), why)
    alone = on(twin, "h200")
    hybrid_fp8 = on(hybrid, "h200", weights="fp8")
    batch = hybrid_fp8.largest_batch(M)
    per_token = hybrid_fp8.token_seconds(M, batch) / batch
    why = f"one H200: twin alone in bf16, hybrid at {batch} sequences with fp8 weights: the reading that comes nearest"
    published = "1.84 against 11.48 ms"
    yield Claim(
        source, "the two times", published, f"{1e3 * per_token:.2f} against {1e3 * alone.token_seconds(M):.2f} ms", why
    )


def ring() -> Iterator[Claim]:
    """Ring-flash-linear-2.0 against Ring-flash-2.0 (same sizes, GQA) and Qwen3-32B (arXiv 2510.19338)."""
    source = "Ring-linear"
    hybrid, old, dense = (on(preset(n), "h20", 4) for n in ("ring-flash-linear-2.0", "ling-flash-2.0", "qwen3-32b"))
    where = "4 H20, bf16"
    for other, name, paper, context in (
        (old, "Ring-flash-2.0", "> 2.5x", 128 * K),
        (dense, "Qwen3-32B", "> 8x", 128 * K),
    ):
        ratio = other.first_token_seconds(context) / hybrid.first_token_seconds(context)
        yield Claim(source, f"prefill against {name}, 128k", paper, times(ratio), where)
    begins = crossover(hybrid.first_token_seconds, old.first_token_seconds)
    by_flops = crossovers(Target("", hybrid.config), Target("", old.config), Question(arithmetic="usual"))["prefill"]
    why = f"{where}; from {by_flops:,} by FLOPs alone: lightning has as many key as query heads, so wider projections"
    yield Claim(source, "prefill is faster than GQA from", "8k", f"{begins:,}", why)

    def per_token(each: Serving) -> Callable[[int], float]:
        return lambda context: 1 / full_speed(each, context)

    def of_batch(each: Serving) -> Callable[[int], float]:
        return lambda context: each.token_seconds(context, 64)

    begins = crossover(of_batch(hybrid), of_batch(old))
    yield Claim(
        source, "decode is faster than GQA from", "4k", f"{begins:,}", f"{where}, batch 64; the paper's is not stated"
    )
    for other, name, paper in ((old, "Ring-flash-2.0", "> 2x"), (dense, "Qwen3-32B", "> 10x")):
        ratio = per_token(other)(64 * K) / per_token(hybrid)(64 * K)
        batches = f"{hybrid.largest_batch(64 * K)} against {other.largest_batch(64 * K)}"
        yield Claim(source, f"decode against {name}, 64k", paper, times(ratio), f"{where}, largest batches: {batches}")
    task = [each.price_per_task(2 * K, 32 * K, 1.0) for each in (hybrid, old, dense)]
    why = f"a task of 2k in, 32k out at the largest batch, {where}"
    yield Claim(source, "inference cost of a 32B dense model", "1/10", f"1/{task[2] / task[0]:.1f}", why)
    yield Claim(source, "inference cost below Ring", "more than -50%", f"-{100 * (1 - task[0] / task[1]):.0f}%", why)


def ling() -> Iterator[Claim]:
    """Ling / Ring-2.5-1T against GQA in every layer (model card)."""
    hybrid = preset("ling-2.5-1t")
    gqa = SoftmaxConfig(num_heads=64, num_kv_heads=8, head_dim=128)
    old = hybrid.model_copy(
        update={
            "sublayers": tuple(
                sub if sub.module.kind in ("mlp", "moe") else sub.model_copy(update={"module": gqa})
                for sub in hybrid.sublayers
            )
        }
    )
    mla = full_attention_twin(hybrid)
    for context in (32 * K, 128 * K):
        read = [
            decoded_cache_bytes(config, context, weights="bf16", arithmetic="usual") for config in (hybrid, old, mla)
        ]
        against_mla = f"against 80 of MLA {read[2] / read[0]:.1f}x"
        why = f"cache bytes a token, against 80 layers of GQA with 8 key heads (Ling-1T's); {against_mla}"
        claim = f"memory access a token, {context // K}k"
        yield Claim("Ring-2.5-1T", claim, "> 10x less" if context == 32 * K else "", times(read[1] / read[0]), why)
    one, other = (on(config, "h200", 16, weights="fp8") for config in (hybrid, old))
    ratio = full_speed(one, 64 * K) / full_speed(other, 64 * K)
    yield Claim(
        "Ring-2.5-1T", "throughput beyond 32k", "> 3x", times(ratio), "16 H200, fp8 weights, 64k, largest batches"
    )


def qwen() -> Iterator[Claim]:
    """Qwen3-Next-80B-A3B against Qwen3-32B (blog, model card)."""
    source = "Qwen3-Next"
    hybrid, dense = preset("qwen3-next-80b-a3b"), preset("qwen3-32b")
    one, other = (on(config, "h200", 4) for config in (hybrid, dense))
    for context, paper in ((4 * K, "7x"), (32 * K, "> 10x"), (128 * K, "> 10x")):
        ratio = other.first_token_seconds(context) / one.first_token_seconds(context)
        why = "4 H200, bf16, one prompt (devices and batch not stated); short ones wait for the experts' weights"
        yield Claim(source, f"prefill against Qwen3-32B, {context // K}k", paper, times(ratio), why)
    for context, paper in ((4 * K, "4x"), (32 * K, "> 10x"), (128 * K, "> 10x")):
        ratio = full_speed(one, context) / full_speed(other, context)
        alone = other.token_seconds(context) / one.token_seconds(context)
        batches = f"{one.largest_batch(context)} against {other.largest_batch(context)}"
        why = f"4 H200, largest batches ({batches}); alone {alone:.1f}x"
        yield Claim(source, f"decode against Qwen3-32B, {context // K}k", paper, times(ratio), why)
    cost = [train_flops_per_token(config, 4 * K) for config in (hybrid, dense)]
    share = 15e12 * cost[0] / (36e12 * cost[1])
    why = "FLOPs, 15T tokens against 36T; GPU hours also pay for lower utilisation"
    yield Claim(source, "training cost of Qwen3-32B's", "9.3%", f"{100 * share:.1f}%", why)


def nemotron() -> Iterator[Claim]:
    """Nemotron 3 Nano and Super (NVIDIA reports)."""
    nano, qwen30 = on(preset("nemotron-3-nano-30b-a3b"), "h200", weights="fp8"), on(preset("qwen3-30b-a3b"), "h200")

    def task(each: Serving, prompt: int, output: int) -> float:
        return each.price_per_task(prompt, output, 1.0)

    why = "one H200, fp8 against bf16 as there, price of a task at the largest batch"
    ratio = task(qwen30, 8 * K, 16 * K) / task(nano, 8 * K, 16 * K)
    yield Claim("Nemotron 3 Nano", "against Qwen3-30B-A3B, 8k in, 16k out", "3.3x", times(ratio), why)
    same = on(preset("nemotron-3-nano-30b-a3b"), "h200")
    ratio = task(qwen30, 8 * K, 16 * K) / task(same, 8 * K, 16 * K)
    most = [each.largest_batch(24 * K) for each in (same, qwen30)]
    why = f"what the architecture alone gives: {most[0]} against {most[1]} sequences of 24k fit"
    yield Claim("Nemotron 3 Nano", "the same, both in bf16", "", times(ratio), why)
    batch = most[1]
    ratio = qwen30.token_seconds(16 * K, batch) / same.token_seconds(16 * K, batch)
    why = f"decode alone, bf16, both at {batch} sequences: a batch that is not the largest takes most of the gain away"
    yield Claim("Nemotron 3 Nano", "the same, equal batches", "", times(ratio), why)
    pair = [on(preset(n), "b200", 2, weights="fp8") for n in ("nemotron-3-super-120b-a12b", "qwen3.5-122b-a10b")]
    ratio = task(pair[1], 8 * K, 64 * K) / task(pair[0], 8 * K, 64 * K)
    why = (
        "2 B200, both in fp8, without speculation: two hybrids of like active size and small caches. Theirs is NVFP4 "
        "with MTP against an engine and a format that are not stated"
    )
    yield Claim("Nemotron 3 Super", "against Qwen3.5-122B, 8k in, 64k out", "7.5x", times(ratio), why)


def mimo() -> Iterator[Claim]:
    """MiMo-V2: windows against attention in every layer."""
    for name, label, paper in (
        ("mimo-v2-flash", "MiMo-V2-Flash", "nearly 6x"),
        ("mimo-v2.5-pro", "MiMo-V2.5-Pro", "7x"),
    ):
        hybrid = preset(name)
        twin = full_attention_twin(hybrid)
        memory = [model_memory(config).published_bytes(256 * K) for config in (hybrid, twin)]
        full = sum(1 for mixer in hybrid.mixers if mixer.window is None)
        why = f"256k; {full} of {len(hybrid.mixers)} layers are full, so {len(hybrid.mixers) / full:.2f}x is the limit"
        yield Claim(label, "KV cache", f"{paper} less", times(memory[1] / memory[0]), why)


def deepseek() -> Iterator[Claim]:
    """DeepSeek-V3.2 against V3.1, which is V3's architecture."""
    source = "DeepSeek-V3.2"
    sparse, dense = (on(preset(name), "h800", 128, weights="fp8") for name in ("deepseek-v3.2", "deepseek-v3"))
    context = 128 * K
    ratio = full_speed(sparse, context) / full_speed(dense, context)
    batches = f"{sparse.largest_batch(context)} against {dense.largest_batch(context)}"
    why = (
        f"128 H800 (their units have 144), fp8 weights, bf16 cache, largest batches: {batches}; the index keys "
        "are in 16 bits here, in fp8 there, and most of what a token reads. The figure is readers' of a plot"
    )
    yield Claim(source, "decode cost, 128k", "about 6x less", times(ratio), why)
    few = [on(preset(name), "h800", 16, weights="fp8") for name in ("deepseek-v3.2", "deepseek-v3")]
    ratio = full_speed(few[0], context) / full_speed(few[1], context)
    yield Claim(source, "the same on 16 H800", "", times(ratio), "too few sequences: the experts' weights dominate")
    for tokens, paper in ((8 * K, "2-3x (from 7k)"), (context, "")):
        ratio = few[1].first_token_seconds(tokens) / few[0].first_token_seconds(tokens)
        why = "16 H800; here V3.2 reads prompts absorbed, 3.4x the FLOPs a pair; theirs is expanded with a mask at 8k"
        yield Claim(source, f"prefill, {length(tokens)}", paper, times(ratio), why)


FAMILIES = (kimi, ring, ling, qwen, nemotron, mimo, deepseek)


def claims() -> list[Claim]:
    return [claim for family in FAMILIES for claim in family()]


def table() -> str:
    """Markdown."""
    lines = ["| model | claim | published | ours | conditions and reasons |", "|---|---|---|---|---|"]
    for claim in claims():
        lines.append(f"| {claim.source} | {claim.claim} | {claim.published} | {claim.ours} | {claim.reason} |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> Outcome:
    print(table())
    return Outcome([asdict(claim) for claim in claims()])
