"""The conversation in the terminal: commands, lines, streams, and what a model may not do to it."""

import pytest
from live_server import Live
from tiny_model import save_tiny_folder
from tiny_text import byte_tokenizer, tiny_model

from hyla.checkpoints import read_config
from hyla.checkpoints.card import SamplingAdvice, derived_card, write_card
from hyla.cli import chat_session, line_editor
from hyla.cli.answer_text import ThinkingSplitter
from hyla.cli.chat_models import Abilities, Piece, open_model
from hyla.cli.chat_session import COMMANDS, Session
from hyla.engine import Engine
from hyla.errors import HylaError, RequestError
from hyla.server import Limits, create_app, serve_model
from hyla.server.app import single_app
from hyla.terminal_text import printable


class Echo:
    """Answers with what it was asked, letter by letter."""

    name = "echo"

    def __init__(self, interrupt_after=None, abilities=None):
        self.asked, self.interrupt_after, self.is_closed = [], interrupt_after, False
        self.abilities = abilities or Abilities()

    def stream(self, prompt, settings):
        self.asked.append((prompt if isinstance(prompt, str) else list(prompt), dict(settings)))
        try:
            for n, letter in enumerate(prompt if isinstance(prompt, str) else prompt[-1]["content"]):
                if n == self.interrupt_after:
                    raise KeyboardInterrupt
                yield Piece(letter)
            yield Piece(finish_reason="stop", prompt_tokens=3, completion_tokens=n + 1)
        finally:
            self.is_closed = True


@pytest.fixture
def session():
    return Session(Echo(), {"temperature": 0.5}, system="Be kind.")


def roles(session):
    return [(message["role"], message["content"]) for message in session.messages]


def test_questions_and_answers_are_remembered_and_sent_again(session, capsys):
    session.take("one")
    session.take("two")
    assert roles(session) == [("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two")]
    sent, settings = session.model.asked[1]
    assert sent[0] == {"role": "system", "content": "Be kind."} and len(sent) == 4
    assert settings == {"max_tokens": 512, "temperature": 0.5}
    assert capsys.readouterr().out == "one\ntwo\n"


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(capsys):
    session = Session(Echo(interrupt_after=4), {})
    session.take("interrupted")
    assert roles(session)[-1] == ("assistant", "inte") and session.model.is_closed
    session.model.interrupt_after = None
    session.take("on")
    assert roles(session)[-1] == ("assistant", "on")


BASE = Abilities(is_chat=False, sampling={"temperature": 0.2, "top_p": 0.9}, examples=("def read(path):\n    x",))


def test_a_base_model_says_what_it_is_and_what_to_type(monkeypatch, capsys):
    typed(monkeypatch, "ab", "")
    Session(Echo(abilities=BASE), {}).run()
    printed = capsys.readouterr()
    assert printed.out == "ab\nabab\n"
    assert printed.err.startswith("echo is a base model") and printed.err.count("\n") == 1
    assert "'def read(path):'" in printed.err and "an empty line goes on" in printed.err
    Session(Echo(), {}).run()
    assert capsys.readouterr().err == ""


def test_a_base_model_goes_on_with_a_text_and_every_line_begins_a_new_one(capsys):
    session = Session(Echo(abilities=BASE), {"temperature": 0.5}, system="Be kind.")
    session.take("")
    for line in ("<think>ab", "", "other"):
        session.take(line)
    texts = [text for text, _ in session.model.asked]
    assert texts == ["<think>ab", "<think>ab<think>ab", "other"]
    assert session.model.asked[0][1] == {"max_tokens": 120, "temperature": 0.5, "top_p": 0.9}
    assert capsys.readouterr().out.startswith("<think>ab\n"), "a base model's text is not searched for thinking"
    session.take("/retry")
    assert session.model.asked[-1][0] == "other"
    session.take("/undo")
    assert session.messages == []


def test_a_base_model_s_failed_text_leaves_the_one_before(monkeypatch):
    session = Session(Echo(abilities=BASE), {})
    session.take("ab")

    def fail(prompt, settings):
        raise HylaError("gone")
        yield

    monkeypatch.setattr(session.model, "stream", fail)
    session.take("cd")
    assert [message["content"] for message in session.messages] == ["ab", "ab"]


def test_a_failed_answer_is_said_and_forgotten(session, capsys, monkeypatch):
    def fail(prompt, settings):
        yield Piece("half")
        raise HylaError("the engine [b]failed[/b]")

    monkeypatch.setattr(session.model, "stream", fail)
    session.take("hello")
    assert session.messages == [] and "error: the engine [b]failed[/b]" in capsys.readouterr().out


def test_undo_retry_reset_system_and_exit(session):
    session.take("one")
    session.take("two")
    session.take("/retry")
    assert len(session.model.asked) == 3 and len(session.messages) == 4
    session.take("/undo")
    assert roles(session) == [("user", "one"), ("assistant", "one")]
    session.take("/system")
    session.take("/reset")
    session.take("three")
    assert session.model.asked[-1][0] == [{"role": "user", "content": "three"}]
    session.take("/exit")
    session.run()  # is over: reads nothing


def test_a_retry_that_fails_keeps_the_old_answer(session, monkeypatch):
    session.take("one")

    def fail(messages, settings):
        raise HylaError("gone")
        yield

    monkeypatch.setattr(session.model, "stream", fail)
    session.take("/retry")
    assert roles(session) == [("user", "one"), ("assistant", "one")]


@pytest.mark.parametrize(
    "line,words",
    [
        ("/dance", "there is no /dance"),
        ("/set temprature 1", "'temprature' is no setting"),
        ("/set n 2", "'n' is no setting"),
        ("/set temperature -1", "temperature = -1"),
        ("/undo", "nothing to undo"),
        ("/retry", "nothing to answer again"),
        ("/save", "name a file"),
        ("/load /nowhere/at/all", "/nowhere/at/all"),
        ("/model other", "in this process"),
    ],
)
def test_a_wrong_command_is_explained_and_changes_nothing(session, capsys, line, words):
    session.take(line)
    printed = capsys.readouterr().out.replace("\n", "")
    assert printed.startswith("error: ") and words in printed
    assert session.messages == [] and session.settings == {"temperature": 0.5}


def test_settings_are_set_shown_and_forgotten(session, capsys):
    session.take("/set max_tokens 7")
    session.take('/set stop ["X"]')
    session.take("/set temperature")
    session.take("/set")
    assert session.settings == {"max_tokens": 7, "stop": ["X"]}
    assert '"max_tokens": 7' in capsys.readouterr().out


def test_help_lists_every_command(session, capsys):
    session.take("/help")
    printed = capsys.readouterr().out
    assert all(f"/{name}" in printed for name in COMMANDS)


def test_a_conversation_is_saved_and_goes_on(session, tmp_path):
    session.take("one")
    session.take(f"/save {tmp_path / 'kept.json'}")
    other = Session(Echo(), {})
    other.take(f"/load {tmp_path / 'kept.json'}")
    assert (other.messages, other.system, other.settings) == (session.messages, session.system, session.settings)
    (tmp_path / "wrong.json").write_text('{"messages": [3]}')
    with pytest.raises(RequestError, match="no conversation"):
        other.load(str(tmp_path / "wrong.json"))
    assert other.messages == session.messages


def typed(monkeypatch, *lines):
    waiting = iter(lines)

    def read(prompt):
        line = next(waiting, EOFError)
        if line is EOFError:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", read)


@pytest.mark.parametrize(
    "lines,message",
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""', "def f():", "", "    pass", '"""'], "def f():\n\n    pass"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""all in one"""'], "all in one"),
        ([], None),
        (['"""', "never closed"], None),
    ],
)
def test_messages_of_several_lines(monkeypatch, lines, message):
    typed(monkeypatch, *lines)
    assert line_editor.read_message() == message


def test_empty_lines_are_no_questions(monkeypatch, session):
    typed(monkeypatch, "", "  ", "one")
    session.run()
    assert len(session.model.asked) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_thinking_is_told_apart_however_it_is_cut(size):
    for text, thinking, answer in (
        ("<think>why</think>so", "why", "so"),
        ("<think>a < b </thin</think>\n\nso <think> it", "a < b </thin", "so <think> it"),
        ("no thinking </think>", "", "no thinking </think>"),
        ("<think>cut of</thi", "cut of</thi", ""),
        ("<thi", "", "<thi"),
    ):
        splitter = ThinkingSplitter()
        found = [splitter.add(text[n : n + size]) for n in range(0, len(text), size)] + [splitter.end()]
        assert ("".join(own for own, _ in found), "".join(own for _, own in found).lstrip("\n")) == (thinking, answer)


def test_a_model_cannot_command_the_terminal():
    assert printable("a\x1b[2Jb\x07c\r\nd\te\x9bf\x7f\u202eg é 漢 🐸") == "a[2Jbc\nd\tefg é 漢 🐸"


def test_a_model_in_this_process_streams_counts_and_stops(tmp_path):
    folder = save_tiny_folder(tmp_path / "model")
    with open_model(str(folder), name=None, api_key=None) as model:
        messages = [{"role": "user", "content": "def read"}]
        pieces = list(model.stream(messages, {"max_tokens": 5, "seed": 1}))
        assert pieces[-1].finish_reason in ("length", "stop") and pieces[-1].completion_tokens <= 5
        stream = model.stream(messages, {"seed": 1})
        next(stream)
        stream.close()
        engine = model.thread.engine
        model.thread.call(lambda: None).result(10)
        assert engine.cache.ledger.slots.used == 0
        with pytest.raises(RequestError, match="temperature"):
            list(model.stream(messages, {"temperature": -1}))


def test_a_server_answers_as_the_model_in_this_process():
    here, there = (Engine(tiny_model(), tokenizer=byte_tokenizer(), memory=24 << 20) for _ in range(2))
    with Live(single_app(there, model_name="tiny", api_key="sesame")) as live:
        wanted = {"name": None}
        with open_model(live.url, api_key="sesame", **wanted) as model:
            settings = {"max_tokens": 8, "temperature": 0.0}
            pieces = list(model.stream([{"role": "user", "content": "hé"}], settings))
            assert model.name == "tiny" and pieces[-1].completion_tokens >= 1
            (alone,) = here.generate("user: hé\nassistant: ", _params(settings))
            assert "".join(piece.text for piece in pieces) == alone.text
            with pytest.raises(RequestError, match="there are tiny"):
                model.choose("huge")
            with pytest.raises(HylaError, match="status 400: temperature"):
                list(model.stream([{"role": "user", "content": "x"}], {"temperature": -1}))
        with pytest.raises(HylaError, match="status 401"), open_model(live.url + "/v1/", api_key="no", **wanted):
            pass
    with pytest.raises(HylaError, match="cannot be reached"), open_model(live.url, api_key=None, **wanted):
        pass


def test_a_base_model_is_one_here_and_behind_a_server(tmp_path):
    folder = save_tiny_folder(tmp_path / "model", is_chat=False)
    config = read_config(folder).config
    card = derived_card(config, parameters=3, active=2, sampling=SamplingAdvice(top_k=4), examples=("def ",))
    write_card(folder, card, name="model")
    settings = {"max_tokens": 8, "temperature": 0.0}
    engine = Engine(folder, memory=24 << 20)
    chat = serve_model(Engine(tiny_model(), tokenizer=byte_tokenizer(), memory=24 << 20), "chat", limits=Limits())
    served = serve_model(engine, "base", limits=Limits(), card=card)
    with Live(create_app([served, chat])) as live, open_model(live.url, name=None, api_key=None) as there:
        assert there.name == "chat" and there.abilities.is_chat
        there.choose("base")
        with open_model(str(folder), name=None, api_key=None) as here:
            assert here.abilities == there.abilities == Abilities(False, {"top_k": 4}, ("def ",))
            texts = ["".join(piece.text for piece in own.stream("def read", settings)) for own in (here, there)]
        assert texts[0] == texts[1] != ""


def _params(settings):
    from hyla.engine import SamplingParams

    return SamplingParams(**settings)


def test_the_history_is_kept_for_its_owner_only_and_only_on_a_terminal(tmp_path, monkeypatch):
    import readline
    import sys

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with line_editor.line_history(True):
        pass
    assert list(tmp_path.iterdir()) == []

    class Terminal:
        @staticmethod
        def isatty():
            return True

    monkeypatch.setattr(sys, "stdin", Terminal)
    with line_editor.line_history(True):
        readline.add_history("typed before")
    kept = tmp_path / "hyla" / "chat_history"
    assert "typed before" in kept.read_text() and kept.stat().st_mode & 0o077 == 0


def test_the_numbers_of_an_answer_are_told_on_a_terminal(session, capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(chat_session, "console", Console(force_terminal=True, width=100, highlight=False))
    session.take("hey")
    assert "3 prompt tokens, 0 cached · 3 tokens" in capsys.readouterr().out
