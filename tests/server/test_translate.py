import pytest

from hyla.engine import SamplingParams
from hyla.errors import RequestError
from hyla.server.reading import translate
from hyla.server.reading.body import parse
from hyla.server.schemas.chat import ChatRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
ASKED = {
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1.0},
    "allowed_token_ids": [1, 2],
    "bad_words": ["no"],
    "thinking_budget": 7,
    "include_stop_str_in_output": True,
    "stop_in_thinking": True,
    "skip_special_tokens": False,
    "sampled_logprobs": True,
}
IN_ENGINE = ASKED | {"logit_bias": {5: 1.0}, "allowed_token_ids": (1, 2), "bad_words": ("no",)}


@pytest.mark.parametrize("name", ASKED)
def test_a_field_goes_to_the_engine_in_its_form(name):
    given = {name: getattr(parse(ChatRequest, CHAT | {name: ASKED[name]}), name)}
    assert translate.in_engine(given) == {name: IN_ENGINE[name]}


def test_every_shared_field_is_the_engine_s():
    assert set(translate.SHARED) <= set(SamplingParams.model_fields)
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": -1, "seed": -1, "stop": "x", "n": 2, "ignore_eos": True}
    params = translate.sampling_params(parse(ChatRequest, CHAT | fields), max_tokens=3)
    wanted = {"top_k": 0, "seed": (1 << 64) - 1, "stop": ("x",), "max_tokens": 3}
    assert params == SamplingParams(**(fields | wanted))


def test_marks_of_thinking_go_along_only_where_they_matter(monkeypatch):
    seen = []
    monkeypatch.setattr(translate, "in_engine", lambda fields: seen.append(fields) or {})
    marks = {"thinking_start_ids": (1,), "thinking_end_ids": (2,)}
    translate.sampling_params(parse(ChatRequest, CHAT), **marks)
    translate.sampling_params(parse(ChatRequest, CHAT | {"thinking_budget": 3}), **marks)
    translate.sampling_params(parse(ChatRequest, CHAT), grammar={"type": "json_object"}, **marks)
    assert [marks.items() <= fields.items() for fields in seen] == [False, True, True]


@pytest.mark.parametrize("name", ["x", "-1", "1.0", "٣", "9" * 20])
def test_a_bias_names_a_token_id(name):
    with pytest.raises(RequestError, match="must be token ids"):
        translate.in_engine({"logit_bias": {name: 1.0}})
