"""An answer holds no more log-probabilities than the server writes at once."""

import httpx
import pytest
from conftest import make_engine
from live_server import Live

from hyla.server import single_app


@pytest.fixture(scope="module")
def bounded():
    with Live(single_app(make_engine(), model_name="tiny", max_logprobs=300)) as live:
        yield live


def ask(live, path, **body):
    return httpx.post(live.url + path, json=body, timeout=120)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"input": ["x" * 60] * 3, "top_logprobs": 1}),
        ("/v1/completions", {"prompt": ["x" * 60] * 3, "max_tokens": 1, "prompt_logprobs": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 50, "n": 4, "logprobs": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 50, "n": 4,
                                  "logprobs": True, "top_logprobs": 1}),
    ],
)  # fmt: skip
def test_more_are_refused_with_their_number_and_fewer_are_written(bounded, path, body):
    answer = ask(bounded, path, **body)
    assert answer.status_code == 400 and "writes at most 300" in answer.text
    if path != "/score":
        assert ask(bounded, path, **body | {"n": 1, "prompt": "x"} if "prompt" in body else body | {"n": 1}).is_success
    else:
        assert ask(bounded, path, **body | {"input": "x" * 60}).is_success


def test_a_stream_and_an_only_answer_are_as_long_as_they_like(bounded):
    body = {"prompt": "x", "max_tokens": 200, "logprobs": 1}
    assert ask(bounded, "/v1/completions", **body).is_success
    assert ask(bounded, "/v1/completions", **body, n=4, stream=True).is_success
