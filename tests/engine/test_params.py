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


def test_sampling_parameters_survive_json():
    params = SamplingParams(max_tokens=3, stop=["a", "b"], stop_token_ids=[1], seed=(1 << 64) - 1, logprobs=2)
    assert SamplingParams.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize("name,value", [("memory", 0), ("prefill_chunk", 0), ("dtype", "int3"), ("max_seqs", 4)])
def test_a_wrong_engine_option_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        EngineOptions(**{name: value})
