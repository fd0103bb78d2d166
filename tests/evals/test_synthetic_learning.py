"""Learning a task from scratch: from a plan to files, a report, and back after a kill."""

import json
import math
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner

from hyla.cli.app import app
from hyla.errors import ConfigError, DivergedError
from hyla.evals.synthetic import Copy, Overwrite
from hyla.evals.synthetic.attempts import attempts, known_runs
from hyla.evals.synthetic.learning import accuracy, heldout_passes, learn, packed
from hyla.evals.synthetic.plan import Plan
from hyla.evals.synthetic.plots import draw
from hyla.evals.synthetic.report import markdown, rows
from hyla.evals.synthetic.results import Result, Score, read_result
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.loop import Trainer
from hyla.train.recipe_file import read_recipe

SMALL = {
    "tasks": [{"kind": "copy", "length": 8, "symbols": 3}],
    "arms": {"hybrid": ["kda", "softmax"], "twin": ["softmax", "softmax"]},
    "sizes": {"hidden_dim": 16, "num_heads": 1, "head_dim": 16, "mlp_dim": 32},
    "rates": [1e-2],
    "steps": 6,
    "examples_per_step": 8,
    "score_every": 2,
    "test_examples": 16,
    "stop_at": None,
}


def plan(**changes):
    return Plan(**{**SMALL, **changes})


def run_of(**changes):
    return known_runs(plan(**changes), {})[0]


def curve_of(result):
    return [(score.step, score.accuracy, score.loss) for score in result.curve]


def test_only_what_is_asked_is_learnt():
    rows_of_two = packed(Copy(length=8, symbols=3), "train", 0, 0, 2)

    assert rows_of_two.lengths == (8, 8) and rows_of_two.num_learnt == 8
    assert rows_of_two.is_learnt_T.tolist() == ([False] * 4 + [True] * 4) * 2


def test_a_killed_run_goes_on_to_the_same_curve(tmp_path, monkeypatch):
    run = run_of()
    whole = learn(run, tmp_path / "whole")
    save, saves = Trainer.save, []

    def killed(self):
        save(self)
        saves.append(self.finished_steps)
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(run, tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("*.json"))
    seen = []
    resumed = learn(run, tmp_path / "killed", seen.append)

    assert curve_of(resumed) == curve_of(whole) and [score.step for score in seen] == [6]
    assert [step for step, _, _ in curve_of(whole)] == [2, 4, 6]
    assert not (tmp_path / "killed" / "unfinished" / run.name).exists()


def test_a_finished_run_is_read_and_not_repeated(tmp_path, monkeypatch):
    found = learn(run_of(), tmp_path)
    monkeypatch.setattr(Trainer, "run", None)

    assert learn(run_of(), tmp_path) == found


def test_a_run_ends_when_it_is_good_enough(tmp_path):
    found = learn(run_of(stop_at=0.01, steps=50), tmp_path)

    assert [score.step for score in found.curve] == [2]


def test_a_small_hybrid_learns(tmp_path):
    task = {"kind": "overwrite", "length": 16, "keys": 2, "values": 2}
    found = learn(run_of(tasks=[task], steps=100, score_every=50, examples_per_step=32), tmp_path)

    assert found.peak > 0.8 and found.curve[-1].loss < 0.69 * 0.9


def test_the_share_of_right_answers_does_not_depend_on_the_pass(monkeypatch):
    from hyla.evals.synthetic import learning

    task = Overwrite(length=16, keys=2, values=2)
    run = run_of(tasks=[task.model_dump()])
    model = initialize(Model(run.model_config_made), 0)
    found = accuracy(model, heldout_passes(task, 40))
    monkeypatch.setattr(learning, "ROWS_AT_ONCE", 16)

    assert accuracy(model, heldout_passes(task, 40)) == found
    assert 0 < found[0] < 1


def result(peak, loss, steps=100):
    return Result([Score(steps, 1, peak, peak, loss)], {}, 1, 1.0)


def test_the_rate_is_chosen_by_the_training_loss_and_an_edge_is_said():
    request = plan(arms={"kda": ["kda"]}, rates=[1e-4, 1e-3, 1e-2], seeds=[0, 1])
    losses = {1e-4: 2.0, 1e-3: 1.0, 1e-2: 0.5}
    results = {run.name: result(0.9 - run.rate, losses[run.rate]) for run in known_runs(request, {})}

    (row,) = rows(request, results)

    assert row.rate == 1e-2 and row.is_at_edge and row.peaks == [0.89, 0.89] and row.steps == [None, None]
    del results[known_runs(request, {})[0].name]
    assert rows(request, results) == []


def test_a_search_goes_on_while_the_best_rate_is_an_outer_one():
    changes = dict(arms={"kda": ["kda"]}, rates=[1e-4, 1e-3, 1e-2], seeds=[0, 1], search={"seed": 7, "most_rates": 5})
    request = plan(**changes)
    results = {}

    def learn(losses):
        """All runs that are known, with the losses of their rates; returns (seed, rate) of each."""
        new = [run for run in known_runs(request, results) if run.name not in results]
        results.update({run.name: result(0.5, losses[run.rate]) for run in new})
        return [(run.seed, run.rate) for run in new]

    losses = {1e-4: 3.0, 1e-3: 2.0, 1e-2: 1.0, 1e-1: 2.0}
    assert attempts(request, results)[0].num_unknown == 2
    assert learn(losses) == [(7, 1e-4), (7, 1e-3), (7, 1e-2)] and rows(request, results) == []
    assert learn(losses) == [(7, 1e-1)]
    assert learn(losses) == [(0, 1e-2), (1, 1e-2)]
    assert learn(losses) == []
    (row,) = rows(request, results)
    assert row.rate == 1e-2 and not row.is_at_edge and len(row.peaks) == 2

    results = {}
    falling = {1e-4: 1.0, 1e-3: 2.0, 1e-2: 3.0, 1e-5: 0.5, 1e-6: 0.2}
    assert [learn(falling) for _ in range(5)][1:] == [[(7, 1e-5)], [(7, 1e-6)], [(0, 1e-6), (1, 1e-6)], []]
    (row,) = rows(request, results)
    assert row.is_at_edge and "Rates were searched with seed 7" in markdown(request, [row])


def test_runs_of_a_search_do_not_end_early_and_those_that_count_do():
    request = plan(arms={"kda": ["kda"]}, rates=[1e-4, 1e-3, 1e-2], seeds=[0], search={"seed": 7}, stop_at=0.9)
    losses = {1e-4: 3.0, 1e-3: 1.0, 1e-2: 2.0}
    results = {run.name: result(0.5, losses[run.rate]) for run in known_runs(request, {})}
    assert [(run.seed, run.stop_at) for run in known_runs(request, results)] == [(7, None)] * 3 + [(0, 0.9)]


def test_without_a_search_a_rate_that_ends_a_run_early_is_the_better_one():
    request = plan(arms={"kda": ["kda"]}, rates=[1e-4, 1e-3, 1e-2], seeds=[0], steps=100, stop_at=0.99)
    found = {1e-4: result(1.0, 0.7, steps=40), 1e-3: result(1.0, 0.5, steps=20), 1e-2: result(0.9, 0.1)}
    (row,) = rows(request, {run.name: found[run.rate] for run in known_runs(request, {})})
    assert row.rate == 1e-3


def test_a_search_wants_a_seed_of_its_own_and_rates_that_rise():
    with pytest.raises(ConfigError, match="seed = 0 is one of seeds"):
        plan(rates=[1e-4, 1e-3, 1e-2], search={"seed": 0})
    for rates in ([1e-3, 1e-4, 1e-2], [1e-4, 1e-3]):
        with pytest.raises(ConfigError, match="three rates or more that rise"):
            plan(rates=rates, search={"seed": 7})


def test_a_run_that_diverges_is_a_result_and_its_rate_the_worst(tmp_path, monkeypatch):
    request = plan(arms={"kda": ["kda"]}, rates=[1e-3, 2e-3], seeds=[0])
    high = known_runs(request, {})[1]

    def diverge(self, *arguments):
        raise DivergedError("step 1: the loss is nan")

    monkeypatch.setattr(Trainer, "run", diverge)
    found = learn(high, tmp_path)

    assert found.diverged and found.peak == 0.0 and found.lowest_loss == math.inf
    assert read_result(tmp_path / f"{high.name}.json") == found
    results = {known_runs(request, {})[0].name: result(0.5, 3.0), high.name: found}
    assert rows(request, results)[0].rate == 1e-3


def test_arms_whose_seeds_diverged_are_marked_and_drawn_where_there_is_something(tmp_path):
    request = plan(arms={"kda": ["kda"], "twin": ["softmax"]}, rates=[1e-3], seeds=[0, 1])
    gone = Result([], {}, 1, 1.0, diverged=True)
    halves = iter([gone, result(0.95, 0.1, steps=2)])
    results = {
        run.name: result(0.5, 3.0) if run.layers == ("kda",) else next(halves) for run in known_runs(request, {})
    }
    found = rows(request, results)
    assert [row.diverged for row in found] == [0, 1] and "| twin | 0.001 (1 of 2 seeds diverged) |" in markdown(
        request, found
    )
    draw(found, tmp_path)
    nothing = rows(request, {run.name: gone for run in known_runs(request, {})})
    assert [row.diverged for row in nothing] == [2, 2] and [row.peak for row in nothing] == [0.0, 0.0]
    draw(nothing, tmp_path)
    draw([found[0], nothing[1]], tmp_path)


def test_rates_of_muon_stay_below_one_however_far_a_search_goes():
    changes = dict(arms={"kda": ["kda"]}, search={"seed": 7}, seeds=[0], optimizer="muon")
    for rates, highest in (([1e-3, 1e-2, 1e-1], 0.6667), ([1e-3, 1.4e-2, 1.99e-1], 0.99)):
        request = plan(rates=rates, **changes)
        results = {run.name: result(0.5, 1 / run.rate) for run in known_runs(request, {})}
        assert max(run.matrix_rate for run in known_runs(request, results)) == highest


def test_a_rate_that_ends_more_seeds_early_is_the_better_one():
    request = plan(arms={"kda": ["kda"]}, rates=[1e-4, 1e-3, 1e-2], seeds=[0, 1], steps=100, stop_at=0.99)
    found = {
        1e-4: [result(1.0, 0.9, steps=60), result(1.0, 0.9, steps=60)],
        1e-3: [result(1.0, 0.1, steps=10), result(0.97, 0.05)],
        1e-2: [result(0.8, 0.01), result(0.8, 0.01)],
    }
    (row,) = rows(request, {run.name: found[run.rate][run.seed] for run in known_runs(request, {})})
    assert row.rate == 1e-4


def verb(*arguments):
    return CliRunner().invoke(typer.main.get_command(app), ["eval", "synthetic", *map(str, arguments)])


def test_the_verb_learns_everything_and_writes_a_report(tmp_path):
    file, out = tmp_path / "plan.toml", tmp_path / "out"
    file.write_text(
        """
arms = { hybrid = ["kda", "softmax"] }
rates = [1e-2]
steps = 4
examples_per_step = 8
score_every = 2
test_examples = 8
test_lengths = [16]
tasks = [{ kind = "copy", length = 8, symbols = 3 }]
sizes = { hidden_dim = 16, num_heads = 1, head_dim = 16, mlp_dim = 32 }
"""
    )
    assert "to do" in verb(file, "--out", out, "--dry-run").output and not out.exists()

    done = verb(file, "--out", out)

    assert done.exit_code == 0 and "step 4" in done.output
    assert "| copy | 8 | hybrid | 0.01 |" in (out / "report.md").read_text()
    assert "![best scores by length](peaks.png)" in (out / "report.md").read_text()
    for name in ("peaks.png", "curves.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG" and name in done.output
    (kept,) = out.glob("copy-8-*.json")
    assert set(json.loads(kept.read_text())["by_length"]) == {"16"}
    assert "finished" in verb(file, "--out", out, "--dry-run").output
    with pytest.raises(ConfigError, match=r"plan\.toml: .*rates.0 = 2"):
        CliRunner().invoke(
            typer.main.get_command(app),
            ["eval", "synthetic", str(file), "--out", str(out), "--set", "rates=[2]"],
            catch_exceptions=False,
        )


@pytest.mark.parametrize("name", ["mqar-small"])
def test_shipped_plans_are_read(name):
    found = read_recipe(Path(__file__).parents[2] / "recipes" / "synthetic" / f"{name}.toml", (), Plan)

    assert len(known_runs(found, {})) == 1


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"arms": {"x": ["kda2"]}}, "kda2"),
        ({"tasks": [{"kind": "mqr", "length": 8}]}, "mqr"),
        ({"rates": [1e-3, 1e-3]}, "rates has a number twice"),
        ({"test_lengths": [9]}, "copy has no examples of length 9"),
    ],
)
def test_a_wrong_plan_is_an_error_before_anything_is_learnt(changes, text):
    with pytest.raises(ConfigError, match=text):
        plan(**changes)
