"""The browser of a run's questions: what it shows is what the files hold, who has no token is
refused, and text of a model stays text."""

from __future__ import annotations

import asyncio
import html
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.method.rewards import uncertainty
from rzero_ray.run.parquet import read_records, write_records
from rzero_ray.run.report.command import main as report
from rzero_ray.run.report.serving import guard, pages
from rzero_ray.run.report.serving.application import Browser
from rzero_ray.run.report.serving.filters import Filter, list_questions, read_filter
from rzero_ray.run.report.serving.lineage import Lineage, trace
from rzero_ray.run.report.serving.questions import KEPT, Place, Question
from rzero_ray.run.report.serving.reading import Problems
from rzero_ray.run.report.serving.server import make_server
from rzero_ray.run.report.serving.text import visible
from rzero_ray.run.report.serving.tokens import view_rollout
from rzero_ray.run.report.serving.training import answered_in
from rzero_ray.run.report.serving.twins import twins_of
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import (
    BaseScore,
    Candidate,
    ChallengerSample,
    CurriculumItem,
    PhaseName,
    SolverSample,
    Step,
    UserError,
)
from tests.unit import test_judged
from tests.unit.chromium import dump
from tests.unit.test_coevolution import OVERRIDES, Attempt, Killed
from tests.unit.test_report import EVIL
from tests.unit.until import until

R = TypeVar("R")
ROOT = Path(__file__).resolve().parents[2]
TOKEN = "the-token-of-this-test"
ASKED = "iteration-01/challenger/step-001"
OFFERED = "iteration-01/curriculum/step-001"
LEARNED = "iteration-01/solver/step-001"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(OVERRIDES)


@pytest.fixture(scope="module")
def root(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two iterations on fakes."""
    root = tmp_path_factory.mktemp("browser") / "run"
    Attempt(replace(config, run_dir=str(root)), root).go()
    return root


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The same run, to be changed."""
    shutil.copytree(root, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def client(config: Config, root: Path) -> Iterator[httpx.Client]:
    with served(config, root) as client:
        yield client


@contextmanager
def served(config: Config, root: Path) -> Iterator[httpx.Client]:
    """Serve a run from a thread; the client has been in through the link."""
    with anonymous(config, root) as client:
        assert client.get(f"/?token={TOKEN}").status_code == 303
        yield client


@contextmanager
def anonymous(config: Config, root: Path) -> Iterator[httpx.Client]:
    """Serve a run to a client that knows no token."""
    with serving(Browser(config, root, Path("/base"))) as client:
        yield client


@contextmanager
def serving(browser: Browser) -> Iterator[httpx.Client]:
    """Serve a browser from a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = make_server(browser, TOKEN, port)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            asyncio.run(until(lambda: server.started, 20))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(20)


def candidates(root: Path, iteration: int = 1) -> list[Candidate]:
    return _rows(root, f"iteration-{iteration:02d}/curriculum", "candidates", Candidate)


def asked(root: Path, iteration: int = 1) -> list[ChallengerSample]:
    return _rows(root, f"iteration-{iteration:02d}/challenger", "rollouts", ChallengerSample)


def _rows(root: Path, phase: str, name: str, record_type: type[R]) -> list[R]:
    folders = [root / phase / f"step-{step:03d}" for step in (1, 2)]
    return [row for f in folders for row in read_records(f / f"{name}.parquet", record_type)]


def found(root: Path, **query: str) -> list[Question]:
    """All questions of iteration 1 that a query asks for, over all pages."""
    rows: list[Question] = []
    while True:
        problems, wanted = Problems(), read_filter(query | {"page": str(len(rows) // 50 + 1)})
        listed = list_questions(root, 1, wanted, problems)
        assert not problems.lines
        rows += listed.questions
        if len(rows) == listed.num_matching:
            return rows


def texts(page: str) -> list[str]:
    """The questions of a list, as a reader sees them."""
    cells = re.findall(r'<td class="model"><a href="[^"]*">(.*?)</a>', page)
    return [html.unescape(cell) for cell in cells]


# Lists.


def test_an_iteration_lists_what_the_challenger_asked_and_offered(root: Path):
    everything = found(root)
    expected = [row.question for row in [*asked(root), *candidates(root)]]
    assert [question.text for question in everything] == expected
    assert [q.text for q in found(root, source="curriculum")] == expected[len(asked(root)) :]
    rewards = [row.reward for row in asked(root)]
    assert [q.reward for q in found(root, source="challenger")] == rewards


def test_outcomes_are_filtered_by_kept_dropped_and_the_reason(root: Path):
    rows = candidates(root)
    reasons = Counter(row.dropped for row in rows)
    assert len(reasons) > 2  # kept, malformed, and another
    assert len(found(root, outcome=KEPT)) == reasons.pop(None)
    dropped = found(root, outcome="dropped", source="curriculum")
    assert Counter(question.outcome for question in dropped) == reasons
    reason = "agreement above the band"
    assert {q.outcome for q in found(root, outcome=reason)} == {reason}


def test_agreement_text_and_label_are_filtered(root: Path):
    rows = [row for row in [*asked(root), *candidates(root)] if row.num_votes]
    within = [row for row in rows if 0.5 <= row.num_agree / row.num_votes <= 0.7]
    assert 0 < len(within) < len(rows)
    assert len(found(root, low=".5", high=".7")) == len(within)
    nines = [row for row in rows if row.question and "9+" in row.question]
    assert len(found(root, search="9+")) == len(nines) > 0
    right = [row for row in candidates(root) if row.truth is not None and row.label == row.truth]
    wrong = [row for row in candidates(root) if row.label and row.label != row.truth]
    assert len(found(root, label="right")) == len(right) > 0
    assert len(found(root, label="wrong")) == len(wrong)


@pytest.mark.parametrize("name", ["agreement", "reward", "votes"])
@pytest.mark.parametrize("order", ["rising", "falling"])
def test_a_list_is_sorted_and_what_lacks_the_figure_comes_last(root: Path, name: str, order: str):
    rows = found(root, sort=name, order=order)
    values = [getattr(question, "num_votes" if name == "votes" else name) for question in rows]
    there = [value for value in values if value is not None]
    assert len(set(there)) > 1
    assert there == sorted(there, reverse=order == "falling")
    assert values == there + [None] * (len(values) - len(there))
    assert len(rows) == len(found(root))


def test_a_list_has_pages_of_fifty(client: httpx.Client, root: Path):
    everything = [question.text or "(malformed)" for question in found(root)]
    first, second = (client.get(f"/iteration-01?page={page}").text for page in (1, 2))
    assert texts(first) == everything[:50]
    assert texts(second) == everything[50:]
    assert 'rel="next" href="?page=2"' in first and 'rel="next"' not in second
    assert texts(client.get("/iteration-01?page=999999").text) == []


@pytest.mark.parametrize(
    "query", ["low=x", "low=2", "low=nan", "sort=name", "page=0", "page=x", "label=1", "colour=red"]
)
def test_a_query_that_means_nothing_is_one_line(client: httpx.Client, query: str):
    answer = client.get(f"/iteration-01?{query}")
    assert answer.status_code == 400
    assert answer.text.count('class="problem"') == 1
    name = query.partition("=")[0]
    assert re.search(rf'<p class="problem">{name} is ', answer.text)


def test_a_query_is_written_as_it_is_read():
    wanted = Filter(search="a&b=<", low=0.5, sort="votes", order="falling", page=3)
    pairs = dict(httpx.QueryParams(wanted.query()))
    assert read_filter(pairs) == wanted
    assert wanted.query(page=1) == "search=a%26b%3D%3C&low=0.5&sort=votes&order=falling"


# One question.


def lineage(config: Config, root: Path, phase: PhaseName, row: int) -> Lineage:
    problems, run = Problems(), StoredRun(config, root, Path("/base"))
    place = Place(Step(iteration=1, phase=phase, index=1), row)
    traced = trace(run, make_task(config.task), place, problems)
    assert traced is not None and not problems.lines
    return traced


def test_the_parts_of_a_reward_are_those_of_the_records(config: Config, root: Path):
    samples = read_records(root / ASKED / "rollouts.parquet", ChallengerSample)
    told = 0
    for row, sample in enumerate(samples):
        reward = lineage(config, root, "challenger", row).reward
        assert reward is not None
        assert (reward.reward, reward.advantage) == (sample.reward, sample.advantage)
        assert reward.penalty == sample.repetition_share * config.challenger.repetition_weight
        if sample.reward > 0:
            told += 1
            share = sample.num_agree / sample.num_votes
            assert reward.uncertainty == uncertainty(share)
            answered = sample.num_votes / len(sample.answers)
            assert reward.score == pytest.approx(answered * uncertainty(share))
        else:
            assert reward.score is None
    assert told


def test_votes_are_counted_by_what_was_answered(config: Config, root: Path):
    samples = read_records(root / ASKED / "rollouts.parquet", ChallengerSample)
    row = next(row for row, sample in enumerate(samples) if len(set(sample.answers)) > 1)
    traced = lineage(config, root, "challenger", row)
    counts = {bar.answer: bar.count for bar in traced.votes}
    assert counts == Counter(samples[row].answers)
    assert [bar.answer for bar in traced.votes if bar.is_label] == [samples[row].label]
    assert traced.num_asked == len(samples[row].answers)
    question = samples[row].question
    assert question and traced.truth == make_task(config.task).solve(question)


def test_votes_in_full_are_shown_where_they_are_stored(config: Config, copy: Path):
    path = copy / OFFERED / "candidates.parquet"
    rows = read_records(path, Candidate)
    number = next(number for number, row in enumerate(rows) if row.answers)
    full = tuple(f"I say {answer}, number {k}" for k, answer in enumerate(rows[number].answers))
    rows[number] = replace(rows[number], vote_texts=full)
    write_records(path, rows, Candidate)
    bars = lineage(config, copy, "curriculum", number).votes
    assert sorted(text for bar in bars for text in bar.texts) == sorted(full)
    with served(config, copy) as client:
        assert "I say " in client.get(f"/{OFFERED}/{number}").text
        other = next(k for k, row in enumerate(rows) if row.answers and k != number)
        assert "are not stored" in client.get(f"/{OFFERED}/{other}").text


def test_siblings_are_of_the_same_prompt(config: Config, copy: Path):
    path = copy / ASKED / "rollouts.parquet"
    rows = read_records(path, ChallengerSample)
    rows = [replace(row, prompt_index=number // 3) for number, row in enumerate(rows)]
    write_records(path, rows, ChallengerSample)
    siblings = lineage(config, copy, "challenger", 4).siblings
    assert [question.place.row for question in siblings] == [3, 5]


def test_a_kept_question_leads_to_the_steps_that_trained_on_it(config: Config, root: Path):
    paths = sorted(root.glob("iteration-01/solver/step-*/rollouts.parquet"))
    rollouts = {path.parent.name: read_records(path, SolverSample) for path in paths}
    rows = read_records(root / OFFERED / "candidates.parquet", Candidate)
    items = read_records(root / "iteration-01/curriculum.parquet", CurriculumItem)
    num_trained = 0
    for number, row in enumerate(rows):
        traced = lineage(config, root, "curriculum", number)
        kept = [item for item in items if item.question == row.question]
        assert (traced.item is None) == (not kept)
        steps = {f"step-{of.step.index:03d}": of.answers for of in traced.trained}
        for name, samples in rollouts.items():
            own = [(s.answer, s.reward) for s in samples if s.question == row.question]
            assert [(a.answer, a.reward) for a in steps.get(name, [])] == own
            num_trained += bool(own)
    assert num_trained


def test_questions_of_earlier_curricula_are_found_where_they_are_taught_again(
    config: Config, copy: Path
):
    path = copy / "iteration-02/solver/step-001/rollouts.parquet"
    rows = read_records(copy / OFFERED / "candidates.parquet", Candidate)
    number = next(number for number, row in enumerate(rows) if row.dropped is None)
    question = rows[number].question
    samples = read_records(path, SolverSample)
    samples[2] = replace(samples[2], question=question)
    write_records(path, samples, SolverSample)
    settings = replace(config.curriculum, replay_share=0.5)
    for replays in (False, True):
        told = replace(config, curriculum=settings) if replays else config
        trained = lineage(told, copy, "curriculum", number).trained
        later = [of for of in trained if of.step.iteration == 2]
        assert [[answer.row for answer in of.answers] for of in later] == ([[2]] if replays else [])


def test_the_same_question_is_found_in_other_iterations(config: Config, root: Path):
    normalize = make_task(config.task).normalize
    place = Place(Step(iteration=1, phase="curriculum", index=1), 3)
    text = read_records(root / OFFERED / "candidates.parquet", Candidate)[3].question
    assert text
    everywhere = [*asked(root, 1), *candidates(root, 1), *asked(root, 2), *candidates(root, 2)]
    same = [
        row for row in everywhere if row.question and normalize(row.question) == normalize(text)
    ]
    twins = twins_of(root, place, text, normalize, Problems())
    assert len(twins.questions) == len(same) - 1
    assert twins.questions == sorted(twins.questions, key=lambda q: q.place.step.iteration)
    assert place not in [question.place for question in twins.questions]
    assert twins.num_left == 0


def test_a_search_without_time_says_how_much_is_left(config: Config, root: Path):
    place = Place(Step(iteration=1, phase="curriculum", index=1), 3)
    twins = twins_of(root, place, "1+1", make_task(config.task).normalize, Problems(), -1.0)
    assert (twins.questions, twins.num_left) == ([], 8)


def test_a_page_of_a_question_shows_its_lineage(client: httpx.Client, root: Path):
    rows = read_records(root / OFFERED / "candidates.parquet", Candidate)
    samples = read_records(root / LEARNED / "rollouts.parquet", SolverSample)
    taught = {sample.question for sample in samples}
    number = next(number for number, row in enumerate(rows) if row.question in taught)
    page = client.get(f"/{OFFERED}/{number}").text
    row = samples.index(next(s for s in samples if s.question == rows[number].question))
    assert f'href="/{LEARNED}/{row}/tokens"' in page
    assert "The curriculum of iteration 1 has it" in page
    assert "neither tokens nor the prompt are stored" in page
    asked_page = client.get(f"/{ASKED}/0").text
    assert "repetition penalty" in asked_page and f'href="/{ASKED}/0/tokens"' in asked_page


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Path]:
    """A run in which answers are compared, not counted."""
    monkeypatch.setattr("rzero_ray.driver.open_task", lambda name: test_judged.SmallBouquet())
    config = load_config(test_judged.OVERRIDES)
    test_judged.Attempt(config, tmp_path / "run").go()
    return config, tmp_path / "run"


def test_a_request_of_a_judged_run_shows_its_answers_and_no_agreement(judged: tuple[Config, Path]):
    config, root = judged
    samples = read_records(root / ASKED / "rollouts.parquet", ChallengerSample)
    row = next(row for row, sample in enumerate(samples) if sample.reward > 0)
    traced = lineage(config, root, "challenger", row)
    assert traced.question.agreement is None
    assert traced.reward is not None and traced.reward.uncertainty is None
    with served(config, root) as client:
        page = client.get(f"/{ASKED}/{row}").text
        assert "A referee compared them" in page
        assert "agreement p" not in page and "pseudo-label" not in page
        written = [
            html.unescape(text) for text in re.findall('<pre class="model">(.*?)</pre>', page)
        ]
        assert {answer for answer in samples[row].answers if answer} <= set(written)
        assert "as it was asked" not in client.get(f"/{LEARNED}/0/tokens").text


# What the Solver answered.


def test_a_step_of_the_solver_lists_questions_and_their_answers(
    config: Config, client: httpx.Client, root: Path
):
    samples = read_records(root / LEARNED / "rollouts.parquet", SolverSample)
    run = StoredRun(config, root, Path("/base"))
    step = Step(iteration=1, phase="solver", index=1)
    answered = answered_in(run, step, 1)
    assert (answered.num_prompts, len(answered.prompts)) == (4, 3)
    second = [sample for sample in samples if sample.prompt_index == 1]
    prompt = answered.prompts[0]
    assert (prompt.question, prompt.label) == (second[0].question, second[0].label)
    assert [answer.answer for answer in prompt.answers] == [sample.answer for sample in second]
    assert prompt.reward == pytest.approx(np.mean([sample.reward for sample in second]))
    page = client.get(f"/{LEARNED}").text
    links = [f"/{LEARNED}/{row}/tokens" for row in range(len(samples))]
    assert re.findall(r'<a href="(/[^"]*/tokens)">', page) == links
    last = f"{LEARNED[:-1]}{len(answered.steps)}"
    assert f'<a href="/{last}">solver</a>' in client.get("/").text
    back = re.search(r'<a href="([^"]*)">as it was asked', client.get(links[0]).text)
    assert back and samples[0].question in texts(client.get(html.unescape(back[1])).text)


# One rollout.


def test_a_rollout_shows_tokens_and_says_what_is_not_stored(client: httpx.Client, root: Path):
    sample = read_records(root / LEARNED / "rollouts.parquet", SolverSample)[5]
    page = client.get(f"/{LEARNED}/5/tokens").text
    assert page.count('<span class="t1" title=') == len(sample.token_ids)  # -1 nats each
    assert "Not stored: the learner&#39;s" in page or "Not stored: the learner's" in page
    assert "and not this one" in page and "tokens are shown as numbers" in page
    assert "logprob_difference_max" in page  # of the whole step


def test_the_base_model_stands_beside_the_sampler_where_it_scored(config: Config, copy: Path):
    step = Step(iteration=1, phase="solver", index=3)
    sample = read_records(copy / step.key / "rollouts.parquet", SolverSample)[2]
    base = np.full(len(sample.token_ids) - 1, -1.5, np.float32)  # the last one was left out
    score = BaseScore(
        role="solver", row=2, policy_logprobs=sample.logprobs[:-1], base_logprobs=base
    )
    write_records(copy / "iteration-01/base-logprobs.parquet", [score], BaseScore)
    run = StoredRun(config, copy, Path("/base"))
    view = view_rollout(run, "solver", step, 2, 0, Problems())
    assert view is not None and view.has_base
    assert [token.ratio for token in view.tokens[:-1]] == pytest.approx([np.exp(0.5)] * len(base))
    assert view.tokens[-1].ratio is None
    other = view_rollout(run, "solver", step, 1, 0, Problems())
    assert other is not None and not other.has_base


def test_tokens_are_text_where_the_run_has_a_tokenizer(config: Config, copy: Path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {
        name: number for number, name in enumerate(["<script>", "\u202e", *map(str, range(99))])
    }
    folder = copy / "models/solver-iteration-01"
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer(WordLevel(words, unk_token="0")).save(str(folder / "tokenizer.json"))
    with served(config, copy) as client:
        page = client.get(f"/{LEARNED}/0/tokens").text
        assert "tokens are shown as numbers" not in page
        assert ">&lt;script&gt;</span>" in page and "\u202e" not in page
        (folder / "tokenizer.json").write_text("{")
        assert "is no tokenizer" in client.get(f"/{LEARNED}/0/tokens").text


# While a run goes on.


def test_a_step_that_is_finished_later_is_seen(config: Config, tmp_path: Path):
    root = tmp_path / "run"
    attempt = Attempt(replace(config, run_dir=str(root)), root)
    with pytest.raises(Killed):
        attempt.go(kill_at="iteration-01/challenger/step-002")
    with served(config, root) as client:
        before = client.get("/").text
        assert '<meta http-equiv="refresh"' in before and "at work" in before
        assert "curriculum" not in before
        listed = len(texts(client.get("/iteration-01?source=challenger").text))
        assert (
            client.get("/iteration-01?source=curriculum").text.count('href="/iteration-01/cu') == 0
        )
        Attempt(replace(config, run_dir=str(root)), root).go()
        after = client.get("/").text
        assert '<meta http-equiv="refresh"' not in after and "at work" not in after
        assert "Iteration 2" in after and "curriculum" in after
        assert len(texts(client.get("/iteration-01?source=challenger").text)) >= listed > 0
        assert len(texts(client.get("/iteration-01?source=curriculum").text)) == 30


def test_a_run_that_nobody_has_written_to_for_long_is_stopped(config: Config, copy: Path):
    more = replace(config, num_iterations=5)
    for name in ("metrics.jsonl", "events.jsonl", "manifest.json"):
        os.utime(copy / name, (0, 0))
    with served(more, copy) as client:
        assert ">stopped<" in client.get("/").text
    with served(more, copy) as client, held_by_a_driver(copy / ".lock"):
        assert ">at work<" in client.get("/").text


@contextmanager
def held_by_a_driver(lock: Path) -> Iterator[None]:
    script = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); "
        "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        yield
        process.communicate()


def test_nothing_in_the_run_directory_changes(config: Config, copy: Path):
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in sorted(copy.rglob("*"))
        }

    before = state()
    with served(config, copy) as client:
        for path in ("/", "/iteration-01", f"/{ASKED}/0", f"/{OFFERED}/0", f"/{LEARNED}/0/tokens"):
            assert client.get(path).status_code == 200
    assert state() == before


# What is damaged, or not there.


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_file_is_a_line_in_the_page(config: Config, copy: Path, damage: str):
    path = copy / OFFERED / "candidates.parquet"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        write_records(path, [], CurriculumItem)
    else:
        path.unlink()
        path.symlink_to("nowhere")
    with served(config, copy) as client:
        page = client.get("/iteration-01").text
        rest = len(asked(copy)) + 10  # the candidates of the second step
        assert f"<b>{rest}</b> questions" in page
        problems = re.findall(r'<p class="problem">(.*?)</p>', page)
        assert len(problems) == (0 if damage == "gone" else 1)
        assert all(str(path) in line and "is damaged" in line for line in problems)
        answer = client.get(f"/{OFFERED}/0")
        assert answer.status_code == (404 if damage == "gone" else 500)
        assert answer.text.count('class="problem"') == 1
        twin = client.get(f"/{ASKED}/0")
        assert twin.status_code == 200


@pytest.mark.parametrize("name", ["metrics.jsonl", "manifest.json", "iteration-01/evaluation.json"])
def test_a_damaged_log_is_a_line_in_the_page(config: Config, copy: Path, name: str):
    (copy / name).write_text("{}\n{}\n")
    with served(config, copy) as client:
        page = client.get("/").text
        assert page.count('class="problem"') == 1 and str(copy / name) in page


@pytest.mark.parametrize(
    "path",
    [
        "/iteration-99",
        "/iteration-1",
        "/iteration-01/challenger/step-001/99999",
        "/iteration-01/challenger/step-999/0",
        "/iteration-01/drift/step-001/0",
        "/iteration-01/challenger/step-001",
        "/iteration-01/solver/step-999",
        "/iteration-01/curriculum/step-001/0/tokens",
        "/iteration-01/solver/step-001/0",
        "/iteration-01/challenger/step-001/-1",
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/iteration-01/challenger/..%2fstep-001/0",
    ],
)
def test_what_is_not_there_is_one_line(client: httpx.Client, path: str):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.text.count('class="problem"') == 1
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


# Who may look.


@pytest.mark.parametrize("path", ["/", "/iteration-01", "/style.css", f"/{ASKED}/0", "/nothing"])
def test_without_the_token_everything_is_refused(config: Config, root: Path, path: str):
    with anonymous(config, root) as client:
        port = client.base_url.port or 0
        wrong = {"cookie": f"rzero-report-{port}=x"}
        other = {"cookie": f"rzero-report-{port + 1}={TOKEN}"}
        for headers in ({}, wrong, other):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 403 and "1+" not in answer.text
        assert client.get(f"{path}?token=x").status_code == 403
        assert client.get(f"{path}?token=%C3%A9").status_code == 403


def test_the_link_sets_a_cookie_that_scripts_and_other_sites_do_not_have(
    config: Config, root: Path
):
    with anonymous(config, root) as client:
        answer = client.get(f"/iteration-01?outcome=kept&token={TOKEN}&page=1")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/iteration-01?outcome=kept&page=1"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        away = client.get(f"{client.base_url}//evil.example/?token={TOKEN}")
        assert away.headers["location"] == "/evil.example/"
        assert client.get("/iteration-01").status_code == 200  # by the cookie


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}"]
)
def test_a_request_to_another_host_is_refused(client: httpx.Client, host: str):
    name = host.format(port=client.base_url.port)
    assert client.get("/", headers={"host": name}).status_code == 403
    local = f"localhost:{client.base_url.port}"
    cookie = f"rzero-report-{client.base_url.port}={TOKEN}"
    assert client.get("/", headers={"host": local, "cookie": cookie}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_there_is_nothing_to_change(client: httpx.Client, method: str):
    assert client.request(method, "/").status_code == 405


def test_every_answer_forbids_scripts(client: httpx.Client):
    for path in ("/", "/iteration-01", f"/{ASKED}/0", "/style.css"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"].split("; ")
        assert policy[:2] == ["default-src 'none'", "style-src 'self'"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "script" not in client.get(path).text.lower()


# Text of a model.


def spoil(root: Path, evil: str = EVIL) -> None:
    """Have every text of a run's first steps be hostile, of records that hold what they held."""
    path = root / OFFERED / "candidates.parquet"
    rows = [
        replace(
            row,
            text=f"{evil}\n</pre><script>document.title = 'evil'</script>",
            question=f"{evil}{number}",
            answers=(evil, "</td><script>document.title = 'evil'</script>", None),
            label=evil,
            truth=f"{evil}'\"><svg onload=\"document.title='evil'\">",
            vote_texts=(evil, evil, evil),
            dropped=f"{evil}\"><script>document.title='evil'</script>" if number % 2 else None,
        )
        for number, row in enumerate(read_records(path, Candidate))
    ]
    write_records(path, rows, Candidate)
    path = root / ASKED / "rollouts.parquet"
    samples = [
        replace(row, text=evil, question=evil, answers=(evil,), label=evil, weight_version=evil)
        for row in read_records(path, ChallengerSample)
    ]
    write_records(path, samples, ChallengerSample)
    path = root / LEARNED / "rollouts.parquet"
    answers = [
        replace(row, text=evil, question=f"{evil}0", label=evil, answer=evil, weight_version=evil)
        for row in read_records(path, SolverSample)
    ]
    write_records(path, answers, SolverSample)


HOSTILE_PAGES = (
    "/iteration-01",
    f"/iteration-01?search={EVIL.replace('#', '%23')[:40]}",
    f"/{OFFERED}/0",
    f"/{OFFERED}/1",
    f"/{ASKED}/0",
    f"/{LEARNED}",
    f"/{LEARNED}/0/tokens",
)


def test_hostile_text_appears_only_escaped(config: Config, copy: Path):
    spoil(copy)
    with served(config, copy) as client:
        for path in HOSTILE_PAGES:
            answer = client.get(path)
            assert answer.status_code == 200, path
            page = answer.text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page, path
            assert not re.search(r"<(script|img|svg onload|iframe)", page), path
            assert not {"\u202e", "\x1b"} & set(page), path
            assert "\N{REPLACEMENT CHARACTER}" in page


def test_long_text_is_cut_and_lines_stay():
    assert visible("a\nb\tc\u200b") == "a\nb\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}"
    cut = visible("9" * 1_000_000)
    assert cut.endswith("... and 980,000 characters more") and len(cut) < 21_000


# In a browser.


@pytest.mark.slow
def test_a_browser_filters_and_opens_a_lineage(client: httpx.Client, root: Path, tmp_path: Path):
    first = f"{client.base_url}/iteration-01?outcome=kept&token={TOKEN}"
    page = dump(tmp_path, first).stdout
    kept = [row.question for row in candidates(root) if row.dropped is None]
    assert texts(page) == kept
    link = re.search(r'<td class="model"><a href="(/[^"]*)"', page)
    assert link
    page = dump(tmp_path, f"{client.base_url}{link[1]}?token={TOKEN}").stdout
    assert "What the Solver did with it" in page and f">{kept[0]}</h1>" in page


@pytest.mark.slow
def test_no_hostile_text_runs_in_a_browser(config: Config, copy: Path, tmp_path: Path):
    spoil(copy)
    with served(config, copy) as client:
        for path in (f"/{OFFERED}/1", "/iteration-01?source=curriculum"):
            mark = "&" if "?" in path else "?"
            address = f"{client.base_url}{path}{mark}token={TOKEN}"
            page = dump(tmp_path / "profile", address).stdout
            assert "&lt;script&gt;alert(1)" in page
            assert re.search(r"<title>tiny.*: .*iteration 1</title>", page)
            assert "<script" not in page and "<img" not in page


@pytest.mark.slow
@pytest.mark.parametrize("has_policy", [True, False])
def test_the_policy_would_hold_where_nothing_is_escaped(
    config: Config, copy: Path, tmp_path: Path, has_policy: bool, monkeypatch
):
    """Without both walls the text does run: the test above would find it."""
    monkeypatch.setattr(pages, "_ENVIRONMENT", pages._ENVIRONMENT.overlay(autoescape=False))
    if not has_policy:
        monkeypatch.setattr(guard, "_HEADERS", {})
    spoil(copy, EVIL.replace("alert(1)", ""))  # which would wait for somebody to close it
    with served(config, copy) as client:
        address = f"{client.base_url}/{OFFERED}/1?token={TOKEN}"
        page = dump(tmp_path / "profile", address).stdout
        assert "<script>document.title" in page
        assert ("<title>evil</title>" in page) is not has_policy


# The command.


def test_the_command_prints_a_link_that_works_until_ctrl_c(root: Path):
    command = [sys.executable, "-m", "rzero_ray", "report", f"run_dir={root}", "serve=true"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        link = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", link)
        with httpx.Client(follow_redirects=True) as client:
            assert "Iteration 2" in client.get(link).text
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout.read() == ""
        assert process.stderr.read() == "rzero_ray: stopped\n"


def test_the_command_refuses_in_one_line(root: Path, tmp_path: Path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert report([f"run_dir={root}", "--serve", f"port={port}"]) == 2
    assert f"port={port} cannot be had" in capsys.readouterr().err
    for arguments in (["port=99999"], ["serve=maybe"], ["sreve=true"]):
        assert report([f"run_dir={root}", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert report([f"run_dir={tmp_path}", "serve=true"]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_filters_refuse_what_they_do_not_know():
    with pytest.raises(UserError, match="colour is nothing to filter by"):
        read_filter({"colour": "red"})
