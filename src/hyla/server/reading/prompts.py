"""Prompts of a request: bounded, and encoded off the event loop."""

from __future__ import annotations

from collections.abc import Sequence

from anyio import to_thread
from starlette.concurrency import run_in_threadpool

from hyla.answers.registry import Reading
from hyla.engine import Request
from hyla.errors import RequestError
from hyla.server.guard.limits import Limits
from hyla.server.reading.conversation import Conversation
from hyla.server.schemas.generation import GenerationFields
from hyla.server.served import ChatPrompt, ServedModel


def check_stream(requested: GenerationFields) -> None:
    if requested.stream_options is not None and not requested.stream:
        raise RequestError("stream_options is only for stream = true; leave it out", "stream_options")


def check_choices(num_prompts: int, num_choices: int, limits: Limits) -> None:
    if num_prompts * num_choices > limits.max_choices:
        raise RequestError(
            f"{num_prompts} prompts with {num_choices} choices each are more than the {limits.max_choices} choices "
            f"that one request may have; send several requests",
            "n",
        )


def check_logprobs(requests: Sequence[Request], limits: Limits, *, is_streamed: bool = False) -> None:
    """Raise RequestError when an answer may hold more log-probabilities than the server writes at once.

    Those of prompts come in one piece in any case; those of answers one by one where they are streamed, and the only
    answer of a request may be as long as it likes.
    """
    num, is_one = 0, len(requests) == 1 and requests[0].params.n == 1
    for request in requests:
        params = request.params
        if params.prompt_logprobs is not None:
            num += (len(request.prompt) - params.prompt_logprobs_start) * (params.prompt_logprobs + 1)
        if params.logprobs is not None and not is_streamed and not is_one:
            num += params.n * (params.max_tokens or 0) * (params.logprobs + 1)
    if num > limits.max_logprobs:
        raise RequestError(
            f"the answer may hold {num:,} log-probabilities (tokens times one more than the others asked for); this "
            f"server writes at most {limits.max_logprobs:,}: ask for fewer texts, choices, tokens or others at once",
            "logprobs",
        )


async def prompt_of(served: ServedModel, conversation: Conversation) -> ChatPrompt:
    """A conversation as the model's chat template writes it. Raises RequestError when the template refuses it.

    Few of one model are written at a time: they wait for its template without holding a thread that others need.
    """
    return await to_thread.run_sync(served.prompt, conversation, limiter=served.prompt_writers)


async def reading_of(
    served: ServedModel,
    prompt: ChatPrompt,
    conversation: Conversation,
    constraint: dict | None,
    *,
    budget: int | None,
) -> Reading:
    """How the answer to a conversation is read and what it is held to: grammars take a while, so not on the loop.

    budget: of thinking, in tokens. Raises RequestError for what the model's format cannot be held to.
    """
    return await run_in_threadpool(
        served.format.reading,
        prompt.text,
        conversation.tools,
        constraint,
        budget=budget,
        may_think=conversation.may_think,
        is_continued=conversation.continues_final_message,
    )


async def encode(
    served: ServedModel,
    prompts: Sequence[str | tuple[int, ...]],
    *,
    add_special_tokens: bool = True,
    name: str = "the prompt",
) -> list[tuple[int, ...]]:
    """Token ids of each prompt. name: of them, in errors. Raises RequestError for ids that the model does not have."""

    def work() -> list[tuple[int, ...]]:
        made = []
        for prompt in prompts:
            if isinstance(prompt, str):
                tokenizer = served.require_tokenizer("a text prompt")
                served.check_length(prompt, name)
                # The engine's own tokenizers need not know the option.
                more = {} if add_special_tokens else {"add_special_tokens": False}
                prompt = tuple(tokenizer.encode(prompt, **more))
            served.worker.facts.check_ids(prompt, name)
            made.append(prompt)
        return made

    return await run_in_threadpool(work)
