"""Pages of other sites in somebody's browser: by requests of theirs, and by a name that leads here."""

import httpx
import pytest
from conftest import make_engine
from live_server import Live

from hyla.server import Limits, ServeConfig, create_app, serve_model

ASK = {"prompt": "x", "max_tokens": 1}
MODELS = [{"name": "m", "folder": "nowhere"}]


@pytest.fixture(scope="module")
def guarded():
    models = [serve_model(make_engine(), "tiny", limits=Limits())]
    hosts = ["tiny.example"]
    with Live(create_app(models, cors_origins=["https://page.example"], allowed_hosts=hosts)) as live:
        yield live


def post(live, **headers):
    return httpx.post(live.url + "/v1/completions", json=ASK, headers=headers)


def test_a_page_of_another_site_starts_nothing(guarded):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://evil.example:8000"):
        answer = post(guarded, Origin=origin)
        assert answer.status_code == 403 and f"--cors-origin {origin}" in answer.json()["error"]["message"]
    plain = httpx.post(
        guarded.url + "/v1/completions", content='{"prompt": "x"}', headers={"Content-Type": "text/plain"}
    )
    assert plain.status_code == 415 and "send Content-Type: application/json" in plain.text
    assert httpx.delete(guarded.url + "/v1/responses/r", headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("origin", ["http://[", "http://]x", "http://[::1", "", "//", "http://a:b:c", "\xff"])
def test_an_origin_that_is_none_is_refused(guarded, origin):
    answer = httpx.post(guarded.url + "/v1/completions", json=ASK, headers={"Origin": origin.encode("latin-1")})
    assert answer.status_code == 403, answer.text


def test_its_own_page_named_ones_and_clients_without_a_page_are_served(guarded):
    assert post(guarded).is_success
    for origin in (guarded.url, "https://page.example", "https://tiny.example"):
        assert post(guarded, Origin=origin).is_success
    assert httpx.get(guarded.url + "/health", headers={"Origin": "https://evil.example"}).is_success
    for kind in ("application/json; charset=utf-8", "application/merge-patch+json"):
        assert post(guarded, **{"Content-Type": kind}).is_success


@pytest.mark.parametrize("path", ["/", "/v1/models", "/engine/status", "/health"])
def test_a_foreign_name_that_leads_here_shows_nothing(guarded, path):
    port = guarded.url.rpartition(":")[2]
    refused = httpx.get(guarded.url + path, headers={"Host": f"evil.example:{port}"})
    assert refused.status_code == 403 and "--allowed-host evil.example allows it" in refused.text
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "tiny.example", "TINY.example:443"):
        assert httpx.get(guarded.url + path, headers={"Host": host}).is_success


def test_hosts_are_checked_on_loopback_and_where_they_are_named():
    assert ServeConfig(models=MODELS).checked_hosts == ()
    assert ServeConfig(models=MODELS, host="::1").checked_hosts == ()
    assert ServeConfig(models=MODELS, host="0.0.0.0").checked_hosts is None
    assert ServeConfig(models=MODELS, host="0.0.0.0", allowed_hosts=["a.example"]).checked_hosts == ("a.example",)
