"""lm-evaluation-harness's requests through the engine: the scorer's bits, alone and among others, and never twice."""

import importlib.util
import json
import math
import sys
from types import SimpleNamespace

import pytest
import tokenizers
import typer
from click.testing import CliRunner
from tiny_model import sandwich
from tiny_text import byte_tokenizer

from hyla.checkpoints import Tokenizer, save_model
from hyla.cli.app import app
from hyla.engine import Engine
from hyla.errors import ConfigError, RequestError
from hyla.evals.harness.answers import Answers, windows
from hyla.evals.harness.generation import sampling_params
from hyla.evals.harness.run import check_tasks
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.corpus import Document
from hyla.train.scoring import Windows, score

MAX_LEN = 512
LONG = "The owl is near the river. " * 8
PAIRS = [(LONG + "Where is the owl?", rest) for rest in (" By the river", " Far", "?", " In a wood")]
PAIRS += [("x", "yz"), ("import os,", " sys"), (LONG, "Who"), ("The fox", " " + "and the fox " * 9)]


def with_bos() -> Tokenizer:
    """Bytes, and a first token that the tokenizer's own template writes."""
    backend = byte_tokenizer().backend
    backend.add_special_tokens(["<s>", "<call>"])
    first = ("<s>", backend.token_to_id("<s>"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[first])
    return Tokenizer(backend, special={"bos_token": "<s>", "eos_token": "<|end|>"}, chat_template="{{messages}}")


@pytest.fixture(scope="module")
def model():
    return initialize(Model(sandwich("kda", 260)), 0, std=0.3).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return with_bos()


def engine_of(model, tokenizer, **options):
    return Engine(model, tokenizer=tokenizer, pack=False, memory=64 << 20, **options)


@pytest.fixture
def answers(model, tokenizer):
    return Answers(engine_of(model, tokenizer), tokenizer)


def pairs_of(answers):
    return [(answers.encode(context), answers.encode(rest, adds_special=False)) for context, rest in PAIRS]


def test_log_probabilities_are_the_scorer_s_bit_for_bit(answers, model, tokenizer):
    texts = ["", "The owl", LONG + "\n\nWho knows? " + LONG]
    scored = score(model, tokenizer, [Document(str(n), text) for n, text in enumerate(texts)], Windows(MAX_LEN - 1, 0))
    for text, wanted in zip(texts, scored):
        pairs = answers.rolling(text)
        assert len(pairs) == (wanted.num_tokens > 0)
        assert sum(-one.logprob / math.log(2) for one in answers.log_likelihoods(pairs)) == wanted.bits


def test_answers_are_the_same_in_bits_alone_among_others_and_from_the_cache(model, tokenizer):
    found, cached = [], []
    for options in ({"max_num_sequences": 1}, {"max_num_sequences": 16}, {"prefix_cache": False}):
        own = Answers(engine_of(model, tokenizer, **options), tokenizer)
        lines = own.log_likelihoods(pairs_of(own))
        texts = own.continuations([(context, sampling_params({"max_gen_toks": 9}, tokenizer)) for context, _ in PAIRS])
        found.append([(line.logprob, line.is_greedy, line.text) for line in (*lines, *texts)])
        cached.append(sum(line.cached_tokens for line in lines))
    assert found[0] == found[1] == found[2]
    # Whoever comes after the first of the same context finds all of its whole pages.
    assert cached[0] >= 3 * (len(PAIRS[0][0]) // 64 * 64) and cached[1] >= cached[0] and cached[2] == 0


def test_greedy_is_what_the_engine_would_write(answers, tokenizer):
    context = answers.encode(LONG)
    (written,) = answers.engine.generate([context], sampling_params({"max_gen_toks": 3}, tokenizer))
    other = [*written.token_ids[:2], (written.token_ids[2] + 1) % 256]

    best, worse = answers.log_likelihoods([(context, written.token_ids), (context, other)])

    assert best.is_greedy and not worse.is_greedy and best.logprob > worse.logprob


def test_there_is_exactly_one_bos(answers, tokenizer):
    bos = tokenizer.bos_token_id
    chat, plain = answers.encode("<s>Hello"), answers.encode("Hello")
    ((before, scored),) = answers.rolling("Hello")

    assert chat == plain == [*before, *scored] and plain.count(bos) == 1 and plain[0] == bos
    assert bos not in answers.encode("Hello", adds_special=False)


def test_what_is_over_the_context_is_refused_or_cut_at_its_beginning(answers, model, tokenizer):
    context, rest = answers.encode("a" * 600), answers.encode("b" * 20, adds_special=False)
    with pytest.raises(RequestError, match="601 tokens with 20 to score is over the model's context of 512"):
        answers.log_likelihoods([(context, rest)])
    params = sampling_params({"max_gen_toks": 500}, tokenizer)
    with pytest.raises(RequestError, match=r"with 500 to write is over the model's context of 512.*--truncate"):
        answers.continuations([("a" * 30, params)])
    assert answers.engine.num_tokens == 0

    cutting = Answers(answers.engine, tokenizer, truncates=True)
    (line,) = cutting.log_likelihoods([(context, rest)])
    (same,) = answers.log_likelihoods([([*context[:1], *context[-491:]], rest)])
    assert line.tokens == MAX_LEN and cutting.num_truncated == 1 and line.logprob == same.logprob
    with pytest.raises(RequestError, match="over the model's context"):  # nothing of the context would be left
        cutting.log_likelihoods([(context, answers.encode("b" * 511, adds_special=False))])


def test_options_of_the_harness(tokenizer):
    given = {"until": ["\n", "", "<call>"], "max_new_tokens": 7, "do_sample": False, "temperature": 0.7, "num_beams": 1}
    found = sampling_params(given, tokenizer)

    assert (found.max_tokens, found.temperature, found.stop) == (7, 0.0, ("\n",))
    assert found.stop_token_ids == (tokenizer.token_id("<call>"),)
    assert sampling_params({"temperature": 0.5, "top_p": 0.9}, tokenizer, 33).max_tokens == 33
    with pytest.raises(RequestError, match=r"generation_kwargs has untli; there are until, max_gen_toks"):
        sampling_params({"untli": ["x"]}, tokenizer)
    with pytest.raises(RequestError, match="no beam search"):
        sampling_params({"num_beams": 4}, tokenizer)


def test_what_is_drawn_twice_is_another_text_and_the_same_in_another_run(model, tokenizer):
    params = sampling_params({"temperature": 1.0, "max_gen_toks": 12}, tokenizer)
    runs = []
    for _ in range(2):
        own = Answers(engine_of(model, tokenizer), tokenizer)
        runs.append([line.text for line in own.continuations([("x", params)] * 3)])
    assert runs[0] == runs[1] and len(set(runs[0])) == 3


def test_a_killed_run_goes_on_and_computes_nothing_twice(model, tokenizer, tmp_path):
    first = Answers(engine_of(model, tokenizer), tokenizer, folder=tmp_path)
    found = first.log_likelihoods(pairs_of(first))
    file = tmp_path / "answers.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == len(PAIRS)
    file.write_text("".join(lines[:5]) + lines[5][:30])

    seen = SimpleNamespace(begun=[], items=0)
    watcher = SimpleNamespace(
        begin=lambda *counts: seen.begun.append(counts),
        item=lambda: setattr(seen, "items", seen.items + 1),
        step=lambda: None,
    )
    again = Answers(engine_of(model, tokenizer), tokenizer, folder=tmp_path, watcher=watcher)
    assert [line.logprob for line in again.log_likelihoods(pairs_of(again))] == [line.logprob for line in found]
    assert seen.begun == [(len(PAIRS), 5)] and seen.items == len(PAIRS) - 5
    computed = again.engine.num_tokens
    again.log_likelihoods(pairs_of(again))
    assert again.engine.num_tokens == computed and len(file.read_text().splitlines()) == len(PAIRS)


def test_a_misspelt_task_is_an_error_with_near_names():
    names = ["arc_easy", "arc_challenge", "hellaswag"]
    manager = SimpleNamespace(all_tasks=names, match_tasks=lambda asked: [name for name in names if name in asked])

    check_tasks(manager, ["arc_easy"])
    with pytest.raises(ConfigError, match=r"there is no task 'arc_esay'; did you mean arc_easy\?"):
        check_tasks(manager, ["hellaswag", "arc_esay"])
    with pytest.raises(ConfigError, match="no task 'xq'; `lm-eval ls tasks` lists them"):
        check_tasks(manager, ["xq"])


# With the harness


def needs_harness():
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed; `make lm-eval` installs it")


def test_without_the_harness_the_verb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hyla.evals.harness.plugin", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'hyla\[evals\]'"):
        invoke("nowhere", tmp_path / "out", "arc_easy")


def invoke(folder, out, tasks, *more):
    words = ["eval", "harness", folder, "--out", out, "--tasks", tasks, *more]
    return CliRunner().invoke(typer.main.get_command(app), [str(word) for word in words], catch_exceptions=False)


def write_task(place):
    """A task with questions in a file beside it."""
    place.mkdir()
    questions = [
        {"question": f"{a} and {b}", "choices": [f" {a + b}", f" {a - b}"], "gold": a % 2} for a, b in ((3, 4), (8, 1))
    ]
    (place / "sums.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (place / "sums.yaml").write_text(f"""
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {place / "sums.jsonl"}
output_type: multiple_choice
test_split: test
doc_to_text: "What is {{{{question}}}}?"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
""")
    return place


@pytest.mark.filterwarnings("default")
def test_a_task_of_one_s_own_runs_from_a_file_and_is_not_asked_twice(model, tokenizer, tmp_path, monkeypatch):
    needs_harness()
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    place, out = tmp_path / "model", tmp_path / "out"
    save_model(model, place, tokenizer=tokenizer)
    tasks = write_task(tmp_path / "tasks")

    done = invoke(place, out, "sums", "--include-path", tasks)

    assert done.exit_code == 0 and "| sums | acc |" in (out / "report.md").read_text()
    samples = [json.loads(line) for line in (out / "samples_sums.jsonl").read_text().splitlines()]
    own = Answers(engine_of(model, tokenizer), tokenizer)
    for sample in samples:
        pairs = [
            (own.encode(context), own.encode(rest, adds_special=False))
            for context, rest in ((one[0], one[1]) for one in sample["arguments"])
        ]
        wanted = [(line.logprob, line.is_greedy) for line in own.log_likelihoods(pairs)]
        assert [tuple(one[0]) for one in sample["resps"]] == wanted
        assert sample["acc"] == float(wanted[sample["target"]] == max(wanted))
    before = (out / "answers.jsonl").read_text()
    again = invoke(place, out, "sums", "--include-path", tasks)
    assert again.exit_code == 0 and (out / "answers.jsonl").read_text() == before and len(before.splitlines()) == 4
    with pytest.raises(ConfigError, match="has results of another request"):
        invoke(place, out, "sums", "--include-path", tasks, "--num-fewshot", 1)


@pytest.mark.filterwarnings("default")
def test_windows_are_the_harness_s():
    needs_harness()
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for length in (0, 1, 6, 7, 8, 13, 14, 15, 30):
        ids = list(range(length))
        wanted = map(make_disjoint_window, get_rolling_token_windows(ids, 99, 7, 1))
        assert list(windows(ids, 99, 7)) == list(wanted)


@pytest.mark.filterwarnings("default")
def test_the_model_of_the_harness_knows_its_arguments(model, tokenizer, tmp_path):
    needs_harness()
    from lm_eval.api.registry import get_model

    from hyla.evals.harness.plugin import HylaLM

    save_model(model, tmp_path / "model", tokenizer=tokenizer)
    made = get_model("hyla").create_from_arg_string(
        f"pretrained={tmp_path / 'model'},max_length=100", {"batch_size": 4, "max_batch_size": 64, "device": "cpu"}
    )
    assert isinstance(made, HylaLM) and made.max_length == 100
    assert made.answers.engine.scheduler.max_num_sequences == 4 and made.prefix_token_id == tokenizer.bos_token_id
    instance = SimpleNamespace(args=("", "Hello"), task_name="t")
    ((logprob, _),) = made.loglikelihood([instance])
    rolled = SimpleNamespace(args=("Hello",), task_name="t")
    assert made.loglikelihood_rolling([rolled]) == [logprob]
    with pytest.raises(ConfigError, match="pretrained"):
        HylaLM.create_from_arg_string("model=x")
    with pytest.raises(ConfigError, match="pretraind"):
        HylaLM.create_from_arg_string(f"pretrained={tmp_path / 'model'},pretraind=1")
