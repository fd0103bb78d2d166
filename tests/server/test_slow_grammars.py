"""Grammars that take long to compile: nobody else waits for them, only so many wait, and those of clients that have
gone are dropped."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import Live, make_engine, wait_until

from hyla.engine import JsonObject, Overloaded, Request, SamplingParams
from hyla.engine.hosting.intake import MOST_GRAMMARS, NUM_COMPILING, Intake
from hyla.errors import HylaError
from hyla.server import single_app

PLAIN = {"model": "tiny", "prompt": "ab", "max_tokens": 2}
SLOW = {**PLAIN, "guided_regex": "a+"}


@pytest.fixture
def held():
    """A live server whose compiler waits until it is told to go on."""
    engine = make_engine()
    compiler, gate, begun = engine._resolver.grammars, threading.Event(), []

    def slow(form, num):
        begun.append(form)
        assert gate.wait(60)
        return tuple(compiler.compile(form) for _ in range(num))

    compiler.compile_each = slow
    with Live(single_app(engine, model_name="tiny", api_key="key")) as live:
        live.gate, live.begun = gate, begun
        yield live
        gate.set()
        assert wait_until(lambda: live.served.worker.num_requests == 0)


def client(live):
    return httpx.Client(base_url=live.url, timeout=60, headers={"Authorization": "Bearer key"})


def test_others_are_answered_while_grammars_are_compiled(held):
    with ThreadPoolExecutor(60) as pool, client(held) as http:
        asked = [pool.submit(http.post, "/v1/completions", json=SLOW) for _ in range(60)]
        assert wait_until(lambda: len(held.begun) == NUM_COMPILING)
        refused = 60 - MOST_GRAMMARS
        assert wait_until(lambda: sum(one.done() for one in asked) == refused)
        for path in ("/health", "/ready", "/metrics", "/engine/status", "/v1/models"):
            assert http.get(path).status_code == 200, path
        assert http.post("/v1/completions", json=PLAIN).status_code == 200
        assert http.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert len(held.begun) == NUM_COMPILING
        held.gate.set()
        answers = [one.result() for one in asked]
    assert sorted(answer.status_code for answer in answers) == [200] * MOST_GRAMMARS + [503] * refused
    told = next(answer for answer in answers if answer.status_code == 503)
    assert told.headers["retry-after"] and "requests with a grammar" in told.json()["error"]["message"]


def test_work_of_clients_that_have_gone_is_dropped(held):
    with client(held) as http:
        for _ in range(8):
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/completions", json=SLOW, timeout=0.3)
    intake = held.served.worker._intake
    assert wait_until(lambda: len(intake._work) == NUM_COMPILING)
    held.gate.set()
    assert wait_until(lambda: not intake._work and held.served.worker.num_requests == 0)
    assert len(held.begun) == NUM_COMPILING


def request(name, **fields):
    return Request(name, (1,), SamplingParams(**fields))


def test_an_intake_ends_every_future():
    gate = threading.Event()
    intake = Intake(lambda request, on_event: gate.wait(60) and request, 40)
    grammars = [intake.submit(request(f"g{n}", grammar=JsonObject()), None) for n in range(MOST_GRAMMARS)]
    with pytest.raises(Overloaded, match="with a grammar"):
        intake.submit(request("more", grammar=JsonObject()), None)
    plain = [intake.submit(request(f"p{n}"), None) for n in range(40 - MOST_GRAMMARS)]
    with pytest.raises(Overloaded, match="too many requests"):
        intake.submit(request("more"), None)
    with pytest.raises(HylaError, match="in use"):
        intake.submit(request("p0"), None)
    intake.cancel("g9")
    intake.cancel("unknown")
    with pytest.raises(HylaError, match="cancelled before its turn"):
        grammars[9].result(60)
    gate.set()
    assert [one.result(60).request_id for one in plain] == [f"p{n}" for n in range(8)]
    assert all(one.result(60) for n, one in enumerate(grammars) if n != 9)
    intake.close()
    with pytest.raises(Overloaded, match="shutting down"):
        intake.submit(request("late"), None)
