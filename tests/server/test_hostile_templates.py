"""A server whose model came with a hostile chat template answers, says what is wrong, and goes on."""

from collections import Counter

import httpx
import pytest
from conftest import Live, make_engine
from hostile_templates import KINDS, hostile_template
from tiny_text import CHAT_TEMPLATE, byte_tokenizer

from hyla.checkpoints.chat_template import ChatTemplate
from hyla.checkpoints.templates import process
from hyla.errors import CheckpointError
from hyla.server import single_app

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def target():
    with Live(single_app(make_engine(byte_tokenizer()), model_name="tiny")) as live:
        yield live


@pytest.fixture
def tight(monkeypatch):
    """The least that a process can be given, so that the hostile ones end soon."""
    monkeypatch.setattr(process, "CPU_SECONDS", 0)
    monkeypatch.setattr(process, "MEMORY_BYTES", 256 << 20)
    monkeypatch.setattr(process, "OUTPUT_CHARS", 1 << 20)


def outcome(target, text):
    """What became of a template: an error when it is loaded, or the status of a chat."""
    try:
        template = ChatTemplate(text)
        template.start()
    except CheckpointError as error:
        assert str(error).startswith("chat_template ") and len(str(error)) < 1200
        return "not loaded"
    target.served.tokenizer.chat_template = template
    with httpx.Client(base_url=target.url, timeout=60) as http:
        answer = http.post("/v1/chat/completions", json=BODY)
        assert answer.status_code in (200, 400), (text[:200], answer.text)
        if answer.status_code == 400:
            message = answer.json()["error"]["message"]
            assert 10 < len(message) < 1200, message
        assert http.get("/health").status_code == 200
    return answer.status_code


def run(target, seeds):
    seen = {}
    for seed in seeds:
        kind, text = hostile_template(seed)
        seen.setdefault(kind, Counter())[outcome(target, text)] += 1
    assert outcome(target, CHAT_TEMPLATE) == 200
    assert set(seen) == set(KINDS)
    return seen


def test_one_hostile_template_of_each_kind(target, tight):
    assert sum(run(target, range(len(KINDS))).values(), Counter()).keys() >= {"not loaded", 200, 400}


@pytest.mark.slow
def test_two_hundred_hostile_templates(target, tight):
    for kind, counts in run(target, range(len(KINDS), 200 + len(KINDS))).items():
        print(kind, dict(counts))
