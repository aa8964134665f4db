"""Talk to a run of Azure ML through azureml-core: synchronously, within set times, each number once.

`Run.log` puts a number into a queue of the SDK, which a kill empties, under an id drawn by chance; what the service
refuses is a line in the SDK's own log. So here the same request is made by the SDK's client, with ids that are the same
for the same number: what a run holds already is asked for by them, and not sent again.

The service answers before it has taken the numbers in. They count as held when it says that it has.
"""

from __future__ import annotations

import datetime
import inspect
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from loopwright._support.env import read_text, set_variables
from loopwright.errors import RecordRefused, TrackerError
from loopwright.records import Record, Status
from loopwright.trackers.naming import as_float, group_name, numbers

T = TypeVar("T")

POINTS_PER_REQUEST = 50  # the SDK's own limit
REQUEST_SECONDS = 25.0  # what a request may take
# With the SDK's own numbers a dead service is noticed after 22 s, a silent one after 400 s, or never. And what it sends
# again after an answer was lost is there twice: whether it has to come again is found out here.
_ANSWER_SECONDS = 20
_RETRIES = 0
_PROBE_SECONDS = 10
_INGEST_SECONDS = 20
_INGEST_PAUSE_SECONDS = 1
_REFUSALS = frozenset({400, 422})
_TOKEN = "AZUREML_RUN_TOKEN"
_opening = threading.Lock()


class Point(NamedTuple):
    """One number; `key` is the same whenever it is made from the same record."""

    sequence: int
    key: str
    name: str
    value: float
    step: int
    time: float


def points_of(run_id: str, record: Record) -> list[Point]:
    """Return a record's numbers."""
    shown = {group_name(name): as_float(value) for name, value in numbers(record.values)}
    return [
        Point(
            record.sequence,
            str(uuid.uuid5(uuid.NAMESPACE_OID, f"loopwright/{run_id}/{record.sequence}/{name}")),
            name,
            value,
            record.step,
            record.time,
        )
        for name, value in shown.items()
    ]


def run_of_job(variables: Mapping[str, str], *, is_shared: bool) -> Any:
    """Return the run of the job that `variables` describe; they are set for this process.

    Arguments:
        variables: The job's.
        is_shared: Whether the program may have the same object, which the SDK makes once: it stays as it is then.

    Raises:
        TrackerError: nothing answers, or the job's token is not known.
    """
    if read_text(_TOKEN) is None:
        raise TrackerError(f"{_TOKEN} is not set: a job's token is in its own environment alone, so deliver inside it")
    with _opening, _plain_errors():
        set_variables(variables)
        for name in ("AZUREML_SERVICE_ENDPOINT", "AZUREML_DISCOVERY_SERVICE_ENDPOINT"):
            if (address := read_text(name)) is not None:
                _require_answer(address)
        from azureml.core.run import Run

        run = Run.get_context(allow_offline=False)
        if not is_shared:
            _be_brief(run._client.run._client)
        return run


def is_of_service(run: Any) -> bool:
    """Return whether an object is a run of azureml-core's on the service: no stand-in, and with the SDK's own `log`."""
    kind = getattr(sys.modules.get("azureml.core.run"), "Run", None)
    return kind is not None and isinstance(run, kind) and type(run).log is kind.log


class RunSession:
    """One of azureml-core's runs, while it is open.

    Arguments:
        run: The run.

    Raises:
        TrackerError: by every method, where the service doesn't do it.
    """

    def __init__(self, run: Any) -> None:
        from azureml._restclient.metrics_client import MetricsClient
        from azureml._restclient.rest_client import RestClient

        self.run = run
        self._held: dict[str, set[str]] = {}  # the keys of what the run holds, by name
        self._is_settled = False
        self._has_taken = False
        context = run.experiment.workspace.service_context
        with _plain_errors():
            self._client = MetricsClient(context, run.experiment.name, run.id)
            # One of its own: the other is the program's, too, and its patience isn't ours to set.
            self._client._client = RestClient(context.get_auth(), base_url=context._get_metrics_url())
        _be_brief(self._client._client)

    @property
    def run_id(self) -> str:
        """The service's id of the run."""
        return str(self.run.id)

    @property
    def address(self) -> str:
        """Where people find it."""
        return str(self.run.get_portal_url())

    def child(self, name: str, run_id: str) -> RunSession:
        """Return the run `run_id` below this one, made where there is none."""
        from azureml._restclient.exceptions import ServiceException
        from azureml.core.run import get_run

        with _plain_errors():
            try:
                found = get_run(self.run.experiment, run_id, rehydrate=False, clean_up=False)
            except ServiceException as error:
                if error.status_code != 404:
                    raise
                found = self.run.child_run(name=name, run_id=run_id)
        return RunSession(found)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; those of other names stay."""
        with _plain_errors():
            self.run.set_tags({name: str(value) for name, value in tags.items()})

    def end(self, status: Status) -> None:
        """End the run as the training ended."""
        events = self.run._client.run  # `Run.complete` would start queues first, and wait for what they hold
        with _plain_errors():
            if status.is_success:
                events.post_event_completed()
            elif status is Status.FAILED:
                events.post_event_failed()
            else:
                events.post_event_canceled()

    # Numbers

    def log(self, points: Sequence[Point]) -> None:
        """Log numbers; those that are there already stay single.

        Raises:
            RecordRefused: the service will never take one of them; all others are there.
        """
        wanted = [point for point in points if point.key not in self._keys_held(point.name)]
        refused: dict[int, str] = {}
        for start in range(0, len(wanted), POINTS_PER_REQUEST):
            refused |= self._send(wanted[start : start + POINTS_PER_REQUEST])
        if refused:
            sequence = min(refused)
            if not self._has_taken:  # it may be the run, or the request, that is wrong
                raise TrackerError(f"Azure ML takes nothing: {refused[sequence]}")
            raise RecordRefused(sequence, refused[sequence])

    def settle(self) -> bool:
        """Wait a while until the service has taken in what it was sent; return whether it has."""
        if not self._is_settled:
            with _plain_errors():
                self._is_settled = self._wait_for_ingest(time.monotonic() + _INGEST_SECONDS)
        return self._is_settled

    def _wait_for_ingest(self, until: float) -> bool:
        # The client's own waiting goes on in a thread when its time is over, and doesn't say that it was.
        asked = self._client._client.run_metric
        answer = self._client._execute_with_run_arguments(asked.wait_on_ingest, raw=True).response
        while answer.status_code == 202 and time.monotonic() < until:
            time.sleep(_INGEST_PAUSE_SECONDS)
            answer = asked._client.send(asked._client.get(answer.headers["location"]))
        if answer.status_code not in {200, 202}:
            raise TrackerError(f"Azure ML answered {answer.status_code}: it can't say what it has taken in")
        return bool(answer.status_code == 200)

    def _keys_held(self, name: str) -> set[str]:
        if name not in self._held:
            if not self.settle():
                raise TrackerError("Azure ML is still taking in what it was sent before")
            with _plain_errors():
                found = self._client.get_metric_dto_for_run_v2(name)
            values = [] if found is None else found.value
            self._held[name] = {str(value.metric_id).lower() for value in values}
        return self._held[name]

    def _send(self, points: Sequence[Point]) -> dict[int, str]:
        """Send points; return why records are refused, by their numbers."""
        from azureml._restclient.exceptions import ServiceException
        from azureml._restclient.models.batch_metric_v2_dto import BatchMetricV2Dto

        body = BatchMetricV2Dto(values=[_as_sent(point) for point in points], report_errors=True)
        self._is_settled = False
        try:
            with _plain_errors():
                answer = self._client._execute_with_workspace_run_arguments(
                    self._client._client.metric.post_run_metrics, body
                )
            refused = {} if answer is None else _refusals(answer, points)
        except TrackerError as error:
            cause = error.__cause__
            if isinstance(cause, ServiceException) and cause.status_code in _REFUSALS:
                return self._find_refused(points, str(error))
            for point in points:  # it may have got them, or some of them, all the same
                self._held.pop(point.name, None)
            raise
        self._has_taken = self._has_taken or len(refused) < len(points)
        for point in points:
            if point.key not in refused:
                self._held[point.name].add(point.key)
        return {point.sequence: refused[point.key] for point in points if point.key in refused}

    def _find_refused(self, points: Sequence[Point], reason: str) -> dict[int, str]:
        if len(points) == 1:
            return {points[0].sequence: f"{points[0].name}: {reason}"}
        middle = len(points) // 2
        return {**self._send(points[:middle]), **self._send(points[middle:])}


def _as_sent(point: Point) -> Any:
    from azureml._restclient.contracts.utils import DATE_TIME_FORMAT
    from azureml.core._metrics import ScalarMetric

    # Always a float: a metric that began with a whole number would take no other.
    metric = ScalarMetric(point.name, point.value, metric_id=point.key, step=point.step).create_v2_dto()
    moment = datetime.datetime.fromtimestamp(point.time, datetime.UTC)
    metric.value[0].created_utc = moment.strftime(DATE_TIME_FORMAT)
    return metric


def _refusals(answer: Any, points: Sequence[Point]) -> dict[str, str]:
    """Return why points are refused, by their keys.

    Raises:
        TrackerError: it is the service that can't.
    """
    found: dict[str, str] = {}
    for entry in answer.errors or []:
        said = entry.error_response.error
        if said.code != "UserError":
            raise TrackerError(f"Azure ML doesn't take {entry.metric.name}: {said.code}: {said.message}")
        keys = {str(value.metric_id).lower() for value in entry.metric.value or []}
        named = [point for point in points if point.name == entry.metric.name]
        for point in [point for point in named if point.key in keys] or named:
            found[point.key] = f"{point.name}: {said.message}"
    return found


# Times and errors


def _be_brief(client: Any) -> None:
    client.config.connection.timeout = _ANSWER_SECONDS
    client.config.retry_policy.retries = _RETRIES
    client.config.retry_policy.policy.raise_on_status = False


def _require_answer(address: str) -> None:
    """Check that somebody is there: the SDK's first requests have no time limit."""
    import requests

    requests.head(address, timeout=_PROBE_SECONDS, allow_redirects=False)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what the SDK raises into a `TrackerError` that says it in one line."""
    try:
        yield
    except TrackerError:
        raise
    except Exception as error:
        raise TrackerError(_explain(error)) from error


def _explain(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    if status is not None:  # whose `str` fails where the service says little
        said = getattr(error, "message", None) or "no reason is given"
        return f"Azure ML answered {status}: {said}"[:500]
    text = " ".join(str(error).split())
    host = re.search(r"host='([^']+)', port=(\d+)", text)
    place = f"{host[1]}:{host[2]}" if host else "Azure ML"
    if re.search("NewConnectionError|Connection refused|NameResolutionError", text):
        return f"nothing answers at {place}"
    if re.search("[Tt]imed ?out", text):
        return f"{place} did not answer in time"
    return f"{type(error).__name__}: {text}"[:500]


# Objects of the program's own


class PlainSession:
    """An object with the method `log` that was handed over: the SDK's stand-in outside of a job, or somebody's own."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self._logged: set[str] = set()  # the keys of what isn't seen off yet
        parameters = inspect.signature(run.log).parameters.values()
        self._takes_step = any(one.name == "step" or one.kind is one.VAR_KEYWORD for one in parameters)

    @property
    def run_id(self) -> str:
        """The run's id, or its kind where it has none."""
        return str(getattr(self.run, "id", type(self.run).__name__))

    @property
    def address(self) -> str:
        """What there is to say."""
        return f"{type(self.run).__name__} {self.run_id}"

    def log(self, points: Sequence[Point]) -> None:
        """Log numbers; those that were logged before a failure aren't logged again."""
        for point in points:
            if point.key not in self._logged:
                step = {"step": point.step} if self._takes_step else {}
                self.run.log(point.name, point.value, description=point.name, **step)
                self._logged.add(point.key)

    def settle(self) -> bool:
        """Wait until they are gone."""
        flush: Callable[[], None] | None = getattr(self.run, "flush", None)
        if flush is not None and self._takes_step:  # without steps it is the stand-in, which prints at each
            flush()
        self._logged.clear()
        return True
