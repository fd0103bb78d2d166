"""Conversations as tokens: the model learns its answers, as it would have been asked for them."""

import json

import pytest
import torch
from tiny_text import byte_tokenizer

from hyla.data.build import BuildRequest, build_store
from hyla.data.encoding import Encoded, Encoder
from hyla.data.records import Damaged, Record
from hyla.errors import ConfigError

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As Qwen3: reasoning is written before the last answer only.
THINKING = (
    "{% set last = namespace(user=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.index0 > last.user %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
OPENED = THINKING.replace("<assistant>{% endif %}", "<assistant><think>{% endif %}")


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


DIALOGUE = [
    turn("system", "Be brief."),
    turn("user", "one?"),
    turn("assistant", "1", reasoning_content="easy"),
    turn("user", "two?"),
    turn("assistant", "2", reasoning_content="one more"),
    turn("user", "and?"),
]


def encoded(template, messages=DIALOGUE):
    tokenizer = byte_tokenizer(template)
    return tokenizer, list(Encoder(tokenizer, is_chat=True).encode([Record("r", messages=messages)]))


def learnt_text(tokenizer, one: Encoded):
    return tokenizer.decode([i for i, is_learnt in zip(one.ids, one.is_learnt) if is_learnt], skip_special_tokens=False)


def whole_text(tokenizer, one: Encoded):
    return tokenizer.decode(one.ids, skip_special_tokens=False)


def test_a_plain_template_is_one_document_whose_answers_are_learnt_with_their_ends():
    tokenizer, (one,) = encoded(PLAIN)
    assert whole_text(tokenizer, one) == tokenizer.render_chat(DIALOGUE[:5], add_generation_prompt=False)
    assert learnt_text(tokenizer, one) == "1<|end|>2<|end|>"
    assert one.ids == tokenizer.encode_chat(DIALOGUE[:5], add_generation_prompt=False)


@pytest.mark.parametrize("template", [THINKING, OPENED])
def test_where_reasoning_is_left_out_later_each_answer_is_learnt_after_what_the_model_saw(template):
    tokenizer, documents = encoded(template)
    assert len(documents) == 2
    opened = template == OPENED
    start = "" if opened else "<think>"
    assert learnt_text(tokenizer, documents[0]) == f"{start}easy</think>1<|end|>"
    assert learnt_text(tokenizer, documents[1]) == f"{start}one more</think>2<|end|>"
    for document, length in zip(documents, (2, 4)):
        prompt = tokenizer.encode_chat(DIALOGUE[:length], add_generation_prompt=True)
        assert document.ids[: len(prompt)] == prompt and not any(document.is_learnt[: len(prompt)])
    assert "easy" not in whole_text(tokenizer, documents[1])


def test_a_template_that_fails_or_rewrites_is_a_damaged_record_with_its_reason():
    _, (found,) = encoded("{{ raise_exception('no') }}")
    assert isinstance(found, Damaged) and found.place == "r"
    rewriting = "{{ messages | length }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    _, (found,) = encoded(rewriting)
    assert isinstance(found, Damaged) and "message 2: the chat template writes" in found.reason


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(ConfigError, match="no chat template"):
        Encoder(byte_tokenizer(None), is_chat=True)


def test_a_store_of_conversations_says_by_row_what_is_learnt(tmp_path):
    tokenizer = byte_tokenizer(PLAIN)
    (tmp_path / "t").mkdir()
    tokenizer.save(tmp_path / "t")
    wrong = [{"messages": []}, {"messages": [turn("user", "x")]}, {"messages": [{"content": "x"}]}, {"text": "x"}]
    lines = [{"messages": DIALOGUE}, *wrong, {"messages": DIALOGUE[1:3]}, {"messages": DIALOGUE, "tools": 3}]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    request = BuildRequest(inputs=(str(tmp_path / "chat.jsonl"),), tokenizer=str(tmp_path / "t"), is_chat=True)
    store = build_store(tmp_path / "out", request)
    assert store.record["num_damaged"] == 5 and store.record["splits"]["train"]["documents"] == 2
    rows = store.train.rows(store.train.pieces(1000))
    text = tokenizer.decode(rows.targets_T[rows.is_learnt_T].tolist(), skip_special_tokens=False)
    assert text == "1<|end|>2<|end|>1<|end|>"
    assert rows.is_learnt_T.dtype == torch.bool and rows.to(torch.device("cpu")).is_learnt_T is not None


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_a_template_is_given_stands_beside_the_messages(tmp_path, kind):
    switched = PLAIN.replace("<assistant>{% endif %}", "<assistant>{{ mood or '' }}{% endif %}")
    tokenizer = byte_tokenizer(switched.replace("<{{ m.role }}>", "<{{ m.role }}>{{ mood or '' }}"))
    (tmp_path / "t").mkdir()
    tokenizer.save(tmp_path / "t")
    rows = [{"messages": DIALOGUE[1:3], "chat_template_kwargs": {"mood": mood}} for mood in ("glad", None)]
    if kind == "jsonl":
        rows += [{"messages": DIALOGUE[1:3], "chat_template_kwargs": bad} for bad in ([], {"tools": []})]
        (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), tmp_path / "chat.parquet")
    request = BuildRequest(inputs=(str(tmp_path / f"chat.{kind}"),), tokenizer=str(tmp_path / "t"), is_chat=True)
    store = build_store(tmp_path / "out", request)
    assert store.record["num_damaged"] == (2 if kind == "jsonl" else 0)
    assert all("chat_template_kwargs" in one["reason"] for one in store.record["damaged"])
    texts = tokenizer.decode(store.train.tokens.tolist(), skip_special_tokens=False)
    assert texts == "<user>gladone?<|end|>\n<assistant>glad1<|end|>\n<user>one?<|end|>\n<assistant>1<|end|>\n"
    assert int(store.train.learnt.sum()) == 2 * len([*b"1", "<|end|>"])
