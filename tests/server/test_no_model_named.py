"""A request without a model: the only one answers, and of several none is guessed."""

import httpx
import pytest

USER = [{"role": "user", "content": "x"}]
REQUESTS = {
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": {"messages": USER, "max_tokens": 1},
    "/v1/messages": {"messages": USER, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/responses": {"input": "x", "max_output_tokens": 1},
    "/v1/responses/input_tokens": {"input": "x"},
    "/v1/embeddings": {"input": "x"},
    "/tokenize": {"prompt": "x"},
}


@pytest.mark.parametrize("path", REQUESTS)
def test_the_only_model_answers_and_says_its_name(http, path):
    answer = http.post(path, json=REQUESTS[path])
    assert answer.status_code == 200, answer.text
    assert answer.json().get("model", "tiny") == "tiny"


@pytest.mark.parametrize("path", REQUESTS)
def test_of_several_models_one_must_be_named(scripted_live, path):
    answer = httpx.post(scripted_live.url + path, json=REQUESTS[path], headers={"Authorization": "Bearer alice"})
    assert answer.status_code == 400
    assert "model is missing and this server has 'scripted', 'other'; name one" in answer.text
