"""What one client may ask of the server, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from hyla.models.config import Config, Count

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Limits(Config):
    """Bounds of a server. Every one has an error of its own; none is silently applied. The flags of `hyla serve` are
    made from it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_body_bytes: Count = 16 << 20
    """Largest request body; a larger one is 413."""
    max_connections: Count = 2048
    """Open connections; more are answered with 503 and closed. At most what the process may open files for."""
    max_json_depth: Count = 100
    """Nesting of a request body."""
    max_json_names: Count = 8192
    """Names in one object of a request body."""
    max_json_values: Count = 1 << 20
    """Values in a request body, at any depth: numbers, texts, lists and objects. A prompt of token ids has one for each
    token."""
    max_json_containers: Count = 1 << 15
    """Lists and objects among them."""
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 << 10
    """Path, query and headers together; more is 431."""
    max_requests: Annotated[int, Field(ge=0)] = 512
    """Unfinished requests of one model, waiting ones included; more are 503 with Retry-After."""
    most_urgent_priority: Annotated[int, Field(ge=-100, le=0)] = 0
    """Lowest `priority` number that a request may have whose key is no admin key: a lower number goes before all
    others. Without keys there is no bound."""
    max_requests_per_key: Count | None = None
    """Unfinished requests of one API key; more are 429 with Retry-After. None: as many as the model takes."""
    max_prompts: Count = 128
    """Prompts, or texts to embed, in one request."""
    max_choices: Count = 256
    """Prompts times n in one request."""
    max_logprobs: Count = 1 << 20
    """Log-probabilities in one answer: tokens times one more than the others asked for. A million are about 70 MB."""
    max_messages: Count = 4096
    """Messages of one conversation."""
    max_tools: Count = 128
    """Tools that one request may define."""
    max_schema_bytes: Count = 64 << 10
    """A JSON schema, a regular expression or a grammar, as text."""
    max_schema_depth: Count = 32
    """Nesting of a JSON schema."""
    max_stored_responses: Annotated[int, Field(ge=0)] = 1024
    """Answers of /v1/responses that are kept in memory for `previous_response_id`; the oldest of the key that has most
    go first."""
    max_stored_bytes: Annotated[int, Field(ge=0)] = 64 << 20
    """Bytes of all kept answers together, as JSON."""
    body_seconds: Seconds = 30.0
    """A request's body must have arrived within this time; else 408."""
    header_seconds: Seconds = 15.0
    """A connection must have sent a request's headers within this time, or it is closed."""
    idle_seconds: Seconds = 30.0
    """A connection without a request is closed after this time."""
    read_seconds: Seconds = 60.0
    """A client that takes nothing of a stream for this long is cut off and its work is cancelled."""
    drain_seconds: Seconds = 30.0
    """After SIGTERM, how long running answers may go on."""
    engine_silence_seconds: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 60.0
    """An engine's process gives a sign of life every second, whatever it computes; after so long without one it is
    killed and started again."""
    engine_stop_seconds: Seconds = 30.0
    """How long an engine may take to end after its last step was asked for; then it is killed."""
