"""Both official clients against a tiny hybrid of each kind of mixer, all served by one process under their names."""

import anthropic
import openai
import pytest
from conftest import Live
from tiny_text import byte_tokenizer, tiny_model

from hyla.engine import Engine, SamplingParams
from hyla.server import Limits, create_app, serve_model

FAMILIES = {
    "kimi_linear": "KDA and MLA",
    "qwen3_next": "gated delta rule and gated attention",
    "minimax": "lightning attention",
    "nemotron_h": "Mamba-2",
    "mimo_v2_flash": "windows and sinks",
    "deepseek_v32": "sparse attention",
    "bailing_hybrid": "KDA, MLA and a mixture of experts",
}
USER = {"role": "user", "content": "hi"}


def engine_of(name):
    return Engine(tiny_model(name), tokenizer=byte_tokenizer(), memory=16 << 20, max_num_sequences=4)


@pytest.fixture(scope="module")
def zoo():
    limits = Limits()
    models = [serve_model(engine_of(name), name, limits=limits) for name in FAMILIES]
    with Live(create_app(models, limits=limits)) as live:
        yield live
    for own in models:
        own.worker.engine.cache.ledger.check()


@pytest.mark.parametrize("name", FAMILIES)
def test_both_clients_get_the_engine_s_own_answer(zoo, name):
    params = SamplingParams(max_tokens=6, temperature=0.7, seed=4, logprobs=1)
    (own,) = engine_of(name).generate("user: hi\nassistant: ", params)
    fields = {"model": name, "messages": [USER], "max_tokens": 6, "temperature": 0.7}
    with openai.OpenAI(base_url=zoo.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        whole = client.chat.completions.create(**fields, seed=4, logprobs=True, top_logprobs=1).choices[0]
        assert whole.message.content == own.text
        assert [entry.logprob for entry in whole.logprobs.content] == [entry.logprob for entry in own.logprobs]
        stream = client.chat.completions.create(**fields, seed=4, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == own.text
        answer = client.responses.create(
            model=name, input="hi", max_output_tokens=6, temperature=0.7, extra_body={"seed": 4}
        )
        assert answer.output_text == own.text
        vector = client.embeddings.create(model=name, input="hi").data[0].embedding
        assert len(vector) == zoo.service.models[name].worker.engine.model.config.hidden_dim
    with anthropic.Anthropic(base_url=zoo.url, api_key="none", max_retries=0, timeout=120) as client:
        sampling = {"seed": 4, "temperature": 0.7}
        message = client.messages.create(model=name, messages=[USER], max_tokens=6, extra_body=sampling)
        assert message.content[0].text == own.text
