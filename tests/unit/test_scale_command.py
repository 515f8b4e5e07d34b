"""What `rzero scale` is told, and what it says where no run can be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rzero_ray.__main__ import main
from rzero_ray.run.scale import read_request
from rzero_ray.types import ScaleRequest, UserError


@pytest.mark.parametrize(
    ("key", "value", "request_"),
    [
        ("solver", "3", ScaleRequest(role="solver", least=3, most=3)),
        ("solver", "1..4", ScaleRequest(role="solver", least=1, most=4)),
        ("challenger", "2", ScaleRequest(role="challenger", least=2, most=2)),
    ],
)
def test_a_number_is_a_range_of_one(key: str, value: str, request_: ScaleRequest):
    assert read_request(key, value) == request_


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("solver", "x", "solver=x must be a number of engines"),
        ("solver", "1..", "must be a number of engines"),
        ("solver", "-1", "must be a number of engines"),
        ("solver", "99999", "must be a number of engines"),
        ("solvers", "1", "unknown key solvers; the nearest is solver"),
    ],
)
def test_anything_else_is_refused(key: str, value: str, line: str):
    with pytest.raises(UserError, match=line):
        read_request(key, value)


@pytest.mark.parametrize(
    ("arguments", "address", "line"),
    [
        (["solver=2"], "", "run_dir=... is missing"),
        (["run_dir=RUN"], "", "nothing to change"),
        (["run_dir=RUN", "solver=2"], "127.0.0.1:1", "no Ray answers at 127.0.0.1:1"),
        (["run_dir=RUN", "solver=2"], "", "is not at work: the Ray at 127.0.0.1:2"),
        (["run_dir=RUN", "solver=2"], "http://127.0.0.1:1", "takes no job"),
    ],
)
def test_without_a_run_one_line_says_what_is_wrong(
    arguments: list[str],
    address: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    events = [
        {"time": 1.0, "event": "cluster", "address": "127.0.0.1:2"},
        {"time": 2.0, "event": "resume", "reason": ""},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    monkeypatch.setenv("RAY_ADDRESS", address)
    code = main(["scale", *(a.replace("RUN", str(tmp_path)) for a in arguments)])
    assert code == 2
    (told,) = capsys.readouterr().err.strip().split("\n")
    assert line in told
