"""Chat templates run in a process of their own, which has bounds and nothing that a template could want."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_text import byte_tokenizer

from hyla.checkpoints.chat_template import MOST_SOURCE_CHARS, ChatTemplate
from hyla.checkpoints.templates import process
from hyla.checkpoints.templates.values import Arguments
from hyla.errors import CheckpointError, RequestError
from hyla.server.served import served_model

HELLO = [{"role": "user", "content": "hi"}]
FIRST = "{{ messages[0].content }}"
NESTED = "{% if messages %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"


def pid_of(template):
    (child,) = template._process._children
    return child.process.pid


def is_there(pid):
    return Path(f"/proc/{pid}").exists()


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def tight(monkeypatch):
    monkeypatch.setattr(process, "CPU_SECONDS", 0)
    monkeypatch.setattr(process, "MEMORY_BYTES", 256 << 20)


@pytest.mark.parametrize(
    "text, message",
    [
        (NESTED, "takes more than 0 seconds of processor time"),
        ("{{ messages[0].content * 900000000 }}", r"takes more than \d+ MiB of memory"),
        ("{% for i in range(99999) %}{{ 'ab' * 9999 }}{% endfor %}", "writes more than 16,777,216 characters"),
    ],
)
def test_a_template_past_its_bounds_is_a_bad_request_and_the_next_one_is_rendered(tight, text, message):
    template = ChatTemplate("{% if messages[0].content == 'go' %}" + text + "{% else %}fine{% endif %}")
    with pytest.raises(RequestError, match=message) as caught:
        template.render([{"role": "user", "content": "go"}], tools=None)
    assert caught.value.param == "messages"
    assert template.render(HELLO, tools=None) == "fine"


@pytest.mark.parametrize("text", ["{{ 9**(9**9) }}", "{{ 'a' * 90000000 }}", "{{ x | nothing }}"])
def test_a_template_that_cannot_be_compiled_within_its_bounds_is_refused_before_it_is_served(tight, text):
    with pytest.raises(
        CheckpointError, match=r"chat_template cannot be compiled: .*; repair it, or serve the model with another"
    ):
        served_model(None, "tiny", byte_tokenizer(text))


def test_constants_are_not_computed_where_a_tokenizer_is_read():
    # Nothing but parsing happens here; compiling would take minutes.
    ChatTemplate("{{ 9**(9**9) }}")


@pytest.mark.parametrize(
    "text", ["{{ " + "9" * 5000 + " }}", "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "{% if %}", "\ud800"]
)
def test_what_cannot_be_parsed_is_an_error_of_the_checkpoint(text):
    with pytest.raises(CheckpointError, match="is not a valid Jinja template"):
        ChatTemplate(text)


def test_a_source_has_a_longest_length():
    with pytest.raises(CheckpointError, match="at most 262,144 are read"):
        ChatTemplate("x" * (MOST_SOURCE_CHARS + 1))


def test_messages_that_fill_the_memory_before_they_are_rendered_are_a_bad_request(monkeypatch):
    monkeypatch.setattr(process, "MEMORY_BYTES", 64 << 20)
    template = ChatTemplate(FIRST)
    with pytest.raises(RequestError, match=r"takes more than \d+ MiB of memory with these messages"):
        template.render(HELLO, tools=None, more=[[] for _ in range(1_000_000)])
    assert template.render(HELLO, tools=None) == "hi"


def test_one_process_renders_all_conversations_and_ends_with_its_template():
    template = ChatTemplate(FIRST)
    template.start()
    pid = pid_of(template)
    for n in range(5):
        assert template.render([{"role": "user", "content": f"é漢{n}"}], tools=None) == f"é漢{n}"
    assert pid_of(template) == pid and is_there(pid)
    del template
    assert not is_there(pid)


def test_a_system_that_starts_no_process_is_named(monkeypatch):
    def none_left(*arguments, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    template = ChatTemplate(FIRST)
    monkeypatch.setattr(subprocess, "Popen", none_left)
    with pytest.raises(CheckpointError, match=r"its process cannot be started .*Resource temporarily unavailable"):
        template.start()
    monkeypatch.undo()
    assert template.render(HELLO, tools=None) == "hi"


def test_a_process_that_was_killed_is_started_again():
    template = ChatTemplate(FIRST)
    template.start()
    pid = pid_of(template)
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    assert template.render(HELLO, tools=None) == "hi" and pid_of(template) != pid


def processor_ticks(pid):
    """Its own time, in hundredths of a second."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_a_process_that_is_killed_in_the_middle_of_a_prompt_writes_it_again_once(monkeypatch):
    monkeypatch.setattr(process, "CPU_SECONDS", 600)
    template = ChatTemplate(NESTED)
    template.start()
    # The first process does not end its prompt; the next one is told of another template.
    template._process.sources = dict.fromkeys(template.sources, "x")
    pid = pid_of(template)
    started = processor_ticks(pid)
    with ThreadPoolExecutor(1) as pool:
        text = pool.submit(template.render, HELLO, tools=None)
        assert wait_until(lambda: processor_ticks(pid) > started + 10)
        os.kill(pid, signal.SIGKILL)
        assert text.result() == "x" and pid_of(template) != pid


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_for_a_whole_group_are_for_its_parent(name):
    template = ChatTemplate(FIRST)
    template.start()
    pid = pid_of(template)
    os.kill(pid, getattr(signal, name))
    assert template.render(HELLO, tools=None) == "hi" and pid_of(template) == pid


def test_the_process_has_no_torch_no_secrets_and_no_files_of_its_parent(monkeypatch, tmp_path):
    import socket

    monkeypatch.setenv("HYLA_API_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "x").open("w") as file:
        os.set_inheritable(server.fileno(), True)
        os.set_inheritable(file.fileno(), True)
        template = ChatTemplate(FIRST)
        template.start()
        place = Path(f"/proc/{pid_of(template)}")
        files = {os.readlink(entry) for entry in (place / "fd").iterdir()}
        assert "torch" not in (place / "maps").read_text() and b"secret" not in (place / "environ").read_bytes()
    others = {name for name in files if name != "/dev/null"}
    assert len(others) == 1 and next(iter(others)).startswith("socket:")  # the line to its parent
    assert str(tmp_path / "x") not in files


def test_the_process_ends_with_a_parent_that_was_killed():
    code = """
import time
from hyla.checkpoints.chat_template import ChatTemplate
template = ChatTemplate("x")
template.start()
print(template._process._children[0].process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert is_there(pid)
        parent.kill()
    assert wait_until(lambda: not is_there(pid))


def test_callers_on_many_threads_each_get_their_own_text():
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")

    def ask(n):
        return template.render([{"role": "user", "content": f"<{n}>" * 500}], tools=None)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [f"<{n}>" * 500 for n in range(200)]


def test_a_fork_has_a_process_of_its_own():
    code = """
import os
from hyla.checkpoints.chat_template import ChatTemplate
template = ChatTemplate("{{ messages[0].content }}")
def pid():
    text = template.render([{"content": "hi"}], tools=None)
    return text == "hi" and template._process._children[0].process.pid
first = pid()
if os.fork() == 0:
    own = pid()
    template._process.close()
    os._exit(0 if own not in (False, first) else 1)
assert os.wait()[1] == 0 and pid() == first
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_arguments_stay_what_they_are_on_the_way():
    template = ChatTemplate(
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments }}{{ c.function.arguments + '!' }}"
        "{{ c.function.arguments.get('a') }};{% endfor %}{% endfor %}"
    )
    given = [Arguments({"a": "ü"}), Arguments({"invalid_json": "[1"}, "[1"), {"a": 1}]
    calls = [{"function": {"arguments": arguments}} for arguments in given[:2]]
    text = template.render([{"role": "assistant"}, {"role": "assistant", "tool_calls": calls}], tools=None)
    assert text == '{"a": "ü"}{"a": "ü"}!ü;[1[1!None;'
    plain = ChatTemplate("{{ messages[0].tool_calls[0].function.arguments }}")
    assert plain.render([{"tool_calls": [{"function": {"arguments": given[2]}}]}], tools=None) == "{'a': 1}"


@pytest.mark.parametrize("name", ["self", "messages_", "names", "template", "job"])
def test_any_name_may_be_given_to_a_template(name):
    tokenizer = byte_tokenizer("{{ " + name + " }}" if name != "self" else "x")
    assert tokenizer.render_chat(HELLO, **{name: 1}) in ("1", "x")


def test_values_that_are_no_json_are_named():
    with pytest.raises(RequestError, match="hold what is no JSON value"):
        ChatTemplate(FIRST).render(HELLO, tools={1})


def test_a_half_character_passes():
    assert ChatTemplate(FIRST).render([{"role": "user", "content": "\ud800x"}], tools=None) == "\ud800x"
