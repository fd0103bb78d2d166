"""Conversations of many turns: what is asked follows from what was said, answers stay as drawn, none is had twice."""

import json
import random
import re
from dataclasses import replace
from functools import partial

import pytest
import typer
from click.testing import CliRunner
from data.family_templates import FAMILIES, merging_tokenizer
from tiny_model import sandwich
from tiny_text import CHAT_TEMPLATE, byte_tokenizer
from tokenizers import processors

from hyla.checkpoints import save_model
from hyla.cli.app import app
from hyla.engine import Engine
from hyla.errors import ConfigError
from hyla.evals.costs import Price
from hyla.evals.multi_turn.forms import Plain, Templated, form_of
from hyla.evals.multi_turn.report import markdown, outcomes, share, tables
from hyla.evals.multi_turn.run import Answer, Conversation, MultiTurn, MultiTurnRequest
from hyla.evals.multi_turn.score import said
from hyla.evals.multi_turn.script import KINDS, RULES, THINGS, Plan, Question, Turn, script
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.intervals import interval, interval_of_groups

WORDS = ("The quick fox 12 jumps over 3 lazy dogs; who knows why? " * 5).split()
ENDS = CHAT_TEMPLATE.replace("{{ m.content }}", "{{ m.content }}<|end|>")
FACT = re.compile(r"(\w+)'s [a-z ]+ is (?:now )?number (\d+)\.|(\w+) (?:now )?shares (\w+)'s ")


def words_of(text):
    return len(text.split())


def script_of(turns, number, **plan):
    return script(turns, number, 0, Plan(**plan), WORDS, words_of)


class Reader:
    """The oracle: reads the sentences of a conversation, and nothing else."""

    def __init__(self):
        self.told = {}

    def read(self, text):
        for name, number, sharing, other in FACT.findall(text):
            self.told[name or sharing] = number or other

    def hops(self, name):
        found = self.told[name]
        return 0 if found.isdigit() else 1 + self.hops(found)

    def answer(self, question):
        found = self.told[re.search(r"of (\w+)'s", question)[1]]
        while not found.isdigit():
            found = self.told[found]
        return found


def exchanged(other, found):
    return other[found[0]]


def read_by_oracle(turns, number, exchange=lambda text: text, **plan):
    """(whether the oracle answers each question, most links of a name), of a conversation with other texts."""
    reader, right, hops = Reader(), [], 0
    for turn in script_of(turns, number, **plan):
        for text in (turn.tool or "", turn.user):
            reader.read(exchange(text))
        right.append(reader.answer(turn.question.text) == turn.question.wanted)
        hops = max(hops, *map(reader.hops, reader.told))
    return right, hops


@pytest.mark.parametrize("most", [0, 1, 2])
def test_the_oracle_is_right_and_links_are_as_long_as_they_may_be(most):
    found = [read_by_oracle(10, number, hops=most, filler_tokens=9) for number in range(30)]
    kinds = {turn.question.kind for number in range(30) for turn in script_of(10, number, hops=most)}

    assert all(all(right) for right, _ in found) and max(hops for _, hops in found) == most
    assert kinds == {*KINDS} - ({"multi-hop"} if most == 0 else set())


def test_who_is_told_the_numbers_of_others_is_as_good_as_chance():
    right, chance = [], []
    for number in range(60):
        numbers = script_of(8, number)[-1].question.numbers
        other = dict(zip(numbers, random.Random(number).sample(numbers, len(numbers))))
        right += read_by_oracle(8, number, partial(re.sub, r"\d+", partial(exchanged, other)))[0]
        chance += [1 / len(numbers)] * 8
    expected = sum(chance) / len(chance)
    # Answers of one conversation are not independent: as few as there are conversations.
    spread = (expected * (1 - expected) / 60) ** 0.5
    assert 0 < sum(right) / len(right) < expected + 5 * spread


def test_questions_are_about_turns_before():
    for number in range(20):
        names = []
        for at, turn in enumerate(script_of(6, number), start=1):
            before = list(names)
            names += [name or other for name, _, other, _ in FACT.findall(f"{turn.tool or ''} {turn.user}")]
            asked = re.search(r"of (\w+)'s", turn.question.text)[1]
            assert turn.question.turn == at and asked in (before or names)
            assert turn.user.endswith(turn.question.text) and (RULES[:20] in turn.user) == (at == 1)
            assert (turn.tool is None) == (at == 1)


def test_a_conversation_is_a_function_of_its_number_and_its_facts_of_no_tokenizer():
    one, again, other = script_of(5, 3), script_of(5, 3), script_of(5, 4)
    assert one == again and one != other

    letters = script(5, 3, 0, Plan(), WORDS, len)
    assert [turn.user for turn in letters] == [turn.user for turn in one] and letters != one


@pytest.mark.parametrize("tokens", [0, 1, 25])
def test_fillers_are_as_long_as_they_may_be_and_have_no_numbers(tokens):
    told = re.compile(r"\S+ [a-z ]+ is (now )?number \d+\.")
    lengths = set()
    for number in range(8):
        for turn in script_of(4, number, filler_tokens=tokens):
            filler = re.sub(FACT, "", turn.tool or "")
            lengths.add(words_of(filler) if turn.tool else None)
            assert not re.search(r"\d", filler)
            assert turn.tool != "" and (tokens or turn.tool is None or told.fullmatch(turn.tool))
    assert lengths == {None, tokens}


QUESTION = Question("?", "It is", "1234", 2, 1, "overwritten", ("1111",), ("1234", "1111", "5678"))


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("1234", "right"),
        ("It is 1,234, in room 9 of 9999.", "right"),
        ("1111", "outdated"),
        ("number 5678", "other"),
        ("1234, and before 1111", "several"),
        ("12345", "none"),
        ("", "none"),
    ],
)
def test_an_answer_is_right_with_the_number_and_no_other_one(answer, expected):
    assert said(answer, QUESTION) == expected


# How they are written


def beginning_tokenizer(template):
    """With a token that begins a text, which the tokenizer adds by itself and the template writes too."""
    tokenizer = byte_tokenizer(template)
    tokenizer.backend.add_special_tokens(["<|begin|>"])
    tokenizer.special["bos_token"] = "<|begin|>"
    begin = ("<|begin|>", tokenizer.token_id("<|begin|>"))
    tokenizer.backend.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[begin])
    return tokenizer


TURN = Turn("hello", "a result", QUESTION)


@pytest.mark.parametrize("template", [None, "{{ bos_token }}" + ENDS])
def test_a_conversation_has_one_token_that_begins_a_text(template):
    tokenizer = beginning_tokenizer(template)
    form = form_of(tokenizer, [256])
    ids = [*form.first(TURN), *form.closed([50, 256], True), *form.later(TURN), *form.closed([51], False)]
    ids += form.later(TURN)

    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_answers_stay_as_they_were_drawn_and_the_template_writes_what_is_between():
    tokenizer = byte_tokenizer(ENDS)
    form = Templated(tokenizer, [256])
    drawn = [0xC3, 50, 10, 256]  # which no text is read as

    assert form.closed(drawn, True) == drawn and form.closed([50], False) == [50, 256]
    assert tokenizer.decode(form.later(TURN), skip_special_tokens=False) == (
        "\ntool: a result<|end|>\nuser: hello<|end|>\nassistant: "
    )
    assert 'the role "tool"' in form.name


def test_without_the_role_of_tools_results_are_the_user_s_text():
    for unknown in (ENDS.replace("'robot'", "'tool'"), ENDS.replace("in messages", "in messages if m.role != 'tool'")):
        form = Templated(byte_tokenizer(unknown), [256])
        text = bytes(one for one in form.later(TURN) if one < 256).decode()
        assert text == "\nuser: Result of a tool: a result\n\nhello\nassistant: "
        assert "as the user's text" in form.name


@pytest.mark.parametrize("name", FAMILIES)
def test_published_templates_can_go_on_behind_an_answer(name):
    family = FAMILIES[name]
    tokenizer = merging_tokenizer(family.template)
    end = tokenizer.token_id(family.end)
    form = Templated(tokenizer, [end])
    first, later = form.first(TURN), form.later(TURN)

    assert form.closed([7], False) == [7, end]
    for ids in (first, later):
        shown = tokenizer.decode(ids, skip_special_tokens=False)
        assert shown.count("a result") == shown.count("hello") == 1 and "planted" not in shown
    whole = tokenizer.decode([*first, *form.closed([7], False), *later, *form.closed([7], False), *later])
    assert whole.count("hello") == 3
    thought = "12 or 13\n</think>\n\n12" if "<think>" in tokenizer.decode(later)[-8:] else "12"
    assert form.text(first, thought).strip() == "12"


def test_without_a_template_the_form_is_plain_and_an_answer_is_its_text():
    tokenizer = byte_tokenizer(None)
    form = form_of(tokenizer, [256])
    assert isinstance(form, Plain) and form.closed([*b" 12 \n\n", 256], True) == list(b" 12")
    assert bytes(form.later(TURN)) == b"\n\nUser: Result of a tool: a result\n\nhello\n\nAssistant:"


@pytest.mark.parametrize(
    "template, text",
    [
        (CHAT_TEMPLATE, "writes no token behind an answer that ends the model's text"),
        (ENDS.replace("\n", "{{ loop.index }}\n"), "writes turns in another way later"),
    ],
)
def test_a_template_that_cannot_go_on_is_an_error(template, text):
    with pytest.raises(ConfigError, match=text):
        Templated(byte_tokenizer(template), [256])


# Through the engine


def saved(place, seed, template=ENDS):
    config = sandwich("kda", 260).model_copy(update={"max_len": 4096, "eos_token_ids": (256,)})
    save_model(initialize(Model(config), seed, std=0.3), place, tokenizer=byte_tokenizer(template))
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), 0)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("twin"), 1, None)


def engine_of(folder, **options):
    return Engine(folder, memory=64 << 20, **options)


REQUEST = MultiTurnRequest(turns=(1, 3), samples=3, filler_tokens=8, answer_tokens=6)


def answers_of(lines):
    return [(line.key, [(answer.answer, answer.said) for answer in line.answers]) for line in lines]


def test_an_eval_is_the_same_at_any_batch_and_goes_on_after_a_kill(folder, tmp_path):
    found = []
    for place, options in (("one", {"max_num_sequences": 1}), ("many", {"max_num_sequences": 16})):
        engine = engine_of(folder, **options)
        found.append(answers_of(MultiTurn(tmp_path / place, REQUEST, engine, engine.tokenizer, WORDS).run()))
    assert found[0] == found[1] and [key for key, _ in found[0]] == [(n, i) for n in (1, 3) for i in range(3)]
    assert [len(answers) for _, answers in found[0]] == [1] * 3 + [3] * 3

    file = tmp_path / "many" / "items.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]) + lines[4][:50])
    seen = []
    evals = MultiTurn(tmp_path / "many", REQUEST, engine, engine.tokenizer, WORDS)
    assert len(evals.done) == 4
    assert answers_of(evals.run(seen.append)) == found[0] and len(seen) == 2


@pytest.mark.parametrize("which", ["folder", "twin"])
def test_a_turn_s_prompt_begins_with_all_that_was_said_and_finds_it_in_the_cache(which, request, tmp_path):
    engine = engine_of(request.getfixturevalue(which))
    prompts, resolve = [], engine.resolve
    engine.resolve = lambda one: prompts.append(one.prompt) or resolve(one)
    asked = REQUEST.model_copy(update={"turns": (3,), "samples": 1})
    (line,) = MultiTurn(tmp_path, asked, engine, engine.tokenizer, WORDS).run()

    assert [len(prompt) for prompt in prompts] == [answer.tokens for answer in line.answers]
    for before, after, answer in zip(prompts, prompts[1:], line.answers):
        assert after[: len(before)] == before
        text = engine.tokenizer.decode(after[len(before) :])
        assert text.startswith(answer.answer.rstrip()) and text.count("Assistant:") + text.count("assistant: ") == 1
    cached = [answer.cached_tokens for answer in line.answers]
    assert cached[0] == 0 and all(n >= len(before) // 64 * 64 > 0 for n, before in zip(cached[1:], prompts))


def test_an_answer_may_be_begun(folder, tmp_path):
    engine = engine_of(folder)
    prompts, resolve = [], engine.resolve
    engine.resolve = lambda one: prompts.append(one.prompt) or resolve(one)
    asked = REQUEST.model_copy(update={"turns": (2,), "samples": 1, "begin_answers": True})
    (line,) = MultiTurn(tmp_path, asked, engine, engine.tokenizer, WORDS).run()

    for prompt, answer in zip(prompts, line.answers):
        name = re.search(r"What is (the number of \w+'s [a-z ]+)\? Answer", answer.question)[1]
        assert engine.tokenizer.decode(prompt).endswith(f"assistant: T{name[1:]} is")


def test_other_results_in_the_folder_are_an_error(folder, twin, tmp_path):
    engine = engine_of(folder)
    MultiTurn(tmp_path, REQUEST, engine, engine.tokenizer, WORDS)

    with pytest.raises(ConfigError, match="has results of another request; choose another --out"):
        MultiTurn(tmp_path, REQUEST.model_copy(update={"samples": 4}), engine, engine.tokenizer, WORDS)
    with pytest.raises(ConfigError, match="another text"):
        MultiTurn(tmp_path, REQUEST, engine, engine.tokenizer, ["a"])
    other = engine_of(twin)
    with pytest.raises(ConfigError, match="another form and weights"):
        MultiTurn(tmp_path, REQUEST, other, other.tokenizer, WORDS)


def test_a_conversation_over_the_context_is_refused(folder, tmp_path):
    engine = engine_of(folder)
    with pytest.raises(ConfigError, match=r"conversation \d+ of 40 turns has up to \d+ tokens .* context of 4096"):
        MultiTurn(tmp_path / "out", MultiTurnRequest(turns=(40,)), engine, engine.tokenizer, WORDS)
    assert not (tmp_path / "out").exists()


def test_the_longest_conversation_that_is_allowed_has_room(folder, tmp_path):
    asked = REQUEST.model_copy(update={"turns": (3,), "samples": 1})
    engine = engine_of(folder)
    most = max(answer.tokens for answer in MultiTurn(tmp_path, asked, engine, engine.tokenizer, WORDS).run()[0].answers)
    for context, is_refused in ((most + 40, False), (most - 1, True)):
        small = engine_of(folder, context_len=context)
        if not is_refused:
            MultiTurn(tmp_path / "small", asked, small, small.tokenizer, WORDS)
            continue
        with pytest.raises(ConfigError, match="over the model's context"):
            MultiTurn(tmp_path / "smaller", asked, small, small.tokenizer, WORDS)


# The report


def line_of(number, *said_of_turns):
    kinds = ("direct", "tool")
    answers = [
        Answer(turn, 0, kinds[turn % 2], "?", "1", "", outcome, 100, 60, 5, 0.5, 1e9)
        for turn, outcome in enumerate(said_of_turns, start=1)
    ]
    return Conversation(len(said_of_turns), number, answers)


RESULTS = {
    "hybrid": [line_of(0, "right", "right"), line_of(1, "right", "none"), line_of(2, "right", "outdated")],
    "full": [line_of(0, "right", "right"), line_of(1, "none", "right"), line_of(2, "right", "right")],
}


def test_shares_are_of_the_questions_that_are_meant():
    hybrid, full = RESULTS.values()
    assert share(hybrid, lambda line, answer: answer.turn, 1) == (1.0, 1.0, 1.0, 3)
    mean, low, high, count = share(hybrid, lambda line, answer: answer.turn, 2, full)
    assert (mean, count) == (pytest.approx(-2 / 3), 3) and low == -1 and -0.01 < high <= 0.01
    assert share(hybrid, lambda line, answer: answer.turn, 3) is None


def test_a_reader_without_memory_stands_beside_where_it_is_recorded():
    with_last = {
        name: [
            replace(line, answers=[replace(a, last="1" if a.turn == 2 else "2") for a in line.answers])
            for line in lines
        ]
        for name, lines in RESULTS.items()
    }
    for table in tables(with_last):
        assert table[0][-1] == "always the last number"
    by_turn = tables(with_last)[1]
    assert [row[-1] for row in by_turn[1:]] == ["0.0%", "100.0%"]
    assert "reader without memory" in markdown(with_last, dict.fromkeys(with_last, "plainly"), dict.fromkeys(with_last))
    assert "reader without memory" not in markdown(RESULTS, dict.fromkeys(RESULTS, "plainly"), dict.fromkeys(RESULTS))


def test_the_report_has_both_models_and_their_difference():
    by_turns, by_turn, by_kind, by_both, by_age = tables(RESULTS)
    assert by_turns[0] == ["turns", "questions", "hybrid", "full", "difference"]
    assert by_turns[1][1] == "6" and by_turns[1][2].startswith("66.7% (") and by_turns[1][4].startswith("-16.7% (")
    assert [row[0] for row in by_turn[1:]] == ["1", "2"] and by_turn[1][4].startswith("+33.3%")
    assert [row[0] for row in by_kind[1:]] == ["direct", "tool"] and len(by_age) == 2
    assert [row[0] for row in by_both[1:]] == ["direct, said in the same turn", "tool, said in the same turn"]
    assert outcomes(RESULTS)[2][1:] == ["16.7%", "0.0%"]

    forms = {"hybrid": "as it likes", "full": "plainly"}
    page = markdown(RESULTS, forms, {"hybrid": None, "full": None})
    assert "| hybrid | 2 | 4 of 6 | 150 | 90 | 8 | 0.75 | 1.50e+09 |" in page and "Price" not in page
    assert "- full: plainly. 2 of 3 conversations had right answers alone." in page
    price = Price(7200.0, sandwich("kda", 260))
    assert "| full | 2 | 5 of 6 | 120 | 72 | 6 | 0.60 | 1.20e+09 | 1.2 |" in markdown(
        RESULTS, forms, dict.fromkeys(forms, price)
    )


def test_groups_are_drawn_whole():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert interval_of_groups([[value] for value in values]) == interval(values)
    assert interval_of_groups([[0.0, 1.0]] * 4) == (0.5, 0.5)
    low, high = interval_of_groups([[1.0] * 9, [0.0]] * 30)
    assert 0.8 < low < 0.88 and 0.92 < high < 0.96


def test_the_verb_asks_a_model_and_its_twin(folder, twin, tmp_path):
    out = tmp_path / "out"
    words = ["eval", "multi-turn", folder, "--twin", twin, "--out", out, "--turns", 2, "--samples", 2]
    words += ["--filler-tokens", 5, "--answer-tokens", 4]
    done = CliRunner().invoke(typer.main.get_command(app), [str(word) for word in words], catch_exceptions=False)

    assert done.exit_code == 0 and "conversation 0 of 2 turns: 0 of 2 right" in done.output
    report = (out / "report.md").read_text()
    assert f"| turns | questions | {folder} | {twin} | difference |" in report
    assert f"- {folder}: the model's chat template" in report and f"- {twin}: a plain form" in report
    assert (out / "turns.png").read_bytes()[:4] == b"\x89PNG"
    for place in (out, out / "twin"):
        assert len([json.loads(line) for line in (place / "items.jsonl").read_text().splitlines()]) == 2


def test_a_model_is_not_its_own_twin(folder, tmp_path):
    words = ["eval", "multi-turn", str(folder), "--twin", str(folder), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="is the model itself"):
        CliRunner().invoke(typer.main.get_command(app), words, catch_exceptions=False)
    assert all("{thing}" in RULES and not thing.endswith("x") for thing in THINGS)
