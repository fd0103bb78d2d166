"""A tiny model that calls tools: whole calls are single tokens of its vocabulary, so that chance writes some."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tokenizers
import torch
from tiny_model import sandwich
from tiny_rl import DRAFTS, request_of
from tiny_text import END, byte_tokenizer

from hyla.checkpoints import Tokenizer, save_model
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.rl.config import RLRequest
from hyla.rl.rewards import Rewards
from hyla.rl.rollouts import Rollouts
from hyla.rl.run import Listeners, open_rl_run
from hyla.rl.samples import Sample

TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function | tojson }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
ADD = '<tool_call>{"name": "add", "arguments": {"a": 20, "b": 3}}</tool_call>'
NOTE = '<tool_call>{"name": "note", "arguments": {"text": "x"}}</tool_call>'
UNFIT = '<tool_call>{"name": "add", "arguments": {"a": 20}}</tool_call>'
UNKNOWN = '<tool_call>{"name": "sub", "arguments": {}}</tool_call>'
CUT = '<tool_call>{"name": "add", "arguments": {"a": 20, </tool_call>'
UNREAD = "<tool_call>add(20, 3)</tool_call>"
CALLS = (ADD, NOTE, UNFIT, UNKNOWN, CUT, UNREAD)
"""Ids 257, 258, ... of the vocabulary."""
TOOLS = '''
import os

def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b

def note(text: str) -> dict:
    """Write something down."""
    with open(os.path.join(os.path.dirname(__file__), "notes"), "a") as file:
        file.write(text)
    return {"length": len(text)}

def _hidden(): ...
'''
REWARD = '''
def talks(answer, row, messages):
    """Of few values, by what was said and called."""
    text = "".join(str(one.get("content")) for one in messages[1:])
    return (len(messages) + sum(ord(c) % 7 == row["wanted"] for c in text)) % 5 / 4
'''


def calling_tokenizer() -> Tokenizer:
    tokenizer = byte_tokenizer(TEMPLATE)
    tokenizer.backend.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in CALLS])
    return tokenizer


def calling_model(mixer: str, likely: dict[int, float], seed: int = 5) -> Model:
    """Draws these ids; the more likely the larger their number is."""
    config = sandwich(mixer, 257 + len(CALLS), eos_token_ids=(END,)).model_copy(update={"max_len": 1024})
    model = initialize(Model(config), seed, std=0.3)
    with torch.no_grad():
        rows = {token: model.head.weight[token] * size for token, size in likely.items()}
        model.head.weight.zero_()
        for token, row in rows.items():
            model.head.weight[token] = row
    return model


EVERYTHING = {97: 4.0, 98: 4.0, END: 2.0, **{257 + n: 2.0 for n in range(len(CALLS))}}
"""Letters, ends and calls: answers of one turn up to as many as there may be."""


def write_start(folder: Path, mixer: str = "kda", likely: dict[int, float] | None = None) -> Path:
    """A model, tasks, a reward that reads conversations, and tools."""
    tokenizer = calling_tokenizer()
    with torch.no_grad():
        save_model(calling_model(mixer, likely or EVERYTHING), folder / "start", tokenizer=tokenizer)
    lines = [
        {"messages": [{"role": "user", "content": f"{'xyz' * (number % 5)}{number}"}], "wanted": number % 7}
        for number in range(8)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    (folder / "reward.py").write_text(REWARD)
    (folder / "tools.py").write_text(TOOLS)
    return folder


def tools_request(folder: Path, *, tools=(), rollout=(), **more) -> RLRequest:
    """Three rounds of four tasks with three answers each. tools, rollout: what differs."""
    own = {"file": str(folder / "tools.py"), "max_turns": 4, **dict(tools)}
    engine = {"memory": 8 << 20, "max_num_sequences": 5, "prefill_chunk": 50, **DRAFTS}
    more = {"reward": {"function": f"{folder / 'reward.py'}:talks"}, **more}
    return request_of(folder, rollout={"max_tokens": 60, "engine": engine, "tools": own, **dict(rollout)}, **more)


@contextmanager
def rollouts_of(out: Path, request: RLRequest) -> Iterator[Rollouts]:
    """Those of a run that is not trained."""
    run = open_rl_run(out, request)
    with Rewards(request.rl.reward) as rewards, ExitStack() as closing:
        trainer = run.trainer(rewards, Listeners(), closing)
        trainer.hand_over()
        yield trainer.rollouts


def drawn(out: Path, request: RLRequest) -> list[Sample]:
    """The first round's, judged."""
    with rollouts_of(out, request) as rollouts:
        return [sample for group in rollouts.round(0) for sample in group]
