"""Our schemas hold every name that the official clients can send."""

import logging

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from hyla.errors import RequestError
from hyla.server import body
from hyla.server.schemas.chat import ChatRequest
from hyla.server.schemas.completions import CompletionRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}

CLIENTS = [
    (chat_create_params.CompletionCreateParamsBase, ChatRequest),
    (completion_create_params.CompletionCreateParamsBase, CompletionRequest),
]


@pytest.mark.parametrize(("client", "schema"), CLIENTS, ids=lambda value: value.__name__)
def test_every_field_of_the_client_is_known(client, schema):
    assert set(client.__annotations__) - set(schema.model_fields) == set()


def test_a_field_without_effect_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(body, "_told", set())
    with caplog.at_level(logging.INFO, "hyla.server.body"):
        for _ in range(3):
            body.parse(ChatRequest, CHAT | {"verbosity": "low", "store": None, "prediction": {"type": "content"}})
    said = [record.getMessage() for record in caplog.records]
    assert sorted(text.split()[2] for text in said) == ["prediction,", "verbosity,"]


def test_a_known_field_that_is_not_supported_is_refused_unless_it_asks_for_nothing():
    body.parse(ChatRequest, CHAT | {"modalities": ["text"], "audio": None, "functions": [], "function_call": "auto"})
    with pytest.raises(RequestError, match=r'modalities = \["text", "audio"\] is not supported'):
        body.parse(ChatRequest, CHAT | {"modalities": ["text", "audio"]})
