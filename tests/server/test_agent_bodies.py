"""Mutated bodies of coding agents: hosted tools, namespaces, references, sealed items; nothing is a server error."""

import json
import random
from collections import Counter

import httpx
import pytest
from abuse import mutated, send
from conftest import Live, make_engine, wait_until
from tiny_text import byte_tokenizer
from tool_templates import SCRIPTED

from hyla.server import single_app
from hyla.server.reading.items import sealed

FUNCTION = {"type": "function", "name": "f", "parameters": {}, "defer_loading": False}
CUSTOM = {"type": "custom", "name": "p", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}}
RESPONSE = {
    "model": "tiny", "max_output_tokens": 1, "stream": True, "include": ["reasoning.encrypted_content"], "store": False,
    "tool_choice": "auto", "client_metadata": {"a": "b"}, "text": {"verbosity": "low"}, "reasoning": {"effort": "low"},
    "tools": [FUNCTION, CUSTOM, {"type": "web_search"}, {"type": "namespace", "name": "n", "tools": [FUNCTION]}],
    "input": [
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "g"}]},
        {"role": "user", "content": "hi"}, {"role": "developer", "content": "d"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": sealed("r")},
        {"type": "function_call", "call_id": "a", "namespace": "n", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image", "image_url": "x"}]},
        {"type": "custom_tool_call", "call_id": "b", "name": "p", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "y"},
        {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "output": {"a": [1]}},
        {"type": "local_shell_call", "call_id": "l", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "l", "output": [{"stdout": "z"}]},
        {"type": "item_reference", "id": "i"}, {"type": "compaction", "encrypted_content": "g"},
    ],
}  # fmt: skip
OWN = {"name": "f", "input_schema": {}}
MESSAGE = {
    "model": "tiny", "max_tokens": 1, "stream": True, "thinking": {"type": "adaptive"},
    "system": [{"type": "text", "text": "x-anthropic-billing-header: c;"}, {"type": "text", "text": "s"}],
    "tools": [OWN, OWN | {"name": "g", "defer_loading": True}, {"type": "bash_20250124", "name": "bash"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "system", "content": "later"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": ""}, {"type": "redacted_thinking", "data": "x"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "x", "url": "u"}]},
            {"type": "search_result", "title": "t", "source": "u", "content": [{"type": "text", "text": "x"}]},
            {"type": "tool_use", "id": "c", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [
            {"type": "tool_reference", "tool_name": "g"}, {"type": "image"}, {"type": "text", "text": "x"},
        ]}]},
    ],
}  # fmt: skip
BODIES = {"/v1/responses": RESPONSE, "/v1/messages": MESSAGE}


@pytest.fixture(scope="module")
def target():
    engine = make_engine(byte_tokenizer(SCRIPTED), max_len=2048)
    with Live(single_app(engine, model_name="tiny", max_body_bytes=50_000, max_stored_responses=5)) as live:
        yield live
        assert wait_until(lambda: live.served.worker.num_requests == 0 and not live.service.running)
    engine.cache.ledger.check()


@pytest.mark.parametrize("count", [60, pytest.param(6000, marks=pytest.mark.slow)])
def test_mutated_bodies_of_agents(target, count):
    draw, seen = random.Random(count), Counter()
    with httpx.Client(base_url=target.url, timeout=120) as http:
        for path, body in BODIES.items():
            assert send(http, path, json.dumps(body).encode()) == 200, path
        for _ in range(count):
            path = draw.choice(sorted(BODIES))
            seen[send(http, path, mutated(draw, BODIES[path]))] += 1
    assert set(seen) <= {200, 400, 404, 413} and seen[200] > 0 < seen[400]
