import random
import statistics
from itertools import pairwise

import pytest

from hyla.errors import ConfigError
from hyla.loadtest import Workload, make_plan
from hyla.loadtest.plan import Lengths


def plan(**fields):
    return make_plan(Workload(**fields))[1]


@pytest.mark.parametrize("kind,deviation", [("constant", 0), ("uniform", 58), ("exponential", 200), ("lognormal", 107)])
def test_lengths_have_the_mean_and_the_spread_of_their_distribution(kind, deviation):
    source = random.Random(4)
    drawn = [Lengths(kind=kind, mean=200).draw(source) for _ in range(20_000)]
    assert statistics.mean(drawn) == pytest.approx(200, rel=0.03)
    assert statistics.pstdev(drawn) == pytest.approx(deviation, rel=0.05)
    assert min(drawn) >= 1


def test_lengths_are_cut_and_wrong_ones_refused():
    source = random.Random(4)
    assert max(Lengths(kind="exponential", mean=50, longest=60).draw(source) for _ in range(500)) == 60
    with pytest.raises(ConfigError, match="at most 1"):
        Lengths(kind="uniform", spread=1.5)
    with pytest.raises(ConfigError, match="rate"):
        Workload(rate=0)


def test_poisson_arrivals_have_the_rate_and_its_randomness():
    times = [own.at_seconds for own in plan(num_requests=5000, arrival="poisson", rate=20.0, prompt={"mean": 1})]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == 0 and times == sorted(times)
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert statistics.pstdev(gaps) == pytest.approx(1 / 20, rel=0.08), "of an exponential: as large as its mean"


def test_constant_arrivals_are_evenly_spaced_and_a_loop_has_none():
    assert [own.at_seconds for own in plan(num_requests=4, arrival="constant", rate=2.0)] == [0, 0.5, 1, 1.5]
    assert {own.at_seconds for own in plan(num_requests=4)} == {0}


def test_the_same_seed_is_the_same_plan_and_arrivals_do_not_move_contents():
    fields = {"num_requests": 9, "prompt": {"kind": "lognormal", "mean": 30}, "prefix_share": 0.3}
    assert plan(**fields, seed=5) == plan(**fields, seed=5) != plan(**fields, seed=6)
    prompts = [own.prompt for own in plan(**fields, seed=5)]
    assert [own.prompt for own in plan(**fields, seed=5, arrival="poisson")] == prompts


def test_prompts_share_what_they_should_and_no_more():
    planned = plan(num_requests=40, prompt={"mean": 100}, prefix_share=0.6, num_prefixes=3, vocab_size=5000)
    beginnings = {own.prompt[: own.num_shared] for own in planned}
    assert all(own.num_shared == 60 and len(own.prompt) == 100 for own in planned)
    assert len(beginnings) == 3 and len({own.prompt[60:] for own in planned}) == 40
    assert all(0 <= token < 5000 for own in planned for token in own.prompt)
    alone = plan(num_requests=40, prompt={"mean": 100})
    assert len({" ".join(own.prompt.split()[:5]) for own in alone}) == 40
    whole = plan(num_requests=5, prompt={"mean": 30}, prefix_share=1.0)
    assert len({own.prompt for own in whole}) == 1


def test_warm_up_is_apart():
    warmup, requests = make_plan(Workload(num_requests=5, num_warmup=3))
    assert (len(warmup), len(requests)) == (3, 5)
