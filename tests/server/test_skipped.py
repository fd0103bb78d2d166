"""Tools that no model here can be offered, and what they left in a conversation: left out and said, never a 400."""

import typing

import httpx
import pytest
from anthropic.types import content_block_param, tool_union_param
from openai.types.responses import response_input_item_param, tool_param

from hyla.server import Limits
from hyla.server.answering.stored import ResponseStore
from hyla.server.reading import skipped
from hyla.server.reading.items import sealed, unsealed

USER = {"role": "user", "content": "hi"}
FUNCTION = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
OWN = {"name": "get_weather", "input_schema": {"type": "object", "properties": {}}}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": "s: /x/"},
}
CALL = '<tool_call>\n{"name": "NAME", "arguments": {"a": 1}}\n</tool_call>'
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def post(live, path, key="alice", **fields):
    own = {"max_tokens": 200} if path == "/v1/messages" else {}
    body = {"model": "scripted", "temperature": 0} | own | fields
    return httpx.post(live.url + path, json=body, headers={"x-api-key": key}, timeout=60)


def kinds_of(union):
    """The `type`s of a client's union of items, blocks or tools."""
    for part in typing.get_args(union):
        hints = typing.get_type_hints(part, include_extras=True) if isinstance(part, type) else {}
        of_type = hints.get("type", ())
        while typing.get_origin(of_type) is not None and typing.get_origin(of_type) is not typing.Literal:
            of_type = typing.get_args(of_type)[0]
        yield from typing.get_args(of_type)


def test_every_tool_of_openais_clients_is_offered_or_left_out(scripted_live, script):
    script.reply = "ok"
    kinds = set(kinds_of(tool_param.ToolParam)) - {"function", "namespace"}
    assert {"web_search", "local_shell", "image_generation", "custom", "mcp"} <= kinds
    tools = [FUNCTION, *({"type": kind, "name": "n", "tools": [{"x": 1}], "server_url": "x"} for kind in sorted(kinds))]
    done = post(scripted_live, "/v1/responses", input="hi", tools=tools, tool_choice="auto")
    assert done.status_code == 200, done.text
    assert done.json()["tools"] == [FUNCTION] and script.prompts[-1].count("tools: ") == 1
    assert done.headers["X-Skipped"].startswith("tools[1] (")


def test_every_tool_of_anthropics_clients_is_offered_or_left_out(scripted_live, script):
    script.reply = "ok"
    kinds = set(kinds_of(tool_union_param.ToolUnionParam)) - {"custom"}
    assert {"bash_20250124", "web_search_20250305", "text_editor_20250728"} <= kinds
    for kind in sorted(kinds):
        tools = [{"type": kind, "name": "n", "cache_control": {"type": "ephemeral"}}, OWN]
        done = post(scripted_live, "/v1/messages", messages=[USER], tools=tools)
        assert (done.status_code, done.headers["X-Skipped"]) == (200, f"tools[0] ({kind})"), done.text
        body = {"model": "scripted", "messages": [USER], "tools": tools}
        url = scripted_live.url + "/v1/messages/count_tokens"
        count = httpx.post(url, json=body, headers={"x-api-key": "alice"}, timeout=60)
        assert count.json()["input_tokens"] == len(script.prompts[-1]) and "X-Skipped" in count.headers
    assert '"get_weather"' in script.prompts[-1]


def test_a_chat_leaves_them_out_too(scripted_live, script):
    script.reply = "ok"
    tools = [{"type": "custom", "custom": {"name": "f"}}, {"type": "web_search"}]
    done = post(scripted_live, "/v1/chat/completions", messages=[USER], tools=tools)
    assert done.headers["X-Skipped"] == "tools[0] (custom), tools[1] (web_search)"
    assert "tools:" not in script.prompts[-1] and done.json()["choices"][0]["message"]["content"] == "ok"
    assert httpx.post(
        scripted_live.url + "/tokenize",
        json={"model": "scripted", "messages": [USER], "tools": tools},
        headers={"x-api-key": "alice"},
    ).json()["count"] == len(script.prompts[-1])


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("required", "none of the tools can be offered here"),
        ({"type": "function", "name": "apply_patch"}, "names 'apply_patch', a tool of type 'custom'"),
        ({"type": "custom", "name": "apply_patch"}, "Input should be 'function' or 'allowed_tools'"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]}, "none of the tools"),
    ],
)
def test_a_choice_that_names_one_is_refused(scripted_live, choice, said):
    refused = post(
        scripted_live, "/v1/responses", input="hi", tools=[PATCH, {"type": "web_search"}], tool_choice=choice
    )
    assert refused.status_code == 400 and said in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "tool_choice"


def test_of_allowed_tools_those_that_can_be_are_offered(scripted_live, script):
    script.reply = "ok"
    entries = [{"type": "web_search"}, {"type": "function", "name": "get_weather"}]
    for allowed, count in ((entries, 1), (entries[:1], 0)):
        choice = {"type": "allowed_tools", "mode": "auto", "tools": allowed}
        tools = [FUNCTION, {"type": "web_search"}]
        done = post(scripted_live, "/v1/responses", input="hi", tools=tools, tool_choice=choice)
        assert done.status_code == 200 and script.prompts[-1].count('"get_weather"') == count


def test_what_a_header_says_is_bounded_and_plain(scripted_live, script, caplog):
    script.reply = "ok"
    tools = [{"type": f"a\r\nb: ü{n}"} for n in range(20)]
    done = post(scripted_live, "/v1/responses", input="hi", tools=tools)
    told = done.headers["X-Skipped"]
    assert told.startswith("tools[0] (a??b:??0), ") and told.endswith("and 4 more") and "b" not in done.headers
    assert len(skipped._logged) <= skipped.MOST_LOGGED


def test_functions_of_a_namespace_are_called_by_it(scripted_live, script):
    names = [{"type": "function", "name": "spawn", "parameters": {}}, PATCH]
    space = {"type": "namespace", "name": "agents", "description": "Agents.", "tools": names}
    script.reply = CALL.replace("NAME", "agents__spawn")
    done = post(scripted_live, "/v1/responses", input="hi", tools=[space])
    call = done.json()["output"][0]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "agents", "spawn")
    assert done.headers["X-Skipped"] == "tools[0].tools[1] (custom)" and '"agents__spawn"' in script.prompts[-1]
    first = script.prompts[-1]
    items = [USER, call, {"type": "function_call_output", "call_id": call["call_id"], "output": "yes"}]
    script.reply = "ok"
    assert post(scripted_live, "/v1/responses", input=items, tools=[space]).status_code == 200
    assert script.prompts[-1].startswith(first + CALL.replace("NAME", "agents__spawn"))
    named = {"type": "function", "namespace": "agents", "name": "spawn"}
    script.reply = None
    forced = post(scripted_live, "/v1/responses", input="hi", tools=[space, FUNCTION], tool_choice=named)
    assert forced.json()["output"][-1]["namespace"] == "agents"


def test_items_may_add_tools(scripted_live, script):
    script.reply = "ok"
    more = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION, {"type": "web_search"}]}
    done = post(scripted_live, "/v1/responses", input=[more, USER])
    assert '"get_weather"' in script.prompts[-1] and done.headers["X-Skipped"] == "input[0].tools[1] (web_search)"


ITEMS = {
    "custom_tool_call": (
        [{"call_id": "c", "name": "apply_patch", "input": "*** Begin\n"}, {"call_id": "c", "output": "Done!"}],
        ['"apply_patch", "arguments": {"input": "*** Begin\\n"}', "[c]<|im_start|>tool\nDone!"],
    ),
    "local_shell_call": (
        [{"call_id": "c", "id": "l", "action": {"type": "exec", "command": ["ls"]}}, {"id": "c", "output": "a.txt"}],
        ['"local_shell", "arguments": {"type": "exec", "command": ["ls"]}', "[c]<|im_start|>tool\na.txt"],
    ),
    "shell_call": (
        [{"call_id": "c", "action": {"commands": ["ls"]}}, {"call_id": "c", "output": [{"stdout": "a.txt"}]}],
        ['"shell"', '[c]<|im_start|>tool\n{"stdout": "a.txt"}'],
    ),
    "apply_patch_call": (
        [{"call_id": "c", "operation": {"type": "delete_file", "path": "a"}}, {"call_id": "c", "status": "completed"}],
        ['"apply_patch", "arguments": {"type": "delete_file", "path": "a"}', "[c]<|im_start|>tool\n{}"],
    ),
    "tool_search_call": (
        [{"call_id": "c", "arguments": {"query": "x"}, "execution": "client"}, {"call_id": "c", "tools": [FUNCTION]}],
        ['"tool_search", "arguments": {"query": "x"}', '"get_weather"'],
    ),
    "mcp_call": (
        [{"id": "m", "name": "roll", "server_label": "d", "arguments": '{"d": 6}', "output": "4"}],
        ['"roll", "arguments": {"d": 6}', "[m]<|im_start|>tool\n4"],
    ),
    "web_search_call": ([{"id": "w", "status": "completed", "action": {"type": "search", "query": "x"}}], None),
    "image_generation_call": ([{"id": "i", "status": "completed", "result": "iVBORw0KGgo="}], None),
    "code_interpreter_call": (
        [{"id": "k", "code": "1+1", "container_id": "x", "outputs": [{"type": "logs", "logs": "2"}]}],
        ['"code_interpreter", "arguments": {"code": "1+1"}', '"logs": "2"'],
    ),
    "reasoning": ([{"id": "r", "summary": [], "encrypted_content": "gAAAAA"}], None),
    "compaction": ([{"encrypted_content": "gAAAAA"}], None),
    "ghost_snapshot": ([{"ghost_commit": {"id": "x"}}], None),
    "item_reference": ([{"id": "msg_absent"}], None),
    "mcp_list_tools": ([{"id": "m", "server_label": "d", "tools": [{"name": "f", "input_schema": {}}]}], None),
    "mcp_approval_request": ([{"id": "m", "server_label": "d", "name": "f", "arguments": "{}"}], None),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_items_of_other_tools_do_not_end_a_conversation(scripted_live, script, kind):
    script.reply = "ok"
    given, shown = ITEMS[kind]
    items = [{"type": kind + end, **fields} for end, fields in zip(("", "_output"), given)]
    if kind == "tool_search_call":
        items[1]["type"] = "tool_search_output"
    done = post(scripted_live, "/v1/responses", input=[USER, *items, USER])
    assert done.status_code == 200, done.text
    for text in shown or ():
        assert text in script.prompts[-1]
    assert ("X-Skipped" in done.headers) == (shown is None)
    if shown is None:
        assert done.headers["X-Skipped"] == f"input[1] ({kind})"
        post(scripted_live, "/v1/responses", input=[USER, USER])
        assert script.prompts[-1] == script.prompts[-2]


def test_every_item_of_openais_clients_is_read_or_left_out(scripted_live, script):
    script.reply = "ok"
    kinds = set(kinds_of(response_input_item_param.ResponseInputItemParam))
    assert {"message", "custom_tool_call", "item_reference", "local_shell_call"} <= kinds
    filled = {"call_id": "c", "id": "x", "name": "n", "arguments": "{}", "input": "i", "output": "o"}
    for kind in sorted(kinds - {"message", "additional_tools"}):
        done = post(scripted_live, "/v1/responses", input=[USER, {"type": kind, **filled}])
        assert done.status_code == 200 or "send its content" in done.text, (kind, done.text)


def test_a_kept_item_may_be_named(scripted_live, script):
    script.reply = "Something memorable."
    kept = post(scripted_live, "/v1/responses", input="hi").json()["output"][0]["id"]
    script.reply = "ok"
    items = [USER, {"type": "item_reference", "id": kept}, USER]
    assert "X-Skipped" not in post(scripted_live, "/v1/responses", input=items).headers
    assert "assistant\nSomething memorable." in script.prompts[-1]
    assert "item_reference" in post(scripted_live, "/v1/responses", key="bob", input=items).headers["X-Skipped"]
    assert "memorable" not in script.prompts[-1]


def test_reasoning_comes_back_in_the_sealed_form_that_agents_keep(scripted_live, script):
    script.reply = "I wönder.\n</think>\n\n" + CALL.replace("NAME", "get_weather")
    fields = {"tools": [FUNCTION], "reasoning": {"effort": "low"}, "store": False}
    done = post(scripted_live, "/v1/responses", input=[USER], include=["reasoning.encrypted_content"], **fields)
    reasoning, call = done.json()["output"]
    first = script.prompts[-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sun"}
    kept = {"type": "reasoning", "summary": [], "encrypted_content": reasoning["encrypted_content"]}
    script.reply = "ok"
    post(scripted_live, "/v1/responses", input=[USER, kept, call, output], **fields)
    assert script.prompts[-1].startswith(
        first.removesuffix("<think>\n") + "<think>\nI wönder.\n</think>\n\n<tool_call>"
    )
    plain = post(scripted_live, "/v1/responses", input=[USER], **fields).json()["output"]
    assert all("encrypted_content" not in item for item in plain)
    assert unsealed(sealed("ü")) == "ü" and [unsealed(own) for own in ("hyla:!", "gAAA", None)] == [None] * 3


BLOCKS = [
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [{"type": "web_search_result", "title": "T", "url": "u", "encrypted_content": "EqgfCioIARgB"}],
    },
    {"type": "text", "text": "Found.", "citations": [{"type": "web_search_result_location", "url": "u"}]},
]


def test_blocks_of_hosted_tools_are_shown_as_calls(scripted_live, script):
    script.reply = "ok"
    turns = [USER, {"role": "assistant", "content": [{"type": "text", "text": "I look."}, *BLOCKS]}, USER]
    assert post(scripted_live, "/v1/messages", messages=turns).status_code == 200
    shown = script.prompts[-1]
    assert 'I look.\n<tool_call>\n{"name": "web_search", "arguments": {"query": "x"}}' in shown
    assert '[s]<|im_start|>tool\n{"type": "web_search_result", "title": "T", "url": "u"}' in shown
    assert "assistant\nFound." in shown and "EqgfCioIARgB" not in shown
    turns[1]["content"] = [BLOCKS[0], {"type": "mcp_tool_use", "id": "m", "name": "f", "input": {}}, BLOCKS[2]]
    done = post(scripted_live, "/v1/messages", messages=turns)
    assert (
        done.headers["X-Skipped"] == "messages[1].content[0] (server_tool_use), messages[1].content[1] (mcp_tool_use)"
    )


def test_every_block_of_an_assistant_is_read_or_left_out(scripted_live, script):
    script.reply = "ok"
    kinds = set(kinds_of(content_block_param.ContentBlockParam)) - {"text", "image", "document", "container_upload"}
    assert {"server_tool_use", "web_fetch_tool_result", "redacted_thinking"} <= kinds
    filled = {"id": "x", "tool_use_id": "x", "name": "n", "input": {}, "thinking": "t", "content": [], "title": "T"}
    for kind in sorted(kinds):
        turns = [USER, {"role": "assistant", "content": [{"type": kind, **filled}]}, USER]
        done = post(scripted_live, "/v1/messages", messages=turns)
        assert done.status_code == 200, (kind, done.text)


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}, "an image"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "J"}}, "a file"),
    ],
)
def test_a_picture_that_a_tool_gave_does_not_end_a_conversation(scripted_live, script, part, what):
    """An agent that has looked at one sends it with every later request."""
    script.reply = "ok"
    result = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "Look:"}, part]}
    done = post(scripted_live, "/v1/messages", messages=[{"role": "user", "content": [result]}])
    assert f"Look:\n[{what}, left out: this model reads text only]" in script.prompts[-1]
    assert done.headers["X-Skipped"] == f"messages[0].content[0].content[1] ({part['type']})"
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": PIXEL}]}
    done = post(scripted_live, "/v1/responses", input=[USER, output])
    assert (
        "[an image, left out" in script.prompts[-1] and done.headers["X-Skipped"] == "input[1].output[0] (input_image)"
    )


def test_a_deferred_tool_is_told_where_a_result_refers_to_it(scripted_live, script):
    script.reply = "ok"
    tools = [OWN | {"name": "Search"}, OWN | {"name": "Fetch", "defer_loading": True}]
    call = {"type": "tool_use", "id": "c", "name": "Search", "input": {}}
    found = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "tool_reference", "tool_name": "Fetch"}]}
    turns = [USER, {"role": "assistant", "content": [call]}, {"role": "user", "content": [found]}]
    post(scripted_live, "/v1/messages", messages=turns[:1], tools=tools[:1])
    first = script.prompts[-1]
    post(scripted_live, "/v1/messages", messages=turns[:1], tools=tools)
    assert script.prompts[-1] == first  # so that what was cached before the search is cached after it
    script.reply = CALL.replace("NAME", "Fetch")
    done = post(scripted_live, "/v1/messages", messages=turns, tools=tools[::-1])
    assert done.json()["content"][0]["name"] == "Fetch" and "X-Skipped" not in done.headers
    assert script.prompts[-1].startswith(first.removesuffix("<|im_start|>assistant\n"))
    assert (
        script.prompts[-1].count('"name": "Fetch"') == 1
        and '[c]<|im_start|>tool\n{"type": "function"' in script.prompts[-1]
    )


def test_a_deferred_tool_that_must_be_called_is_told(scripted_live, script):
    tools = [OWN, OWN | {"name": "Fetch", "defer_loading": True}]
    choice = {"type": "tool", "name": "Fetch"}
    done = post(scripted_live, "/v1/messages", messages=[USER], tools=tools, tool_choice=choice)
    assert {block["name"] for block in done.json()["content"] if block["type"] == "tool_use"} == {"Fetch"}


def test_many_references_are_no_long_prompt(scripted_live, script):
    script.reply = "ok"
    tools = [OWN, OWN | {"name": "Fetch", "description": "x" * 900, "defer_loading": True}]
    parts = [{"type": "tool_reference", "tool_name": "Fetch"}] * 10
    result = {"type": "tool_result", "tool_use_id": "c", "content": parts}
    post(scripted_live, "/v1/messages", messages=[{"role": "user", "content": [result]}], tools=tools)
    assert script.prompts[-1].count("x" * 900) == 1 and script.prompts[-1].count('"tool_reference"') == 9


def test_kept_items_go_with_their_answers():
    store = ResponseStore(Limits(max_stored_responses=2))
    for n in range(4):
        store.add({"id": f"r{n}", "output": [{"id": f"i{n}"}]}, [], "alice")
    assert [store.item(f"i{n}", "alice") for n in range(4)] == [None, None, {"id": "i2"}, {"id": "i3"}]
    assert store.item("i3", "bob") is None and store.delete("r3", "alice") and store.item("i3", "alice") is None
    assert list(store._answer_of) == ["i2"]


@pytest.mark.parametrize(
    "tools",
    [
        [OWN | {"defer_loading": True}],
        [OWN | {"defer_loading": True}, OWN | {"name": "g"}, {"type": "tool_search_tool_regex_20251119", "name": "s"}],
    ],
)
def test_a_deferred_tool_that_nothing_can_find_is_told_at_once(scripted_live, script, tools):
    script.reply = "ok"
    post(scripted_live, "/v1/messages", messages=[USER], tools=tools)
    assert '"get_weather"' in script.prompts[-1]


BILL = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch={};"


@pytest.mark.parametrize("form", ["blocks", "one text", "a chat"])
def test_a_billing_line_that_changes_does_not_part_prompts(scripted_live, script, form):
    script.reply = "ok"
    cached, prompts = [], []
    for nonce in ("36ee5", "0aaa9"):
        text = f"You are an agent ({form}). " * 10
        given = BILL.format(nonce)
        if form == "blocks":
            given = [{"type": "text", "text": given}, {"type": "text", "text": text, "cache_control": {"type": "x"}}]
        else:
            given = f"{given}\n{text}"
        if form == "a chat":
            messages = [{"role": "system", "content": given}, USER]
            usage = post(scripted_live, "/v1/chat/completions", messages=messages).json()["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        else:
            usage = post(scripted_live, "/v1/messages", messages=[USER], system=given).json()["usage"]
            cached.append(usage["cache_read_input_tokens"])
        prompts.append(script.prompts[-1])
    assert prompts[0] == prompts[1] and "billing" not in prompts[0] and text in prompts[0]
    assert cached[0] == 0 < cached[1]


def test_only_a_first_line_is_a_billing_line(scripted_live, script):
    script.reply = "ok"
    turns = [{"role": "user", "content": BILL}]
    post(scripted_live, "/v1/messages", messages=turns, system="Say: " + BILL)
    assert script.prompts[-1].count("x-anthropic-billing-header") == 2
    assert post(scripted_live, "/v1/messages", messages=[USER], system=BILL).status_code == 200
    assert "system" not in script.prompts[-1]
