"""Bodies of the routes that look at texts: embeddings, tokenize, detokenize, score."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hyla.server.schemas.chat import Message
from hyla.server.schemas.fields import Body, Bookkeeping, Items, TopLogprobs
from hyla.server.schemas.tools import PlainTool


class EmbeddingRequest(Body):
    """POST /v1/embeddings."""

    model: str | None = None
    input: str | Items[str] | Items[int] | Items[Items[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Only the first numbers of each vector, scaled anew; more than the model has is an error."""
    user: Bookkeeping = None

    # Extensions.
    pooling: Literal["mean", "last"] | None = None
    """How a text's final hidden states become one vector; default: their mean."""
    normalize: bool | None = None
    """Scale vectors to length 1; the default."""
    add_special_tokens: bool | None = None


class TokenizeRequest(Body):
    """POST /tokenize: of a text, or of a conversation as the chat template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[Items[Message], Field(min_length=1)] | None = None
    tools: Items[PlainTool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Items[int]
    skip_special_tokens: bool | None = None


class ScoreRequest(Body):
    """POST /score: the log-probability of each text's tokens after its context."""

    model: str | None = None
    input: str | Items[str] | Items[int] | Items[Items[int]]
    context: str | Items[int] | None = None
    """What stands before every text and is not scored."""
    top_logprobs: TopLogprobs | None = None
    add_special_tokens: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
