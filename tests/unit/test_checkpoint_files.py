"""A checkpoint is read without running what somebody has put into it."""

import os
import re
import resource
from pathlib import Path

import pytest
import torch

from actors.learning.checkpoint_files import load_state, of_this_model, save_state
from rzero_ray.disk.errors import one_line_disk_errors
from rzero_ray.types import RunError


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self._witness}",)


class Allowed:
    """A class that a reader lets through."""


def test_a_state_comes_back(tmp_path: Path):
    save_state({"w": torch.arange(4.0), "of": Allowed(), "n": 3}, tmp_path / "s.pt")
    state = load_state(tmp_path / "s.pt", "cpu", [Allowed])
    assert state["w"].tolist() == [0, 1, 2, 3] and isinstance(state["of"], Allowed)
    with pytest.raises(RunError, match=r"s.pt was not read: it wants to call \S+Allowed"):
        load_state(tmp_path / "s.pt", "cpu", [])


def test_what_would_run_is_refused_and_does_not_run(tmp_path: Path):
    path, witness = tmp_path / "s.pt", tmp_path / "ran"
    for zipped in (True, False):
        torch.save({"w": Trap(witness)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(RunError, match=r"s.pt was not read: it wants to call posix.system"):
            load_state(path, "cpu", [])
    assert not witness.exists()


@pytest.mark.parametrize("content", [None, b"", b"hello", b"[1]", b"half", b"changed"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes | None):
    path = tmp_path / "s.pt"
    save_state({"w": torch.zeros(9_000)}, path)
    whole = path.read_bytes()
    made = {b"half": whole[: len(whole) // 2], b"changed": bytes([whole[0] ^ 1]) + whole[1:]}
    path.unlink() if content is None else path.write_bytes(made.get(content, content))
    with pytest.raises(RunError, match=re.escape(str(path))) as found:
        load_state(path, "cpu", [])
    assert "\n" not in str(found.value) and "weights_only" not in str(found.value)


def test_states_of_another_model_are_one_line(tmp_path: Path):
    model = torch.nn.Linear(2, 2)
    for state in ({"weight": torch.zeros(3, 3), "bias": torch.zeros(3)}, {}, [1], None):
        with (
            pytest.raises(RunError, match="is not of this model") as found,
            of_this_model(tmp_path),
        ):
            model.load_state_dict(state)  # type: ignore[arg-type]
        assert "\n" not in str(found.value) and str(tmp_path) in str(found.value)
    with pytest.raises(RunError, match="is missing"), of_this_model(tmp_path):
        load_state(tmp_path / "s.pt", "cpu", [])


def test_a_disk_that_refuses_is_one_line(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with (
            pytest.raises(RunError, match=r"s.pt: .* larger than this file system or process"),
            one_line_disk_errors(tmp_path / "s.pt"),
        ):
            save_state({"w": torch.zeros(90_000)}, tmp_path / "s.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
