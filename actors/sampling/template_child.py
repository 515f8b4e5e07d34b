"""The killable child of `template`: renders a model's chat template within limits.

A chat template is a program of whoever made the model's folder. The sandbox of transformers keeps
it from files and processes, but neither from loops nor from memory: here it runs where both end.

One JSON object comes in by standard input:

    {"template": str, "variables": {str: str}, "chats": [{"messages": [...], "open": bool}, ...],
     "cpu_seconds": int, "memory_bytes": int, "max_characters": int}

and one list goes out by standard output, an entry a chat: {"text": str}, or {"refused": str} where
the template raises an error, or {"exceeds": str} where it writes or needs too much. Too much
processor time ends this process by a signal. Run as a file: it imports nothing of ours.
"""

import json
import math
import os
import resource
import sys
import time
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template


def main() -> None:
    """Answer the one request."""
    request = json.load(sys.stdin)
    _set_limits(request["cpu_seconds"], request["memory_bytes"])
    answers = [_render(request, chat) for chat in request["chats"]]
    json.dump(answers, sys.stdout)


def _set_limits(cpu_seconds: int, memory_bytes: int) -> None:
    """Limit what this process may use beyond what its imports used."""
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + cpu_seconds, used + cpu_seconds + 1))
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _render(request: dict[str, Any], chat: dict[str, Any]) -> dict[str, str]:
    try:
        (text,), _ = render_jinja_template(
            conversations=[chat["messages"]],
            chat_template=request["template"],
            add_generation_prompt=chat["open"],
            **request["variables"],
        )
    except MemoryError:
        return {"exceeds": f"needs more than {request['memory_bytes'] >> 20} MiB of memory"}
    except Exception as error:  # whatever the template does wrong, it is the template's
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
    if len(text) > request["max_characters"]:
        return {"exceeds": f"writes more than {request['max_characters']:,} characters"}
    return {"text": text}


if __name__ == "__main__":
    main()
