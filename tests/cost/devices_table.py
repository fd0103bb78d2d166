"""The table of devices as docs/cost.md has it."""

from hyla.cost import DEVICES


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
        lines.append(
            f"| {' | '.join([device.name, *rates, *(f'{size / 1e9:,.0f}' for size in sizes), device.source])} |"
        )
    return "\n".join(lines)
