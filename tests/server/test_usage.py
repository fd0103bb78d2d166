"""What an answer's usage tells of drafts, through the official client, on a server whose engine makes some."""

import openai
import pytest
from conftest import make_engine
from live_server import Live

from hyla.engine import SamplingParams
from hyla.server import single_app

PROMPT = "abcabcabcabcabcabcabcabc"
NARROW = {"ignore_eos": True, "allowed_token_ids": [97, 98, 99]}
"""Three ids repeat their n-grams often enough."""
FIELDS = {"model": "tiny", "max_tokens": 60, "temperature": 0, "extra_body": NARROW}
DRAFTS = {"speculation": "lookup", "fixed_drafts": True, "max_draft_tokens": 4, "prefix_cache": False}


@pytest.fixture(scope="module")
def client():
    with (
        Live(single_app(make_engine(**DRAFTS), model_name="tiny")) as live,
        openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        yield client


def drafts_of(usage):
    details = usage.completion_tokens_details
    return details.accepted_prediction_tokens, details.rejected_prediction_tokens


def test_drafts_that_were_right_and_wrong_are_in_the_usage(client):
    params = SamplingParams(max_tokens=60, temperature=0, **NARROW)
    (own,) = make_engine(**DRAFTS).generate(PROMPT, params)
    wanted = own.usage.accepted_tokens, own.usage.drafted_tokens - own.usage.accepted_tokens
    assert min(wanted) > 0
    done = client.completions.create(prompt=PROMPT, **FIELDS)
    assert drafts_of(done.usage) == wanted and done.usage.completion_tokens == 60
    stream = client.completions.create(prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **FIELDS)
    *earlier, last = stream
    assert last.choices == [] and all(chunk.usage is None for chunk in earlier)
    assert drafts_of(last.usage) == wanted


def test_drafts_of_a_chat_are_summed_over_its_choices(client):
    chat = {"messages": [{"role": "user", "content": PROMPT}], **FIELDS}
    one = client.chat.completions.create(**chat)
    two = client.chat.completions.create(n=2, **chat)
    assert drafts_of(one.usage)[0] > 0
    assert drafts_of(two.usage) == tuple(2 * count for count in drafts_of(one.usage))
    *_, last = client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
    assert last.usage == one.usage


def test_a_server_that_drafts_nothing_says_so(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0, timeout=120) as plain:
        assert drafts_of(plain.completions.create(prompt=PROMPT, **FIELDS).usage) == (0, 0)
