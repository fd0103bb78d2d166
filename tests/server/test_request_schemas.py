"""Our schemas hold every name that the official clients can send, and each name is heard, said to be a no-op, or
refused."""

import ast
import logging
from pathlib import Path

import anthropic.types as anthropic
import anthropic.types.beta as beta
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import chat, completion_create_params, embedding_create_params, responses, shared_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import input_token_count_params, response_create_params
from openai.types.shared_params import response_format_json_schema

import hyla.server
from hyla.errors import RequestError
from hyla.server.reading import body, translate
from hyla.server.schemas import generation, tools
from hyla.server.schemas import messages as own_messages
from hyla.server.schemas import responses as own_responses
from hyla.server.schemas.chat import ChatRequest
from hyla.server.schemas.completions import CompletionRequest
from hyla.server.schemas.fields import NoEffect, OnlyNeutral
from hyla.server.schemas.texts import EmbeddingRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
RESPONSE = {"model": "m", "input": "x"}
MESSAGE = CHAT | {"max_tokens": 3}

BODIES = [
    (chat_create_params.CompletionCreateParamsBase, ChatRequest),
    (completion_create_params.CompletionCreateParamsBase, CompletionRequest),
    (response_create_params.ResponseCreateParamsBase, own_responses.ResponseRequest),
    (input_token_count_params.InputTokenCountParams, own_responses.InputTokensRequest),
    (embedding_create_params.EmbeddingCreateParams, EmbeddingRequest),
    (message_create_params.MessageCreateParamsBase, own_messages.MessageRequest),
    (message_count_tokens_params.MessageCountTokensParams, own_messages.CountTokensRequest),
    (beta_create_params.MessageCreateParamsBase, own_messages.MessageRequest),
    (beta_count_params.MessageCountTokensParams, own_messages.CountTokensRequest),
]
INNER = [
    (chat.ChatCompletionStreamOptionsParam, generation.StreamOptions),
    (response_create_params.StreamOptions, generation.StreamOptions),
    (response_format_json_schema.JSONSchema, generation.JsonSchemaFormat),
    (shared_params.ResponseFormatJSONSchema, generation.ResponseFormat),
    (shared_params.FunctionDefinition, tools.FunctionTool),
    (chat.ChatCompletionFunctionToolParam, tools.Tool),
    (chat.ChatCompletionNamedToolChoiceParam, tools.NamedTool),
    (chat.ChatCompletionAllowedToolChoiceParam, tools.AllowedToolsChoice),
    (chat.ChatCompletionAllowedToolsParam, tools.AllowedTools),
    (responses.FunctionToolParam, own_responses.ResponseTool),
    (responses.ToolChoiceFunctionParam, own_responses.NamedFunction),
    (responses.ToolChoiceAllowedParam, own_responses.AllowedFunctions),
    (responses.ResponseTextConfigParam, own_responses.TextOptions),
    (responses.ResponseFormatTextJSONSchemaConfigParam, own_responses.TextFormat),
    (shared_params.Reasoning, own_responses.ReasoningOptions),
    (anthropic.ToolParam, own_messages.MessageTool),
    (anthropic.ToolChoiceAutoParam, own_messages.MessageToolChoice),
    (anthropic.ToolChoiceAnyParam, own_messages.MessageToolChoice),
    (anthropic.ToolChoiceToolParam, own_messages.MessageToolChoice),
    (anthropic.ToolChoiceNoneParam, own_messages.MessageToolChoice),
    (anthropic.ThinkingConfigEnabledParam, own_messages.Thinking),
    (anthropic.ThinkingConfigAdaptiveParam, own_messages.Thinking),
    (anthropic.ThinkingConfigDisabledParam, own_messages.Thinking),
    (anthropic.OutputConfigParam, own_messages.OutputConfig),
    (beta.BetaOutputConfigParam, own_messages.OutputConfig),
    (beta.BetaToolParam, own_messages.MessageTool),
    (beta.BetaThinkingConfigAdaptiveParam, own_messages.Thinking),
    (anthropic.JSONOutputFormatParam, own_messages.OutputFormat),
]
IN_HEADERS = {"betas"}
UNREAD = {"description": "of a format's schema, for people", "strict": "a format is always held to its schema"}
"""Fields of ours that nothing reads, although they ask for something."""


def names_read():
    """Every attribute that the server's code reads, and what goes to the engine by name."""
    root, found = Path(hyla.server.__file__).parent, {*translate.SHARED, *translate.REQUEST_FIELDS}
    for path in root.rglob("*.py"):
        found |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    return found


@pytest.mark.parametrize(("client", "schema"), BODIES + INNER, ids=lambda value: value.__name__)
def test_every_field_of_the_clients_is_heard_or_marked(client, schema):
    fields = {own.alias or name: (name, own) for name, own in schema.model_fields.items()}
    names = set(client.__annotations__) - IN_HEADERS
    assert names - set(fields) == set()
    read = names_read()
    for own in names:
        name, field = fields[own]
        is_marked = any(isinstance(mark, NoEffect | OnlyNeutral) for mark in field.metadata)
        is_model_told = schema is tools.FunctionTool  # dumped whole into the prompt
        assert is_marked or name in read or name in UNREAD or is_model_told, name


def test_a_field_without_effect_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(body, "_told", set())
    more = {"verbosity": "low", "store": None, "prediction": {"type": "content"}}
    inner = {"stream_options": {"include_obfuscation": True}}
    with caplog.at_level(logging.INFO, "hyla.server.reading.body"):
        for _ in range(3):
            body.parse(ChatRequest, CHAT | more | inner)
    said = [record.getMessage() for record in caplog.records]
    assert sorted(text.split()[2] for text in said) == [
        "prediction,",
        "stream_options.include_obfuscation,",
        "verbosity,",
    ]


def test_a_known_field_that_is_not_supported_is_refused_unless_it_asks_for_nothing():
    body.parse(ChatRequest, CHAT | {"modalities": ["text"], "audio": None, "functions": [], "function_call": "auto"})
    with pytest.raises(RequestError, match=r'modalities = \["text", "audio"\] is not supported'):
        body.parse(ChatRequest, CHAT | {"modalities": ["text", "audio"]})


def test_the_same_holds_inside_of_a_field():
    tool = {"type": "function", "name": "f", "allowed_callers": ["direct"], "defer_loading": True}
    body.parse(own_responses.ResponseRequest, RESPONSE | {"tools": [tool], "reasoning": {"mode": "standard"}})
    with pytest.raises(RequestError, match=r"tools\[1\]\.allowed_callers = .* is not supported") as caught:
        programmatic = tool | {"name": "g", "allowed_callers": ["programmatic"]}
        body.parse(own_responses.ResponseRequest, RESPONSE | {"tools": [tool, programmatic]})
    assert caught.value.param == "tools"
    with pytest.raises(RequestError, match=r'reasoning\.mode = "pro" is not supported; there is one mode'):
        body.parse(own_responses.ResponseRequest, RESPONSE | {"reasoning": {"mode": "pro"}})


def test_unknown_names_are_refused_inside_and_outside():
    for form, change, name in (
        (ChatRequest, CHAT | {"temprature": 1}, "temprature"),
        (own_responses.ResponseRequest, RESPONSE | {"reasoning": {"efort": "low"}}, "reasoning.efort"),
        (own_messages.MessageRequest, MESSAGE | {"output_config": {"schema": {}}}, "output_config.schema"),
    ):
        with pytest.raises(RequestError, match=f"{name} is not a field of this request"):
            body.parse(form, change)
