import random

import pytest

from hyla.caches import Cache
from hyla.engine import Request, SamplingParams
from hyla.engine.generation import Generation
from hyla.engine.scheduling.scheduler import Scheduler
from hyla.layers.protocol import CacheSpec


def make(*, num_pages=8, num_slots=4, max_num_sequences=4, prefill_chunk=100, max_batch_tokens=150):
    cache = Cache([CacheSpec()], num_pages=num_pages, num_slots=num_slots)
    return Scheduler(
        cache,
        max_num_sequences=max_num_sequences,
        prefill_chunk=prefill_chunk,
        max_batch_tokens=max_batch_tokens,
    )


def generation(length, *, arrival=0, max_tokens=50):
    request = Request(f"r{arrival}", tuple(range(length)), SamplingParams(max_tokens=max_tokens, seed=0))
    return Generation(request, 0, arrival=arrival, eos_ids=(), tokenizer=None)


def add(scheduler, *lengths, **fields):
    generations = [generation(length, arrival=n, **fields) for n, length in enumerate(lengths)]
    for one in generations:
        scheduler.add(one)
    return generations


def run(scheduler):
    """One step without a model: every finished prefill or decode gets token 7. Returns {arrival: tokens computed}."""
    parts = scheduler.plan()
    scheduler.cache.batch([(part.generation.sequence, part.num_known) for part in parts])
    done = {}
    for one, count in [(part.generation, part.num_known) for part in parts]:
        scheduler.cache.commit(one.sequence, count)
        done[one.arrival] = count
        if one.num_pending == 0 and one.accept(7, None).finish_reason:
            scheduler.remove(one)
    return done


def test_prompts_go_in_pieces_that_end_on_the_grid_and_within_the_budget():
    scheduler = make(num_pages=20)
    add(scheduler, 250, 90, 40)
    assert run(scheduler) == {0: 64, 1: 64, 2: 22}
    assert run(scheduler) == {0: 64, 1: 26, 2: 18}
    assert run(scheduler) == {0: 64, 1: 1, 2: 1}
    assert run(scheduler) == {0: 58, 1: 1, 2: 1}
    assert run(scheduler) == {0: 1, 1: 1, 2: 1}


def test_decodes_are_served_before_prompts_when_the_budget_is_short():
    scheduler = make(num_pages=20, max_batch_tokens=2)
    add(scheduler, 1, 1, 30)
    assert run(scheduler) == {0: 1, 1: 1}
    assert run(scheduler) == {0: 1, 1: 1}
    assert len(scheduler.waiting) == 1


def test_no_more_sequences_than_allowed_run():
    scheduler = make(max_num_sequences=2)
    add(scheduler, 5, 5, 5)
    assert run(scheduler) == {0: 5, 1: 5}


def test_a_long_prompt_waits_for_pages_and_is_not_overtaken():
    scheduler = make(num_pages=5)
    add(scheduler, 100, 250, 10)
    assert run(scheduler) == {0: 100}
    assert [one.arrival for one in scheduler.waiting] == [1, 2]


def test_the_youngest_gives_way_when_pages_run_out_and_comes_back_first():
    scheduler = make(num_pages=4, max_batch_tokens=400)
    first, second = add(scheduler, 60, 60, max_tokens=100)
    add_later = generation(10, arrival=2)
    run(scheduler)
    scheduler.add(add_later)
    while scheduler.num_preemptions == 0:
        run(scheduler)
    assert second.sequence is None and first.sequence is not None
    assert [one.arrival for one in scheduler.waiting] == [1, 2]
    assert second.num_pending == len(second.tokens)


def test_removing_a_waiting_and_a_running_generation_frees_everything():
    scheduler = make(max_num_sequences=1)
    first, second = add(scheduler, 70, 5)
    run(scheduler)
    scheduler.remove(second)
    scheduler.remove(first)
    assert not scheduler.has_work and scheduler.plan() == []
    assert scheduler.cache.ledger.pages.free == 8


@pytest.mark.parametrize("seed", range(12))
def test_random_loads_finish_within_every_limit(seed):
    """Whatever arrives and leaves: no step is empty or over budget, memory adds up, and everybody finishes."""
    draw = random.Random(seed)
    num_pages = draw.randint(4, 9)
    scheduler = make(
        num_pages=num_pages,
        num_slots=draw.randint(1, 5),
        max_num_sequences=draw.randint(1, 6),
        prefill_chunk=draw.choice([1, 17, 64, 200]),
        max_batch_tokens=draw.choice([1, 9, 64, 300]),
    )
    unfinished = []
    for n in range(14):
        length = draw.randint(1, num_pages * 64 - 60)
        unfinished.append(generation(length, arrival=n, max_tokens=draw.randint(1, 60)))
    waiting_room = list(unfinished)
    for _ in range(20_000):
        if waiting_room and draw.random() < 0.3:
            scheduler.add(waiting_room.pop(0))
        if draw.random() < 0.02 and scheduler.running:
            victim = draw.choice(scheduler.running)
            scheduler.remove(victim)
            unfinished.remove(victim)
        if not scheduler.has_work:
            if not waiting_room:
                break
            continue
        done = run(scheduler)
        assert done
        assert sum(done.values()) <= max(scheduler.max_batch_tokens, len(done))
        scheduler.cache.ledger.check()
        assert scheduler.cache.ledger.slots.used == len(scheduler.running) <= scheduler.max_num_sequences
        arrivals = [one.arrival for one in scheduler.running]
        assert arrivals == sorted(arrivals)
        assert [one.arrival for one in scheduler.waiting] == sorted(one.arrival for one in scheduler.waiting)
    assert not scheduler.has_work and not waiting_room
    assert all(len(one.tokens) == one.most_tokens for one in unfinished)
    assert scheduler.cache.ledger.pages.free == num_pages
