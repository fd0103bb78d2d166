"""The page's files and headers; `make test-page` looks at it in a real browser."""

import re
from html.parser import HTMLParser
from importlib.resources import files

import httpx

from hyla.server.page import TYPES

HTML = {"Accept": "text/html,application/xhtml+xml"}


def policy(response):
    parts = response.headers["content-security-policy"].split("; ")
    return {name: sources for name, _, sources in (part.partition(" ") for part in parts)}


class Tags(HTMLParser):
    """Attributes of every tag, and text inside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inline, self._inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)


def test_a_browser_gets_the_page_and_others_a_few_lines(http):
    page = http.get("/", headers=HTML)
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    text = http.get("/")
    assert text.headers["content-type"].startswith("text/plain") and "/v1/chat/completions" in text.text
    assert page.headers["vary"] == text.headers["vary"] == "Accept"


def test_nothing_but_the_page_s_own_files_can_run(http):
    for path in ("/", *(f"/page/{name}" for name in TYPES)):
        found = policy(http.get(path, headers=HTML))
        assert found["default-src"] == "'none'" and found["script-src"] == found["style-src"] == "'self'"
        assert found["require-trusted-types-for"] == "'script'" and found["frame-ancestors"] == "'none'"
        assert "unsafe" not in str(found) and "*" not in str(found)
        assert http.get(path, headers=HTML).headers["x-content-type-options"] == "nosniff"


def test_the_page_has_nothing_inline_and_loads_only_files_that_are_sent(http):
    found = Tags(http.get("/", headers=HTML).text)
    assert found.inline == []
    for _, attributes in found.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    linked = {own for _, a in found.tags for own in (a.get("src"), a.get("href")) if own and not own.startswith("#")}
    assert linked == {"page/icon.svg", "page/style.css", "page/theme.js", "page/app.js"}
    for name in TYPES:
        text = http.get(f"/page/{name}").text
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in TYPES
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text), name
        addresses = set(re.findall(r"https?://[\w.]+", text.replace("http://www.w3.org/2000/svg", "")))
        assert addresses == set(), (name, addresses)


def test_every_file_of_the_folder_is_sent_and_no_other(http):
    stored = {file.name for file in files("hyla.server.page").iterdir() if not file.name.startswith("__")}
    assert stored == set(TYPES)
    for path in ("/page/absent.js", "/page/__init__.py", "/page/..%2Fapp.py", "/page/%2e%2e/app.py", "/page/"):
        assert http.get(path).status_code == 404
    assert "no such file" in http.get("/page/absent.js").json()["error"]["message"]


def test_a_file_that_a_browser_has_is_not_sent_again(http):
    first = http.get("/page/app.js")
    again = http.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b"" and "content-security-policy" in again.headers
    assert http.get("/page/app.js", headers={"If-None-Match": '"old"'}).status_code == 200


def test_the_page_needs_no_key_and_what_it_asks_for_does():
    from conftest import Live, make_engine

    from hyla.server.app import single_app

    app = single_app(make_engine(), model_name="tiny", api_key="sesame")
    with Live(app) as live, httpx.Client(base_url=live.url, timeout=60) as http:
        assert http.get("/", headers=HTML).status_code == http.get("/page/app.js").status_code == 200
        assert http.get("/engine/status").status_code == http.get("/v1/models").status_code == 401
        known = http.get("/engine/status", headers={"Authorization": "Bearer sesame"})
        assert known.status_code == 200 and known.json()["models"]["tiny"]["state"] == "running"
