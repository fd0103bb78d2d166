"""Stop strings and thinking: a client's stops are for the answer."""

import anthropic
import openai
import pytest

THOUGHTS = "A list:\n\n- the city, then stop.\n</think>\n\n"
USER = {"role": "user", "content": "hi"}
THINK = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.fixture
def client(scripted_live):
    url = scripted_live.url + "/v1"
    with openai.OpenAI(base_url=url, api_key="alice", max_retries=0, timeout=120) as client:
        yield client


@pytest.mark.parametrize(
    ("stop", "answer", "text"),
    [
        (["\n\n"], "One.\n\nTwo.", "One."),
        ("city", "In the city.", "In the "),
        (["stop", "One"], "One.", ""),
        (["nothing"], "One.", "One."),
        (["k>\n\nOne", "\n"], "One.\nTwo.", "One."),
    ],
)
@pytest.mark.parametrize("opens", [False, True])
def test_stop_strings_sleep_until_thinking_ends(client, script, stop, answer, text, opens):
    script.reply = ("<think>" if opens else "") + THOUGHTS + answer
    more = {"extra_body": {} if opens else THINK}
    fields = {"model": "scripted", "messages": [USER], "stop": stop}
    done = client.chat.completions.create(**fields, **more).choices[0]
    assert (done.message.content, done.finish_reason) == (text, "stop")
    assert done.message.reasoning_content == "A list:\n\n- the city, then stop."
    stream = client.chat.completions.create(**fields, **more, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text


def test_an_option_wakes_them(client, script):
    script.reply = THOUGHTS + "One."
    body = THINK | {"stop_in_thinking": True}
    done = client.chat.completions.create(model="scripted", messages=[USER], stop=["city"], extra_body=body).choices[0]
    assert (done.message.content, done.message.reasoning_content) == ("", "A list:\n\n- the")


def test_without_thinking_they_are_awake(client, script):
    script.reply = "\n\nOne. city"
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    done = client.chat.completions.create(model="scripted", messages=[USER], stop=["city"], extra_body=body).choices[0]
    assert done.message.content == "\n\nOne. "


def test_responses_and_messages_have_them_too(client, scripted_live, script):
    script.reply = THOUGHTS + "In the city."
    fields = {"model": "scripted", "input": "hi", "reasoning": {"effort": "high"}}
    assert client.responses.create(**fields, extra_body={"stop": "city"}).output_text == "In the "
    key = {"api_key": "bob", "max_retries": 0, "timeout": 120}
    with anthropic.Anthropic(base_url=scripted_live.url, **key) as own:
        fields = {"model": "scripted", "messages": [USER], "max_tokens": 300}
        fields["thinking"] = {"type": "enabled", "budget_tokens": 200}
        done = own.messages.create(**fields, stop_sequences=["stop", "city"])
        assert (done.content[-1].text, done.stop_reason, done.stop_sequence) == ("In the ", "stop_sequence", "city")
        done = own.messages.create(**fields, stop_sequences=["stop"])
        assert (done.content[-1].text, done.stop_reason, done.stop_sequence) == ("In the city.", "end_turn", None)


def test_a_tag_in_a_message_opens_no_thinking(client, script):
    script.reply = "The city."
    asked = [{"role": "user", "content": "What does <think> mean?"}]
    done = client.chat.completions.create(model="scripted", messages=asked, stop=["city"]).choices[0]
    assert done.message.content == "The "
    script.reply = None
    more = {"max_tokens": 20, "extra_body": {"guided_choice": ["yes", "no"]}}
    done = client.chat.completions.create(model="scripted", messages=asked, **more).choices[0]
    assert done.message.content in ("yes", "no")
