"""Cache bytes by arithmetic against what the caches really allocate."""

import pytest
import torch

from hyla.caches import Cache
from hyla.caches.storage import page_bytes, slot_bytes, windows_of
from hyla.cost.memory import mixer_memory, model_memory
from hyla.cost.parameters import distinct
from hyla.models.formats.presets import find_preset, presets
from hyla.models.formats.registry import families
from hyla.models.stack import cache_specs_of
from hyla.models.state import cast
from hyla.models.summary import footprint
from hyla.models.trunk import Model

PAGES, SLOTS = 5, 3


def check(config, dtype):
    size = dtype.itemsize
    different = tuple(distinct(config.sublayers))
    with torch.device("meta"):
        model = cast(Model(config.model_copy(update={"sublayers": different, "mtp": ()})), dtype)
    for sublayer, module in zip(different, model.sublayers, strict=True):
        found, kept = mixer_memory(sublayer, size), footprint(module)
        assert found.kv_bytes_per_token == kept.kv_bytes_per_token
        assert found.published_bytes(10**9) == kept.kv_bytes_per_token * 10**9 + (
            kept.window_bytes + kept.published_state_bytes + kept.published_conv_bytes
        )
        specs = cache_specs_of([module])
        (window,) = windows_of(specs) or (None,)
        assert (found.page_bytes, found.slot_bytes) == (page_bytes(specs), slot_bytes(specs))
        assert found.window_page_bytes == (page_bytes(specs, window) if window else 0)


@pytest.mark.parametrize("name", presets())
def test_every_published_size_keeps_what_its_cache_specs_say(name):
    check(find_preset(name)[1].preset(name), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_real_cache_has_the_bytes_of_the_arithmetic(family, dtype):
    config = family.tiny
    check(config, dtype)
    with torch.device("meta"):
        specs = cast(Model(config), dtype).cache_specs()
    cache = Cache(specs, num_pages=PAGES, num_slots=SLOTS)
    found = model_memory(config, dtype.itemsize)
    # One null page of each kind and one null slot come on top.
    pages = found.page_bytes + found.window_page_bytes
    assert cache.nbytes == (PAGES + 1) * pages + (SLOTS + 1) * found.slot_bytes
    assert found.resident_bytes(100) == 2 * pages + found.slot_bytes


def test_a_window_stops_growing_in_the_published_count_and_in_the_pages():
    memory = model_memory(find_preset("MiMo-V2-Flash")[1].preset("MiMo-V2-Flash"))
    grown = memory.published_bytes(2**20) - memory.published_bytes(2**19)
    assert grown == memory.kv_bytes_per_token * 2**19 == 23040 * 2**19
    assert memory.resident_bytes(2**20) - memory.resident_bytes(2**19) == grown
    assert memory.resident_bytes(2**20) < 1.01 * memory.published_bytes(2**20)
