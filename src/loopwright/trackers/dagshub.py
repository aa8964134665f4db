"""Report to DagsHub: metrics to the MLflow server that each of its repositories has, checkpoints to the repository.

Metrics don't wait for files. A checkpoint that can't be uploaded is put aside, tried again with the next one, and holds
back what is confirmed: at the end, or after a kill, its record and those after it come again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError
from loopwright.records import Kind, Record, Status
from loopwright.trackers.dagshub_client import (
    DEFAULT_HOST,
    Repository,
    find_repository,
    give_mlflow_credentials,
    known_token,
    undo_patches,
    upload,
)
from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.mlflow_client import MLflowService, without_password

logger: Logger = get_logger(__name__)

_ARTIFACTS = "artifacts"  # where transformers puts them, too
_NOTHING: dict[str, Any] = {"place": None, "records": []}
# A service that is silent costs some 20 s each time: metrics don't wait for it more often.
_PAUSE_SECONDS = 60.0


class DagsHubCallback(MLflowCallback):
    """A `TrainerCallback` that sends the logs to DagsHub; all that `MLflowCallback` does, it does there.

    Environment:
        MLFLOW_TRACKING_URI: The repository's MLflow, `https://dagshub.com/<owner>/<repo>.mlflow`; `dagshub.init()`
            sets it. Where it is anything else, nothing is reported.
        HF_DAGSHUB_LOG_ARTIFACTS: Whether to upload every checkpoint to the repository: `artifacts/checkpoint-<step>`.
        BRANCH: The branch that they are uploaded to, made where there is none; "main" by default.
        HF_DAGSHUB_MODEL_NAME: The model's name, for the messages of these commits.
        DAGSHUB_CLIENT_HOST: Another DagsHub than `https://dagshub.com`.
        DAGSHUB_USER_TOKEN: The token; by default the one that `dagshub login` has stored. MLflow gets it where
            `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` aren't set.
    """

    name: ClassVar[str] = "dagshub"
    sdk_modules: ClassVar[tuple[str, ...]] = (*MLflowCallback.sdk_modules, "dagshub")
    variables: ClassVar[tuple[str, ...]] = (
        *MLflowCallback.variables,
        "HF_DAGSHUB_LOG_ARTIFACTS",
        "HF_DAGSHUB_MODEL_NAME",
        "BRANCH",
        "DAGSHUB_CLIENT_HOST",
    )
    stays_here: ClassVar[tuple[str, ...]] = ("_repository", "_waiting", "_uploaded", "_not_before")

    _repository: Repository | None = None
    _waiting: Mapping[int, Path] = MappingProxyType({})  # checkpoints to upload, by their records' numbers
    _uploaded: Mapping[str, Any] = MappingProxyType(_NOTHING)  # the numbers of those that are, and where
    _trouble: str = ""
    _not_before: float = 0.0  # by the monotonic clock

    def __init__(self) -> None:
        for sdk in ("dagshub", "mlflow"):
            require_installed(sdk, extra="dagshub", purpose="DagsHubCallback")

    def why_off(self) -> str | None:
        """Return what switches it off, such as an MLflow that isn't DagsHub's."""
        return super().why_off() or self._why_elsewhere(self.variable("MLFLOW_TRACKING_URI"))

    def _why_elsewhere(self, uri: str | None) -> str | None:
        if uri is not None and find_repository(uri, self._host) is not None:
            return None
        found = "is not set" if uri is None else f"is {without_password(uri)}"
        return f"MLFLOW_TRACKING_URI {found}: expected {self._host.rstrip('/')}/<owner>/<repo>.mlflow"

    @property
    def _host(self) -> str:
        return self.variable("DAGSHUB_CLIENT_HOST") or DEFAULT_HOST

    def wants_checkpoints(self) -> bool:
        """Return what HF_DAGSHUB_LOG_ARTIFACTS and HF_MLFLOW_LOG_ARTIFACTS say."""
        return self.flag("HF_DAGSHUB_LOG_ARTIFACTS") or super().wants_checkpoints()

    def _connect(self, uri: str) -> MLflowService:
        repository = find_repository(uri, self._host)
        if repository is None:
            raise TrackerError(str(self._why_elsewhere(uri)))
        self._repository = repository._replace(branch=self.variable("BRANCH") or repository.branch)
        self._waiting, self._not_before = {}, 0.0
        self._uploaded = self.standing.reference.get("uploaded", _NOTHING)
        give_mlflow_credentials(uri, repository.host)
        service = super()._connect(uri)
        undo_patches(service.client)
        return service

    # Checkpoints

    def save_artifact(self, path: Path, record: Record) -> None:
        """Store the files in MLflow, and upload a checkpoint to the repository, as each is asked for."""
        if record.kind is Kind.ARTIFACT or self.flag("HF_MLFLOW_LOG_ARTIFACTS"):
            super().save_artifact(path, record)
        if record.kind is Kind.CHECKPOINT and self.flag("HF_DAGSHUB_LOG_ARTIFACTS"):
            self._waiting = {**self._waiting, record.sequence: path}
            self._upload_waiting()

    def _upload_waiting(self) -> None:
        """Upload, up to the first that fails."""
        for number, path in self._waiting.items():
            if time.monotonic() < self._not_before:
                return
            try:
                self._upload(number, path)
            except TrackerError as error:
                self._trouble, self._not_before = str(error), time.monotonic() + _PAUSE_SECONDS
                logger.warning("dagshub: %s is not uploaded yet, but tried again: %s", path.name, error)
                return
            self._waiting = {other: left for other, left in self._waiting.items() if other != number}

    def _upload(self, number: int, path: Path) -> None:
        repository = self._repository
        if repository is None:
            raise TrackerError("DagsHubCallback is not open")
        place = str(repository)
        done = self._uploaded if self._uploaded["place"] == place else {"place": place, "records": []}
        if number in done["records"]:
            return
        if not path.exists():
            logger.warning("dagshub: %s is gone and can't be uploaded", path)
            return
        token = known_token(repository.host)
        if token is None:
            words = f"dagshub: no token for {repository.host} is known, checkpoints are not uploaded"
            warn_once(logger, f"{words}: set DAGSHUB_USER_TOKEN, or run `dagshub login`")
            return
        upload(repository, path, f"{_ARTIFACTS}/{path.name}", token=token, message=self._message(path))
        self._uploaded = {"place": place, "records": [*done["records"], number]}
        self.standing.remember({"uploaded": self._uploaded})

    def _message(self, path: Path) -> str:
        run, model = self._run_to_show(), self.variable("HF_DAGSHUB_MODEL_NAME")
        words = f"{path.name} of {run.name or run.short_id}"
        return words if model is None else f"{model}: {words}"

    def confirmed(self) -> int:
        """Return the number of the last record before all that is left to upload."""
        return min([super().confirmed(), *(number - 1 for number in self._waiting)])

    def close(self, status: Status) -> None:
        """End the run, and raise where checkpoints are left: after another opening they come again."""
        super().close(status)
        if self._waiting:
            names = ", ".join(path.name for path in self._waiting.values())
            raise TrackerError(f"{names} could not be uploaded: {self._trouble}")
