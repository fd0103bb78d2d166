"""Answers that must look like something, through the official clients; a random model is held to them."""

import json
import re

import anthropic
import openai
import pytest
from tiny_text import byte_tokenizer

from hyla.answers.constraints import json_object_grammar, json_schema_grammar
from hyla.engine import JsonSchema
from hyla.engine.sampling.grammar import GrammarCompiler

USER = {"role": "user", "content": "hi"}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
TOOL = {"name": "pick", "parameters": SCHEMA}
OTHER = {"name": "nothing", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}


@pytest.fixture
def client(scripted_live):
    url = scripted_live.url + "/v1"
    with openai.OpenAI(base_url=url, api_key="alice", max_retries=0, timeout=120) as client:
        yield client


def chat(client, **fields):
    return client.chat.completions.create(model="scripted", messages=[USER], max_tokens=300, seed=3, **fields)


def is_valid(text):
    made = json.loads(text)
    return set(made) == {"ok", "kind"} and made["ok"] in (True, False) and made["kind"] in ("a", "b")


@pytest.mark.parametrize("thinks", [False, True])
def test_a_schema_holds_for_chat(client, thinks):
    form = {"type": "json_schema", "json_schema": {"name": "own", "schema": SCHEMA, "strict": True}}
    more = {"chat_template_kwargs": {"enable_thinking": thinks}} | ({"thinking_budget": 5} if thinks else {})
    done = chat(client, response_format=form, extra_body=more)
    assert is_valid(done.choices[0].message.content)


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"guided_choice": ["red", "green"]}, "red|green"),
        ({"guided_regex": "[a-c]{3}"}, "[a-c]{3}"),
        ({"guided_grammar": 'start: "x" /[0-9]/'}, "x[0-9]"),
        ({"structured_outputs": {"grammar": 'root ::= "y" | "z"'}}, "y|z"),
        ({"structured_outputs": {"json": {"enum": [1, 2]}}}, "1|2"),
    ],
)
def test_other_engines_names_hold_too(client, body, pattern):
    done = client.completions.create(model="scripted", prompt="x", max_tokens=99, extra_body=body)
    assert re.fullmatch(pattern, done.choices[0].text)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
def test_a_required_call_is_made(client, choice):
    tools = [{"type": "function", "function": own} for own in (TOOL, OTHER)]
    no_thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    fields = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False, "extra_body": no_thinking}
    done = chat(client, **fields)
    assert done.choices[0].finish_reason == "tool_calls" and not done.choices[0].message.content
    (call,) = done.choices[0].message.tool_calls
    assert call.function.name == "pick" or choice == "required"
    is_pick = call.function.name == "pick"
    assert is_valid(call.function.arguments) if is_pick else json.loads(call.function.arguments) == {}


@pytest.mark.parametrize("indent", [None, 1, 4, "\t"])
def test_json_may_be_indented_and_never_ends_in_endless_spaces(indent):
    compiler = GrammarCompiler(byte_tokenizer())
    value = {"ok": True, "kind": "a"}
    for form in (json_schema_grammar(SCHEMA), json_object_grammar()):
        grammar = compiler.compile(JsonSchema(**form))
        text = json.dumps(value, indent=indent).encode()
        assert grammar.num_allowed(text) == len(text)
        assert [grammar.num_allowed(b"{" + space) for space in (b"\n\n", b"  ", b"\n" + b" " * 80)] == [2, 2, 66]
    own = compiler.compile(JsonSchema(**json_schema_grammar(SCHEMA | {"x-guidance": {"whitespace_flexible": True}})))
    assert own.num_allowed(b"{\n\n\n") == 4


def test_a_schema_and_a_call_hold_for_responses(client):
    fields = {"model": "scripted", "input": "hi", "max_output_tokens": 300, "reasoning": {"effort": "none"}}
    form = {"format": {"type": "json_schema", "name": "own", "schema": SCHEMA}}
    done = client.responses.create(**fields, text=form)
    assert is_valid(done.output_text)
    tool = {"type": "function", "strict": True, **TOOL}
    done = client.responses.create(**fields, tools=[tool], tool_choice="required")
    assert is_valid(done.output[0].arguments)


def test_a_schema_and_a_call_hold_for_messages(scripted_live):
    fields = {"model": "scripted", "messages": [USER], "max_tokens": 300, "thinking": {"type": "disabled"}}
    tool = {"name": "pick", "input_schema": SCHEMA}
    with anthropic.Anthropic(base_url=scripted_live.url, api_key="bob", max_retries=0, timeout=120) as client:
        form = {"format": {"type": "json_schema", "schema": SCHEMA}}
        done = client.messages.create(**fields, output_config=form)
        assert is_valid(done.content[0].text)
        one = {"type": "tool", "name": "pick", "disable_parallel_tool_use": True}
        done = client.messages.create(**fields, tools=[tool], tool_choice=one)
        assert (done.stop_reason, set(done.content[0].input)) == ("tool_use", {"ok", "kind"})


FORM = {"type": "json_schema", "json_schema": {"name": "own", "schema": SCHEMA}}


@pytest.mark.parametrize("thinks", [False, True])
def test_a_schema_beside_tools_leaves_the_choice(client, thinks):
    tools = [{"type": "function", "function": own} for own in (TOOL, OTHER)]
    more = {"chat_template_kwargs": {"enable_thinking": thinks}} | ({"thinking_budget": 5} if thinks else {})
    for seed in range(4):
        fields = {"tools": tools, "response_format": FORM, "extra_body": more}
        done = client.chat.completions.create(
            model="scripted", messages=[USER], max_tokens=300, seed=seed, temperature=3, **fields
        ).choices[0]
        if done.message.tool_calls:
            assert {call.function.name for call in done.message.tool_calls} <= {"pick", "nothing"}
        elif done.finish_reason == "stop":
            assert is_valid(done.message.content)


def test_a_bad_schema_beside_tools_is_the_schema_s_fault(client):
    bad = {"type": "json_schema", "json_schema": {"name": "own", "schema": {"type": "object", "not": {}}}}
    tools = [{"type": "function", "function": TOOL}]
    with pytest.raises(openai.BadRequestError, match=r"the json schema cannot be used: [^a]") as caught:
        chat(client, tools=tools, response_format=bad)
    assert caught.value.param == "response_format" and "answer" not in str(caught.value)
