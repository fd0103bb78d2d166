"""A study's file, and the runs that follow from it, before anything is run."""

import re
from pathlib import Path

import pytest
from small_study import STUDY, write_study

from hyla.cost.training import train_flops_per_token
from hyla.errors import ConfigError
from hyla.evals.synthetic.attempts import known_runs
from hyla.study.arms import ArmPlan, Grid, arms_of, modules_of
from hyla.study.files import read_study
from hyla.study.ledger import Ledger
from hyla.study.mixture import StudySource, first_ids, num_ids
from hyla.study.plan import SyntheticStudy
from hyla.study.run_key import FLOPS_TOLERANCE, VERSION, text_of
from hyla.study.sizes import LADDER, mixers_of
from hyla.study.stages import progress
from hyla.study.text import TEXT_IDS, read_text
from hyla.study.tuning import Tuned, next_rates, rate_at


def study_of(tmp_path, *changes):
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return read_study(write_study(tmp_path, text))


@pytest.mark.parametrize(
    ("placement", "layers"),
    [
        ("last", "kkkfkkkf"),
        ("first", "fkkkfkkk"),
        ("middle", "kfkkkfkk"),
        ("front", "ffkkkkkk"),
        ("back", "kkkkkkff"),
    ],
)
def test_full_layers_stand_where_the_placement_says(placement, layers):
    (arm,) = arms_of(Grid(mixers=("kda",), ratios=("3:1",), placements=(placement,)), {})
    found = arm.layers(LADDER["w64"])
    assert "".join("f" if name == "softmax" else "k" for name in found) == layers


def test_a_grid_has_every_mixer_ratio_and_placement_and_full_attention_once():
    grid = Grid(mixers=("kda", "gla"), ratios=("0:1", "1:1", "1:0"), placements=("last", "first"))
    names = [arm.name for arm in arms_of(grid, {})]
    assert names == [
        "softmax only",
        "kda 1:1 last",
        "kda 1:1 first",
        "kda 1:0",
        "gla 1:1 last",
        "gla 1:1 first",
        "gla 1:0",
    ]


@pytest.mark.parametrize("ratio", ["3", "0:0", "a:b", "-1:1", "100:1"])
def test_what_is_no_ratio_is_refused(ratio):
    with pytest.raises(ConfigError, match="linear to full layers"):
        Grid(mixers=("kda",), ratios=(ratio,))


def test_an_arm_that_is_like_another_has_its_changes_too():
    plans = {
        "base": ArmPlan(layers=("kda",), changes={"kda.conv_len": 2}),
        "other": ArmPlan(like="base", changes={"kda.output_gate": "none"}),
    }
    assert arms_of(None, plans)[1].changes == {"kda.conv_len": 2, "kda.output_gate": "none"}
    with pytest.raises(ConfigError, match="'lost' is like 'nobody', which is none of base"):
        arms_of(None, {"base": plans["base"], "lost": ArmPlan(like="nobody")})


def test_all_arms_cost_the_budget_within_one_in_a_hundred(tmp_path):
    study = study_of(tmp_path)
    runs = progress(study, Ledger(tmp_path / "runs")).final
    assert {run.arm for run in runs} == {"softmax only", "kda 1:1"} and len({run.steps for run in runs}) == 2
    for run in runs:
        config = run.model_config_made
        task, text = (train_flops_per_token(config, length) for length in (32, 64))
        assert 0.8 < run.flops / (run.steps * 128 * (task + text)) < 1  # few pieces of text are whole
        assert abs(run.flops / run.budget - 1) <= FLOPS_TOLERANCE


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("batch_tokens = 256", "batch_tokens = 8192", "cannot be matched: a step costs"),
        ('ratios = ["0:1", "1:1"]', 'ratios = ["0:1", "2:1"]', "2 layers are no multiple of its group of 3"),
        ('kind = "recall"', 'kind = "recal"', "recal"),
        ('reference = "softmax only"', 'reference = "full"', "'full' is none of the arms: softmax only, kda 1:1"),
        ("seeds = [0, 1]", "seeds = [0, 1000]", "rates need a seed of their own"),
        ("budgets = [8.28e8]", "budgets = [5e8]", "no budget of points"),
        ("task_share = 0.5", "task_share = 0.9", "left for text, less than one piece"),
        ("task_share = 0.5\n", "task_share = 0.5\nfrobnicate = 1\n", "frobnicate"),
        ("task_share = 0.5\n", "", "tasks and task_share go together"),
        ("rates = [1e-3, 3e-3, 9e-3]", "rates = [3e-3, 1e-3, 9e-3]", "rates must rise"),
        ("[tasks.recall]", '[arms.x]\nlike = "kda 1:1"\nchanges = { "kda.taps" = 2 }\n[tasks.recall]', "taps"),
        ("[tasks.recall]", '[arms.x]\nlike = "kda 1:1"\nchanges = { "gdn.taps" = 2 }\n[tasks.recall]', "gdn"),
        ("[tasks.recall]", '[arms.x]\nlayers = ["kdb"]\n[tasks.recall]', "kdb"),
        ("sizes = [{ hidden_dim = 16,", 'sizes = ["w65"]\nx = [{ hidden_dim = 16,', "w65"),
    ],
)
def test_what_cannot_be_is_an_error_before_anything_is_run(tmp_path, old, new, text):
    with pytest.raises(ConfigError, match=text):
        progress(study_of(tmp_path, (old, new)), Ledger(tmp_path / "runs"))


def test_test_tasks_have_the_ids_of_a_trained_one(tmp_path):
    longer = '[test_tasks.longer]\nkind = "recall"\nlength = 48\nkeys = 16\nvalues = 8\n\n[tasks.recall]'
    assert study_of(tmp_path, ("[tasks.recall]", longer)).test_tasks["longer"].length == 48
    with pytest.raises(ConfigError, match="is like none of the trained tasks"):
        study_of(tmp_path, ("[tasks.recall]", longer.replace("values = 8", "values = 9")))


def test_false_in_the_place_of_a_table_takes_it_out_for_all_arms_or_one(tmp_path):
    size = LADDER["w64"]
    whole = modules_of(size, {}, {})["softmax"]
    for without in (modules_of(size, {"softmax": {"rope": False}}, {}), modules_of(size, {}, {"softmax.rope": False})):
        assert "rope" in whole and without["softmax"] == {k: v for k, v in whole.items() if k != "rope"}
    twice = modules_of(size, {"softmax": {"rope": False}}, {"softmax.rope": False})
    assert "rope" not in twice["softmax"]


def test_tasks_of_one_kind_whose_ids_mean_the_same_share_them(tmp_path):
    form = 'kind = "recall"\nlength = {}\nkeys = {}\nvalues = {}\n\n'
    more = f"[tasks.longer]\n{form.format(48, 16, 8)}[tasks.other]\n{form.format(48, 17, 7)}[tasks.recall]"
    study = study_of(tmp_path, ("[tasks.recall]", more))
    run = study.run(study.all_arms[0], study.points[0].sizes[0], 1e12, 1e-3, 0, data="0")
    tasks = run.tasks
    first = first_ids(tasks)
    assert set(tasks) == {"longer", "other", "recall"} and first["longer"] == first["recall"] != first["other"]
    assert min(first.values()) == TEXT_IDS == num_ids({})
    assert run.vocab_size == num_ids(tasks) == TEXT_IDS + tasks["recall"].vocab_size + tasks["other"].vocab_size
    source = StudySource(
        text_of(run).train, tasks, run.task_examples, tokens=run.batch_tokens, length=run.length, seed=run.seed
    )
    assert TEXT_IDS <= source.step(0).tokens_T.max() < run.vocab_size


def test_a_run_is_named_by_all_that_its_result_is_a_function_of(tmp_path):
    run = progress(study_of(tmp_path), Ledger(tmp_path / "runs")).final[0]
    assert run.model_copy(update={"arm": "another label"}).digest == run.digest
    size = run.size.model_copy(update={"mlp_dim": 32})
    changed = {"rate": 0.1, "seed": 7, "budget": 5e8, "layers": ("kda", "kda"), "data": "0", "size": size}
    changed |= {"dtype": "bf16", "changes": {"softmax.output_gate": False}, "test_examples": 9, "length": 128}
    changed |= {"task_share": 0.25, "test_tasks": {"longer": run.tasks["recall"]}}
    digests = [run.model_copy(update={name: value}).digest for name, value in changed.items()]
    assert len({run.digest, *digests}) == 1 + len(changed)


def test_validation_test_and_training_share_no_file(tmp_path):
    write_study(tmp_path)
    text = read_text(tmp_path / "texts")
    parts = [text.train, text.validation, text.test]
    assert all(len(part.ends) for part in parts) and sum(len(part.ends) for part in parts) == 60
    documents = [
        tuple(part.tokens[first:last].tolist())
        for part in parts
        for first, last in zip([0, *part.ends.tolist()], part.ends.tolist())
    ]
    assert len(set(documents)) == 60 and all(document[-1] == 256 for document in documents)


def test_rates_go_on_until_the_best_one_is_inside(tmp_path):
    tuning = study_of(tmp_path).tuning
    assert tuning is not None
    assert next_rates(tuning, {}) == (1e-3, 3e-3, 9e-3)
    assert next_rates(tuning, {1e-3: 2.0, 3e-3: 1.5, 9e-3: 1.8}) == ()
    assert next_rates(tuning, {1e-3: 2.0, 3e-3: 1.8, 9e-3: 1.5}) == (0.027,)
    assert next_rates(tuning, {1e-3: 1.0, 3e-3: 1.8, 9e-3: None}) == (0.000333,)
    many = {1e-3: 2.0, 3e-3: 1.8, 9e-3: 1.5, 0.027: 1.4}
    assert next_rates(tuning, many) == () and Tuned("a", 1.0, many).is_at_edge
    assert not Tuned("a", 1.0, {**many, 0.081: None}).is_at_edge


def test_a_larger_budget_gets_a_lower_rate(tmp_path):
    tuning = study_of(tmp_path).tuning
    tuned = {4e8: Tuned("a", 4e8, {1e-3: 2.0, 3e-3: 1.5, 9e-3: 1.8})}
    assert rate_at(tuning, tuned, 4e8)[0] == 3e-3
    assert rate_at(tuning, tuned, 256 * 4e8)[0] == pytest.approx(3e-3 / 2)


def test_every_mixer_of_every_rung_is_a_model():
    for size in LADDER.values():
        for name, module in mixers_of(size).items():
            assert module["kind"] in (name, "softmax"), name
    assert mixers_of(LADDER["w96"])["softmax"]["num_kv_heads"] == 1


def test_a_run_computes_what_it_is_charged_with(tmp_path):
    study = study_of(tmp_path, ("8.28e8", "1.6e9"))
    runs = progress(study, Ledger(tmp_path / "runs")).final
    assert len(runs) == 4
    run = next(run for run in runs if run.arm == "softmax only")
    source = StudySource(
        text_of(run).train, run.tasks, run.task_examples, tokens=run.batch_tokens, length=run.length, seed=run.seed
    )
    lengths = [rows for step in range(run.steps) for rows in source.step(step).lengths]
    computed = sum(rows * train_flops_per_token(run.model_config_made, rows) for rows in lengths)
    assert 0.995 < computed / run.flops < 1.005
    whole = run.tokens * train_flops_per_token(run.model_config_made, run.length)
    assert computed < 0.98 * whole


def test_arms_that_keep_the_budget_and_not_each_other_are_refused(tmp_path):
    study = study_of(tmp_path, ("8.28e8", "5.21e8"))
    with pytest.raises(ConfigError, match=r"'kda 1:1' cannot be matched at budget 5.21e.08.*more than 1% apart"):
        progress(study, Ledger(tmp_path / "runs"))


@pytest.mark.parametrize("name", ["", "a|b", "x" * 61, "two\nlines", "$x$"])
def test_a_name_that_tables_and_plots_cannot_show_is_refused(name):
    with pytest.raises(ConfigError, match="an arm is called"):
        arms_of(None, {name: ArmPlan(layers=("kda",))})


def test_names_that_are_one_in_files_are_refused():
    grid = Grid(mixers=("kda",), ratios=("3:1",))
    with pytest.raises(ConfigError, match="'kda 3:1' and 'KDA-3-1' are one name in files"):
        arms_of(grid, {"KDA-3-1": ArmPlan(layers=("kda",))})


def test_an_ablation_may_change_a_table(tmp_path):
    own = '[arms.turned]\nlike = "softmax only"\nchanges = { "softmax.rope" = { rotary_dim = 2, theta = 100.0 } }\n'
    study = study_of(tmp_path, ('"0:1", "1:1"', '"0:1"'), ("[tuning]", f"{own}\n[tuning]"))
    assert study.is_ablation


def test_an_arm_may_have_other_start_values_and_nothing_else_of_the_model(tmp_path):
    def runs(value, field="init_std"):
        own = f'[arms.other]\nlike = "softmax only"\nchanges = {{ "model.{field}" = {value} }}\n'
        study = study_of(tmp_path, ('"0:1", "1:1"', '"0:1"'), ("[tuning]", f"{own}\n[tuning]"))
        assert study.is_ablation
        return progress(study, Ledger(tmp_path / "runs")).final

    plain, other, *_ = sorted(runs("0.5"), key=lambda run: run.arm)
    found = {run.arm: run.model_config_made.init_std for run in runs("0.5")}
    assert found == {"softmax only": 0.02, "other": 0.5} and plain.digest != other.digest
    assert {run.model_config_made.init_std for run in runs('"width"')} == {0.02, 16**-0.5}
    with pytest.raises(ConfigError, match=r"change model\.max_len: of the whole model, init_std can be changed"):
        _ = runs("3", "max_len")[-1].model_config_made


PINNED = {
    "matrix_learning_rate": 1e-3 * 20 / 3,
    "muon_unit": "matrix",
    "state_dtype": "fp32",
    "schedule": "wsd",
    "warmup_fraction": 0.03,
    "decay_fraction": 0.7,
    "final_rate_fraction": 0.05,
    "average": None,
    "weight_decay": 0.05,
    "beta1": 0.9,
    "beta2": 0.95,
    "momentum": 0.95,
    "clip_norm": 1.0,
    "z_loss": 0.0,
    "mtp_weight": 0.0,
}


def test_what_a_run_trains_with_besides_its_key_is_that_of_this_version(tmp_path):
    """Results of other defaults are no results of these: who changes one gives runs another VERSION."""
    run = progress(study_of(tmp_path), Ledger(tmp_path / "runs")).final[0].model_copy(update={"rate": 1e-3})
    table = run.train_config(100).model_dump(mode="json")
    assert VERSION == 1 and {name: table[name] for name in PINNED} == PINNED


def test_a_search_goes_down_where_every_rate_diverged(tmp_path):
    tuning = study_of(tmp_path).tuning
    assert tuning is not None
    found = dict.fromkeys(tuning.rates)
    (lower,) = next_rates(tuning, found)
    assert lower < min(tuning.rates)
    assert Tuned("a", 1e9, found | {lower: None}).is_at_edge


def test_a_kind_that_is_no_word_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is none of language, synthetic"):
        read_study(write_study(tmp_path), ["kind=[1]"])


SYNTHETIC = """
kind = "synthetic"
question = "Which?"

[plan]
arms = { kda = ["kda"], ARM = ["MIXER"] }
steps = 6

[[plan.tasks]]
kind = "palindrome"
length = 64
symbols = 16
"""


@pytest.mark.parametrize(
    ("arm", "mixer", "told"),
    [
        ("twin", "kda", "arms 'kda' and 'twin' have the same layers"),
        ('"a|b"', "gla", "an arm is called 'a|b'"),
        ("KDA", "gla", "arms 'kda' and 'KDA' are one name in files"),
    ],
)
def test_arms_of_a_synthetic_study_differ(tmp_path, arm, mixer, told):
    text = SYNTHETIC.replace("ARM", arm).replace("MIXER", mixer)
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_study(write_study(tmp_path, text))


def test_a_task_of_a_synthetic_study_stands_in_it_once(tmp_path):
    text = SYNTHETIC.replace("ARM", "other").replace("MIXER", "gla")
    assert len(known_runs(read_study(write_study(tmp_path, text)).plan, {})) == 8
    with pytest.raises(ConfigError, match="tasks has one twice: palindrome of 64 tokens"):
        read_study(write_study(tmp_path, text + text[text.index("[[plan") :]))


SHIPPED = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_studies_are_whole(file):
    """Each is read, its arms are models that differ, and every run has a name of its own."""
    study = read_study(file)
    if isinstance(study, SyntheticStudy):
        arms, runs = len(study.plan.arms), known_runs(study.plan, {})
    else:
        arms, places = len(study.all_arms), [(point, size) for point in study.points for size in point.sizes]
        runs = [study.run(arm, size, point.budget, 1e-3, 0, "0") for point, size in places for arm in study.all_arms]
    assert all(run.model_config_made.vocab_size for run in runs)
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) >= arms > 1
