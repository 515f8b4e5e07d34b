"""What a model's chat template writes around the turns of a chat, found out once.

The template is rendered with texts that are known, in a process that can be killed
(`template_child`), and what it writes before, between and behind them is read off.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rzero_ray.types import UserError

CPU_SECONDS = 5
"""Processor time in which a template has to render the probe; real ones need milliseconds."""
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 100_000
"""Longest text of one chat of the probe, whose own texts are short."""
_WALL_SECONDS = 120.0
"""Ends a child that waits instead of working, or that gets no processor on a busy machine."""

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"

_SYSTEM = "Text of the system"
_USER = "First text of the user"
_ASSISTANT = "Text of the assistant"
_NEXT_USER = "Second text of the user"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFacts:
    """What a chat template does."""

    takes_system: bool
    """False where it refuses a system's message, or leaves its text out."""
    opens_thought: bool
    """Whether a prompt that awaits its answer ends inside `<think>`."""
    end_of_turn: str
    """What it writes after the assistant's message at the end of a chat; empty where nothing, or
    where it takes no such message."""
    next_turn: str
    """What it writes between the assistant's message and a message of the user that follows."""
    frame: tuple[str, ...]
    """All that it wrote: the chats of the probe as rendered."""


def probe_template(template: str, variables: Mapping[str, str], model: str) -> TemplateFacts:
    """Render a few chats within limits, and return what the template did with them.

    Raises UserError when it exceeds a limit or cannot render a question; `model` is named there.
    """
    system = {"role": "system", "content": _SYSTEM}
    user = {"role": "user", "content": _USER}
    assistant = {"role": "assistant", "content": _ASSISTANT}
    next_user = {"role": "user", "content": _NEXT_USER}
    chats = [
        {"messages": [system, user], "open": True},
        {"messages": [user], "open": True},
        {"messages": [user, assistant], "open": False},
        {"messages": [user, assistant, next_user], "open": False},
    ]
    with_system, question, answered, going_on = _render_in_child(template, variables, chats, model)
    text = with_system.get("text", "")
    takes_system = _SYSTEM in text and _USER in text
    if not takes_system:
        text = question.get("text", "")
    if _USER not in text:
        reason = question.get("refused", "it leaves the text of the user out")
        raise UserError(
            f"the chat template of {model} cannot render a question ({_one_line(reason)}); mend "
            "chat_template in its tokenizer's files"
        )
    behind = text.rpartition(_USER)[2]
    _, _, end = answered.get("text", "").rpartition(_ASSISTANT)
    _, found, rest = going_on.get("text", "").rpartition(_ASSISTANT)
    return TemplateFacts(
        takes_system=takes_system,
        opens_thought=behind.rfind(THINK_OPEN) > behind.rfind(THINK_CLOSE),
        end_of_turn=end if _ASSISTANT in answered.get("text", "") else "",
        next_turn=rest.partition(_NEXT_USER)[0] if found and _NEXT_USER in rest else "",
        frame=tuple(
            chat["text"] for chat in (with_system, question, answered, going_on) if "text" in chat
        ),
    )


def _render_in_child(
    template: str, variables: Mapping[str, str], chats: list[dict[str, Any]], model: str
) -> list[dict[str, str]]:
    request = {
        "template": template,
        "variables": dict(variables),
        "chats": chats,
        "cpu_seconds": CPU_SECONDS,
        "memory_bytes": MEMORY_BYTES,
        "max_characters": MAX_CHARACTERS,
    }
    child = Path(__file__).with_name("template_child.py")
    fix = "mend chat_template in its tokenizer's files, or use another model"
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(child)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=_WALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the chat template of {model} was not rendered within {_WALL_SECONDS:.0f} s; {fix}"
        ) from None
    if -done.returncode in (signal.SIGXCPU, signal.SIGKILL):
        raise UserError(
            f"the chat template of {model} takes more than {CPU_SECONDS} s of processor time to "
            f"render; {fix}"
        )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(
            f"the chat template of {model} cannot be rendered ({_one_line(reason[0])}); {fix}"
        )
    rendered: list[dict[str, str]] = json.loads(done.stdout)
    for chat in rendered:
        if "exceeds" in chat:
            raise UserError(f"the chat template of {model} {chat['exceeds']} for a chat; {fix}")
    return rendered


def _one_line(text: str) -> str:
    return " ".join(text.split())
