"""A model of the hub on a node that does not have it, fetched from a small hub that is here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NAME, REVISION, TOKEN = "someone/Small-Model", "0a" * 20, "hf_of_the_user"
FILES = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": bytes(64)}
FOLDER = f"models--someone--Small-Model/snapshots/{REVISION}"


class Hub(BaseHTTPRequestHandler):
    """Serves the files of one model, of which one has to be told the token."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send_error(401)
        content = self._content()
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(self.path) & 0xFFFFFF:x}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _content(self) -> bytes | None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/{NAME}/revision/{REVISION}":
            siblings = [{"rfilename": name} for name in FILES]
            return json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings}).encode()
        if path.startswith(f"/api/models/{NAME}/tree/{REVISION}"):
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in FILES.items()
            ]
            return json.dumps(files).encode()
        return FILES.get(path.removeprefix(f"/{NAME}/resolve/{REVISION}/"))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _where_it_is(folder: Path, environment: dict[str, str]) -> str:
    """Return what a process of another node says: the folder, or the error."""
    script = (
        "import sys; from pathlib import Path; from rzero_ray.types import UserError\n"
        "from rzero_ray.tasks.base_model import where_it_is\n"
        "try: print(where_it_is(Path(sys.argv[1])))\n"
        "except UserError as error: print('refused:', error)\n"
    )
    others = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env=others | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout.strip()


def test_a_node_fetches_the_revision_that_the_driver_has(hub: str, tmp_path: Path):
    """The driver's cache is at a place that this node does not have."""
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    there = Path("/home/driver/.cache/huggingface/hub") / FOLDER
    here = tmp_path / "hub" / FOLDER
    assert _where_it_is(there, environment) == str(here)
    assert {path.name: path.read_bytes() for path in here.iterdir()} == FILES


def test_a_node_without_the_token_says_so_in_one_line(hub: str, tmp_path: Path):
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
    said = _where_it_is(Path("/home/driver/hub") / FOLDER, environment)
    assert said.startswith(f"refused: model.path={NAME} is neither in the Hugging Face cache nor")
    assert "401" in said and "\n" not in said
