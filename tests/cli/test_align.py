"""`hyla align`: zero or status 1, a price for every way, others' numbers, and what is refused."""

import json

import pytest
import torch
from test_verbs import failure, run
from tiny_model import save_tiny_folder
from tiny_rl import hybrid, write_start
from tiny_text import byte_tokenizer

from hyla.align.config import AlignConfig
from hyla.align.prompts import PIECE_TOKENS, read_prompts, read_tokens
from hyla.align.run import Alignment
from hyla.align.ways import EXACT, Way
from hyla.checkpoints import load_model, load_tokenizer, save_model
from hyla.errors import ConfigError

SMALL = ("--prompts", 4, "--max-tokens", 12, "--no-greedy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """start/ with a model, tasks.jsonl."""
    return write_start(tmp_path_factory.mktemp("align"))


@pytest.fixture(scope="module")
def answers(folder):
    """The lines of our own engine's answers."""
    place = folder / "start"
    tokenizer = load_tokenizer(place)
    config = AlignConfig(prompts=3, max_tokens=10)
    alignment = Alignment(lambda: load_model(place), tokenizer, config, read_prompts([], tokenizer, 3))
    return [
        {"prompt_token_ids": list(one.prompt_ids), "token_ids": list(one.token_ids), "logprobs": list(one.logprobs)}
        for one in alignment.sampled(EXACT).answers.samples
    ]


def write_lines(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_the_exact_path_is_zero_and_the_report_is_kept(folder, tmp_path):
    out = tmp_path / "out"
    status, text = run("align", folder / "start", *SMALL, "--state-dtype", "fp16", "--way", "fast", "--out", out)
    assert status == 0 and "Zero: all 96 tokens have the trainer's log-probability, bit for bit." in text
    kept = json.loads((out / "report.json").read_text())
    assert kept["is_zero"] and kept["exact"]["figures"]["equal"] == 96 and kept["config"]["prompts"] == 4
    fast, states = kept["ways"]
    assert (fast["name"], states["name"]) == ("fast", "state-fp16")
    assert fast["figures"]["equal"] == 96, "nothing of this model is computed otherwise with our kernels"
    assert states["born_in"] == "0 kda" and states["figures"]["equal"] < 96
    page = (out / "report.md").read_text()
    assert (
        "| exact | 96 | 100% | 0 | 0 | 0 | 0 | 1 to 1 | - | - | - |" in page and "## Layer by layer: state-fp16" in page
    )


def test_a_gap_on_the_exact_path_is_status_1_and_names_the_first_token(folder, monkeypatch):
    def plant(self, batch, specs, caches):
        cache = caches[0]["anchor"]
        cache.copy_(torch.nextafter(cache, torch.full((), float("inf"))))

    monkeypatch.setattr(Way, "changes_states", True)
    monkeypatch.setattr(Way, "after_step", plant)
    status, text = run("align", folder / "start", "--data", folder / "tasks.jsonl", *SMALL)
    assert status == 1 and "NOT zero: " in text and "Born in 0 kda: " in text
    assert "First: prompt 0, turn " in text and " in the engine, " in text


def test_another_engines_file_is_scored_and_never_a_failure(folder, answers, tmp_path):
    file = write_lines(tmp_path / "theirs.jsonl", answers)
    status, text = run("align", folder / "start", "--against", file, "--json")
    found = json.loads(text)
    assert status == 0 and found["exact"] is None and found["against"]["is_zero"]
    answers = [*answers[:-1], answers[-1] | {"logprobs": [value - 0.25 for value in answers[-1]["logprobs"]]}]
    status, text = run("align", folder / "start", "--against", write_lines(file, answers), "--json")
    found = json.loads(text)["against"]
    assert status == 0 and not found["is_zero"] and found["figures"]["largest"] == pytest.approx(0.25)
    assert found["figures"]["tokens"] - found["figures"]["equal"] == len(answers[-1]["token_ids"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": [-1.0]}, "line 2: Value error, 10 token_ids and 1 logprobs; give as many"),
        ({"logprobs": [0.5] * 10}, "line 2: Value error, logprobs: 0.5 is no log-probability"),
        ({"logprobs": [float("nan")] * 10}, "line 2: Value error, logprobs: nan is no log-probability"),
        ({"token_ids": [70000] * 10}, "line 2: token id 70000 is not in this model's vocabulary of 257"),
        ({"token_ids": ["a"]}, "line 2: token_ids.0: Input should be a valid integer"),
        ({"token_ids": [1] * 600, "logprobs": [-1.0] * 600}, "tokens are more than this model's context of 512"),
        ({"extra": 1}, "line 2: extra: Extra inputs are not permitted"),
    ],
)
def test_a_line_that_is_no_answer_is_named(folder, answers, tmp_path, monkeypatch, capsys, change, message):
    first = next(line for line in answers if len(line["token_ids"]) == 10)
    file = write_lines(tmp_path / "theirs.jsonl", [first, first | change])
    status, told = failure(monkeypatch, capsys, "align", folder / "start", "--against", file)
    assert status == 1 and message in told


def test_a_changed_checkpoint_is_put_beside_the_one_before(folder, tmp_path):
    with torch.no_grad():
        model = load_model(folder / "start")
        model.sublayers[2].module.o.weight[0, 0] += 0.5
        save_model(model, tmp_path / "other", tokenizer=byte_tokenizer())
    status, text = run("align", folder / "start", *SMALL, "--against", tmp_path / "other", "--json")
    found = json.loads(text)
    assert status == 0 and found["is_zero"] and found["exact"]["figures"] != found["against"]["figures"]
    assert found["against"]["born_in"] == "2 softmax"


def test_a_checkpoint_of_another_vocabulary_is_refused(folder, tmp_path, monkeypatch, capsys):
    other = save_tiny_folder(tmp_path / "other")
    told = failure(monkeypatch, capsys, "align", folder / "start", *SMALL, "--against", other)
    assert told[0] == 1 and "has a vocabulary of" in told[1]
    tokenizer = byte_tokenizer()
    data = json.loads(tokenizer.backend.to_str())
    vocab = data["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    tokenizer.backend = type(tokenizer.backend).from_str(json.dumps(data))
    with torch.no_grad():
        save_model(hybrid("kda", tokenizer.vocab_size), tmp_path / "swapped", tokenizer=tokenizer)
    told = failure(monkeypatch, capsys, "align", folder / "start", *SMALL, "--against", tmp_path / "swapped")
    assert told[0] == 1 and "2 tokens have other ids" in told[1]


def test_a_text_is_read(folder, tmp_path):
    (tmp_path / "long.txt").write_text("one two three " * 40)
    options = ("--text", tmp_path / "long.txt", "--length", 400, "--temperature", 1)
    status, text = run("align", folder / "start", *options, "--way", "state-bf16", "--json")
    found = json.loads(text)
    assert status == 0 and found["is_zero"] and found["exact"]["figures"]["tokens"] == 399
    assert [(one["first"], one["end"]) for one in found["exact"]["buckets"]] == [(0, 512)]
    assert found["ways"][0]["figures"]["mean"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stochastic-rounding",), "--stochastic-rounding needs --state-dtype"),
        (("--state-dtype", "int8"), "--state-dtype 'int8' is unknown; choose bf16 or fp16"),
        (("--way", "half"), "--way 'half' is unknown; there are state-bf16"),
        (("--temperature", "1e9"), "must be from 1e-06 to 1e+06"),
        (("--max-tokens", "600"), "the model's context is 512"),
        (("--text", "README.md", "--data", "README.md"), "give one of them"),
        (("--text", "LICENSE", "--length", "1000000"), "tokens; --length asks for 1000000; give more text"),
    ],
)
def test_what_cannot_be_measured_is_refused(folder, monkeypatch, capsys, options, message):
    status, told = failure(monkeypatch, capsys, "align", folder / "start", *options)
    assert status == 1 and message in told


def test_prompts_are_cut_from_texts_in_equal_distances(tmp_path):
    tokenizer = byte_tokenizer()
    (tmp_path / "a.txt").write_text("".join(chr(97 + n % 26) for n in range(1000)))
    found = read_prompts([tmp_path], tokenizer, 3)
    text = read_tokens([tmp_path], tokenizer, None)
    assert found == [tuple(text[first : first + PIECE_TOKENS]) for first in (0, 452, 904)]
    (tmp_path / "a.txt").write_text("short")
    assert read_prompts([tmp_path], tokenizer, 2) == [tuple(b"short")] * 2
    with pytest.raises(ConfigError, match="give one file of tasks, or texts"):
        read_prompts([tmp_path / "a.jsonl", tmp_path], tokenizer, 2)
