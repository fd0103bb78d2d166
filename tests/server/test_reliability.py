"""Slow clients, large heads, browsers of other origins, and the end of a server under load."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import Live, make_engine, wait_until
from tiny_model import save_tiny_folder

from hyla.server import create_app, serve_model, single_app
from hyla.server.guard.connections import BoundedConnection
from hyla.server.guard.limits import Limits

LONG = {"model": "tiny", "prompt": "abc", "max_tokens": 200, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def strict():
    """Short patience with whoever sends nothing."""
    limits = {"header_seconds": 0.3, "body_seconds": 0.3, "read_seconds": 0.5, "max_header_bytes": 4096}
    with Live(single_app(make_engine(), model_name="tiny", **limits)) as live:
        yield live


@pytest.fixture(scope="module")
def patient():
    """The usual patience: a request may take a while on a busy machine."""
    with Live(single_app(make_engine(), model_name="tiny", max_header_bytes=4096)) as live:
        yield live


def connect(live):
    return socket.create_connection(live.socket.getsockname(), timeout=20)


def test_small_writes_do_not_wait_for_acknowledgements(patient, monkeypatch):
    """A head and its body are two writes, and so is every event of a stream."""
    found, made = [], BoundedConnection.connection_made

    def look(connection, transport):
        found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        made(connection, transport)

    monkeypatch.setattr(BoundedConnection, "connection_made", look)
    assert httpx.get(patient.url + "/ready").status_code == 200
    assert found and all(found)


def test_a_head_that_does_not_arrive_closes_the_connection(strict):
    with connect(strict) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        assert raw.recv(100) == b""
    with connect(strict) as silent:
        assert silent.recv(100) == b""


def test_a_second_head_on_a_connection_is_watched_too(strict):
    with connect(strict) as raw:
        raw.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(2000).startswith(b"HTTP/1.1 200")
        raw.sendall(b"GET /ready")
        raw.settimeout(5)
        while raw.recv(2000):
            pass


def test_a_body_that_does_not_arrive_is_408(strict):
    with connect(strict) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert raw.recv(2000).startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_in_its_body_is_no_failure_of_the_server(strict, caplog):
    with connect(strict) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        time.sleep(0.05)
    assert httpx.get(strict.url + "/ready", timeout=20).status_code == 200
    assert "failed" not in caplog.text


def test_a_head_that_is_too_large_is_refused(patient):
    with connect(patient) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000 + b"\r\n\r\n")
        assert raw.recv(2000).startswith(b"HTTP/1.1 431")
    with connect(patient) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nX: " + b"y" * 10_000)
        assert raw.recv(2000).startswith(b"HTTP/1.1 431")


def test_a_client_that_does_not_read_is_cut_off(strict):
    body = json.dumps(LONG | {"n": 8, "logprobs": 20}).encode()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect(strict.socket.getsockname())
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        started = time.monotonic()
        assert wait_until(lambda: strict.served.worker.num_requests > 0)
        assert wait_until(lambda: strict.served.worker.num_requests == 0)
        assert wait_until(lambda: not strict.service.running)
    assert strict.engine.cache.ledger.pages.used == 0
    assert time.monotonic() - started < 25


def test_five_hundred_streams_wait_while_the_server_answers_others():
    body = json.dumps({"model": "tiny", "prompt": [1, 2], "max_tokens": 1, "stream": True}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    app = single_app(make_engine(max_num_sequences=64), model_name="tiny", max_requests=500)
    with Live(app) as live, contextlib.ExitStack() as stack:
        release = threading.Event()
        stack.callback(release.set)
        live.served.worker.call(lambda: release.wait(60))
        waiting = [stack.enter_context(connect(live)) for _ in range(500)]
        for raw in waiting:
            raw.sendall(request + body)
        assert wait_until(lambda: live.served.worker.num_requests == 500)
        assert httpx.get(live.url + "/health", timeout=10).json()["requests"] == 500
        full = httpx.post(live.url + "/v1/completions", content=body, timeout=10)
        assert full.status_code == 503 and full.headers["retry-after"]
        release.set()
        for raw in waiting:
            with raw.makefile("rb") as answer:
                assert answer.read().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert wait_until(lambda: not live.service.running)


def test_other_origins_are_let_in_only_when_named(patient):
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    refused = httpx.options(patient.url + "/v1/completions", headers=asks)
    assert refused.status_code == 405 and "access-control-allow-origin" not in refused.headers
    app = create_app([serve_model(make_engine(), "tiny", limits=Limits())], cors_origins=["https://page.example"])
    with Live(app) as live:
        allowed = httpx.options(live.url + "/v1/completions", headers=asks)
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        other = httpx.options(live.url + "/v1/completions", headers=asks | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("path", ["/v1/models/../health", "/v1/models/%2e%2e", "//v1/models", "/v1/models/a%0d%0aX: y"])
def test_paths_that_try_tricks_are_not_found(patient, path):
    with connect(patient) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".replace(" y ", "y ").encode())
        assert raw.recv(2000).split()[1] in (b"404", b"400", b"401")


def test_a_template_s_own_syntax_in_a_message_is_text(scripted_live, script):
    script.reply = "x"
    text = "{{ 7 * 7 }}{% for m in messages %}{% endfor %}"
    ask = {"model": "scripted", "messages": [{"role": "user", "content": text}]}
    done = httpx.post(scripted_live.url + "/v1/chat/completions", json=ask, headers={"x-api-key": "alice"}, timeout=60)
    assert done.status_code == 200 and text in script.prompts[0]


def address_in(line):
    """The address that `hyla serve` names once it answers."""
    said, _, rest = line.partition("serving tiny at ")
    assert rest, said
    return rest.split()[0]


@contextlib.contextmanager
def served(folder, *more):
    """`hyla serve` in a process of its own, and a client of it."""
    command = [sys.executable, "-m", "hyla.cli", "serve", f"tiny={folder}", "--port", "0", *more]
    source = os.pathsep.join(path for path in sys.path if path)
    server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": source}, stdout=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=address_in(server.stdout.readline()), timeout=60) as http:
            yield server, http
    finally:
        server.kill()
        server.stdout.close()
        server.wait()


def told(lines):
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def is_gone(http):
    """Whether nobody answers; until the server looks at its signals it may do so once more."""
    try:
        http.get("/health", timeout=5)
    except httpx.TransportError:
        return True
    return False


def test_sigterm_finishes_what_runs_and_takes_nothing_new(tmp_path):
    with served(save_tiny_folder(tmp_path / "model")) as (server, http):
        with http.stream("POST", "/v1/completions", json=LONG) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""] or rest[-1] == "data: [DONE]"
        assert told(rest)[-1]["choices"][0]["finish_reason"] == "length"
        assert wait_until(lambda: is_gone(http))
        assert server.wait(30) in (0, -signal.SIGTERM)


def test_a_killed_engine_ends_its_requests_clearly_and_the_server_goes_on(tmp_path):
    long = LONG | {"max_tokens": 450}
    with served(save_tiny_folder(tmp_path / "model")) as (_, http), ThreadPoolExecutor() as pool:
        status = http.get("/engine/status").json()["models"]["tiny"]
        with http.stream("POST", "/v1/completions", json=long) as stream:
            lines = stream.iter_lines()
            next(lines)
            whole = pool.submit(http.post, "/v1/completions", json=long | {"stream": False})
            # Both are the engine's: one that is still on its way when the engine dies was never taken by it.
            assert wait_until(lambda: http.get("/engine/status").json()["models"]["tiny"]["running"] == 2)
            os.kill(status["worker"]["pid"], signal.SIGKILL)
            rest = list(lines)
        error = told(rest)[-1]["error"]
        assert error["code"] == "engine_restarted" and "killed by signal 9 (SIGKILL" in error["message"]
        lost = whole.result()
        assert lost.status_code == 503 and lost.json()["error"] == error and int(lost.headers["retry-after"]) >= 1
        away = http.get("/ready"), http.post("/v1/completions", json=long)
        assert all(answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1 for answer in away)
        assert http.get("/health").json()["state"] == "starting"
        assert wait_until(lambda: http.get("/ready").status_code == 200)
        done = http.post("/v1/completions", json=LONG | {"stream": False})
        assert done.json()["choices"][0]["finish_reason"] == "length"
        assert 'hyla_engine_restarts_total{model="tiny"} 1.0' in http.get("/metrics").text


def test_the_server_s_own_process_does_not_load_pytorch():
    loads = "import sys, hyla.cli.serve, hyla.cli.console, hyla.server.app, hyla.engine.hosting.process"
    code = f"{loads}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=True)


def test_a_stopped_engine_is_noticed_and_the_server_still_ends(tmp_path):
    """SIGSTOP: its process neither answers nor ends."""
    short = ("--engine-silence-seconds", "300", "--engine-stop-seconds", "2", "--drain-seconds", "2")
    with served(save_tiny_folder(tmp_path / "model"), *short) as (server, http):
        pid = http.get("/engine/status").json()["models"]["tiny"]["worker"]["pid"]
        with ThreadPoolExecutor(60) as pool:
            os.kill(pid, signal.SIGSTOP)
            waiting = [pool.submit(http.post, "/v1/completions", json=LONG | {"stream": False}) for _ in range(45)]
            assert wait_until(lambda: http.get("/ready", timeout=20).status_code == 503)
            refused = http.post("/v1/completions", json=LONG, timeout=20)
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
            assert "has said nothing for" in refused.json()["error"]["message"]
            health = http.get("/health", timeout=20)
            assert health.status_code == 200
            server.send_signal(signal.SIGTERM)
            lost = [answer.result(60) for answer in waiting]
            assert {answer.status_code for answer in lost} == {503}
            assert {answer.json()["error"]["code"] for answer in lost} == {"overloaded"}
        assert server.wait(60) in (0, -signal.SIGTERM)
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_output_that_cannot_be_written_wedges_nothing(tmp_path, full):
    folder = save_tiny_folder(tmp_path / "model")
    command = [sys.executable, "-m", "hyla.cli", "serve", f"tiny={folder}", "--port", "0"]
    source = os.pathsep.join(path for path in sys.path if path)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with open("/dev/full", "wb") as device:
        server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": source}, **(streams | {full: device}))
        try:
            if full == "stdout":
                _, told = server.communicate(timeout=60)
                assert server.returncode == 1 and b"No space left" in told and b"Traceback" not in told
            else:
                address = address_in(server.stdout.readline().decode())
                assert httpx.post(address + "/v1/nothing").status_code == 404
                server.send_signal(signal.SIGTERM)
                server.communicate(timeout=60)
        finally:
            server.kill()
            server.communicate()
