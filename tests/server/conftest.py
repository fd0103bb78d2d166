"""A live server over a tiny real model, shared by this folder's tests."""

from dataclasses import replace

import httpx
import pytest
from live_server import Live
from tiny_text import END, byte_tokenizer, tiny_model
from tool_templates import SCRIPTED

from hyla.engine import Engine
from hyla.engine.generation import Generation
from hyla.server import KeyRing, Limits, create_app, serve_model, single_app


def make_engine(tokenizer="default", *, max_len=512, **options):
    tokenizer = byte_tokenizer() if tokenizer == "default" else tokenizer
    options = {"memory": 24 << 20, "max_num_sequences": 8} | options
    return Engine(tiny_model("kimi_linear", max_len=max_len), tokenizer=tokenizer, **options)


def wait_until(condition, seconds=30.0):
    """Poll; returns whether it came true."""
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="session")
def live():
    app = single_app(make_engine(), model_name="tiny", max_body_bytes=20_000, max_requests=40, max_schema_bytes=2000)
    with Live(app) as live:
        yield live
        assert wait_until(lambda: live.served.worker.num_requests == 0)
    live.engine.cache.ledger.check()
    assert live.engine.cache.ledger.pages.used == 0 and live.engine.cache.ledger.slots.used == 0


@pytest.fixture
def http(live):
    with httpx.Client(base_url=live.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def scripted_live():
    """Two models by name, keys, an admin key, and a chat template with tools and reasoning."""
    limits = Limits(max_stored_responses=3)
    models = [serve_model(make_engine(byte_tokenizer(SCRIPTED), max_len=2048), "scripted", limits=limits)]
    models.append(serve_model(make_engine(byte_tokenizer(None)), "other", limits=limits))
    keys = KeyRing(["alice", "bob"], admin_keys=["boss"])
    with Live(create_app(models, limits=limits, keys=keys)) as live:
        yield live
        assert wait_until(lambda: all(own.worker.num_requests == 0 for own in live.service.models.values()))
    for own in models:
        own.worker.engine.cache.ledger.check()
        assert own.worker.engine.cache.ledger.slots.used == 0


class Script:
    """What the model says next, whatever it would have sampled."""

    reply: str | None = None
    prompts: list


@pytest.fixture
def script(monkeypatch):
    """The whole engine works; only the ids of its samples are replaced."""
    script, accept = Script(), Generation.accept
    script.prompts = []

    def scripted(generation, token_id, logprob):
        if script.reply is None:
            return accept(generation, token_id, logprob)
        if generation.num_output_tokens == 0:
            script.prompts.append(bytes(own for own in generation.request.prompt if own < 256).decode())
        wanted = [*script.reply.encode(), END]
        token = wanted[generation.num_output_tokens]
        return accept(generation, token, logprob and replace(logprob, token_id=token))

    monkeypatch.setattr(Generation, "accept", scripted)
    return script
