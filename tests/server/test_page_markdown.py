"""The page's Markdown, read by node where there is one; `make test-page` does the same in a browser."""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from long_texts import families, mixed

NODE = shutil.which("node")
READER = Path(__file__).with_name("markdown.mjs")
HANG_SECONDS = 60
"""Far more than any machine needs for what takes time in proportion to its length, far less than the square of it."""

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed; make test-page reads it in a browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page's modules where node takes them for modules."""
    folder = tmp_path_factory.mktemp("page")
    for file in files("hyla.server.page").iterdir():
        if file.name.endswith(".js"):
            (folder / file.name).write_text(file.read_text())
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def read(page, texts, *arguments):
    """What the page makes of each text; fails when it hangs."""
    command = [str(NODE), str(READER), str(page), *arguments]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


LONG = [
    ("# ", " ", "x\u2028y"), ("```", " ", "`"), ("- ", " ", "x\u2028y"), ("a|b\n|-", " ", "x|"), ("a|b\n", " ", "x|"),
    ("a", " ", "x"), ("", "*a", " *"), ("", "`", "a"), ("", "![a](", ""), ("", "[a](b \"", ""),
]  # fmt: skip
"""A beginning, a part again and again, an end. Most were read in the square of their lengths, or worse."""

SAMPLES = {
    "# One two ##": ["<h3>One two</>"],
    "# Learn C#": ["<h3>Learn C#</>"],
    "#no": ["<p>#no</>"],
    "a **b _c_** `d` ~~e~~": ["<p>a <strong>b <em>c</></> <code>d</> <s>e</></>"],
    "snake_case_name and 2*3*4": ["<p>snake_case_name and 2<em>3</>4</>"],
    "*a* ** b ** _ c_": ["<p><em>a</> ** b ** _ c_</>"],
    "``a`b`` ` c ` \\*d\\*": ["<p><code>a`b</> <code>c</> *d*</>"],
    "one  \ntwo\\\nthree": ["<p>one<br></>two<br></>three</>"],
    '[t **b**](https://a.example/x(1) "T")!': ["<p><a href=https://a.example/x(1)>t <strong>b</></>!</>"],
    "![alt](https://a.example/i.png)": ["<p><a href=https://a.example/i.png>alt</></>"],
    "[x](javascript:alert(1))": ["<p><span>x (javascript:alert(1))</></>"],
    "see https://a.example/b. <mailto:a@b.example>": [
        "<p>see <a href=https://a.example/b>https://a.example/b</>. <a href=mailto:a@b.example>mailto:a@b.example</></>"
    ],
    "- a\n- b\n  - c\n\n1. x\n2. y": ["<ul><li>a</><li>b<ul><li>c</></></></>", "<ol><li>x</><li>y</></>"],
    "3) x\n\n   more": ["<ol start=3><li>x<p>more</></></>"],
    "> a\n> > b": ["<blockquote><p>a</><blockquote><p>b</></></>"],
    "***": ["<hr></>"],
    "a\n\n---\n": ["<p>a</>", "<hr></>"],
}


@pytest.mark.parametrize("text", SAMPLES)
def test_what_markdown_becomes(page, text):
    assert read(page, [text]) == [SAMPLES[text]]


def test_tables_and_code(page):
    table, code = read(page, ["| a | b |\n|:-:|--:|\n| 1 | `2` |", "```py\nx = 'y'  # z\n```\nafter"])
    assert "<th class=center>a</><th class=right>b</>" in table[0] and "<td class=right><code>2</></>" in table[0]
    assert (
        "<code>x = <span class=tok-string>'y'</>  <span class=tok-comment># z</></>" in code[0]
        and code[1] == "<p>after</>"
    )


def test_reading_takes_time_in_proportion_to_the_text(page):
    """By a guard alone, since machines differ: at this length the square would take minutes for each of several."""
    assert len(read(page, list(families(1_000)), "count")) > 100
    long = [start + part * 100_000 + end for start, part, end in LONG]
    assert len(read(page, long, "count")) == len(LONG)


@pytest.mark.slow
def test_families_take_time_in_proportion_to_the_text(page):
    assert len(read(page, list(families(100_000)), "count")) > 100


@pytest.mark.slow
def test_mixtures_take_time_in_proportion_to_the_text(page):
    for seed in range(10):
        assert len(read(page, list(mixed(seed, 30, 100_000)), "count")) == 30


PAINTING = """
import { Painter } from "%s/dom.js";
let now = 0;
const [waits, drawn] = [[], []];
globalThis.performance = { now: () => now };
globalThis.setTimeout = (call, wait) => (waits.push(wait), queue.push(call), queue.length);
globalThis.clearTimeout = globalThis.cancelAnimationFrame = () => (queue.length = 0);
globalThis.requestAnimationFrame = (call) => (queue.push(call), queue.length);
const queue = [];
const painter = new Painter(() => { now += 10; drawn.push(now); });
for (let n = 0; n < 3; n += 1) {
  for (let asked = 0; asked < 100; asked += 1) painter.ask();
  while (queue.length) queue.shift()();
}
painter.ask();
painter.cancel();
while (queue.length) queue.shift()();
process.stdout.write(JSON.stringify([waits, drawn]));
"""


def test_drawing_rests_longer_than_it_works(page):
    """However often a growing text asks to be drawn."""
    command = [str(NODE), "--input-type=module", "-e", PAINTING % page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    waits, drawn = json.loads(done.stdout)
    assert (waits, len(drawn)) == ([0, 40, 40, 40], 3)


@pytest.mark.parametrize("text", ["`a` " * 70_000, "```py\n" + "if " * 70_000])
def test_an_answer_may_have_more_parts_than_a_call_takes_arguments(page, text):
    ((count,),) = read(page, [text], "count")
    assert count > 140_000
