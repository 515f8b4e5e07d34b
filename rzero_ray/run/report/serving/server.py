"""Serves the browser of a run's questions on this machine alone, until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from rzero_ray.run.report.serving.application import Browser
from rzero_ray.run.report.serving.guard import TOKEN, Guard
from rzero_ray.types import UserError

HOST = "127.0.0.1"
_SECONDS_TO_END = 3
"""For answers that are under way when the server is told to end."""
_MOST_CONNECTIONS = 64


def serve(browser: Browser, port: int, say: Callable[[str], None]) -> None:
    """Serve the pages of a run, and `say` the link that opens them. Port 0 is any free one.

    Returns when a signal asks for the end, which then goes on to whoever called. Raises UserError
    where the port is taken.
    """
    listening = _listen(port)
    with listening:
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(32)
        server = make_server(browser, token, port)
        say(f"http://{HOST}:{port}/?{TOKEN}={token}")
        server.run(sockets=[listening])


def make_server(browser: Browser, token: str, port: int) -> uvicorn.Server:
    """Return the server of a browser, which is to listen on a port of this machine."""
    return uvicorn.Server(
        uvicorn.Config(
            Guard(browser.application(), token, port),
            log_level="warning",
            access_log=False,  # the first line would hold the token
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
    )


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(
            f"port={port} cannot be had ({error.strerror}); choose another one, or 0 for any"
        ) from None
