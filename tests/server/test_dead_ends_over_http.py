"""What a request's own rules leave without a next token: cut off as by its length, or refused where nothing came."""

import pytest

HELD = {"model": "tiny", "prompt": "ab", "guided_regex": "abc", "max_tokens": 9, "temperature": 0}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_go_on_is_cut_off(http, stream):
    answer = http.post("/v1/completions", json={**HELD, "allowed_token_ids": list(b"ab"), "stream": stream})
    assert answer.status_code == 200 and "error" not in answer.text
    assert '"finish_reason":"length"' in answer.text.replace(" ", "")
    if not stream:
        assert answer.json()["choices"][0]["text"] == "ab"


def test_an_answer_that_cannot_begin_is_refused(http):
    answer = http.post("/v1/completions", json={**HELD, "allowed_token_ids": list(b"x")})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "nothing_allowed"
    assert "the grammar allows no token here that everything else allows" in answer.json()["error"]["message"]


def test_a_pattern_of_names_beside_a_named_property_is_answered(http):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "patternProperties": {"^a$": {"maximum": 9}}}
    schema |= {"additionalProperties": False}
    for seed in range(5):
        body = {"model": "tiny", "prompt": "x", "guided_json": schema, "max_tokens": 40, "seed": seed}
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"] in ("stop", "length")
