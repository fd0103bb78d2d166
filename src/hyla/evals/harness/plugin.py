"""The model `hyla` of lm-evaluation-harness. This file alone imports it: the harness is the program that it is part of.

`python -m hyla.evals.harness` is the harness's own command, `lm-eval`, with this model beside its own:

    python -m hyla.evals.harness run --model hyla --model_args pretrained=FOLDER,dtype=float32 --tasks arc_easy
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.utils import simple_parse_args_string  # pyright: ignore[reportMissingImports]

from hyla.checkpoints import load_tokenizer, resolve
from hyla.engine import Engine
from hyla.errors import ConfigError, RequestError
from hyla.evals.harness.answers import Answer, Answers
from hyla.evals.harness.generation import DEFAULT_MAX_TOKENS, sampling_params


@register_model("hyla")
class HylaLM(TemplateLM):
    """Log-likelihoods and greedy (or drawn) continuations by an engine in this process.

    spent: by the name of a task, the answers that it took.
    """

    def __init__(self, answers: Answers, name: str, *, max_gen_toks: int = DEFAULT_MAX_TOKENS):
        super().__init__()
        self.answers, self.name, self.max_gen_toks = answers, name, max_gen_toks
        self.spent: dict[str, list[Answer]] = defaultdict(list)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> HylaLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict | None = None) -> HylaLM:
        """arg_dict: `pretrained`, a model as `hyla serve` takes it; `max_length`, `max_gen_toks`, `truncates`, and any
        option of the engine. The harness's batch size is the engine's `max_num_sequences`.

        Raises ConfigError for a name that is none of these.
        """
        more = {name: value for name, value in (additional_config or {}).items() if value is not None}
        options = {**arg_dict, **more}
        if "pretrained" not in options:
            raise ConfigError("model_args has no pretrained=; name a folder, a .gguf file or a known model")
        name, length = str(options.pop("pretrained")), options.pop("max_length", None)
        tokens, truncates = options.pop("max_gen_toks", DEFAULT_MAX_TOKENS), options.pop("truncates", False)
        options.pop("max_batch_size", None)  # there is nothing to find out: the engine's batches change no bit
        batch = options.pop("batch_size", None)
        if batch is not None and str(batch).isdigit():
            options["max_num_sequences"] = int(batch)
        if length is not None:
            options["context_len"] = int(length)
        place = resolve(name)
        tokenizer = load_tokenizer(place)
        engine = Engine(place, tokenizer=tokenizer, **options)
        return cls(Answers(engine, tokenizer, truncates=bool(truncates)), name, max_gen_toks=int(tokens))

    @property
    def eot_token_id(self) -> int:
        ends = self.answers.engine.eos_ids
        return ends[0] if ends else self.answers.prefix_id

    @property
    def prefix_token_id(self) -> int:
        return self.answers.prefix_id

    @property
    def max_length(self) -> int:
        return self.answers.max_length

    @property
    def tokenizer_name(self) -> str:
        return self.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        template = self.answers.tokenizer.chat_template
        return None if not chat_template or template is None else "\n".join(template.sources.values())

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation. add_generation_prompt=False: its last message is to be gone on with, so the
        prompt ends where that does."""
        text = self.answers.tokenizer.render_chat(list(chat_history), add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        place = text.rfind(last)
        if place < 0:
            raise RequestError("the chat template changes the last message, so it cannot be gone on with")
        return text[: place + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        return self.answers.encode(string, adds_special=add_special_tokens is not False)

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self._tasks = [request.task_name for request in requests]
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests, **kwargs) -> list[tuple[float, bool]]:
        found = self.answers.log_likelihoods([(context, rest) for _, context, rest in requests])
        self._note(self._tasks, found)
        return [answer.likelihood for answer in found]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        cut = [self.answers.rolling(*request.args) for request in requests]
        found = iter(self.answers.log_likelihoods([pair for pairs in cut for pair in pairs]))
        sums = []
        for request, pairs in zip(requests, cut):
            own = [next(found) for _ in pairs]
            self._note([request.task_name] * len(own), own)
            sums.append(math.fsum(answer.likelihood[0] for answer in own))
        return sums

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        asked = [
            (context, sampling_params(options, self.answers.tokenizer, self.max_gen_toks))
            for context, options in (request.args for request in requests)
        ]
        found = self.answers.continuations(asked)
        self._note([request.task_name for request in requests], found)
        return [answer.text or "" for answer in found]

    def _note(self, tasks: Sequence[str | None], found: Sequence[Answer]) -> None:
        for task, answer in zip(tasks, found):
            self.spent[task or ""].append(answer)


def task_manager(include_path: Path | None, tasks: Sequence[str]):
    """The tasks of a folder, where all that are wanted are there; else the harness's own as well, whose thousands of
    files take seconds to read."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    if include_path is not None:
        own = TaskManager(include_path=str(include_path), include_defaults=False)
        if set(tasks) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=None if include_path is None else str(include_path))


def evaluate(model: HylaLM, manager, tasks: Sequence[str], **options) -> dict[str, Any]:
    """The harness's results. options: of `lm_eval.simple_evaluate`."""
    from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]

    return simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options)


def main() -> None:
    """`lm-eval`, which knows `--model hyla`."""
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()
