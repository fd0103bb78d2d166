"""What a run's folder can suffer: each is one clear message or no harm at all, and nothing is lost."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from drills import LOOK_AGAIN, PATIENCE, Process, curve, finished, num_lines
from test_full_disk import LIMITS, everything, leftovers, no_file_over
from test_preferences import TEMPLATE, config, pair, small_model
from tiny_run import CONFIG, RECIPE, tiny_store, tiny_trainer, write_text_folder
from tiny_text import byte_tokenizer

from hyla.checkpoints import save_model
from hyla.errors import CheckpointError, ConfigError
from hyla.train.config import AverageConfig, HeldoutConfig, TrainConfig
from hyla.train.model_source import ModelSource, StackRecipe
from hyla.train.preferences import DPOConfig
from hyla.train.run import RUN_FILE, RunRequest, open_run
from hyla.train.run_data import DataSource
from hyla.train.run_state import finished_states

FULL = CONFIG.model_copy(
    update={
        "steps": 4,
        "checkpoint_every": 2,
        "dtype": "bf16",
        "average": AverageConfig(kind="ema", decay=0.5),
        "heldout": HeldoutConfig(every=1, tokens=100),
    }
)
"""A run with every file that a run can have."""


def quiet(line):
    pass


def full_trainer(folder, train=FULL):
    trainer = tiny_trainer(folder, train)
    trainer.heldout = tiny_store(3)
    return trainer


@pytest.fixture
def texts(tmp_path):
    return write_text_folder(tmp_path / "texts")


@pytest.fixture
def request_of_texts(texts):
    return RunRequest(model=ModelSource(hybrid=RECIPE), data=DataSource(texts=str(texts)), train=CONFIG)


@pytest.fixture
def preferences(tmp_path):
    """A request for preference optimisation, with its model and pairs."""
    tokenizer = byte_tokenizer(TEMPLATE)
    save_model(small_model(tokenizer), tmp_path / "start", tokenizer=tokenizer)
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(pair(number)) for number in range(6)))
    return RunRequest(
        model=ModelSource(start_from=str(tmp_path / "start")),
        dpo=DPOConfig(pairs=str(tmp_path / "pairs.jsonl"), pairs_per_step=2),
        train=config(steps=4, max_document_tokens=300),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    full_trainer(folder).run()
    return folder


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_spares_averages_and_held_out_scores(tmp_path, undisturbed, limit):
    stopped = full_trainer(tmp_path)
    stopped.run(is_stopped=lambda: stopped.finished_steps == 2)
    (first,) = finished_states(tmp_path / "checkpoints")
    before = everything(first)
    assert "average.safetensors" in before
    trainer = full_trainer(tmp_path)
    trainer.resume()
    try:
        with no_file_over(limit):
            trainer.run()
    except CheckpointError as error:
        assert "cannot write" in str(error) and "free some space" in str(error)
        assert finished_states(tmp_path / "checkpoints") == [first]
    assert everything(first) == before and leftovers(tmp_path) == []
    again = full_trainer(tmp_path)
    assert again.resume() >= 2
    again.run()
    assert curve(tmp_path) == curve(undisturbed)


@pytest.mark.parametrize("limit", [0, 10, 60])
def test_a_full_disk_leaves_no_half_reference(tmp_path, preferences, limit):
    run = open_run(tmp_path / "run", preferences, quiet)
    with no_file_over(limit), pytest.raises(CheckpointError, match=r"cannot write .*reference.*free some space"):
        run.trained(quiet, quiet)
    assert not list(run.folder.glob("*reference*")) and leftovers(run.folder) == []
    assert run.trained(quiet, quiet).is_finished


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_a_damaged_reference_is_one_clear_error(tmp_path, preferences, damage):
    run = open_run(tmp_path / "run", preferences, quiet)
    run.trained(quiet, quiet)
    file = run.folder / "reference.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8] if damage is None else damage)
    with pytest.raises(CheckpointError, match=r"reference.safetensors is damaged .* delete it: it is computed again"):
        run.trained(quiet, quiet)
    file.unlink()
    assert run.trained(quiet, quiet).is_finished
    assert file.read_bytes() == whole


def test_a_start_model_that_changed_is_one_clear_error(tmp_path, preferences):
    run = open_run(tmp_path / "run", preferences, quiet)
    run.trained(quiet, quiet)
    before = everything(run.folder)
    tokenizer = byte_tokenizer(TEMPLATE)
    save_model(small_model(tokenizer, seed=2), tmp_path / "start", tokenizer=tokenizer)
    with pytest.raises(ConfigError, match=r"start, with which the run in .*run began, has other weights now"):
        run.trained(quiet, quiet)
    assert everything(run.folder) == before


@pytest.mark.parametrize("name", ["average.safetensors", "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_of_a_checkpoint_costs_the_steps_since_the_one_before(tmp_path, undisturbed, name, damage):
    shutil.copytree(undisturbed, tmp_path / "run")
    file = finished_states(tmp_path / "run" / "checkpoints")[-1] / name
    blob = bytearray(file.read_bytes())
    if damage == "flipped":
        blob[len(blob) // 2] ^= 1
    file.write_bytes(blob[:-5] if damage == "cut" else blob)
    if damage == "gone":
        file.unlink()
    trainer, said = full_trainer(tmp_path / "run"), []
    assert trainer.resume(said.append) == 2
    assert len(said) == 1 and "is damaged" in said[0] and "going on from the one before" in said[0]
    trainer.run()
    assert curve(tmp_path / "run") == curve(undisturbed)


@pytest.mark.parametrize("name", ["metrics.jsonl", "heldout.jsonl"])
def test_a_damaged_line_is_named_and_a_torn_last_one_is_dropped(tmp_path, undisturbed, name):
    shutil.copytree(undisturbed, tmp_path / "run")
    file = tmp_path / "run" / name
    whole = file.read_text()
    file.write_text(whole[:-9])
    full_trainer(tmp_path / "run").resume()
    assert file.read_text() == "".join(whole.splitlines(keepends=True)[:-1])
    file.write_bytes(b"\0\0\0\n" + whole.encode())
    with pytest.raises(CheckpointError, match=rf"{name}, line 1 is damaged .*; remove that line"):
        full_trainer(tmp_path / "run").resume()
    assert file.read_bytes().endswith(whole.encode())


def changed(request, **train):
    return request.model_copy(update={"train": TrainConfig(**{**request.train.model_dump(), **train})})


STACK = StackRecipe(hidden_dim=32, modules={"a": {"kind": "mlp", "intermediate_dim": 8}}, layers=("a",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: changed(r, learning_rate=0.5), r"train.learning_rate = 0.003, not 0.5"),
        (lambda r: changed(r, average={"kind": "ema"}), r"train.average = None, not None|train.average"),
        (lambda r: changed(r, dtype="bf16"), "train.dtype = fp32, not bf16"),
        (lambda r: r.model_copy(update={"model": ModelSource(stack=STACK)}), "model.hybrid"),
        (lambda r: r.model_copy(update={"data": DataSource(heldout_share=0.5)}), "data.texts"),
        (lambda r: r.model_copy(update={"minutes": 3.0}), "minutes = None, not 3.0"),
    ],
)
def test_another_recipe_for_a_folder_names_the_key_that_differs(tmp_path, request_of_texts, change, words):
    open_run(tmp_path / "run", request_of_texts, quiet)
    before = everything(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"holds a run with .*({words}).*choose another --out"):
        open_run(tmp_path / "run", change(request_of_texts), quiet)
    assert everything(tmp_path / "run") == before
    open_run(tmp_path / "run", request_of_texts, quiet)


@pytest.mark.parametrize("found", [1, None, "3"])
def test_a_run_of_another_format_says_who_can_finish_it(tmp_path, request_of_texts, found):
    open_run(tmp_path / "run", request_of_texts, quiet)
    file = tmp_path / "run" / RUN_FILE
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "format": found}))
    with pytest.raises(CheckpointError, match=r"holds a run of format .*; finish it with the version that began it"):
        open_run(tmp_path / "run", request_of_texts, quiet)


@pytest.mark.parametrize("name", [RUN_FILE, "tokens.safetensors", "heldout.json", "tokenizer/tokenizer.json"])
def test_a_damaged_file_of_a_run_is_named(tmp_path, request_of_texts, name):
    open_run(tmp_path / "run", request_of_texts, quiet)
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=file.name):
        open_run(tmp_path / "run", request_of_texts, quiet)


SMALL = """
[model.hybrid]
pattern = "K"
vocab_size = 300
hidden_dim = 32
[data]
texts = "texts"
heldout_share = 0.2
"""


@pytest.fixture
def endless(tmp_path, texts):
    """A recipe of more steps than anyone waits for, and its folder."""
    recipe = tmp_path / "endless.toml"
    recipe.write_text(f"{SMALL}[train]\nsteps = 1000000\nbatch_tokens = 96\ncheckpoint_every = 5\n")
    return recipe, tmp_path / "run"


def wait_for_lines(run: Path, count: int, process: Process) -> None:
    end = time.monotonic() + PATIENCE
    while num_lines(run) < count:
        assert process.is_alive and time.monotonic() < end, process.said()
        time.sleep(LOOK_AGAIN)


def test_a_second_process_on_a_folder_is_refused_and_the_first_goes_on(endless):
    recipe, run = endless
    first = Process(recipe, run)
    try:
        wait_for_lines(run, 2, first)
        second = Process(recipe, run)
        assert second.exit_status() == 1
        said = " ".join(second.said().split())
        assert "another process works in" in said and "Traceback" not in said
        wait_for_lines(run, num_lines(run) + 3, first)
    finally:
        first.send(signal.SIGINT)
    assert first.exit_status() == 130
    steps = [line["step"] for line in curve(run)]
    assert steps == list(range(1, len(steps) + 1)) and (run / "model" / "config.json").exists()


def test_what_a_kill_left_of_a_saved_model_goes_with_the_next_one(tmp_path, texts):
    recipe = tmp_path / "short.toml"
    recipe.write_text(f"{SMALL}[train]\nsteps = 1\nbatch_tokens = 96\n")
    run = finished(recipe, tmp_path / "run")
    (run / ".model-abc").mkdir()
    (run / ".model-abc" / "model.safetensors").write_bytes(b"half")
    finished(recipe, run)
    assert not list(run.glob(".model-*"))
