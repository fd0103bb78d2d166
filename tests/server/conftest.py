"""A live server over a tiny real model, shared by this folder's tests."""

import sys
import threading
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from tiny_text import byte_tokenizer, tiny_model

from hyla.engine import Engine
from hyla.server.app import create_app
from hyla.server.serve import listen


class Live:
    """uvicorn on a free port, on a thread."""

    def __init__(self, app):
        import uvicorn

        self.app = app
        self.socket = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    @property
    def service(self):
        return self.app.state.service

    @property
    def engine(self):
        return self.service.engine

    def __enter__(self):
        self.thread.start()
        with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
            client.get(self.url + "/health", timeout=60)
        return self

    def __exit__(self, *failure):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


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
    app = create_app(make_engine(), model_name="tiny", max_body_bytes=20_000, max_requests=40)
    with Live(app) as live:
        yield live
        assert wait_until(lambda: live.service.thread.num_requests == 0)
    live.engine.cache.ledger.check()
    assert live.engine.cache.ledger.pages.used == 0 and live.engine.cache.ledger.slots.used == 0


@pytest.fixture
def http(live):
    with httpx.Client(base_url=live.url, timeout=120) as client:
        yield client
