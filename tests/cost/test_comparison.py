"""The full-attention twin, and where two curves cross."""

import pytest

from hyla.cost.comparison import LONGEST_CONTEXT, comparison, crossover, crossovers
from hyla.cost.figures import Question
from hyla.cost.memory import model_memory
from hyla.cost.parameters import count_parameters
from hyla.cost.target import Target, find_target
from hyla.cost.twin import full_attention_twin
from hyla.errors import ConfigError
from hyla.models.config import LightningConfig, SublayerConfig
from hyla.models.formats.presets import presets


def test_a_twin_differs_in_its_mixers_only():
    config = find_target("kimi-linear-48b-a3b").config
    twin = full_attention_twin(config)
    assert {mixer.kind for mixer in twin.mixers} == {"mla"} and len(twin.mixers) == 27
    assert [sub.norm for sub in twin.sublayers] == [sub.norm for sub in config.sublayers]
    changed = [one.module.kind for one, other in zip(config.sublayers, twin.sublayers) if one != other]
    assert changed == ["kda"] * 20
    assert count_parameters(twin).by_kind["moe"] == count_parameters(config).by_kind["moe"]


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_a_twin_that_keeps_at_least_as_much(name):
    config = find_target(name).config
    twin = full_attention_twin(config)
    assert all(mixer.kind == "mla" or mixer.window is None for mixer in twin.mixers)
    assert full_attention_twin(twin) == twin
    if name not in ("DeepSeek-V3.2", "DeepSeek-V3.2-Exp"):  # whose index keys come on top of MLA's
        assert model_memory(twin).published_bytes(10**6) >= model_memory(config).published_bytes(10**6)
    else:
        assert twin.mixers[0].kind == "mla" and twin.mixers[0].rope == config.mixers[0].rope


def test_windows_alone_and_no_attention_at_all():
    config = find_target("mimo-v2-flash").config
    windowed = tuple(s for s in config.sublayers if s.module.kind == "softmax" and s.module.window)
    twin = full_attention_twin(config.model_copy(update={"sublayers": windowed}))
    assert twin.mixers[0].window is None and twin.mixers[0].num_kv_heads == 8
    module = LightningConfig(num_heads=2, head_dim=8, slopes="minimax", layer=0, num_layers=1)
    linear = config.model_copy(update={"sublayers": (SublayerConfig(module=module),)})
    with pytest.raises(ConfigError, match="no full-attention layer to build a twin from; its mixers are lightning"):
        full_attention_twin(linear)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (lambda n: 1000.0, lambda n: n, 1001),
        (lambda n: n, lambda n: n, None),
        (lambda n: 0.0, lambda n: n, 1),
        (lambda n: n + 5.0, lambda n: n * n / 100, 105),
        (lambda n: 2.0 * n, lambda n: n, None),
        (lambda n: float(LONGEST_CONTEXT - 1), lambda n: n, LONGEST_CONTEXT),
        # Cheaper, dearer, cheaper for good.
        (lambda n: 5.0 if n < 10 or n > 5000 else 50.0, lambda n: 20.0, 5001),
    ],
)
def test_a_crossover_is_the_first_context_from_which_it_stays_cheaper(first, second, expected):
    assert crossover(first, second) == expected


def test_a_comparison_says_the_ratio_and_the_crossover_of_each_figure():
    hybrid = find_target("kimi-linear-48b-a3b")
    twin = Target("twin", full_attention_twin(hybrid.config))
    compared = comparison(hybrid, twin, Question(contexts=(4096, 1 << 20)))
    assert (compared["first"], compared["second"]) == ("Kimi-Linear-48B-A3B", "twin")
    short, long = compared["second_over_first"]
    assert short["context_tokens"] == 4096 and short["cache_bytes"] < long["cache_bytes"] < 27 / 7
    begins = compared["first_is_cheaper_from_tokens"]
    kept = [model_memory(target.config).published_bytes for target in (hybrid, twin)]
    assert kept[0](begins["memory"]) < kept[1](begins["memory"])
    assert kept[0](begins["memory"] - 1) >= kept[1](begins["memory"] - 1)
    assert begins["prefill"] < 4096 and begins["decode"] < 1 << 20
    assert crossovers(twin, hybrid, Question())["memory"] is None
