"""Talk to MLflow through its client: from any thread, within set times, and with errors that say it in one line.

The fluent API (`mlflow.log_metric`) is never called: its active run belongs to a thread, and from another one it makes
a new run without a word. Its threads' lists of active runs are read, and the run is put there for the program to use.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from loopwright._support.env import read_text, set_variables
from loopwright.errors import TrackerError
from loopwright.records import Run
from loopwright.trackers.mlflow_database import prepare_database
from loopwright.trackers.naming import as_float

T = TypeVar("T")

# With MLflow's own numbers a dead server answers after 246 s, a silent one after 1208 s.
_WAITING = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_FILE_TIMEOUT = "600"  # a server answers only when it has put the file where it belongs
REQUEST_SECONDS = 45.0  # what a request may take, tried twice
POINTS_PER_REQUEST = 1000
_PARAMETERS_PER_REQUEST = 100
_LONGEST_NAME = 245  # MLflow's limit is 250; five are left to tell equal ones apart
_LONGEST_TAG = 8000
HIDDEN = "***"
_REFUSED_CHARACTERS = re.compile(r"[^/\w.\- ]" if os.name == "nt" else r"[^/\w.\- :]")


class Refused(TrackerError):
    """MLflow will never take what it was given."""


class Point(NamedTuple):
    """One value of a metric; `time` in milliseconds since 1970."""

    name: str
    value: float
    step: int
    time: int


def user_tag() -> dict[str, str]:
    """Return who makes a run, where MLflow would show a token in place of a name; else nothing.

    MLflow takes the name that it identifies itself with: a token where that is the password too, as at DagsHub.
    """
    from mlflow.utils.credentials import read_mlflow_creds

    found = read_mlflow_creds()
    if not found.username or found.username != found.password:
        return {}
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError, ImportError):  # a container's user need have no name
        return {"mlflow.user": "unknown"}


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what MLflow raises into a `TrackerError`; into `Refused` where it is the value that is wrong."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        kind = Refused if error.error_code == "INVALID_PARAMETER_VALUE" else TrackerError
        raise kind(explain(error)) from error


class MLflowService:
    """The tracking server or database at `uri`.

    Raises:
        TrackerError: by every method, where MLflow doesn't do it.
    """

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self._nans: dict[tuple[str, str], set[tuple[int, int]]] = {}  # by run and metric
        set_variables({name: text for name, text in _WAITING.items() if read_text(name) is None})
        prepare_database(uri)
        with plain_errors():
            self.client = MlflowClient(tracking_uri=uri)

    # Runs: MLflow's own objects

    def find_run(self, run_id: str) -> Any:
        """Return the run, or None where there is none.

        Raises:
            TrackerError: it was deleted: whoever did that may not want it back.
        """
        from mlflow.exceptions import MlflowException

        with plain_errors():
            try:
                found = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        if found.info.lifecycle_stage == "deleted":
            raise TrackerError(f"the run {run_id} was deleted in MLflow: restore it there, to have the rest delivered")
        return found

    def require_run(self, run_id: str) -> Any:
        """Return the run; it is an error that there is none."""
        found = self.find_run(run_id)
        if found is None:
            raise TrackerError(f"MLflow has no run {run_id}: MLFLOW_RUN_ID, or the program's active run, is elsewhere")
        return found

    def find_tagged(self, experiment_id: str, name: str, text: str) -> Any:
        """Return the newest run in the experiment that has the tag, or None."""
        with plain_errors():
            found = self.client.search_runs([experiment_id], f"tags.`{name}` = '{text}'", max_results=1)
        return found[0] if found else None

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment `name`, made where there is none."""
        from mlflow.exceptions import MlflowException

        with plain_errors():
            found = self.client.get_experiment_by_name(name)
            if found is None:
                try:
                    return str(self.client.create_experiment(name))
                except MlflowException as error:
                    found = self.client.get_experiment_by_name(name)  # another process was faster
                    if found is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
        if found.lifecycle_stage == "deleted":
            raise TrackerError(f"the MLflow experiment {name!r} was deleted: restore it, or name another one")
        return str(found.experiment_id)

    @plain_errors()
    def make_run(self, experiment_id: str, name: str | None, started_at: float, tags: Mapping[str, str]) -> Any:
        """Make a run that began `started_at` seconds after 1970."""
        fitting = {tag: text[:_LONGEST_TAG] for tag, text in tags.items()}
        return self.client.create_run(experiment_id, int(started_at * 1000), fitting, name)

    @plain_errors()
    def set_running(self, run_id: str) -> None:
        """Let an ended run be under way again."""
        self.client.update_run(run_id, status="RUNNING")

    @plain_errors()
    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags; those of other names stay."""
        from mlflow.entities import RunTag

        entries = [RunTag(name, str(value)[:_LONGEST_TAG]) for name, value in tags.items()]
        for part in _parts(entries, _PARAMETERS_PER_REQUEST):
            self.client.log_batch(run_id, tags=part, synchronous=True)

    @plain_errors()
    def end(self, run_id: str, status: str, ended_at: float | None) -> None:
        """End the run, in MLflow's word; `ended_at` in seconds since 1970, now by default."""
        self.client.set_terminated(run_id, status, None if ended_at is None else int(ended_at * 1000))

    # What a run holds. `synchronous` is said, as MLFLOW_ENABLE_ASYNC_LOGGING would have it lost at a kill.

    @plain_errors()
    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Log values of metrics; those that are there already stay single."""
        from mlflow.entities import Metric

        metrics = [Metric(point.name, as_float(point.value), point.time, point.step) for point in points]
        nans = {name: self._known_nans(run_id, name) for name in {m.key for m in metrics if math.isnan(m.value)}}
        entries = [
            metric for metric in metrics if not (math.isnan(metric.value) and _place(metric) in nans[metric.key])
        ]
        for part in _parts(entries, POINTS_PER_REQUEST):
            self.client.log_batch(run_id, metrics=part, synchronous=True)
        for metric in entries:
            if math.isnan(metric.value):
                nans[metric.key].add(_place(metric))
        self._nans.update({(run_id, name): places for name, places in nans.items()})

    def _known_nans(self, run_id: str, name: str) -> set[tuple[int, int]]:
        """Return where a metric is NaN: up to its version 3.15 MLflow fails at one that comes again.

        It is asked for once; and again after a failure, which leaves open what MLflow has got.
        """
        known = self._nans.pop((run_id, name), None)
        if known is not None:
            return known
        history = self.client.get_metric_history(run_id, name)
        return {_place(metric) for metric in history if math.isnan(metric.value)}

    @plain_errors()
    def log_parameters(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Log parameters; none may be there with another value."""
        from mlflow.entities import Param

        for part in _parts([Param(name, text) for name, text in texts.items()], _PARAMETERS_PER_REQUEST):
            self.client.log_batch(run_id, params=part, synchronous=True)

    @plain_errors()
    def store_files(self, run_id: str, path: Path) -> None:
        """Store a directory's files under its name, or one file."""
        with _patience():
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), artifact_path=path.name)
            else:
                self.client.log_artifact(run_id, str(path))

    @plain_errors()
    def store_values(self, run_id: str, values: Mapping[str, Any], file: str) -> None:
        """Store values as a JSON file."""
        self.client.log_dict(run_id, json.loads(json.dumps(values, default=str)), file)


@contextmanager
def _patience() -> Iterator[None]:
    """Give a server time to store a file, unless the user has set a time."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    is_ours = read_text(name) == _WAITING[name]
    if is_ours:
        set_variables({name: _FILE_TIMEOUT})
    try:
        yield
    finally:
        if is_ours:
            set_variables({name: _WAITING[name]})


def find_search_run(service: MLflowService, experiment_id: str, run: Run) -> Any:
    """Return the run below which a search's trials are, under way; made where there is none."""
    found = service.find_tagged(experiment_id, "loopwright.run_id", str(run.search_id))
    if found is None:
        tags = {"loopwright.run_id": str(run.search_id)}
        return service.make_run(experiment_id, run.search_name, run.created_at, tags)
    service.set_running(found.info.run_id)
    return found


def fit_name(name: str) -> str:
    """Return `name` with "_" where MLflow takes no such character, and as a path that is its own normal form."""
    fitting = _REFUSED_CHARACTERS.sub("_", name)[:_LONGEST_NAME]
    if posixpath.normpath(fitting) != fitting or fitting.startswith("/"):
        fitting = fitting.replace("/", "_")
    return f"_{fitting}" if fitting in {"", "."} or fitting.startswith("..") else fitting


def absolute_uri(uri: str) -> str:
    """Return `uri` so that it means the same from every directory."""
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and not path.startswith((":", "/")):
        return f"sqlite:///{Path(path).absolute().as_posix()}"
    return str(Path(uri).absolute()) if uri.startswith(".") else uri


def without_password(text: str) -> str:
    """Return `text` with "***" where an address holds a user's name or password."""
    return re.sub(r"://[^/@\s]+@", f"://{HIDDEN}@", text)


def explain(error: BaseException) -> str:
    """Return an error of MLflow's in one line that says what is wrong, without passwords."""
    text = without_password(" ".join(str(error).split()))
    address = re.search(r"\w+://[^/\s]+", text)
    place = address.group() if address else "the server"
    if "NewConnectionError" in text or "Connection refused" in text or "NameResolutionError" in text:
        return f"nothing answers at {place}"
    if "timed out" in text or "timeout exception" in text:
        return f"{place} did not answer within {read_text('MLFLOW_HTTP_REQUEST_TIMEOUT')} s"
    if "MLFLOW_ALLOW_FILE_STORE" in text:
        return (
            "MLflow keeps no runs in plain files any more: set MLFLOW_TRACKING_URI=sqlite:///mlflow.db, or "
            "MLFLOW_ALLOW_FILE_STORE=true"
        )
    return text


def active_run_of_program() -> Any:
    """Return the run that the program itself made active: on the main thread, or on the only other one with a run."""
    from mlflow.tracking import fluent

    alive = {thread.ident for thread in threading.enumerate()}
    active = {
        ident: run
        for ident, stack in fluent._active_run_stack.get_all_thread_values().items()
        for run in list(stack)
        if ident in alive and not getattr(run, "is_loopwrights", False)
    }
    main = threading.main_thread().ident
    if main in active:
        return active[main]
    return next(iter(active.values())) if len(active) == 1 else None


def make_active(service_run: Any) -> Callable[[], None]:
    """Make the run the active one of this thread, without any I/O; return what undoes that, from any thread."""
    from mlflow.tracking import fluent

    threads: Any = fluent
    stack = threads._active_run_stack.get()
    ours = threads.ActiveRun(service_run)
    ours.is_loopwrights = True
    stack.append(ours)

    def leave() -> None:
        stack[:] = [run for run in stack if run is not ours]
        threads._last_active_run_id.set(service_run.info.run_id)  # for mlflow.last_active_run()

    return leave


def _place(metric: Any) -> tuple[int, int]:
    return int(metric.step), int(metric.timestamp)


def _parts(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
