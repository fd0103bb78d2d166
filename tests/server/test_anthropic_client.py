"""/v1/messages through the official Anthropic client."""

import anthropic
import httpx
import pytest

TOOL = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
WEB = {"type": "web_search_20250305", "name": "web_search"}
USER = {"role": "user", "content": "hi"}
CALL = 'Well.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Wil"}}\n</tool_call>'
THINKING = {"type": "adaptive"}


@pytest.fixture
def client(scripted_live):
    with anthropic.Anthropic(base_url=scripted_live.url, api_key="bob", max_retries=0, timeout=120) as client:
        yield client


def result_of(content):
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": content}]}


def fields_of(**fields):
    return {"model": "scripted", "max_tokens": 200, "messages": [USER]} | fields


def test_an_answer_and_its_count(client, script):
    script.reply = "Hello."
    done = client.messages.create(**fields_of(system="Be short."))
    assert (done.content[0].text, done.stop_reason, done.role) == ("Hello.", "end_turn", "assistant")
    counted = client.messages.count_tokens(model="scripted", messages=[USER], system="Be short.")
    read = done.usage.input_tokens + done.usage.cache_read_input_tokens
    assert counted.input_tokens == read == len(script.prompts[0])
    assert done.usage.output_tokens == 7
    assert client.messages.create(**fields_of(max_tokens=2)).stop_reason == "max_tokens"


def test_a_stop_sequence_is_named(client, script):
    script.reply = "one two three"
    done = client.messages.create(**fields_of(stop_sequences=["three", " two"]))
    assert (done.stop_reason, done.stop_sequence, done.content[0].text) == ("stop_sequence", " two", "one")


def test_tools_and_thinking_whole_and_streamed(client, script):
    script.reply = "hm\n</think>\n\n" + CALL
    fields = fields_of(tools=[TOOL], thinking=THINKING)
    done = client.messages.create(**fields)
    assert [block.type for block in done.content] == ["thinking", "text", "tool_use"]
    thinking, text, call = done.content
    assert (thinking.thinking, text.text, call.name, call.input) == ("hm", "Well.", "get_weather", {"city": "Wil"})
    assert done.stop_reason == "tool_use"
    assert 3 <= done.usage.output_tokens_details.thinking_tokens < done.usage.output_tokens
    with client.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3
    without_ids = [block.model_dump(exclude={"id"}) for block in final.content]
    assert without_ids == [block.model_dump(exclude={"id"}) for block in done.content]
    assert final.usage.output_tokens == done.usage.output_tokens and final.stop_reason == "tool_use"


def test_a_conversation_with_results_and_thinking_goes_on(client, script):
    script.reply = "hm\n</think>\n\n" + CALL
    done = client.messages.create(**fields_of(tools=[TOOL], thinking=THINKING))
    result = {"type": "tool_result", "tool_use_id": done.content[-1].id, "content": [{"type": "text", "text": "sun"}]}
    turns = [USER, {"role": "assistant", "content": done.content}, {"role": "user", "content": [result]}]
    script.reply = "Sunny."
    again = client.messages.create(**fields_of(tools=[TOOL], messages=turns))
    assert again.content[0].text == "Sunny."
    prompt = script.prompts[-1]
    assert f"[{done.content[-1].id}]<|im_start|>tool\nsun" in prompt
    assert "<think>\nhm\n</think>" in prompt and '"arguments": {"city": "Wil"}' in prompt


def test_the_start_of_the_answer_may_be_given(client, script):
    script.reply = " world"
    client.messages.create(**fields_of(messages=[USER, {"role": "assistant", "content": "Hello"}]))
    assert script.prompts[0].endswith("<|im_start|>assistant\nHello")


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model": "other-name"}, anthropic.NotFoundError, "not served here"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens = 0"),
        ({"extra_body": {"temprature": 1}}, anthropic.BadRequestError, "temprature is not a field"),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "there are no tools"),
        (
            {"tools": [WEB], "tool_choice": {"type": "tool", "name": "web_search"}},
            anthropic.BadRequestError,
            "names 'web_search', a tool of type 'web_search_20250305', which this server cannot offer",
        ),
        (
            {"tools": [WEB], "tool_choice": {"type": "any"}},
            anthropic.BadRequestError,
            "none of the tools can be offered",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, anthropic.BadRequestError, "'image'"),
        ({"messages": [result_of(["x"])]}, anthropic.BadRequestError, "each part is an object"),
        ({"messages": [result_of([{"type": 5}])]}, anthropic.BadRequestError, "type 5"),
        ({"messages": [result_of({"a": 1})]}, anthropic.BadRequestError, "neither a text nor a list"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
    ],
)
def test_errors_have_anthropic_s_shape(client, fields, error, words):
    with pytest.raises(error, match=words) as caught:
        client.messages.create(**fields_of(**fields))
    body = caught.value.response.json()
    assert body["type"] == "error" and set(body["error"]) == {"type", "message"}


def test_a_wrong_key_and_a_wrong_method_have_anthropic_s_shape(scripted_live):
    eve = anthropic.Anthropic(base_url=scripted_live.url, api_key="eve", max_retries=0)
    with eve, pytest.raises(anthropic.AuthenticationError):
        eve.messages.create(**fields_of())
    body = httpx.get(scripted_live.url + "/v1/messages").json()
    assert body["error"]["type"] == "invalid_request_error"


def test_the_models_are_listed(client):
    models = list(client.models.list())
    assert [(own.id, own.display_name, own.type) for own in models] == [
        (name, name, "model") for name in ("scripted", "other")
    ]
    assert client.models.retrieve("other").created_at.tzinfo is not None
