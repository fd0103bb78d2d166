"""Bytes of one rank: parts of the whole, copies where they must be, and splits that cannot be."""

from itertools import pairwise

import pytest

from hyla.cost.memory import model_memory
from hyla.cost.parallel import Split, check_split, rank_bytes, stage_bounds
from hyla.cost.parameters import weight_bytes
from hyla.cost.target import find_target
from hyla.errors import ConfigError
from hyla.models.formats.presets import presets

CONTEXT = 100_000
TRILLION = ("Ling-2.5-1T", "MiMo-V2.5-Pro", "DeepSeek-V3.2")


def config_of(name):
    return find_target(name).config


@pytest.mark.parametrize("name", presets())
def test_a_single_rank_holds_everything(name):
    config = config_of(name)
    rank = rank_bytes(config, Split(), context_tokens=CONTEXT)
    final_norm = 2 * config.hidden_dim
    assert rank.weight_bytes + final_norm == pytest.approx(weight_bytes(config, "bf16"), rel=1e-9)
    kept = rank.kv_bytes_per_sequence + rank.state_bytes_per_sequence
    assert kept == pytest.approx(model_memory(config).published_bytes(CONTEXT))


@pytest.mark.parametrize("name", TRILLION)
def test_trillions_of_parameters_fit_where_they_are_divided(name):
    config = config_of(name)
    split = Split(tensor=8, pipeline=4)
    rank = rank_bytes(config, split, context_tokens=CONTEXT, num_sequences=4, weights="fp8")
    assert split.num_ranks == 32
    even = weight_bytes(config, "fp8") / 32
    assert even < rank.weight_bytes < 1.45 * even
    assert rank.total_bytes == rank.weight_bytes + 4 * (rank.kv_bytes_per_sequence + rank.state_bytes_per_sequence)


def test_heads_are_divided_and_what_has_no_heads_is_copied():
    kimi, qwen = config_of("kimi-linear-48b-a3b"), config_of("qwen3-next-80b-a3b")
    one, eight = (rank_bytes(kimi, Split(tensor=n), context_tokens=CONTEXT) for n in (1, 8))
    assert eight.kv_bytes_per_sequence == one.kv_bytes_per_sequence  # the latent serves all heads
    assert eight.state_bytes_per_sequence == one.state_bytes_per_sequence / 8
    one, two, eight = (rank_bytes(qwen, Split(tensor=n), context_tokens=CONTEXT) for n in (1, 2, 8))
    assert two.kv_bytes_per_sequence == one.kv_bytes_per_sequence / 2
    assert eight.kv_bytes_per_sequence == two.kv_bytes_per_sequence  # two key heads, copied four times


def test_positions_are_divided_and_states_copied_by_context_parallel_ranks():
    config = config_of("qwen3-next-80b-a3b")
    one, four = (rank_bytes(config, Split(context=n), context_tokens=CONTEXT) for n in (1, 4))
    assert four.kv_bytes_per_sequence == one.kv_bytes_per_sequence / 4
    assert four.state_bytes_per_sequence == one.state_bytes_per_sequence


def test_experts_go_to_as_many_ranks_as_are_asked_for():
    config = config_of("kimi-linear-48b-a3b")
    everywhere, copied, some = (
        rank_bytes(config, Split(tensor=4, data=2, expert=n), context_tokens=1, num_sequences=5) for n in (None, 1, 4)
    )
    experts = 26 * 256 * 3 * 2304 * 1024 * 2
    assert copied.weight_bytes - everywhere.weight_bytes == pytest.approx(experts * (1 - 1 / 8))
    assert some.weight_bytes - everywhere.weight_bytes == pytest.approx(experts * (1 / 4 - 1 / 8))
    assert everywhere.num_sequences == 3  # of five, on the busier of two data-parallel ranks


@pytest.mark.parametrize("stages", [1, 2, 5, 16, 54])
def test_stages_cover_the_stack_and_weigh_about_the_same(stages):
    config = config_of("kimi-linear-48b-a3b")
    bounds = stage_bounds(config, stages)
    assert len(bounds) == stages and bounds[0][0] == 0 and bounds[-1][1] == 54
    assert all(last == first for (_, last), (first, _) in pairwise(bounds))
    assert all(last > first for first, last in bounds)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("Kimi-Linear-48B-A3B", Split(tensor=3), "tensor = 3 does not divide num_heads = 32 of kda"),
        ("Qwen3-Next-80B-A3B", Split(tensor=0), "tensor = 0 ranks: give at least one"),
        ("MiMo-V2-Flash", Split(tensor=16, data=2, expert=64), "must divide tensor x context x data = 32"),
        ("Kimi-Linear-48B-A3B", Split(data=3, tensor=2, expert=6), "expert = 6 does not divide the 256 experts"),
        ("Qwen3-32B", Split(data=2, expert=2), "the model has no routed experts"),
        ("Qwen3-0.6B", Split(pipeline=57), "pipeline = 57 stages for 56 sublayers"),
        ("Qwen3-14B", Split(tensor=5), "tensor = 5 neither divides nor is a multiple of num_kv_heads = 8"),
        ("Qwen3.5-27B", Split(tensor=6), "tensor = 6 does not divide num_key_heads = 16 of gated_delta"),
    ],
)
def test_an_impossible_split_is_one_clear_error(name, split, message):
    with pytest.raises(ConfigError, match=message):
        check_split(config_of(name), split)
