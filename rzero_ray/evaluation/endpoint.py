"""A chat model behind an OpenAI-compatible endpoint: an oracle, or a judge.

The key comes from the environment alone and goes into no configuration, log or record. What comes
back is a model's text, as untrusted as that of our own models.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any, cast

from rzero_ray.config.audits import EndpointConfig
from rzero_ray.types import Message, UserError

logger = logging.getLogger(__name__)

_NO_KEY = "none"
"""What is sent where no key is set: the client insists on one, a server of one's own ignores it."""


class Endpoint:
    """Asks the endpoint, with retries, and with as many requests at once as the config allows.

    Once `2 * concurrency` requests in a row went unanswered after all their retries, the endpoint
    counts as down: further requests fail at once, so that a dead endpoint costs minutes, not hours.
    """

    def __init__(self, config: EndpointConfig) -> None:
        """Raise UserError when the configuration names no endpoint or no model."""
        # Imported here: it takes a second, and few runs ask an endpoint.
        from openai import AsyncOpenAI

        for key, value in (("url", config.url), ("model", config.model)):
            if not value:
                raise UserError(f"the endpoint has no {key}: set endpoint.{key}=... for it")
        if not config.url.startswith(("http://", "https://")):
            raise UserError(f"endpoint.url={config.url} must begin with http:// or https://")
        self._config = config
        key = os.environ.get(config.key_env)
        self._has_key = bool(key)
        self._client = AsyncOpenAI(
            base_url=config.url,
            api_key=key or _NO_KEY,
            timeout=config.timeout,
            max_retries=config.max_retries,
        )
        self._slots = asyncio.Semaphore(config.concurrency)
        self._num_unanswered_in_a_row = 0
        self.num_failed = 0
        """How many requests were not answered, whatever the reason."""

    async def complete(self, messages: Sequence[Message]) -> str | None:
        """Return the model's answer to a chat, or None when the endpoint gave none.

        Timeouts, lost connections and errors of the server are tried again `max_retries` times; a
        request that the endpoint calls malformed (too long for the model, say) is not. Raises
        UserError when it refuses the key or knows no such model.
        """
        from openai import APIConnectionError, APIError, APIStatusError

        async with self._slots:
            if self._num_unanswered_in_a_row >= 2 * self._config.concurrency:
                self.num_failed += 1
                return None
            try:
                answer = await self._client.chat.completions.create(
                    model=self._config.model,
                    messages=cast(Any, list(messages)),
                    temperature=self._config.temperature,
                    max_tokens=self._config.max_tokens,
                )
            except APIStatusError as error:
                self._raise_if_refused(error.status_code)
                self._count_failure(error, is_down=error.status_code >= 500)
                return None
            except (APIError, ValueError) as error:  # no connection, or an answer that is no JSON
                self._count_failure(error, is_down=isinstance(error, APIConnectionError))
                return None
        self._num_unanswered_in_a_row = 0
        # A server of another kind (a web page behind the address) answers with something else.
        choices = getattr(answer, "choices", None)
        text = choices[0].message.content if choices else None
        self.num_failed += text is None
        return text

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()

    def _raise_if_refused(self, status: int) -> None:
        """Raise UserError for what no retry would change: a wrong key, or a wrong name."""
        config = self._config
        if status in (401, 403):
            what = "refused the key in" if self._has_key else "asks for a key; set"
            raise UserError(
                f"the endpoint {config.url} {what} the environment variable {config.key_env} "
                f"(HTTP {status})"
            ) from None
        if status == 404:
            raise UserError(
                f"the endpoint {config.url} knows no model {config.model}, or its address lacks "
                "the version (such as /v1); correct endpoint.model or endpoint.url"
            ) from None

    def _count_failure(self, error: Exception, is_down: bool) -> None:
        """Count a request without an answer, and log the first one's reason."""
        if not self.num_failed:
            # A server may repeat what it was sent: the key must not reach a log that way.
            key = os.environ.get(self._config.key_env) or _NO_KEY
            reason = str(error).replace(key, "KEY").replace("\n", " ")[:300]
            logger.warning(
                "the endpoint %s gave no answer (%s: %s)",
                self._config.url,
                type(error).__name__,
                reason,
            )
        self.num_failed += 1
        self._num_unanswered_in_a_row = self._num_unanswered_in_a_row + 1 if is_down else 0
