"""Weights & Biases and MLflow: every number of a run's rows, where a config asks for them.

Neither package is installed with the program. A run that is resumed goes on in the same tracked
run. What a tracker itself raises ends no run: curves are there to be looked at, and all of them are
in `metrics.jsonl`.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rzero_ray.config.config import Config
from rzero_ray.config.showing import TrackersConfig
from rzero_ray.config.sources import flatten
from rzero_ray.disk.files import write_text_durably
from rzero_ray.run.scalars import ScalarObserver
from rzero_ray.types import UserError

logger = logging.getLogger(__name__)


class Tracker(ScalarObserver):
    """Writes to a service, whose failures are told once and end nothing."""

    name: str
    _has_failed = False

    def write(self, group: str, numbers: dict[str, float], step: int) -> None:
        """See `scalars.ScalarObserver`."""
        try:
            self.send(group, numbers, step)
        except Exception as error:
            if not self._has_failed:
                logger.warning("%s takes no figures: %s", self.name, error)
            self._has_failed = True

    @abstractmethod
    def send(self, group: str, numbers: dict[str, float], step: int) -> None:
        """Hand the numbers of a row to the service."""


class WandbTracker(Tracker):
    """A run of Weights & Biases. WANDB_MODE, WANDB_API_KEY and the like are its own affair."""

    name = "Weights & Biases"

    def __init__(self, project: str, root: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        import wandb

        self._run = wandb.init(
            project=project,
            name=root.name,
            id=_kept_id(root / "wandb_run_id", lambda: uuid.uuid4().hex),
            resume="allow",
            dir=root,
            config=dict(config),
            # Whoever wants curves asks for neither the console nor the code.
            # A study has several runs at a time in one process.
            settings=wandb.Settings(
                console="off",
                quiet=True,
                save_code=False,
                disable_git=True,
                reinit="create_new",
            ),
        )
        self._groups: set[str] = set()

    def send(self, group: str, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        axis = f"{group}/total_step"  # its own steps only grow, over all curves of a run
        if group not in self._groups:
            self._run.define_metric(f"{group}/*", step_metric=axis)
            self._groups.add(group)
        self._run.log({**numbers, axis: step})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class MlflowTracker(Tracker):
    """A run of MLflow, by its client: the process has no active run."""

    name = "MLflow"

    def __init__(self, uri: str, experiment: str, root: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = MlflowClient(uri)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)

        def begin() -> str:
            run = self._client.create_run(number, run_name=root.name)
            params = [Param(key, str(value)[:500]) for key, value in config.items()]
            for start in range(0, len(params), 100):  # the most that one call takes
                self._client.log_batch(run.info.run_id, params=params[start : start + 100])
            return run.info.run_id

        self._run = _kept_id(root / "mlflow_run_id", begin)
        self._client.update_run(self._run, status="RUNNING")

    def send(self, group: str, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        metrics = [self._metric(_mlflow_name(k), v, now, step) for k, v in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run)


def check_trackers(wanted: TrackersConfig) -> None:
    """Raise UserError where the package of a tracker that is asked for is not installed."""
    for package, value in (("wandb", wanted.wandb), ("mlflow", wanted.mlflow)):
        if value and find_spec(package) is None:
            raise UserError(
                f"trackers.{package}={value} needs the package {package}, which is not installed: "
                f"pip install {package}"
            )


@contextmanager
def opened_trackers(wanted: TrackersConfig, config: Config, root: Path) -> Iterator[list[Tracker]]:
    """Have the wanted trackers in the block, told of the config. Raises UserError where one cannot
    be begun."""
    values = flatten(asdict(config))
    with ExitStack() as opened:
        found: list[Tracker] = []
        try:
            if wanted.wandb:
                found.append(wandb := WandbTracker(wanted.wandb, root, values))
                opened.callback(_quietly, wandb.close)
            if wanted.mlflow:
                mlflow = MlflowTracker(wanted.mlflow, wanted.experiment, root, values)
                found.append(mlflow)
                opened.callback(_quietly, mlflow.close)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"a tracker cannot be begun ({reason}); see trackers.wandb and trackers.mlflow, or "
                "leave them empty"
            ) from None
        yield found


def _quietly(close: Callable[[], None]) -> None:
    try:
        close()
    except Exception as error:
        logger.warning("a tracker did not end in order: %s", error)


def _kept_id(path: Path, make: Callable[[], str]) -> str:
    """Return the name that a service knows a run by, kept in the run directory."""
    if not path.exists():
        write_text_durably(path, make())
    return path.read_text().strip()


def _mlflow_name(name: str) -> str:
    """`heldout/mean@8` -> `heldout/mean_at_8`: of signs MLflow takes few."""
    return re.sub(r"[^\w\-. /:]", "_", name.replace("@", "_at_"))
