"""Who may see the pages: this machine's browser, through the link that the command prints.

Anybody on the machine can connect to a port of it, and any web page can have a browser send
requests there. Therefore a request needs the token, which no other page knows, and a Host header
that names this address, which a page of another name cannot send (DNS rebinding).
"""

from __future__ import annotations

import secrets
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"
"""The name of the token in the link."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer says that does not say otherwise: nothing runs and nothing is loaded but the
style sheet."""


class Guard:
    """Lets requests with the token through to an application, and no others."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        """`port` is the one that the server listens on, at 127.0.0.1."""
        self._app = app
        self._token = token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        # Cookies are of a host, whatever its port: another report's must not take this one's place.
        self._cookie = f"rzero-report-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)  # a page may have a policy of its own
            await send(message)

        response = self._answer(Request(scope))
        await (response or self._app)(scope, receive, send_guarded)

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to a request that goes no further, or None."""
        if request.headers.getlist("host") not in [[host] for host in self._hosts]:
            return _refused("the Host header names another machine")
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("there is nothing to change here\n", 405)
        if TOKEN in request.query_params:
            return self._enter(request)
        if not self._is_token(request.cookies.get(self._cookie, "")):
            return _refused("open the link that the command has printed")
        return None

    def _enter(self, request: Request) -> Response:
        """Return the way to the same page without the token in its address, which a history would
        keep; the cookie holds it from here on."""
        if not self._is_token(request.query_params[TOKEN]):
            return _refused("this token is not that of the link that the command has printed")
        rest = [(k, v) for k, v in parse_qsl(request.url.query) if k != TOKEN]
        # One slash: two would be the address of another host.
        path = "/" + request.url.path.lstrip("/")
        response = RedirectResponse(f"{path}?{urlencode(rest)}" if rest else path, 303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return response

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def _refused(reason: str) -> Response:
    return PlainTextResponse(f"refused: {reason}\n", 403)
