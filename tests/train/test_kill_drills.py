"""Processes that are killed at any moment: the loss curve goes on bit for bit, and the model is the same."""

import pytest
from drills import RECIPES, Drill, Moment, curve, disturbed, drills, finished, prepare, recipe_of, weights

NUM_STEPS = 24
QUICK = (
    Drill("fp32 KDA", (Moment("save", 8),)),
    Drill("bf16 in passes with EMA", (Moment("step", 13),)),
    Drill("DPO", (Moment("save", 4),)),
)
"""One kill each, in the middle of a save or between two."""
ALL = drills(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("drills")
    prepare(place)
    return place


@pytest.fixture(scope="module")
def whole(folder):
    """Undisturbed runs by recipe, made when they are first needed."""
    made = {}

    def of(name):
        if name not in made:
            run = folder / "whole" / str(len(made))
            run.parent.mkdir(exist_ok=True)
            made[name] = finished(recipe_of(folder, name), run)
        return made[name]

    return of


def assert_equal_after_kills(folder, whole, drill, run):
    hit = disturbed(folder, drill, run)
    assert hit, "no process was killed before it had finished"
    expected = whole(drill.recipe)
    assert curve(run) == curve(expected) and len(curve(run)) >= NUM_STEPS
    found, kept = weights(run), weights(expected)
    assert found.keys() == kept.keys() and len(found) >= 3
    for name in kept:
        assert found[name] == kept[name], name


@pytest.mark.parametrize("drill", QUICK, ids=lambda drill: drill.recipe)
def test_a_killed_process_goes_on_bit_for_bit(folder, whole, drill, tmp_path):
    assert_equal_after_kills(folder, whole, drill, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ALL)), ids=lambda number: f"{number + 1}, {ALL[number].recipe}")
def test_twenty_drills(folder, whole, number, tmp_path):
    assert_equal_after_kills(folder, whole, ALL[number], tmp_path / "run")


def test_the_twenty_drills_hit_every_recipe_and_every_moment():
    assert {drill.recipe for drill in ALL} == set(RECIPES)
    moments = [moment.kind for drill in ALL for moment in drill.moments]
    assert set(moments) == {"step", "save", "any", "preparation", "model"} and moments.count("save") >= 20
