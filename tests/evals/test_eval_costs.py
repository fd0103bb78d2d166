"""What items took, and what a solved one costs."""

from dataclasses import dataclass

import pytest
from tiny_model import sandwich

from hyla.cost import DEVICES, Serving
from hyla.errors import ConfigError
from hyla.evals.costs import Price, Stopwatch, cost_cells, item_flops, told_costs
from hyla.models.config import MLPConfig, ModelConfig, SublayerConfig

CONFIG = sandwich("kda", 260)


@dataclass(frozen=True)
class Item:
    tokens: int = 1000
    cached_tokens: int = 300
    answer_tokens: int = 11
    seconds: float = 7.2
    flops: float = 2e9


def test_flops_are_those_of_every_token_that_is_computed():
    mlp = SublayerConfig(module=MLPConfig(intermediate_dim=20))
    plain = ModelConfig(family="hyla", vocab_size=50, hidden_dim=24, sublayers=(mlp, mlp), max_len=512)
    token, head = 2 * 2 * 3 * 24 * 20, 2 * 24 * 50

    assert item_flops(plain, 100, 0, 1) == 100 * token + head
    assert item_flops(plain, 100, 60, 1) == 40 * token + head
    assert item_flops(plain, 100, 60, 5) == 44 * token + 5 * head
    assert item_flops(plain, 100, 0, 0, num_scored=7) == 100 * token + 7 * head
    # Attention: decoded tokens at their mean context are all of them together.
    one_by_one = sum(item_flops(CONFIG, 200 + n, 199 + n, 1) for n in range(5))
    assert item_flops(CONFIG, 200, 199, 1) + item_flops(CONFIG, 200, 0, 5) - item_flops(CONFIG, 200, 0, 1) == (
        pytest.approx(one_by_one, rel=1e-6)
    )


def test_a_stopped_watch_does_not_run():
    now = [10.0]
    watch = Stopwatch(lambda: now[0])
    now[0] = 12.0
    with watch.stopped():
        now[0] = 20.0
    now[0] = 21.0
    assert watch.lap() == 3.0
    now[0] = 25.0
    assert watch.lap() == 4.0


def test_a_solved_item_costs_what_all_took():
    items = [Item(), Item(), Item(tokens=400, cached_tokens=0)]

    assert cost_cells(items, 2) == ["1,200", "300", "16", "10.80", "3.00e+09"]
    assert cost_cells(items, 2, Price(100.0, CONFIG))[-1] == "0.3"
    assert set(cost_cells(items, 0)) == {"-"}
    assert told_costs(items) == (
        "In all 2,400 tokens were read, 600 of them from the prefix cache, and 33 written, in 21.6 seconds, with "
        "6.00e+09 FLOPs."
    )


def test_a_price_is_that_of_seconds_or_of_a_device():
    assert Price(3.0, CONFIG)(Item()) == pytest.approx(3.0 * 7.2 / 3600)
    device = DEVICES["h200"]
    wanted = Serving(CONFIG, device, weights="fp32").price_per_task(1000, 11, 3.0)
    priced = Price(3.0, CONFIG, device, "fp32")
    assert priced(Item()) == wanted and "3 an hour of one h200" in priced.told
    with pytest.raises(ConfigError, match="must be zero or more"):
        Price(-1.0, CONFIG)
