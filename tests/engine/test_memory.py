import pytest
import torch

from hyla.caches import Cache
from hyla.engine.memory import Demand, available_bytes, default_budget, plan_memory
from hyla.errors import CapacityError
from hyla.layers.protocol import CacheSpec, TensorSpec

# 1,280 bytes a page and 4,000 a slot.
SPECS = (
    CacheSpec(page_tensors=(TensorSpec("k", (64, 5), torch.float32, "kv"),)),
    CacheSpec(slot_tensors=(TensorSpec("anchor", (10, 100), torch.float32, "anchor"),)),
)


def plan(specs=SPECS, memory=None, available=1 << 30, max_num_sequences=4, **fields):
    demand = Demand(max_num_sequences=max_num_sequences, context_len=640, **fields)
    return plan_memory(specs, demand, budget=default_budget(available) if memory is None else memory)


def test_plenty_of_memory_gives_what_can_be_used_and_no_more():
    assert (plan().num_pages, plan().num_slots, plan().notes) == (40, 4, ())


def test_a_small_budget_lowers_sequences_and_says_so():
    lowered = plan(memory=2 * 5280 + 11_000)
    assert (lowered.num_slots, lowered.num_pages) == (2, 6)
    assert "max_num_sequences lowered from 4 to 2" in lowered.notes[0]
    assert "384 tokens, not the context's 640" in lowered.notes[1]


@pytest.mark.parametrize("memory", [2 * 5280, 30_000, 77_777, 1 << 20])
def test_a_plan_with_its_null_units_stays_within_the_budget(memory):
    bought = plan(memory=memory)
    assert (bought.num_pages + 1) * 1280 + (bought.num_slots + 1) * 4000 <= memory


def test_a_budget_for_nothing_says_what_is_needed():
    with pytest.raises(CapacityError, match=r"at least 10,560 bytes .* budget is 10,559"):
        plan(memory=10_559)


def test_the_default_budget_is_a_share_of_what_is_free():
    assert plan(available=4 * 20_000).num_slots < 4
    with pytest.raises(CapacityError):
        plan(available=1000)


def test_a_device_of_its_own_gives_most_of_what_steps_leave():
    assert default_budget(100 << 30) == 4 << 30
    assert default_budget(100 << 30, 10 << 30) == int(0.9 * (90 << 30))
    assert default_budget(100 << 30, 10 << 30, has_draft_model=True) == int(0.45 * (90 << 30))
    with pytest.raises(CapacityError, match=r"needs up to 1,000 bytes .* and 900 are free .* lower max_batch_tokens"):
        default_budget(900, 1000)


def test_models_without_pages_or_slots_are_planned_too():
    only_pages = plan(SPECS[:1], memory=4000, max_num_sequences=3)
    assert (only_pages.num_slots, only_pages.num_pages) == (3, 2)
    only_slots = plan(SPECS[1:], memory=9000, max_num_sequences=3)
    assert (only_slots.num_slots, only_slots.num_pages) == (1, 10)


def test_a_prefix_cache_gets_snapshots_and_window_pages_within_the_budget():
    windowed = CacheSpec(page_tensors=(TensorSpec("k", (64, 3), torch.float32, "kv"),), window=100)
    for memory in (150_000, 1 << 20):
        bought = plan((*SPECS, windowed), memory=memory, keeps_prefixes=True, prefill_chunk=64)
        assert bought.num_snapshots > 0 and bought.num_window_pages[100] >= bought.num_slots * 4
        cache = Cache(
            (*SPECS, windowed),
            num_pages=bought.num_pages,
            num_slots=bought.num_slots,
            num_snapshots=bought.num_snapshots,
            num_window_pages=bought.num_window_pages,
        )
        assert cache.nbytes <= memory


def test_free_memory_is_measured():
    assert available_bytes(torch.device("cpu")) > 1 << 20
