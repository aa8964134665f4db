"""Write points and files to an experiment on Comet's server, one answered request after the other.

The SDK's own online experiment has threads that take everything at once, and say little of what became of it: one whose
server was away swallows all. Here its client is asked directly, and what the server has answered counts. Before a
metric is sent for the first time in a session, and after a failure, the server is asked which of its points it has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import RecordRefused, TrackerError, describe
from loopwright.records import Record
from loopwright.trackers import comet_sdk
from loopwright.trackers.comet_sdk import Plan

logger: Logger = get_logger(__name__)

_POINTS_PER_REQUEST = 1000
_BEAT_SECONDS = 30.0


class Mailbox:
    """Stands where an experiment of the SDK's has its sending thread: keeps what is handed over until it is taken."""

    def __init__(self) -> None:
        self.closed = False
        self._messages: list[Any] = []
        self._lock = threading.Lock()

    def put_message_in_q(self, message: Any) -> None:
        """Keep a message."""
        with self._lock:
            self._messages.append(message)

    def take(self) -> list[Any]:
        """Return what there is."""
        with self._lock:
            messages, self._messages = self._messages, []
        return messages

    def put_back(self, messages: Sequence[Any]) -> None:
        """Keep messages that could not be sent."""
        with self._lock:
            self._messages[:0] = messages


class OnlineSession:
    """An experiment on the server, from its opening to its end.

    Arguments:
        api_key: The key, which no message of an error holds.
        plan: What the experiment is.
        directory: For the SDK's own files.

    Raises:
        TrackerError: the server doesn't answer, or refuses.
    """

    def __init__(self, api_key: str, plan: Plan, directory: Path) -> None:
        from comet_ml.connection.connection_factory import get_rest_api_client, get_rest_server_connection

        self._api_key = api_key
        self._key = plan.key
        self._batch: list[Any] = []  # points of records that were handed over, as the SDK's messages
        self._present: dict[str, set[tuple[int, int]]] = {}  # what the server has, as far as it was asked
        self._names: set[str] | None = None
        self._beat_at = 0.0
        with self._asking():
            self._connection = get_rest_server_connection(api_key=api_key, experiment_key=plan.key)
            self._client = get_rest_api_client("v2", api_key=api_key, check_version=False)
        self._require_answer()
        self._handshake = self._begin(plan)
        self._mailbox = Mailbox()
        self.experiment: Any = comet_sdk.begin_collecting(directory, plan, self._mailbox, self._handshake)
        comet_sdk.describe(self.experiment, plan)
        self.flush()
        self._beat(is_alive=True)

    @property
    def url(self) -> str:
        """Where people see it."""
        return str(self.experiment.url or f"Comet's experiment {self._key}")

    def _require_answer(self) -> None:
        """See that somebody answers: the SDK tries for half a minute, or waits for ever."""
        import requests
        from comet_ml.exceptions import CometRestApiException

        try:
            self._connection.ping_backend()
        except requests.RequestException as error:
            address = self._connection.server_address
            raise TrackerError(f"nothing answers at {address}: {type(error).__name__}") from None
        except CometRestApiException as error:  # an older server, say, that doesn't know the question
            logger.debug("comet_ml: %s", error)

    def _begin(self, plan: Plan) -> Any:
        from comet_ml.exceptions import ExperimentAlreadyUploaded, ExperimentNotFound

        with self._asking():
            try:
                if plan.strategy == "get":
                    return self._connection.get_run(plan.key)
                may_be_there = plan.strategy == "get_or_create"
                return self._connection.add_run(plan.project, plan.workspace, get_or_create_mode=may_be_there)
            except ExperimentNotFound:
                raise TrackerError(f"COMET_MODE=get, and Comet has no experiment {plan.key} for you") from None
            except ExperimentAlreadyUploaded:
                raise TrackerError(f"COMET_MODE=create, and Comet has the experiment {plan.key} already") from None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Let no error of the SDK's out: some hold the API key."""
        try:
            yield
        except TrackerError:
            raise
        except Exception as error:
            raise TrackerError(f"Comet: {describe(error).replace(self._api_key, '***')}") from None

    def add(self, record: Record, points: Mapping[str, float], epoch: float | None) -> None:
        """Take a record's points; `flush` sends them."""
        self._batch += comet_sdk.metric_messages(record, points, epoch)

    def flush(self) -> None:
        """Send what was taken.

        Raises:
            TrackerError: the server has not answered for all of it. The records have to be handed over again.
        """
        batch, self._batch = self._batch, []
        try:
            with self._asking():
                self._send_mail()
                new = [message for message in batch if not self._is_present(message)]
                for first in range(0, len(new), _POINTS_PER_REQUEST):
                    self._send_metrics(new[first : first + _POINTS_PER_REQUEST])
        except TrackerError:
            self._present, self._names = {}, None  # part of it may have arrived
            raise

    def _is_present(self, message: Any) -> bool:
        name = message.metric["metricName"]
        if name not in self._present:
            if self._names is None:
                summary = self._client.get_experiment_metrics_summaries(self._key) or {}
                self._names = {one["name"] for one in summary.get("values") or ()}
            answer = self._client.get_experiment_metric(self._key, name) if name in self._names else None
            points = (answer or {}).get("metrics") or ()
            self._present[name] = {(one["step"], one["timestamp"]) for one in points if one.get("step") is not None}
        return (message.metric["step"], message.local_timestamp) in self._present[name]

    def _send_metrics(self, messages: Sequence[Any]) -> None:
        from comet_ml.batch_utils import MessageBatchItem

        if messages:
            self._connection.log_metrics_batch([MessageBatchItem(message) for message in messages])

    def _send_mail(self) -> None:
        """Send what the experiment was told, in one request for each kind."""
        from comet_ml.batch_utils import MessageBatchItem
        from comet_ml.messages import LogOtherMessage, MetricMessage, ParameterMessage, UploadFileMessage

        messages = self._mailbox.take()
        try:
            of_kind = {
                kind: [message for message in messages if isinstance(message, kind)]
                for kind in (ParameterMessage, MetricMessage, LogOtherMessage, UploadFileMessage)
            }
            if parameters := of_kind[ParameterMessage]:
                self._connection.log_parameters_batch([MessageBatchItem(message) for message in parameters])
            self._send_metrics(of_kind[MetricMessage])
            others = {message.key: message.value for message in of_kind[LogOtherMessage]}
            for name, value in others.items():
                self._client.log_experiment_other(self._key, name, value)
            for message in of_kind[UploadFileMessage]:
                self._send_file(message)
        except BaseException:
            self._mailbox.put_back(messages)
            raise
        if left_out := {message.type for message in messages if type(message) not in of_kind}:
            warn_once(logger, f"comet_ml: what is logged as {', '.join(sorted(left_out))} is not sent from here")

    def _send_file(self, message: Any) -> None:
        about = message.additional_params
        self._client.log_experiment_asset(
            self._key,
            message.file_path,
            step=about.get("step"),
            overwrite=True,
            ftype=message.upload_type,
            file_name=about["fileName"],
        )

    def add_files(self, record: Record, path: Path, prefix: str) -> None:
        """Send files; one that is sent twice replaces itself."""
        try:
            comet_sdk.send_files(self.experiment, record, path, prefix)
        except RecordRefused:
            raise
        except BaseException:
            self._mailbox.take()
            raise
        self.flush()

    def confirmed(self, written: int) -> int:
        """Return the last record handed over; the server hears now and then that somebody is there."""
        if time.monotonic() - self._beat_at > _BEAT_SECONDS:
            self._beat(is_alive=True)
        return written

    def _beat(self, *, is_alive: bool) -> None:
        with self._asking():
            self._connection.update_experiment_status(
                self._handshake.run_id, self._handshake.project_id, is_alive=is_alive
            )
        self._beat_at = time.monotonic()

    def note_others(self, others: Mapping[str, Any]) -> None:
        """Say more of what the experiment is."""
        self.experiment.log_others(dict(others))
        self.flush()

    def end(self, others: Mapping[str, Any]) -> None:
        """Say how the run ended, and that it did."""
        self.note_others(others)
        self._beat(is_alive=False)
        self.leave()

    def rewind(self, step: int, written: int) -> None:
        """Do nothing: Comet can't take points back."""

    def leave(self) -> None:
        """Close the connections."""
        comet_sdk.drop_collecting(self.experiment)
        self._connection.close()
        self._client.close()
