"""Seconds, batches and prices: the rules that any roofline keeps."""

from dataclasses import replace

import pytest

from hyla.cost.call import Work, decode, prefill
from hyla.cost.device import EFFICIENCIES, Rate
from hyla.cost.devices import DEVICES, find_device
from hyla.cost.memory import model_memory
from hyla.cost.parameters import weight_bytes
from hyla.cost.roofline import USABLE_MEMORY, Serving, work_seconds
from hyla.cost.target import find_target
from hyla.cost.work import step_work
from hyla.errors import ConfigError
from hyla.models.config import MIXER_KINDS

KIMI = find_target("kimi-linear-48b-a3b").config
QWEN = find_target("qwen3-32b").config
H200 = find_device("h200")


def test_every_device_says_where_its_numbers_come_from_and_knows_every_operator():
    for device in DEVICES.values():
        assert device.source and device.memory_bytes > 1e9
        assert device.peak("bf16") >= device.peak("fp32") > 0
        for operator in EFFICIENCIES:
            rate = device.rate(operator, "softmax", "bf16", is_decode=True)
            assert 0 < rate.flops_per_second <= device.peak("bf16")
            assert 0 < rate.bytes_per_second <= device.bytes_per_second
    config = find_target("deepseek-v3.2").config
    used = {work.operator for work in step_work(config, prefill(100))}
    assert used <= set(EFFICIENCIES) and "indexer" in used
    assert {"gated_delta", "kda", "gla", "lightning", "ssd", "linear"} <= set(EFFICIENCIES) and len(MIXER_KINDS) == 9


def test_an_operator_takes_as_long_as_the_slower_of_its_flops_and_bytes():
    work = Work("projection", "mlp", flops=1e12, weight_bytes=1e6)
    rate = H200.rate("projection", "mlp", "bf16", is_decode=False)
    assert work_seconds(work, H200, "bf16") == (H200.overhead_seconds + 1e12 / rate.flops_per_second, "compute")
    work = Work("projection", "mlp", flops=1e6, weight_bytes=1e9, cache_bytes=2e9)
    assert work_seconds(work, H200, "bf16") == (H200.overhead_seconds + 3e9 / rate.bytes_per_second, "cache")
    assert work_seconds(Work("embedding", "embedding"), H200, "bf16") == (H200.overhead_seconds, "overhead")


def test_fp8_weights_are_multiplied_faster_only_where_the_device_can():
    work = Work("projection", "mlp", flops=1e15)
    a100 = find_device("a100")
    assert work_seconds(work, H200, "fp8")[0] < 0.51 * work_seconds(work, H200, "bf16")[0]
    assert work_seconds(work, a100, "fp8") == work_seconds(work, a100, "bf16")
    attention = Work("attention", "softmax", flops=1e15)
    assert work_seconds(attention, H200, "fp8") == work_seconds(attention, H200, "bf16")


def test_a_measured_rate_is_found_by_its_kind_and_phase_and_can_add_up():
    rates = {
        "attention/mla/decode": Rate(1e9, 1e9, 0.0, adds_up=True),
        "attention/decode": Rate(2e9, 2e9, 0.0),
        "head": Rate(3e9, 3e9, 0.0),
        "projection/fp32/prefill": Rate(4e9, 4e9, 0.0),
    }
    device = replace(H200, rates=rates)
    work = Work("attention", "mla", flops=1e9, cache_bytes=1e9, is_decode=True)
    assert work_seconds(work, device, "bf16")[0] == 2.0
    assert work_seconds(replace(work, kind="softmax"), device, "bf16")[0] == 0.5
    assert work_seconds(replace(work, operator="head"), device, "bf16")[0] == pytest.approx(1 / 3)
    wide = Work("projection", "mla", flops=4e9, is_fp32=True)
    assert work_seconds(wide, device, "bf16")[0] == 1.0
    assert work_seconds(replace(wide, is_fp32=False), device, "bf16")[0] < 1e-2


def test_the_largest_batch_is_what_fits_beside_the_weights():
    serving = Serving(KIMI, H200, 2, most_sequences=10**9)
    context = 100_000
    free = 2 * USABLE_MEMORY * H200.memory_bytes - weight_bytes(KIMI, "bf16")
    batch = serving.largest_batch(context)
    assert batch * serving.cache_bytes(context) <= free < (batch + 1) * serving.cache_bytes(context)
    assert serving.cache_bytes(context) == model_memory(KIMI).published_bytes(context)
    assert Serving(KIMI, H200, 2).largest_batch(1) == 1024
    ours = Serving(KIMI, H200, 2, arithmetic="hyla")
    assert ours.cache_bytes(context) == model_memory(KIMI).resident_bytes(context)


def test_a_model_that_does_not_fit_has_no_batch_and_no_price():
    serving = Serving(KIMI, find_device("rtx4090"))
    assert serving.devices_needed == 5
    assert serving.largest_batch(1000) == 0 and serving.price_per_million_tokens(1000, 1.0) is None
    assert serving.price_per_task(10, 10, 1.0) is None


def test_times_grow_with_the_context_and_shrink_with_devices():
    alone, four = Serving(QWEN, H200), Serving(QWEN, H200, 4)
    assert alone.first_token_seconds(1000) < alone.first_token_seconds(100_000)
    assert alone.token_seconds(1000) < alone.token_seconds(100_000) < alone.token_seconds(100_000, 8)
    assert four.first_token_seconds(100_000) < 0.3 * alone.first_token_seconds(100_000)
    assert four.token_seconds(100_000) > alone.token_seconds(100_000) / 4  # links and overheads stay


def test_a_large_batch_of_experts_pays_for_its_own_rows_only():
    few, many = (Serving(KIMI, H200, 8).time(decode(1000, count)) for count in (4, 512))
    assert few.by_bound["links"] == pytest.approx(54 * 10e-6, rel=0.2)
    assert many.by_bound["links"] < 54 * (10e-6 + 2 * 512 * 2304 * 2 / H200.link_bytes_per_second)
    dense = Serving(QWEN, H200, 8).time(decode(1000, 512))
    assert dense.by_bound["links"] > 128 * 10e-6


def test_prices_follow_hours_and_devices():
    serving = Serving(KIMI, H200, 2)
    price = serving.price_per_million_tokens(10_000, 3.0)
    batch = serving.largest_batch(10_000)
    assert price == pytest.approx(1e6 * 2 * 3.0 / 3600 / serving.tokens_per_second(10_000, batch))
    assert serving.price_per_million_tokens(10_000, 6.0) == pytest.approx(2 * price)
    short, long = (serving.price_per_task(8000, output, 3.0) for output in (100, 10_000))
    assert 0 < short < long


def test_bad_devices_and_prices_are_one_clear_error_each():
    from hyla.cost.roofline import check_price

    with pytest.raises(ConfigError, match=r"unknown device 'h201'; did you mean h20"):
        find_device("h201")
    with pytest.raises(ConfigError, match=r"there are a100, .* and this"):
        find_device("qqqq")
    with pytest.raises(ConfigError, match="0 devices: give at least one"):
        Serving(KIMI, H200, 0)
    for price in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="must be zero or more"):
            check_price(price)
    assert check_price(0.0) == 0.0
