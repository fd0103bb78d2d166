"""Tools and reasoning through the official OpenAI client; the engine runs, its sampled ids are scripted."""

import json

import anthropic
import openai
import pytest

CALL = {"name": "get_weather", "arguments": {"city": "Wil"}}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALLS_TEXT = "I look.\n<tool_call>\n" + json.dumps(CALL) + '\n</tool_call>\n<tool_call>\n{"name": "now"}\n</tool_call>'
FIELDS = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


@pytest.fixture
def client(scripted_live):
    url = scripted_live.url + "/v1"
    with openai.OpenAI(base_url=url, api_key="alice", max_retries=0, timeout=120) as client:
        yield client


def ask(client, **fields):
    return client.chat.completions.create(**(FIELDS | fields))


def gathered(stream):
    """(content, reasoning, {index: [id, name, arguments]}, finish reason) of a stream."""
    text, reasoning, calls, reason = "", "", {}, None
    for chunk in stream:
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        for call in choice.delta.tool_calls or []:
            if call.id is not None:
                calls[call.index] = [call.id, call.function.name, ""]
            calls[call.index][2] += call.function.arguments or ""
        reason = choice.finish_reason or reason
    return text, reasoning, calls, reason


def test_calls_come_back_whole_and_streamed(client, script):
    script.reply = CALLS_TEXT
    done = ask(client, tools=[TOOL, NOW]).choices[0]
    assert done.finish_reason == "tool_calls" and done.message.content == "I look."
    made = [(call.function.name, json.loads(call.function.arguments)) for call in done.message.tool_calls]
    assert made == [("get_weather", {"city": "Wil"}), ("now", {})]
    assert len({call.id for call in done.message.tool_calls}) == 2
    text, _, calls, reason = gathered(ask(client, tools=[TOOL, NOW], stream=True))
    assert (text, reason) == ("I look.", "tool_calls")
    assert [(name, json.loads(arguments)) for _, name, arguments in calls.values()] == made
    assert "Weather of a city" in script.prompts[0]


def test_a_conversation_with_calls_and_results_goes_on(client, script):
    script.reply = CALLS_TEXT
    message = ask(client, tools=[TOOL, NOW]).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    script.reply = "Sunny."
    again = ask(client, tools=[TOOL, NOW], messages=[*FIELDS["messages"], message, *results])
    assert again.choices[0].message.content == "Sunny." and again.choices[0].finish_reason == "stop"
    assert '{"name": "get_weather", "arguments": {"city": "Wil"}}' in script.prompts[-1]
    assert f"[{message.tool_calls[0].id}]" in script.prompts[-1]


def test_one_call_where_more_are_not_wanted(client, script):
    script.reply = CALLS_TEXT
    done = ask(client, tools=[TOOL, NOW], parallel_tool_calls=False).choices[0]
    assert [call.function.name for call in done.message.tool_calls] == ["get_weather"]


def test_without_tools_a_call_is_text_and_the_model_is_told_of_none(client, script):
    script.reply = CALLS_TEXT
    done = ask(client, tools=[TOOL], tool_choice="none").choices[0]
    assert done.message.content == CALLS_TEXT and done.message.tool_calls is None
    assert "get_weather" not in script.prompts[0].split("user")[0]


def test_only_allowed_tools_are_told(client, script):
    script.reply = "no"
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    ask(client, tools=[TOOL, NOW], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert "now" in script.prompts[0] and "Weather" not in script.prompts[0]


@pytest.mark.parametrize("body", [{"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "high"}])
def test_reasoning_stands_apart_and_is_counted(client, script, body):
    script.reply = "hm, well\n</think>\n\nYes."
    done = ask(client, extra_body=body, stream=False)
    message = done.choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes.", "hm, well")
    assert done.usage.completion_tokens_details.reasoning_tokens == len("hm, well\n</think>\n\n")
    assert gathered(ask(client, extra_body=body, stream=True))[:2] == ("Yes.", "hm, well")
    hidden = ask(client, extra_body=body | {"include_reasoning": False}).choices[0].message
    assert hidden.content == "Yes." and not hasattr(hidden, "reasoning_content")


def test_an_answer_cut_inside_a_call_says_so(client, script):
    script.reply = CALLS_TEXT
    done = ask(client, tools=[TOOL, NOW], max_tokens=70).choices[0]
    assert done.finish_reason == "length" and done.message.tool_calls[0].function.name == "get_weather"


def test_every_token_has_its_log_probability_also_where_text_is_held_back(client, script):
    script.reply = CALLS_TEXT
    chunks = list(ask(client, tools=[TOOL, NOW], logprobs=True, top_logprobs=1, stream=True))
    entries = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert "".join(entry.token for entry in entries) == CALLS_TEXT + "<|end|>"


def test_an_unknown_model_lists_the_served_ones(client):
    with pytest.raises(openai.NotFoundError, match="'scripted', 'other'"):
        ask(client, model="gpt")
    assert [model.id for model in client.models.list()] == ["scripted", "other"]
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        ask(client, model="other")
    assert client.completions.create(model="other", prompt="x", max_tokens=2).model == "other"


def test_a_format_that_the_template_does_not_have_is_said(client):
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        ask(client, model="other", tools=[TOOL])


def test_a_call_that_a_stop_string_cuts_off_is_not_reported_as_made(scripted_live, script):
    script.reply = "Well.\n<tool_call>\n" + json.dumps(CALL) + "\n</tool_call>"
    key = {"api_key": "alice", "max_retries": 0, "timeout": 120}
    with openai.OpenAI(base_url=scripted_live.url + "/v1", **key) as client:
        fields = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "tools": [TOOL]}
        cut = client.chat.completions.create(**fields, stop=["zzz", "ity"]).choices[0]
        assert cut.finish_reason == "stop" and cut.message.content == "Well."
        assert client.chat.completions.create(**fields, stop=["zzz"]).choices[0].finish_reason == "tool_calls"
        *_, last = client.chat.completions.create(**fields, stop=["ity"], stream=True)
        assert last.choices[0].finish_reason == "stop"
        tool = {"type": "function", **TOOL["function"]}
        answer = client.responses.create(model="scripted", input="x", tools=[tool], extra_body={"stop": "ity"})
        assert answer.output[-1].type == "function_call" and answer.output[-1].status == "incomplete"
    with anthropic.Anthropic(base_url=scripted_live.url, **key) as client:
        own = {"name": TOOL["function"]["name"], "input_schema": TOOL["function"]["parameters"]}
        fields = {
            "model": "scripted",
            "messages": [{"role": "user", "content": "x"}],
            "tools": [own],
            "max_tokens": 300,
        }
        cut = client.messages.create(**fields, stop_sequences=["ity"])
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", "ity")
        assert client.messages.create(**fields).stop_reason == "tool_use"


def test_a_call_in_the_reasoning_is_made_in_every_api(scripted_live, script):
    script.reply = "hm\n<tool_call>\n" + json.dumps(CALL) + "\n</tool_call>\nso</think>\n\nI looked."
    key = {"api_key": "alice", "max_retries": 0, "timeout": 120}
    with openai.OpenAI(base_url=scripted_live.url + "/v1", **key) as client:
        thinks = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
        done = ask(client, tools=[TOOL], **thinks).choices[0]
        assert (done.finish_reason, done.message.content, done.message.reasoning_content) == (
            "tool_calls", "I looked.", "hm\n\nso",
        )  # fmt: skip
        text, reasoning, calls, reason = gathered(ask(client, tools=[TOOL], stream=True, **thinks))
        assert (text, reasoning, reason) == ("I looked.", "hm\n\nso", "tool_calls")
        assert [call[1:] for call in calls.values()] == [["get_weather", json.dumps(CALL["arguments"])]]
        tool = {"type": "function", **TOOL["function"]}
        made = client.responses.create(model="scripted", input="x", tools=[tool], reasoning={"effort": "high"})
        assert [item.type for item in made.output] == ["reasoning", "function_call", "reasoning", "message"]
    with anthropic.Anthropic(base_url=scripted_live.url, **key) as client:
        own = {"name": TOOL["function"]["name"], "input_schema": TOOL["function"]["parameters"]}
        fields = {
            "model": "scripted",
            "messages": [{"role": "user", "content": "x"}],
            "tools": [own],
            "max_tokens": 300,
        }
        made = client.messages.create(**fields, thinking={"type": "enabled", "budget_tokens": 200})
        assert made.stop_reason == "tool_use"
        assert {block.type for block in made.content} == {"thinking", "text", "tool_use"}
