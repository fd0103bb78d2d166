"""DeepSeek-V3.2's format through the whole server: thinking, calls of tools, their results, the answer."""

import json

import httpx
import pytest
from conftest import Live, make_engine
from tiny_text import byte_tokenizer

from hyla.checkpoints.templates.deepseek_v32 import DSML, DeepSeekV32
from hyla.server import single_app

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": PARAMETERS}}
CALL = (
    f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="get_weather">\n<{DSML}parameter name="city" string="true">Ulm'
    f'</{DSML}parameter>\n<{DSML}parameter name="days" string="false">3</{DSML}parameter>\n</{DSML}invoke>\n'
    f"</{DSML}function_calls>"
)


@pytest.fixture(scope="module")
def url():
    tokenizer = byte_tokenizer(None)
    tokenizer.chat_template = DeepSeekV32()
    with Live(single_app(make_engine(tokenizer, max_len=4096), model_name="tiny")) as live:
        assert live.served.format.names() == {"tools": "deepseek_v32", "reasoning": "think"}
        yield live.url


def ask(url, messages, **more):
    body = {"model": "tiny", "messages": messages, "tools": [TOOL], **more}
    answer = httpx.post(url + "/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_a_conversation_with_a_tool(url, script):
    script.reply = "I should ask.</think>" + CALL
    messages = [{"role": "user", "content": "Weather?"}]
    first = ask(url, messages, reasoning_effort="high")
    assert script.prompts[-1].endswith("<｜User｜>Weather?<｜Assistant｜><think>")
    assert first["finish_reason"] == "tool_calls" and first["message"]["reasoning_content"] == "I should ask."
    (call,) = first["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Ulm", "days": 3}

    # What the server has sent goes back as the model wrote it.
    script.reply = "Now I know.</think>Sunny."
    messages += [first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "sun"}]
    second = ask(url, messages, reasoning_effort="high")
    results = "\n\n<function_results>\n<result>sun</result>\n</function_results>\n\n<think>"
    assert script.prompts[-1].endswith(f"<think>I should ask.</think>{CALL}<｜end▁of▁sentence｜>{results}")
    assert (second["message"]["content"], second["message"]["reasoning_content"]) == ("Sunny.", "Now I know.")

    script.reply = "Yes."
    third = ask(url, [*messages, second["message"], {"role": "user", "content": "Sure?"}])
    assert third["message"]["content"] == "Yes."
    prompt = script.prompts[-1]
    assert "I should ask." not in prompt and "Now I know." not in prompt
    assert prompt.endswith("Sunny.<｜end▁of▁sentence｜><｜User｜>Sure?<｜Assistant｜></think>")


def test_a_history_without_its_calls_is_a_bad_request(url):
    body = {"model": "tiny", "messages": [{"role": "tool", "tool_call_id": "x", "content": "sun"}]}
    answer = httpx.post(url + "/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 400 and "follow 0 calls" in answer.json()["error"]["message"]
