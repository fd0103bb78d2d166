"""Hostile schemas and grammars against a server whose engine is a process of its own, as it is served."""

import json
import random
from collections import Counter

import httpx
import pytest
from conftest import Live
from hostile_grammars import hostile_body
from tiny_model import save_tiny_folder

from hyla.checkpoints import load_tokenizer
from hyla.engine import EngineProcess, Launch
from hyla.server import create_app
from hyla.server.served import served_model


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = save_tiny_folder(tmp_path_factory.mktemp("hostile") / "model")
    engine = EngineProcess(Launch(str(folder), {"memory": 24 << 20, "max_num_sequences": 8}))
    model = served_model(engine, "tiny", load_tokenizer(folder), tool_parser="hermes")
    with Live(create_app([model])) as live:
        yield live
        assert engine.num_restarts == 0 and engine.num_requests == 0


def run(live, seed, count):
    """Statuses of so many bodies; the server is well all along and its engine lives."""
    draw, seen = random.Random(seed), Counter()
    pid = httpx.get(live.url + "/engine/status").json()["models"]["tiny"]["worker"]["pid"]
    with httpx.Client(base_url=live.url, timeout=120) as http:
        for n in range(count):
            path, body = hostile_body(draw)
            text = json.dumps(body)
            answer = http.post(path, content=text, headers={"Content-Type": "application/json"})
            assert answer.status_code in (200, 400), (answer.status_code, path, text[:3_000], answer.text)
            if answer.status_code == 400:
                told = answer.json()["error"]["message"]
                assert told and len(told) < 4_000 and "<backtrace>" not in told, told
            seen[answer.status_code] += 1
            if n % 20 == 0:
                assert http.get("/health").status_code == 200 and http.get("/ready").status_code == 200
        worker = http.get("/engine/status").json()["models"]["tiny"]["worker"]
    assert (worker["pid"], worker["restarts"]) == (pid, 0)
    return seen


def test_hostile_schemas_and_grammars_are_refused_or_answered(served):
    seen = run(served, 0, 60)
    assert seen[200] and seen[400]


@pytest.mark.slow
def test_a_thousand_hostile_schemas_and_grammars(served):
    print(dict(run(served, 1, 1_000)))
