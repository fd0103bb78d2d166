"""Grammars whose parts lead too deep are refused; the deepest that are taken do not end the process."""

import itertools
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError

from hyla.engine.requests.chains import MOST_PARTS, MOST_RULES, circles, longest_chain, schema_parts
from hyla.engine.requests.formats import Ebnf, JsonSchema, Lark

LINKS = {
    "anyOf": lambda to: {"anyOf": [to]},
    "oneOf": lambda to: {"oneOf": [to]},
    "allOf": lambda to: {"allOf": [to]},
    "items": lambda to: {"items": to},
    "prefixItems": lambda to: {"prefixItems": [to]},
    "properties": lambda to: {"properties": {"a": to}},
}


def chain(kind, count):
    parts = {f"d{n}": LINKS[kind]({"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    return {"$defs": {**parts, f"d{count}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def rules(count):
    return "start: r0\n" + "".join(f"r{n}: r{n + 1}\n" for n in range(count)) + f'r{count}: "a"\n'


def ebnf(count):
    return "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(count)) + f'r{count} ::= "a"\n'


def deepest(kind):
    """The longest chain of this kind that is taken."""
    each = schema_parts(LINKS[kind]({"type": "string"}))
    return chain(kind, (MOST_PARTS - 2) // each)


@pytest.mark.parametrize("kind", LINKS)
def test_a_schema_that_ended_the_process_is_refused(kind):
    with pytest.raises(ValidationError, match=r"leads \d+ parts deep, references followed; at most 1000 are taken"):
        JsonSchema(json_schema=chain(kind, 1060))
    JsonSchema(json_schema=deepest(kind))


@pytest.mark.parametrize(("form", "text"), [(Lark, rules), (Ebnf, ebnf)])
def test_a_grammar_that_ended_the_process_is_refused(form, text):
    with pytest.raises(ValidationError, match=r"\d+ rules of the grammar lead to each other; at most 1000"):
        form(text=text(2650))
    form(text=text(MOST_RULES - 3))


def test_names_and_pointers_of_every_spelling_are_followed():
    for name, reference in (("$id", "x/{}"), ("$anchor", "#x{}")):
        names = [reference.format(n) for n in range(701)]
        parts = [{name: own.lstrip("#"), "items": {"$ref": to}} for own, to in itertools.pairwise(names)]
        assert schema_parts({"$defs": {"all": {"anyOf": parts}}, "$ref": reference.format(0)}) > MOST_PARTS
    inside = {"properties": {"a": {"items": {"type": "null"}}}, "items": {"$ref": "#/properties/a"}}
    assert schema_parts(inside) == 4 + 2


def test_a_wide_recursive_schema_of_the_usual_kind_is_taken():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "value": {"type": "integer"}}}
    wide = {f"p{n}": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]} for n in range(500)}
    assert schema_parts({"$defs": {"node": node}, "properties": wide}) < 12


def test_circles_come_after_what_they_lead_to_and_hold_what_reaches_itself():
    draw = random.Random(1)
    for _ in range(200):
        names = "abcdefgh"
        links = {name: {other for other in names if draw.random() < 0.2} for name in names}
        reach = {name: set(links[name]) for name in names}
        for _ in names:
            reach = {name: own.union(*(reach[other] for other in own)) for name, own in reach.items()}
        found = circles(links)
        assert sorted(part for circle in found for part in circle) == list(names)
        for place, circle in enumerate(found):
            for part in circle:
                assert all(other in reach[part] for other in circle if other != part)
                assert all(part not in reach[other] or other in circle for other in reach[part])
                assert not any(other in reach[part] for later in found[place + 1 :] for other in later)
        assert longest_chain(links, dict.fromkeys(names, 1)) <= len(names)


COMPILE = """
    import sys
    import threading
    sys.path[:0] = {path!r}
    from tiny_text import byte_tokenizer
    from hyla.engine.sampling.grammar import GrammarCompiler
    from engine.test_chains import LINKS, MOST_RULES, Ebnf, JsonSchema, Lark, deepest, ebnf, rules
    from hyla.errors import RequestError

    def each():
        forms = [JsonSchema(json_schema=deepest(kind)) for kind in LINKS]
        for form in [*forms, Lark(text=rules(MOST_RULES - 3)), Ebnf(text=ebnf(MOST_RULES - 3))]:
            try:
                grammar = GrammarCompiler(byte_tokenizer()).compile(form)
                grammar.ahead().copy().mask(300)
            except RequestError as error:
                print("refused", error)

    thread = threading.Thread(target=each)
    thread.start()
    thread.join()
    print("alive")
"""


def test_the_deepest_that_is_taken_leaves_the_process_alive():
    tests = Path(__file__).parents[1]
    script = textwrap.dedent(COMPILE).format(path=[str(tests), str(tests / "engine")])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "alive", done.stderr[-500:] + str(done.returncode)
