"""Bodies that should be refused, or answered, and never break the server."""

import contextlib
import copy
import json
import re
import socket

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MESSAGES = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "refusal", "refusal": "no"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "x"},
]
BODIES = {
    "/v1/completions": {
        "model": "tiny", "prompt": "ab", "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1,
        "n": 1, "seed": 1, "stop": ["x"], "logprobs": 1, "stream": False, "echo": True, "logit_bias": {}, "best_of": 1,
        "stop_token_ids": [3], "prompt_logprobs": 1, "return_token_ids": True, "min_tokens": 1, "ignore_eos": True,
    },
    "/v1/chat/completions": {
        "model": "tiny", "messages": MESSAGES, "max_tokens": 2, "tools": [TOOL], "tool_choice": "auto", "stream": True,
        "logprobs": True, "top_logprobs": 1, "stream_options": {"include_usage": True}, "reasoning_effort": "low",
        "response_format": {"type": "text"}, "chat_template_kwargs": {"a": 1}, "parallel_tool_calls": False, "n": 1,
    },
    "/v1/responses": {
        "model": "tiny",
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "max_output_tokens": 2, "instructions": "i", "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}, "stream": True, "store": True,
    },
    "/v1/responses/input_tokens": {
        "model": "tiny", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "instructions": "i", "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
        "tool_choice": {"type": "function", "name": "f"}, "text": {"verbosity": "low"},
        "reasoning": {"effort": "low"}, "truncation": "disabled",
    },
    "/v1/messages": {
        "model": "tiny", "max_tokens": 2, "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": [
                {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
            ]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]},
        ],
        "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "auto"}, "stop_sequences": ["x"],
        "thinking": {"type": "adaptive"}, "stream": True, "temperature": 0.5, "top_k": 2,
    },
    "/v1/messages/count_tokens": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "system": "s"},
    "/v1/embeddings": {"model": "tiny", "input": ["a", "b"], "encoding_format": "float", "dimensions": 3},
    "/tokenize": {"model": "tiny", "messages": MESSAGES, "tools": [TOOL], "return_token_strs": True},
    "/detokenize": {"model": "tiny", "tokens": [1, 2], "skip_special_tokens": True},
    "/score": {"model": "tiny", "input": ["a", "bc"], "context": "x", "top_logprobs": 2},
    "/abort": {"request_id": "x"},
}  # fmt: skip
"""One body of each route that uses many of its fields."""

VALUES = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 1e-320, "", "x", "\x00", "é\U0001f600",
    "x" * 900, "{{ 7 * 7 }}", "../../etc/passwd", "\r\nX: y", "<|end|>", "data: [DONE]\n\n", [], [None], [[]], {},
    {"": {}}, {"type": "x"}, {"$ref": "#"}, [1] * 300, ["a"] * 300, "text", "json_object", "required",
    {"role": "user", "content": "x"},
    # Half characters, what moves a terminal, what no double holds, what is none of an integer, much of everything.
    "\ud800", "\udc00x", "\x1b[2J\x9b31m", "\u202e\u2028", 10**25, -(2**63) - 1, 2.0, 1e-45, "1e999", "NaN", "[" * 500,
    '{"a": ' * 40 + "1" + "}" * 40, "[" + "{}," * 500 + "{}]", [{}] * 300, [[[]]] * 300, [0.1] * 300, "a b " * 2000,
    {"self": 1}, {"self": 1, "messages": 2, "environment": None}, {"a" * 300: {"b": []}},
    {"type": "function", "function": {"name": "f", "arguments": "[{}"}}, {"$ref": "#/$defs/a", "$defs": {}},
)  # fmt: skip

NUMBERS = (b"1e999", b"-1e999", b"1" * 5000, b"NaN", b"-Infinity", b"1E+400", b"0.0e-999", b"-0", b"01", b"1.", b"0x1")
"""In the place of a number of the body; half of them are none of JSON's."""
ONE_NUMBER = re.compile(rb"(?<=: )-?[0-9.e+-]+")


def places(value, path=()):
    """Paths of everything in a body."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, own in inner:
        yield from places(own, (*path, key))


def parent_of(body, path):
    for key in path[:-1]:
        body = body[key]
    return body


def mutated(draw, body):
    """The bytes of a body with a few changes. draw: a `random.Random`."""
    body = copy.deepcopy(body)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        paths = [path for path in places(body) if path]
        if not paths:
            break
        path = draw.choice(paths)
        parent, action = parent_of(body, path), draw.randrange(6)
        if action == 0:
            del parent[path[-1]]
        elif action <= 2:
            parent[path[-1]] = copy.deepcopy(draw.choice(VALUES))
        elif action == 3:
            parent[path[-1]] = [copy.deepcopy(parent[path[-1]]) for _ in range(draw.choice([1, 2, 9]))]
        elif action == 4:
            body[draw.choice(["temprature", "audio", "n", "logit_bias", "stop", "__class__", "model"])] = draw.choice(
                VALUES
            )
        else:
            other = draw.choice(paths)
            parent[path[-1]] = copy.deepcopy(parent_of(body, other)[other[-1]])
    raw = bytearray(json.dumps(body, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass"))
    if draw.random() < 0.1 and (found := list(ONE_NUMBER.finditer(raw))):
        place = draw.choice(found)
        raw[place.start() : place.end()] = draw.choice(NUMBERS)
    if draw.random() < 0.2:
        for _ in range(draw.randint(1, 5)):
            place = draw.randrange(len(raw) + 1)
            raw[place : place + draw.randint(0, 3)] = bytes(draw.choice([[], [draw.randrange(256)], b'"', b"{", b"]"]))
    if draw.random() < 0.02:
        raw = b'{"model": "tiny", "messages": ' + b"[" * draw.choice([50, 2000]) + b"]" * 50 + b"}"
    if draw.random() < 0.02:
        piece = draw.choice([b"{},", b"1,", b'"",', b"[],", b'{"a":1},'])
        raw = b'{"model": "tiny", "input": [' + piece * 6000 + b"1]}"
    return bytes(raw)


HEADS = (
    "Content-Length: 5", "Content-Length: 4", "Content-Length: -1", "Content-Length: 99999999999999999999",
    "Content-Length: 5, 5", "Content-Length : 5", "Content-Length: 0x5", "Transfer-Encoding: chunked", "Cookie: a=b",
    "Transfer-Encoding: identity", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding:\tchunked", "Host: y",
    "Connection: keep-alive", "Connection: close", "Connection: upgrade\r\nUpgrade: h2c", "Upgrade: websocket",
    "X: a\r\n b", "X: \x1b[31m", "X: " + "y" * 70_000, "X: y\r\n" * 300, "Authorization: Bearer \xff", "Origin: null",
    "Origin: http://[", "Content-Type: text/plain", "Content-Type: application/json", "X-Request-Id: \x7f", "no colon",
    "traceparent: 00-x", "Accept-Encoding: *", ": empty", "\x00: y", "Range: bytes=0-", "Expect: 100-continue",
)  # fmt: skip
"""Lines of a head, of HTTP or near it."""
TARGETS = (
    "/health", "/v1/models", "/v1/completions", "/v1/messages", "/nothing", "*", "http://x/health", "//", "/%00", "",
    "/v1/models/" + "%ff" * 50, "/?" + "a&" * 50, "/v1/responses/" + "x" * 3000, "/a b", "/\x1b[0m", "x",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "G\x00T", "PRI", "X" * 50)
VERSIONS = ("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "http/1.1", "")
PIECES = (
    b"hello", b'{"a"', b"5\r\nhello\r\n", b"0\r\n\r\n", b"fffffffff\r\n", b"-1\r\n", b"5;x=y\r\nhello\r\n", b"\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 40, b"5\r\nhelloX", b"0\r\nX: y\r\n\r\n",
)  # fmt: skip


def raw_http(draw):
    """What a connection sends: requests, or nearly, and bodies that may fit them. draw: a `random.Random`."""
    sent = b""
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        lines = [f"{draw.choice(METHODS)} {draw.choice(TARGETS)} {draw.choice(VERSIONS)}", "Host: x"]
        lines += [draw.choice(HEADS) for _ in range(draw.randrange(4))]
        if draw.random() < 0.1:
            draw.shuffle(lines)
        end = draw.choice(["\r\n", "\r\n", "\r\n", "\n", "\r"])
        sent += end.join([*lines, "", ""]).encode("latin-1")
        sent += b"".join(draw.choice(PIECES) for _ in range(draw.randrange(3)))
    return sent


STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d\d\d)")


def send_raw(address, sent):
    """The statuses of what comes back until the server ends the connection. Checks that errors are JSON."""
    got = b""
    with socket.create_connection(address, timeout=20) as raw, contextlib.suppress(ConnectionError):
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        while piece := raw.recv(65536):
            got += piece
    statuses = [int(one) for one in STATUS_LINE.findall(got)]
    assert all(status < 500 for status in statuses), (sent, got)
    for one in re.split(rb"(?=HTTP/1\.1 \d\d\d )", got)[1:]:
        head, _, body = one.partition(b"\r\n\r\n")
        assert one[9:10] in b"12" or not body or b"application/json" in head.lower(), (sent, got)
    return statuses


def send(http, path, raw):
    """(status, text) of a body; checks that an error has its route's shape."""
    answer = http.post(path, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404, 408, 413, 429, 503), (answer.status_code, path, raw, answer.text)
    if answer.status_code != 200:
        body = answer.json()
        wanted = {"type", "message"} if path.startswith("/v1/messages") else {"type", "message", "param", "code"}
        assert set(body["error"]) == wanted and body["error"]["message"], (path, raw, body)
        assert answer.status_code not in (429, 503) or "retry-after" in answer.headers
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert "server_error" not in answer.text and "api_error" not in answer.text, (path, raw, answer.text)
    return answer.status_code
