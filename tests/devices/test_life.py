"""Every family lives on a device that is not the CPU as it does on the CPU, bit for bit; what crosses is counted."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hyla.models.config import MoEConfig
from hyla.models.formats.registry import families, family_of
from hyla.train.loop import Trainer

HERE = Path(__file__).parent
FAMILIES = tuple(sorted(family.name for family in families()))
SERVED = ("deepseek_v32", "kimi_linear", "mimo_v2_flash", "nemotron_h", "qwen3_next")
"""Families that are served in every run, together with every kind of mixer and of cache but lightning's; the others by
`make test-devices`."""
OTHERS = tuple(family for family in FAMILIES if family not in SERVED)
COMPUTING = ("start values", "training", "cached")
SERVING = ("drafts off", "drafts lookup", "drafts mtp", "drafts draft", "spill", "new weights")


@cache
def lives(half: str, names: tuple[str, ...]) -> dict[str, dict]:
    """By family, from two processes of their own side by side (the device, once registered, stays)."""
    commands = [[sys.executable, "life.py", half, *names[part::2]] for part in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    found = {}
    for process in [subprocess.Popen(command, cwd=HERE, **pipes) for command in commands]:
        out, err = process.communicate(timeout=3000)
        assert process.returncode == 0, err[-2000:]
        found |= {life["family"]: life for life in map(json.loads, out.splitlines())}
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", COMPUTING)
def test_a_family_computes_with_the_cpu_s_bits(family, part):
    outcome = lives("computing", FAMILIES)[family]["equal"][part]
    assert outcome is True, outcome


def check_served(family, part, names):
    outcome = lives("serving", names)[family]["equal"][part]
    assert outcome is True or (outcome is None and part == "drafts mtp" and not family_of(family).tiny.mtp), outcome


@pytest.mark.parametrize("family", SERVED)
@pytest.mark.parametrize("part", SERVING)
def test_a_family_is_served_with_the_cpu_s_bits(family, part):
    check_served(family, part, SERVED)


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("part", SERVING)
def test_every_family_is_served_with_the_cpu_s_bits(family, part):
    check_served(family, part, OTHERS)


CHOSEN_TOKENS = 24
"""Of three sampled answers of eight tokens each (`life.answers`), every one with log-probabilities."""

PER_TOKEN = {
    "copy to host engine/sampling/choosing.py:_kept": 1,
    "tolist engine/sampling/sampler.py:logprobs_of": 3,
    "tolist engine/sampling/sampler.py:_ranks": 1,
    "aten::nonzero engine/sampling/sampler.py:most_likely": 1,
}
"""What a sampled token with log-probabilities brings to the host, by place. These numbers may only fall."""

PER_MIXTURE = {"aten::bincount ops/moe/groups.py:group_rows": 1, "tolist ops/moe/groups.py:group_rows": 1}
"""What a layer with experts does in a step: the counts of its rows by expert decide about shapes."""

BLOCK_ENDS = "aten::index ops/kda/pytorch.py:_close_block"
"""Only where a row ends a block of 16."""


def experts_of(family: str) -> list[int]:
    """Experts of each layer that has some."""
    modules = [sublayer.module for sublayer in family_of(family).tiny.sublayers]
    return [module.num_experts for module in modules if isinstance(module, MoEConfig)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoded_row_brings_nothing_to_the_host_but_the_counts_of_the_experts(family):
    experts = experts_of(family)
    copies, copied_bytes, waits, places = lives("computing", FAMILIES)[family]["traffic"]["cached"]
    assert copies <= len(experts) and copied_bytes <= 8 * sum(experts)
    assert waits - places.get(BLOCK_ENDS, 0) <= len(experts)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_brings_its_losses_and_norm_and_the_counts_of_the_experts(family):
    experts = experts_of(family)
    copies, copied_bytes, waits, _ = lives("computing", FAMILIES)[family]["traffic"]["training"]
    figures = 8 * (len(Trainer.names) + 1)  # float64, in one copy
    assert copies <= 1 + len(experts) and copied_bytes <= figures + 8 * sum(experts) and waits <= len(experts)


@pytest.mark.parametrize("family", SERVED)
def test_a_served_token_crosses_to_the_host_where_it_is_known_to(family):
    *_, places = lives("serving", SERVED)[family]["traffic"]["drafts off"]
    unknown = set(places) - set(PER_TOKEN) - set(PER_MIXTURE) - {BLOCK_ENDS}
    assert {place for place in unknown if "portable.py" not in place} == set()
    for place, each in PER_TOKEN.items():
        assert places.get(place, 0) <= each * CHOSEN_TOKENS, place
