"""The grammar of a required call, asked about texts: what the format's template writes for some arguments."""

import functools

import llguidance
from test_parsers import read, rendered
from test_tool_grammars import SPECIAL
from tiny_text import byte_tokenizer
from tool_templates import TEMPLATES

from hyla.answers import registry
from hyla.answers.tools import ToolUse

ALL = tuple(TEMPLATES)


@functools.cache
def text_tokenizer():
    made = byte_tokenizer()
    made.backend.add_special_tokens(list(SPECIAL))
    return made


@functools.cache
def vocabulary():
    return llguidance.LLTokenizer(text_tokenizer().backend.to_str())


def reading_of(name, *tools, special=SPECIAL, **use):
    form = registry.answer_format(TEMPLATES[name], special=special)
    return form.reading("", ToolUse(tools, "required", **use))


def matcher_of(name, *tools, **more):
    lark = llguidance.LLMatcher.grammar_from_lark(reading_of(name, *tools, **more).params["grammar"]["text"])
    matcher = llguidance.LLMatcher(vocabulary(), lark, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def written(name, *calls):
    return rendered(name, "", calls)[1].strip()


def accepts(matcher, text):
    own, ids = matcher.deep_copy(), text_tokenizer().encode(text)
    return own.try_consume_tokens(ids) == len(ids) and own.is_accepting()


def read_back(name, text, *tools):
    """[(name, arguments text)] of a text."""
    return [(own[0], own[1]) for own in read(reading_of(name, *tools).parser(), [text])[2]]
