"""The endpoint client against a real HTTP server of a few lines, which answers as it is told."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rzero_ray.config.audits import EndpointConfig
from rzero_ray.evaluation.endpoint import Endpoint
from rzero_ray.types import Message, UserError

CHAT = (Message(role="user", content="7+5"),)
KEY = "sk-very-secret"


class Server(ThreadingHTTPServer):
    """Answers with the statuses of `script`, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[int] = []
        self.body: str | None = None
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
        data = (self.server.body or body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After-Ms", "1")
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


def _config(url: str, max_retries: int = 2, concurrency: int = 4) -> EndpointConfig:
    return EndpointConfig(
        url=url, model="m", timeout=5.0, max_retries=max_retries, concurrency=concurrency
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
    assert "gave no answer (BadRequestError" in caplog.text
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


@pytest.mark.parametrize("body", ["<html>hello</html>", "[]", "{}", '{"choices": []}'])
def test_something_that_is_no_chat_endpoint_gives_no_answer(server, body):
    server.body = body
    answers, endpoint = _ask(_config(server.url))
    assert (answers, endpoint.num_failed) == ([None], 1)


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
        (EndpointConfig(url="x/v1", model="m"), "must begin with http"),
    ],
)
def test_an_endpoint_that_is_not_named_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        Endpoint(config)
