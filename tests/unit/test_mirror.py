"""The copy of a run directory in a store: whole at every moment, and taken from there."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rzero_ray.config.config import Config, to_yaml
from rzero_ray.config.load import load_config
from rzero_ray.disk.files import write_text_durably
from rzero_ray.disk.store import Store, StoreError
from rzero_ray.run import mirror as module
from rzero_ray.run.manifest import Manifest
from rzero_ray.run.mirror import Mirror, copied, open_store, take_from
from rzero_ray.study.arms import load_arm
from rzero_ray.types import UserError

BASE, ONE, TWO = "iteration-00", "iteration-01/challenger/step-001", "iteration-01/challenger"


def _config() -> Config:
    return load_config(["conf=tiny"])


def _begin(root: Path) -> Path:
    """Make a run directory with one finished step and its checkpoint."""
    root.mkdir()
    write_text_durably(root / "config.yaml", to_yaml(_config()))
    manifest = Manifest(root / "manifest.json")
    manifest.take_over()
    _write(root / "metrics.jsonl", "1")
    _write(root / f"{ONE}/rollouts.parquet", "drawn")
    _write(root / f"checkpoints/{ONE}/state.pt", "learned")
    manifest.finish(BASE)
    manifest.finish(ONE, with_checkpoint=True)
    return root


def _go_on(root: Path) -> None:
    """Finish another step, whose checkpoint takes the place of the one before."""
    manifest = Manifest.read(root / "manifest.json")
    two = f"{TWO}/step-002"
    _write(root / "metrics.jsonl", "1\n2")
    _write(root / f"{two}/rollouts.parquet", "drawn again")
    _write(root / f"checkpoints/{two}/state.pt", "learned again")
    manifest.finish(two, with_checkpoint=True)
    (root / f"checkpoints/{ONE}/state.pt").unlink()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _files(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def _copy(root: Path, store: Store) -> list[str]:
    told: list[str] = []
    with copied(root, store, told.append):
        pass
    return told


@pytest.fixture(params=["memory", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid.uuid4().hex}/run" if request.param == "memory" else f"{tmp_path}/store"


class Watched(Store):
    """A store that notes what is asked of it, and may refuse."""

    def __init__(self, address: str, ask: Callable[[int], None] = lambda number: None) -> None:
        super().__init__(address, "storage_path")
        self.told: list[str] = []
        self._ask = ask

    def _note(self, what: str) -> None:
        self._ask(len(self.told))
        self.told.append(what)

    def put(self, path: Path, name: str) -> None:
        self._note(f"put {name}")
        super().put(path, name)

    def put_bytes(self, content: bytes, name: str) -> None:
        self._note(f"put {name}")
        super().put_bytes(content, name)

    def remove(self, name: str) -> None:
        self._note(f"remove {name}")
        super().remove(name)


def test_a_run_is_copied_and_taken_on_another_machine(address: str, tmp_path: Path):
    root = _begin(tmp_path / "run")
    _write(root / ".lock", "")
    _write(root / "models/.solver-iteration-01.x.attempt/model.safetensors", "half")
    store = Store(address, "storage_path")
    assert _copy(root, store) == []
    assert set(store.sizes()) == {*_files(root), ".writer"} - {
        "models/.solver-iteration-01.x.attempt/model.safetensors"
    }
    there = tmp_path / "elsewhere" / "run"
    assert take_from(store, there) == 5
    assert take_from(store, there) == 0  # it is there
    found = _files(root)
    found.pop("models/.solver-iteration-01.x.attempt/model.safetensors")
    assert _files(there) == found


def test_the_manifest_comes_after_what_it_names_and_before_what_goes(address: str, tmp_path: Path):
    root = _begin(tmp_path / "run")
    _copy(root, Store(address, "storage_path"))
    _go_on(root)
    store = Watched(address)
    _copy(root, store)
    two = f"{TWO}/step-002"
    *puts, manifest, removal = store.told
    assert set(puts) == {
        "put .writer",
        "put metrics.jsonl",
        f"put {two}/rollouts.parquet",
        f"put checkpoints/{two}/state.pt",
    }
    assert (manifest, removal) == ("put manifest.json", f"remove checkpoints/{ONE}/state.pt")


class Killed(BaseException):
    """Takes the mirror's thread away, as a SIGKILL does its process."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("num_calls", range(6))
def test_a_driver_that_is_killed_between_two_uploads_leaves_a_whole_run(
    address: str, tmp_path: Path, num_calls: int
):
    root = _begin(tmp_path / "run")
    _copy(root, Store(address, "storage_path"))
    _go_on(root)

    def kill(number: int) -> None:
        if number == num_calls:
            raise Killed

    watched = Watched(address, kill)
    _copy(root, watched)
    assert len(watched.told) == num_calls
    there = tmp_path / "there"
    take_from(Store(address, "storage_path"), there)
    manifest = Manifest.read(there / "manifest.json")
    assert manifest.checkpoint is not None
    assert (there / "checkpoints" / manifest.checkpoint / "state.pt").read_text().startswith("lea")
    for step in manifest.steps("challenger"):
        assert (there / step.key / "rollouts.parquet").read_text().startswith("drawn")
    assert len((there / "metrics.jsonl").read_text().split()) >= len(manifest.steps("challenger"))
    # And the run goes on to copy itself where it was.
    _copy(root, Store(address, "storage_path"))
    shop = Store(address, "storage_path").sizes()
    assert shop.keys() - {".writer"} == _files(root).keys()


def test_a_run_that_is_taken_is_there_whole_or_can_be_taken_again(address: str, tmp_path: Path):
    root = _begin(tmp_path / "run")
    store = Store(address, "storage_path")
    _copy(root, store)
    there = tmp_path / "there"
    (there / ".taken.partial").mkdir(parents=True)
    _write(there / ".taken.partial" / "manifest.json", "{")
    _write(there / "metrics.jsonl", "of a start that was killed")
    take_from(store, there)
    assert _files(there) == _files(root)


def test_what_has_not_changed_is_not_copied_again(address: str, tmp_path: Path):
    root = _begin(tmp_path / "run")
    _copy(root, Store(address, "storage_path"))
    store = Watched(address)
    _copy(root, store)
    assert store.told == ["put .writer", "put manifest.json"]
    there = tmp_path / "there"
    take_from(store, there)
    store = Watched(address)
    _copy(there, store)
    assert store.told == ["put .writer", "put manifest.json"]


def test_what_is_gone_from_the_store_is_copied_again(address: str, tmp_path: Path):
    root = _begin(tmp_path / "run")
    store = Store(address, "storage_path")
    _copy(root, store)
    store.remove(f"{ONE}/rollouts.parquet")
    _copy(root, store)
    assert f"{ONE}/rollouts.parquet" in store.sizes()


def test_a_failure_is_told_once_and_so_is_its_end(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_RETRY_S", 0.02)
    root, refuses, told = _begin(tmp_path / "run"), True, []

    def ask(number: int) -> None:
        if refuses:
            raise StoreError("could not write x in the store: no space left")

    mirror = Mirror(root, Watched(address, ask), told.append)
    mirror.changed()
    time.sleep(0.3)
    assert told == [
        "warning: storage_path: could not write x in the store: no space left; the run goes on "
        "without its copy"
    ]
    refuses = False
    mirror.close(5.0)
    assert told[1:] == [f"the copy of the run in {address} is whole again"]


def test_a_run_does_not_wait_for_a_store_that_hangs(address: str, tmp_path: Path):
    root, told, goes_on = _begin(tmp_path / "run"), [], threading.Event()

    def hang(number: int) -> None:
        goes_on.wait(20)

    mirror = Mirror(root, Watched(address, hang), told.append)
    mirror.changed()
    begin = time.monotonic()
    mirror.changed()
    mirror.close(0.1)
    with mirror.at_rest():  # the end of the run removes what it does not need
        assert time.monotonic() - begin < 2.0
    assert told == [
        f"warning: the copy in {address} lacks what was finished last; the same command copies it"
    ]
    goes_on.set()


def test_what_the_copy_needs_is_removed_after_it(address: str, tmp_path: Path):
    root, order = _begin(tmp_path / "run"), []
    is_at_it, goes_on = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        is_at_it.set()
        goes_on.wait(20)

    mirror = Mirror(root, Watched(address, wait), order.append)
    mirror.changed()
    is_at_it.wait(5)

    def remove() -> None:
        with mirror.at_rest():
            order.append((root / "manifest.json").read_bytes())
            order.append(store.get_bytes("manifest.json"))

    store = Store(address, "storage_path")
    removal = threading.Thread(target=remove)
    removal.start()
    time.sleep(0.2)
    assert order == []
    goes_on.set()
    removal.join(10)
    assert order[0] == order[1]
    mirror.close(5.0)


def test_an_older_run_directory_does_not_go_on(address: str, tmp_path: Path):
    root, store = _begin(tmp_path / "run"), Store(address, "storage_path")
    _copy(root, store)
    there = tmp_path / "there"
    take_from(store, there)
    Manifest.read(there / "manifest.json").take_over()
    _copy(there, store)
    with pytest.raises(UserError, match="is ahead of run_dir="):
        take_from(store, root)
    assert take_from(store, there) == 0


def test_another_run_is_not_written_over(address: str, tmp_path: Path):
    store = Store(address, "storage_path")
    _copy(_begin(tmp_path / "run"), store)
    other = _begin(tmp_path / "other")
    with pytest.raises(UserError, match="holds a run that is not the one in run_dir="):
        take_from(store, other)
    mixed = tmp_path / "mixed"
    _write(mixed / "letters.txt", "dear")
    with pytest.raises(UserError, match="holds other files"):
        take_from(store, mixed)


def test_a_driver_whose_run_was_taken_over_copies_no_more(address: str, tmp_path: Path):
    root, store, told = _begin(tmp_path / "run"), Store(address, "storage_path"), []
    mirror = Mirror(root, store, told.append)
    mirror.changed()
    for _ in range(100):
        if (root / ".copied.json").exists() and "manifest.json" in store.sizes():
            break
        time.sleep(0.05)
    there = tmp_path / "there"
    take_from(store, there)
    _go_on(there)
    _copy(there, store)
    mirror.changed()
    mirror.close(5.0)
    assert "another driver has taken the run" in told[0]
    assert json.loads(store.get_bytes("manifest.json") or b"")["finished"][-1].endswith("002")


def test_a_folder_may_have_any_name(tmp_path: Path):
    root, store = _begin(tmp_path / "run"), Store(f"{tmp_path}/a::b", "storage_path")
    _copy(root, store)
    assert (tmp_path / "a::b" / "manifest.json").read_bytes() == (
        root / "manifest.json"
    ).read_bytes()


def test_names_of_a_store_stay_in_the_run_directory(tmp_path: Path):
    store = Store(f"memory://{uuid.uuid4().hex}/run", "storage_path")
    _copy(_begin(tmp_path / "run"), store)
    store.put_bytes(b"", "iteration-01/..evil")
    store.put_bytes(b"", ".lock")
    there = tmp_path / "there"
    take_from(store, there)
    assert "iteration-01/..evil" not in _files(there)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("s4://bucket/runs", "is no address (Protocol not known: s4); give a folder"),
        ("gs://bucket/runs", "gs:// needs another package; pip install gcsfs"),
        ("/dev/null/runs", "cannot be written and read (could not write .rights-"),
    ],
)
def test_what_is_wrong_with_a_store_is_one_line_at_the_start(tmp_path: Path, value: str, said: str):
    if "gcsfs" in said and importlib.util.find_spec("gcsfs") is not None:
        pytest.skip("gcsfs is installed")
    with pytest.raises(UserError) as caught:
        open_store(replace(_config(), storage_path=value), tmp_path / "run")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("storage_path=")


@pytest.mark.parametrize(
    "value", ["s3://user:secret@host/x", "s3://", "S3://x", "a::s3://x", "s3://b?key=1", "x\ny"]
)
def test_what_can_hold_a_secret_is_refused_without_being_shown(value: str):
    with pytest.raises(UserError) as caught:
        load_config(["conf=tiny", f"storage_path={value}"])
    assert "secret" not in str(caught.value) and "storage_path must be empty" in str(caught.value)


def test_a_store_is_a_folder_or_an_address():
    for value in ("", "/shared/runs", "runs/copies", "s3://bucket/runs", "abfs://c@a.net/x"):
        assert load_config(["conf=tiny", f"storage_path={value}"]).storage_path == value


def test_the_runs_of_a_study_have_no_copies():
    with pytest.raises(UserError, match="the runs of a study are not copied"):
        load_arm("plain", "tiny", ["storage_path=/shared"])


def test_a_folder_that_holds_something_else_is_no_store(tmp_path: Path):
    _write(tmp_path / "copies" / "run" / "thesis.txt", "years of work")
    store = open_store(
        replace(_config(), storage_path=f"file://{tmp_path}/copies"), tmp_path / "run"
    )
    assert store is not None
    with pytest.raises(UserError, match="such as thesis"):
        take_from(store, tmp_path / "run")
    with pytest.raises(UserError, match="something else than a run"):
        take_from(store, _begin(tmp_path / "run"))
    assert (tmp_path / "copies" / "run" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("prefix", ["", "file://", "local://"])
def test_a_run_is_not_copied_onto_itself(tmp_path: Path, prefix: str):
    root = _begin(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, root, tmp_path / "link"):
        config = replace(_config(), storage_path=f"{prefix}{folder}")
        with pytest.raises(UserError, match="the copy would be"):
            open_store(config, root)
