"""/v1/responses through the official client."""

import json

import openai
import pytest

TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = 'Well.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Wil"}}\n</tool_call>'


def client_of(live, key="alice"):
    return openai.OpenAI(base_url=live.url + "/v1", api_key=key, max_retries=0, timeout=120)


@pytest.fixture
def client(scripted_live):
    with client_of(scripted_live) as client:
        yield client


def ask(client, given="hi", **fields):
    return client.responses.create(**({"model": "scripted", "input": given, "temperature": 0} | fields))


def test_an_answer_as_text(client, script):
    script.reply = "Hello."
    done = ask(client, instructions="Be short.", metadata={"a": "b"}, max_output_tokens=50)
    assert (done.output_text, done.status, done.metadata, done.max_output_tokens) == (
        "Hello.",
        "completed",
        {"a": "b"},
        50,
    )
    assert script.prompts[0].startswith("<|im_start|>system\nBe short.")
    assert (done.usage.output_tokens, done.usage.input_tokens) == (7, len(script.prompts[0]))
    cut = ask(client, max_output_tokens=2)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output[0].status == "incomplete" and cut.output_text == "He"


def test_a_conversation_goes_on_from_a_kept_answer(client, script, scripted_live):
    script.reply = "One."
    first = ask(client, instructions="Only now.")
    script.reply = "Two."
    second = ask(client, "and?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    turns = script.prompts[-1].split("<|im_start|>")[1:]
    assert [turn.split("\n")[0] for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert "Only now." not in script.prompts[-1] and "One." in script.prompts[-1]
    assert client.responses.retrieve(first.id).output_text == "One."
    with client_of(scripted_live, "bob") as other, pytest.raises(openai.NotFoundError, match="not kept here"):
        ask(other, previous_response_id=first.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_kept_answers_are_bounded_and_storing_can_be_declined(client, script, scripted_live):
    script.reply = "x"
    ids = [ask(client).id for _ in range(4)]
    assert len(scripted_live.service.stored) == 3
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(ids[0])
    declined = ask(client, store=False)
    assert declined.store is False
    with pytest.raises(openai.NotFoundError):
        ask(client, previous_response_id=declined.id)


def test_events_build_the_whole_answer(client, script):
    script.reply = "hm\n</think>\n\n" + CALL
    fields = {"tools": [TOOL], "reasoning": {"effort": "low"}}
    whole = ask(client, **fields)
    events = list(ask(client, **fields, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert [item.type for item in whole.output] == [item.type for item in final.output]
    joined = {}
    for event in events:
        if event.type.endswith(".delta"):
            joined[event.output_index] = joined.get(event.output_index, "") + event.delta
    assert (joined[0], joined[1], json.loads(joined[2])) == ("hm", "Well.", {"city": "Wil"})
    assert final.output[0].content[0].text == "hm" and final.output_text == "Well."
    assert whole.output[2].arguments == final.output[2].arguments == joined[2]
    added = [event.item.type for event in events if event.type == "response.output_item.added"]
    done = [event.item.type for event in events if event.type == "response.output_item.done"]
    assert added == done == ["reasoning", "message", "function_call"]
    assert final.usage.output_tokens_details.reasoning_tokens > 0


def test_calls_and_their_outputs_are_sent_back(client, script):
    script.reply = CALL
    done = ask(client, tools=[TOOL])
    call = done.output[-1]
    script.reply = "Sunny."
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    items = [{"role": "user", "content": "hi"}, *[item.model_dump() for item in done.output], output]
    by_items = ask(client, items, tools=[TOOL])
    by_id = ask(client, [output], tools=[TOOL], previous_response_id=done.id)
    assert by_items.output_text == by_id.output_text == "Sunny."
    assert script.prompts[-1] == script.prompts[-2] and f"[{call.call_id}]" in script.prompts[-1]


def test_log_probabilities_of_the_text(client, script):
    script.reply = "abc"
    done = ask(client, top_logprobs=2, include=["message.output_text.logprobs"])
    logprobs = done.output[0].content[0].logprobs
    assert [entry.token for entry in logprobs][:3] == ["a", "b", "c"] and len(logprobs[0].top_logprobs) == 2


def test_a_prompt_is_counted_without_an_answer(client, script):
    script.reply = "Hello."
    fields = {"model": "scripted", "input": "hi", "instructions": "Be short.", "tools": [TOOL]}
    done = client.responses.create(**fields)
    assert client.responses.input_tokens.count(**fields).input_tokens == done.usage.input_tokens
    later = {"model": "scripted", "input": "and?", "previous_response_id": done.id}
    counted = client.responses.input_tokens.count(**later)
    assert counted.input_tokens == client.responses.create(**later).usage.input_tokens


def test_no_log_probability_is_lost_where_text_comes_late(client, script):
    script.reply = "hm\n</think>\n\né <tool no>"
    fields = {"top_logprobs": 1, "reasoning": {"effort": "low"}, "tools": [TOOL]}
    whole = ask(client, **fields)
    text = whole.output[1].content[0]
    assert text.text == "é <tool no>" and bytes(text.logprobs[-1].bytes) == b">"
    *_, first = [n for n, entry in enumerate(text.logprobs) if entry.token == "\ufffd"][:1]
    assert len(text.logprobs) - first == len("é <tool no>".encode())
    streamed = [event for event in ask(client, **fields, stream=True) if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in streamed) == text.text
    assert [entry.token for event in streamed for entry in event.logprobs] == [entry.token for entry in text.logprobs]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"background": True}, "background = true is not supported"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "none of the tools can be offered here"),
        ({"given": []}, "empty list"),
        ({"given": [{"type": "image_generation_call"}]}, "holds nothing that this model can be shown"),
        ({"given": [{"type": "mesage", "content": "x"}]}, "which is not known here; send its content as a message"),
        ({"given": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
        ({"given": [{"type": "function_call_output", "call_id": "c", "output": ["x"]}]}, "each part is an object"),
        ({"given": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "needs arguments"),
        ({"max_output_tokens": 0}, "max_output_tokens = 0"),
        ({"extra_body": {"temprature": 1}}, "temprature is not a field"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "'g'"),
    ],
)
def test_what_cannot_be_is_refused(client, fields, words):
    with pytest.raises(openai.BadRequestError, match=words):
        ask(client, fields.pop("given", "hi"), **fields)
