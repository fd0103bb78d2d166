"""The grammar of a required call takes what the format's template writes, and no other text."""

import dataclasses

import llguidance
import pytest
from test_parsers import CALLS, TOOLS, rendered
from tiny_text import byte_tokenizer
from tool_templates import TEMPLATES

from hyla.answers import registry

SPECIAL = (
    "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>",
    "<|tool_call_argument_begin|>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    made = byte_tokenizer()
    made.backend.add_special_tokens(list(SPECIAL))
    return made


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return llguidance.LLTokenizer(tokenizer.backend.to_str())


def matcher(vocabulary, name, **use):
    form = registry.answer_format(TEMPLATES[name], special=SPECIAL)
    made = form.reading("", dataclasses.replace(TOOLS, mode="required", **use)).params["grammar"]
    lark = llguidance.LLMatcher.grammar_from_lark(made["text"])
    assert llguidance.LLMatcher.validate_grammar(lark, vocabulary) == ""
    return llguidance.LLMatcher(vocabulary, lark)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_the_template_writes_is_accepted(tokenizer, vocabulary, name):
    # Calls of MiMo's template stand side by side; its grammar writes them on lines.
    num_calls = 1 if name == "mimo" else 2
    answer = rendered(name, "", CALLS[:num_calls])[1].strip()
    own = matcher(vocabulary, name)
    ids = tokenizer.encode(answer)
    assert own.try_consume_tokens(ids) == len(ids), tokenizer.decode(ids, skip_special_tokens=False)
    assert own.is_accepting()


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_a_second_call_are_not_accepted(tokenizer, vocabulary, name):
    assert matcher(vocabulary, name).try_consume_tokens(tokenizer.encode("No.")) == 0
    both = tokenizer.encode(rendered(name, "", CALLS[1:] + CALLS[1:2])[1].strip())
    own = matcher(vocabulary, name, is_parallel=False)
    assert own.try_consume_tokens(both) < len(both)
