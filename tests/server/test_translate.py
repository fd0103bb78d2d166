import pytest

from hyla.engine import SamplingParams
from hyla.errors import RequestError
from hyla.server import translate
from hyla.server.body import parse
from hyla.server.schemas.chat import ChatRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
ALL = translate.ENGINE_PARAMS | set(translate.TO_COME)
NONE = frozenset(translate.ENGINE_PARAMS - set(translate.TO_COME))

ASKED = {
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1.0},
    "allowed_token_ids": [1, 2],
    "bad_words": ["no"],
    "thinking_budget": 7,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
}
IN_ENGINE = ASKED | {"logit_bias": {5: 1.0}, "allowed_token_ids": (1, 2), "bad_words": ("no",)}


@pytest.mark.parametrize("name", ASKED)
def test_a_field_goes_to_the_engine_that_has_it_and_is_refused_by_name_without(name):
    given = {name: getattr(parse(ChatRequest, CHAT | {name: ASKED[name]}), name)}
    assert translate.known_fields(given, ALL) == {name: IN_ENGINE[name]}
    with pytest.raises(RequestError, match=f"{name} = .* is not supported") as caught:
        translate.known_fields(given, NONE)
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "values"), [(name, own) for name, own in translate.TO_COME.items() if own and own is not ...]
)
def test_a_value_that_asks_for_nothing_passes_without_the_field(name, values):
    for value in values:
        assert translate.known_fields({name: value}, NONE) == {}


def test_every_shared_field_is_the_engine_s_or_to_come():
    assert set(translate.SHARED) <= ALL
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": -1, "seed": -1, "stop": "x", "n": 2, "ignore_eos": True}
    params = translate.sampling_params(parse(ChatRequest, CHAT | fields), max_tokens=3)
    wanted = {"top_k": 0, "seed": (1 << 64) - 1, "stop": ("x",), "max_tokens": 3}
    assert params == SamplingParams(**(fields | wanted))


def test_marks_of_thinking_go_along_only_where_they_matter(monkeypatch):
    seen = []
    monkeypatch.setattr(translate, "known_fields", lambda fields, known: seen.append(fields) or {})
    marks = {"thinking_start_ids": (1,), "thinking_end_ids": (2,)}
    translate.sampling_params(parse(ChatRequest, CHAT), **marks)
    translate.sampling_params(parse(ChatRequest, CHAT | {"thinking_budget": 3}), **marks)
    translate.sampling_params(parse(ChatRequest, CHAT), grammar={"type": "json_object"}, **marks)
    assert [marks.items() <= fields.items() for fields in seen] == [False, True, True]


@pytest.mark.parametrize("name", ["x", "-1", "1.0", "٣", "9" * 20])
def test_a_bias_names_a_token_id(name):
    with pytest.raises(RequestError, match="must be token ids"):
        translate.known_fields({"logit_bias": {name: 1.0}}, ALL)
