"""A folder that may lie anywhere: on a disk, or in a cloud, wherever fsspec gets.

Every file of it is the old or the new one at each moment, as `files.replacing` has it of a disk.
"""

from __future__ import annotations

import posixpath
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from rzero_ray.types import RunError, UserError

T = TypeVar("T")

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "hf": "huggingface_hub",
}
"""{scheme: the package that fsspec needs for it}."""
_SHOWS_HALF_FILES = ("file", "local", "sftp", "ssh", "smb", "ftp", "hdfs", "arrow_hdfs", "webhdfs")
"""Schemes with folders, where a file that is being written can be seen; elsewhere it is there when
it is whole."""
_PARTIAL = ".partial"
_LONGEST_FIRST_ANSWER_S = 60.0
_MOST_SHOWN = 200


class StoreError(RunError):
    """A store refused something; the text names the store, what it said, and the fix."""


class Store:
    """A folder at an address, as files by their names in it (`iteration-01/curriculum.parquet`)."""

    def __init__(self, address: str, key: str) -> None:
        """`address` is a path or SCHEME://..., which the key named `key` holds.

        Raises UserError for a scheme that fsspec does not know, or whose package is missing.
        """
        # Imported here: a run without a store needs no fsspec.
        import fsspec

        self.address = address
        self._key = key
        scheme = address.partition("://")[0] if "://" in address else "file"
        try:
            found: Any = fsspec.core.url_to_fs(address)
        except ImportError as error:
            package = _PACKAGES.get(scheme)
            fix = f"pip install {package} on this machine" if package else str(error)
            raise UserError(f"{key}={address}: {scheme}:// needs another package; {fix}") from None
        except ValueError as error:
            raise UserError(
                f"{key}={address} is no address ({_first_line(error)}); give a folder, or one that "
                "fsspec knows, such as s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
            ) from None
        except Exception as error:  # a package that looks for keys or a server at once
            raise UserError(f"{key}={address} cannot be used ({_first_line(error)})") from None
        self._fs, self._root = found
        self._has_folders = scheme in _SHOWS_HALF_FILES

    def check_rights(self) -> None:
        """Raise UserError where a file cannot be written, read and removed, or nobody answers."""
        name, content = f".rights-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex.encode()

        def look() -> bool:
            self.put_bytes(content, name)
            found = self.get_bytes(name)
            self.remove(name)
            return found == content

        try:
            is_same = _answer_of(look)
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_LONGEST_FIRST_ANSWER_S:.0f} s"
            raise UserError(
                f"{self._key}={self.address} cannot be written and read ({reason}); give this user "
                f"the rights, or choose another {self._key}"
            ) from None
        if not is_same:
            raise UserError(f"{self._key}={self.address} gives back other bytes than it was given")

    def sizes(self) -> dict[str, int]:
        """Return {name: bytes} of all files; nothing where there is no such folder."""
        with self._one_line("list the files"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
            root = self._fs._strip_protocol(self._root)
            return {
                posixpath.relpath(path, root): int(info["size"]) for path, info in found.items()
            }

    def put(self, path: Path, name: str) -> None:
        """Store a file of this machine, in place of the one that has this name."""
        self._write(name, lambda to: self._fs.put_file(str(path), to))

    def put_bytes(self, content: bytes, name: str) -> None:
        """Store a file with this content, in place of the one that has this name."""
        self._write(name, lambda to: self._fs.pipe_file(to, content))

    def get(self, name: str, path: Path) -> None:
        """Write a file into `path`, whose folder is there."""
        with self._one_line(f"read {name}"):
            self._fs.get_file(self._at(name), str(path))

    def get_bytes(self, name: str) -> bytes | None:
        """Return what a file holds; None where there is none."""
        with self._one_line(f"read {name}"):
            try:
                return self._fs.cat_file(self._at(name))
            except FileNotFoundError:
                return None

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        with self._one_line(f"remove {name}"), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _write(self, name: str, write: Callable[[str], object]) -> None:
        with self._one_line(f"write {name}"):
            to = self._at(name)
            if not self._has_folders:
                write(to)
                return
            folder, _, last = to.rpartition("/")
            self._fs.makedirs(folder, exist_ok=True)
            partial = f"{folder}/.{last}{_PARTIAL}"
            write(partial)
            self._fs.mv(partial, to)

    @contextmanager
    def _one_line(self, what: str) -> Iterator[None]:
        """Turn whatever a store's library raises into a StoreError."""
        try:
            yield
        except Exception as error:  # each has classes of its own
            raise StoreError(f"could not {what} in {self.address}: {_first_line(error)}") from error


def join(address: str, name: str) -> str:
    """Return the address of the folder `name` in that at `address`."""
    return f"{address.rstrip('/')}/{name}"


def _answer_of(ask: Callable[[], T]) -> T:
    """Return what `ask` does; TimeoutError where it takes too long: a network disk can hang."""
    answers: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="first look at the store", daemon=True)
    thread.start()
    thread.join(_LONGEST_FIRST_ANSWER_S)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


def _first_line(error: BaseException) -> str:
    text = " ".join((str(error).strip() or type(error).__name__).split())
    return text[:_MOST_SHOWN]
