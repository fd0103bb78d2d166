"""A tiny model, tasks and reward for the tests of reinforcement learning."""

import json
import random
from pathlib import Path

import torch
from tiny_model import sandwich
from tiny_text import byte_tokenizer

from hyla.checkpoints import save_model
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.rl.config import RLRequest
from hyla.rl.run import Listeners, RLRun, open_rl_run
from hyla.rl.samples import RoundFile
from hyla.train.run_state import finished_states

RECURRENT = ("kda", "gated_delta", "lightning", "mamba2")
REWARD = '''
def count(answer, row):
    """The share of the answer's characters that are the wanted letter, or of few other values."""
    return round(sum(ord(c) % 7 == row["wanted"] for c in answer) / max(len(answer), 1), 2)
'''
DRAFTS = {"speculation": "lookup", "fixed_drafts": True, "max_draft_tokens": 4}


A, B = b"ab"


def hybrid(mixer: str, vocab_size: int, seed: int = 5) -> Model:
    """The mixer, softmax attention, the mixer, writing a and b."""
    model = initialize(Model(sandwich(mixer, vocab_size)), seed, std=0.3)
    with torch.no_grad():
        model.head.weight *= 0.05
    return writing_two_letters(model, 160.0)


@torch.no_grad()
def writing_two_letters(model: Model, scale: float) -> Model:
    """The same model, which writes a and b most of the time (or two other tokens, of a small vocabulary), so that a
    lookup in what is there already is right now and then: their logits are opposite, so that one of them is likelier
    than all else whatever the hidden state."""
    first, second = (id % model.config.vocab_size for id in (A, B))
    towards_D = model.head.weight[first] * scale
    model.head.weight[first], model.head.weight[second] = towards_D, -towards_D
    return model


def write_start(folder: Path, mixer: str = "kda") -> Path:
    """A model with random weights and a tokenizer of bytes, tasks, and a reward."""
    tokenizer = byte_tokenizer()
    with torch.no_grad():
        save_model(hybrid(mixer, tokenizer.vocab_size), folder / "start", tokenizer=tokenizer)
    draw = random.Random(3)
    shared = "".join(draw.choice("abc ") for _ in range(70))
    lines = [
        {"prompt": f"{shared}{'xyz' * draw.randrange(1, 9)}{number}", "wanted": number % 7} for number in range(12)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    (folder / "reward.py").write_text(REWARD)
    return folder


def request_of(folder: Path, *, rollout=(), policy=(), reward=None, heldout=None, lora=None, **train) -> RLRequest:
    """Three rounds of four tasks with three answers each. policy, rollout: what differs."""
    return RLRequest(
        model={"start_from": str(folder / "start")},
        rl={
            "tasks": str(folder / "tasks.jsonl"),
            "reward": reward or {"function": f"{folder / 'reward.py'}:count"},
            "rollout": {
                "tasks_per_round": 4,
                "group_size": 3,
                "max_tokens": 24,
                "temperature": 0.7,
                "engine": {"memory": 8 << 20, "max_num_sequences": 5, "prefill_chunk": 50, **DRAFTS},
                **dict(rollout),
            },
            "policy": {"drop_equal_groups": False, **dict(policy)},
            "heldout": heldout,
        },
        lora=lora,
        train={
            "steps": 3,
            "seed": 3,
            "optimizer": "adamw",
            "learning_rate": 3e-3,
            "warmup_fraction": 0.0,
            "loss_rows": 50,
            "micro_batch_tokens": 400,
            "checkpoint_every": 2,
            **train,
        },
    )


def finished(out: Path, request: RLRequest, **listeners) -> RLRun:
    """A run, to its end."""
    run = open_rl_run(out, request)
    run.trained(Listeners(**listeners))
    return run


def lines_of(out: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def outcome(out: Path, *, without: tuple[str, ...] = ()) -> tuple[dict, dict, dict]:
    """Everything that a run leaves and that the clock has no part in: its lines, its answers, and the bytes of the last
    weights, the saved model and the adapter. without: fields of lines that are left out."""
    left_out = {"seconds", "rollout_seconds", "reward_seconds", "handover_seconds", "cached_tokens", *without}
    lines = {
        name: [{key: value for key, value in line.items() if key not in left_out} for line in lines_of(out, name)]
        for name in ("updates", "rounds", "heldout-rewards")
    }
    samples = {
        file.name: {
            key: (one.token_ids, one.logprobs, one.text, one.reward, one.problem, one.turns)
            for key, one in sorted(RoundFile(file).read().items())
        }
        for file in sorted((out / "rollouts").iterdir())
    }
    files = [finished_states(out / "checkpoints")[-1] / "weights.safetensors"]
    files += [*(out / "model").glob("*.safetensors"), *(out / "adapter").glob("*.safetensors")]
    return lines, samples, {str(file.relative_to(out)): file.read_bytes() for file in files}
