"""Long contexts: as the harness writes them, as long as fits, answered by the engine, and never twice."""

import importlib.metadata
import importlib.util
import json
import math
import random
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from click.testing import CliRunner
from tiny_model import sandwich
from tiny_text import byte_tokenizer

from hyla.checkpoints import save_model
from hyla.cli.app import app
from hyla.engine import Engine
from hyla.errors import CapacityError, ConfigError, RequestError
from hyla.evals.costs import Price, item_flops
from hyla.evals.long_context.items import Items
from hyla.evals.long_context.kinds import ALL, KINDS
from hyla.evals.long_context.needles import sentences
from hyla.evals.long_context.report import cost_table
from hyla.evals.long_context.run import LongContextRequest, LongContexts
from hyla.evals.long_context.source import source_of, source_of_text
from hyla.evals.long_context.task import share_right
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.intervals import interval

TEXT = (
    " ".join(
        f"The {word} is near the {other}. Who knows?"
        for word in ("fox", "owl", "elm")
        for other in ("river", "bridge", "harbor", "meadow", "garden", "castle", "forest", "island", "tunnel", "market")
    )
    * 30
)
SOURCE = source_of_text(TEXT + " ".join("".join(random.Random(i).choices("abcdefgh", k=6)) for i in range(300)))


def words_of(text):
    return len(text.split())


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_a_question_has_its_answers_in_its_prompt_and_another_number_another_question(kind):
    items = Items(kind, 4096, SOURCE, str.split)
    first, again, other = items.item(3), Items(kind, 4096, SOURCE, str.split).item(3), items.item(4)

    assert first == again and first.question.answers != other.question.answers
    assert all(answer in first.question.prompt for answer in first.question.answers)
    assert share_right(" ".join(first.question.answers).upper(), first.question.answers) == 1
    assert share_right(" ".join(other.question.answers), first.question.answers) < 0.5


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_a_prompt_is_as_long_as_fits(kind):
    for length in (700, 4500):
        items = Items(kind, length, SOURCE, str.split)
        found = items.item(0)
        assert found.tokens + kind.max_tokens <= length and found.tokens == words_of(found.question.prompt)
        most = kind.most(SOURCE)
        longer = items._units + kind.step(length)
        if most is None or longer <= most:
            assert not items._fits(longer)


def test_a_text_that_is_too_short_begins_again():
    words = [f"w{n}" for n in range(50)]
    source = replace(SOURCE, essay=words)
    question = KINDS["niah_single_2"].ask(120, 4096, source, random.Random(1))

    found = [word for word in question.prompt.split() if word in words]
    assert found == [*words, *words, *words[:20]]
    assert Items(KINDS["niah_single_2"], 3000, source, str.split).item(0).tokens > 2800


def test_depths_come_in_turn():
    items = Items(KINDS["niah_single_2"], 2000, SOURCE, str.split, depths=5)

    found = [items.item(number).question.depth for number in range(6)]

    assert [round(depth, 1) for depth in found[:5]] == pytest.approx([0, 0.2, 0.5, 0.7, 1.0], abs=0.06)
    assert abs(found[5] - found[0]) < 0.01


def test_what_does_not_fit_says_so():
    with pytest.raises(ConfigError, match="niah_single_1 does not fit 150 tokens: its shortest prompt has"):
        Items(KINDS["niah_single_1"], 150, SOURCE, str.split)
    with pytest.raises(ConfigError, match="ruler_cwe needs a text of 11 different words or more; it has 2"):
        Items(KINDS["ruler_cwe"], 4096, source_of_text("only two two"), str.split)


def test_python_comes_with_a_text(tmp_path):
    source = source_of(None)

    assert len(source.essay) > 50_000 and len(source.words) > 2_000 and len(source.keys) > 20_000
    with pytest.raises(ConfigError, match="does not exist"):
        source_of(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        source_of(tmp_path)


def test_the_interval_of_equal_numbers_is_that_number():
    assert interval([0.5] * 9) == (0.5, 0.5)
    low, high = interval([0.0, 1.0] * 50)
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62


# The harness


class Draws:
    """The module `random` as the harness uses it, with one generator."""

    Random = random.Random

    def __init__(self, seed):
        self._draw = random.Random(seed)

    def __getattr__(self, name):
        return getattr(self._draw, name)


@pytest.fixture
def harness(monkeypatch):
    """lm_eval.tasks.ruler's modules, without the packages that they take words, sentences and tables from."""
    found = importlib.util.find_spec("lm_eval")
    if found is None:
        pytest.skip("lm-eval is not installed; `make lm-eval` installs it")
    nouns = {"noun": ["x"], "adjective": ["x"], "verb": ["x"], "nouns": ["x"], "adjectives": ["x"], "verbs": ["x"]}
    ruler = str(Path(found.submodule_search_locations[0]) / "tasks" / "ruler")
    stand_ins = {
        "nltk": {"sent_tokenize": sentences, "data": types.SimpleNamespace(find=lambda name: None)},
        "wonderwords": {"RandomWord": lambda: types.SimpleNamespace(_categories=nouns)},
        "datasets": {"Dataset": dict},
        "lm_eval": {"__path__": []},
        "lm_eval.tasks": {"__path__": []},
        "lm_eval.tasks.ruler": {"__path__": [ruler]},
    }
    for name, fields in stand_ins.items():
        module = types.ModuleType(name)
        vars(module).update(fields)
        monkeypatch.setitem(sys.modules, name, module)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.9.1" if name == "nltk" else version(name))
    yield lambda name: importlib.import_module(f"lm_eval.tasks.ruler.{name}")
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler.")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.name.startswith("niah")], ids=lambda kind: kind.name)
def test_needles_are_the_harness_s_byte_by_byte(kind, harness, monkeypatch):
    prepare, utils = harness("prepare_niah"), harness("niah_utils")
    monkeypatch.setattr(prepare, "random", Draws(5))
    monkeypatch.setattr(prepare, "WORDS", SOURCE.keys)
    haystack = list(SOURCE.essay) if kind.haystack == "essay" else prepare.get_haystack(kind.haystack)
    text, answers, query = prepare.generate_input_output(
        60,
        haystack,
        type_haystack=kind.haystack,
        num_needle_k=max(kind.num_keys, kind.num_queries),
        type_needle_k=kind.keys,
        num_needle_v=kind.num_values,
        type_needle_v=kind.values,
        template=utils.TEMPLATE,
        num_needle_q=kind.num_queries,
    )

    found = kind.ask(60, 4096, SOURCE, random.Random(5))

    one = kind.num_queries * kind.num_values == 1
    begun = f"The special magic {kind.values[:-1] if one else kind.values} for {query} mentioned in the provided text "
    assert found.prompt == f"{text} {begun}{'is' if one else 'are'}"
    assert list(found.answers) == answers


def test_chains_are_the_harness_s_byte_by_byte(harness, monkeypatch):
    utils = harness("vt_utils")
    draws = Draws(9)
    monkeypatch.setattr(utils, "random", draws)
    monkeypatch.setattr(utils, "np", types.SimpleNamespace(random=types.SimpleNamespace(randint=draws.randrange)))
    kind, draw = KINDS["ruler_vt"], random.Random(9)

    for is_example, letters in ((True, 3), (False, 5)):
        text, names = utils.generate_input_output(12, 1, kind.hops, is_icl=is_example)
        found, its_names = kind.written(12, letters, draw)
        assert found == text.rstrip() and list(its_names) == names


def test_common_and_coded_words_are_the_harness_s_byte_by_byte(harness, monkeypatch):
    utils = harness("cwe_utils")
    for length, times in ((4096, (30, 3)), (2048, (6, 1))):
        draws = Draws(3)
        monkeypatch.setattr(utils, "random", draws)
        monkeypatch.setattr(utils, "RNG", draws)
        monkeypatch.setattr(utils, "WORDS", list(SOURCE.words))
        context, common = utils.get_example(40, *times, 10)
        found = KINDS["ruler_cwe"].ask(40, length, SOURCE, random.Random(3))
        text = utils.TEMPLATE.format(context=context, query="")
        place = text.rfind(utils.CONFIG["answer_prefix"])
        assert found.prompt == text[:place].strip() + "\n\n" + utils.CONFIG["answer_prefix"].strip()
        assert list(found.answers) == common
    for name in ("scipy", "scipy.special"):  # of which it takes one number
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["scipy.special"].zeta = lambda power: {2.0: math.pi**2 / 6}[power]
    utils = harness("fwe_utils")
    monkeypatch.setattr(utils, "random", Draws(4))
    no_tokens = types.SimpleNamespace(input_ids=[])
    text, common, _ = utils.generate_input_output(10**9, lambda text: no_tokens, num_words=700, vocab_size=4096 // 50)
    found = KINDS["ruler_fwe"].ask(700, 4096, SOURCE, random.Random(4))
    assert found.prompt == text and list(found.answers) == common


def test_scores_are_the_harness_s(harness):
    utils = harness("common_utils")
    for said in ("it is 12 and 34", " ONE\x00two ", "", "12"):
        for wanted in (["12", "34"], ["one", "two"], ["12"]):
            (cleaned,) = utils.postprocess_pred([said])
            assert share_right(said, wanted) == utils.string_match_all([cleaned], [wanted])


# Through the engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    model = initialize(Model(sandwich("kda", 260).model_copy(update={"max_len": 8192})), 0)
    save_model(model, place, tokenizer=byte_tokenizer())
    return place


def engine_of(folder, **options):
    return Engine(folder, memory=64 << 20, **options)


REQUEST = LongContextRequest(kinds=("niah_single_1", "ruler_fwe"), lengths=(1200,), samples=3)


def test_an_eval_is_the_same_at_any_batch_and_goes_on_after_a_kill(folder, tmp_path):
    found = []
    for place, options in (("one", {"max_num_sequences": 1}), ("many", {"max_num_sequences": 16})):
        engine = engine_of(folder, **options)
        evals = LongContexts(tmp_path / place, REQUEST, engine, engine.tokenizer, SOURCE)
        found.append([(line.key, line.answer, line.score) for line in evals.run()])
    assert found[0] == found[1] and len(found[0]) == 6

    file = tmp_path / "many" / "items.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:20])
    seen = []
    evals = LongContexts(tmp_path / "many", REQUEST, engine, engine.tokenizer, SOURCE)
    assert len(evals.answered) == 2
    assert [(line.key, line.answer, line.score) for line in evals.run(seen.append)] == found[0] and len(seen) == 4


def test_what_an_item_took_is_kept_with_it(folder, tmp_path):
    engine = engine_of(folder)
    steps = []
    lines = LongContexts(tmp_path, REQUEST, engine, engine.tokenizer, SOURCE).run(on_step=lambda: steps.append(1))

    computed = sum(line.tokens - line.cached_tokens + line.answer_tokens - 1 for line in lines)
    assert engine.num_tokens == computed and engine.num_steps <= len(steps) <= engine.num_steps + 2 * len(lines)
    for line in lines:
        assert line.seconds > 0
        assert line.flops == item_flops(engine.model.config, line.tokens, line.cached_tokens, line.answer_tokens)
    rows = cost_table(lines, Price(36.0, engine.model.config))
    assert rows[0][:4] == ["kind", "length", "prompt", "solved"] and rows[0][-1] == "price"
    assert rows[1][:2] == ["niah_single_1", "1,200"] and rows[1][3] == "0 of 3" and set(rows[1][4:]) == {"-"}


def test_an_item_that_fails_is_no_wrong_answer(folder, tmp_path):
    engine = engine_of(folder)
    with torch.no_grad():
        engine.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RequestError, match="niah_single_1 1200 0 ended in an error"):
        LongContexts(tmp_path, REQUEST, engine, engine.tokenizer, SOURCE).run()
    assert not (tmp_path / "items.jsonl").exists()


def test_what_the_caches_cannot_hold_is_refused(folder, tmp_path):
    engine = Engine(folder, memory=200_000, max_num_sequences=1)
    request = LongContextRequest(kinds=("niah_single_1",), lengths=(8000,), samples=1)
    with pytest.raises(CapacityError, match="give the engine more with memory="):
        LongContexts(tmp_path, request, engine, engine.tokenizer, SOURCE).run()


def test_other_results_in_the_folder_are_an_error(folder, tmp_path):
    engine = engine_of(folder)
    LongContexts(tmp_path, REQUEST, engine, engine.tokenizer, SOURCE)
    other = REQUEST.model_copy(update={"samples": 4})

    with pytest.raises(ConfigError, match="has results of another request; choose another --out"):
        LongContexts(tmp_path, other, engine, engine.tokenizer, SOURCE)
    with pytest.raises(ConfigError, match="another text"):
        LongContexts(tmp_path, REQUEST, engine, engine.tokenizer, replace(SOURCE, essay=["a"]))


def test_a_length_over_the_context_is_refused(folder, tmp_path):
    engine = engine_of(folder)
    with pytest.raises(ConfigError, match="a length of 9000 tokens is over the model's context of 8192"):
        LongContexts(tmp_path, LongContextRequest(lengths=(9000,)), engine, engine.tokenizer, SOURCE)
    assert not (tmp_path / "eval.json").exists()


def test_a_misspelt_kind_is_an_error():
    with pytest.raises(ConfigError, match="niah_singel_1"):
        LongContextRequest(kinds=("niah_singel_1",))


def test_the_verb_asks_and_writes_a_report_and_a_map(folder, tmp_path):
    out = tmp_path / "out"
    words = ["eval", "long-context", folder, "--out", out, "--kind", "niah_single_1", "--length", 900, "--length", 1100]
    words += ["--samples", 2, "--depths", 2]
    done = CliRunner().invoke(typer.main.get_command(app), [str(word) for word in words], catch_exceptions=False)

    assert done.exit_code == 0 and "niah_single_1, 900 tokens, item 0, depth 0%" in done.output
    assert "| niah_single_1 |" in (out / "report.md").read_text()
    assert (out / "heat-map.png").read_bytes()[:4] == b"\x89PNG"
    assert len([json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]) == 4
