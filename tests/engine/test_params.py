import pytest
from pydantic import ValidationError

from hyla.engine import EngineOptions, SamplingParams
from hyla.errors import ConfigError, RequestError


@pytest.mark.parametrize(
    "name,value",
    [
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -2),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.5),
        ("seed", -1),
        ("seed", 1 << 64),
        ("n", 0),
        ("stop", [""]),
        ("stop", 3),
        ("stop_token_ids", ["a"]),
        ("logprobs", -1),
        ("best_off", 2),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-320),
        ("repetition_penalty", float("nan")),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"one": 1.0}),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("bad_words", [""]),
        ("bad_words", [[]]),
        ("bad_words", "word"),
        ("prompt_logprobs", -1),
        ("thinking_budget", -1),
        ("thinking_end_ids", [-4]),
        ("grammar", "json"),
    ],
)
def test_a_wrong_sampling_parameter_is_named(name, value):
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name


def test_sampling_parameters_are_frozen_and_take_one_stop_string():
    params = SamplingParams(stop="x")
    assert params.stop == ("x",)
    with pytest.raises(ValidationError, match="frozen"):
        params.n = 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "prompt_logprobs": 0, "n": 2}, "n"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
        ({"thinking_budget": 3}, "thinking_budget"),
        ({"thinking_start_ids": [1]}, "thinking_start_ids"),
        ({"thinking_start_ids": [1], "thinking_end_ids": [1]}, "thinking_start_ids"),
    ],
)
def test_parameters_that_contradict_each_other_are_named(fields, param):
    with pytest.raises(RequestError, match=param) as caught:
        SamplingParams(**fields)
    assert caught.value.param == param


def test_a_long_wrong_value_is_shown_in_short():
    with pytest.raises(RequestError, match="stop") as caught:
        SamplingParams(stop={"x" * 5000: 1})
    assert len(str(caught.value)) < 200


def test_sampling_parameters_survive_json():
    params = SamplingParams(max_tokens=3, stop=["a", "b"], stop_token_ids=[1], seed=(1 << 64) - 1, logprobs=2)
    assert SamplingParams.model_validate_json(params.model_dump_json()) == params
    params = SamplingParams(
        logit_bias={5: -1.5},
        bad_words=["a", (1, 2)],
        allowed_token_ids=(1, 2),
        thinking_end_ids=(3,),
        max_tokens=0,
        prompt_logprobs=1,
    )
    assert SamplingParams.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize("name,value", [("memory", 0), ("prefill_chunk", 0), ("dtype", "int3"), ("max_seqs", 4)])
def test_a_wrong_engine_option_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        EngineOptions(**{name: value})
