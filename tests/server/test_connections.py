"""Connections: bodies that nobody reads, too many of them, and HTTP that is none."""

import http.client
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time

import h11
import httpx
import pytest
from conftest import Live, make_engine, wait_until
from tiny_model import save_tiny_folder

from hyla.server import single_app
from hyla.server.guard import connections
from hyla.server.guard.strict_http import StrictConnection
from hyla.server.listening import DrainingServer

STATUS_LINE = re.compile(rb"HTTP/1\.1 \d\d\d")
HEAD = "Host: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def keyed():
    """Every route needs a key, and no body may be large."""
    with Live(single_app(make_engine(), model_name="tiny", api_key="key", max_body_bytes=2000)) as live:
        yield live


@pytest.fixture
def short_linger(monkeypatch):
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.3)


def connect(live):
    return socket.create_connection(live.socket.getsockname(), timeout=20)


def rest_of(raw):
    """What comes until the server ends the connection."""
    found = b""
    while True:
        try:
            piece = raw.recv(65536)
        except ConnectionError:
            return found
        if not piece:
            return found
        found += piece


def error_in(answer):
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


EARLY = [
    ("POST", "/v1/completions", "", 401),
    ("POST", "/v1/nothing", "", 404),
    ("PUT", "/v1/completions", "", 405),
    ("GET", "/health", "", 200),
    ("GET", "/v1/models", "Authorization: Bearer key\r\n", 200),
    ("DELETE", "/v1/responses/x", "Authorization: Bearer key\r\n", 404),
    ("POST", "/v1/completions", "Authorization: Bearer key\r\nOrigin: http://other\r\n", 403),
    ("POST", "/admin/pause", "Authorization: Bearer key\r\n", 403),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), EARLY)
@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_an_answer_before_the_body_ends_the_connection(keyed, short_linger, method, path, headers, status, framing):
    with connect(keyed) as raw:
        raw.sendall(f"{method} {path} HTTP/1.1\r\n{HEAD}{headers}{framing}\r\n\r\n".encode())
        with pytest.raises(ConnectionError):  # a trickle, which the server stops reading
            for _ in range(2000):
                raw.sendall(b"1\r\n \r\n" if framing.startswith("T") else b" ")
                time.sleep(0.01)
    with connect(keyed) as raw:
        raw.sendall(f"{method} {path} HTTP/1.1\r\n{HEAD}{headers}{framing}\r\n\r\n".encode())
        answer = rest_of(raw)
        assert answer.startswith(b"HTTP/1.1 %d" % status) and b"connection: close" in answer.lower()
    assert wait_until(lambda: not keyed.server.server_state.connections)


def test_who_sends_all_of_a_body_that_is_too_large_still_sees_why(keyed):
    head = f"POST /v1/completions HTTP/1.1\r\n{HEAD}Authorization: Bearer key\r\nContent-Length: 8000000\r\n\r\n"
    with connect(keyed) as raw:
        raw.sendall(head.encode() + b" " * 8_000_000)
        answer = rest_of(raw)
    assert answer.startswith(b"HTTP/1.1 413") and "2000 bytes" in error_in(answer)["message"]


def test_an_answer_after_the_body_keeps_the_connection(keyed):
    with connect(keyed) as raw:
        for _ in range(3):
            raw.sendall(f"POST /v1/nothing HTTP/1.1\r\n{HEAD}Content-Length: 2\r\n\r\n{{}}".encode())
            answer = http.client.HTTPResponse(raw)
            answer.begin()
            assert answer.status == 404 and not answer.will_close and answer.read()


def test_more_connections_than_the_limit_are_answered_with_503(caplog, monkeypatch):
    monkeypatch.setattr(connections, "MOST_TURNED_AWAY", 5)
    with Live(single_app(make_engine(), model_name="tiny", max_connections=3)) as live:
        held = [connect(live) for _ in range(3)]
        assert wait_until(lambda: len(live.server.server_state.connections) == 3)
        with caplog.at_level(logging.WARNING, "hyla"):
            for n in range(20):
                with connect(live) as raw:
                    raw.settimeout(5)
                    if n % 2:
                        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                    answer = rest_of(raw)
                    assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 5" in answer
                    assert error_in(answer)["code"] == "overloaded"
            silent = [connect(live) for _ in range(20)]  # which see their answer and stay: a few may
            assert wait_until(lambda: len(live.server.config.http_protocol_class._turned_away) <= 5)
        assert caplog.text.count("3 connections are open") == 1
        for raw in (*held, *silent):
            raw.close()
        assert wait_until(lambda: httpx.get(live.url + "/ready").status_code == 200)


def test_connections_that_cannot_be_taken_are_one_line_of_the_log(caplog):
    with Live(single_app(make_engine(), model_name="tiny")) as live, caplog.at_level(logging.ERROR):
        (loop,) = {server.get_loop() for server in live.server.servers}
        context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
        for _ in range(1000):
            loop.call_soon_threadsafe(loop.call_exception_handler, context)
        assert httpx.get(live.url + "/health").status_code == 200
    lines = [record.getMessage() for record in caplog.records if "Too many open files" in record.getMessage()]
    assert lines == ["cannot take connections: [Errno 24] Too many open files; trying again every second"]


BROKEN = {
    "both lengths": ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": ("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "a negative length": ("Content-Length: -5\r\n\r\n", 400),
    "a length of many digits": (f"Content-Length: {'9' * 400}\r\n\r\n", 400),
    "a space in a name": ("Content-Length : 5\r\n\r\nhello", 400),
    "a bare CR": ("X: a\rb\r\n\r\n", 400),
    "a NUL": ("X: a\0b\r\n\r\n", 400),
    "two hosts": ("Host: y\r\n\r\n", 400),
    "an encoding of another kind": ("Transfer-Encoding: gzip, chunked\r\n\r\n", 400),
    "very many lines": ("X: y\r\n" * 400 + "\r\n", 431),
    "a head without an end": ("X: " + "y" * 200_000, 431),
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
@pytest.mark.parametrize("broken", BROKEN)
def test_http_that_can_be_read_in_two_ways_is_refused_and_ends(keyed, short_linger, broken, path):
    lines, status = BROKEN[broken]
    with connect(keyed) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}".encode() + b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = rest_of(raw)
    assert answer.startswith(b"HTTP/1.1 %d" % status) and b"connection: close" in answer
    assert error_in(answer)["type"] == "invalid_request_error" and len(STATUS_LINE.findall(answer)) == 1


@pytest.mark.parametrize(
    "first", ["POST /v1/completions HTTP/3.0", "\x16\x03\x01", "GET /\x1b[31m HTTP/1.1", "G\0T / X"]
)
def test_a_first_line_of_something_else_is_refused_in_json(keyed, first):
    with connect(keyed) as raw:
        raw.sendall(f"{first}\r\nHost: x\r\n\r\n".encode())
        answer = rest_of(raw)
    assert answer.split()[1] == b"400" and error_in(answer)["message"] and b"\x1b" not in answer


@pytest.mark.parametrize(
    "chunk", ["fffffffffffffffffffff\r\n", "-5\r\nhello", "0x5\r\nhello", "5\r\nhelloXX", "5;" + "x" * 99_999]
)
def test_a_body_that_breaks_off_is_400_and_no_failure_of_the_server(keyed, short_linger, chunk, caplog):
    head = f"POST /v1/completions HTTP/1.1\r\n{HEAD}Authorization: Bearer key\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(keyed) as raw:
        raw.sendall(head.encode())
        time.sleep(0.05)
        raw.sendall(chunk.encode())
        answer = rest_of(raw)
    assert answer.split()[1] in (b"400", b"431") and error_in(answer)["message"]
    assert len(STATUS_LINE.findall(answer)) == 1 and not [own for own in caplog.records if own.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "target", ["http://other/health", "*", "/v1/models/%00", "/%ff", "/x?" + "a=b&" * 100, "//health"]
)
def test_odd_targets_are_answered(keyed, target):
    with connect(keyed) as raw:
        raw.sendall(f"GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
        answer = rest_of(raw)  # HTTP/1.0 always ends here
    assert answer.split()[1] in (b"401", b"404") and error_in(answer)["message"]


class Panic(BaseException):
    """As a library in Rust raises it."""


def test_a_panic_of_a_library_is_a_failure_in_the_api_s_form(monkeypatch):
    with Live(single_app(make_engine(), model_name="tiny")) as live:

        def panic(*given, **more):
            raise Panic("index out of bounds")

        monkeypatch.setattr(live.served.tokenizer, "encode", panic)
        answer = httpx.post(live.url + "/v1/completions", json={"model": "tiny", "prompt": "abc"})
        assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
        answer = httpx.post(live.url + "/v1/completions", json={"model": "tiny", "prompt": [1, 2], "max_tokens": 1})
        assert answer.status_code == 200


def test_what_is_given_up_at_the_end_is_told_in_the_api_s_form(monkeypatch):
    """Answers that are not done in time are ended by their cancellation."""
    with Live(single_app(make_engine(), model_name="tiny", drain_seconds=1)) as live:
        live.served.worker.pause("keep").result(60)
        with connect(live) as raw:
            body = json.dumps({"model": "tiny", "prompt": [1, 2], "max_tokens": 4})
            raw.sendall(f"POST /v1/completions HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            assert wait_until(lambda: live.served.worker.num_requests == 1)
            live.server.should_exit = True
            answer = rest_of(raw)
    assert answer.startswith(b"HTTP/1.1 503") and error_in(answer)["code"] == "overloaded"


def test_the_server_knows_how_many_connections_it_can_hold(monkeypatch, caplog):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (200, 4096))
    server = DrainingServer(single_app(make_engine(), model_name="tiny"))
    assert server.config.http.limits.max_connections == 72
    assert "lowered to 72: this process may open 200 files" in caplog.text


@pytest.mark.slow
def test_three_hundred_trickling_bodies_leave_a_small_server_alive(tmp_path):
    """With few descriptors, as on a small machine: all of them are answered, and the log stays short."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder, log = save_tiny_folder(tmp_path / "model"), tmp_path / "log"
    command = f"ulimit -n 200; exec {sys.executable} -m hyla.cli serve tiny={folder} --port {port}"
    source = os.pathsep.join(path for path in sys.path if path)
    with open(log, "wb") as out:
        server = subprocess.Popen(["bash", "-c", command], env=os.environ | {"PYTHONPATH": source}, stderr=out)
    url, trickles = f"http://127.0.0.1:{port}", []
    try:
        assert wait_until(lambda: "ready" in answer_of(url + "/ready"), 120)
        for _ in range(300):
            raw = socket.create_connection(("127.0.0.1", port))
            raw.sendall(f"POST /v1/nothing HTTP/1.1\r\n{HEAD}Content-Length: 1000000\r\n\r\n".encode())
            trickles.append(raw)
        assert wait_until(lambda: not any([goes_on(raw) for raw in trickles]), 60)
        assert "ready" in answer_of(url + "/ready")
        assert log.read_text().count("\n") < 1000
    finally:
        server.kill()
        server.wait()
        for raw in trickles:
            raw.close()


def answer_of(url):
    try:
        return httpx.get(url, timeout=5).text
    except httpx.TransportError:
        return ""


def goes_on(raw):
    try:
        raw.sendall(b" ")
        return True
    except OSError:
        return False


@pytest.mark.parametrize(("size", "is_refused"), [(1, True), (30, True), (64, False), (500, False)])
def test_a_body_in_very_many_small_chunks_is_refused(size, is_refused):
    """Each takes the server as long as thousands of bytes."""
    chunk, last = b"%x\r\n%s\r\n" % (size, b" " * size), b"0\r\n\r\n"

    def ask(connection, chunks):
        connection.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            pass

    ask(StrictConnection(h11.SERVER), chunk * 4000 + last)
    if is_refused:
        with pytest.raises(h11.RemoteProtocolError, match="very many small chunks"):
            ask(StrictConnection(h11.SERVER), chunk * 10_000 + last)
    else:
        ask(StrictConnection(h11.SERVER), chunk * 10_000 + last)


@pytest.mark.parametrize("broken", ["both lengths", "a bare CR", "very many lines"])
def test_connections_that_were_refused_do_not_keep_the_server_from_ending(broken):
    live = Live(single_app(make_engine(), model_name="tiny"))
    with live, connect(live) as raw:
        raw.sendall(f"POST /x HTTP/1.1\r\nHost: x\r\n{BROKEN[broken][0]}".encode())
        assert raw.recv(2000).startswith(b"HTTP/1.1 4")
        assert live.server.server_state.connections
        live.server.should_exit = True
        live.thread.join(60)
        assert not live.thread.is_alive() and not live.served.worker.is_alive
