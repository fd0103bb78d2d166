"""Coding agents at work: twenty turns with tools through their client libraries; nothing fails, and the cache grows."""

import pytest
from agent_shapes import ClaudeCode, Codex, OpenAIAgents, QwenCode
from conftest import make_engine
from live_server import Live
from tiny_text import byte_tokenizer
from tool_templates import SCRIPTED

from hyla.server import KeyRing, create_app, serve_model
from hyla.server.guard.limits import Limits

MORNING, DAY = 4, 20
TURNS = pytest.mark.parametrize("turns", [MORNING, pytest.param(DAY, marks=pytest.mark.slow)])
"""`make agents` runs the whole day."""

AGENTS = (Codex, OpenAIAgents, QwenCode, ClaudeCode)
CALL = '<tool_call>\n{"name": "NAME", "arguments": {"city": "Wil"}}\n</tool_call>'
CUT = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Wi'


@pytest.fixture(scope="module")
def busy_live():
    engine = make_engine(byte_tokenizer(SCRIPTED), max_len=16384, memory=96 << 20)
    served = serve_model(engine, "scripted", limits=Limits())
    with Live(create_app([served], limits=Limits(), keys=KeyRing(["alice", "bob", "carol", "dave"]))) as live:
        yield live
    engine.cache.ledger.check()


def replies(agent, turns):
    """What the model says, turn by turn: (text before calls, names of calls, whether the last one is cut short)."""
    one, other = "get_weather", {Codex: "agents__spawn", ClaudeCode: "Bash"}.get(agent, "get_weather")
    search = "ToolSearch" if agent is ClaudeCode else one
    for n in range(turns):
        kinds = [("", [one], False), ("I look.", [one, other], False), ("", [], True), ("It is done.", [], False)]
        yield ("", [search], False) if n == 0 else kinds[n % 4]


def written(text, names, is_cut):
    calls = [CALL.replace("NAME", name) for name in names] + ([CUT] if is_cut else [])
    return "\n".join([text, *calls] if text else calls)


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.__name__)
@TURNS
def test_a_day_of_an_agent(busy_live, script, agent, turns):
    session = agent(busy_live.url, 200, "alice" if turns == MORNING else "bob")
    before_cached, before_prompt = -1, 0
    try:
        for n, (text, names, is_cut) in enumerate(replies(agent, turns)):
            script.reply = ("Hm.\n</think>\n\n" if session.thinks else "") + written(text, names, is_cut)
            cached, prompt, called, said = session.turn()
            assert (called[: len(names)], said.strip()) == (names, text), n
            assert len(called) == len(names) + is_cut, n
            assert cached > before_cached and cached > before_prompt - 64, (n, cached, before_prompt)
            before_cached, before_prompt = cached, prompt
    finally:
        session.close()
    assert "billing" not in script.prompts[-1]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.__name__)
@TURNS
def test_a_day_with_a_model_that_says_what_it_likes(busy_live, agent, turns):
    """A model with random weights, whose answers are broken text, thinking without an end, or nothing."""
    session = agent(busy_live.url, 12, "carol" if turns == MORNING else "dave")
    before = -1
    try:
        for _ in range(turns):
            cached, prompt, _, _ = session.turn()
            assert before < cached < prompt
            before = cached
    finally:
        session.close()
