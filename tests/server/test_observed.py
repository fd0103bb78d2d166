"""What can be seen of a server: metrics, live numbers, log lines, spans."""

import io
import json
import logging
import re
from pathlib import Path

import httpx
import pytest
from conftest import wait_until
from prometheus_client.parser import text_string_to_metric_families

from hyla.server.watch import logs

METRIC = re.compile(r"\bhyla_\w+")
GOOD = {"model": "tiny", "prompt": "abc", "max_tokens": 4, "ignore_eos": True}


def samples(http):
    """{(name, sorted labels): value} of /metrics."""
    answer = http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def grown(before, after, name, **labels):
    key = (name, *sorted({"model": "tiny", **labels}.items()))
    return after.get(key, 0) - before.get(key, 0)


def test_requests_and_their_tokens_are_counted_exactly(http):
    before = samples(http)
    prompt = "metrics " * 20
    for _ in range(2):
        http.post("/v1/completions", json=GOOD | {"prompt": prompt, "max_tokens": 5, "n": 2}).raise_for_status()
    after = samples(http)
    assert grown(before, after, "hyla_requests_total", outcome="length") == 4
    assert grown(before, after, "hyla_generated_tokens_total") == 20
    assert grown(before, after, "hyla_prompt_tokens_total") == 4 * len(prompt)
    assert grown(before, after, "hyla_time_to_first_token_seconds_count") == 4
    assert grown(before, after, "hyla_time_per_token_seconds_count") == 16
    assert grown(before, after, "hyla_request_seconds_count") == 4
    assert grown(before, after, "hyla_cached_tokens_total") >= 2 * 128
    assert grown(before, after, "hyla_cache_misses_total", reason="no_prefix") >= 1
    first, whole = (grown(before, after, f"hyla_{name}_seconds_sum") for name in ("time_to_first_token", "request"))
    assert 0 < first < whole


def test_the_engine_s_own_numbers_are_told_when_asked(http, live):
    http.post("/v1/completions", json=GOOD)
    found = samples(http)
    status = http.get("/engine/status").json()["models"]["tiny"]
    assert found["hyla_steps_total", ("model", "tiny")] == status["steps"] > 0
    for unit, counts in live.engine.cache.ledger.counts().items():
        told = {
            s: found["hyla_cache_units", ("model", "tiny"), ("state", s), ("unit", unit)]
            for s in counts
            if s != "total"
        }
        assert sum(told.values()) == counts["total"]
    assert found["hyla_engine_state", ("model", "tiny"), ("state", "running")] == 1
    assert found["hyla_running", ("model", "tiny")] == found["hyla_unfinished_requests", ("model", "tiny")] == 0
    for name in ("hyla_preemptions_total", "hyla_cache_bytes", "hyla_weights_version"):
        assert (name, ("model", "tiny")) in found
    assert status["generated_tokens_per_second"] > 0 and status["context_len"] == 512


def test_http_answers_are_counted_by_route_and_no_client_makes_up_a_label(http):
    before = samples(http)
    http.post("/v1/completions", json=GOOD)
    http.post("/v1/completions", json=GOOD | {"temperature": -1})
    http.get("/v1/made/up")
    http.request("BREW", "/v1/models")
    found = {
        key: value - before.get(key, 0) for key, value in samples(http).items() if key[0] == "hyla_http_requests_total"
    }
    told = {tuple(value for _, value in key[1:]): grown for key, grown in found.items() if grown}
    assert told["POST", "/v1/completions", "200"] == told["POST", "/v1/completions", "400"] == 1
    assert told["GET", "other", "404"] == 1
    assert "made" not in str(told) and "BREW" not in str(told) and told["other", "/v1/models", "405"] == 1


def test_a_broken_engine_is_counted_as_an_error(http, live, monkeypatch):
    def fail(*args):
        raise RuntimeError("broken operator")

    before = samples(http)
    monkeypatch.setattr("hyla.models.recording.StepForward.__call__", fail)
    assert http.post("/v1/completions", json=GOOD).status_code == 500
    after = samples(http)
    assert grown(before, after, "hyla_requests_total", outcome="error") == 1


@pytest.fixture
def log():
    """What the server logs as JSON, as it goes."""
    names = ("hyla", "uvicorn")
    kept = [
        (logging.getLogger(name).handlers, logging.getLogger(name).propagate, logging.getLogger(name).level)
        for name in names
    ]
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    yield stream
    for name, (handlers, propagate, level) in zip(names, kept):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines_of(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_request_is_one_json_line_with_its_ids(http, log):
    answer = http.post("/v1/completions", json=GOOD, headers={"X-Request-Id": "mine-7"})
    assert wait_until(lambda: "/v1/completions" in log.getvalue())
    (line,) = [line for line in lines_of(log) if line.get("path") == "/v1/completions"]
    assert line["request_id"] == answer.headers["x-request-id"] and line["client_request_id"] == "mine-7"
    assert (line["method"], line["status"], line["level"]) == ("POST", 200, "info")
    assert 0 < line["first_byte_seconds"] <= line["seconds"] and line["sent_bytes"] == len(answer.content)
    http.get("/health")
    http.get("/metrics")
    http.get("/v1/models")
    assert wait_until(lambda: "/v1/models" in log.getvalue())
    assert not {"/health", "/metrics"} & {line.get("path") for line in lines_of(log)}


def test_a_client_cannot_forge_a_line_or_an_id(http, log):
    answer = http.get('/v1/models/x%0a{"level":"error"}', headers={"X-Request-Id": "a b\tc" * 40})
    assert answer.status_code == 404 and answer.headers["x-request-id"].startswith("req-")
    assert wait_until(lambda: "404" in log.getvalue())
    (line,) = lines_of(log)
    assert line["level"] == "info" and "client_request_id" not in line and line["path"].endswith('x\n{"level":"error"}')


def test_text_lines_stay_single_lines():
    record = logging.LogRecord("hyla.request", logging.INFO, "", 0, "GET %s", ("/a\nERROR forged",), None)
    assert logs.TextFormatter().format(record).count("\n") == 0


def test_spans_carry_the_route_the_status_and_the_caller_s_trace():
    from contextlib import contextmanager

    from hyla.server.watch.metrics import Metrics
    from hyla.server.watch.observed import Observed

    seen = []

    class Recorder:
        """Stands in for `Traces`."""

        @contextmanager
        def span(self, name, headers):
            seen.append((name, headers.get("traceparent")))
            yield self

        def finish(self, fields):
            seen.append(fields)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"busy"})

    transport = httpx.ASGITransport(Observed(app, Metrics({}), Recorder()))

    async def visit():
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/x", headers={"traceparent": "00-1-2-01"})

    import asyncio

    answer = asyncio.run(visit())
    assert seen[0] == ("POST", "00-1-2-01")
    assert seen[1]["http.response.status_code"] == 503 and seen[1]["http.response.body.size"] == 4
    assert seen[1]["hyla.request_id"] == answer.headers["x-request-id"]


def test_a_span_of_the_real_library_stands_in_the_caller_s_trace():
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from hyla.server.watch.traces import Traces

    kept = InMemorySpanExporter()
    traces = Traces(exporter=kept)
    with traces.span("POST", {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}) as span:
        span.finish({"http.route": "/v1/completions", "http.response.status_code": 500, "absent": None})
    traces.close()
    (span,) = kept.get_finished_spans()
    assert f"{span.context.trace_id:x}" == "a" * 32 and f"{span.parent.span_id:x}" == "b" * 16
    assert dict(span.attributes) == {"http.route": "/v1/completions", "http.response.status_code": 500}
    assert not span.status.is_ok and span.resource.attributes["service.name"] == "hyla"


DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json"


def test_the_dashboard_asks_for_every_metric_and_for_no_other(http):
    http.post("/v1/completions", json=GOOD)  # too short to be cached, so that a miss is told
    board = json.loads(DASHBOARD.read_text())
    asked = {
        name for panel in board["panels"] for own in panel.get("targets", []) for name in METRIC.findall(own["expr"])
    }
    told = {key[0] for key in samples(http) if not key[0].endswith(("_created", "_sum", "_count"))}
    assert asked == told


def test_traces_without_the_extra_name_it(monkeypatch):
    import sys

    from hyla.errors import ConfigError
    from hyla.server.watch.traces import Traces

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'hyla\[otel\]'"):
        Traces("http://127.0.0.1:4318/v1/traces")
