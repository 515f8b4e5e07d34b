"""Chats to token ids and back, as the model's own tokenizer and chat template mean them.

What ends a turn ends an answer, what spells a control token is ordinary text, and a model without a
chat template gets `role: content` lines, as in the official code.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from actors.sampling.control_tokens import ControlTokens
from actors.sampling.template import (
    THINK_CLOSE,
    THINK_OPEN,
    TemplateFacts,
    probe_template,
)
from rzero_ray.method.vocabulary import allowed_tokens
from rzero_ray.text.characters import well_formed
from rzero_ray.types import Completion, Message, UserError, Vocabulary, Weights

_ROLE_LINES = re.compile(r"^(?:system|user|assistant):", re.MULTILINE)
"""Where a turn begins in a prompt of `role: content` lines."""
_OWN_ROLE = "assistant:"
_INNER_ROLE_LINES = re.compile(r"(?<=\n)(?=(?:system|user|assistant):)")

_MOST_BYTES_AHEAD = 16
"""Tokens of one byte that may be missing from a prefix with as many characters as the answer."""

_NO_TEMPLATE = TemplateFacts(
    takes_system=True, opens_thought=False, end_of_turn="", next_turn="", frame=()
)


class ChatTokenizer:
    """A model's tokenizer and chat template."""

    def __init__(self, model: str | Path) -> None:
        """Read the files of the folder `model`, and probe its template within limits of time.

        Raises UserError when the tokenizer cannot be read, or the template cannot be rendered.
        """
        self._model = str(model)
        self._tokenizer = _load(self._model)
        backend: Tokenizer | None = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"the tokenizer of {model} has no tokenizer.json, by which control tokens are told "
                "from text; save it once with transformers' PreTrainedTokenizerFast"
            )
        if not backend.encode("1", add_special_tokens=False).ids:
            raise UserError(
                f"the tokenizer of {model} has no vocabulary; its folder must hold tokenizer.json"
            )
        self._facts = _NO_TEMPLATE
        if self._tokenizer.chat_template:
            variables = self._tokenizer.special_tokens_map
            self._facts = probe_template(self._template(), variables, self._model)
        added = backend.get_added_tokens_decoder()
        configured = _end_tokens(self._model, self._tokenizer)
        names = {token.content for token in added.values() if token.special}
        names |= {added[i].content for i in configured if i in added}
        names |= self._framing([token.content for token in added.values()])
        # A token such as "\n\n" or "!" is text, whatever its flag says.
        names = {name for name in names if len(name) > 1 and name.strip()}
        try:
            self._control = ControlTokens(backend, names)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the control tokens of {model} cannot be told from text: {error}"
            ) from None
        self._hidden = {i for i, token in added.items() if token.special} | self._control.ids
        self._hidden -= {i for i, token in added.items() if token.content in _THINK_TAGS}
        self._num_trailing = _num_trailing(backend)
        self.stop_token_ids = self._stop_token_ids(configured)
        self._last_vocabulary: tuple[Vocabulary, NDArray[np.int32]] | None = None
        """One step's requests have one."""
        self._next_turn = self._find_next_turn()
        self._check_aliases()

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a chat that awaits its answer.

        They are those of transformers' `apply_chat_template`, except that control tokens which are
        spelled out in the texts are ordinary characters, and that the text of the system stands in
        front of the user's where a template has no place for it.
        """
        chat = [Message(role=m["role"], content=well_formed(m["content"])) for m in messages]
        if not self._facts.takes_system:
            chat = _fold_system(chat)
        disguised = [
            Message(role=m["role"], content=self._control.disguise(m["content"])) for m in chat
        ]
        write = self._apply_template if self._tokenizer.chat_template else _role_lines
        text = write(chat)
        safe = text if disguised == chat else write(disguised)
        if self._tokenizer.chat_template:
            return self._encode(text, safe, add_special_tokens=False)
        ids = self._encode(text, safe, add_special_tokens=True)
        # Some tokenizers end every text with an end token, which a prompt must not have.
        return ids[: len(ids) - self._num_trailing]

    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of an answer as the template writes it behind a prompt, end included.

        The end is what ends a turn in the template, else the tokenizer's end-of-sequence token,
        else an end token of the model's configuration; where a model has none, nothing. Where the
        prompt opens a thought, an answer without one closes it first.
        """
        text = well_formed(text)
        before, end = self._end_of_answer()
        opening = ""
        if self._facts.opens_thought:
            text = text.removeprefix(THINK_OPEN)
            opening = "" if THINK_CLOSE in text else f"{THINK_CLOSE}\n\n"
        safe = self._control.disguise(text)
        ids = self._encode(
            f"{opening}{text}{before}", f"{opening}{safe}{before}", add_special_tokens=False
        )
        return [*ids, *end]

    def allowed_tokens(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """Return the ids of a vocabulary, in order (`method.vocabulary`)."""
        if self._last_vocabulary is None or self._last_vocabulary[0] != vocabulary:
            protected = set(self.stop_token_ids)
            for text in vocabulary.always:
                protected.update(self._encode(text, text, add_special_tokens=False))
            ids = allowed_tokens(len(self._tokenizer), protected, vocabulary)
            self._last_vocabulary = vocabulary, ids
        return self._last_vocabulary[1]

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of completions, without special tokens.

        A completion to a prompt that ends inside a thought begins in it: its text has the opening
        tag in front, which is no token of its own.
        """
        front = THINK_OPEN if self._facts.opens_thought else ""
        return [front + self._decode(ids) for ids in sequences]

    def to_completion(
        self,
        prompt_ids: NDArray[np.int32],
        token_ids: NDArray[np.int32],
        logprobs: NDArray[np.float32],
        finished: bool,
        weight_versions: Sequence[tuple[Weights | None, int, int]],
    ) -> Completion:
        """Return a sampled sequence with its text, cut where it begins a turn of its own.

        `logprobs` may be empty, for who reads none.
        Only a model whose turns end with no token of their own gets so far: the turn that is cut
        off stands for the end token, so that the completion is finished.
        """
        length = self.answer_length(token_ids.tolist())
        kept = token_ids[:length]
        (text,) = self.decode_all([kept.tolist()])
        return Completion(
            text=text,
            num_tokens=length,
            finished=finished or length < len(token_ids),
            prompt_ids=prompt_ids,
            token_ids=kept,
            logprobs=logprobs[:length],
            weight_versions=tuple(
                (version, start, min(end, length))
                for version, start, end in weight_versions
                if start < length
            ),
        )

    def answer_length(self, token_ids: Sequence[int]) -> int:
        """Return how many tokens of a completion precede the next turn that it begins itself.

        All of them where it begins none; at least one. White space before the turn is left out.
        """
        if self._next_turn is None:
            return len(token_ids)
        text = self._decode(token_ids)
        start = self._next_turn(text)
        if start is None:
            return len(token_ids)

        def num_characters(length: int) -> int:
            return len(self._decode(token_ids[:length]))

        answer = text[:start].rstrip()
        first = bisect_left(range(len(token_ids)), len(answer), key=num_characters)
        # The first bytes of a character decode as a character, or as one each: then the count runs
        # ahead, and the whole answer is a few tokens on.
        for length in range(first, min(first + _MOST_BYTES_AHEAD, len(token_ids)) + 1):
            kept = self._decode(token_ids[:length])
            if kept.startswith(answer):
                return max(1, length - (len(kept) > start))
        return max(1, first - (num_characters(first) > start))

    def _encode(self, text: str, safe: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`; `safe` is the same text with what outsiders wrote disguised."""
        guarded = self._control.encode(safe, add_special_tokens=add_special_tokens)
        if safe != text:
            return guarded
        encoded: Any = self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
        ids: list[int] = encoded["input_ids"]
        # They differ where a text spells a control token only once it is normalized.
        return list(ids) if self._structure(ids) == self._structure(guarded) else guarded

    def _structure(self, ids: Iterable[int]) -> list[int]:
        """Return the control tokens among ids; an unknown character is none."""
        unknown = self._tokenizer.unk_token_id
        return [i for i in ids if i in self._control.ids and i != unknown]

    def _decode(self, ids: Sequence[int]) -> str:
        shown = [i for i in ids if i not in self._hidden]
        return str(self._tokenizer.decode(shown, skip_special_tokens=False))

    def _template(self) -> str:
        try:
            return self._tokenizer.get_chat_template()
        except ValueError:  # several templates, none of them for ordinary chats
            raise UserError(
                f"the tokenizer of {self._model} has several chat templates and none is named "
                "default; name one of them so"
            ) from None

    def _apply_template(self, chat: Sequence[Message]) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": m["role"], "content": m["content"]} for m in chat],
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as error:  # whatever the template does wrong, it is the template's
            raise UserError(
                f"the chat template of {self._model} refuses a chat: {' '.join(str(error).split())}"
            ) from None
        return str(text)

    def _framing(self, contents: Sequence[str]) -> set[str]:
        """Return the added tokens that the template writes around turns, whatever their flag.

        Neither the tags of a thought nor a word that stands in its own text.
        """
        frame = "\n".join(self._facts.frame)
        return {
            name
            for name in contents
            if name in frame and name not in _THINK_TAGS and not name.isalnum()
        }

    def _stop_token_ids(self, configured: Iterable[int]) -> list[int]:
        """Return every id that ends an answer, the configured ones and the template's."""
        ids = set(configured)
        for text in (self._facts.end_of_turn, self._facts.next_turn):
            found = self._control.first_in(text)
            if found is not None:
                ids.add(found[1])
        return sorted(ids)

    def _end_of_answer(self) -> tuple[str, list[int]]:
        """Return what an answer ends with: text, then ids."""
        text = self._facts.end_of_turn
        found = self._control.first_in(text)
        if found is not None:
            return text[: found[0]], [found[1]]
        eos: Any = self._tokenizer.eos_token_id
        ids = [eos] if isinstance(eos, int) else self.stop_token_ids[:1]
        return text.rstrip(), ids

    def _find_next_turn(self) -> Callable[[str], int | None] | None:
        """Return what finds the turn that a completion begins itself; None where a token ends it.

        The mark is the line with which the next turn begins in the template, or a role's.
        """
        if not self._tokenizer.chat_template:
            return _find_role_line
        text = self._facts.next_turn
        mark = text.strip().partition("\n")[0].strip()
        is_told_by_token = any(self._control.first_in(t) for t in (self._facts.end_of_turn, text))
        if is_told_by_token or len(mark) < 3:
            return None
        at_line_start = "^" if "\n" in text[: len(text) - len(text.lstrip())] else ""
        pattern = re.compile(at_line_start + re.escape(mark), re.MULTILINE)

        def find(completion: str) -> int | None:
            match = pattern.search(completion)
            return None if match is None else match.start()

        return find

    def _check_aliases(self) -> None:
        """Raise UserError unless guarded texts have the ids of transformers' own encoding."""
        for text in self._facts.frame or (_role_lines([Message(role="user", content="1+1?")]),):
            ids: Any = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if list(ids) != self._control.encode(text, add_special_tokens=False):
                raise UserError(
                    f"the control tokens of {self._model} cannot be told from text: its tokenizer "
                    "gives other ids once they are renamed; convert tokenizer.json to a model of "
                    "the kinds BPE, Unigram, WordPiece or WordLevel"
                )


_THINK_TAGS = (THINK_OPEN, THINK_CLOSE)


def _load(model: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the tokenizer of {model} cannot be loaded: {reason}") from None


def _end_tokens(model: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return every end-of-sequence id that the tokenizer or the model's configuration names."""
    found: list[Any] = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        config = _read_json(Path(model) / name)
        # A model of text and images keeps what concerns the text in a part of its own.
        for part in (config, config.get("text_config")):
            named = part.get("eos_token_id") if isinstance(part, dict) else None
            found += named if isinstance(named, list) else [named]
    return {i for i in found if isinstance(i, int) and not isinstance(i, bool) and i >= 0}


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); restore it") from None
    return content if isinstance(content, dict) else {}


def _num_trailing(backend: Tokenizer) -> int:
    """Return how many tokens the tokenizer puts behind every text."""
    mask = backend.encode("1", add_special_tokens=True).special_tokens_mask
    return next((k for k, is_special in enumerate(reversed(mask)) if not is_special), 0)


def _fold_system(chat: Sequence[Message]) -> list[Message]:
    """Return a chat without system: its text stands in front of the first user's, with a blank line
    between."""
    texts = [m["content"] for m in chat if m["role"] == "system" and m["content"]]
    folded: list[Message] = []
    for message in chat:
        if message["role"] == "system":
            continue
        if message["role"] == "user" and texts:
            content = "\n\n".join([*texts, *([message["content"]] if message["content"] else [])])
            message = Message(role="user", content=content)
            texts = []
        folded.append(message)
    return folded or [Message(role="user", content="\n\n".join(texts))]


def _role_lines(chat: Sequence[Message]) -> str:
    """Return `role: content` lines; a line of a content that looks like one is indented."""
    return "\n".join(f"{m['role']}: {_INNER_ROLE_LINES.sub(' ', m['content'])}" for m in chat)


def _find_role_line(text: str) -> int | None:
    """Return where a completion begins another turn; the line that opens its own is none."""
    for match in _ROLE_LINES.finditer(text):
        if match[0] != _OWN_ROLE or text[: match.start()].strip():
            return match.start()
    return None
