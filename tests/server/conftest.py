"""A live server over a tiny real model, shared by this folder's tests."""

import httpx
import pytest
from live_server import Live
from tiny_text import byte_tokenizer, tiny_model

from hyla.engine import Engine
from hyla.server import single_app


def make_engine(tokenizer="default", **options):
    tokenizer = byte_tokenizer() if tokenizer == "default" else tokenizer
    options = {"memory": 24 << 20, "max_num_sequences": 8} | options
    return Engine(tiny_model("kimi_linear"), tokenizer=tokenizer, **options)


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
        assert wait_until(lambda: live.served.thread.num_requests == 0)
    live.engine.cache.ledger.check()
    assert live.engine.cache.ledger.pages.used == 0 and live.engine.cache.ledger.slots.used == 0


@pytest.fixture
def http(live):
    with httpx.Client(base_url=live.url, timeout=120) as client:
        yield client
