"""Parts of messages that are not text: every published kind passes the schema and is refused by its place."""

import typing

import anthropic
import httpx
import openai
import pytest
from anthropic.types import content_block_param
from openai.types.chat import chat_completion_content_part_param
from openai.types.responses import response_input_content_param

from hyla.errors import RequestError
from hyla.server.reading.content import TEXT_FIELDS, part_text, text_of

PIXEL = "data:image/png;base64,iVBORw0KGgo="
TEXT = {"type": "text", "text": "Look:"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}


def kinds_of(union):
    """The `type`s of a client's union of parts."""
    for part in typing.get_args(union):
        yield from typing.get_args(typing.get_args(typing.get_type_hints(part, include_extras=True)["type"])[0])


def turns(part):
    """A conversation whose third message has the part second."""
    return [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": [TEXT, part]},
    ]


def post(live, path, body):
    return httpx.post(live.url + path, json=body, headers={"x-api-key": "alice"}, timeout=60)


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}, "an image (a part of type 'image_url')"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "sound"),
        ({"type": "file", "file": {"file_data": "JVBERi0=", "filename": "a.pdf"}}, "a file"),
        ({"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}, "a video"),
    ],
)
def test_a_chat_says_which_part_it_cannot_read(scripted_live, part, what):
    with (
        openai.OpenAI(base_url=scripted_live.url + "/v1", api_key="alice", max_retries=0) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.chat.completions.create(model="scripted", messages=turns(part))
    message = caught.value.body["message"]
    assert message.startswith(f"messages[2].content[1] is {what}") and "reads text only" in message
    assert "leave it out" in message and caught.value.param == "messages"


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "input_image", "image_url": PIXEL, "detail": "auto"}, "an image"),
        ({"type": "input_file", "filename": "a.pdf", "file_data": "JVBERi0="}, "a file"),
    ],
)
def test_a_response_says_which_part_it_cannot_read(scripted_live, part, what):
    given = turns(part)
    given[2]["content"][0] = {"type": "input_text", "text": "Look:"}
    with (
        openai.OpenAI(base_url=scripted_live.url + "/v1", api_key="alice", max_retries=0) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.responses.create(model="scripted", input=given)
    assert caught.value.body["message"].startswith(f"input[2].content[1] is {what}") and caught.value.param == "input"


@pytest.mark.parametrize(("part", "what"), [(IMAGE, "an image"), (PDF, "a file")])
def test_a_message_says_which_part_it_cannot_read(scripted_live, part, what):
    with (
        anthropic.Anthropic(base_url=scripted_live.url, api_key="alice", max_retries=0) as client,
        pytest.raises(anthropic.BadRequestError) as caught,
    ):
        client.messages.create(model="scripted", max_tokens=5, messages=turns(part))
    assert caught.value.body["error"]["message"].startswith(f"messages[2].content[1] is {what}")
    counted = post(scripted_live, "/v1/messages/count_tokens", {"model": "scripted", "messages": turns(part)}).json()
    assert counted["error"]["message"].startswith(f"messages[2].content[1] is {what}")


def test_a_document_of_text_is_read(scripted_live, script):
    script.reply = "ok"
    document = {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain"}}
    document["source"]["data"] = "It rained."
    with anthropic.Anthropic(base_url=scripted_live.url, api_key="alice", max_retries=0) as client:
        client.messages.create(model="scripted", max_tokens=5, system=[TEXT], messages=turns(document))
    assert "Look:\nNotes\nIt rained." in script.prompts[-1] and "system\nLook:" in script.prompts[-1]
    blocks = {"type": "document", "source": {"type": "content", "content": [TEXT, {"type": "text", "text": "!"}]}}
    assert part_text(blocks, "here", "messages") == "Look:\n!"
    with pytest.raises(RequestError, match=r"here\.source\.content\[0\] is an image"):
        part_text({"type": "document", "source": {"type": "content", "content": [IMAGE]}}, "here", "messages")


def test_every_kind_of_part_of_the_clients_is_read_or_named():
    parts = [
        chat_completion_content_part_param.ChatCompletionContentPartParam,
        response_input_content_param.ResponseInputContentParam,
        content_block_param.ContentBlockParam,
    ]
    kinds = {kind for union in parts for kind in kinds_of(union)}
    assert {"text", "input_text", "image_url", "input_image", "image", "document", "tool_use"} <= kinds
    for kind in kinds - set(TEXT_FIELDS):
        with pytest.raises(
            RequestError, match=r"messages\[2\]\.content\[1\] is .*; (leave it out|send text)"
        ) as caught:
            text_of([TEXT, {"type": kind}], "messages[2].content", "messages")
        assert caught.value.param == "messages" and kind in str(caught.value)
