"""The report of a plan of synthetic tasks: its numbers, its marks, its plots."""

import pytest

from hyla.errors import CheckpointError
from hyla.evals.pages import share
from hyla.evals.synthetic.attempts import known_runs
from hyla.evals.synthetic.plan import Plan
from hyla.evals.synthetic.plots import draw
from hyla.evals.synthetic.report import by_length, markdown, mean_curve, rows
from hyla.evals.synthetic.results import Result, Score, read_result
from hyla.train.intervals import mean_interval

RATES = (1e-4, 1e-3, 1e-2)


def plan():
    return Plan(
        tasks=[{"kind": "palindrome", "length": n, "symbols": 4} for n in (16, 32)]
        + [{"kind": "copy", "length": 16, "symbols": 4}],
        arms={"kda": ["kda"], "mamba2": ["mamba2"]},
        rates=RATES,
        seeds=(0, 1, 2),
        steps=400,
    )


def result(run):
    """KDA is right at 0.9 and more, best at the middle rate; Mamba-2 at chance, best at the largest."""
    if run.layers == ("kda",):
        loss, last = {1e-4: 2.0, 1e-3: 0.3, 1e-2: 0.9}[run.rate], 0.97 - 0.02 * run.seed
    else:
        loss, last = 3.0 - 10 * run.rate, 0.25
    curve = [Score(200, 1000, last / 2, 0.0, loss + 1), Score(400, 2000, last, 0.1, loss)]
    return Result(curve, {}, 1000, 1.0)


def found():
    request = plan()
    return request, rows(request, {run.name: result(run) for run in known_runs(request, {})})


def test_means_of_seeds_have_their_intervals():
    # Student's t of two degrees of freedom is 4.303; the standard deviation of these is 0.02.
    low, high = mean_interval([0.93, 0.95, 0.97])

    assert (low + high) / 2 == pytest.approx(0.95) and high - 0.95 == pytest.approx(4.303 * 0.02 / 3**0.5, abs=1e-6)
    assert mean_interval([0.9]) is None
    assert share([0.93, 0.95, 0.97]) == "95.0% [90.0%, 100.0%]" and share([0.5]) == "50.0%"
    assert share([0.99, 0.999, 0.98]).endswith("100.0%]"), "no share is over all"


def test_the_page_has_a_row_for_each_task_and_arm_and_marks_the_edge():
    request, its = found()
    page = markdown(request, its)

    assert "| palindrome | 16 | kda | 0.001 | 95.0% [90.0%, 100.0%] | 400, 400, 400 |" in page
    assert "| palindrome | 32 | mamba2 | 0.01 (edge) | 25.0% [25.0%, 25.0%] | never, never, never |" in page
    assert "| kda | 95.0% [90.0%, 100.0%] | 95.0% [90.0%, 100.0%] |" in page
    assert by_length(its).startswith("| palindrome | tokens: 16 | tokens: 32 |") and "| copy | 16" not in by_length(its)


def test_conversations_say_their_turns():
    request = Plan(
        tasks=[{"kind": "turns", "turns": turns} for turns in (2, 8)], arms={"kda": ["kda"]}, rates=[1e-3], steps=400
    )
    page = markdown(request, rows(request, {run.name: result(run) for run in known_runs(request, {})}))

    assert "(2 turns) | tokens: " in page and "(8 turns) | kda | 0.001 | 97.0% |" in page


def test_a_run_that_was_good_enough_keeps_its_last_score():
    short = [Score(10, 1, 0.5, 0, 1.0), Score(20, 1, 1.0, 1, 0.1)]
    long = [Score(20, 1, 0.2, 0, 1.0), Score(40, 1, 0.4, 1, 0.1)]

    assert mean_curve([short, long]) == ([10, 20, 40], [[0.5, 0.0], [1.0, 0.2], [1.0, 0.4]])


def test_plots_are_drawn_and_the_same_twice(tmp_path):
    _, its = found()
    plain = [file.read_bytes() for file in draw(its, tmp_path)]
    files = draw(its, tmp_path, {row.place: 0.25 for row in its})
    once = [file.read_bytes() for file in files]

    assert [file.name for file in files] == ["peaks.png", "curves.png"]
    assert [file.read_bytes() for file in draw(its, tmp_path, {row.place: 0.25 for row in its})] == once
    assert all(with_guesses != without for with_guesses, without in zip(once, plain))
    assert int.from_bytes(once[0][16:20]) == 900, "pixels across"
    assert draw([], tmp_path / "none") == [] and not (tmp_path / "none").exists()


def test_a_result_of_something_else_is_named(tmp_path):
    file = tmp_path / "broken.json"
    file.write_text('{"curve": [{"step": 1}]}')

    with pytest.raises(CheckpointError, match=r"broken\.json is no result of a synthetic task"):
        read_result(file)
