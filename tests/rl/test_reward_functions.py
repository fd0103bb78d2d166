"""A reward function may hang, crash, lie and print: a sample has a reward or a problem, and the next one is judged."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_template_process import is_there, wait_until

from hyla.errors import ConfigError
from hyla.rl.rewards import Judgement, RewardConfig, Rewards
from hyla.rl.rewards.judgement import failed

FILE = '''
import ctypes, decimal, os, signal, subprocess, sys, threading, time
from beside import FACTOR

def reward(answer, row):
    """Does what the row says, then counts the answer's characters."""
    value = None
    if "do" in row:
        exec(row["do"])
    if "give" in row:
        return eval(row["give"], {**globals(), "answer": answer})
    return FACTOR * len(answer)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("function")
    (folder / "beside.py").write_text("FACTOR = 0.5\n")
    (folder / "rewards.py").write_text(FILE)
    return folder / "rewards.py"


@pytest.fixture(scope="module")
def rewards(file):
    with Rewards(RewardConfig(function=f"{file}:reward", timeout_seconds=30.0)) as rewards:
        yield rewards


def caller(rewards):
    return rewards._by._callers[0]


def pid_of(rewards):
    (life,) = caller(rewards)._lives
    return life.process.pid


def test_samples_are_judged_in_order_by_one_process_that_is_not_this_one(rewards):
    found = rewards.of([("a" * n, {"n": n}) for n in range(5)])
    assert found == [Judgement(0.5 * n, None) for n in range(5)]
    (pid,) = {one.reward for one in rewards.of([("", {"give": "os.getpid()"})] * 3)}
    assert pid == pid_of(rewards) != os.getpid()


@pytest.mark.parametrize(
    "give, reward",
    [
        ("True", 1.0),
        ("3", 3.0),
        ("-0.1", -0.1),
        ("decimal.Decimal('0.5')", 0.5),
        ("type('Own', (), {'__float__': lambda self: 2.5})()", 2.5),
        ("len(answer) / 3", 1 / 3),
    ],
)
def test_numbers_of_every_kind_are_rewards(rewards, give, reward):
    assert rewards.of([("é", {"give": give})]) == [Judgement(reward, None)]


@pytest.mark.parametrize(
    "row, problem",
    [
        ({"do": "raise ValueError('no\\nanswer \\x1b[2J')"}, r"raised ValueError: no answer \x1b[2J (line 9)"),
        ({"do": "assert False"}, "raised AssertionError (line 9)"),
        ({"do": "sys.exit(3)"}, "raised SystemExit: 3 (line 9)"),
        ({"do": "raise KeyboardInterrupt"}, "raised KeyboardInterrupt (line 9)"),
        ({"do": "bytearray(1 << 40)"}, "raised MemoryError (line 9)"),
        ({"do": "raise type('Rude', (Exception,), {'__str__': lambda self: 1 / 0})"}, "raised Rude (line 9)"),
        ({"give": "1 / 0"}, "raised ZeroDivisionError: division by zero (line 11)"),
        ({"give": "float('nan')"}, "returned nan"),
        ({"give": "-float('inf')"}, "returned -inf"),
        ({"give": "1e40"}, "returned 1e+40; a reward is within 1e+30 of zero"),
        ({"give": "10 ** 5000"}, "returned a number beyond what a float holds"),
        ({"give": "'x'"}, "returned 'x', not a number"),
        ({"give": "None"}, "returned None, not a number"),
        ({"give": "1j"}, "returned 1j, not a number"),
        ({"give": "[10 ** 5000]"}, "returned a list, not a number"),
        ({"give": "('y' * (1 << 26),)"}, f"returned ('{'y' * 27}...{'y' * 28}',), not a number"),
    ],
)
def test_what_a_function_does_wrong_is_named_and_its_process_goes_on(rewards, row, problem):
    (before,) = rewards.of([("", {"give": "os.getpid()"})])
    wrong, after = rewards.of([("x", row), ("", {"give": "os.getpid()"})])
    assert wrong == Judgement(None, problem) and after == before


@pytest.mark.parametrize(
    "do, code",
    [
        ("os._exit(7)", 7),
        ("os._exit(0)", 0),
        ("ctypes.string_at(0)", -signal.SIGSEGV),
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.closerange(0, 99); os._exit(2)", 2),
    ],
)
def test_a_function_that_ends_its_process_is_named_and_the_next_sample_is_judged(rewards, do, code):
    assert rewards.of([("xx", {}), ("x", {"do": do}), ("xx", {})]) == [
        Judgement(1.0, None),
        Judgement(None, f"its process ended with {code}"),
        Judgement(1.0, None),
    ]


@pytest.mark.parametrize(
    "do",
    [
        "time.sleep(600)",
        "while True: pass",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGALRM, signal.SIG_IGN); time.sleep(600)",
        "threading.Lock().acquire() and threading.Event().wait()",
    ],
)
def test_a_function_that_hangs_is_ended(file, do):
    with Rewards(RewardConfig(function=f"{file}:reward", timeout_seconds=1.0)) as rewards:
        pid = pid_of(rewards)
        (judgement,) = rewards.of([("x", {"do": do})])
        assert judgement == Judgement(None, "took longer than 1 s") and not is_there(pid)
        caller(rewards)._seconds = 30.0  # the next one is about being judged, not about a busy machine
        assert rewards.of([("xx", {})]) == [Judgement(1.0, None)]


def test_what_a_function_that_hangs_has_started_ends_with_it(file):
    with Rewards(RewardConfig(function=f"{file}:reward", timeout_seconds=30.0)) as rewards:
        (started,) = rewards.of([("", {"give": "subprocess.Popen(['sleep', '600']).pid"})])
        child = int(started.reward)
        assert not is_gone(child)
        caller(rewards)._seconds = 1.0
        assert rewards.of([("x", {"do": "time.sleep(600)"})]) == [Judgement(None, "took longer than 1 s")]
        assert wait_until(lambda: is_gone(child))  # a signal takes its time


def is_gone(process):
    """Whether a process has ended; whoever has adopted it reaps it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    "do",
    [
        "print('x' * (1 << 22)); sys.stdout.flush()",
        "os.write(1, b'{}' * 4096); os.write(0, b'x')",
        "print('y' * (1 << 22), file=sys.stderr)",
        "sys.stdin.read()",
        "subprocess.run(['echo', 'z'], check=True)",
        "sys.stdout.close()",
        "threading.Thread(target=time.sleep, args=(600,)).start()",
        "os.fork()",
    ],
)
def test_what_a_function_prints_starts_or_leaves_behind_never_meets_the_answers(rewards, do):
    found = rewards.of([("x", {"do": do}), ("xxx", {}), ("", {"give": "4"})])
    assert found == [Judgement(0.5, None), Judgement(1.5, None), Judgement(4.0, None)]


def test_answers_and_rows_come_as_they_are(rewards):
    row = {"text": "é漢\ud800", "deep": [{"a": None}], "give": "float(answer == '\\ud800é\\n' and len(answer))"}
    assert rewards.of([("\ud800é\n", row)]) == [Judgement(3.0, None)]
    with pytest.raises(TypeError, match="not JSON serializable"):
        rewards.of([("x", {"set": {1}})])
    assert rewards.of([("xx", {})]) == [Judgement(1.0, None)]


def test_a_row_is_the_functions_own(rewards):
    row = {"do": "row['list'].append(1)", "list": []}
    rewards.of([("x", row)])
    assert row["list"] == []


def test_sets_have_the_same_order_in_every_process(file):
    give = "sum(n * ord(c) for n, c in enumerate({'a', 'b', 'c', 'd', 'e', 'f', 'g'}))"
    found = set()
    for _ in range(3):
        with Rewards(RewardConfig(function=f"{file}:reward")) as rewards:
            found.add(rewards.of([("", {"give": give})])[0].reward)
    assert len(found) == 1


def test_several_processes_judge_at_once_and_in_order(file, tmp_path):
    # Each waits for the other: one alone would wait until its time is over.
    do = "open(row['mine'], 'w').close()\nwhile not os.path.exists(row['other']): time.sleep(0.01)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    items = [("x", {"do": do, "mine": a, "other": b}), ("xx", {"do": do, "mine": b, "other": a})]
    items += [("x" * n, {}) for n in range(3, 20)]
    with Rewards(RewardConfig(function=f"{file}:reward", processes=2, timeout_seconds=60.0)) as rewards:
        assert rewards.of(items) == [Judgement(0.5 * n, None) for n in range(1, 20)]


def test_the_process_loads_no_torch_and_sees_no_keys(rewards, monkeypatch, file):
    monkeypatch.setenv("HYLA_API_KEY", "secret")
    with Rewards(RewardConfig(function=f"{file}:reward")) as rewards:
        place = Path(f"/proc/{pid_of(rewards)}")
        assert "torch" not in (place / "maps").read_text() and b"secret" not in (place / "environ").read_bytes()


def test_the_file_is_read_once(tmp_path):
    file = tmp_path / "r.py"
    file.write_text("import os\ndef reward(answer, row):\n    return 1.0 if answer else os._exit(1)\n")
    with Rewards(RewardConfig(function=f"{file}:reward")) as rewards:
        file.write_text("def reward(answer, row):\n    return 2.0\n")
        assert [one.reward for one in rewards.of([("", {}), ("x", {})])] == [None, 1.0]  # started again in between


def test_the_processes_end_with_their_user(file):
    with Rewards(RewardConfig(function=f"{file}:reward")) as rewards:
        pid = pid_of(rewards)
    assert not is_there(pid)
    assert rewards.of([("xx", {})]) == [Judgement(1.0, None)]
    pid = pid_of(rewards)
    del rewards
    assert not is_there(pid)


def test_a_function_that_hangs_ends_after_a_user_that_was_killed(file):
    # The function kills its user itself. Only its process minds the time; the user would wait for long.
    do = "os.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass"
    code = f"""
from hyla.rl.rewards import RewardConfig, Rewards
rewards = Rewards(RewardConfig(function={f"{file}:reward"!r}, timeout_seconds=1.0))
life = rewards._by._callers[0]._lives[0]
ask = life.ask
life.ask = lambda job, **limits: ask(job, **{{**limits, "seconds": 600.0}})
print(life.process.pid, flush=True)
rewards.of([("", {{"do": {do!r}}})])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
    assert parent.returncode == -signal.SIGKILL
    assert wait_until(lambda: is_gone(pid))


@pytest.mark.parametrize(
    "text, name, message",
    [
        ("def reward(answer, row:\n    pass\n", "reward", r"line 1 is no Python: .*; correct it"),
        ("import nothing_here\n", "reward", r"running the file raised ModuleNotFoundError: .*\(line 1\); correct it"),
        ("x = 1\n\ny = 1 / 0\n", "reward", r"raised ZeroDivisionError: division by zero \(line 3\); correct it"),
        ("def score(answer, row): return 0\n", "reward", "the file has no reward; its functions: score"),
        ("", "reward", "the file has no reward; its functions: none"),
        ("reward = 3\n", "reward", r"it is 3, no function; write it as def reward\(answer, row\)"),
        ("async def reward(answer, row): return 0\n", "reward", "it is asynchronous; write it as"),
        ("def reward(answer): return 0\n", "reward", r"it cannot be called with an answer and a row \(too many"),
        ("import os\nos._exit(3)\n", "reward", "the file ends its process with 3; let it do less at import"),
        ("import sys\nsys.exit()\n", "reward", r"running the file raised SystemExit \(line 2\)"),
    ],
)
def test_a_file_that_is_no_reward_function_is_an_error_at_once(tmp_path, text, name, message):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"^reward function {file}:{name}: .*{message}"):
        Rewards(RewardConfig(function=f"{file}:{name}"))


def test_a_file_that_runs_for_too_long_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("hyla.rl.user_process.START_SECONDS", 1.5)
    file = tmp_path / "own.py"
    file.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(ConfigError, match=r"own.py:reward: the file runs longer than 1.5 s; move the work"):
        Rewards(RewardConfig(function=f"{file}:reward"))


def test_a_file_that_cannot_be_read_is_an_error_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"none.py:reward: the file cannot be read: No such file.*; correct its path"):
        Rewards(RewardConfig(function=f"{tmp_path}/none.py:reward"))
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.py:reward: the file is not UTF-8"):
        Rewards(RewardConfig(function=f"{tmp_path}/latin.py:reward"))
    with pytest.raises(ConfigError, match=r"folder.py:reward: the file cannot be read: it is a folder"):
        (tmp_path / "folder.py").mkdir()
        Rewards(RewardConfig(function=f"{tmp_path}/folder.py:reward"))


def test_a_process_that_cannot_be_started_again_is_a_problem_of_the_sample(file, monkeypatch):
    def none_left(*arguments, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with Rewards(RewardConfig(function=f"{file}:reward")) as rewards:
        rewards.of([("x", {"do": "os._exit(1)"})])
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", none_left)
            (judgement,) = rewards.of([("x", {})])
        assert judgement.reward is None and "its process cannot be started" in judgement.problem
        assert rewards.of([("xx", {})]) == [Judgement(1.0, None)]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "give exactly one of function and judge"),
        ({"function": "a.py:b", "judge": {"base_url": "http://x", "model": "m", "prompt": "{answer}"}}, "exactly one"),
        ({"function": "a.py"}, "write FILE.py:NAME"),
        ({"function": "a.txt:reward"}, "write FILE.py:NAME"),
        ({"function": "a.py:b.c"}, "write FILE.py:NAME"),
        ({"function": "a.py:b", "timeout_seconds": 0}, "timeout_seconds = 0"),
        ({"function": "a.py:b", "timeout": 3}, "timeout"),
        ({"judge": {"base_url": "x", "model": "m", "prompt": "{answer}"}}, "begins with http"),
        (
            {"judge": {"base_url": "http://x", "model": "m", "prompt": "{prompt}"}},
            "write {answer} where it is to stand",
        ),
        ({"judge": {"base_url": "http://x", "model": "m", "prompt": "{answer} {row[x]}"}}, "is no plain name"),
        ({"judge": {"base_url": "http://x", "model": "m", "prompt": "{answer} {"}}, "prompt"),
        (
            {"judge": {"base_url": "http://x", "model": "m", "prompt": "{answer}"}, "processes": 2},
            "processes is for a function",
        ),
    ],
)
def test_a_config_that_cannot_be_is_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        RewardConfig(**fields)


def test_a_config_is_read_back_as_it_was_written():
    judge = {"base_url": "http://x", "model": "m", "prompt": "{answer}"}
    for config in (RewardConfig(function="a.py:b", timeout_seconds=3), RewardConfig(judge=judge)):
        assert RewardConfig(**config.model_dump()) == config


def test_problems_are_short_lines_without_commands():
    assert failed("a\n  b\x1b[2J" + "c" * 9999).problem.startswith(r"a b\x1b[2Jccc")
    assert len(failed("c" * 9999).problem) < 500


MESSAGES = """
def third(answer, row, messages):
    return len(messages) + messages[-1]["content"].count("a") / 10
def named(answer, row, *, messages=()):
    return len(messages)
def other(answer, row, weights=(1, 2)):
    return weights[1]
"""


def test_a_function_with_a_parameter_messages_gets_the_conversation(tmp_path):
    (tmp_path / "r.py").write_text(MESSAGES)
    talk = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "aa"},
        {"role": "tool", "content": "aaa"},
    ]
    items = [("aa", {"prompt": "x"}), ("aaaa", {"messages": talk[:2]}), ("a", {})]
    found = {}
    for name in ("third", "named", "other"):
        with Rewards(RewardConfig(function=f"{tmp_path / 'r.py'}:{name}")) as rewards:
            found[name] = [one.reward for one in [*rewards.of(items), *rewards.of(items[:1], [talk])]]
    assert found == {"third": [2.2, 3.4, 1.1, 3.3], "named": [2, 3, 1, 3], "other": [2, 2, 2, 2]}
