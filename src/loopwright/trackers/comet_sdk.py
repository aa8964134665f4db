"""Speak to Comet's SDK: begin an experiment so that nothing else happens by that, and hand things over to it."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright._support.env import read_text, set_variables
from loopwright.errors import RecordRefused, TrackerError
from loopwright.records import Record

_making = threading.Lock()
_ours: weakref.WeakSet[Any] = weakref.WeakSet()

# Comet would watch other libraries, the machine, and itself.
_SILENCE = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # else it changes MLflow and others when it is imported
    "COMET_AUTO_LOG_CO2": "false",  # else it starts CodeCarbon, which asks the network where it is
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_DISABLE_ANNOUNCEMENT": "true",
    "COMET_INTERNAL_REPORTING": "false",
}
# Unless the user has said something else: it would try for minutes.
_PATIENCE = {
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "1",
    "COMET_HTTP_SESSION_RETRY_TOTAL": "1",
    "COMET_LOGGING_CONSOLE": "WARNING",
}
_NOTHING_BY_ITSELF = dict.fromkeys(
    (
        *("log_code", "log_graph", "auto_param_logging", "auto_metric_logging", "parse_args", "auto_output_logging"),
        *("log_env_details", "log_git_metadata", "log_git_patch", "log_env_gpu", "log_env_host", "log_env_cpu"),
        *("log_env_network", "log_env_disk", "auto_log_co2"),
    ),
    False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an experiment is.

    Attributes:
        key: Comet's id of it.
        strategy: "get_or_create", "get" or "create": whether it may, must or must not be there already.
        project: The project, or None.
        workspace: The workspace, or None.
        name: The experiment's name; None for one that has its own.
        began: When the run began, in seconds since 1970.
        parameters: Nested, by name.
        others: What else is to be known of it.
        trial: Name and parameters of the trial of a search, or None.
    """

    key: str
    strategy: str
    project: str | None
    workspace: str | None
    name: str | None
    began: float
    parameters: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    trial: tuple[str, dict[str, Any]] | None = None


def sdk() -> Any:
    """Import Comet's SDK so that it does nothing by itself, and return it."""
    if "comet_ml" not in sys.modules:
        set_variables(_SILENCE | {name: text for name, text in _PATIENCE.items() if read_text(name) is None})
    hook = sys.excepthook
    try:
        import comet_ml
    finally:
        sys.excepthook = hook  # the program's last words stay as they are
    return comet_ml


def known_api_key() -> str | None:
    """Return the API key of the environment, or of `comet login`; asks nobody."""
    sdk()
    from comet_ml.config import get_api_key, get_config

    return get_api_key(None, get_config()) or None


def configured_online() -> bool | None:
    """Return what Comet's own configuration says of being online, or None."""
    sdk()
    from comet_ml.config import get_config

    found = get_config()["comet.start.online"]
    return None if found is None else bool(found)


def programs_experiment() -> Any:
    """Return the experiment that the program itself has begun, or None; imports nothing."""
    comet_ml = sys.modules.get("comet_ml")
    if comet_ml is None or not hasattr(comet_ml, "get_running_experiment"):  # it is just being imported
        return None
    experiment = comet_ml.get_running_experiment()
    is_running = experiment is not None and experiment.alive and not experiment.ended
    return experiment if is_running and experiment not in _ours else None


def describe(experiment: Any, plan: Plan) -> None:
    """Say what an experiment is."""
    if plan.name is not None:
        experiment.set_name(plan.name)
    if plan.parameters:
        experiment.log_parameters(plan.parameters, nested_support=True)
    if plan.trial is not None:
        name, parameters = plan.trial
        experiment.log_optimization(optimization_id=name, parameters=parameters)
    experiment.log_others({"Created from": "loopwright", **plan.others})


def metric_messages(record: Record, points: Mapping[str, float], epoch: float | None) -> list[Any]:
    """Return points as the SDK hands them on, with the record's step and time."""
    from comet_ml.messages import MetricMessage

    # `log_metric` stamps with the time of the delivery, and adds two parameters for each step.
    messages = []
    for name, value in points.items():
        message = MetricMessage(context=None, timestamp=int(record.time * 1000))
        message.set_metric(name, value, step=record.step, epoch=epoch)
        messages.append(message)
    return messages


def send_points(experiment: Any, record: Record, points: Mapping[str, float], epoch: float | None) -> None:
    """Hand points over to an experiment.

    Raises:
        TrackerError: it has been ended.
    """
    messages = metric_messages(record, points, epoch)
    if not experiment.alive:
        raise TrackerError("the Comet experiment has been ended")
    for message in messages:
        experiment._enqueue_message(message)


def send_files(experiment: Any, record: Record, path: Path, prefix: str) -> Counter[int]:
    """Hand over the files below `path`, named "<prefix>/<path in it>"; return their sizes.

    Raises:
        RecordRefused: one is larger than Comet takes.
        TrackerError: it has not taken one.
    """
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    sizes = {file: file.stat().st_size for file in files}
    most = experiment.asset_upload_limit
    if too_large := [file for file, size in sizes.items() if size > most]:
        raise RecordRefused(record.sequence, f"{too_large[0]} is larger than the {most} bytes that Comet takes")
    for file in files:
        name = f"{prefix}/{file.relative_to(path)}" if path.is_dir() else prefix
        send_file(experiment, file, name, record.step)
    return Counter(sizes.values())


def send_file(experiment: Any, file: Path, name: str, step: int | None = None) -> None:
    """Hand over a file; one that is sent once more replaces itself.

    Raises:
        TrackerError: Comet has not taken it.
    """
    if experiment.log_asset(str(file), file_name=name, overwrite=True, step=step) is None:
        raise TrackerError(f"Comet has not taken {file}")


def begin_offline(directory: Path, plan: Plan) -> Any:
    """Begin an offline experiment, with all of its files in `directory`, a new one.

    Raises:
        TrackerError: Comet hasn't.
    """
    sdk()
    from comet_ml.offline import OfflineExperiment

    kind = _keeping_files_in(OfflineExperiment, directory / "content")
    options = {
        "offline_directory": str(directory),
        "_resume_strategy": plan.strategy,
        "_comet_start_sourced": True,
    }
    experiment = _begin(kind, plan, options)
    experiment.start_time = int(plan.began * 1000)
    return experiment


def begin_collecting(directory: Path, plan: Plan, mailbox: Any, handshake: Any) -> Any:
    """Begin an experiment that puts into `mailbox` what it is told.

    Arguments:
        directory: For its files; what a killed session left there is removed.
        plan: What it is.
        mailbox: Stands where the SDK has a thread that sends.
        handshake: The server's answer to its beginning.
    """
    from comet_ml._online import Experiment

    class Collecting(_keeping_files_in(Experiment, directory)):  # type: ignore[misc]
        def _setup_streamer(self) -> bool:
            self.streamer = mailbox
            self.project_id, self.focus_link = handshake.project_id, handshake.focus_link
            self.asset_upload_limit = handshake.asset_upload_limit
            self.asset_name_max_length = handshake.asset_name_max_length
            return True

        def _mark_as_started(self) -> None:
            pass

        def _report(self, *args: Any, **kwargs: Any) -> None:
            pass

    return _begin(Collecting, plan, {})


def drop_collecting(experiment: Any) -> None:
    """Let go of an experiment that `begin_collecting` began."""
    experiment._finalize()
    shutil.rmtree(experiment.tmpdir, ignore_errors=True)


def _keeping_files_in(kind: Any, directory: Path) -> Any:
    """Return a kind of experiment with its files where they are found after a kill, on the disk they are meant for."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)

    class Keeping(kind):  # type: ignore[misc]
        @property
        def tmpdir(self) -> str:
            return str(directory)

        @tmpdir.setter
        def tmpdir(self, made: str) -> None:
            Path(made).rmdir()

    return Keeping


def _begin(kind: Any, plan: Plan, options: Mapping[str, Any]) -> Any:
    with alone():
        experiment = kind(
            project_name=plan.project,
            workspace=plan.workspace,
            display_summary_level=0,
            experiment_key=plan.key,
            **_NOTHING_BY_ITSELF,
            **options,
        )
        _ours.add(experiment)
    if not experiment.alive:
        raise TrackerError("Comet has not begun an experiment; COMET_AUTO_LOG_DISABLE switches it off")
    experiment._atexit_hook.disable()
    return experiment


@contextmanager
def alone() -> Iterator[None]:
    """Let an experiment begin without a word, as if there were no other: else Comet ends the program's."""
    from comet_ml import config

    chatty = logging.getLogger("comet_ml")
    with _making:
        before, level = config.get_global_experiment(), chatty.level
        config.set_global_experiment(None)
        chatty.setLevel(logging.ERROR)
        try:
            yield
        finally:
            chatty.setLevel(level)
            config.set_global_experiment(before)
