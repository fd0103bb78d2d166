"""Ten kills of a run of `hyla rl`: the same answers, rewards and weights in the end, bit for bit. `make rl-drills`."""

import pytest
from drills import leftovers
from rl_drills import OF_THE_BATCH, RECIPES, STEPS, disturbed, prepare, ten_kills, undisturbed
from tiny_rl import outcome

SEEDS = {"whole": 1, "LoRA": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_ten_kills_change_no_bit(name, tmp_path, capsys):
    prepare(tmp_path)
    hit = disturbed(tmp_path, name, ten_kills(SEEDS[name]), tmp_path / "killed")
    with capsys.disabled():
        print(f"\n{name}: {len(hit)} kills", *hit, sep="\n  ", flush=True)
    assert len(hit) == 10, "a process had finished before it was killed"
    assert not leftovers(tmp_path / "killed")
    whole = undisturbed(tmp_path, name, tmp_path / "whole")
    found, expected = outcome(tmp_path / "killed", without=OF_THE_BATCH), outcome(whole, without=OF_THE_BATCH)
    lines, samples, files = expected
    assert len(lines["updates"]) == STEPS and len({line["loss"] for line in lines["updates"]}) > STEPS / 2
    assert len(samples) == len(lines["rounds"]) == STEPS / 2
    assert any("model/" in file for file in files) and any("adapter/" in file for file in files) == (name == "LoRA")
    assert found == expected


def test_the_kills_are_of_every_kind_and_in_the_middle_of_things():
    for seed in SEEDS.values():
        kinds = [moment.kind for moment in ten_kills(seed)]
        assert len(kinds) == 10 and set(kinds) == {"rollout", "save", "any"}
    assert ten_kills(SEEDS["whole"]) != ten_kills(SEEDS["LoRA"])
