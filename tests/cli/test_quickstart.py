"""The first ten minutes: what the quickstart finds depends on its seed, and Ctrl-C keeps what there is."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner
from known_models import only_index
from tiny_training import TINY, write_text

from hyla.checkpoints import load_tokenizer
from hyla.checkpoints.card import read_card
from hyla.cli import quickstart as verb
from hyla.cli.app import app
from hyla.cli.interrupts import STATUS, stopped_by_ctrl_c
from hyla.cli.training import DEFAULT_STEPS, make_request
from hyla.errors import CheckpointError
from hyla.train.card import EXAMPLE_CHARS, STDLIB_EXAMPLES
from hyla.train.run import read_run

COMMAND = typer.main.get_command(app)
BUSY = "while True: pass"
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "letters")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "tiny.toml"
    file.write_text(TINY.replace("steps = 4", "steps = 12"))
    return file


@pytest.fixture
def beside_a_busy_loop():
    loop = subprocess.Popen([sys.executable, "-c", BUSY])
    yield
    loop.kill()
    loop.wait()


@pytest.fixture(scope="module")
def quiet(data, config, tmp_path_factory):
    """A finished tiny quickstart's folder."""
    return finished(tmp_path_factory.mktemp("quiet") / "run", data, config)


def finished(out, data, config):
    verb.make_run(out, make_request(data, config=config, minutes=None, steps=None, seed=0), "cpu")
    return out


def found(out):
    return json.loads((out / "report.json").read_text())


def test_the_default_is_a_number_of_steps_and_no_time():
    request = make_request(None, config=None, minutes=None, steps=None, seed=0)
    assert request.minutes is None and request.train.steps == DEFAULT_STEPS
    timed = make_request(None, config=None, minutes=3.0, steps=None, seed=0)
    assert timed.minutes == 3.0


def test_a_busy_neighbour_changes_no_bit_of_what_is_found(quiet, data, config, tmp_path, beside_a_busy_loop):
    busy = finished(tmp_path / "busy", data, config)
    assert found(busy)["bits_per_byte"] == found(quiet)["bits_per_byte"]
    assert found(busy)["completion"] == found(quiet)["completion"]
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (busy, quiet)]
    assert weights[0] == weights[1]


def test_the_model_is_a_base_model_with_a_card_and_examples_of_its_own_text(quiet, data):
    card = read_card(quiet / "model")
    assert load_tokenizer(quiet / "model").chat_template is None
    assert card.training.steps == card.training.planned_steps == 12 and card.training.tokens == 12 * 128
    assert card.training.data.startswith("the folder letters: ") and str(data) not in card.model_dump_json()
    assert card.heldout.bits_per_byte == found(quiet)["bits_per_byte"]["trained"]
    scores = found(quiet)["bits_per_byte"]
    assert card.heldout.gzip_bits_per_byte == min(scores["gzip_files"], scores["gzip_whole"])
    heldout = {document.text for document in read_run(quiet).heldout}
    assert card.examples and all(any(text.strip().startswith(own) for text in heldout) for own in card.examples)
    assert all(len(own) <= EXAMPLE_CHARS for own in (*card.examples, *STDLIB_EXAMPLES))


def test_a_finished_run_is_shown_again_with_every_context_and_a_short_sample(quiet, data, config, capsys):
    verb.show_finished(quiet, make_request(data, config=config, minutes=None, steps=None, seed=0))
    printed = capsys.readouterr().out
    assert "1,024" in printed and "65,536" in printed and "is trained already" in printed
    assert 0 < len(found(quiet)["completion"]["text"]) < 600


PRESSES = """
import os, signal
from hyla.train.loop import Trainer
update = Trainer.update
def press(trainer, step):
    if step + 1 == {step}:
        os.kill(os.getpid(), signal.SIGINT)
    return update(trainer, step)
Trainer.update = press
from hyla.cli import main
main()
"""


def interrupted(out, data, config, *, at):
    """(output, exit status) of a training that gets a Ctrl-C while it computes this step."""
    command = [sys.executable, "-c", PRESSES.format(step=at), "train", str(data), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        timeout=600,
    )
    return done.stdout, done.returncode


def test_ctrl_c_keeps_a_model_and_the_same_command_goes_on_bit_for_bit(data, tmp_path):
    config = tmp_path / "tiny.toml"
    config.write_text(TINY.replace("steps = 4", "steps = 60").replace("checkpoint_every = 2", "checkpoint_every = 50"))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    printed, status = interrupted(stopped, data, config, at=5)
    card = read_card(stopped / "model")
    assert status == STATUS and "Traceback" not in printed
    assert (card.training.steps, card.training.planned_steps) == (5, 60)
    last = printed.splitlines()[-1]
    assert last.startswith(f"stopped after step {card.training.steps} of 60: {card.heldout.bits_per_byte:.3f} bits")
    assert "the same command goes on" in last and f"hyla serve {stopped / 'model'}" in last
    for out in (stopped, whole):
        arguments = ["train", str(data), "--out", str(out), "--config", str(config)]
        result = CliRunner().invoke(COMMAND, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert ("continuing after step" in result.output) == (out == stopped)
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (stopped, whole)]
    assert weights[0] == weights[1] and read_card(stopped / "model").training.steps == 60


def test_a_stopped_quickstart_is_kept_and_not_served(data, config, tmp_path, monkeypatch, capsys):
    """Ctrl-C while the first step is computed."""
    from hyla.train.loop import Trainer

    update = Trainer.update

    def press(trainer, step):
        os.kill(os.getpid(), signal.SIGINT)
        return update(trainer, step)

    monkeypatch.setattr(Trainer, "update", press)
    with pytest.raises(typer.Exit) as ended:
        finished(tmp_path / "run", data, config)
    assert ended.value.exit_code == STATUS
    assert read_card(tmp_path / "run" / "model").training.steps == 1
    assert not (tmp_path / "run" / "report.json").exists()
    monkeypatch.setattr(Trainer, "update", update)
    finished(tmp_path / "run", data, config)
    assert read_card(tmp_path / "run" / "model").training.steps == 12


def test_a_second_ctrl_c_ends_at_once_and_afterwards_all_is_as_before():
    before, said = signal.getsignal(signal.SIGINT), []
    with stopped_by_ctrl_c(said.append) as is_stopped:
        assert not is_stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_stopped() and len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_on_another_thread_nothing_is_caught():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_inside).result() is False


def _inside():
    with stopped_by_ctrl_c(print) as is_stopped:
        return is_stopped()


@pytest.fixture
def served(monkeypatch):
    """What the verb would serve, without training or serving anything."""
    asked = []
    monkeypatch.setattr(verb, "make_run", lambda *arguments: None)
    monkeypatch.setattr(verb, "require_free_port", lambda *arguments: None)
    monkeypatch.setattr(verb, "start_server", lambda models, **options: asked.append(list(models)))
    return asked


def quickstart(out, *arguments):
    result = CliRunner().invoke(COMMAND, ["quickstart", "--out", str(out), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_model_that_can_talk_is_served_too(served, tmp_path, monkeypatch):
    monkeypatch.setattr("hyla.checkpoints.fetching.fetch", lambda model, quick: tmp_path / model.name)
    quickstart(tmp_path)
    assert served == [[(verb.CHAT_MODEL, verb.CHAT_MODEL), (verb.NAME, tmp_path / "model")]]


def test_without_it_one_line_says_why_and_the_rest_is_served(served, tmp_path, monkeypatch):
    def offline(model, quick):
        assert quick
        raise CheckpointError(f"{model.name} cannot be fetched: no [network]\nsecond line")

    monkeypatch.setattr("hyla.checkpoints.fetching.fetch", offline)
    printed = quickstart(tmp_path)
    assert printed.splitlines() == [
        f"serving without {verb.CHAT_MODEL}, a model that can talk: {verb.CHAT_MODEL} cannot be fetched: no [network]"
    ]
    assert served == [[(verb.NAME, tmp_path / "model")]]


def test_an_index_that_does_not_answer_costs_seconds(tmp_path, monkeypatch, capsys):
    only_index(monkeypatch, None, tmp_path / "cache")
    started = time.monotonic()
    assert verb.fetch_chat_model(True) == []
    assert time.monotonic() - started < 30, "on a busy machine; a second or two on a quiet one"
    assert capsys.readouterr().out.startswith(f"serving without {verb.CHAT_MODEL}")


def test_it_can_be_left_out(served, tmp_path, monkeypatch):
    monkeypatch.setattr("hyla.checkpoints.fetching.fetch", lambda *arguments: pytest.fail("nothing may be fetched"))
    quickstart(tmp_path, "--no-chat-model")
    assert served == [[(verb.NAME, tmp_path / "model")]]


WAITING = """
import os, sys
import hyla.cli.app
from hyla.engine.waiting_threads import SPIN_COUNT, WAIT_POLICY, load_torch
assert "torch" not in sys.modules
load_torch()
print(os.environ.get(WAIT_POLICY), os.environ.get(SPIN_COUNT), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, "GOMP_SPINCOUNT = '5000'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
    ],
)
def test_threads_that_wait_are_set_before_pytorch_and_for_this_process_only(given, shown):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PYTHONPATH": str(SOURCE), "OMP_DISPLAY_ENV": "verbose", **given}
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [*(str(given.get(name)) for name in names), "True"], done.stderr
    assert shown in done.stderr


FIRST = """
import sys
from hyla.engine import waiting_threads
def load_torch():
    print("loaded before" if "torch" in sys.modules else "first")
    sys.exit(0)
waiting_threads.load_torch = load_torch
from hyla.cli import main
main()
"""


@pytest.mark.parametrize(
    "command",
    [
        ("train", ".", "--dry-run"),
        ("train", ".", "--out", "run"),
        ("quickstart", "--out", "run", "--no-serve"),
        ("generate", "model", "words"),
        ("score", "model", "."),
        ("chat", "."),
    ],
    ids=" ".join,
)
def test_no_verb_loads_pytorch_before_it_says_how_threads_wait(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FIRST, *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.stdout == "first\n", done.stderr
