"""Tables of docs/cost.md."""

from hyla.cost import DEVICES, Split, find_target, rank_bytes, weight_bytes

SPLITS = (
    ("DeepSeek-V3.2", Split(tensor=8, pipeline=2)),
    ("DeepSeek-V3.2", Split(data=16)),
    ("MiMo-V2.5-Pro", Split(tensor=8, pipeline=2)),
    ("MiMo-V2.5-Pro", Split(tensor=4, context=4)),
    ("Ling-2.5-1T", Split(tensor=8, pipeline=2)),
    ("Ling-2.5-1T", Split(tensor=8, data=2)),
    ("Ling-2.5-1T", Split(tensor=8, context=2)),
)
RANK_CONTEXT = 1 << 17


def rank_table() -> str:
    """Markdown: bytes of the heaviest rank, fp8 weights, one sequence of 128k."""
    lines = [
        "| model | tensor x pipeline x context x data | ranks | weights, all | a rank | KV of a sequence | state |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, split in SPLITS:
        config = find_target(name).config
        rank = rank_bytes(config, split, context_tokens=RANK_CONTEXT, weights="fp8")
        ways = f"{split.tensor} x {split.pipeline} x {split.context} x {split.data}"
        whole = f"{weight_bytes(config, 'fp8') / 1e9:,.0f} GB"
        sizes = (rank.kv_bytes_per_sequence, rank.state_bytes_per_sequence)
        kept = [f"{size / 1e6:,.0f} MB" for size in sizes]
        cells = [name, ways, str(split.num_ranks), whole, f"{rank.weight_bytes / 1e9:,.1f} GB", *kept]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def device_table() -> str:
    """Markdown."""
    lines = [
        "| device | bf16, TFLOP/s | fp8 | fp32 | memory, GB | bandwidth, GB/s | link, GB/s | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for device in DEVICES.values():
        peaks = [device.peak_flops.get(dtype) for dtype in ("bf16", "fp8", "fp32")]
        rates = [f"{peak / 1e12:,g}" if peak else "-" for peak in peaks]
        sizes = (device.memory_bytes, device.bytes_per_second, device.link_bytes_per_second)
        cells = [device.name, *rates, *(f"{size / 1e9:,.0f}" for size in sizes), device.source]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
