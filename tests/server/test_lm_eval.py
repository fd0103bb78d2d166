"""lm-evaluation-harness's own client for OpenAI-style servers: its scores are the model's."""

import warnings

import pytest
import torch
from conftest import Live
from tiny_model import save_tiny_folder

from hyla.checkpoints import load_model, load_tokenizer
from hyla.engine import Engine
from hyla.server import single_app

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PAIRS = [("def read(path):", "\n    return path"), ("import os,", " sys"), ("x", "yz")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def harness(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.api.instance import Instance
        from lm_eval.models.openai_completions import LocalCompletionsAPI
    with Live(single_app(Engine(folder, memory=64 << 20), model_name="tiny")) as live:
        url = live.url + "/v1/completions"
        model = LocalCompletionsAPI(base_url=url, model="tiny", tokenizer=str(folder), num_concurrent=1, max_length=512)
        yield model, Instance


def test_log_likelihoods_are_the_model_s(harness, folder):
    model, instance = harness
    asked = [instance(request_type="loglikelihood", doc={}, arguments=pair, idx=n) for n, pair in enumerate(PAIRS)]
    found = model.loglikelihood(asked)
    tokenizer, own = load_tokenizer(folder), load_model(folder).eval()
    for (context, rest), (logprob, is_greedy) in zip(PAIRS, found):
        start = len(tokenizer.encode(context))
        ids = tokenizer.encode(context + rest)
        with torch.inference_mode():
            (logits_TV,) = own.logits([ids])
        logprobs = torch.log_softmax(logits_TV.double(), -1)
        wanted = sum(float(logprobs[n - 1, ids[n]]) for n in range(start, len(ids)))
        assert logprob == pytest.approx(wanted, rel=1e-5)
        assert is_greedy == all(int(logits_TV[n - 1].argmax()) == ids[n] for n in range(start, len(ids)))


def test_generation_stops_where_it_is_told(harness):
    model, instance = harness
    options = {"until": ["\n\n"], "max_gen_toks": 8, "temperature": 0}
    asked = [instance(request_type="generate_until", doc={}, arguments=("import os", options), idx=0)]
    (text,) = model.generate_until(asked)
    assert isinstance(text, str) and "\n\n" not in text
