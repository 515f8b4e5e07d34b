"""Coverage-guided fuzzing of all that reads model text: crashes, hangs, and ways out of the child.

The parsers, the kinds of answers and the child's own comparison run in one process each that
libFuzzer mutates texts for (atheris), from the suite's answers as a start. `python -m tests.bench
fuzz parsers=950000 grader=50000` is the long form; the defaults take a minute.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.answer_pairs import read_rows
from tests.bench.harness import Figure

SETTINGS = {"parsers": "20000", "grader": "500", "seed": "1"}

LIMIT_S = 8
"""Processor seconds after which a text counts as a hang."""

_STATUS = re.compile(r"Done (\d+) runs in (\d+) second")


def run(settings: dict[str, str]) -> list[Figure]:
    """Fuzz both targets; a crash, a hang or an escape is an error with the text that did it."""
    seed = int(settings["seed"])
    return [fuzz(target, int(settings[target]), seed) for target in ("parsers", "grader")]


def fuzz(target: str, num_texts: int, seed: int) -> Figure:
    """Give a target `num_texts` texts. RuntimeError with the end of its output when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, text in enumerate(_starting_texts(target)):
            (corpus / f"{number:05}").write_bytes(text.encode("utf-8"))
        start = time.perf_counter()
        options = [f"-runs={num_texts}", f"-seed={seed}", "-max_len=300", "-rss_limit_mb=4096"]
        options += [f"-timeout={10 * LIMIT_S}", f"-artifact_prefix={folder}/", str(corpus)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.fuzz_target", target, *options],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        taken = time.perf_counter() - start
        status = _STATUS.search(done.stderr)
        if done.returncode or status is None:
            said = f"{done.stdout[-2_000:]}\n{done.stderr[-1_000:]}"
            raise RuntimeError(f"the target {target} failed: {said}")
    slowest = re.findall(r"slowest text took ([0-9.]+) s", done.stdout + done.stderr)
    return Figure(
        name=f"fuzz, {target}",
        value=float(status[1]),
        unit="texts",
        target="0 crashes, hangs, escapes",
        details=f"{taken:.0f} s; slowest text {slowest[-1] if slowest else '?'} s",
    )


def _starting_texts(target: str) -> list[str]:
    pairs = [
        row[:2] for name in ("answer-cases.tsv", "answer-kinds.tsv") for row in read_rows(name)
    ]
    if target == "grader":
        return [f"{a}\n{b}" for a, b in pairs]
    texts = [f"so \\boxed{{{a}}}" for a, _ in pairs[::4]]
    return [*texts, "<think>a</think><question>q</question> \\boxed{1}, \\boxed{2}", "(C) 7"]
