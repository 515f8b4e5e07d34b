"""The addresses of the browser, and what answers each.

All of it reads; nothing is changed:

    /                                               iterations and phases
    /timeline?from=90&to=120                        what each actor did in these seconds
    /compare                                        the run beside others, where some were named
    /iteration-02?outcome=kept&sort=agreement       its questions
    /iteration-02/challenger/step-003/17            one question
    /iteration-02/solver/step-001                   what the Solver answered in a step
    /iteration-02/solver/step-001/5/tokens          one rollout
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from rzero_ray.config.config import Config
from rzero_ray.disk.files import DamagedFileError
from rzero_ray.run.report.comparison.page import make_comparison
from rzero_ray.run.report.comparison.runs import open_runs
from rzero_ray.run.report.markup import policy_of_a_plain_page
from rzero_ray.run.report.serving.filters import list_questions, read_filter
from rzero_ray.run.report.serving.lineage import trace
from rzero_ray.run.report.serving.overview import AT_WORK, look_over
from rzero_ray.run.report.serving.pages import (
    answers_page,
    lineage_page,
    message_page,
    overview_page,
    questions_page,
    rollout_page,
    timeline_page,
)
from rzero_ray.run.report.serving.questions import Place, iterations, path_of
from rzero_ray.run.report.serving.reading import Problems
from rzero_ray.run.report.serving.timeline import Timeline
from rzero_ray.run.report.serving.tokens import view_rollout
from rzero_ray.run.report.serving.training import answered_in
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import Step, UserError

_STYLE = files("rzero_ray.run.report.serving").joinpath("templates/style.css").read_text()
_ITERATION = re.compile(r"iteration-(\d{2,5})", re.ASCII)
_STEP = re.compile(r"step-(\d{3,10})", re.ASCII)
_ROW = re.compile(r"\d{1,9}", re.ASCII)


class Browser:
    """The pages over one run directory."""

    def __init__(
        self, config: Config, root: Path, base_model: Path, others: Sequence[Path] = ()
    ) -> None:
        """`base_model` is where the tokenizer is looked for first, `others` are the runs that this
        one is compared with. Raises UserError where it cannot be."""
        if others:
            open_runs(root, others)
        self._others = others
        self._config = config
        self._root = root
        self._base_model = base_model
        self._task = make_task(config.task)
        self._timeline = Timeline(root)

    def application(self) -> Starlette:
        """Return what a server runs."""
        question = "/{iteration}/{phase:str}/{step}/{row}"
        return Starlette(
            routes=[
                Route("/", self._overview),
                Route("/style.css", _style),
                Route("/timeline", self._timeline_page),
                Route("/compare", self._comparison),
                Route("/{iteration}", self._questions),
                Route("/{iteration}/{phase:str}/{step}", self._answers),
                Route(question, self._lineage),
                Route(f"{question}/tokens", self._rollout),
            ],
            exception_handlers={UserError: self._say, HTTPException: self._say},
        )

    def _run(self) -> StoredRun:
        """Return the run as it is at this moment."""
        return StoredRun(self._config, self._root, self._base_model)

    # What answers the addresses; in threads, so that one slow disk holds up one page.

    def _overview(self, request: Request) -> Response:
        run, problems = self._run(), Problems()
        overview = look_over(run, problems)
        return HTMLResponse(overview_page(run, overview, bool(self._others), problems))

    def _comparison(self, request: Request) -> Response:
        if not self._others:
            raise HTTPException(404, "no run to compare with was named (compare=DIR,DIR)")
        page = make_comparison(open_runs(self._root, self._others))
        policy = {"Content-Security-Policy": policy_of_a_plain_page()}
        return HTMLResponse(page, headers=policy)

    def _timeline_page(self, request: Request) -> Response:
        run, problems = self._run(), Problems()
        view = self._timeline.view(request.query_params)
        is_live = not request.query_params and look_over(run, problems).state == AT_WORK
        return HTMLResponse(timeline_page(run, view, is_live, problems))

    def _questions(self, request: Request) -> Response:
        number = _number(_ITERATION, request.path_params["iteration"])
        run, problems = self._run(), Problems()
        if number not in iterations(self._root):
            raise HTTPException(404, "there is no such iteration")
        wanted = read_filter(request.query_params)
        listed = list_questions(self._root, number, wanted, problems)
        return HTMLResponse(questions_page(run, number, wanted, listed, problems))

    def _lineage(self, request: Request) -> Response:
        run, problems = self._run(), Problems()
        step, row = _step(request), _number(_ROW, request.path_params["row"])
        if step.phase not in ("challenger", "curriculum") or not path_of(self._root, step).exists():
            raise HTTPException(404, "there is no such question")
        lineage = trace(run, self._task, Place(step, row), problems)
        if lineage is None:
            raise HTTPException(404, "there is no such question")
        return HTMLResponse(lineage_page(run, lineage, problems))

    def _answers(self, request: Request) -> Response:
        run, problems, step = self._run(), Problems(), _step(request)
        start = _number(_ROW, request.query_params.get("from", "0"))
        if step.phase != "solver" or not _rollouts(self._root, step).exists():
            raise HTTPException(404, "there are no such answers")
        return HTMLResponse(answers_page(run, answered_in(run, step, start), problems))

    def _rollout(self, request: Request) -> Response:
        run, problems = self._run(), Problems()
        step, row = _step(request), _number(_ROW, request.path_params["row"])
        start = _number(_ROW, request.query_params.get("from", "0"))
        is_there = _rollouts(self._root, step).exists()
        if step.phase not in ("challenger", "solver") or not is_there:
            raise HTTPException(404, "there is no such rollout")
        view = view_rollout(run, step.phase, step, row, start, problems)
        if view is None:
            raise HTTPException(404, "there is no such rollout")
        return HTMLResponse(rollout_page(run, view, problems))

    def _say(self, request: Request, error: Exception) -> Response:
        """Return the page that tells why there is no other one."""
        text = error.detail if isinstance(error, HTTPException) else str(error)
        return HTMLResponse(message_page(self._config.name, text), _status(error))


def _status(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    return 500 if isinstance(error, DamagedFileError) else 400


def _style(request: Request) -> Response:
    return Response(_STYLE, media_type="text/css")


def _rollouts(root: Path, step: Step) -> Path:
    return root / step.key / "rollouts.parquet"


def _step(request: Request) -> Step:
    """Return the step that an address names, of whichever phase."""
    given = request.path_params
    for phase in ("challenger", "curriculum", "solver"):
        if given["phase"] == phase:
            return Step(
                iteration=_number(_ITERATION, given["iteration"]),
                phase=phase,
                index=_number(_STEP, given["step"]),
            )
    raise HTTPException(404, "there is no such phase")


def _number(pattern: re.Pattern[str], text: str) -> int:
    """Return the number of a part of an address."""
    if not pattern.fullmatch(text):
        raise HTTPException(404, "there is no such page")
    return int(text.rpartition("-")[2])
