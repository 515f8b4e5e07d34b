"""Chats to token ids and back, with the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from rzero_ray.types import Message


class ChatTokenizer:
    """A model's tokenizer and chat template."""

    def __init__(self, model: str) -> None:
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
        self.stop_token_ids = _stop_token_ids(model, self._tokenizer)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a chat that awaits its answer.

        A model without a chat template gets `role: content` lines, as in the official code.
        """
        if self._tokenizer.chat_template:
            ids = self._tokenizer.apply_chat_template(
                [{"role": m["role"], "content": m["content"]} for m in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
            return list(ids)  # type: ignore[arg-type]
        text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        return list(self._tokenizer(text)["input_ids"])  # type: ignore[arg-type]

    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of an answer, the end-of-sequence token included."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self._tokenizer.eos_token_id]  # type: ignore[misc]

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of completions, without special tokens."""
        texts = self._tokenizer.batch_decode(
            [list(ids) for ids in sequences], skip_special_tokens=True
        )
        return [str(text) for text in texts]


def _stop_token_ids(model: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every end-of-sequence id that the tokenizer or the generation config names."""
    ids: list[Any] = [tokenizer.eos_token_id]
    try:
        configured = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # many base models have no generation config
        configured = None
    ids += configured if isinstance(configured, list) else [configured]
    return sorted({i for i in ids if isinstance(i, int)})
