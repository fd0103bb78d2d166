"""Structured output: what is chosen always fits, and what cannot be met is refused."""

import json
import random
import re
import threading
import time

import jsonschema
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import END, byte_tokenizer

from hyla.engine.requests.formats import Choice, Ebnf, JsonObject, JsonSchema, Lark, Regex, depth_of
from hyla.engine.requests.params import SamplingParams
from hyla.engine.sampling.choosing import Chooser
from hyla.engine.sampling.grammar import LIMITS, GrammarCompiler
from hyla.errors import RequestError

TOKENIZER = byte_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER)
VOCAB = 259
"""Two more than the tokenizer knows, as models often have."""
CLOSERS = list(b'"}],:0')
MOST_TOKENS = 600


def chooser_of(form, *, prompt=(1,), **fields):
    fields = {"seed": 3, "grammar": form, **fields}
    return Chooser(SamplingParams(**fields), prompt, choice=0, stop_ids=(END,), grammar=COMPILER.compile(form).copy())


def write(chooser, seed=0, most=MOST_TOKENS):
    """(bytes, whether the text ended) that a random model writes, which likes to come to an end."""
    draw, text = torch.Generator().manual_seed(seed), []
    for n in range(most):
        if chooser.is_complete:
            return bytes(text), True
        row = torch.randn(VOCAB, generator=draw)
        row[CLOSERS] += 4.0
        row[END] += 3.0
        token = chooser.choose(row, n)
        assert token is not None, chooser.problem
        if token == END:
            return bytes(text), True
        text.append(token)
        chooser.advance(token)
    return bytes(text), False


@pytest.mark.parametrize("seed", range(6))
def test_a_json_object_always_parses(seed):
    text, has_ended = write(chooser_of(JsonObject()), seed)
    assert has_ended and isinstance(json.loads(text), dict)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"c', None]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_a_schema_is_met_with_any_temperature(temperature):
    for seed in range(4):
        text, has_ended = write(chooser_of(JsonSchema(json_schema=PERSON), temperature=temperature), seed)
        assert has_ended
        jsonschema.validate(json.loads(text), PERSON)


def schemas():
    leaves = st.one_of(
        st.builds(
            lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)}, *[st.integers(-50, 999)] * 2
        ),
        st.builds(
            lambda a, b: {"type": "string", "minLength": min(a, b), "maxLength": max(a, b)}, *[st.integers(0, 6)] * 2
        ),
        st.lists(
            st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=4)),
            min_size=1,
            max_size=4,
        ).map(lambda values: {"enum": values}),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "pattern": "^[a-c]{2,4}$"}]),
        st.sampled_from([{"type": "string", "format": "date"}, {"type": "number", "minimum": 0, "maximum": 1}]),
    )

    def objects(children):
        return st.dictionaries(st.text('abc é"\\', min_size=1, max_size=3), children, max_size=3).map(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": sorted(properties)[:2],
                "additionalProperties": False,
            }
        )

    def arrays(children):
        return children.map(lambda items: {"type": "array", "items": items, "minItems": 1, "maxItems": 3})

    def unions(children):
        return st.lists(children, min_size=1, max_size=3).map(lambda options: {"anyOf": options})

    return st.recursive(leaves, lambda kids: st.one_of(objects(kids), arrays(kids), unions(kids)), max_leaves=6)


@settings(max_examples=60)
@given(schema=schemas(), seed=st.integers(0, 99))
def test_random_schemas_are_met(schema, seed):
    text, has_ended = write(chooser_of(JsonSchema(json_schema=schema)), seed)
    if has_ended:  # whitespace may go on for ever
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("values", [{"enum": ["a", 2**53 + 1]}, {"const": -(2**53) - 1}])
def test_integers_that_would_be_changed_are_refused_by_name(values):
    with pytest.raises(ValueError, match="has more than 53 bits and would be changed; give it as a string"):
        JsonSchema(json_schema={"type": "object", "properties": {"x": values}})


@pytest.mark.parametrize("pattern", ["[a-f0-9]{4}-[0-9]+", "(yes|no)!?", "é+x", "[^a-z]{3,5}", "^ab?$"])
def test_a_pattern_is_matched_as_a_whole(pattern):
    for seed in range(4):
        text, has_ended = write(chooser_of(Regex(pattern=pattern)), seed)
        assert has_ended and re.fullmatch(pattern, text.decode())


def test_one_of_the_choices_is_written():
    options = ('say "hi"', "back\\slash", "né\n", "\x01", "hi", "high")
    texts = {write(chooser_of(Choice(options=options)), seed)[0].decode() for seed in range(40)}
    assert texts <= set(options) and len(texts) > 3


@pytest.mark.parametrize(
    "form",
    [
        Lark(text='start: "(" start ")" | NUMBER\nNUMBER: /[0-9]{1,3}/'),
        Ebnf(text='root ::= "(" root ")" | [0-9] [0-9]? [0-9]?'),
    ],
)
def test_a_context_free_grammar_is_followed(form):
    for seed in range(5):
        text, has_ended = write(chooser_of(form), seed)
        assert has_ended and re.fullmatch(r"(\(*)\d{1,3}(\)*)", text.decode())
        assert text.count(b"(") == text.count(b")")


def test_a_text_that_may_end_or_go_on_ends_with_a_stop_id_and_a_whole_one_by_itself():
    chooser, row = chooser_of(Regex(pattern="a{1,2}"), temperature=0.0), torch.zeros(VOCAB)
    row[END] = 9.0
    assert chooser.choose(row, 1) == ord("a")
    chooser.advance(ord("a"))
    assert not chooser.is_complete and chooser.choose(row, 2) == END
    chooser.advance(ord("a"))
    assert chooser.is_complete


def test_min_tokens_keeps_an_open_text_going():
    chooser, row = chooser_of(Regex(pattern="a+"), temperature=0.0, min_tokens=3), torch.zeros(VOCAB)
    row[END] = 9.0
    for n in range(3):
        assert chooser.choose(row, n) == ord("a")
        chooser.advance(ord("a"))
    assert chooser.choose(row, 3) == END


def test_ids_that_the_tokenizer_does_not_know_are_never_allowed():
    chooser, row = chooser_of(Regex(pattern="(?s:.)+"), temperature=0.0), torch.zeros(VOCAB)
    row[257:] = 9.0
    assert chooser.choose(row, 1) < 128
    assert not chooser.allows(257) and not chooser.allows(258) and chooser.allows(ord("x"))


def test_a_draft_is_cut_where_the_grammar_forbids_it():
    chooser = chooser_of(Regex(pattern="ab+c?"))
    assert chooser.num_allowed(list(b"abbbc")) == 5
    assert chooser.num_allowed(list(b"abbcb")) == 4
    assert chooser.num_allowed([*b"ab", END]) == 3
    assert chooser.num_allowed(list(b"b")) == 0
    chooser.advance(ord("a"))
    assert chooser.allows(ord("b")) and not chooser.allows(ord("a"))


def test_what_remains_of_a_grammar_and_other_rules_must_not_be_nothing():
    chooser = chooser_of(Regex(pattern="ab"), bad_words=((97,),))
    assert chooser.choose(torch.zeros(VOCAB), 1) is None
    assert "the grammar allows no token here" in chooser.problem


def test_a_token_that_the_grammar_forbids_breaks_it_and_says_so():
    chooser = chooser_of(Regex(pattern="ab"))
    chooser.advance(ord("x"))
    assert chooser.choose(torch.zeros(VOCAB), 2) is None and not chooser.is_complete
    assert "the grammar cannot go on" in chooser.problem and "\n" not in chooser.problem


MARKERS = {"thinking_start_ids": (1,), "thinking_end_ids": (2,)}


def test_a_grammar_holds_after_thinking_and_thinking_cannot_end_the_text():
    chooser, row = chooser_of(Regex(pattern="ab"), prompt=[7, 1], temperature=0.0, **MARKERS), torch.zeros(VOCAB)
    row[END], row[ord("z")] = 9.0, 5.0
    assert chooser.choose(row, 2) == ord("z") and not chooser.is_complete
    chooser.advance(ord("z"))
    chooser.advance(2)
    assert chooser.choose(row, 4) == ord("a")
    assert write(chooser)[0] == b"ab"


def test_thinking_may_begin_where_a_grammar_begins_but_not_later():
    row = torch.zeros(VOCAB)
    row[1] = 9.0
    chooser = chooser_of(Regex(pattern="ab"), prompt=[7], temperature=0.0, thinking_budget=1, **MARKERS)
    assert chooser.allows(1) and chooser.choose(row, 1) == 1
    chooser.advance(1)
    chooser.advance(ord("z"))
    assert chooser.choose(row, 3) == 2
    chooser.advance(2)
    assert chooser.choose(row, 4) == ord("a") and not chooser.allows(1)
    done = chooser_of(Regex(pattern="ab"), prompt=[1, 2], temperature=0.0, **MARKERS)
    assert done.choose(row, 2) == ord("a")


def test_a_start_marker_of_several_tokens_is_completed():
    fields = {"thinking_start_ids": (1, 5, 6), "thinking_end_ids": (2,), "temperature": 0.0}
    chooser, row = chooser_of(Regex(pattern="ab"), prompt=[7], **fields), torch.zeros(VOCAB)
    row[1] = 9.0
    told = []
    for n in range(4):
        told.append(chooser.choose(row, n))
        chooser.advance(told[-1])
    assert told == [1, 5, 6, 1]


DEEP = {"type": "integer"}
for _ in range(3000):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Regex(pattern="("), "regex cannot be used: .*unclosed group"),
        (lambda: Regex(pattern="(?=a)b"), "look-around"),
        (lambda: Regex(pattern="[a&&b]"), "regex"),
        (lambda: Regex(pattern="$"), "no text but the empty one"),
        (lambda: Lark(text="start: missing"), 'unknown name: "missing"'),
        (lambda: Lark(text='start: start "a"'), "lark cannot be used"),
        (lambda: Ebnf(text="root ::= ("), "ebnf cannot be used"),
        (lambda: JsonSchema(json_schema=False), "schema false"),
        (lambda: JsonSchema(json_schema={"type": "integer", "minimum": 5, "maximum": 3}), "minimum .* greater"),
        (lambda: JsonSchema(json_schema={"type": "strng"}), "strng"),
        (lambda: JsonSchema(json_schema={"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: JsonSchema(json_schema={"not": {}, "x-guidance": {"lenient": True}}), "not"),
        (lambda: JsonSchema(json_schema={"$ref": "https://example.org/schema"}), "does not fetch"),
        (lambda: JsonSchema(json_schema={"type": "string", "pattern": "^a$", "minLength": 4}), "Regex is empty"),
    ],
)
def test_what_cannot_be_met_is_refused(make, words):
    with pytest.raises(RequestError, match=words) as caught:
        COMPILER.compile(make())
    assert caught.value.param == "grammar" and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"type": "json_schema", "json_schema": DEEP}, "nested more than 64"),
        ({"type": "json_schema", "json_schema": {"enum": ["x" * 70_000]}}, "at most 65536"),
        ({"type": "json_schema", "json_schema": {"const": {1, 2}}}, "is not JSON"),
        ({"type": "json_schema", "json_schema": {"const": float("nan")}}, "not JSON compliant"),
        ({"type": "regex", "pattern": "a" * 10_000}, "at most 8192"),
        ({"type": "choice", "options": []}, "at least 1 item"),
        ({"type": "choice", "options": [""]}, "at least 1 character"),
        ({"type": "poem"}, "poem"),
        ({"type": "regex"}, "required"),
    ],
)
def test_a_format_that_is_too_large_or_none_is_a_named_error(form, words):
    with pytest.raises(RequestError, match=words) as caught:
        SamplingParams(grammar=form)
    assert caught.value.param == "grammar" and len(str(caught.value)) < 500


def test_a_pattern_that_explodes_is_refused_soon_or_ends_with_a_problem():
    for pattern in ("a{1000}{1000}", "((a{100}){100}){100}", "a?" * 2000 + "a" * 2000, "(a|b)*a(a|b){300}"):
        begin = time.perf_counter()
        try:
            chooser = chooser_of(Regex(pattern=pattern))
            row = torch.zeros(VOCAB)
            for n in range(20):
                token = chooser.choose(row, n)
                if token is None:
                    assert "cannot go on" in chooser.problem
                    break
                chooser.advance(token)
        except RequestError as error:
            assert "cannot be used" in str(error)
        assert time.perf_counter() - begin < 30.0


def test_formats_survive_json():
    for form in (JsonSchema(json_schema=PERSON), JsonObject(), Regex(pattern="a"), Choice(options=("a", "b"))):
        params = SamplingParams(grammar=form)
        assert SamplingParams.model_validate_json(params.model_dump_json()) == params
    assert SamplingParams(grammar={"type": "choice", "options": ["a"]}).grammar == Choice(options=("a",))
    assert depth_of([[[1]], []]) == 3


def test_copies_of_a_grammar_go_their_own_ways():
    first = COMPILER.compile(Regex(pattern="a[bc]"))
    second = first.copy()
    first.advance(ord("a"))
    assert first.mask(VOCAB).nonzero()[0].tolist() == [98, 99]
    assert second.mask(VOCAB).nonzero()[0].tolist() == [97]


def test_compiling_on_other_threads_gives_the_same_grammar():
    compiler, masks = GrammarCompiler(TOKENIZER), []

    def work():
        masks.append(compiler.compile(Regex(pattern="[xyz]")).mask(VOCAB).nonzero()[0].tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert masks == [[120, 121, 122]] * 4


def test_a_tokenizer_with_merges_writes_the_same_language():
    """Tokens of several characters that cross the grammar's parts."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(['{"name": "abc", "age": 12}'] * 50, trainer)
    backend.enable_truncation(5)
    merged = type(TOKENIZER)(backend)
    assert merged.vocab_size > 256
    form = JsonSchema(json_schema=PERSON)
    grammar = GrammarCompiler(merged).compile(form)
    chooser = Chooser(SamplingParams(seed=1, grammar=form), [1], choice=0, grammar=grammar)
    draw, ids = torch.Generator().manual_seed(1), []
    while not chooser.is_complete:
        ids.append(chooser.choose(torch.randn(merged.vocab_size, generator=draw), len(ids)))
        chooser.advance(ids[-1])
        assert len(ids) < MOST_TOKENS
    jsonschema.validate(json.loads(merged.decode(ids)), PERSON)
    assert backend.truncation is not None


@pytest.mark.parametrize("tokenizer", [None, object()])
def test_a_grammar_needs_a_tokenizer_whose_bytes_are_known(tokenizer):
    with pytest.raises(RequestError, match="tokenizers library"):
        GrammarCompiler(tokenizer).compile(JsonObject())


@pytest.mark.parametrize("looks", ["copy", "num_allowed"])
def test_looking_ahead_at_wrong_drafts_uses_up_nothing_of_the_answer_s_work(monkeypatch, looks):
    """A text that comes near the limit of states is not cut short by what was drafted beside it."""
    monkeypatch.setitem(LIMITS, "max_lexer_states", 600)
    form = Regex(pattern="([ab]*a[ab]{9}x)")

    def walk(is_looked_ahead):
        grammar, draw, wrong = COMPILER.compile(form), random.Random(3), random.Random(9)
        masks = []
        for _ in range(240):
            drafts = [wrong.choice((97, 98)) for _ in range(4)]
            if is_looked_ahead and looks == "copy":
                ahead = grammar.ahead().copy()
                for token in drafts:
                    ahead.advance(token)
                    ahead.mask(256)
            elif is_looked_ahead:
                grammar.ahead().num_allowed(drafts)
            masks.append(grammar.mask(256).tobytes())
            grammar.advance(draw.choice((97, 98)))
        return masks, grammar.problem

    plain = walk(False)
    assert plain[1] is None and walk(True) == plain


def test_looking_ahead_stands_where_the_text_stands():
    grammar = COMPILER.compile(Regex(pattern="a[bc]d"))
    assert grammar.ahead().num_allowed(list(b"abdx")) == 3
    grammar.advance(ord("a"))
    assert grammar.ahead().num_allowed(list(b"cd")) == 2 and grammar.ahead().num_allowed(list(b"ad")) == 0
    grammar.advance(ord("b"))
    assert grammar.ahead().mask(256).nonzero()[0].tolist() == [ord("d")]
