"""The label audit: its figures by hand, the person's sheet, the phase of a run, the command."""

from __future__ import annotations

import csv
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from rzero_ray.config.load import load_config
from rzero_ray.evaluation.labels import command as audit
from rzero_ray.evaluation.labels.agreement import compare, label_accuracy
from rzero_ray.evaluation.labels.audit import audit_sample, check_oracle
from rzero_ray.evaluation.labels.sheet import read_sheet, write_sheet
from rzero_ray.evaluation.statistics import Estimate, estimate, exact_interval
from rzero_ray.run.parquet import read_records
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import AuditedLabel, CurriculumItem, RunError, UserError
from tests.unit.test_coevolution import OVERRIDES, Attempt


def _item(question: str, label: str = "5") -> CurriculumItem:
    return CurriculumItem(question=question, label=label, agreement=0.5)


def _record(question: str, verdict: str) -> AuditedLabel:
    return AuditedLabel(question=question, label="5", answer=None, verdict=verdict)


# Figures.


def test_accuracy_is_over_the_labels_that_the_oracle_could_judge():
    verdicts = ["right"] * 6 + ["wrong"] * 2 + ["unknown"] * 2
    records = [_record(str(i), verdict) for i, verdict in enumerate(verdicts)]
    found = label_accuracy(records, seed=0)
    assert found.accuracy is not None and found.accuracy.value == 0.75
    assert found.unknown_share == 0.2
    assert label_accuracy([_record("q", "unknown")], seed=0).accuracy is None
    # The interval depends on the counts alone, not on the order in which verdicts came.
    assert label_accuracy(records[::-1], seed=0) == found


def test_the_interval_of_labels_is_that_of_all_other_shares():
    def found(num_right: int) -> Estimate | None:
        verdicts = ["right"] * num_right + ["wrong"] * (10 - num_right)
        return label_accuracy([_record(str(i), v) for i, v in enumerate(verdicts)], 3).accuracy

    assert found(8) == estimate([1.0] * 8 + [0.0] * 2, seed=3)
    assert found(0) == Estimate(0.0, *exact_interval(0, 10))
    assert found(10) == Estimate(1.0, *exact_interval(10, 10))


def test_agreement_and_kappa_by_hand():
    # 20 both right, 5 only the first, 10 only the second, 15 both wrong: the textbook example.
    pairs = [("right", "right")] * 20 + [("right", "wrong")] * 5
    pairs += [("wrong", "right")] * 10 + [("wrong", "wrong")] * 15 + [("unknown", "right")] * 9
    found = compare(
        [_record(str(i), a) for i, (a, _) in enumerate(pairs)],
        [_record(str(i), b) for i, (_, b) in enumerate(pairs)],
    )
    assert found.num_labels == 50
    assert found.share == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)


def test_kappa_is_that_of_scikit_learn():
    rng = random.Random(0)
    first = [rng.choice(["right", "right", "wrong"]) for _ in range(300)]
    second = [v if rng.random() < 0.6 else rng.choice(["right", "wrong"]) for v in first]
    found = compare(
        [_record(str(i), v) for i, v in enumerate(first)],
        [_record(str(i), v) for i, v in enumerate(second)],
    )
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))


def test_two_oracles_that_never_differ_from_one_verdict_have_no_kappa():
    same = [_record("a", "right"), _record("b", "right")]
    found = compare(same, same)
    assert (found.share, found.kappa) == (1.0, None)
    assert compare(same, []).share is None


# The sheet.

ITEMS = [
    _item("7-5", "2"),
    _item("=HYPERLINK(1)", "-3"),
    _item('say "a,b"\nand c', "5"),
    _item("'quoted", "x"),
]


def _fill(path: Path, column: str, values: list[str]) -> None:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    for row, value in zip(rows, values, strict=True):
        row[column] = value
    with path.open("w", newline="", encoding="utf-8-sig") as stream:  # as a spreadsheet saves it
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_sheet_comes_back_as_it_was_written_and_no_cell_is_a_formula(tmp_path):
    path = tmp_path / "sheet.csv"
    write_sheet(path, ITEMS)
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            assert not row["question"].startswith(("=", "+", "-", "@"))
            assert not row["label"].startswith(("=", "+", "-", "@"))
    _fill(path, "right", ["yes", "no", "?", ""])
    rows = read_sheet(path, ITEMS)
    assert [row.item for row in rows] == ITEMS
    assert [row.verdict for row in rows] == ["right", "wrong", "unknown", None]


SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"
FORMULAS = [
    *(f"{space}{sign}1+1" for sign in SIGNS for space in ("", " ", "\xa0")),
    *(f"{space}=1" for space in "\t\r\n\v\f"),
    "'=1",
    "a;=1",
    'a";=1',
    "a\n;@1",
    "a\n=1",
    "a;\n'\n'=1",
    "a\t;'-1",
]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_no_cell_of_a_sheet_begins_like_a_formula(tmp_path, text: str):
    path = tmp_path / "sheet.csv"
    items = [_item(text, "5"), _item("plain", text)]
    write_sheet(path, items)
    for separator in ",;\t":  # where spreadsheets split lines
        with path.open(newline="", encoding="utf-8") as stream:
            cells = [cell for row in csv.reader(stream, delimiter=separator) for cell in row]
        assert not [cell for cell in cells if cell.lstrip()[:1] in set(SIGNS)]
    assert [row.item for row in read_sheet(path, items)] == items


def test_a_sheet_that_is_being_filled_in_is_never_written_over(tmp_path):
    path = tmp_path / "sheet.csv"
    write_sheet(path, ITEMS)
    _fill(path, "right", ["yes"] * 4)
    before = path.read_bytes()
    write_sheet(path, ITEMS)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column question, label, answer or right"),
        ("question;label;answer;right\n7-5;2;;yes\n", "no column question"),
        ("question,label\n7-5,2\n", "no column answer or right"),
        ("question,label,right\n7-5,2,maybe\n", "row 2: right='maybe' is unknown"),
        ("question,label,right\n07-May,2,yes\n", "row 2: this question with this label is not in"),
        ("question,label,right\n7-5,3,yes\n", "row 2: this question with this label is not in"),
        ("question,label,right\n7-5,2,yes\n7-5,2,no\n", "row 3: this question has a row already"),
        ("question,label,answer,right\n7-5,2,2,yes\n", "row 2: both answer and right"),
        ("question,label,answer\n7-5,2,}{\n", "row 2: answer='}{' has braces that do not match"),
        ("question,label,answer\n7-5,2,1}{2\n", "row 2: answer='1}{2' has braces"),
        ('question,label,right\n"7-5,2,yes\n', "line 2 is not CSV"),
        ("question,label,right\n\udcff,2,yes\n", "line 2 is not UTF-8"),
    ],
)
def test_a_bad_sheet_is_refused_in_one_line_and_kept(tmp_path, text, message):
    path = tmp_path / "sheet.csv"
    path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        read_sheet(path, ITEMS)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


# The phase.


def _rows(root: Path) -> list[dict]:
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == "audit"]


def test_the_exact_oracle_judges_a_sample_of_each_curriculum(tmp_path):
    config = load_config([*OVERRIDES, "audit.oracle=exact", "audit.num_questions=7"])
    attempt = Attempt(config, tmp_path)
    attempt.go()
    rows = _rows(tmp_path)
    assert [row["iteration"] for row in rows] == [1, 2]
    task = ArithmeticTask()
    for row in rows:
        folder = tmp_path / f"iteration-{row['iteration']:02d}"
        records = read_records(folder / "audit-exact.parquet", AuditedLabel)
        kept = read_records(folder / "curriculum.parquet", CurriculumItem)
        assert len(records) == min(7, len(kept)) == row["num_questions"]
        labels = {item.question: item.label for item in kept}
        for record in records:
            assert record.label == labels[record.question]
            assert record.answer == task.solve(record.question)
            assert (record.verdict == "right") == (record.label == record.answer)
        right = sum(record.verdict == "right" for record in records)
        assert row["accuracy"] == right / len(records)
        of = estimate([1.0] * right + [0.0] * (len(records) - right), config.seed)
        assert row["accuracy_ci95"] == [of.low, of.high]


def test_labels_below_the_threshold_warn_or_stop_in_one_line(tmp_path):
    config = load_config([*OVERRIDES, "audit.oracle=exact", "audit.min_accuracy=1.0"])
    attempt = Attempt(config, tmp_path / "warn")
    attempt.go()
    warnings = [note for note in attempt.observer.notes if "below audit.min_accuracy=1" in note]
    assert len(warnings) == 2
    stopping = replace(config, audit=replace(config.audit, stop=True))
    for _ in range(2):  # the same command stops at the same place
        attempt = Attempt(stopping, tmp_path / "stop")
        with pytest.raises(RunError, match=r"iteration 1: \d+% of the labels are right") as caught:
            attempt.go()
        assert "\n" not in str(caught.value)
        assert not attempt.solver.updates
    lowered = replace(stopping, audit=replace(stopping.audit, min_accuracy=0.0))
    Attempt(lowered, tmp_path / "stop").go()
    assert len(_rows(tmp_path / "stop")) == 2


def test_a_person_gets_a_sheet_and_a_note(tmp_path):
    config = load_config([*OVERRIDES, "num_iterations=1", "audit.oracle=human"])
    attempt = Attempt(config, tmp_path)
    attempt.go()
    assert (tmp_path / "iteration-01/audit-human.csv").exists()
    (note,) = [note for note in attempt.observer.notes if "audit-human.csv" in note]
    assert "python -m rzero_ray audit run_dir=" in note
    assert "accuracy" not in _rows(tmp_path)[0]


def test_every_oracle_judges_the_same_sample_and_a_larger_one_holds_it():
    items = [_item(str(i)) for i in range(50)]
    small, large = (
        audit_sample(load_config(["conf=tiny", f"audit.num_questions={n}"]), 1, items)
        for n in (10, 30)
    )
    assert small == large[:10]
    assert small != audit_sample(load_config(["conf=tiny", "audit.num_questions=10"]), 2, items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conf=qwen3_4b", "audit.oracle=exact"], "audit.oracle=exact needs a task with an oracle"),
        (["conf=tiny", "audit.oracle=openai"], "needs audit.endpoint.url and audit.endpoint.model"),
    ],
)
def test_an_oracle_that_cannot_work_is_refused_before_the_run(arguments, message):
    with pytest.raises(UserError, match=message):
        check_oracle(load_config(arguments))


# The command.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    Attempt(load_config(OVERRIDES), root).go()
    return root


def _fill_truly(root: Path, wrong_every: int) -> int:
    """Fill in the sheets with the true answers, a wrong one every so often; returns the rows."""
    count = 0
    for path in sorted(root.glob("iteration-*/audit-human.csv")):
        with path.open(newline="", encoding="utf-8-sig") as stream:
            questions = [row["question"].removeprefix("'") for row in csv.DictReader(stream)]
        answers = []
        for question in questions:
            truth = int(ArithmeticTask().solve(question) or 0)
            answers.append(str(truth + 1000 * (count % wrong_every == 0)))
            count += 1
        _fill(path, "answer", answers)
    return count


def test_the_command_writes_sheets_reads_them_back_and_prints_the_agreement(finished, capsys):
    run_dir = f"run_dir={finished}"
    metrics = (finished / "metrics.jsonl").read_bytes()
    assert audit.main([run_dir, "oracle=exact"]) == 0
    assert audit.main([run_dir, "oracle=human"]) == 0
    assert "fill in one of its columns" in capsys.readouterr().out
    total = _fill_truly(finished, wrong_every=5)
    assert audit.main([run_dir, "oracle=human"]) == 0
    out = capsys.readouterr().out
    exact, human = (
        [r for records in audit.read_verdicts(finished, oracle).values() for r in records]
        for oracle in ("exact", "human")
    )
    assert len(exact) == len(human) == total
    same = sum(a.verdict == b.verdict for a, b in zip(exact, human, strict=True))
    kappa = cohen_kappa_score([r.verdict for r in exact], [r.verdict for r in human])
    line = out.splitlines()[-1].split()
    assert line[:3] == ["exact", "/", "human"]
    assert [float(x) for x in line[4:6]] == pytest.approx([same / total, kappa], abs=0.0051)
    assert sum(int(x) for x in line[6:]) == total
    assert (finished / "metrics.jsonl").read_bytes() == metrics


def test_a_bad_sheet_costs_the_command_nothing_but_one_line(finished, capsys):
    path = finished / "iteration-01/audit-human.csv"
    path.unlink(missing_ok=True)
    audit.main([f"run_dir={finished}", "oracle=human", "iteration=1"])
    _fill_truly(finished, wrong_every=3)
    audit.main([f"run_dir={finished}", "oracle=human", "iteration=1"])
    stored = audit.read_verdicts(finished, "human")
    path.write_text(path.read_text(encoding="utf-8") + "9+9+9+9,1,,yes\n", encoding="utf-8")
    before = path.read_bytes()
    capsys.readouterr()
    assert audit.main([f"run_dir={finished}", "oracle=human", "iteration=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rzero_ray: error: ") and error.count("\n") == 1
    assert path.read_bytes() == before
    assert audit.read_verdicts(finished, "human") == stored


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["oracle=exact"], "run_dir=... is missing"),
        (["run_dir={run}"], "oracle=... is missing"),
        (["run_dir={run}", "oracle=gpt"], "oracle=gpt is none of exact, openai, human"),
        (["run_dir={run}/nowhere", "oracle=exact"], "is no run directory"),
        (["run_dir={run}", "oracle=exact", "iteration=9"], "iteration 9 of .* has no curriculum"),
        (["run_dir={run}", "oracle=exact", "iteration=x"], "bad value for iteration"),
        (["run_dir={run}", "oracle=openai"], "needs audit.endpoint.url"),
        (["run_dir={run}", "oracle=exact", "questions=9"], "unknown key.*audit.num_questions"),
        (["run_dir={run}", "oracle=exact", "verbose"], "is not of the form key=value"),
    ],
)
def test_mistakes_in_the_command_are_one_line(finished, capsys, arguments, message):
    assert audit.main([argument.format(run=finished) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
