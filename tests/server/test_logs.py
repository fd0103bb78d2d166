"""The log: what a client sent is shown and does nothing, and nobody has to read it."""

import io
import logging
import os

import pytest

from hyla.server.watch import logs

HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\r\nGET / 200\u202etxt.exe\u2028\x00end"


@pytest.fixture
def logger():
    """A logger of its own, as `configure` sets them up."""
    logger = logging.getLogger("hyla-test-logs")
    logger.propagate = False
    yield logger
    logger.handlers = []


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_of_the_log_is_one_line_and_moves_no_cursor(logger, form):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter() if form == "json" else logs.TextFormatter())
    logger.addHandler(handler)
    logger.warning("POST %s 404", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("it failed")
    written = stream.getvalue()
    first, _, rest = written.partition("\n")
    assert "red" in first and "end 404" in first and "it failed" in rest
    assert all(text.isprintable() for text in written.split("\n"))
    assert not [text for text in rest.split("\n")[1:-1] if not text.startswith("  ") and form == "text"]


def test_a_log_that_nobody_reads_stops_nobody(logger):
    reading, writing = os.pipe()
    handler = logs.PatientHandler(writing)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    for n in range(3000):
        logger.warning("%06d %s", n, "x" * 1000)
    os.set_blocking(reading, False)
    found = b""
    for _ in range(200):
        try:
            found += os.read(reading, 1 << 20)
        except BlockingIOError:
            logger.warning("more")
    lines = found.decode().split("\n")
    numbers = [int(line[:6]) for line in lines if line.endswith("x")]
    assert numbers == list(range(len(numbers))) and 900 < len(numbers) < 3000
    lost = next(line for line in lines if "left out" in line)
    assert int(lost.split()[0]) == 3000 - len(numbers) and "more" in lines
    os.close(reading)
    logger.warning("nobody is there")
    os.close(writing)


def test_a_log_on_a_full_disk_stops_nobody(logger):
    with open("/dev/full", "wb") as full:
        handler = logs.PatientHandler(full.fileno())
        logger.addHandler(handler)
        logger.warning("x")
        handler.flush()


def test_a_standard_error_that_is_closed_or_no_file_takes_no_log_and_ends_nothing(monkeypatch):
    before = {name: logging.getLogger(name).handlers for name in ("hyla", "uvicorn")}
    in_memory = io.StringIO()
    try:
        for stream in (in_memory, None):
            monkeypatch.setattr("sys.stderr", stream)
            logs.configure("text")
            logging.getLogger("hyla.server").warning("said")
    finally:
        for name, found in before.items():
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = found, True
    assert in_memory.getvalue().count("said") == 1
