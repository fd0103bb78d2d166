"""A tool whose schema no grammar can follow blocks no other: only a call that is held to it is refused, by name."""

import httpx
import pytest

FAR = {"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}}
UNIQUE = {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}}


def asked(live, choice, parameters):
    tools = [{"name": "bad", "parameters": parameters}, {"name": "good", "parameters": {"type": "object"}}]
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 2,
        "tools": [{"type": "function", "function": tool} for tool in tools],
        "tool_choice": choice,
    }
    return httpx.post(
        live.url + "/v1/chat/completions", json=body, timeout=60, headers={"Authorization": "Bearer alice"}
    )


@pytest.mark.parametrize("parameters", [FAR, UNIQUE])
def test_it_is_refused_only_where_a_call_is_held_to_it(scripted_live, parameters):
    assert asked(scripted_live, "auto", parameters).status_code == 200
    good = {"type": "function", "function": {"name": "good"}}
    assert asked(scripted_live, good, parameters).status_code == 200
    for choice in ("required", {"type": "function", "function": {"name": "bad"}}):
        answer = asked(scripted_live, choice, parameters)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "tools"
        told = answer.json()["error"]["message"]
        assert "'bad'" in told and ("tags has 'uniqueItems'" in told or "https://example.com/a.json" in told)
