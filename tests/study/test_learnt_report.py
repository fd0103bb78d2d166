"""The report of tasks that are learnt from scratch: who learns, who is better, what others found."""

import csv
import io
from dataclasses import replace

import pytest

from hyla.errors import ConfigError
from hyla.evals.synthetic.attempts import known_runs
from hyla.evals.synthetic.plan import Plan, Search
from hyla.evals.synthetic.results import Result, Score
from hyla.study.report import AboutSynthetic, Published, write_synthetic_report
from hyla.study.report.learnt import Learnt
from hyla.study.report.synthetic import markdown, to_csv

RATES = (1e-4, 1e-3, 1e-2)
LAST = {"kda": 0.99, "gated_delta": 0.95, "mamba2": 0.3}
"""Last scores on the short palindrome; the other tasks are harder."""


def plan():
    return Plan(
        tasks=[
            {"kind": "palindrome", "length": 16, "symbols": 4},
            {"kind": "palindrome", "length": 32, "symbols": 4},
            {"kind": "copy", "length": 16, "symbols": 4},
        ],
        arms={arm: [arm] for arm in LAST},
        rates=RATES,
        seeds=(0, 1, 2),
        steps=400,
    )


def result(run):
    """Best at the middle rate, but for Mamba-2; copies are learnt by nobody; a seed is worth a hundredth."""
    (mixer,) = run.layers
    loss = {1e-4: 2.0, 1e-3: 0.3, 1e-2: 0.1 if mixer == "mamba2" else 0.9}[run.rate]
    last = LAST[mixer] - 0.1 * (run.task.length == 32) - 0.01 * run.seed - 0.001 * (mixer == "kda") * run.seed
    last = 0.4 if run.task.kind == "copy" else last
    first = last if mixer == "kda" else last / 2
    return Result([Score(200, 1000, first, 0.0, 3.0), Score(400, 2000, last, 0.1, loss)], {}, 1000, 36.0)


PUBLISHED = Published(
    source="A report, section 5.1",
    metric="peak accuracy",
    order=("kda >= gated_delta", "palindrome: gated_delta > mamba2", "mamba2 > kda", "copy: kda > mamba2"),
)


def learnt(**fields):
    about = AboutSynthetic("made-up", "Who learns?", plan(), published=(PUBLISHED,), **fields)
    return Learnt(about, {run.name: result(run) for run in known_runs(about.plan, {})})


def lines_with(page, start):
    return [line for line in page.splitlines() if line.startswith(start)]


def test_arms_are_compared_where_a_task_is_learnt():
    page = markdown(learnt())

    assert "- kda is better than gated_delta (+3.9% [" in page and "- kda is better than mamba2 (+68.9% [" in page
    (line,) = lines_with(page, "| palindrome | best score | kda minus gated_delta |")
    assert line.endswith("| kda is better |") and "+3.9% [" in line
    (sooner,) = lines_with(page, "| palindrome | mean score while learning | kda minus gated_delta |")
    # The mean over both steps: 0.94 and 0.675, less what the last seed and step differ.
    assert "+26." in sooner
    assert not lines_with(page, "| copy | best score")
    (copy,) = lines_with(page, "| copy | 16 | kda |")
    assert "| not learnt (40.0% [40.0%, 40.0%]) |" in copy
    assert lines_with(page, "| palindrome | 16 | mamba2 | 0.01 (edge) | 29.0% [26.5%, 31.5%] | never, never, never |")


def test_a_task_that_the_named_arm_does_not_learn_says_nothing():
    found = learnt(must_learn="mamba2")

    assert found.kinds == [] and "Nothing can be compared" in markdown(found)
    assert learnt(must_learn="kda").kinds == ["palindrome"] and learnt(learnt_at=0.99).kinds == []
    with pytest.raises(ConfigError, match="must_learn names 'gla', and the arms are kda, gated_delta, mamba2"):
        learnt(must_learn="gla")


def test_the_published_order_stands_beside_ours():
    page = markdown(learnt())

    (whole,) = lines_with(page, "| kda >= gated_delta |")
    assert whole.endswith("| agrees |") and "best score: +3.9%" in whole
    (task,) = lines_with(page, "| palindrome: gated_delta > mamba2 |")
    assert task.endswith("| agrees; rate of mamba2 at the edge |")
    (wrong,) = lines_with(page, "| mamba2 > kda |")
    assert "disagrees" in wrong and "best score: -68.9%" in wrong
    assert lines_with(page, "| copy: kda > mamba2 |")[0].endswith("| not learnt here |")


def test_missing_runs_are_said_and_the_csv_has_the_others(tmp_path):
    whole = learnt()
    gone = next(name for name in whole.results if name.startswith("palindrome-16-kda-0.001-2"))
    found = Learnt(whole.about, {name: one for name, one in whole.results.items() if name != gone})
    page, lines = markdown(found), list(csv.DictReader(io.StringIO(to_csv(found))))

    assert "80 of 81 runs are finished" in page and lines_with(page, "| palindrome | 16 | kda | incomplete |")
    assert len(lines) == 80 and {line["file"] for line in lines} == {f"{name}.json" for name in found.results}
    (one,) = (line for line in lines if line["file"].startswith("palindrome-32-kda-0.001-2"))
    assert float(one["best_score"]) == pytest.approx(0.868) and one["steps_to_90"] == ""


def test_what_is_not_finished_is_compared_where_all_arms_are_and_says_so():
    whole = learnt()
    short = {name: one for name, one in whole.results.items() if not name.startswith(("palindrome-16-kda", "copy"))}
    page = markdown(Learnt(learnt(must_learn="kda").about, short))
    assert "**Not finished:** of 1 of 3 tasks and lengths" in page
    assert not lines_with(page, "| palindrome | best score"), (
        "the shortest length is not there, so nothing is learnt yet"
    )

    short = {name: one for name, one in whole.results.items() if not name.startswith("palindrome-32-mamba2")}
    found = Learnt(whole.about, short)
    page = markdown(found)
    (pair,) = (
        one for one in found.comparisons["palindrome", "best score"] if one.second == "mamba2" and one.first == "kda"
    )
    assert list(pair.pairs) == [1.0], "all pairs are of the one length that all arms have"
    assert lines_with(page, "| kda >= gated_delta |")[0].endswith("| agrees; so far |")
    assert "Not finished" not in markdown(whole)


def test_a_rate_at_the_edge_is_said_where_an_arm_is_named():
    assert "- The rate of mamba2 is at the edge" in markdown(learnt())


def test_an_edge_counts_where_its_row_is_compared():
    """Of copies, which nobody learns, the edge says nothing about palindromes."""
    found = learnt()
    assert found.edges("palindrome") == {"mamba2"} and found.edges("copy") == set()
    (line,) = lines_with(markdown(found), "| palindrome | best score | kda minus mamba2 |")
    assert line.endswith("| kda is better; rate of mamba2 at the edge |")


def test_why_nothing_is_compared_is_said():
    whole = learnt()
    copies = {name: one for name, one in whole.results.items() if name.startswith(("copy", "palindrome-16-kda"))}
    found = Learnt(whole.about, copies)
    assert found.kinds == ["palindrome"]
    assert "Nothing can be compared: of what is learnt, fewer than two arms are finished" in markdown(found)
    page = markdown(Learnt(whole.about, {}))
    assert "of no task and length have all arms finished" in page and "Nothing is computed yet." in page


def test_machines_are_named():
    found = learnt()
    assert "Computed on machines that are not recorded." in markdown(found)
    first, *_ = found.results
    named = {name: replace(one, machine="A processor") if name == first else one for name, one in found.results.items()}
    page = markdown(Learnt(found.about, named))
    assert "Computed on A processor and machines that are not recorded." in page
    everywhere = {name: replace(one, machine="A processor") for name, one in found.results.items()}
    assert "Computed on A processor." in markdown(Learnt(found.about, everywhere))


def test_runs_that_a_search_may_ask_for_are_counted():
    searched = plan().model_copy(update={"search": Search()})
    page = markdown(Learnt(AboutSynthetic("made-up", "Who learns?", searched), {}))
    assert "0 of 54 runs are finished (a search may ask for more)" in page


def test_what_a_guess_has_stands_in_the_table():
    page = markdown(learnt())
    assert len(lines_with(page, "| palindrome | 16 | (the ")) == 1 and len(lines_with(page, "| copy | 16 | (the ")) == 1


def test_the_report_is_written_with_its_plots(tmp_path):
    found = learnt()
    write_synthetic_report(tmp_path / "new", found.about, found.results)

    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "report.md",
        "results.csv",
        "peaks.png",
        "curves.png",
    }
    assert "(curves.png)" in (tmp_path / "new" / "report.md").read_text()
    write_synthetic_report(tmp_path / "none", found.about, {})
    assert "0 of 81 runs are finished" in (tmp_path / "none" / "report.md").read_text()
