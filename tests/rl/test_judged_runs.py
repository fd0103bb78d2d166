"""`hyla rl` whose rewards come over HTTP from a judge: a real server that is busy now and then, or has no number."""

import json
import re

import pytest
from test_judge import serving
from tiny_rl import finished, lines_of, request_of, write_start

from hyla.rl.rewards import judge
from hyla.rl.samples import RoundFile

PROMPT = "Task {number}.\nAnswer: {answer}\nEnd with a number from 0 to 20."
SCALE = 20.0
NO_NUMBER, BUSY_FIRST = 2, 5
"""Tasks: about answers to the one nothing is said, and the server is busy when it is first asked about the other's."""


def virtues(answer: str) -> int:
    """What the judge thinks: a point for each different letter."""
    return min(len(set(answer)), 20)


class Opinions(dict):
    """By what the server is asked, what it does: see `test_judge.FakeServer`."""

    def __missing__(self, asked: str) -> list:
        task = int(re.match(r"Task (\d+)\.", asked).group(1))
        answer = asked.partition("Answer: ")[2].rpartition("\nEnd with")[0]
        said = "I would rather not say." if task == NO_NUMBER else f"It has 3 faults.\nPoints: {virtues(answer)}/20"
        self[asked] = [503, said] if task == BUSY_FIRST else [said]
        return self[asked]


def write_numbered_start(folder):
    """The tasks with their numbers, for the judge's prompt."""
    file = write_start(folder) / "tasks.jsonl"
    rows = [json.loads(line) | {"number": number} for number, line in enumerate(file.read_text().splitlines())]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def judged(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setenv("JUDGE_KEY", "k-1")
    with serving({}) as server:
        server.script, server.company = Opinions(), 2
        address = f"http://127.0.0.1:{server.server_port}/v1"
        table = {"base_url": address, "model": "m", "prompt": PROMPT, "scale": SCALE, "api_key_env": "JUDGE_KEY"}
        request = request_of(write_numbered_start(tmp_path), reward={"judge": table})
        run = finished(tmp_path / "run", request)
    return run, server


def test_a_run_is_rewarded_by_a_judge(judged):
    run, server = judged
    samples = [one for file in (run.folder / "rollouts").iterdir() for one in RoundFile(file).read().values()]
    assert len(samples) == 36
    for one in samples:
        if one.task == NO_NUMBER:
            assert one.reward is None and "no number" in one.problem
        else:
            assert one.reward == virtues(one.text) / SCALE and one.problem is None
    assert sum(line["left_out"] for line in lines_of(run.folder, "rounds")) == 3
    updates = lines_of(run.folder, "updates")
    assert sum(line["tokens"] for line in updates) == sum(len(s.token_ids) for s in samples if s.reward is not None)
    assert all(line["exact_ratios"] == 1.0 and line["loss"] != updates[0]["loss"] for line in updates[1:])
    asked = [body["messages"][0]["content"] for _, body in server.asked]
    busy = {text for text in asked if text.startswith(f"Task {BUSY_FIRST}.")}
    assert busy and len(asked) == len(samples) + len(busy), "once about each, and once more where it was busy"
    assert server.keys == {"Bearer k-1"} and server.most > 1
    assert json.loads((run.folder / "run.json").read_text())["request"]["rl"]["reward"]["judge"]["scale"] == SCALE
    assert "k-1" not in (run.folder / "run.json").read_text()
