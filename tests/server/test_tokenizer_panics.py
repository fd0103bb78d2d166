"""What the tokenizers library fails on is the request's fault, not the server's."""

import json

import httpx
from conftest import Live, make_engine
from panicking import panicking_backend
from tiny_text import byte_tokenizer

from hyla.server import single_app


def test_a_panic_of_the_library_is_answered_with_400_and_the_server_goes_on():
    tokenizer = byte_tokenizer()
    with Live(single_app(make_engine(tokenizer), model_name="tiny")) as live, httpx.Client(base_url=live.url) as http:
        tokenizer.backend = panicking_backend(tokenizer.backend)
        asked = [
            ("/tokenize", {"prompt": "x" * 100}),
            ("/detokenize", {"tokens": [97]}),
            ("/v1/completions", {"model": "tiny", "prompt": "x" * 100}),
            ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x" * 100}]}),
            ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "x" * 100}]}),
            ("/tokenize", {"prompt": "\ud800"}),
        ]
        for path, body in asked:
            answer = http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, (path, answer.text)
            assert "tokenizer fails" in answer.json()["error"]["message"] or "surrogate" in answer.text
        assert http.get("/health").status_code == 200
