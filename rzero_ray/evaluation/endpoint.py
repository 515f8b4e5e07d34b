"""A chat model behind an OpenAI-compatible endpoint: an oracle, or a judge.

The key comes from the environment alone and goes into no configuration, log or record. What comes
back is a stranger's bytes: they have a limit in time and in size, and whatever is no text of an
answer counts as none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from rzero_ray.config.audits import EndpointConfig
from rzero_ray.text.characters import printable, well_formed
from rzero_ray.types import Message, UserError

logger = logging.getLogger(__name__)

_MOST_BYTES = 4 << 20
"""Of one reply; the longest answers are a few hundred kilobytes."""
_FIRST_PAUSE_S = 0.5
"""Before the second attempt; each later pause is twice as long, up to `_LONGEST_PAUSE_S`."""
_LONGEST_PAUSE_S = 8.0
_TRIED_AGAIN = (408, 409, 425, 429)
"""Statuses of the client's errors that may pass; those of the server's may, too."""
_MOST_SHOWN = 300
"""Characters of a reason that a warning repeats."""
_SHORTEST_SECRET = 8
"""Characters of a key that is looked for in answers; `x` or `EMPTY` keep no secret."""

_taken: dict[str, str] = {}
"""Keys by the variables that held them."""


def take_key(variable: str) -> str:
    """Return the key that an environment variable holds or has held; empty where there is none.

    The variable is taken out of the environment, so that no process that starts later inherits it.
    Raises UserError, which does not show it, for a value that no request could carry.
    """
    if variable in os.environ:
        _taken[variable] = os.environ.pop(variable).strip()
    key = _taken.get(variable, "")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"the environment variable {variable} holds no key: it has spaces, line ends or "
            "characters that are not ASCII in it (the value is not shown)"
        )
    return key


@dataclass(eq=False)
class _Failure(Exception):
    """An attempt without a usable reply."""

    reason: str
    is_down: bool = False
    """Whether the endpoint seems not to be there at all."""
    may_pass: bool = False
    """Whether it is worth another attempt."""
    pause_s: float | None = None
    """How long the endpoint asks to wait before it."""


class Endpoint:
    """Asks the endpoint, with retries, and with as many requests at once as the config allows.

    An attempt, its slow reply included, may take `timeout` seconds, and so may each pause that the
    endpoint asks for: nothing waits longer than `2 * timeout * (max_retries + 1)`.

    Once `2 * concurrency` requests in a row went unanswered after all their retries, the endpoint
    counts as down: further requests fail at once, so that a dead endpoint costs minutes, not hours.
    """

    def __init__(self, config: EndpointConfig) -> None:
        """Raise UserError when the configuration names no endpoint or no model."""
        for key, value in (("url", config.url), ("model", config.model)):
            if not value:
                raise UserError(f"the endpoint has no {key}: set endpoint.{key}=... for it")
        self._config = config
        self._key = take_key(config.key_env)
        headers = {"Accept-Encoding": "identity"}  # what is not compressed has its size on its face
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            self._client = httpx.AsyncClient(
                headers=headers,
                timeout=None,  # of one read; `_attempt` has one for everything
                follow_redirects=False,
                limits=httpx.Limits(max_connections=config.concurrency),
            )
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            raise UserError(
                f"the environment's proxy or certificate settings cannot be used ({error}); "
                "correct HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE"
            ) from None
        self._slots = asyncio.Semaphore(config.concurrency)
        self._num_unanswered_in_a_row = 0
        self.num_failed = 0
        """How many requests were not answered, whatever the reason."""

    async def complete(self, messages: Sequence[Message]) -> str | None:
        """Return the model's answer to a chat, or None when the endpoint gave none.

        Timeouts, lost connections and errors of the server are tried again `max_retries` times; a
        request that the endpoint calls malformed (too long for the model, say) is not. Raises
        UserError when it refuses the key, knows no such model, or sends requests elsewhere.
        """
        request = {
            "model": self._config.model,
            "messages": list(messages),
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
        }
        async with self._slots:
            if self._num_unanswered_in_a_row >= 2 * self._config.concurrency:
                self.num_failed += 1
                return None
            try:
                text = await self._ask(json.dumps(request).encode())
            except _Failure as failure:
                self._count(failure)
                return None
        self._num_unanswered_in_a_row = 0
        if len(self._key) >= _SHORTEST_SECRET:  # a server may repeat what it was sent
            text = text.replace(self._key, "KEY")
        return text

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def _ask(self, request: bytes) -> str:
        """Return the text of the first attempt that has one; _Failure is the last one's."""
        pause_s = _FIRST_PAUSE_S
        for _ in range(self._config.max_retries):
            try:
                return await self._attempt(request)
            except _Failure as failure:
                if not failure.may_pass:
                    raise
                wanted = pause_s if failure.pause_s is None else failure.pause_s
            await asyncio.sleep(min(wanted, self._config.timeout))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return await self._attempt(request)

    async def _attempt(self, request: bytes) -> str:
        """Send the request once, and return the text of the reply."""
        try:
            async with asyncio.timeout(self._config.timeout):
                status, headers, body = await self._post(request)
        except TimeoutError:
            reason = f"no whole reply within timeout={self._config.timeout:g} s"
            raise _Failure(reason, is_down=True, may_pass=True) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise _Failure(reason, is_down=True, may_pass=True) from None
        self._raise_if_refused(status)
        if not 200 <= status < 300:
            is_servers = status >= 500
            raise _Failure(
                f"HTTP {status}: {body.decode('utf-8', 'replace')}",
                is_down=is_servers,
                may_pass=is_servers or status in _TRIED_AGAIN,
                pause_s=_seconds(headers.get("Retry-After", "")),
            )
        return _answer_in(body)

    async def _post(self, request: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of the reply, whose size is limited."""
        url = f"{self._config.url.rstrip('/')}/chat/completions"
        kind = {"Content-Type": "application/json"}
        body = bytearray()
        async with self._client.stream("POST", url, content=request, headers=kind) as response:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise _Failure(f"a reply of more than {_MOST_BYTES >> 20} MiB")
        return response.status_code, response.headers, bytes(body)

    def _raise_if_refused(self, status: int) -> None:
        """Raise UserError for what no retry would change: a wrong key, name or address."""
        config = self._config
        if status in (401, 403):
            what = "refused the key in" if self._key else "asks for a key; set"
            raise UserError(
                f"the endpoint {config.url} {what} the environment variable {config.key_env} "
                f"(HTTP {status})"
            )
        if status == 404:
            raise UserError(
                f"the endpoint {config.url} knows no model {config.model}, or its address lacks "
                "the version (such as /v1); correct endpoint.model or endpoint.url"
            )
        if 300 <= status < 400:
            raise UserError(
                f"the endpoint {config.url} sends requests on to another address (HTTP {status}), "
                "which neither questions nor the key follow; set endpoint.url to that address"
            )

    def _count(self, failure: _Failure) -> None:
        """Count a request without an answer, and log the first one's reason."""
        if not self.num_failed:
            # A server may repeat what it was sent: the key must not reach a log that way.
            reason = failure.reason.replace(self._key, "KEY") if self._key else failure.reason
            shown = printable(reason[:_MOST_SHOWN])
            logger.warning("the endpoint %s gave no answer (%s)", self._config.url, shown)
        self.num_failed += 1
        row = self._num_unanswered_in_a_row
        self._num_unanswered_in_a_row = row + 1 if failure.is_down else 0


def _answer_in(body: bytes) -> str:
    """Return the text of the first choice of a reply; _Failure for a reply of any other shape."""
    try:
        reply: Any = json.loads(body)
    except (ValueError, RecursionError):
        reply = None
    match reply:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return well_formed(text)
    start = body[:_MOST_SHOWN].decode("utf-8", "replace")
    raise _Failure(f"the reply has no text in choices[0].message.content: {start}")


def _seconds(retry_after: str) -> float | None:
    """Return the seconds of a Retry-After header; None where it is a date, or missing."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
