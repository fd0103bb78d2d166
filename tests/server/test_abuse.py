"""Mutated bodies and schemathesis: every answer is a success or says what is wrong; nothing is a server error."""

import contextlib
import json
import random
import threading
from collections import Counter

import httpx
import pytest
import schemathesis
from abuse import BODIES, mutated, raw_http, send, send_raw
from conftest import Live, make_engine, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from tiny_text import byte_tokenizer
from tool_templates import SCRIPTED

from hyla.server import single_app


@pytest.fixture(scope="module")
def target():
    """A small context, so that bodies that ask for everything end soon."""
    engine = make_engine(byte_tokenizer(SCRIPTED), context_len=400)
    limits = {"max_body_bytes": 50_000, "max_choices": 6, "max_prompts": 6, "max_stored_responses": 5}
    limits |= {"max_json_values": 5000, "max_json_containers": 2000}
    with Live(single_app(engine, model_name="tiny", **limits)) as live:
        yield live
        assert wait_until(lambda: live.served.worker.num_requests == 0 and not live.service.running)
        assert httpx.get(live.url + "/ready").status_code == 200
    engine.cache.ledger.check()
    assert engine.cache.ledger.pages.used == 0


def run(target, seed, count):
    draw, seen = random.Random(seed), Counter()
    with httpx.Client(base_url=target.url, timeout=120) as http:
        for path in BODIES:
            assert send(http, path, json.dumps(BODIES[path]).encode()) == (404 if path == "/abort" else 200), path
        for _ in range(count):
            path = draw.choice(sorted(BODIES))
            seen[send(http, path, mutated(draw, BODIES[path]))] += 1
    assert len(seen) > 1 and seen[200] > 0 and seen[400] > 0
    return seen


@contextlib.contextmanager
def health(target):
    """It answers all the while, and in time."""
    is_over, seen = threading.Event(), []

    def ask():
        with httpx.Client(base_url=target.url, timeout=30) as http:
            while True:  # once at least, however quick the others are
                seen.append((http.get("/health").status_code, http.get("/ready").status_code))
                if is_over.wait(0.05):
                    break

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        is_over.set()
        asking.join()
    assert seen and set(seen) == {(200, 200)}


def run_raw(target, seed, count):
    draw, seen = random.Random(seed), Counter()
    for _ in range(count):
        seen.update(send_raw(target.socket.getsockname(), raw_http(draw)) or ["closed"])
    assert wait_until(lambda: len(target.server.server_state.connections) < 50)
    assert seen[200] > 0 and seen[400] > 0 and seen[404] > 0
    return seen


def test_two_hundred_heads_of_http_or_near_it(target):
    with health(target):
        run_raw(target, 0, 200)


@pytest.mark.slow
def test_five_thousand_heads_of_http_or_near_it(target):
    with health(target):
        print(dict(run_raw(target, 1, 5000)))


def test_a_hundred_mutated_bodies(target):
    run(target, 0, 100)


@pytest.mark.slow
def test_ten_thousand_mutated_bodies(target):
    with health(target):
        print(dict(run(target, 1, 10_000)))


@pytest.fixture(scope="module")
def operations(target):
    """Everything that /openapi.json describes."""
    described = schemathesis.openapi.from_url(target.url + "/openapi.json")
    found = [result.ok() for result in described.get_all_operations()]
    assert {operation.path for operation in found} >= set(BODIES)
    return found


def explore(operations, max_examples):
    """Cases of each operation, valid ones and others."""
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=max_examples, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode))
            def ask(case):
                answer = case.call(timeout=120)
                assert answer.status_code < 500, (answer.status_code, case.path, case.body, answer.text)

            with contextlib.suppress(Unsatisfiable):  # nothing about a route without parameters can be wrong
                ask()


def test_the_described_api_never_fails(operations):
    explore(operations, 2)


@pytest.mark.slow
def test_the_described_api_never_fails_at_length(operations):
    explore(operations, 200)
