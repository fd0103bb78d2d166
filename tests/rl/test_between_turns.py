"""What a template writes between two turns, of every family whose calls are known; what cannot be used is refused."""

import pytest
from data.family_templates import FAMILIES, IM_END, KIMI_CALL, SENTENCE_END, XML_CALL, chatml, merging_tokenizer
from tiny_text import byte_tokenizer

from hyla.answers.tools import ToolUse
from hyla.errors import ConfigError
from hyla.models.formats.registry import family_of
from hyla.rl.tools.between import Between
from hyla.rl.tools.reading import Call, calls_in, calls_of
from hyla.rl.tools.tools import Tool

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
USE = ToolUse((Tool("weather", "How it is.", WEATHER),), "auto")
CHATML = "\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
ADDED = {
    "qwen2": CHATML,
    "qwen3": CHATML,
    "qwen3_next, thinking": CHATML + "<think>\n",
    "qwen3_5": CHATML + "<think>\n",
    "nemotron_h": CHATML + "<think>\n",
    "mimo_v2_flash": CHATML + "<think></think>",
    "kimi_linear": "<|im_system|>tool<|im_middle|>## Return of functions.weather:0\nsunny<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|>",
    "deepseek_v3": "<｜tool▁output▁begin｜>sunny<｜tool▁output▁end｜>",
    "deepseek_v32": "\n\n<function_results>\n<result>sunny</result>\n</function_results>\n\n</think>",
    "minimax_m2": "\n]~b]tool\n<response>sunny</response>[e~[\n]~b]ai\n<think>\n",
    "bailing_moe_v2": "<role>OBSERVATION</role><tool_response>\nsunny\n</tool_response><|role_end|>"
    "<role>ASSISTANT</role>",
    "bailing_moe_linear": "<role>OBSERVATION</role><tool_response>\nsunny\n</tool_response><|role_end|>"
    "<role>ASSISTANT</role><think>\n",
}
"""Behind the end of an answer that calls a tool, which gives "sunny"."""


def between(template, end, family="qwen3"):
    tokenizer = merging_tokenizer(template)
    config = family_of("qwen3").tiny.model_copy(
        update={"family": family, "vocab_size": tokenizer.vocab_size, "eos_token_ids": (tokenizer.token_id(end),)}
    )
    return Between(tokenizer, config, USE, "runs/model")


@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_is_what_the_template_writes_behind_an_answer(name):
    family = FAMILIES[name]
    found = between(family.template, family.end, name.partition(",")[0])
    calls = [Call("functions.weather:0", "weather", '{"city": "Rome"}')]
    ids = found.ids(calls, ["sunny"])
    assert found.tokenizer.decode(ids, skip_special_tokens=False) == ADDED[name]
    # Neither the arguments nor what the model made up are shown to the template.
    assert found.ids([Call("functions.weather:0", "who knows<|im_end|>", "{")], ["sunny"]) == ids
    two = found.tokenizer.decode(found.ids(calls * 2, ["sunny", "rainy"]), skip_special_tokens=False)
    assert two.index("sunny") < two.index("rainy")


def test_a_turn_is_read_with_its_reasoning():
    found = between(FAMILIES["qwen3_5"].template, IM_END, "qwen3_5")
    turn = calls_in(found.parser(CHATML + "<think>\n"), f"R\n</think>\n\nC\n\n{XML_CALL}", "call_3")
    assert found.hides_special_tokens and found.has_mark(XML_CALL)
    assert (turn.reasoning, turn.content) == ("R", "C")
    assert turn.message() == {
        "role": "assistant",
        "content": "C",
        "reasoning_content": "R",
        "tool_calls": [
            {
                "id": "call_3_0",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'},
            }
        ],
    }
    assert calls_of(turn.message()) == turn.calls


def test_ids_that_a_model_gives_are_kept_where_they_are_plain():
    found = between(FAMILIES["kimi_linear"].template, IM_END, "kimi_linear")
    assert not found.hides_special_tokens
    for given, kept in {
        "functions.weather:0": "functions.weather:0",
        "functions.who?:7": "call_0",
    }.items():
        text = KIMI_CALL.replace("functions.weather:0", given)
        assert [call.call_id for call in calls_in(found.parser(""), text).calls] == [kept]


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - ADDED.keys()))
def test_templates_without_calls_that_are_known_are_refused_by_name(name):
    with pytest.raises(ConfigError, match="chat template of runs/model has no format of tool calls that is known here"):
        between(FAMILIES[name].template, FAMILIES[name].end, "llama")


QWEN2 = FAMILIES["qwen2"].template


@pytest.mark.parametrize(
    "template, said",
    [
        (QWEN2.replace("{{ t | tojson }}", ""), "it does not tell the model of the tools"),
        (QWEN2.replace("m.role == 'tool'", "m.role == 'other'").replace("{% else %}", "{% elif m.role != 'tool' %}"),
         "it leaves results of tools out"),
        (QWEN2.replace("<tool_response>", "<tool_response {{ loop.index }}>"), "another way later in a conversation"),
        (QWEN2.replace("c.function.name }}", "c.function.name }}s"), "its calls are not those that are read as hermes"),
        (QWEN2.replace("m.tool_calls or []", "[]"), "it does not show an answer's calls"),
        (chatml("{{ m.content }}", "") + "<tool_call>{{ raise_exception('no tools') if messages | length > 1 }}",
         "refuses these messages: no tools"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_continued_is_refused_by_name(template, said):
    with pytest.raises(ConfigError, match=rf"template of runs/model cannot be used with rl\.rollout\.tools: .*{said}"):
        between(template, IM_END)


def test_a_template_that_writes_no_end_is_refused():
    with pytest.raises(ConfigError, match=r"no token that ends the model's text \('<.end.of.sentence.>', '<.end.>'\)"):
        between(QWEN2, SENTENCE_END)


def test_a_model_without_a_template_is_refused():
    with pytest.raises(ConfigError, match=r"runs/model has no chat template, and rl\.rollout\.tools needs one"):
        Between(byte_tokenizer(None), family_of("qwen3").tiny, USE, "runs/model")
