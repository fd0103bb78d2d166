"""The description of the API at /openapi.json. Routes read their bodies themselves; this adds what they accept."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from hyla.server.schemas.chat import ChatRequest
from hyla.server.schemas.completions import CompletionRequest
from hyla.server.schemas.control import AbortRequest
from hyla.server.schemas.fields import Body
from hyla.server.schemas.messages import CountTokensRequest, MessageRequest
from hyla.server.schemas.responses import InputTokensRequest, ResponseRequest
from hyla.server.schemas.texts import DetokenizeRequest, EmbeddingRequest, ScoreRequest, TokenizeRequest

BODIES: Mapping[str, type[Body]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/responses": ResponseRequest,
    "/v1/responses/input_tokens": InputTokensRequest,
    "/v1/messages": MessageRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/score": ScoreRequest,
    "/abort": AbortRequest,
}
"""What each POST route accepts."""


def install(app: FastAPI) -> None:
    """Describe the bodies of the app's routes."""

    def describe() -> dict:
        if app.openapi_schema is None:
            app.openapi_schema = _with_bodies(get_openapi(title=app.title, version=app.version, routes=app.routes))
        return app.openapi_schema

    app.openapi = describe


def _with_bodies(document: dict) -> dict:
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(schema, "validation") for schema in BODIES.values()]
    names, found = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    document.setdefault("components", {}).setdefault("schemas", {}).update(found.get("$defs", {}))
    for path, schema in BODIES.items():
        content = {"application/json": {"schema": names[schema, "validation"]}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    return document
