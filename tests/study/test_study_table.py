"""What is shown of runs while they are carried out, and how long the rest may take."""

from io import StringIO

import pytest
from counted_runs import Counting
from rich.console import Console

from hyla.cli import study_table
from hyla.cli.console import PlainConsole
from hyla.cli.study_table import StudyTable, closing_lines, execute_shown
from hyla.study.execution import Begun, Failed, Finished, Outcome, Paused, Retried, Step, Stepped
from hyla.study.execution.standing import Standing

JOBS = [Counting("one"), Counting("two"), Counting("three"), Counting("four")]
FLOPS = {"one": 1e12, "two": 1e12, "three": 1.01e12, "four": 10e12}


def test_the_time_left_is_that_of_the_finished_runs_nearest_in_size():
    standing = Standing(JOBS, flops=FLOPS)
    assert standing.seconds_left() is None
    standing(Finished("one", is_old=True))
    assert standing.seconds_left() is None  # it was not read how long it took
    standing(Begun("two", 1))
    standing(Finished("two", seconds=100.0))
    assert standing.seconds_left() == pytest.approx(101.0 + 1000.0)
    standing(Begun("four", 1))
    standing(Finished("four", seconds=500.0))
    assert standing.seconds_left() == pytest.approx(101.0)  # not the larger one's
    standing(Begun("three", 1))
    standing(Stepped("three", Step(25, 100, 2500)))
    assert standing.seconds_left() == pytest.approx(0.75 * 101.0)
    standing(Finished("three", seconds=1.0))
    assert standing.seconds_left() == 0.0


def test_two_workers_share_what_is_left_and_the_longest_run_is_waited_for():
    standing = Standing(JOBS, 2, FLOPS, earlier=[(1e12, 100.0)])
    assert standing.seconds_left() == pytest.approx(1000.0)
    assert Standing(JOBS[:3], 2, FLOPS, earlier=[(1e12, 100.0)]).seconds_left() == pytest.approx(150.5)


def test_before_any_run_is_finished_those_that_run_tell():
    standing = Standing(JOBS[:2])
    standing(Begun("one", 1))
    standing(Stepped("one", Step(10, 100, 1000)))
    assert standing.seconds_left() is None
    standing(Stepped("one", Step(20, 100, 2000, 100.0)))
    assert standing.seconds_left() == pytest.approx(80.0 + 100.0)


def test_a_run_is_in_one_place_whatever_happens():
    standing = Standing(JOBS)
    for event, said in [
        (Begun("one", 1), "0 of 4 finished, 1 running, 3 waiting"),
        (Retried("one", 1, "no"), "0 of 4 finished, 4 waiting"),
        (Begun("one", 2), "0 of 4 finished, 1 running, 3 waiting"),
        (Failed("one", 2, "no"), "0 of 4 finished, 3 waiting, 1 failed"),
        (Begun("two", 1), "0 of 4 finished, 1 running, 2 waiting, 1 failed"),
        (Paused("two"), "0 of 4 finished, 3 waiting, 1 failed"),
        (Finished("two", is_old=True), "1 of 4 finished, 2 waiting, 1 failed"),
    ]:
        standing(event)
        assert standing.counts() == said


def test_the_picture_has_what_runs_and_what_failed():
    table = StudyTable(Standing(JOBS, flops=FLOPS, earlier=[(1e12, 60.0)]))
    table.standing(Begun("one", 2))
    table.standing(Stepped("one", Step(1200, 2400, 9_000_000, 41_234.5)))
    table.standing(Begun("two", 1))
    table.standing(Begun("three", 3))
    table.standing(Failed("three", 3, "ValueError: no"))
    printer = Console(width=100, force_terminal=False)
    with printer.capture() as caught:
        printer.print(table.picture())
    lines = caught.get().splitlines()
    assert lines[0].rstrip() == "0 of 4 finished, 2 running, 1 waiting, 1 failed, about 12 min left"
    assert lines[2].split() == ["counting", "one", "(try", "2)", "1,200", "of", "2,400", "41,234"]
    assert lines[3].split() == ["counting", "two", "begins"]
    assert lines[4].rstrip() == "failed: counting three: ValueError: no"


def test_without_a_terminal_there_are_a_few_plain_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study_table, "console", PlainConsole())
    jobs = [Counting("good"), Counting("bad")]
    outcome = execute_shown(jobs, folder=tmp_path / "study", execute="counted_runs:misbehave", retries=1)
    assert outcome.status == 1
    fault = "counting bad: ValueError: no step 3 of this run"
    assert capsys.readouterr().out.splitlines() == [
        "begins: counting good",
        "finished in 2 s: counting good; 1 of 2 finished, 1 waiting, about 2 s left",
        "begins: counting bad",
        f"try 1 failed, there will be another: {fault}",
        "begins (try 2): counting bad",
        f"failed after 2 tries: {fault}",
        "1 of 2 runs are finished",
        f"failed: {fault}",
        f"{tmp_path / 'study' / 'failed.json'} has where each failed; given again, the same command tries them again",
    ]


def test_on_a_terminal_only_faults_are_lines(tmp_path, monkeypatch):
    printer = Console(width=120, force_terminal=True, record=True, file=StringIO())
    monkeypatch.setattr(study_table, "console", printer)
    jobs = [Counting("good"), Counting("bad")]
    execute_shown(jobs, folder=tmp_path / "study", execute="counted_runs:misbehave", retries=1)
    text = printer.export_text()
    assert "try 1 failed" in text and "1 of 2 runs are finished" in text and "begins:" not in text


@pytest.mark.parametrize(
    ("outcome", "last"),
    [
        (Outcome(("one",), {}, ("two",), was_stopped=True), "stopped; given again, the same command goes on with"),
        (Outcome((), {}, ("one", "two"), is_out_of_time=True), "the time is over; given again, the same"),
    ],
)
def test_at_the_end_it_says_how_to_go_on(outcome, last, tmp_path):
    *_, found = closing_lines(outcome, {"one": "1", "two": "2"}, tmp_path)
    assert found.startswith(last) and found.endswith(f"other {len(outcome.waiting)}")
