"""What a server tells about its models: whether they can talk, and their cards."""

import json

import httpx
import openai
import pytest
from conftest import Live, make_engine
from tiny_model import save_tiny_folder
from tiny_text import byte_tokenizer

from hyla.checkpoints import open_checkpoint
from hyla.checkpoints.card import CARD_FILE, ModelCard, facts, read_card, write_card
from hyla.cli.serve import _load
from hyla.server import Limits, ServeConfig, ServedModelConfig, create_app, serve_model
from hyla.server.cards import served_card

CARD = ModelCard(
    family="kimi_linear", parameters=7, active_parameters=5, mixers={"KDA": 1}, context_len=512, examples=("def ",)
)


@pytest.fixture(scope="module")
def three():
    """A model that can talk, one that cannot and has a card, and one without a tokenizer."""
    models = [
        serve_model(make_engine(), "chat", limits=Limits()),
        serve_model(make_engine(byte_tokenizer(None)), "base", limits=Limits(), card=CARD),
        serve_model(make_engine(None), "ids", limits=Limits()),
    ]
    with Live(create_app(models)) as live:
        yield live


def test_every_model_says_whether_it_can_talk(three):
    with httpx.Client(base_url=three.url, timeout=60) as http:
        told = {entry["id"]: entry["is_chat"] for entry in http.get("/v1/models").json()["data"]}
        assert told == {"chat": True, "base": False, "ids": False}
        assert http.get("/v1/models/base").json()["is_chat"] is False


def test_a_card_is_told_as_data_and_in_words(three):
    with httpx.Client(base_url=three.url, timeout=60) as http:
        base = http.get("/v1/models/base").json()
        assert ModelCard(**base["card"]) == CARD
        assert [tuple(fact) for fact in base["facts"]] == list(facts(CARD))
        chat = http.get("/v1/models/chat").json()
        assert chat["card"] is None and chat["facts"] == []


def test_openai_s_client_reads_the_list_as_before(three):
    client = openai.OpenAI(base_url=f"{three.url}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["chat", "base", "ids"]
    text = client.completions.create(model="base", prompt="def ", max_tokens=3).choices[0].text
    assert isinstance(text, str)


def test_talking_to_a_base_model_is_refused_with_the_way_out(three):
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(f"{three.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400 and "completions endpoint" in answer.json()["error"]["message"]


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_served_folder_brings_its_card_and_a_broken_one_stops_nothing(tmp_path, caplog, is_broken):
    folder = save_tiny_folder(tmp_path / "model", is_chat=False)
    write_card(folder, CARD, name="model")
    if is_broken:
        whole = json.loads((folder / CARD_FILE).read_text())
        (folder / CARD_FILE).write_text(json.dumps(whole | {"colour": "green"}))
    model = ServedModelConfig(name="m", folder=str(folder), engine={"memory": 8 << 20, "max_num_sequences": 1})
    served = _load(model, ServeConfig(models=(model,)))
    try:
        served.worker.start()
        assert served.worker.is_alive and not served.is_chat
        expected = served_card(open_checkpoint(folder))
        assert served.card == expected and (expected == CARD) != is_broken
        assert ("colour = 'green'" in caplog.text) == is_broken
    finally:
        served.worker.stop()
    if not is_broken:
        assert read_card(folder) == CARD
