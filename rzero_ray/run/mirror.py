"""A copy of a run directory in a store, made while the run goes on (`storage_path`).

    files that are new or have changed   ->   manifest.json as it was before   ->   removals

So the copy is a whole run at every moment: what its manifest names is there. A start on a machine
without the run directory takes it from there.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import RootModel

from rzero_ray.config.config import Config, resolve_folder
from rzero_ray.disk.files import read_bytes, read_json, write_text_durably
from rzero_ray.disk.folder import check_folder, held
from rzero_ray.disk.store import Store, StoreError, join
from rzero_ray.run.manifest import Manifest
from rzero_ray.types import UserError

_KEY = "storage_path"
_MANIFEST = "manifest.json"
_WRITER = ".writer"
"""Holds the name of the driver that the copy is of."""
_RECORD = ".copied.json"
"""What of the run directory is copied, and where to: {address: {file: [bytes, modified]}}."""
_TAKEN = ".taken.partial"
"""The folder in which a run directory is put together that comes from a store."""
_RETRY_S = 60.0
"""Between two tries where a store refuses."""
_AT_THE_END_S = 3600.0
_AFTER_AN_ERROR_S = 10.0
"""How long a run that ends waits for its copy: who has stopped it wants it to end."""
_LONGEST_HOLD_S = 3600.0
"""How long a removal waits for the copy under way."""
_LOOK_S = 0.5

Stamp = tuple[int, int]
"""The bytes of a file, and when it was written, in microseconds."""


class _Record(RootModel[dict[str, dict[str, list[int]]]]):
    """The shape of `.copied.json`."""


def open_store(config: Config, root: Path) -> Store | None:
    """Return where the copy of the run directory `root` is; None where there shall be none.

    Raises UserError where the store cannot be written and read.
    """
    if not config.storage_path:
        return None
    address = config.storage_path
    if "://" not in address:
        address = str(resolve_folder(address))
    _check_apart(join(address, root.name), root)
    store = Store(join(address, root.name), _KEY)
    store.check_rights()
    return store


def take_from(store: Store, root: Path) -> int:
    """Have `root` hold the run that is in the store, unless it holds a run; return how many files
    were taken.

    Raises UserError where a file is not as long as the store says, where `root` holds anything
    else, or where its run is not the one in the store, or older than that.
    """
    try:
        if os.path.lexists(root / _MANIFEST):
            _check_same_run(store, root)
            _check_ours(store, store.sizes())
            return 0
        sizes = store.sizes()
        if _MANIFEST not in sizes:
            _check_ours(store, sizes)
            return 0
        names = [name for name in sizes if _is_of_run(name)]
        check_folder(root, "run_dir", lambda others: (root / _TAKEN).is_dir())
        with held(root, "run_dir", sum(sizes.values()), what=" for the run in the store"):
            _take(store, root, {name: sizes[name] for name in names})
        return len(names)
    except StoreError as error:
        raise UserError(f"{error}; mend that, or leave {_KEY} out") from None


def _check_ours(store: Store, sizes: Mapping[str, int]) -> None:
    """Raise UserError where a store holds something that no run has put there: what a run does not
    have is removed from its copy."""
    others = sizes.keys() - {_WRITER, _MANIFEST}
    if others and not sizes.keys() & {_WRITER, _MANIFEST}:
        raise UserError(
            f"{_KEY}: {store.address} holds something else than a run, such as {min(others)}; "
            f"choose another {_KEY} or run_dir"
        )


def _check_apart(address: str, root: Path) -> None:
    """Raise UserError where a copy on a disk would lie in the run directory, or be it."""
    scheme, _, path = address.rpartition("://")
    if scheme not in ("", "file", "local"):  # fsspec's names of a disk
        return
    copy, run = Path(path).resolve(), root.resolve()
    if copy == run or run in copy.parents or copy in run.parents:
        raise UserError(
            f"{_KEY}: the copy would be {copy}, which is run_dir={root}, or in it, or around it; "
            f"choose another {_KEY}"
        )


def _check_same_run(store: Store, root: Path) -> None:
    there = store.get_bytes(_MANIFEST)
    if there is None:
        return
    where = f"{_KEY}: {store.address}"
    if store.address not in _read_record(root):
        raise UserError(
            f"{where} holds a run that is not the one in run_dir={root}; choose another {_KEY} or "
            "run_dir"
        )
    if json.loads(there).get("attempt", 0) > Manifest.read(root / _MANIFEST).attempt:
        raise UserError(
            f"{where} is ahead of run_dir={root}: the run has gone on elsewhere; move this folder "
            "away, and the same command takes the newer one"
        )


def _take(store: Store, root: Path, sizes: dict[str, int]) -> None:
    taken = root / _TAKEN
    shutil.rmtree(taken, ignore_errors=True)
    for name, size in sizes.items():
        path = taken / name
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get(name, path)
        if path.stat().st_size != size:
            raise UserError(
                f"{store.address}/{name} has {size} bytes, of which {path.stat().st_size} arrived; "
                "try again"
            )
    _write_record(root, store, _stamps(taken))
    # The manifest last: without it there is no run, and the next start begins anew.
    for entry in sorted(taken.iterdir(), key=lambda path: path.name == _MANIFEST):
        target = root / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)
    taken.rmdir()


class Mirror:
    """Copies a run directory, beside the run and one time after the other.

    Its thread never holds a step up. What a store refuses is told once, is tried again, and is told
    again when it succeeds.
    """

    def __init__(self, root: Path, store: Store | None, tell: Callable[[str], None]) -> None:
        """Without a store nothing is copied. `tell` is given lines for the user."""
        self._root = root
        self._store = store
        self._tell = tell
        self._writer = uuid.uuid4().hex
        self._still = threading.Lock()
        """Held while files are copied, and while some are removed."""
        self._wake = threading.Event()
        self._is_closing = False
        self._is_over = False
        """Whether nothing is copied any more, finished or not."""
        self._fails = False
        self._copied: dict[str, Stamp] = {}
        self._there: set[str] = set()
        """The files in the store."""
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        if store is not None:
            self._thread.start()

    def changed(self) -> None:
        """Say that something was finished, and return."""
        self._wake.set()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Have nothing copied in the block, in which files of the run are removed: those that the
        manifest of the copy under way names stay until it is there."""
        waited = 0.0
        has_it = False
        while not (self._is_over or has_it) and waited < _LONGEST_HOLD_S:
            has_it = self._still.acquire(timeout=_LOOK_S)
            waited += _LOOK_S
        try:
            yield
        finally:
            if has_it:
                self._still.release()

    def close(self, within_s: float) -> None:
        """Copy what has changed since; where that takes longer, leave it and say so."""
        if not self._thread.is_alive():
            return
        self._is_closing = True
        self._wake.set()
        self._thread.join(within_s)
        is_late = self._thread.is_alive()
        self._is_over = True
        assert self._store is not None
        if is_late or self._fails:
            self._tell(
                f"warning: the copy in {self._store.address} lacks what was finished last; the "
                "same command copies it"
            )

    def _work(self) -> None:
        assert self._store is not None
        while not self._is_over:
            self._wake.wait(_RETRY_S if self._fails else None)
            self._wake.clear()
            is_last = self._is_closing
            try:
                with self._still:
                    self._copy(self._store)
            except (StoreError, OSError) as error:
                if not self._fails:
                    self._tell(f"warning: {_KEY}: {error}; the run goes on without its copy")
                self._fails = True
            else:
                if self._fails:
                    self._tell(f"the copy of the run in {self._store.address} is whole again")
                self._fails = False
            if is_last:
                return

    def _copy(self, store: Store) -> None:
        """Have the store hold the run directory as it is; the first time also what it should."""
        if not self._there:
            self._begin(store)
        if store.get_bytes(_WRITER) != self._writer.encode():
            self._is_over = True
            raise StoreError(
                f"another driver has taken the run in {store.address} over; this one's is not "
                "copied any more"
            )
        manifest = read_bytes(self._root / _MANIFEST)
        stamps = _stamps(self._root)
        for name, stamp in stamps.items():
            if name == _MANIFEST or self._copied.get(name) == stamp:
                continue
            if self._is_over:
                return
            self._there.add(name)
            if _put(store, self._root / name, name):
                self._copied[name] = stamp
        store.put_bytes(manifest, _MANIFEST)
        self._there.add(_MANIFEST)
        for name in self._there - stamps.keys() - {_WRITER}:
            store.remove(name)
            self._copied.pop(name, None)
        self._there &= stamps.keys() | {_WRITER}
        _write_record(self._root, store, self._copied)

    def _begin(self, store: Store) -> None:
        """Take the copy over, and find out what it has."""
        sizes = store.sizes()
        before = _read_record(self._root).get(store.address, {})
        self._copied = {
            name: stamp for name, stamp in before.items() if sizes.get(name) == stamp[0]
        }
        # Before the first file, so that a copy that a stop has cut short is known as this run's.
        _write_record(self._root, store, self._copied)
        store.put_bytes(self._writer.encode(), _WRITER)
        self._there = {*sizes, _WRITER}


@contextmanager
def copied(root: Path, store: Store | None, tell: Callable[[str], None]) -> Iterator[Mirror]:
    """Give the mirror of a run directory, which has copied all of it when the block has ended; one
    that is left by an error gets a moment for that, and the copy stays whole without."""
    mirror = Mirror(root, store, tell)
    try:
        yield mirror
    except BaseException:
        mirror.close(_AFTER_AN_ERROR_S)
        raise
    mirror.close(_AT_THE_END_S)


def _put(store: Store, path: Path, name: str) -> bool:
    """Store a file of the run; returns whether it was there: what no manifest names may go."""
    try:
        store.put(path, name)
    except StoreError:
        if path.exists():
            raise
        return False
    return True


def _stamps(root: Path) -> dict[str, Stamp]:
    """Return the files of a run directory, without those that are being written or removed."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if name.startswith(".") or path.is_symlink():
                continue
            with suppress(FileNotFoundError):  # replaced at this moment
                stat = path.stat()
                found[path.relative_to(root).as_posix()] = (stat.st_size, stat.st_mtime_ns // 1000)
    return found


def _is_of_run(name: str) -> bool:
    """Return whether a file in a store is of a run directory, and stays inside one."""
    parts = name.split("/")
    return not any(part.startswith(".") or not part for part in parts)


def _read_record(root: Path) -> dict[str, dict[str, Stamp]]:
    """Return, by address, what of a run directory is copied."""
    if not os.path.lexists(root / _RECORD):
        return {}
    stored = read_json(root / _RECORD, _Record)
    return {
        address: {name: (size, when) for name, (size, when) in stamps.items()}
        for address, stamps in stored.items()
    }


def _write_record(root: Path, store: Store, copied: dict[str, Stamp]) -> None:
    write_text_durably(root / _RECORD, json.dumps({store.address: copied}))
