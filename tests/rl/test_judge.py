"""A judge may refuse, hang, talk nonsense and be busy: each sample has a reward or a problem that names it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_template_process import wait_until

from hyla.errors import ConfigError
from hyla.rl.rewards import Judgement, RewardConfig, Rewards, judge
from hyla.rl.rewards.judge import points

IN_VAIN_SECONDS = 20


class FakeServer(ThreadingHTTPServer):
    """script: for each text that it is asked, what it does, attempt by attempt; the last again and again. A text is the
    judge's answer, a number a status, bytes a whole body, "hang" and "drip" never end. `company`: how many requests
    must have been here at once before the first is answered (or for whom it has waited in vain)."""

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = {text: list(actions) for text, actions in script.items()}
        self.asked, self.keys, self.now, self.most = [], set(), 0, 0
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.company, self.in_company = 1, threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *_):
        """Quiet."""

    def do_POST(self):
        self.is_counted = False
        self.count(True)
        try:
            self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        except OSError:
            pass  # the judge has had enough
        finally:
            self.count(False)

    def count(self, is_here):
        """How many requests are here at once; one whose answer is sent is not."""
        with self.server.lock:
            self.server.now += is_here - self.is_counted
            self.server.most = max(self.server.most, self.server.now)
            if self.server.most >= self.server.company:
                self.server.in_company.set()
        self.is_counted = is_here

    def answer(self, body):
        if not self.server.in_company.wait(IN_VAIN_SECONDS):
            self.server.in_company.set()
        with self.server.lock:
            self.server.asked.append((self.path, body))
            self.server.keys.add(self.headers["authorization"])
            actions = self.server.script[body["messages"][0]["content"]]
            action = actions.pop(0) if len(actions) > 1 else actions[0]
        if action == "hang":
            self.server.stop.wait(60)
        elif action == "drip":
            self.send_response(200)
            self.end_headers()
            while not self.server.stop.wait(0.05):
                self.wfile.write(b" ")
        elif action == "cut":
            self.close_connection = True
        elif isinstance(action, int):
            self.reply(action, json.dumps({"error": {"message": f"told\n{action}"}}).encode())
        elif isinstance(action, bytes):
            self.reply(200, action)
        else:
            self.reply(200, json.dumps({"choices": [{"message": {"content": action}}]}).encode())

    def reply(self, status, data):
        self.count(False)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0.2")
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(script):
    server = FakeServer(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(judge, "FIRST_WAIT_SECONDS", 0.01)


def rewards_of(address, items, **fields):
    fields = {"base_url": address, "model": "m", "prompt": "{answer}", "timeout_seconds": 30.0, "attempts": 3, **fields}
    with Rewards(RewardConfig(judge=fields)) as rewards:
        return rewards.of(items)


def judged_by(script, **fields):
    """The judgement of each text of a script, in one call, and the server."""
    with serving(script) as server:
        address = f"http://127.0.0.1:{server.server_port}/v1"
        return rewards_of(address, [(text, {}) for text in script], **fields), server


def test_points_over_the_scale_are_rewards_in_the_order_of_the_samples():
    found, server = judged_by({f"a{n}": [f"The answer is fine. {n}"] for n in range(11)})
    assert found == [Judgement(n / 10, None) for n in range(11)]
    path, body = server.asked[0]
    assert path == "/v1/chat/completions" and body["temperature"] == 0 and body["model"] == "m"
    assert server.keys == {None}


def test_a_judge_that_is_busy_fails_or_hangs_up_is_asked_again():
    found, server = judged_by({"a": [429, "5"], "b": [500, 503, "6"], "c": ["cut", "7"], "d": [408, "8"]})
    assert [one.reward for one in found] == [0.5, 0.6, 0.7, 0.8]
    assert len(server.asked) == 9


def test_the_wait_before_another_attempt_doubles_and_is_at_least_what_the_server_says(monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr(judge, "pause", sleep)
    judged_by({"a": [503, 503, 503, 429, 429, "1"]}, attempts=6)
    assert waits == [0.01, 0.02, 0.04, 0.2, 0.2]


@pytest.mark.parametrize(
    "action, num_asked, problem",
    [
        (429, 3, "the judge answered with status 429: told 429 (3 attempts)"),
        (500, 3, "the judge answered with status 500: told 500 (3 attempts)"),
        (401, 1, "the judge answered with status 401: told 401"),
        (404, 1, "the judge answered with status 404: told 404"),
        (b"<html>", 1, "the judge does not answer as OpenAI's API does"),
        (b'{"choices": []}', 1, "the judge does not answer as OpenAI's API does"),
        (b"[" * 100_000, 1, "the judge does not answer as OpenAI's API does"),
        (b'{"choices": [{"message": {"content": null}}]}', 1, "the judge answered without a text; let it write more"),
        ("I like it.", 1, "the judge gave no number: 'I like it.'"),
        ("", 1, "the judge gave no number: ''"),
        ("11", 1, "the judge gave 11, which is not within 0 and 10"),
        ("-1", 1, "the judge gave -1, which is not within 0 and 10"),
        ("9" * 400, 1, "the judge gave inf, which is not within 0 and 10"),
    ],
)
def test_what_goes_wrong_is_named_and_the_other_samples_are_judged(action, num_asked, problem):
    found, server = judged_by({"x": [action], "y": ["4"]})
    assert found[0].reward is None and found[0].problem.startswith(problem)
    assert found[1] == Judgement(0.4, None)
    assert len(server.asked) == num_asked + 1


@pytest.mark.parametrize("action", ["hang", "drip"])
def test_a_judge_that_does_not_end_is_left_after_its_time(action):
    with serving({"x": [action]}) as server:
        address = f"http://127.0.0.1:{server.server_port}/v1"
        found = rewards_of(address, [("x", {})], timeout_seconds=2.0, attempts=2)
        assert wait_until(lambda: len(server.asked) == 2)  # it may read later what was sent in time
    assert found == [Judgement(None, "the judge did not answer within 2 s (2 attempts)")]


def test_a_judge_that_is_silent_once_is_asked_again():
    found, _ = judged_by({"x": ["hang", "3"]}, timeout_seconds=2.0)
    assert found == [Judgement(0.3, None)]


def test_too_long_an_answer_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(judge, "MOST_ANSWER_BYTES", 1000)
    found, _ = judged_by({"x": ["7 " * 1000]})
    assert found == [Judgement(None, "the judge answered with more than 1,000 bytes")]


def test_a_server_that_is_not_there_is_named():
    with serving({}) as server:
        address = f"http://127.0.0.1:{server.server_port}/v1"
    (found,) = rewards_of(address, [("x", {})], attempts=2)
    assert found.problem.startswith("the judge cannot be reached: ") and found.problem.endswith("(2 attempts)")


def test_no_more_samples_than_allowed_are_asked_about_at_once():
    script = {f"a{n}": ["1"] for n in range(12)}
    found, server = judged_by(script, concurrency=2)
    assert len(found) == 12 and server.most <= 2


def test_several_samples_are_asked_about_at_once():
    with serving({"a": ["hang"], "b": ["hang"]}) as server:
        address = f"http://127.0.0.1:{server.server_port}/v1"
        asking = threading.Thread(target=rewards_of, args=(address, [("a", {}), ("b", {})]), daemon=True)
        asking.start()
        assert wait_until(lambda: server.now == 2)
        server.stop.set()
        asking.join()


def test_the_prompt_shows_the_answer_the_task_and_fields_of_its_row():
    text = "Q: {prompt}\nA: {answer}\nRight: {solution} {{0-10}}"
    with serving(
        {"Q: 1 + 1 {x}\nA: {2}\nRight: [2] {0-10}": ["10/10"], "Q: user: hi\nA: \udc80\nRight: 3 {0-10}": ["1"]}
    ) as server:
        found = rewards_of(
            f"http://127.0.0.1:{server.server_port}/v1/",
            [
                ("{2}", {"prompt": "1 + 1 {x}", "solution": [2], "more": 1}),
                ("\udc80", {"messages": [{"role": "user", "content": "hi"}], "solution": 3}),
                ("2", {"prompt": "1 + 1"}),
            ],
            prompt=text,
        )
    assert found == [
        Judgement(1.0, None),
        Judgement(0.1, None),
        Judgement(None, "the judge is to be shown {solution}, which the row does not have"),
    ]


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(
        ConfigError, match=r"reward.judge.api_key_env = 'JUDGE_KEY': this variable holds no key; export"
    ):
        judged_by({"x": ["1"]}, api_key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    _, server = judged_by({"x": ["1"]}, api_key_env="JUDGE_KEY")
    assert server.keys == {"Bearer secret"}


@pytest.mark.parametrize(
    "text, scale, reward",
    [
        ("7", 10, 0.7),
        ("First 3, then better: **8**.", 10, 0.8),
        ("Score: 8/10", 10, 0.8),
        ("Score: 8 / 10.0", 10, 0.8),
        ("8 out of 10.", 10, 0.8),
        ("8/100", 100, 0.08),
        ("3/4 of it is right: 7.5", 10, 0.75),
        ("between 7-8", 10, 0.8),
        (".5", 1, 0.5),
        ("5e-1", 1, 0.5),
        ("1 of 10", 10, 1.0),
        ("4/5", 5, 0.8),
        ("٣ then 2", 10, 0.2),
    ],
)
def test_the_last_number_counts(text, scale, reward):
    assert points(text, float(scale)) == Judgement(reward, None)


def test_a_judge_can_be_shown_the_whole_conversation():
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "name": "add", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]
    text = 'user: 1 + 1?\n\nassistant: Let me see.\ncalls add({"a": 1})\n\ntool: 2\n\nassistant: 2'
    with serving({text: ["9"], "user: x\n\nassistant: y": ["3"]}) as server:
        address = f"http://127.0.0.1:{server.server_port}/v1"
        fields = {"base_url": address, "model": "m", "prompt": "{conversation}"}
        with Rewards(RewardConfig(judge=fields)) as rewards:
            assert rewards.of([("2", {})], [messages]) == [Judgement(0.9, None)]
            # What a row calls so is not shown.
            assert rewards.of([("y", {"prompt": "x", "conversation": "z"})]) == [Judgement(0.3, None)]
