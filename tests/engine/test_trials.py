"""Grammars are tried where a crash, or work without an end, costs nothing."""

import json
import os
import signal
from functools import partial

import pytest
from tiny_text import byte_tokenizer

from hyla.answers.followable import Unfollowable, followable
from hyla.engine import Choice, JsonSchema, Lark, Regex
from hyla.engine.sampling import trial_process
from hyla.engine.sampling.grammar import LIMITS, GrammarCompiler, _marked, source_of
from hyla.engine.sampling.trial import Trials
from hyla.errors import RequestError

SLOW = "start: A\nA: " + " & ".join(f"/(?s:.*a.{{{n}}}b.*)/" for n in range(1, 25))
"""Takes minutes to compile, whatever fuel the compiler is given."""


@pytest.fixture(scope="module")
def compiler():
    compiler = GrammarCompiler(byte_tokenizer())
    compiler.try_first()
    return compiler


def test_work_without_an_end_is_refused_and_the_next_grammar_is_compiled(compiler):
    with pytest.raises(RequestError, match=r"compiling it takes more than 0.5 s of work; simplify it"):
        compiler.compile_each(Lark(text=SLOW), 1)
    assert compiler.compile_each(Regex(pattern="ab"), 1)[0].num_allowed(b"ab") == 2


def test_what_grows_as_a_square_is_refused_before_it_is_compiled():
    patterns = {f"^[a-z]{{{n % 20 + 1},{n % 40 + 50}}}{n}$": {} for n in range(500)}
    optional = {"properties": {f"p{n}": {} for n in range(900)}, "additionalProperties": False}
    halves = {f"a{n}": {"patternProperties": dict(list(patterns.items())[:60])} for n in range(3)}
    for own, why in (
        ({"patternProperties": patterns}, "500 patternProperties"),
        ({"properties": halves}, "/properties/a1 has 60 patternProperties"),
        ({**optional, "minProperties": 1}, "beside 900 properties"),
        ({**optional, "maxProperties": 1}, "beside 900 properties"),
    ):
        with pytest.raises(Unfollowable, match=why):
            followable({"type": "object", **own})


def test_a_trial_says_what_the_compiler_says(compiler):
    for form in (Regex(pattern="a{2,1}"), Lark(text="start: nothing"), Choice(options=("a", "b")), Regex(pattern="a+")):
        alone = GrammarCompiler(byte_tokenizer())
        try:
            alone.compile(form)
        except RequestError as error:
            with pytest.raises(RequestError) as caught:
                compiler.compile_each(form, 1)
            assert str(caught.value) == str(error)
        else:
            assert len(compiler.compile_each(form, 3)) == 3


def test_a_process_that_dies_is_started_again(compiler):
    compiler.compile_each(Regex(pattern="x1"), 1)
    first = compiler._trials._process.process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert compiler.compile_each(Regex(pattern="x2"), 1)
    assert compiler._trials._process.process.pid != first.pid


def test_a_process_that_says_nothing_is_ended(monkeypatch):
    trials = Trials(*_marked(byte_tokenizer()), LIMITS)
    source = source_of(Regex(pattern="a"))
    trials.verdict(source_of(Regex(pattern="b")))
    stopped = trials._process.process
    os.kill(stopped.pid, signal.SIGSTOP)
    soon = partial(trials._process.ask, seconds=1.0)
    monkeypatch.setattr(trials._process, "ask", lambda message, seconds: soon(message))
    assert not trials.verdict(source).problem
    assert stopped.poll() == -signal.SIGKILL
    monkeypatch.setattr(trials, "_asked", lambda asked: None)
    assert "could not be tried" in trials.verdict("other").problem
    assert len(trials._kept) == 2


def test_verdicts_are_remembered_up_to_a_number(monkeypatch):
    monkeypatch.setattr("hyla.engine.sampling.trial.MOST_KEPT", 2)
    trials = Trials(*_marked(byte_tokenizer()), LIMITS)
    asked = []
    monkeypatch.setattr(trials, "_tried", lambda source: asked.append(source) or source)
    for source in "abacbab":
        assert trials.verdict(source) == source
    assert "".join(asked) == "abcba" and len(trials._kept) == 2


def test_a_crash_of_the_compiler_is_a_refusal(monkeypatch):
    class Vocabulary:
        """Any use of it ends the process."""

    monkeypatch.setattr(trial_process, "verdict", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    told = trial_process.tried(Vocabulary(), {"source": "", "seconds": 5.0, "limits": dict(LIMITS)})
    assert told["signal"] == signal.SIGKILL
    trials = Trials(*_marked(byte_tokenizer()), LIMITS)
    monkeypatch.setattr(trials, "_asked", lambda asked: told)
    assert "breaks the compiler" in trials.verdict(source_of(Regex(pattern="a"))).problem


def test_a_trial_has_little_memory():
    def hungry(*_):
        return "x" * len(bytearray(4 << 30))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_process, "verdict", hungry)
        told = trial_process.tried(None, {"source": "", "seconds": 5.0, "limits": {}})
    assert told["signal"] and not told["said"]


def test_many_choices_of_a_slow_grammar_are_refused(compiler, monkeypatch):
    monkeypatch.setattr("hyla.engine.sampling.grammar.MOST_SECONDS", 0.0)
    with pytest.raises(RequestError, match="7 choices with it take more than"):
        compiler.compile_each(JsonSchema(json_schema=json.loads('{"type": "object", "maxProperties": 3}')), 7)
