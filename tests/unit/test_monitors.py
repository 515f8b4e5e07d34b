"""The monitors through whole runs on the fakes: what they measure, warn of, stop at and repeat."""

import json
import re
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.run import stored
from rzero_ray.run.clock import StageClock
from rzero_ray.run.parquet import read_records
from rzero_ray.run.report.page import make_page
from rzero_ray.run.report.summary import make_summary
from rzero_ray.run.run import Run
from rzero_ray.text.numbers import decimals
from rzero_ray.types import BaseScore, RunError
from tests.unit.fakes import SilentObserver
from tests.unit.test_coevolution import OVERRIDES, Attempt

KL = "drift.num_sequences=5"


def _rows(root: Path) -> dict[int, dict]:
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {row["iteration"]: row for row in rows if row["phase"] == "drift"}


def _config(*arguments: str) -> Config:
    return load_config([*OVERRIDES, KL, *arguments])


def test_a_run_measures_its_distance_to_the_base_on_stored_rollouts(tmp_path):
    attempt = Attempt(_config(), tmp_path)
    attempt.go()
    rows = _rows(tmp_path)
    assert set(rows) == {1, 2}
    for row in rows.values():
        # The fakes' samples have -1 nat a token, their base model says -1.25.
        assert row["kl_solver"] == row["kl_challenger"] == pytest.approx(0.25)
        assert row["kl_solver_error"] == pytest.approx(0.0, abs=1e-6)
        assert row["answer_scripts"] == {"LATIN": 1.0}
        assert 0 < row["clusters"] <= 1
    assert rows[1]["distinct_ratio"] == 1.0
    scores = read_records(tmp_path / "iteration-02/base-logprobs.parquet", BaseScore)
    assert [s.role for s in scores] == ["challenger"] * 5 + ["solver"] * 5
    assert rows[2]["kl_solver_tokens"] == sum(len(s.base_logprobs) for s in scores[5:])
    # The base model scored, in the Challenger's engines.
    assert attempt.challenger.scored_with == [Path("/base")] * 2
    assert attempt.challenger.loads == [Path("/base")] * 2


def test_the_monitors_read_what_they_need_and_beside_the_event_loop(tmp_path, monkeypatch):
    read: list[tuple[set[str], bool]] = []

    def watched(path: Path, record_type: type, rows: list[int] | None = None) -> list:
        in_loop = threading.current_thread() is threading.main_thread()
        read.append(({field.name for field in fields(record_type)}, in_loop))
        return read_records(path, record_type, rows)

    monkeypatch.setattr(stored, "read_records", watched)
    Attempt(_config(), tmp_path).go()
    assert {frozenset(names) for names, _ in read if "text" in names or "prompt_ids" in names} == {
        frozenset({"token_ids", "text", "answer"}),
        frozenset({"prompt_ids", "token_ids", "logprobs"}),
    }
    assert {"question"} in [names for names, _ in read]
    assert not any(in_loop for _, in_loop in read)


def test_the_iteration_after_a_measurement_samples_from_its_own_models(tmp_path):
    with_kl, without = (
        Attempt(_config(), tmp_path / "a"),
        Attempt(load_config(OVERRIDES), tmp_path / "b"),
    )
    with_kl.go()
    without.go()
    for role in ("challenger", "solver"):
        assert getattr(with_kl, role).weights_by_request(tmp_path / "a") == getattr(
            without, role
        ).weights_by_request(tmp_path / "b")


def test_a_frozen_challenger_has_no_distance_and_gets_its_weights_back_by_it(tmp_path):
    attempt = Attempt(_config("ablation=frozen_challenger"), tmp_path)
    attempt.go()
    assert "kl_challenger" not in _rows(tmp_path)[1]
    assert set(attempt.challenger.sampled_from) == {Path("/base")}


def test_rollouts_of_another_temperature_have_no_kl_and_a_note(tmp_path):
    attempt = Attempt(_config("solver.sampling.temperature=0.7"), tmp_path)
    attempt.go()
    row = _rows(tmp_path)[1]
    assert "kl_solver" not in row and "kl_challenger" in row
    assert any("no KL to the base for the solver" in note for note in attempt.observer.notes)


def test_a_crossed_threshold_warns_in_one_line(tmp_path):
    attempt = Attempt(_config("drift.max_kl=0.1"), tmp_path)
    attempt.go()
    warnings = [note for note in attempt.observer.notes if "drifts" in note]
    assert len(warnings) == 2
    assert "iteration 1 drifts: kl_solver 0.25 (max_kl 0.1), kl_challenger" in warnings[0]
    assert "\n" not in warnings[0]


def test_a_stop_ends_the_run_until_the_threshold_is_raised_and_measures_nothing_twice(tmp_path):
    config = _config("drift.max_kl=0.1", "drift.stop=true")
    for attempt in (Attempt(config, tmp_path), Attempt(config, tmp_path)):
        with pytest.raises(RunError, match=r"iteration 1 drifts: kl_solver 0.25 \(max_kl 0.1\)"):
            attempt.go()
    row = _rows(tmp_path)[1]
    raised = replace(config, drift=replace(config.drift, max_kl=0.5))
    last = Attempt(raised, tmp_path)
    last.go()
    assert _rows(tmp_path)[1] == row
    assert last.challenger.scored_with == [Path("/base")]  # iteration 2's alone


def test_the_report_shows_the_figures_and_marks_what_is_beyond_its_threshold(tmp_path):
    config = _config("drift.max_kl=0.1", "audit.oracle=exact")
    Attempt(config, tmp_path).go()
    run = Run(config, tmp_path, Path("/base"), StageClock(), SilentObserver())
    page = make_page(run.stored, make_summary(run.stored))
    table = page[page.index("<h2>Drift</h2>") : page.index("<h2>Label audit</h2>")]
    assert "Crossed (marked !): kl challenger, kl solver" in table
    head, *lines = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    column = head.index("kl solver")
    assert [line[column] for line in lines] == ["max 0.1", "! 0.25", "! 0.25"]
    column = head.index("unanswered")
    assert [line[column] for line in lines] == ["max 0.2", "0", "0"]
    assert [line[0] for line in lines] == ["threshold", "iteration 1", "iteration 2"]
    assert "<h3>Drift</h3>" in page
    accuracy = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[4])["accuracy"]
    assert f"<td>{decimals(accuracy)}</td>" in page[page.index("<h2>Label audit</h2>") :]


def test_the_evaluation_keeps_its_own_tokens_and_seconds(tmp_path):
    Attempt(_config(), tmp_path).go()
    assert not {"seconds", "tokens_sampled"} & set(_rows(tmp_path)[1])
    evaluation = json.loads((tmp_path / "iteration-01/evaluation.json").read_text())
    assert "wall" in evaluation["seconds"]


def test_an_iteration_without_rollouts_measures_what_there_is(tmp_path):
    config = _config()
    nothing = replace(
        config,
        curriculum=replace(config.curriculum, min_agreement=0.5, max_agreement=0.5, num_votes=3),
        voting=replace(config.voting, min_answered=1.0),
    )
    Attempt(nothing, tmp_path).go()
    row = _rows(tmp_path)[1]
    assert "kl_challenger" in row and "clusters" in row
    assert "kl_solver" not in row and "answer_tokens" not in row


def test_scores_that_stop_short_compare_with_as_many_of_the_policys(tmp_path):
    attempt = Attempt(_config(), tmp_path)
    whole = attempt.challenger.score

    async def short(sequences):
        return [scores[:-1] for scores in await whole(sequences)]

    attempt.challenger.score = short  # type: ignore[method-assign]
    attempt.go()
    for score in read_records(tmp_path / "iteration-01/base-logprobs.parquet", BaseScore):
        assert len(score.base_logprobs) == len(score.policy_logprobs)
        assert np.all(score.policy_logprobs == -1.0)
