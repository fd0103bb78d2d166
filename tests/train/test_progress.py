"""What a run tells of itself: the live line, samples, figures of layers, events. None of it changes a bit."""

import io
import json
from itertools import pairwise

import pytest
import torch
from test_precision_and_passes import new_folder, poisoned, with_options
from tiny_run import CONFIG, RECIPE, tiny_store, tiny_trainer, write_text_folder

from hyla.cli import training_bar as bar_module
from hyla.cli.console import PlainConsole
from hyla.cli.training_bar import TrainingBar, fitting, on_one_line, training_bar
from hyla.cost import DEVICES, train_flops_per_token
from hyla.cost.calibration import save_calibration
from hyla.data.packing import TokenStore
from hyla.errors import ConfigError
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train import memory_use as memory_module
from hyla.train import utilisation as utilisation_module
from hyla.train.config import TrainConfig
from hyla.train.events import EventLog
from hyla.train.heldout import beginnings, continuations
from hyla.train.memory_use import MemoryUse, memory_use
from hyla.train.metrics import HeldoutMetrics, Sample, StepMetrics
from hyla.train.run import Run, RunRequest, open_run
from hyla.train.run_data import DataSource
from hyla.train.run_state import finished_states
from hyla.train.utilisation import Utilisation, mean_length, peak_of, utilisation

CPU = torch.device("cpu")
WATCHED = {
    "heldout": {"every": 2, "tokens": 100, "samples": 2, "prompt_tokens": 5, "sample_tokens": 4},
    "statistics": {"every": 3, "rows": 100},
}


def events_of(folder):
    return [(event.step, event.kind) for event in EventLog(folder / "events.jsonl").read()]


def curve(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"].hex(), line["grad_norm"].hex()) for line in found]


def run_of(folder, text_folder, **train) -> Run:
    config = TrainConfig(**{**CONFIG.model_dump(), "steps": 4, **train})
    request = RunRequest(model={"hybrid": RECIPE}, data=DataSource(texts=str(text_folder)), train=config)
    return open_run(folder, request, lambda line: None)


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "bf16", "average": {"kind": "ema", "decay": 0.7}, "micro_batch_tokens": 80}],
    ids=["fp32", "bf16, averaged, in passes"],
)
def test_watching_a_run_changes_no_bit_of_it(tmp_path, options):
    ends = []
    for name, watched in (("plain", {}), ("watched", WATCHED)):
        trainer = tiny_trainer(new_folder(tmp_path / name), with_options(**options, **watched))
        trainer.heldout = tiny_store(4)
        trainer.run()
        ends.append(finished_states(tmp_path / name / "checkpoints")[-1])
    assert curve(tmp_path / "plain") == curve(tmp_path / "watched")
    for file in ends[0].glob("*.safetensors"):
        assert file.read_bytes() == (ends[1] / file.name).read_bytes(), file.name
    assert len((tmp_path / "watched" / "statistics.jsonl").read_text().splitlines()) == 3 * 5
    assert not (tmp_path / "plain" / "statistics.jsonl").exists()


def test_a_stopped_run_has_the_samples_and_figures_of_a_whole_one(tmp_path):
    config = with_options(**WATCHED)
    whole, parts = new_folder(tmp_path / "whole"), new_folder(tmp_path / "parts")
    for folder, stops in ((whole, ()), (parts, (5, 7))):
        for stop in (*stops, config.steps):
            trainer = tiny_trainer(folder, config)
            trainer.heldout = tiny_store(4)
            trainer.resume()
            trainer.run(is_stopped=lambda: trainer.finished_steps >= stop)  # noqa: B023
    for name in ("heldout.jsonl", "statistics.jsonl"):
        assert (whole / name).read_text() == (parts / name).read_text() != ""
    assert events_of(parts) == [(0, "began"), (5, "stopped"), (5, "resumed"), (7, "stopped"), (7, "resumed"),
                                (9, "finished")]  # fmt: skip


def test_a_sample_is_the_likeliest_continuation_alone_or_beside_others():
    model = initialize(Model(RECIPE.model_config_of(300, 0)), 3)
    prompts = [[0, 5, 9, 17], [0, *range(40, 110)], [0]]
    written = continuations(model, prompts, 6)
    for prompt, found in zip(prompts, written):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model.logits([ids])[0][-1].argmax()))
        assert found == ids[len(prompt) :] == continuations(model, [prompt], 6)[0]


def test_a_sample_ends_before_the_end_of_the_text():
    model = initialize(Model(RECIPE.model_config_of(300, 0)), 3)
    whole = continuations(model, [[0, 5], [0, 6]], 6)
    end = whole[0][2]
    model.config = model.config.model_copy(update={"eos_token_ids": (end,)})
    cut = continuations(model, [[0, 5], [0, 6]], 6)
    assert cut[0] == whole[0][: whole[0].index(end)]
    assert cut[1] == whole[1][: whole[1].index(end)] if end in whole[1] else cut[1] == whole[1]


def test_documents_begin_samples_where_they_are_long_enough():
    store = TokenStore.from_lists([[0, 1, 2, 0], [0, *range(10, 20), 0], [0, 7, 0], [0, *range(20, 30), 0]])
    assert beginnings(store, 5, 3) == [[0, 10, 11], [0, 20, 21]]
    assert beginnings(store, 1, 3) == [[0, 10, 11]]
    assert beginnings(store, 1, 2) == [[0, 1]]
    assert beginnings(store, 0, 2) == []


def test_a_conversation_is_cut_where_the_model_has_to_write():
    store = TokenStore.from_lists([[0, *range(10, 20), 0], [0, *range(20, 30), 0]])
    store.learnt = torch.tensor([0] * 6 + [1] * 6 + [0] * 12, dtype=torch.uint8)
    assert beginnings(store, 2, 3) == [[0, 10, 11, 12, 13, 14]]


def test_samples_of_a_run_are_text(tmp_path):
    texts = write_text_folder(tmp_path / "texts")
    heldout = {"every": 2, "tokens": 64, "samples": 1, "prompt_tokens": 6, "sample_tokens": 5}
    run, seen = run_of(tmp_path / "run", texts, heldout=heldout), []
    run.trained(lambda line: None, lambda step: None, on_heldout=seen.append)
    assert [line.step for line in seen] == [2, 4]
    (sample,) = seen[-1].samples
    assert run.heldout[0].text.startswith(sample.prompt) and sample.prompt
    last = json.loads((tmp_path / "run" / "heldout.jsonl").read_text().splitlines()[-1])
    assert last["samples"] == [{"prompt": sample.prompt, "text": sample.text}]


def test_a_step_says_how_much_memory_there_is(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, with_options(steps=2))
    trainer.run()
    if memory_use(CPU) is not None:
        for line in trainer.metrics.read():
            assert 1 << 20 < line.memory_bytes <= line.peak_memory_bytes
    monkeypatch.setattr(memory_module, "STATUS", tmp_path / "status")
    assert memory_use(CPU) is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t     900 kB\nVmRSS:\t     700 kB\n")
    assert memory_use(CPU) == MemoryUse(700 * 1024, 900 * 1024)


def test_what_happens_to_a_run_is_written_down(tmp_path):
    trainer = poisoned(tmp_path, with_options(spikes={"action": "skip"}), 5)
    trainer.run()
    assert events_of(tmp_path) == [(0, "began"), (5, "spike"), (9, "finished")]
    trainer.run()
    assert len(events_of(tmp_path)) == 3, "there was nothing left to do"


def test_a_rollback_and_a_failure_are_written_down(tmp_path):
    back, failed = new_folder(tmp_path / "back"), new_folder(tmp_path / "failed")
    poisoned(back, with_options(spikes={"action": "rollback"}), 5).run()
    assert events_of(back) == [(0, "began"), (5, "rollback"), (9, "finished")]
    with pytest.raises(ConfigError):
        poisoned(failed, CONFIG, 5).run()
    (*_, last) = EventLog(failed / "events.jsonl").read()
    assert (last.step, last.kind) == (5, "failed") and "nan" in last.text


def test_a_damaged_checkpoint_and_another_machine_are_written_down(tmp_path):
    tiny_trainer(tmp_path, with_options(steps=8)).run()
    newest = finished_states(tmp_path / "checkpoints")[-1]
    (newest / "weights.safetensors").write_bytes(b"short")
    state = newest.parent / "step-00000004" / "state.json"
    found = json.loads(state.read_text())
    found["environment"]["torch"] = "1.0"
    state.write_text(json.dumps(found))
    said = []
    tiny_trainer(tmp_path, with_options(steps=8)).resume(said.append)
    assert events_of(tmp_path)[2:] == [(8, "damaged"), (4, "moved")]
    assert [event.text for event in EventLog(tmp_path / "events.jsonl").read()[2:]] == said


def test_an_event_survives_a_line_that_a_kill_cut_short(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.add(0, "began", "with a\nbreak")
    with log.path.open("ab") as file:
        file.write(b'{"time": "2026')
    log.add(3, "resumed", "again")
    assert [(event.step, event.text) for event in log.read()] == [(0, "with a\nbreak"), (3, "again")]
    assert all(before.time <= after.time for before, after in pairwise(log.read()))


def step_line(step, **fields) -> StepMetrics:
    known = dict(loss=2.0, learning_rate=1e-3, grad_norm=1.0, tokens=100 * step, tokens_per_second=50.0, seconds=2.0)
    return StepMetrics(step=step, **{**known, **fields})


@pytest.fixture
def printed(monkeypatch):
    """A console of a width, and what it has written."""

    def make(width: int | None) -> io.StringIO:
        console, file = PlainConsole(), io.StringIO()
        console.file = file
        if width is not None:
            console._force_terminal, console.width = True, width
        monkeypatch.setattr(bar_module, "console", console)
        return file

    return make


def test_without_a_terminal_every_tenth_of_a_run_is_a_line(printed):
    file, times = printed(None), iter(range(0, 1000, 2))
    speed = Utilisation(1e9, 1e11, "fp32 products")
    with training_bar(20, total_tokens=2000, utilisation=lambda: speed) as bar:
        bar._clock = lambda: next(times)
        bar.resumed(3)
        for step in range(4, 21):
            bar(step_line(step, memory_bytes=3 << 20, peak_memory_bytes=5 << 20))
            if step == 10:
                bar.heldout(HeldoutMetrics(10, 1.5, 64, (Sample("a\nb", "c\x1b[2J"),)))
    lines = file.getvalue().splitlines()
    assert lines[0] == "continuing after step 3 of 20"
    assert lines[1] == "MFU is a share of 100 GFLOP/s: fp32 products"
    steps = [line for line in lines if "of 20: " in line]
    assert [int(line.split()[1]) for line in steps] == list(range(4, 21, 2))
    assert steps[1] == "step 6 of 20: loss 2.000, 50 tokens/s, MFU 50%, 3.0 MiB, at most 5.0 MiB, about 28 s left"
    assert steps[-1].endswith(", done")
    assert "step 10: held-out loss 1.500 over 64 tokens" in lines
    assert "  a⏎b → c\\x1b[2J" in lines, "what a model writes commands no terminal"


@pytest.mark.parametrize("width", [50, 80, 140])
def test_the_live_line_fits_the_terminal(printed, width):
    file = printed(width)
    with training_bar(12_000, utilisation=lambda: Utilisation(1e9, 1e11, "fp32 products")) as bar:
        bar.resumed(0)
        bar.heldout(HeldoutMetrics(1, 1.5, 64))
        for step in (1, 2, 3):
            bar(step_line(step, memory_bytes=3 << 30, peak_memory_bytes=5 << 30))
        row = bar.progress.make_tasks_table(bar.progress.tasks)
        (text,) = bar_module.console.render_lines(row)
        shown = "".join(segment.text for segment in text)
    assert "loss 2.000" in shown and "left" in shown and len(shown.rstrip()) <= width
    assert ("50 tokens/s" in shown) == (width >= 80)
    assert ("GiB" in shown and "held out 1.500" in shown and "MFU 50%" in shown) == (width == 140)
    assert "held-out loss 1.500" in file.getvalue()


def test_facts_that_do_not_fit_are_left_out_and_texts_stay_on_one_line():
    facts = ["loss 2.100", "900 tokens/s", "a fact that is far too long", "MFU 12%", "7 s left"]
    assert fitting(facts, 50) == "loss 2.100 · 900 tokens/s · MFU 12% · 7 s left"
    assert fitting(facts, 24) == "loss 2.100 · 7 s left" and fitting(facts, 3) == "loss 2.100"
    long = "x" * 200 + "\n" + "y" * 200
    assert on_one_line(long).endswith("y…") and on_one_line(long, keep_end=True).startswith("…x")
    assert len(on_one_line(long)) == 301 and "⏎" in on_one_line(long)


def test_the_share_is_that_of_the_cost_models_flops_in_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = RECIPE.model_config_of(300, 0)
    monkeypatch.setattr(utilisation_module, "measured", lambda dtype: {"fp32": 3e9, "bf16": 5e9}[dtype])
    found = utilisation(model, CONFIG, (10, 30), CPU)
    assert found is not None and found.flops_per_token == train_flops_per_token(model, 25) and found.peak_flops == 3e9
    assert found.share(7.0) == 7.0 * found.flops_per_token / 3e9 and "measured just now" in str(found)
    save_calibration(DEVICES["epyc-2core"])
    found = utilisation(model, with_options(dtype="bf16"), (10, 30), CPU)
    assert found is not None and found.peak_flops == DEVICES["epyc-2core"].peak("bf16")
    assert "hyla cost --calibrate" in str(found) and "bf16" in str(found)


def test_nothing_is_said_of_what_is_not_known():
    model = RECIPE.model_config_of(300, 0)
    assert utilisation(model, with_options(trainable=("head.*",)), (10,), CPU) is None
    assert utilisation(model, with_options(indexer={"stage": "warmup"}), (10,), CPU) is None
    assert utilisation(model, CONFIG, (10,), torch.device("meta")) is None
    assert mean_length((4,)) == 4 and mean_length((1, 1, 1)) == 1 and mean_length((10, 30)) == 25


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GH200 480GB", None),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_known_by_its_name(monkeypatch, name, known):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = peak_of(torch.device("cuda", 0), "bf16")
    assert found is None if known is None else found is not None and found[0] == DEVICES[known].peak("bf16")


def test_the_measured_rate_is_that_of_a_product():
    now = iter(float(second) for second in range(1000))
    rate = utilisation_module.measured("fp32", lambda: next(now))
    assert rate == 2 * 512 * 1024 * 4096


def test_a_bar_without_a_run_has_nothing_to_show(printed):
    printed(None)
    with training_bar(5) as bar:
        assert isinstance(bar, TrainingBar) and bar.utilisation is None
