"""A process that ends in the middle of conversations: the same turns, calls, rewards and weights in the end."""

import pytest
from test_killed_rounds import Killed, outcome, stopped_once_written
from tiny_rl import finished
from tiny_tools import tools_request, write_start

from hyla.errors import CheckpointError
from hyla.rl.conversations import Conversations
from hyla.rl.samples import RoundFile, Turn
from hyla.rl.turns import DrawnTurn, TurnFile


def request(folder):
    heldout = {"tasks": str(folder / "heldout.jsonl"), "every": 2}
    return tools_request(folder, heldout=heldout, steps=2, checkpoint_every=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("turns"))


@pytest.fixture(scope="module")
def whole(folder):
    return outcome(finished(folder / "whole", request(folder)).folder)


def test_a_run_that_ended_in_a_conversation_goes_on_bit_for_bit(folder, whole, tmp_path, monkeypatch):
    out, add, seen = tmp_path / "run", TurnFile.add, []

    def torn(self, key, turn):
        seen.append(key)
        if len(seen) == 9:
            with self.path.open("a") as file:
                file.write('{"group": 1, "mem')
            raise Killed
        add(self, key, turn)

    with monkeypatch.context() as patched:
        patched.setattr(TurnFile, "add", torn)
        with pytest.raises(Killed):
            finished(out, request(folder))
    (file,) = (out / "rollouts").glob("*.turns")
    known, done = TurnFile(file).read(), RoundFile(file.with_suffix(".jsonl")).read()
    assert sum(map(len, known.values())) == 8

    first, ask = {}, Conversations.request

    def noted(self, one, params):
        if one.place.seed[1] == 0:
            first.setdefault(one.place.key, len(one.drawn))
        return ask(self, one, params)

    monkeypatch.setattr(Conversations, "request", noted)
    assert outcome(finished(out, request(folder)).folder) == whole
    # A finished conversation is not drawn again, nor is a turn whose calls were answered.
    assert not first.keys() & done.keys() and len(first.keys() | done.keys()) == 12
    assert first == {key: len(known.get(key, ())) for key in first} and max(first.values()) > 0


def test_a_process_that_is_killed_in_a_conversation_goes_on_bit_for_bit(folder, whole, tmp_path):
    out = tmp_path / "run"
    with stopped_once_written("test_killed_turns", folder, out, "round-000000.turns") as process:
        process.kill()
    assert len(TurnFile(out / "rollouts" / "round-000000.turns").read()) == 1
    assert outcome(finished(out, request(folder)).folder) == whole


def test_turns_come_back_as_they_were_and_a_damaged_line_is_named(tmp_path):
    result = {"role": "tool", "tool_call_id": "call_0_0", "name": "add", "content": "23\ud800"}
    turns = [
        Turn((), 2, {"role": "assistant", "content": "é"}, (result,)),
        Turn((5, 6), 1, {"role": "assistant", "content": ""}, (result, result), 1),
    ]
    drawn = [
        DrawnTurn(turn, (3, 4)[: turn.num_tokens], (-0.1, -1e-30)[: turn.num_tokens], "x", 64, 2, 1) for turn in turns
    ]
    file = TurnFile(tmp_path / "round-000000.turns")
    for one in drawn:
        file.add((1, 2), one)
    assert file.read() == {(1, 2): drawn}
    with file.path.open("a") as torn:
        torn.write('{"group": 1')
    assert file.read() == {(1, 2): drawn} == file.read()
    file.path.write_text("{}\n" + file.path.read_text())
    with pytest.raises(CheckpointError, match=r"round-000000.turns, line 1 is damaged .*; delete the file"):
        file.read()
