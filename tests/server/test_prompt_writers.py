"""Prompts that take long to write hold up the prompts of their model, and nothing else."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
from conftest import Live, make_engine
from tiny_text import byte_tokenizer

from hyla.server import single_app

NUM_CHATS = 50
"""More than the threads that a server has for short work (40)."""


class SlowFormat:
    """Writes nothing before it is let go."""

    source, sources = "", {}

    def __init__(self):
        self.may_go = Event()

    def start(self):
        pass

    def knows_role(self, role):
        return True

    def shows(self, roles):
        return True

    def render(self, messages, /, **names):
        assert self.may_go.wait(60)
        return "x"


def test_other_routes_answer_while_every_thread_that_writes_prompts_is_taken():
    tokenizer = byte_tokenizer(None)
    tokenizer.chat_template = slow = SlowFormat()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    with Live(single_app(make_engine(tokenizer), model_name="tiny")) as live, ThreadPoolExecutor(NUM_CHATS) as pool:

        def chat(number):
            return httpx.post(live.url + "/v1/chat/completions", json=body, timeout=120).status_code

        try:
            chats = [pool.submit(chat, number) for number in range(NUM_CHATS)]
            with httpx.Client(base_url=live.url, timeout=60) as http:
                for _ in range(20):
                    assert http.post("/tokenize", json={"prompt": "abc"}).json()["tokens"] == [97, 98, 99]
                assert http.get("/health").status_code == 200
            assert not any(own.done() for own in chats)
        finally:
            slow.may_go.set()
        assert [own.result() for own in chats] == [200] * NUM_CHATS
