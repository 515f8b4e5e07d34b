"""Which texts do not fit a model's context, found before anything is started for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from actors.sampling.tokenization import ChatTokenizer
from rzero_ray.types import Message, PlacedText, UserError

_TOKENS_PER_BYTE = 11
"""A byte of UTF-8 becomes at most one token, and normalization (NFKC) at most eleven bytes."""


def check_lengths(model: Path, texts: Iterable[PlacedText], max_model_len: int, key: str) -> None:
    """Raise UserError naming the first text that is too long for `max_model_len` tokens, which the
    configuration calls `key`.

    A prompt has to leave room for an answer; a prompt and the answer that is imitated have to fit
    together. Texts that are too short to be too long are not tokenized.
    """
    tokenizer = ChatTokenizer(model)
    frames: dict[tuple[str, ...], int] = {}
    complaints: list[str] = []
    for text in texts:
        roles = tuple(message["role"] for message in text.messages)
        if roles not in frames:
            frames[roles] = _frame_length(tokenizer, roles)
        contents = [message["content"] for message in text.messages]
        num_bytes = sum(len(t.encode("utf-8", "replace")) for t in (*contents, text.answer))
        if frames[roles] + num_bytes * _TOKENS_PER_BYTE < max_model_len:
            continue
        num_prompt = len(tokenizer.render(text.messages))
        if not text.answer:
            if num_prompt >= max_model_len:
                complaints.append(
                    f"{text.where}: the prompt has {num_prompt} tokens and leaves no room for an "
                    f"answer within {key}={max_model_len}"
                )
            continue
        num_answer = len(tokenizer.encode_answer(text.answer))
        if num_prompt + num_answer > max_model_len:
            complaints.append(
                f"{text.where}: the prompt has {num_prompt} tokens and the solution {num_answer}, "
                f"together more than {key}={max_model_len}"
            )
    if complaints:
        others = f" (and {len(complaints) - 1} more of them)" if len(complaints) > 1 else ""
        raise UserError(f"{complaints[0]}{others}; shorten it, leave it out, or raise {key}")


def _frame_length(tokenizer: ChatTokenizer, roles: Iterable[str]) -> int:
    """Return about how many tokens the template adds to texts of these roles, and to an answer."""
    empty = [Message(role=role, content="") for role in roles]
    return len(tokenizer.render(empty)) + len(tokenizer.encode_answer("1"))
