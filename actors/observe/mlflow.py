"""Curves for MLflow: a run for the global model, and below it one for each site.

Here: what of an experiment becomes what in MLflow's store, and what the recorder needs. Not here:
the recorder (`recorder.py`, `recording.py`), which value has which name and step (`tracking.py`).

The store is one SQLite file, `mlflow.db`, which `mlflow ui --backend-store-uri sqlite:///...`
shows; MLflow's store of plain files takes no more runs. Texts are artifacts beside it.
"""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from .recorder import Recorder, command, environment
from .tracking import GLOBAL, PARAMETER, SCALAR, TAG, Experiment, Point, flat, require_modules

#: Environment of the recorder, in place of every `MLFLOW_...` of the user: no reports to MLflow's
#: makers, no advice on the terminal.
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "true",
}

#: MLflow's own limits (mlflow.utils.validation).
_METRICS_AT_ONCE: Final = 1000
_TAGS_AT_ONCE: Final = 100  # also parameters
_NAME_CHARACTERS: Final = 250
_PARAM_CHARACTERS: Final = 6000
_TAG_CHARACTERS: Final = 8000
_FORBIDDEN: Final = re.compile(r"[^/\w.\- :]")

_JOB: Final = "covey.job"
_SEED: Final = "covey.seed"
_SITE: Final = "covey.site"

_STATUS: Final = {"completed": "FINISHED", "failed": "FAILED", "aborted": "KILLED"}


def require() -> None:
    """Check that MLflow and what its SQLite store needs are installed, without importing them.

    Raises:
        TrackingUnavailable: If not; the message says what to install.
    """
    require_modules("MLflow", "mlflow", "mlflow", "sqlalchemy", "alembic")


def mlflow_tracker(folder: Path, experiment: Experiment) -> Recorder:
    """A tracker that writes a run's curves with MLflow.

    Args:
        folder: Where the store is made; usually `<run>/tracking/mlflow`.
        experiment: The run.

    Raises:
        TrackingUnavailable: If MLflow is not installed.
        OSError: If the folder cannot be made.
    """
    require()
    variables = environment(_ENVIRONMENT, "MLFLOW_", "_MLFLOW_")
    line = command("mlflow", folder)
    return Recorder("mlflow", line, folder, experiment, environment=variables)


class MlflowWriter:
    """Writes into the store of the current folder, which is the recorder's. Any: see `_load`."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        """Make the store and the global run, or open again what it has of the same job."""
        entities = _load("mlflow.entities")
        self._metric: Any = entities.Metric
        self._param: Any = entities.Param
        self._tag: Any = entities.RunTag
        self._folder = folder
        self._about = experiment
        # A relative URL: in an absolute one some characters of a folder's name have a meaning.
        self._client: Any = _load("mlflow").MlflowClient(tracking_uri="sqlite:///mlflow.db")
        self._experiment = self._find_experiment()
        self._runs: dict[str, str] = self._open_runs()
        self._log_params()

    def write(self, points: Sequence[Point]) -> None:
        """Write in batches, for each site: a batch is a transaction, with a wait for the disk."""
        by_site: defaultdict[str, list[Point]] = defaultdict(list)
        for point in points:
            by_site[point.site].append(point)
        for site, found in by_site.items():
            run = self._run(site)
            self._write_numbers(run, [point for point in found if point.kind == SCALAR])
            self._write_tags(run, [point for point in found if point.kind in (PARAMETER, TAG)])
            for point in found:
                if point.kind not in (SCALAR, PARAMETER, TAG):
                    self._write_text(run, point)

    def end(self, status: str) -> None:
        """Give every run the status, the global one last."""
        for run in reversed(self._runs.values()):
            self._client.set_terminated(run, _STATUS[status])

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._about.name)
        if found is not None:
            return str(found.experiment_id)
        place = (self._folder / "artifacts").as_uri()
        return str(self._client.create_experiment(self._about.name, artifact_location=place))

    def _open_runs(self) -> dict[str, str]:
        """The job's runs by site, all of them running again; the global one first."""
        runs = {run.data.tags[_SITE]: str(run.info.run_id) for run in self._found_runs()}
        for run in runs.values():
            self._client.update_run(run, status="RUNNING")
        return runs or {GLOBAL: self._new_run(GLOBAL, self._about.job, {})}

    def _found_runs(self) -> Iterator[Any]:
        """The job's runs in the order they were made, from a store that gives them in pages."""
        chosen, order = f"tags.`{_JOB}` = '{self._about.job}'", ["attributes.start_time ASC"]
        page: Any = self._client.search_runs([self._experiment], chosen, order_by=order)
        yield from page
        while page.token:
            page = self._client.search_runs(
                [self._experiment], chosen, order_by=order, page_token=page.token
            )
            yield from page

    def _run(self, site: str) -> str:
        run = self._runs.get(site)
        if run is None:
            parent = {"mlflow.parentRunId": self._runs[GLOBAL]}
            run = self._runs[site] = self._new_run(site, site, parent)
        return run

    def _new_run(self, site: str, name: str, tags: dict[str, str]) -> str:
        about = {_JOB: self._about.job, _SEED: str(self._about.seed), _SITE: site}
        run = self._client.create_run(self._experiment, tags=about | tags, run_name=name)
        return str(run.info.run_id)

    def _log_params(self) -> None:
        settings = flat(self._about.settings)
        params = [self._param(_name(k), text[:_PARAM_CHARACTERS]) for k, text in settings.items()]
        for batch in _batches(params, _TAGS_AT_ONCE):
            self._client.log_batch(self._runs[GLOBAL], params=batch, synchronous=True)

    def _write_numbers(self, run: str, points: Sequence[Point]) -> None:
        for batch in _batches(points, _METRICS_AT_ONCE):
            metrics = [
                self._metric(_name(point.name), point.value, int(point.time * 1000), point.step)
                for point in batch
            ]
            self._client.log_batch(run, metrics=metrics, synchronous=True)

    def _write_tags(self, run: str, points: Sequence[Point]) -> None:
        """Also a script's parameters are tags: it may change them, which MLflow's cannot."""
        latest = {_name(point.name): str(point.value)[:_TAG_CHARACTERS] for point in points}
        for batch in _batches(list(latest.items()), _TAGS_AT_ONCE):
            tags = [self._tag(name, text) for name, text in batch]
            self._client.log_batch(run, tags=tags, synchronous=True)

    def _write_text(self, run: str, point: Point) -> None:
        # Where MLflow keeps the artifacts of a run, and lets a program write to as it likes.
        file = self._folder / "artifacts" / run / "artifacts" / f"{_name(point.name)}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{point.step}\t{point.value}\n")


def _name(name: str) -> str:
    """A curve's name as MLflow takes it: a relative path of few kinds of characters."""
    parts = _FORBIDDEN.sub("_", name).split("/")
    safe = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return safe[:_NAME_CHARACTERS].rstrip("/")


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _load(module: str) -> Any:
    """A module of MLflow. Any: a typed import would have type checkers ask for MLflow."""
    return importlib.import_module(module)
