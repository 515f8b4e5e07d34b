"""The endpoint client against a real HTTP server of a few lines, which answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rzero_ray.config.audits import EndpointConfig
from rzero_ray.evaluation import endpoint as endpoint_module
from rzero_ray.evaluation.endpoint import Endpoint, take_key
from rzero_ray.types import Message, UserError

CHAT = (Message(role="user", content="7+5"),)
KEY = "sk-very-secret"


class Server(ThreadingHTTPServer):
    """Answers with the statuses of `script`, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[int] = []
        self.body: str | bytes | None = None
        self.headers: dict[str, str] = {}
        self.requests: list[dict] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.requests.append(json.loads(self.rfile.read(length)))
        self.server.keys.append(self.headers.get("Authorization"))
        status = self.server.script.pop(0) if self.server.script else 200
        message = {"role": "assistant", "content": "\\boxed{12}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        good = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        body = json.dumps(good | {"choices": [choice]})
        if status != 200:
            body = json.dumps({"error": {"message": f"bad {self.headers.get('Authorization')}"}})
        body = self.server.body or body
        data = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_key_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endpoint_module, "_taken", {})


def _config(
    url: str, max_retries: int = 2, concurrency: int = 4, timeout: float = 5.0
) -> EndpointConfig:
    return EndpointConfig(
        url=url, model="m", timeout=timeout, max_retries=max_retries, concurrency=concurrency
    )


def _ask(config: EndpointConfig, times: int = 1) -> tuple[list[str | None], Endpoint]:
    async def go() -> tuple[list[str | None], Endpoint]:
        endpoint = Endpoint(config)
        try:
            answers = [await endpoint.complete(CHAT) for _ in range(times)]
        finally:
            await endpoint.close()
        return answers, endpoint

    return asyncio.run(go())


def test_an_answer_is_the_models_text_and_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", KEY)
    answers, endpoint = _ask(_config(server.url))
    assert answers == ["\\boxed{12}"]
    assert endpoint.num_failed == 0
    assert server.keys == [f"Bearer {KEY}"]
    assert server.requests[0]["messages"] == [{"role": "user", "content": "7+5"}]
    assert (server.requests[0]["model"], server.requests[0]["temperature"]) == ("m", 0.0)


def test_errors_of_the_server_are_tried_again_and_then_counted(server):
    server.script = [500, 503]
    assert _ask(_config(server.url))[0] == ["\\boxed{12}"]
    assert len(server.requests) == 3
    server.script = [500] * 3
    answers, endpoint = _ask(_config(server.url), times=2)
    assert answers == [None, "\\boxed{12}"]
    assert endpoint.num_failed == 1


def test_a_malformed_request_is_not_repeated_and_the_key_stays_out_of_the_log(
    server, monkeypatch, caplog
):
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", KEY)
    server.script = [400]
    with caplog.at_level(logging.DEBUG):
        answers, endpoint = _ask(_config(server.url))
    assert (answers, endpoint.num_failed, len(server.requests)) == ([None], 1, 1)
    assert "gave no answer (HTTP 400" in caplog.text
    assert KEY not in caplog.text


def test_a_refused_key_a_missing_key_and_an_unknown_model_are_the_users_to_mend(
    server, monkeypatch
):
    server.script = [401, 403, 404]
    with pytest.raises(UserError, match="asks for a key; set the environment variable RZERO"):
        _ask(_config(server.url))
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", KEY)
    with pytest.raises(UserError, match="refused the key in the environment variable") as caught:
        _ask(_config(server.url))
    assert KEY not in str(caught.value)
    with pytest.raises(UserError, match="knows no model m"):
        _ask(_config(server.url))


def _reply(content: object) -> str:
    return json.dumps({"choices": [{"message": {"content": content}}]})


@pytest.mark.parametrize(
    "body",
    [
        "<html>hello</html>",
        "null",
        "[]",
        "{}",
        '"text"',
        "5",
        '{"choices": []}',
        '{"choices": null}',
        '{"choices": 5}',
        '{"choices": "abc"}',
        '{"choices": {"0": {}}}',
        '{"choices": [null]}',
        '{"choices": [[]]}',
        '{"choices": [{}]}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": "abc"}]}',
        '{"choices": [{"message": {}}]}',
        _reply(None),
        _reply(5),
        _reply(True),
        _reply(["\\boxed{5}"]),
        _reply([{"type": "text", "text": "\\boxed{5}"}]),
        _reply({"text": "\\boxed{5}"}),
        "[" * 200_000,
        '{"a":' * 200_000,
        "1" * 5_000,
        b"\xff\xfe\x00",
        b"\x1f\x8b\x08",
        b"\0" * 100,
    ],
)
def test_a_reply_of_any_other_shape_is_no_answer_and_warned_of_once(server, body, caplog):
    server.body = body
    answers, endpoint = _ask(_config(server.url), times=3)
    assert (answers, endpoint.num_failed) == ([None] * 3, 3)
    (record,) = (r for r in caplog.records if r.name == endpoint_module.__name__)
    assert "no text in choices[0].message.content" in record.getMessage()
    assert record.getMessage().isprintable()


def test_half_characters_of_an_answer_are_replaced(server):
    server.body = '{"choices":[{"message":{"content":"\\\\boxed{\\ud800}"}}]}'
    assert _ask(_config(server.url))[0] == ["\\boxed{?}"]


def test_a_warning_obeys_nothing_that_the_endpoint_says(server, caplog):
    server.script = [400]
    server.body = "\x1b[31mred\x07\r\n\u202e\x9b1m"
    _ask(_config(server.url))
    (record,) = (r for r in caplog.records if r.name == endpoint_module.__name__)
    assert "[31mred" in record.getMessage()
    assert record.getMessage().isprintable()


def test_an_answer_that_repeats_the_key_is_kept_without_it(server, monkeypatch):
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", KEY)
    server.body = _reply(f"\\boxed{{{KEY}}}")
    assert _ask(_config(server.url))[0] == ["\\boxed{KEY}"]


def test_the_key_leaves_the_environment_and_is_still_known(server, monkeypatch):
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", f"{KEY}\n")
    assert take_key("RZERO_ENDPOINT_KEY") == KEY
    inherited = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert KEY not in inherited
    _ask(_config(server.url))
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("key", ["two\nlines-secret", "sp ace-secret", "\u00fc-secret"])
def test_a_key_that_no_request_can_carry_is_refused_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", key)
    with pytest.raises(UserError, match="RZERO_ENDPOINT_KEY holds no key") as caught:
        take_key("RZERO_ENDPOINT_KEY")
    assert "secret" not in str(caught.value)


def test_no_request_follows_to_another_address(server):
    other = Server()
    server.script = [307]
    server.headers = {"Location": f"{other.url}/chat/completions"}
    with pytest.raises(UserError, match="sends requests on to another address"):
        _ask(_config(server.url))
    assert not other.requests
    other.server_close()


class _RawServer:
    """Accepts connections, reads a request and writes what `write` yields, piece by piece."""

    def __init__(self, write: Callable[[], Iterator[bytes]]) -> None:
        self._write = write
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.num_connections = 0
        self.num_bytes = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.num_connections += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            for piece in self._write():
                connection.sendall(piece)
                self.num_bytes += len(piece)

    def close(self) -> None:
        self._socket.close()


def _trickle(head: bytes, piece: bytes) -> Callable[[], Iterator[bytes]]:
    def write() -> Iterator[bytes]:
        yield head
        while True:
            time.sleep(0.05)
            yield piece

    return write


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    "write",
    [
        _trickle(HEAD, b" "),  # a slow body
        _trickle(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),  # headers without end
        _trickle(HEAD.replace(b"200 OK", b"500 Down"), b" "),  # the body of an error
        _trickle(b"", b""),  # nothing at all
    ],
)
def test_a_slow_reply_ends_with_its_deadline(write, caplog):
    raw = _RawServer(write)
    started = time.monotonic()
    answers, endpoint = _ask(_config(raw.url, max_retries=1, timeout=0.3))
    assert (answers, endpoint.num_failed, raw.num_connections) == ([None], 1, 2)
    assert time.monotonic() - started < 3
    assert "no whole reply within timeout=0.3 s" in caplog.text
    raw.close()


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad", b"500 Down"])
@pytest.mark.parametrize("length", [b"Content-Length: 8589934592", b"Connection: close"])
def test_a_reply_without_end_is_cut_at_a_few_megabytes(status, length, caplog):
    def write() -> Iterator[bytes]:
        yield b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n\r\n"
        while True:
            yield b" " * (1 << 20)

    raw = _RawServer(write)
    answers, endpoint = _ask(_config(raw.url))
    assert (answers, endpoint.num_failed) == ([None], 1)
    assert "a reply of more than 4 MiB" in caplog.text
    assert raw.num_bytes < 64 << 20
    raw.close()


def test_a_compressed_trap_is_not_unpacked(server, caplog):
    server.headers = {"Content-Encoding": "gzip"}
    server.body = gzip.compress(b" " * (1 << 28))
    answers, endpoint = _ask(_config(server.url))
    assert (answers, endpoint.num_failed) == ([None], 1)


def test_a_connection_that_breaks_off_is_tried_again():
    def write() -> Iterator[bytes]:
        yield HEAD

    raw = _RawServer(write)
    answers, endpoint = _ask(_config(raw.url, max_retries=1, timeout=2.0))
    assert (answers, endpoint.num_failed, raw.num_connections) == ([None], 1, 2)
    raw.close()


def test_a_proxy_that_is_none_is_one_line(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
    with pytest.raises(UserError, match="proxy or certificate settings"):
        Endpoint(_config("http://127.0.0.1:1/v1"))


def test_an_endpoint_that_is_down_is_not_asked_for_ever(server):
    server.script = [500] * 100
    answers, endpoint = _ask(_config(server.url, max_retries=0, concurrency=2), times=9)
    assert answers == [None] * 9
    assert endpoint.num_failed == 9
    assert len(server.requests) == 4


def test_nobody_listening_is_no_answer():
    server = Server()
    url = server.url
    server.server_close()
    answers, endpoint = _ask(_config(url, max_retries=0))
    assert (answers, endpoint.num_failed) == ([None], 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EndpointConfig(model="m"), "has no url"),
        (EndpointConfig(url="http://x/v1"), "has no model"),
    ],
)
def test_an_endpoint_that_is_not_named_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        Endpoint(config)
