"""The page in a real headless Chromium: run by `make test-page`, which installs what is missing."""

import re
import shutil

import httpx
import pytest
from long_texts import families, mixed
from playwright.sync_api import Error, expect, sync_playwright
from scripted_server import CARD, Live, Script, scripted_app, two_models_app

from hyla.checkpoints.card import facts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    "<img src=x onerror='window.broken=1'><script>window.broken=2</script> "
    "[click](javascript:window.broken=3) ![i](https://evil.example/pixel.png) <b>not bold</b> **bold**\n\n"
    "```html\n<script>window.broken=4</script>\n```\n"
)


@pytest.fixture(scope="module")
def script():
    script = Script()
    with pytest.MonkeyPatch.context() as patch:
        script.install(patch)
        yield script


@pytest.fixture(scope="module")
def live(script):
    with Live(scripted_app()) as live:
        yield live


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "no Chromium on this machine; `make test-page` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens pages that must not say anything on the console; `allowed` names what one may."""
    contexts, said, allowed = [], [], []

    def open_page(url, *, scheme="light", width=1280, height=800, model="tiny"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(f"foreign {request.url}") if not is_own(request) else None)
        page.goto(url + "/")
        if model:
            expect(page.locator("#model")).to_have_value(model)
        return page

    def is_own(request):
        return request.url.startswith(("http://127.0.0.1:", "data:"))

    open_page.allowed = allowed
    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in said if not any(part in line for part in allowed)] == []


def ask(page, text):
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def wait_for_answer(page, count=1):
    expect(page.locator(".assistant .numbers")).to_have_count(count, timeout=30_000)
    return page.locator(".assistant").last


def test_a_question_is_streamed_and_told_with_its_numbers(open_page, live, script):
    reply = "A **bold** answer.\n\n- one\n- two\n\n```python\nx = 1  # note\n```\n"
    script.say(reply, token_seconds=0.01)
    page = open_page(live.url)
    ask(page, "hello")
    expect(page.locator(".assistant")).to_have_attribute("aria-busy", "true")
    turn = wait_for_answer(page)
    assert turn.locator("strong").inner_text() == "bold"
    assert turn.locator("ul > li").all_inner_texts() == ["one", "two"]
    assert turn.locator("pre code").inner_text() == "x = 1  # note"
    assert turn.locator(".tok-comment").inner_text() == "# note"
    told = turn.locator(".numbers").inner_text()
    counts = rf"^23 prompt tokens · {len(reply) + 1} tokens · [\d.]+ tokens/s · first after [\d.]+ s$"
    assert re.search(counts, told), told
    assert script.prompts == ["user: hello\nassistant: "]


def test_the_second_turn_says_how_much_was_cached(open_page, live, script):
    script.say("x" * 90)
    page = open_page(live.url)
    ask(page, "y" * 80)
    wait_for_answer(page)
    ask(page, "and then?")
    turn = wait_for_answer(page, 2)
    cached = int(re.search(r"(\d+) cached", turn.locator(".numbers").inner_text()).group(1))
    assert cached >= 128
    assert script.prompts[1] == f"user: {'y' * 80}\nassistant: {'x' * 90}\nuser: and then?\nassistant: "


def test_no_answer_keeps_the_tab_busy(open_page, live):
    page = open_page(live.url)
    read = """async (texts) => {
      const { nodesOf } = await import("/page/markdown.js");
      return texts.map((text) => nodesOf(text).length);
    }"""
    for texts in (list(families(20_000)), list(mixed(0, 60, 20_000))):
        assert len(page.evaluate(read, texts)) == len(texts)  # a minute's guard: the square of this length takes hours


def test_model_output_is_text_whatever_it_says(open_page, live, script):
    script.say(HOSTILE)
    page = open_page(live.url)
    ask(page, HOSTILE)
    turn = wait_for_answer(page)
    assert page.evaluate("window.broken") is None
    assert page.locator("#turns img, #turns script, #turns b, #turns iframe").count() == 0
    assert [link.get_attribute("href") for link in turn.locator("a").all()] == ["https://evil.example/pixel.png"]
    assert "<img src=x onerror='window.broken=1'>" in turn.inner_text()
    assert turn.locator("strong").inner_text() == "bold"


def test_an_inline_script_or_string_of_html_cannot_run_at_all(open_page, live):
    open_page.allowed += ["Content Security Policy", "requires 'Trusted"]
    page = open_page(live.url)
    tries = (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.setAttribute('onclick', 'window.broken = 1')",
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken = 2'}))",
        "setTimeout('window.broken = 3')",
    )
    for text in tries:
        with pytest.raises(Error, match="Trusted"):
            page.evaluate(f"() => {{ {text} }}")
    style = "own => { own.setAttribute('style', 'color: red'); return getComputedStyle(own).color }"
    assert page.locator("h1").evaluate(style) != "rgb(255, 0, 0)"
    assert page.evaluate("window.broken") is None


FUZZ = """async () => {
    const { MarkdownView, nodesOf } = await import('/page/markdown.js');
    const parts = ['*', '**', '[', '![', '_', '_a ', '`', '`` ', '<', 'http://', '**a', '~~a', '[a](', '[[a]', '\\\\',
        '> ', '- ', '1. ', '|-|\\n',
        'a|b\\n-|-\\n', '# ', '[a](b(c', '  \\n', '```\\n', '<https://a', 'word', '\\n', '    '];
    let slowest = 0;
    for (const part of parts) {
        const start = performance.now();
        nodesOf(part.repeat(20000 / part.length));
        slowest = Math.max(slowest, performance.now() - start);
    }
    let seed = 1;
    const draw = (below) => (seed = (seed * 1103515245 + 12345) % 2147483648) % below;
    for (let round = 0; round < 500; round += 1) {
        const text = Array.from({ length: 1 + draw(40) }, () => parts[draw(parts.length)]).join('');
        const [growing, whole] = [document.createElement('div'), document.createElement('div')];
        const view = new MarkdownView(growing);
        for (let end = 0; end < text.length; end += 7) view.show(text.slice(0, end));
        view.show(text);
        new MarkdownView(whole).show(text);
        if (growing.outerHTML !== whole.outerHTML) return { differs: text };
    }
    return { slowest };
}"""


def test_no_text_breaks_the_markdown_or_makes_it_slow_and_a_growing_one_ends_as_the_whole(open_page, live):
    found = open_page(live.url).evaluate(FUZZ)
    assert found["slowest"] < 2000, "milliseconds, for 20,000 characters of the same mark"


def test_thinking_stands_apart_and_closes_when_the_answer_begins(open_page, live, script):
    script.say("<think>First I *wonder*.</think>Then I answer.", token_seconds=0.02)
    page = open_page(live.url)
    ask(page, "why?")
    expect(page.locator(".thinking")).to_have_attribute("open", "")
    turn = wait_for_answer(page)
    assert turn.locator(".thinking").get_attribute("open") is None
    assert turn.locator("> .text").inner_text() == "Then I answer."
    turn.locator("summary").click()
    assert turn.locator(".thinking .text").inner_text() == "First I wonder."
    assert "think>" not in turn.inner_text()


def test_esc_stops_an_answer_and_frees_the_engine(open_page, live, script):
    script.say("word " * 400, token_seconds=0.01)
    page = open_page(live.url)
    ask(page, "go on")
    expect(page.locator(".assistant > .text")).to_contain_text("word word")
    page.keyboard.press("Escape")
    turn = wait_for_answer(page)
    assert turn.locator(".numbers").inner_text().endswith("stopped")
    assert len(turn.locator("> .text").inner_text()) < 1900
    expect(page.locator("#send")).to_be_visible()
    page.wait_for_function(
        "async () => (await (await fetch('engine/status')).json()).models.tiny.unfinished_requests === 0"
    )


def test_an_answer_is_made_again_and_a_question_edited(open_page, live, script):
    script.say("first", "second", "third", "fourth")
    page = open_page(live.url)
    ask(page, "one")
    wait_for_answer(page)
    page.keyboard.press("Alt+r")
    expect(page.locator(".assistant > .text")).to_have_text("second")
    wait_for_answer(page)
    page.locator(".assistant").get_by_role("button", name="Regenerate").click()
    expect(page.locator(".assistant > .text")).to_have_text("third")
    wait_for_answer(page)
    page.locator("#prompt").focus()
    page.keyboard.press("ArrowUp")
    page.get_by_label("Edit your message").fill("two")
    page.keyboard.press("Enter")
    expect(page.locator(".assistant > .text")).to_have_text("fourth")
    wait_for_answer(page)
    assert page.locator(".turn").count() == 2
    assert script.prompts == ["user: one\nassistant: "] * 3 + ["user: two\nassistant: "]


def test_settings_are_sent_and_kept_and_a_wrong_one_is_explained(open_page, live, script):
    script.say("settled")
    page = open_page(live.url)
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.post_data else None)
    page.keyboard.press("Alt+s")
    for label, value in (
        ("System message", "Be brief."),
        ("Longest answer", "9"),
        ("Seed", "5"),
        ("Stop at", "XX\nYY"),
    ):
        page.get_by_label(label).fill(value)
    page.get_by_label("Temperature").fill("0")
    page.keyboard.press("Escape")
    ask(page, "hi")
    wait_for_answer(page)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    wanted = {"model": "tiny", "max_tokens": 9, "temperature": 0, "seed": 5, "stop": ["XX", "YY"], "messages": messages}
    assert bodies == [wanted | options]
    page.reload()
    expect(page.locator(".assistant > .text")).to_have_text("settled")
    page.keyboard.press("Alt+s")
    assert page.get_by_label("Seed").input_value() == "5"
    page.get_by_label("Longest answer").fill("100000")
    page.keyboard.press("Escape")
    open_page.allowed.append("400 (Bad Request)")
    ask(page, "too long")
    expect(page.get_by_role("alert")).to_contain_text("max_tokens is 100000")


@pytest.fixture(scope="module")
def live_two(script):
    with Live(two_models_app()) as live:
        yield live


def wait_for_text(page, text):
    expect(page.locator("#continue")).to_be_visible(timeout=30_000)
    expect(page.locator("#text")).to_have_value(text)


def choose(page, model):
    page.locator("#model").select_option(model)
    expect(page.locator("#text")).to_be_visible()


def test_the_page_opens_with_the_model_that_can_talk_and_keeps_the_choice(open_page, live_two, script):
    script.say("hello")
    page = open_page(live_two.url)
    assert page.locator("#model option").all_inner_texts() == ["base (continues text)", "tiny"]
    expect(page.locator("#composer")).to_be_visible()
    expect(page.locator("#text")).to_be_hidden()
    ask(page, "hi")
    wait_for_answer(page)
    choose(page, "base")
    expect(page.locator("#composer")).to_be_hidden()
    page.reload()
    expect(page.locator("#model")).to_have_value("base")
    expect(page.locator("#text")).to_be_visible()
    page.locator("#model").select_option("tiny")
    expect(page.locator(".assistant > .text")).to_have_text("hello")


def test_a_base_model_says_what_it_is_and_shows_its_card_and_examples(open_page, live_two):
    page = open_page(live_two.url)
    choose(page, "base")
    expect(page.locator("#writing")).to_contain_text("It is a base model")
    card = page.locator("#writing .card")
    assert card.get_attribute("open") is None
    assert card.locator("summary").inner_text() == "5.7 M parameters · 3 KDA + 1 MLA layers · 1.80 bits per byte"
    card.locator("summary").click()
    told = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts()))
    assert told == dict(facts(CARD)) and "<b>standard</b>" in told["trained on"]
    assert page.locator(".chip").all_inner_texts() == ["def read_lines(path):", "import os"]


def test_a_text_is_continued_as_it_is(open_page, live_two, script):
    script.say("# no heading\n**nor** bold <b>\n", " and on")
    page = open_page(live_two.url)
    choose(page, "base")
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.post_data else None)
    page.locator(".chip").first.click()
    begun = "def read_lines(path):\n# no heading\n**nor** bold <b>\n"
    wait_for_text(page, begun)
    assert page.locator("#mirror mark").all_inner_texts() == ["# no heading\n**nor** bold <b>\n"]
    assert page.locator("#writing h1, #writing strong, #writing b").count() == 0
    options = {"stream": True, "stream_options": {"include_usage": True}}
    wanted = {"model": "base", "prompt": "def read_lines(path):\n", "max_tokens": 120}
    assert bodies == [wanted | {"temperature": 0.8, "top_p": 0.9} | options]
    assert re.search(r"prompt tokens · \d+ tokens · .* the text ends here$", page.locator("#text-numbers").inner_text())
    page.locator("#text").press("Control+End")
    page.keyboard.type("x")
    page.keyboard.press("Control+Enter")
    wait_for_text(page, begun + "x and on")
    assert page.locator("#mirror mark").all_inner_texts() == ["# no heading\n**nor** bold <b>\n", " and on"]
    assert script.prompts == ["def read_lines(path):\n", begun + "x"]
    page.reload()
    expect(page.locator("#text")).to_have_value(begun + "x and on")


def test_a_continuation_is_drawn_again_and_undone(open_page, live_two, script):
    script.say(" one", " two", " three")
    page = open_page(live_two.url)
    choose(page, "base")
    expect(page.locator("#continue")).to_be_disabled()
    page.fill("#text", "count")
    page.locator("#continue").click()
    wait_for_text(page, "count one")
    page.keyboard.press("Alt+r")
    wait_for_text(page, "count two")
    page.locator("#again").click()
    wait_for_text(page, "count three")
    assert script.prompts == ["count"] * 3
    for text in ("count", "count two", "count", "count one", "count"):
        page.locator("#undo").click()
        expect(page.locator("#text")).to_have_value(text)
    page.keyboard.press("Alt+n")
    expect(page.locator("#text")).to_have_value("")
    page.locator("#undo").click()
    expect(page.locator("#text")).to_have_value("count")


def test_the_tint_follows_the_model_s_words_while_the_reader_edits(open_page, live_two, script):
    script.say("0123456789")
    page = open_page(live_two.url)
    choose(page, "base")
    page.fill("#text", "ab")
    page.locator("#continue").click()
    wait_for_text(page, "ab0123456789")
    marks = page.locator("#mirror mark")
    for typed, wanted in (
        ("XXab0123456789", ["0123456789"]),
        ("XXab0123_456789", ["0123", "456789"]),
        ("XXab0126789", ["012", "6789"]),
        ("XXab0126789 end", ["012", "6789"]),
        ("end", []),
    ):
        page.fill("#text", typed)
        assert marks.all_inner_texts() == wanted, typed


def test_esc_stops_a_continuation_and_another_model_leaves_it_behind(open_page, live_two, script):
    script.say("word " * 400, token_seconds=0.01)
    page = open_page(live_two.url)
    choose(page, "base")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Longest answer").fill("1500")
    page.keyboard.press("Escape")
    page.fill("#text", "go on ")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#text")).to_have_value(re.compile("word word"))
    page.keyboard.press("Escape")
    expect(page.locator("#text-numbers")).to_have_text(re.compile("stopped$"))
    assert len(page.locator("#text").input_value()) < 1900
    page.locator("#continue").click()
    expect(page.locator("#stop-text")).to_be_visible()
    page.locator("#model").select_option("tiny")
    page.wait_for_function(
        "async () => (await (await fetch('engine/status')).json()).models.base.unfinished_requests === 0"
    )
    ask(page, "hi")
    expect(page.locator(".assistant > .text")).to_contain_text("word")
    page.keyboard.press("Escape")
    choose(page, "base")
    assert page.locator("#text").input_value().startswith("go on word")


def test_a_model_that_can_talk_continues_text_when_the_settings_say_so(open_page, live_two, script):
    script.say(" and on")
    page = open_page(live_two.url)
    page.keyboard.press("Alt+s")
    page.get_by_label("Mode", exact=True).select_option("text")
    expect(page.locator("#writing")).to_contain_text("It can talk, too")
    page.keyboard.press("Escape")
    page.fill("#text", "on")
    page.locator("#continue").click()
    wait_for_text(page, "on and on")
    assert script.prompts == ["on"]


def test_the_model_s_advice_is_shown_and_sent_until_a_field_is_filled(open_page, live_two, script):
    script.say("x")
    page = open_page(live_two.url)
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.post_data else None)
    page.keyboard.press("Alt+s")
    fields = page.get_by_label("Temperature"), page.get_by_label("Top p")
    assert [field.get_attribute("placeholder") for field in fields] == ["0.7", "default"]
    choose(page, "base")
    assert [field.get_attribute("placeholder") for field in fields] == ["0.8", "0.9"]
    fields[0].fill("0.1")
    page.keyboard.press("Escape")
    page.fill("#text", "go")
    page.keyboard.press("Control+Enter")
    wait_for_text(page, "gox")
    page.locator("#model").select_option("tiny")
    ask(page, "hi")
    wait_for_answer(page)
    assert [(body["temperature"], body.get("top_p")) for body in bodies] == [(0.1, 0.9), (0.1, None)]


def test_a_failed_continuation_is_said_and_the_text_stays(open_page, live_two, script):
    script.say("never")
    page = open_page(live_two.url)
    open_page.allowed.append("400 (Bad Request)")
    choose(page, "base")
    page.fill("#text", "x" * 9000)
    page.locator("#continue").click()
    expect(page.get_by_role("alert")).to_contain_text("8192")
    assert page.locator("#text").input_value() == "x" * 9000
    expect(page.locator("#continue")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light"), (1280, "dark")])
def test_continuing_is_readable_and_fits_every_width(open_page, live_two, script, width, scheme):
    script.say("y" * 90 + "\n" + "    return path\n" * 40)
    page = open_page(live_two.url, width=width, height=700, scheme=scheme)
    choose(page, "base")
    page.locator("#writing summary").click()
    page.locator(".chip").first.click()
    expect(page.locator("#text-numbers")).to_contain_text("tokens/s")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = "own => [own.scrollHeight, own.clientHeight]"
    needed, shown = page.locator("#text").evaluate(sizes)
    assert needed <= shown, "the field is as high as its text"
    found = page.evaluate(CONTRAST)
    assert found["bad"] == [] and found["seen"] > 10
    assert (
        page.locator("#text-bar button").evaluate_all(
            "found => found.filter((own) => own.checkVisibility() && own.getBoundingClientRect().height < 36).length"
        )
        == 0
    )


def test_the_engine_is_shown_live(open_page, live, script):
    script.say("tick " * 60, token_seconds=0.02)
    page = open_page(live.url)
    ask(page, "z" * 100)
    page.keyboard.press("Alt+g")
    panel = page.get_by_role("complementary", name="Engine")
    expect(panel).to_contain_text("1 of 8")
    wait_for_answer(page)
    expect(panel).to_contain_text("0 of 8")
    for words in ("pages", "slots", "snapshots", "Prefix tree", "Missed: never seen", "Drafts", "Steps", "Queue"):
        expect(panel).to_contain_text(words)
    assert panel.locator("polyline").count() == 2
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    page.wait_for_timeout(1300)
    assert len(asked) <= 1, "a closed panel asks nothing"


def test_everything_is_reached_by_the_keyboard(open_page, live, script):
    script.say("done")
    page = open_page(live.url)
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    told = set(dialog.locator("td").all_inner_texts())
    assert {"New conversation, or text", "Settings", "Engine", "Answer, or continue, again"} <= told
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("Alt+m")
    expect(page.locator("#model")).to_be_focused()
    page.locator("#new").focus()
    page.keyboard.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("line one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line two")
    page.keyboard.press("Enter")
    wait_for_answer(page)
    assert script.prompts[-1] == "user: line one\nline two\nassistant: "
    page.keyboard.press("Alt+n")
    expect(page.locator(".turn")).to_have_count(0)


def test_both_themes_follow_the_system_and_the_choice_is_kept(open_page, live):
    grounds = {}
    for scheme in ("light", "dark"):
        page = open_page(live.url, scheme=scheme)
        assert page.locator("html").get_attribute("data-theme") == scheme
        grounds[scheme] = page.locator("body").evaluate("own => getComputedStyle(own).backgroundColor")
        page.keyboard.press("Alt+t")
        other = {"light": "dark", "dark": "light"}[scheme]
        assert page.locator("html").get_attribute("data-theme") == other
        page.reload()
        assert page.locator("html").get_attribute("data-theme") == other
    assert grounds["light"] != grounds["dark"]


CONTRAST = """() => {
    const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const ground = (node) => {
        for (let own = node; own; own = own.parentElement) {
            const color = parse(getComputedStyle(own).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const bad = [];
    let seen = 0;
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!own || !node.checkVisibility() || node.closest('.unseen, .skip, noscript, option, #mirror')) continue;
        seen += 1;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        const told = `${node.tagName}.${node.className} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`;
        if (ratio < 4.5) bad.push(told);
    }
    return { bad, seen };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast_and_every_control_a_name(open_page, live, script, scheme):
    script.say(
        "<think>hm</think># Head\n\nText `code` [link](https://a.b) > q\n\n> quote\n\n"
        "```py\ndef f(): return 'x' # c\n```"
    )
    page = open_page(live.url, scheme=scheme)
    ask(page, "q")
    wait_for_answer(page)
    for key in ("Alt+s", "Alt+g"):
        page.keyboard.press(key)
        page.wait_for_timeout(200)
        found = page.evaluate(CONTRAST)
        assert found["bad"] == [] and found["seen"] > 20
    names = "own.getAttribute('aria-label') || own.textContent.trim() || own.labels?.length"
    controls = page.locator("button, input, select, textarea")
    nameless = controls.evaluate_all(f"(found) => found.filter((own) => !({names})).map((own) => own.outerHTML)")
    assert nameless == []


def test_a_phone_sees_everything_without_scrolling_sideways(open_page, live, script):
    script.say(
        "A long line of code:\n\n```\n" + "x" * 200 + "\n```\n\n| a | b |\n|---|---|\n| " + "y" * 90 + " | z |\n"
    )
    page = open_page(live.url, width=360, height=640)
    ask(page, "w" * 120)
    wait_for_answer(page)
    for key in (None, "Alt+s", "Alt+g"):
        if key:
            page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.press("Escape")
    small = page.evaluate("""() => [...document.querySelectorAll('nav button, #composer button')]
        .filter((own) => own.checkVisibility() && own.getBoundingClientRect().height < 36).length""")
    assert small == 0


def test_a_key_is_asked_for_and_kept_for_the_tab(open_page, script):
    script.say("open")
    open_page.allowed.append("401 (Unauthorized)")
    with Live(scripted_app(api_key="sesame")) as live:
        page = open_page(live.url, model=None)
        expect(page.get_by_role("alert")).to_contain_text("API key")
        page.get_by_label("API key").fill("sesame")
        page.get_by_label("API key").press("Tab")
        expect(page.locator("#model")).to_have_value("tiny")
        page.keyboard.press("Escape")
        ask(page, "hi")
        assert wait_for_answer(page).locator("> .text").inner_text() == "open"
        page.keyboard.press("Alt+g")
        expect(page.locator("#engine")).to_contain_text("running")
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_server_that_is_gone_is_said(open_page, script):
    script.say("bye")
    open_page.allowed += ["ERR_CONNECTION", "Failed to load"]
    with Live(scripted_app()) as live:
        page = open_page(live.url)
    with pytest.raises(httpx.ConnectError):
        httpx.get(live.url)
    ask(page, "anyone?")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
