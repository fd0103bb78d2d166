"""Whatever this server sent can be sent back: calls whose arguments are no object, too."""

import json

import anthropic
import httpx
import openai
import pytest
from test_tools_over_http import TOOL
from tool_templates import TEMPLATES

from hyla.checkpoints.chat_template import ChatTemplate
from hyla.server.reading.conversation import message_for_template

BROKEN = [
    '{"city": "Wi',
    '{"city": ',
    "[1, 2]",
    "3",
    '"text"',
    "NaN",
    "{'city': 1}",
    '{"a": "\\ud800"}',
    "[" * 300 + "]" * 300,
    "{",
]
EMPTY = ["", "{}", "null", " "]
CALL_ID = "functions.get_weather:0"
USER = {"role": "user", "content": "hi"}


def conversation(arguments):
    call = {"id": CALL_ID, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": CALL_ID, "content": "no such city"}
    return [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result]


@pytest.mark.parametrize("arguments", [*BROKEN, *EMPTY, None, [1], 3, {"city": "Wil"}])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_shows_a_call_with_broken_arguments(name, arguments):
    messages = [message_for_template(message) for message in conversation(arguments)]
    text = ChatTemplate(TEMPLATES[name]).render(messages, add_generation_prompt=True, tools=None)
    text.encode()
    assert "get_weather" in text and text.endswith("<|im_start|>assistant\n")
    if arguments in BROKEN[:2]:
        assert '{"city": ' in text.replace("\\", "")


def test_both_spellings_of_broken_arguments_are_shown_alike():
    shown = [message_for_template(conversation(own)[1]) for own in ('{"ci', '{"invalid_json": "{\\"ci"}')]
    assert shown[0] == shown[1] and str(shown[1]["tool_calls"][0]["function"]["arguments"]) == '{"ci'


@pytest.mark.parametrize("arguments", [*BROKEN, *EMPTY, [1], 3])
def test_a_chat_with_them_goes_on(scripted_live, script, arguments):
    script.reply = "Sorry."
    body = {"model": "scripted", "messages": conversation(arguments), "tools": [TOOL]}
    url = scripted_live.url + "/v1/chat/completions"
    answer = httpx.post(url, json=body, headers={"x-api-key": "alice"}, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("arguments", ['{"city": "Wi', "[1]", '{"city": "\\ud800"}', '{"city": NaN}', "12"])
def test_what_was_sent_can_be_sent_back_in_every_api(scripted_live, script, arguments):
    script.reply = '<tool_call>\n{"name": "get_weather", "arguments": ' + arguments
    key = {"api_key": "alice", "max_retries": 0, "timeout": 60}
    result = "no such city"
    with openai.OpenAI(base_url=scripted_live.url + "/v1", **key) as client:
        sent = client.chat.completions.create(model="scripted", messages=[USER], tools=[TOOL]).choices[0].message
        if sent.tool_calls:
            results = [{"role": "tool", "tool_call_id": call.id, "content": result} for call in sent.tool_calls]
            client.chat.completions.create(model="scripted", messages=[USER, sent, *results], tools=[TOOL])
        tool = {"type": "function", **TOOL["function"]}
        output = client.responses.create(model="scripted", input="hi", tools=[tool]).output
        items = [item.model_dump(exclude_none=True) for item in output]
        results = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": result}
            for item in items
            if item["type"] == "function_call"
        ]
        assert client.responses.create(model="scripted", input=[USER, *items, *results], tools=[tool]).output
    with anthropic.Anthropic(base_url=scripted_live.url, **key) as client:
        own = {"name": "get_weather", "input_schema": TOOL["function"]["parameters"]}
        fields = {"model": "scripted", "max_tokens": 300, "tools": [own]}
        content = client.messages.create(**fields, messages=[USER]).content
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": result}
            for block in content
            if block.type == "tool_use"
        ]
        turns = [USER, {"role": "assistant", "content": content}, {"role": "user", "content": results or "go on"}]
        assert json.loads(client.messages.create(**fields, messages=turns).model_dump_json())["content"]
