"""The evaluate command without engines: what it refuses, what it resumes, what it writes."""

import asyncio
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.cluster import EngineRange
from rzero_ray.config.config import to_yaml
from rzero_ray.config.evaluation import (
    EvaluationConfig,
    load_evaluation_config,
    resolve_output_dir,
    sampling_settings,
)
from rzero_ray.config.load import load_config
from rzero_ray.evaluation.answering import AnsweredProblem, heldout_problems
from rzero_ray.evaluation.benchmarks.catalogue import Benchmark
from rzero_ray.evaluation.benchmarks.command import main, run_evaluation
from rzero_ray.evaluation.benchmarks.jobs import (
    Job,
    Subject,
    answer_settings,
    check_same_settings,
    load_jobs,
    make_subjects,
    unfinished,
)
from rzero_ray.evaluation.benchmarks.measuring import answer_benchmark, check_prompts
from rzero_ray.evaluation.benchmarks.report import make_report
from rzero_ray.evaluation.heldout import evaluate, read_answered
from rzero_ray.evaluation.scores import score
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.run.concurrency import gather_limited
from rzero_ray.run.directory import prepare_run_dir
from rzero_ray.run.parquet import read_records, write_records
from rzero_ray.run.run import Run
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.tasks.tiny_model import build_tokenizer
from rzero_ray.types import Message, RunError, UserError
from tests.benchmark_rows import write_all
from tests.unit.fakes import FakeJudge, FakePolicy, SilentObserver


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give model=PATH"),
        (["model=x", "num_sample=2"], "the nearest is num_samples"),
        (["model=x", "sampler.num_solvers=2"], "the nearest is sampler.num_solver.min"),
        (["model=x", "sampler=2"], "sampler is a section"),
        (["model=x", "seed=abc"], "bad value for seed"),
        (["model=x", "conf=tinny"], "no evaluation/tinny.yaml in conf/; the nearest is tiny"),
        (["model=x", "base=x"], "leave base out"),
        (["model=x", "sampler.num_challenger=1"], "set sampler.num_solver"),
        (["model=x", "num_samples=-1"], "must be from 0 to"),
        (["model=x", "max_problems=-1"], "must be from 0 to"),
        (["model=x", "max_tokens=20000"], "less than max_model_len"),
        (["model=tiny", "task=math"], "knows only task=arithmetic"),
        (["model=x", "base=ladder", "task=math"], "model=ladder knows only task=ladder"),
        (["model=x", "suite"], "not of the form key=value"),
    ],
)
def test_mistakes_get_one_line_that_names_the_fix(arguments: list[str], message: str):
    with pytest.raises(UserError) as caught:
        load_evaluation_config(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tiny_model_gets_the_settings_of_a_cpu_and_others_those_of_one_gpu():
    tiny = load_evaluation_config(["model=tiny", "seed=3"])
    assert (tiny.task, tiny.dtype, tiny.sampler.gpus_per_engine) == ("arithmetic", "float32", 0)
    assert load_evaluation_config(["model=m/solver", "task=arithmetic"]) == replace(
        tiny, model="m/solver", seed=0
    )
    ladder = load_evaluation_config(["task=ladder", "model=m/solver"])
    assert (ladder.max_model_len, ladder.sampler.gpus_per_engine) == (96, 0)
    for model in ("ladder", "ladder_coins"):
        config = load_evaluation_config([f"model={model}"])
        assert (config.task, config.max_model_len) == ("ladder", 96)
    real = load_evaluation_config(["model=Qwen/Qwen3-4B-Base"])
    assert (real.task, real.sampler.gpus_per_engine) == ("math", 1.0)
    assert real.sampler.num_solver == EngineRange(min=1, max=1)
    of_cluster = sampling_settings(real, real.model)
    assert of_cluster.sampler.num_challenger == 0
    assert of_cluster.model.max_model_len == real.max_model_len
    assert resolve_output_dir(real).name == "Qwen-Qwen3-4B-Base-seed0"


def test_a_mistake_ends_with_code_2_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["model=tiny", "suite=gsm8k", f"output_dir={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rzero_ray: error: gsm8k: openai/gsm8k is neither")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def _config(tmp_path: Path, *more: str) -> EvaluationConfig:
    data = tmp_path / "data"
    if not data.exists():
        write_all(data)
    output = tmp_path / "out"
    return load_evaluation_config(
        ["model=tiny", f"data_dir={data}", f"output_dir={output}", "num_samples=4", *more]
    )


def _answer(job: Job, skill: float, seed: int = 0) -> list[AnsweredProblem]:
    return asyncio.run(
        answer_benchmark(
            job,
            FakePolicy("solver", skill),
            FakeJudge(),
            ArithmeticTask(),
            seed=seed,
            settings=EvalConfig(num_samples=job.num_samples, max_tokens=32),
            limit=2,
        )
    )


def _finish(subject: Subject, job: Job, skill: float) -> None:
    subject.write_answers(job, _answer(job, skill), seconds=1.0)


def test_finished_benchmarks_are_not_repeated_and_changed_ones_are_refused(tmp_path: Path):
    config = _config(tmp_path, "suite=amc,bbeh")
    (subject,) = make_subjects(config, resolve_output_dir(config))
    amc, bbeh = load_jobs(config)
    _finish(subject, amc, 1.0)
    assert unfinished(subject, [amc, bbeh]) == [bbeh]
    with pytest.raises(UserError, match="are to other problems or of another k"):
        unfinished(subject, [replace(amc, num_samples=8)])
    with pytest.raises(UserError, match="are to other problems"):
        unfinished(subject, [replace(amc, problems=amc.problems[:2])])


def test_answers_of_other_weights_or_settings_are_refused(tmp_path: Path):
    config = _config(tmp_path)
    (subject,) = make_subjects(config, resolve_output_dir(config))
    weights = tmp_path / "model.safetensors"
    weights.write_text("1")
    check_same_settings(config, subject, tmp_path)  # nothing is there yet
    subject.folder.mkdir(parents=True)
    (subject.folder / ".settings.json").write_text(
        json.dumps(answer_settings(config, subject, tmp_path))
    )
    check_same_settings(config, subject, tmp_path)
    check_same_settings(config, subject, None)  # the model is not on this machine
    with pytest.raises(UserError, match="holds answers with seed=0, not 1"):
        check_same_settings(replace(config, seed=1), subject, tmp_path)
    weights.write_text("22")
    with pytest.raises(UserError, match="holds answers with weights="):
        check_same_settings(config, subject, tmp_path)


def test_answers_that_were_written_under_a_keys_former_name_are_found(tmp_path: Path):
    config = _config(tmp_path, "base_seed=3")
    (subject,) = make_subjects(config, resolve_output_dir(config))
    settings = answer_settings(config, subject, None)
    settings["tiny_seed"] = settings.pop("base_seed")
    subject.folder.mkdir(parents=True)
    (subject.folder / ".settings.json").write_text(json.dumps(settings))
    check_same_settings(config, subject, None)
    with pytest.raises(UserError, match="holds answers with base_seed=3, not 4"):
        check_same_settings(replace(config, base_seed=4), subject, None)
    with pytest.raises(UserError, match="tiny_seed is now base_seed"):
        load_evaluation_config(["model=tiny", "tiny_seed=3"])


def test_the_report_compares_model_and_base_on_the_same_problems(tmp_path: Path):
    config = _config(tmp_path, "suite=math", "base=Qwen/Qwen3-4B-Base")
    base, model = make_subjects(config, resolve_output_dir(config))
    jobs = load_jobs(config)
    for job in jobs:
        _finish(base, job, 0.3)
        _finish(model, job, 1.0)
    report = make_report(config, (base, model), jobs)
    assert report.scores["tiny"]["amc"].mean_at_k.value == 1.0
    for name, gap in report.differences.items():
        of_model, of_base = (report.scores[s.label][name].mean_at_k for s in (model, base))
        assert gap.mean_at_k.value == pytest.approx(of_model.value - of_base.value)
        assert gap.mean_at_k.low <= gap.mean_at_k.value <= gap.mean_at_k.high
    titles = [grid.title for grid in report.grids]
    assert any("Averages" in title for title in titles)  # the whole suite was measured
    published = next(grid for grid in report.grids if "published" in grid.title)
    assert {row[1] for row in published.rows[2:]} == {
        "Qwen3-4B-Base, base",
        "Qwen3-4B-Base, R-Zero",
    }
    out = io.StringIO()
    for grid in report.grids:
        Console(file=out, width=160).print(grid.to_rich())
        assert grid.to_markdown().count("\n|") == len(grid.rows) + 2
    assert "difference" in out.getvalue()


def test_records_survive_the_disk(tmp_path: Path):
    config = _config(tmp_path, "suite=mmlu_pro")
    (job,) = load_jobs(config)
    rows = _answer(job, 0.5)
    write_records(tmp_path / "x.parquet", rows, AnsweredProblem)
    (again, *_) = read_records(tmp_path / "x.parquet", AnsweredProblem)
    assert again.num_tokens.tolist() == rows[0].num_tokens.tolist()
    for name in ("texts", "answers", "options", "truncated", "majority", "greedy_answer"):
        assert getattr(again, name) == getattr(rows[0], name)


def test_heldout_is_asked_and_scored_as_in_the_drivers_own_evaluation(tmp_path: Path):
    config = load_config(["conf=tiny", "seed=7"])
    policies = FakePolicy("solver"), FakePolicy("solver")
    prepare_run_dir(config, tmp_path)
    run = Run(config, tmp_path, Path("/base"), StageClock(), SilentObserver())
    cast = Cast(FakePolicy("challenger"), policies[0], FakeJudge(), ArithmeticTask())
    row = asyncio.run(evaluate(config, 0, cast, run))
    (job,) = load_jobs(load_evaluation_config(["model=tiny", "suite=heldout", "seed=7"]))
    rows = asyncio.run(
        answer_benchmark(
            job,
            policies[1],
            FakeJudge(),
            ArithmeticTask(),
            seed=7,
            settings=replace(config.eval, num_samples=job.num_samples),
            limit=1000,
        )
    )
    headline = {problem.question for problem in job.problems}
    asked = [
        {(q, r.seed) for r in p.requests if (q := r.messages[-1]["content"]) in headline}
        for p in policies
    ]
    assert asked[0] == asked[1] and len(asked[0]) == 360
    of = score("heldout", rows, seed=7)  # as the command scores them
    assert (row["greedy"], row["mean@8"]) == (of.greedy.value, of.mean_at_k.value)
    assert row["mean@8_ci95"] == [of.mean_at_k.low, of.mean_at_k.high]
    kept = read_answered(tmp_path / "iteration-00/evaluation.parquet")
    assert [problem.texts for problem in kept] == [problem.texts for problem in rows]


def test_the_strata_stand_beside_the_headline_which_stays_over_the_same_problems(tmp_path: Path):
    config = load_config(["conf=tiny", "seed=7", "eval.num_samples=2"])
    prepare_run_dir(config, tmp_path)
    run = Run(config, tmp_path, Path("/base"), StageClock(), SilentObserver())
    cast = Cast(FakePolicy("challenger"), FakePolicy("solver"), FakeJudge(), ArithmeticTask())
    row = asyncio.run(evaluate(config, 0, cast, run))
    assert row["num_problems"] == 360
    assert len(read_records(tmp_path / "iteration-00/evaluation.parquet", AnsweredProblem)) == 360
    assert list(row["strata"]) == [f"{n} operands" for n in (9, 10, 11, 12)]
    for figures in row["strata"].values():
        assert figures["num_problems"] == 20
        assert 0 <= figures["greedy"] <= 1 and 0 <= figures["mean@2"] <= 1
    beside = read_records(tmp_path / "iteration-00/strata.parquet", AnsweredProblem)
    assert {p.category for p in beside} == set(row["strata"])
    assert not {p.question for p in beside} & {p.question for p in heldout_problems(cast.task)}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_temperature_is_of_the_sampled_answers_alone(tmp_path: Path, temperature: float):
    config = load_config(["conf=tiny", f"eval.temperature={temperature}"])
    prepare_run_dir(config, tmp_path)
    run = Run(config, tmp_path, Path("/base"), StageClock(), SilentObserver())
    solver = FakePolicy("solver")
    cast = Cast(FakePolicy("challenger"), solver, FakeJudge(), ArithmeticTask())
    asyncio.run(evaluate(config, 0, cast, run))
    heats = {(r.num_samples, r.sampling.temperature) for r in solver.requests}
    assert heats == {(1, 0.0), (8, temperature)}


def test_prompts_without_room_for_an_answer_are_refused_before_ray(tmp_path: Path):
    model = tmp_path / "model"
    build_tokenizer(192).save_pretrained(model)
    rows = [{"question": q, "answer": "1"} for q in ("1+0", "+".join(["1"] * 151), "2-1")]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = _config(tmp_path, f"suite={path}")
    message = r"mine, problem 2: the prompt has 304 tokens .* within max_model_len=192; shorten"
    with pytest.raises(UserError, match=message):
        check_prompts(config, model, ArithmeticTask(), load_jobs(config))
    path.write_text(json.dumps(rows[0]))
    check_prompts(config, model, ArithmeticTask(), load_jobs(config))


def test_a_choice_is_asked_with_its_options_where_the_model_can_read_them():
    from rzero_ray.evaluation.answering import problem_messages
    from rzero_ray.tasks.registry import MathTask
    from rzero_ray.types import BenchmarkProblem

    problem = BenchmarkProblem(question="1+1", answer="B", rule="choice", options=("1", "2"))
    assert problem_messages(MathTask(), problem)[-1]["content"] == "1+1\n\nA. 1\nB. 2"
    assert problem_messages(ArithmeticTask(), problem)[-1]["content"] == "1+1"


def test_benchmark_names_are_plain_file_names():
    from rzero_ray.evaluation.benchmarks.catalogue import BENCHMARKS

    assert all(isinstance(b, Benchmark) and name == b.name for name, b in BENCHMARKS.items())


def test_no_more_problems_than_the_limit_are_under_way():
    under_way, most = 0, 0

    async def work(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return number

    results = asyncio.run(gather_limited((work(i) for i in range(50)), 3))
    assert results == list(range(50))
    assert most == 3


def test_a_failure_ends_what_has_not_begun():
    begun = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        raise RunError("broken")

    with pytest.raises(RunError, match="broken"):
        asyncio.run(gather_limited((work(i) for i in range(50)), 1))
    assert len(begun) < 50


class _Reader:
    """A judge model that accepts 5 alone, whatever the rule says."""

    def __init__(self) -> None:
        self.num_asked = 0

    async def complete(self, messages: Sequence[Message]) -> str | None:
        self.num_asked += 1
        text = messages[-1]["content"]
        return "yes" if "<candidate_answer>\n5\n</candidate_answer>" in text else "no"

    async def close(self) -> None:
        pass


def test_the_judge_model_reads_finished_records_once_and_is_reported_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = _config(tmp_path, "suite=amc", "endpoint.url=http://x/v1", "endpoint.model=reader")
    (subject,) = make_subjects(config, resolve_output_dir(config))
    (job,) = load_jobs(config)
    _finish(subject, job, 1.0)  # all six are right by rule; two of them are 5
    (resolve_output_dir(config) / "config.yaml").write_text(to_yaml(config))
    reader = _Reader()
    monkeypatch.setattr(f"{run_evaluation.__module__}._open_judge", lambda config: reader)
    for _ in range(2):
        report = run_evaluation(config, Console(file=io.StringIO()))
        (counts,) = report.opinions.values()
        assert counts["rejected_though_rule_accepts"] == 4
        assert counts["accepted_though_rule_rejects"] == 0
        assert (counts["greedy_by_rule"], counts["greedy_by_judge"]) == (1.0, 2 / 6)
        assert report.scores["tiny"]["amc"].greedy.value == 1.0  # the headline is the rule's
    assert reader.num_asked == 6
    summary = json.loads((resolve_output_dir(config) / "summary.json").read_text())
    assert summary["judge"][0]["rejected_though_rule_accepts"] == 4
    assert "right to wrong" in (resolve_output_dir(config) / "table.md").read_text()
