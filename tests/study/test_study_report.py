"""A study's report: its numbers are the results', its marks and verdicts are what the results deserve."""

import csv
import io
import json
import random
import re
from dataclasses import replace

import pytest
from made_up import BUDGETS, SEEDS, Searched, about, decode_file, law, ledger, write

from hyla.errors import ConfigError
from hyla.study.report import Published, findings_of, read_claim, write_report
from hyla.study.report.costs import front
from hyla.study.report.page import markdown
from hyla.study.report.plots.losses import plot_differences
from hyla.study.report.sections.losses import differences
from hyla.study.report.sections.runs import to_csv
from hyla.study.results import read_results

SAME = {"full": 0.0, "3:1": 0.0, "1:1": 0.0}
PLANTED = {"full": 0.0, "3:1": -0.03, "1:1": 0.0}


def page_of(found):
    return markdown(found, ())


def section(page, title):
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def row(text, first):
    """Cells of the first row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_and_intervals_are_those_of_the_files(tmp_path):
    def exact(arm, budget, seed):
        return {"test_bits": {0: 2.0, 1: 2.2, 2: 2.1}[seed]} if budget == 2e12 else {}

    found = findings_of(about(SAME), ledger(tmp_path, SAME, leave=exact))

    # Student's t of two degrees of freedom is 4.303, the standard deviation 0.1.
    assert row(section(page_of(found), "Bits per byte"), "3:1")[3] == "2.1000 [1.8516, 2.3484]"


def test_a_study_of_equal_arms_says_inside_the_noise_and_what_comes_next(tmp_path):
    page = page_of(findings_of(about(SAME), ledger(tmp_path, SAME)))

    assert "**Inside the noise:** 3:1, 1:1, full cannot be told apart by this study. Take 3:1, the cheapest" in section(
        page, "Recommendation"
    )
    assert "What would decide it next:" in section(page, "Recommendation")
    assert all(row(section(page, "Differences to full"), arm)[-1] == "inside the noise" for arm in ("3:1", "1:1"))
    assert "with 80% power" in section(page, "Differences to full")


def test_a_planted_difference_is_named(tmp_path):
    page = page_of(findings_of(about(PLANTED), ledger(tmp_path, PLANTED)))

    assert section(page, "Recommendation").strip().startswith("Take 3:1 (")
    difference, _, _, verdict = row(section(page, "Differences to full"), "3:1")[1:]
    assert verdict == "3:1 is better" and -0.036 < float(difference.split()[0]) < -0.024
    assert row(section(page, "Differences to full"), "1:1")[-1] == "inside the noise"
    # The planted shift is worth some FLOPs, and the law says how many.
    ratio = float(row(section(page, "Laws of loss and FLOPs"), "3:1 | plain")[2].split()[0])
    assert 1.1 < ratio < 1.3


def test_seeds_whose_differences_look_alike_at_all_budgets_are_said(tmp_path):
    def drifting(arm, budget, seed):
        own = 0.02 * (seed - 1) + random.Random(f"{budget} {seed}").gauss(0, 1e-4)
        return {"test_bits": law(budget) + (own if arm == "3:1" else 0)}

    def page(name, **leave):
        return page_of(findings_of(about(SAME), ledger(tmp_path / name, SAME, **leave)))

    drift = section(page("drift", leave=drifting), "Differences to full")

    assert "Of 3:1 a seed's differences look alike at several budgets" in drift
    # One value per seed, -0.02, 0 and 0.02: 4.303 times 0.02 over the root of 3.
    assert re.fullmatch(r"[+-]0.0000 \[-0.049\d, \+0.049\d\]", row(drift, "3:1")[3])
    assert "look alike" not in section(page("same"), "Differences to full")


def test_an_arm_at_the_edge_of_its_rates_is_invalid_and_not_compared(tmp_path):
    tuned = (
        Searched("full", 2e12, {1e-3: 2.6, 3e-3: 2.5, 9e-3: None}, 3e-3),
        Searched("3:1", 2e12, {1e-3: 2.6, 3e-3: 2.5, 9e-3: 2.4}, 9e-3, is_at_edge=True),
        Searched("1:1", 2e12, {1e-3: 2.6, 3e-3: 2.5, 9e-3: 2.6}, 3e-3),
    )
    page = page_of(findings_of(about(PLANTED, tuned=tuned), ledger(tmp_path, PLANTED)))

    marked = row(section(page, "Bits per byte"), "3:1")[1:]
    assert all("(invalid: rate at the edge)" in cell for cell in marked) and len(marked) == len(BUDGETS)
    assert "Not compared: 3:1 (invalid: rate at the edge)" in section(page, "Recommendation")
    assert "| 3:1 |" not in section(page, "Differences to full") + section(page, "Laws of loss and FLOPs")
    assert row(section(page, "Learning rates"), "3:1")[2:] == ["2.6000", "2.5000", "**2.4000**", "edge"]
    assert row(section(page, "Learning rates"), "full")[4] == "diverged"
    assert "| 3:1 (invalid) |" in section(page, "Tasks")


def test_an_arm_without_all_runs_is_incomplete_and_one_without_any_is_named(tmp_path):
    def gone(arm, budget, seed):
        return None if arm == "1:1" or (arm, budget, seed) == ("3:1", 2e13, 2) else {}

    page = page_of(findings_of(about(SAME), ledger(tmp_path, SAME, leave=gone)))

    assert row(section(page, "Bits per byte"), "3:1")[5].endswith("(incomplete)")
    assert row(section(page, "Bits per byte"), "1:1")[1:] == ["no runs"] * len(BUDGETS)
    assert "It does not stand on 3:1 at 2.00e13" in section(page, "Recommendation")
    assert "1:1 (no runs)" in section(page, "Recommendation")
    assert "| at 6.00e12 |" in section(page, "Differences to full")
    assert "at 2.00e13" not in section(page, "Differences to full"), "nothing is compared there"


def test_arms_with_other_flops_are_unmatched_and_a_run_that_diverged_is_said(tmp_path):
    def off(arm, budget, seed):
        if arm == "3:1":
            return {"flops": budget * 1.02}
        return {"test_bits": None, "validation_bits": None} if (arm, budget, seed) == ("1:1", 2e12, 0) else {}

    page = page_of(findings_of(about(SAME), ledger(tmp_path, SAME, leave=off)))

    assert all("(unmatched)" in cell for cell in row(section(page, "Bits per byte"), "3:1")[1:])
    assert row(section(page, "Bits per byte"), "1:1")[3].endswith("(diverged)")
    assert "3:1 (unmatched)" in section(page, "Recommendation")


def test_the_csv_has_every_run_with_the_figures_of_its_file(tmp_path):
    results = ledger(tmp_path, SAME, budgets=(2e12,), leave=lambda arm, b, s: {"test_bits": 1.0 + s / 3})
    write(tmp_path, "tuning", {**_as_file(tmp_path, "full-2e12-0"), "test_bits": 9.0}, seed=1000)
    write(tmp_path, "decoding", decode_file("3:1", ms=1.25))
    results = read_results(tmp_path)
    found = findings_of(about(SAME, budgets=(2e12,)), results)

    lines = {line["file"]: line for line in csv.DictReader(io.StringIO(to_csv(found)))}

    assert set(lines) == {file.name for file in tmp_path.glob("*.json")} and len(lines) == 11
    assert float(lines["3-1-2e12-2.json"]["test_bits"]) == 1.0 + 2 / 3 and lines["3-1-2e12-2.json"]["seed"] == "2"
    assert float(lines["3-1-2e12-2.json"]["task_variables"]) == 0.4
    assert lines["decoding.json"]["ms_per_token_16384"] == "2.5" and lines["decoding.json"]["test_bits"] == ""
    assert (lines["tuning.json"]["for"], lines["full-2e12-0.json"]["for"]) == ("its rate", "the table")
    assert all(f"| {name.removesuffix('.json')} |" in section(page_of(found), "Runs") for name in lines)


def _as_file(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_the_best_of_several_sizes_counts_by_validation_alone(tmp_path):
    small = {"run": {"size": {"hidden_dim": 32, "num_layers": 4}}}
    ledger(tmp_path / "a", SAME, budgets=(2e12,))
    worse_but_lucky = {**small, "validation_bits": 9.0, "test_bits": 0.1}
    results = read_results(tmp_path / "a") + ledger(
        tmp_path / "b", {"full": 0.0}, budgets=(2e12,), leave=lambda *place: worse_but_lucky
    )
    results = [_renamed(result, number) for number, result in enumerate(results)]

    found = findings_of(about(SAME, budgets=(2e12,), sizes={2e12: 1}), results)

    assert found.cells["full", 2e12].size == "48 x 4"
    assert findings_of(about(SAME, budgets=(2e12,), sizes={2e12: 2}), results).left_out.keys() == {"3:1", "1:1"}


def _renamed(result, number):
    return replace(result, name=f"run-{number}")


def test_tasks_that_no_arm_learns_are_not_compared(tmp_path):
    def tasks(arm, budget, seed):
        long = {"full": 0.8, "3:1": 0.5, "1:1": 0.8}[arm] + 0.01 * seed * (arm == "3:1")
        short = 0.95 if arm == "full" else 0.85
        return {"tasks": {"recall": 0.4, "turns-2": short, "turns-8": long, "copy-2": 1.0 - short / 2, "copy-4": 0.95}}

    page = page_of(findings_of(about(SAME), ledger(tmp_path, SAME, leave=tasks)))
    text = section(page, "Tasks")

    assert row(text, "3:1")[1:3] == ["not learnt (40.0% [40.0%, 40.0%])", "85.0% [85.0%, 85.0%]"]
    assert row(text, "3:1")[5].startswith("not learnt (95.0%"), "at its lowest setting the reference has not learnt it"
    assert row(text, "turns-8 | 3:1")[2:] == ["-29.0% [-29.6%, -28.4%]", "5", "full is better"]
    # From 2 to 8 turns the setting doubles twice: 19 of a hundred are lost (by each seed one less), or 10 won.
    assert row(text, "turns | 2 and 8 | 3:1")[3:] == ["-9.5% [-10.7%, -8.3%]", "falls behind"]
    assert row(text, "turns | 2 and 8 | 1:1")[3:] == ["+5.0% [+5.0%, +5.0%]", "gains"]
    assert "| recall |" not in text.partition("Share of right answers")[2], "what is not learnt is not compared"
    assert "3:1 (turns-2, turns-8); 1:1 (turns-2)" in section(page, "Recommendation")


def test_an_arm_that_guesses_at_all_settings_gains_nothing_and_the_guess_stands_in_the_table(tmp_path):
    turns = {"kind": "turns", "keys": 8, "values": 8, "fillers": 8, "statements": 2, "questions": 6}
    key = {
        "tasks": {
            "turns-2": {**turns, "turns": 2},
            "recall": {"kind": "recall", "length": 16, "of_another_version": 1},
        },
        "test_tasks": {"turns-8": {**turns, "turns": 8}},
    }

    def tasks(arm, budget, seed):
        short, long = {"full": (0.95, 0.6), "3:1": (0.53, 0.5), "1:1": (0.9, 0.7)}[arm]
        return {"tasks": {"turns-2": short, "turns-8": long, "recall": 0.95}, "run": key}

    text = section(page_of(findings_of(about(SAME), ledger(tmp_path, SAME, leave=tasks))), "Tasks")
    guess, longer, unknown = row(text, "(always one value read)")[1:]
    assert (
        0.4 < float(guess.partition("%")[0]) / 100 < 0.6 and longer.endswith("(the most frequent)") and unknown == "-"
    )
    assert row(text, "turns | 2 and 8 | 1:1")[4] == "gains"
    assert "| turns | 2 and 8 | 3:1 |" not in text, "it gains as the reference falls, and knows nothing"


def test_pairs_without_the_reference_stand_below(tmp_path):
    page = page_of(findings_of(about(PLANTED), ledger(tmp_path, PLANTED)))
    others = page.partition("### Other pairs")[2].partition("\n## ")[0]
    assert row(others, "3:1 | 1:1") and "3:1 | full" not in others


def test_laws_say_who_is_inside_the_noise_and_not_who_was_not_compared(tmp_path):
    many = page_of(findings_of(about(SAME), ledger(tmp_path / "many", SAME)))
    assert "There, inside the noise: 3:1 and 1:1." in many
    one_seed = ledger(tmp_path / "one", SAME, seeds=(0,))
    assert "There, inside the noise" not in page_of(findings_of(about(SAME, seeds=(0,)), one_seed))


def test_tasks_that_are_learnt_where_rows_are_marked_are_not_called_unlearnt(tmp_path):
    def tasks(arm, budget, seed):
        return None if arm == "full" and seed == SEEDS[-1] else {"tasks": {"recall": 0.95}}

    text = section(page_of(findings_of(about(SAME), ledger(tmp_path, SAME, leave=tasks))), "Tasks")
    assert "No task is compared: where one is learnt" in text and "No task is learnt" not in text


def test_published_claims_stand_beside_ours(tmp_path):
    published = (
        Published(source="A paper, table 1", metric="perplexity", values={"3:1": 5.6, "full": 5.7, "1:1": 5.8}),
        Published(source="Another", metric="order", order=("full > 3:1", "full >= 1:1", "recall: 3:1 > 1:1")),
    )
    found = findings_of(about(PLANTED, published=published), ledger(tmp_path, PLANTED))
    text = section(page_of(found), "Beside published results")

    assert row(text, "3:1 > full")[1] == "5.6 and 5.7" and row(text, "3:1 > full")[-1] == "agrees"
    assert row(text, "full > 1:1")[-1] == "inside our noise"
    assert row(text, "full > 3:1")[-1] == "disagrees" and "A disagreement is a finding" in text
    assert row(text, "full >= 1:1")[-1] == "agrees (not worse beyond the noise)"
    with pytest.raises(ConfigError, match="'7:1', and the arms are full, 3:1, 1:1"):
        about(SAME, published=(Published(source="x", metric="y", values={"7:1": 1.0}),))
    with pytest.raises(ConfigError, match="'full better 3:1'"):
        Published(source="x", metric="y", order=("full better 3:1",))
    assert read_claim("3:1 >= kda 7:1").worse == "kda 7:1"


def test_an_ablation_is_sorted_by_its_differences_and_shows_the_layers(tmp_path):
    arms = {"base": 0.0, "no gate": 0.05, "no conv": 0.02, "sinks": -0.03}

    def changed(arm, budget, seed):
        inside = {"sink_mass": [0.0, 0.0, 0.0, 0.5 if arm == "no gate" else 0.1], "largest_activation": [1.0, 2, 3, 9]}
        return {"run": {"changes": {} if arm == "base" else {"kda.x": arm}}, "layers_inside": inside}

    found = findings_of(
        about(arms, is_ablation=True, budgets=(2e12,)), ledger(tmp_path, arms, budgets=(2e12,), leave=changed)
    )
    page = page_of(found)

    lines = [line for line in section(page, "Differences to base").splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0] for line in lines] == ["| sinks", "| no conv", "| no gate"]
    assert "kda.x = no gate" in lines[2]
    answer = section(page, "Recommendation")
    assert "Worse: no gate" in answer and "What would decide it next: " in answer
    assert "No law is fitted: 1 budgets" in page and "Quality against" not in page, "all arms keep as much"
    inside = section(page, "Inside the layers")
    assert row(inside, "share of attention on the first token | no gate")[2:] == ["0.5", "0 0 0 0.5"]


def test_noise_of_all_arms_is_said_and_narrows_what_is_found(tmp_path):
    arms = {"kda 3:1": 0.0, "a": 0.0, "b": 0.01, "c": -0.01, "d": 0.0}
    results = ledger(tmp_path, arms, budgets=(2e12,))
    by_pairs, by_arms = (findings_of(about(arms, budgets=(2e12,), noise=noise), results) for noise in ("pair", "arms"))
    pages = [differences(found) for found in (by_pairs, by_arms)]
    said = "noise is taken to be alike in all arms of a budget"
    assert [said in page for page in pages] == [False, True]
    least = [float(re.search(r"find a difference of ([0-9.]+)", page)[1]) for page in pages]
    assert least[1] < least[0] / 2


def test_cost_and_quality_have_a_front(tmp_path):
    results = ledger(tmp_path / "runs", PLANTED)
    for arm, ms, cache in (("full", 3.0, 4096), ("3:1", 2.0, 1024), ("1:1", 1.5, 2048)):
        write(tmp_path / "decode", f"decode-{arm.replace(':', '-')}", decode_file(arm, ms=ms, cache=cache))
    title = "Quality against cache and time"
    text = section(page_of(findings_of(about(PLANTED), results + read_results(tmp_path / "decode"))), title)

    assert front({"a": (1.0, 1.0), "b": (1.0, 1.0), "c": (1.0, 2.0)}) == {"a", "b"}
    assert row(text, "arm")[2:6] == ["cache at 65,536 tokens", "front", "ms per token at 16,384 tokens", "front"]
    assert row(text, "3:1")[2:6] == ["8.0 KiB", "yes", "4.00", "yes"]
    assert row(text, "1:1")[2:6] == ["16.0 KiB", "", "3.00", "yes"]
    assert row(text, "full")[2:6] == ["32.0 KiB", "", "6.00", ""]
    untimed = section(page_of(findings_of(about(PLANTED), results)), title)
    assert row(untimed, "full")[2] == "8.6 MiB" and "ms per token" not in untimed


def test_results_that_do_not_belong_together_are_refused_by_name(tmp_path):
    ledger(tmp_path, SAME, budgets=(2e12,), leave=lambda arm, b, s: {"run": {"data": "other"}} if arm == "3:1" else {})
    with pytest.raises(ConfigError, match=r"1-1-2e12-0\.json was trained on data d1ge57 and 3-1-2e12-0\.json on other"):
        findings_of(about(SAME), read_results(tmp_path))
    twice = ledger(tmp_path / "twice", {"full": 0.0}, budgets=(2e12,))
    with pytest.raises(ConfigError, match=r"full-2e12-0\.json and again\.json are both arm 'full'"):
        findings_of(about(SAME), [*twice, replace(twice[0], name="again")])


def test_a_study_without_runs_has_a_page_that_says_so(tmp_path):
    page = page_of(write_report(tmp_path, about(SAME), []))

    assert "None: fewer than two arms can be compared. Left out: full (no runs)" in page
    assert "No run is finished." in page and not list(tmp_path.glob("*.png"))


def test_a_study_whose_rates_are_not_chosen_yet_says_so(tmp_path):
    page = page_of(findings_of(about(SAME, tuned=()), ledger(tmp_path, {"full": 0.0}, budgets=(2e12,), seeds=(1000,))))

    assert "Not chosen yet: 1 runs are there to choose by." in page and "No task was scored" not in page
    untuned = page_of(findings_of(about(SAME, tuned=()), ledger(tmp_path / "plain", SAME, budgets=(2e12,))))
    assert "None was tuned" in untuned and "Learning rates: 0.003, not tuned." in untuned


def test_a_report_has_its_plots_and_they_are_the_same_twice(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    ledger(runs, PLANTED)
    for arm in PLANTED:
        write(runs, f"decode-{arm.replace(':', '-')}", decode_file(arm, ms=len(arm)))
    found = write_report(out, about(PLANTED), read_results(runs))
    once = {file.name: file.read_bytes() for file in out.iterdir()}
    plot_differences(found, tmp_path / "again.png")

    plots = {f"{name}.png" for name in ("losses", "differences", "tasks", "costs", "positions", "curves")}
    assert set(once) == {"report.md", "results.csv", *plots}
    assert (tmp_path / "again.png").read_bytes() == once["differences.png"]
    for name in plots:
        assert int.from_bytes(once[name][16:20]) == 900 and f"({name})".encode() in once["report.md"]
