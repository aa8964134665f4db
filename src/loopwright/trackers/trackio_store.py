"""Keep rows in Trackio: in its local database, or on a server or Space of its own.

The layer below `trackio.log` is used, not `trackio.log` itself: that one queues, swallows errors, and stamps a row with
the time at which it is written. Here a call returns when the row is kept, and raises where it isn't. Every row has an
id of its own, and Trackio keeps one row for each id: what is sent twice is there once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from loopwright._support.env import read_text
from loopwright.errors import TrackerError, describe

_REQUEST_SECONDS = 20.0
_SPACE_SECONDS = 80.0
_STORAGE_MODES = ("auto", "sqlite", "jsonl")
_directory_lock = threading.RLock()


class Target(NamedTuple):
    """A run as Trackio knows it."""

    project: str
    name: str
    run_id: str


class Row(NamedTuple):
    """What was logged at one moment; `time` in seconds since 1970."""

    log_id: str
    step: int
    time: float
    values: dict[str, Any]


class Store(Protocol):
    """Where rows are kept."""

    def runs(self, project: str) -> dict[str, str]:
        """Return the names of the project's runs by their ids."""
        ...

    def holds(self, project: str, log_id: str) -> bool:
        """Return whether a row is kept."""
        ...

    def append(self, target: Target, rows: Sequence[Row], config: Mapping[str, Any] | None) -> None:
        """Keep rows, and the run's configuration where one is given; a row that is kept already stays as it is."""
        ...


class LocalStore:
    """Trackio's databases in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fragments: Any = None
        if self._is_inbox():
            from trackio.fragments import FragmentWriter

            self._fragments = FragmentWriter()

    def _is_inbox(self) -> bool:
        """Return whether rows go to files that the dashboard imports: a database on a network disk breaks."""
        mode = (read_text("TRACKIO_STORAGE_MODE") or "auto").strip().lower()
        if mode != "auto" and mode in _STORAGE_MODES:
            return mode == "jsonl"
        from trackio.utils import is_network_filesystem

        return bool(is_network_filesystem(self.directory))

    def runs(self, project: str) -> dict[str, str]:
        """Return the names of the project's runs by their ids."""
        with _trackio_in(self.directory) as storage:
            return {one["id"]: one["name"] for one in storage.get_run_records(project)}

    def holds(self, project: str, log_id: str) -> bool:
        """Return whether a row is kept; of files that wait for their import that isn't asked."""
        if self._fragments is not None:
            return True
        with _trackio_in(self.directory) as storage:
            if not storage.get_project_db_path(project).exists():
                return False
            storage.init_db(project)
            return bool(storage.query_project(project, _row_query(log_id))["rows"])

    def append(self, target: Target, rows: Sequence[Row], config: Mapping[str, Any] | None) -> None:
        """Keep rows; they are committed when this returns."""
        if self._fragments is not None:
            from trackio.fragments import metric_record

            entries = [entry | {"timestamp": _timestamp(row)} for entry, row in _entries(target, rows, config)]
            self._fragments.write_local([metric_record(entry) for entry in entries], self.directory / "inbox")
            return
        with _trackio_in(self.directory) as storage:
            storage.bulk_log(
                project=target.project,
                run=target.name,
                run_id=target.run_id,
                metrics_list=[row.values for row in rows],
                steps=[row.step for row in rows],
                timestamps=[_timestamp(row) for row in rows],
                log_ids=[row.log_id for row in rows],
                config=None if config is None else dict(config),
            )


class ServerStore:
    """A Trackio server at an address, or a Space "user/name".

    Arguments:
        place: The address, without a token; or the Space.
        write_token: What a server asks for. A Space asks for the Hub's token, which huggingface_hub knows.

    Raises:
        TrackerError: it doesn't answer.
    """

    def __init__(self, place: str, write_token: str | None = None) -> None:
        from trackio.remote_client import RemoteClient

        self.write_token = write_token
        self._hub_token = None if _is_address(place) else hub_token()
        _require_answer(place)
        try:
            self._client = RemoteClient(
                place, hf_token=self._hub_token, write_token=write_token, httpx_kwargs={"timeout": _REQUEST_SECONDS}
            )
        except Exception as error:
            raise TrackerError(f"Trackio at {place}: {describe(error)}") from error

    def runs(self, project: str) -> dict[str, str]:
        """Return the names of the project's runs by their ids."""
        found = self._client.predict(api_name="/get_runs_for_project", project=project) or []
        # Older servers return names.
        return dict((one["id"], one["name"]) if isinstance(one, dict) else (one, one) for one in found)

    def holds(self, project: str, log_id: str) -> bool:
        """Return whether a row is kept."""
        try:
            found = self._client.predict(api_name="/query_project", project=project, query=_row_query(log_id))
        except RuntimeError as error:
            if "not found" in str(error) or "no such table" in str(error):
                return False
            raise
        return bool(found["rows"])

    def append(self, target: Target, rows: Sequence[Row], config: Mapping[str, Any] | None) -> None:
        """Send rows; the server stamps them with the time of their arrival."""
        logs = [entry for entry, _ in _entries(target, rows, config)]
        self._client.predict(api_name="/bulk_log", logs=logs, hf_token=self._hub_token)


def default_directory() -> Path:
    """Return the directory that Trackio uses in this process."""
    from trackio import utils

    with _directory_lock:
        return Path(utils.TRACKIO_DIR)


def objection_to(project: str) -> str | None:
    """Return what Trackio has against a project's name, or None."""
    from trackio.sqlite_storage import SQLiteStorage

    try:
        SQLiteStorage.validate_project_name(project)
    except ValueError as error:
        return str(error)
    return None


def hub_token() -> str | None:
    """Return the Hub's token, from the environment or where `hf auth login` keeps it."""
    import huggingface_hub

    return huggingface_hub.get_token()


def split_address(address: str) -> tuple[str, str | None]:
    """Return a server's address without its token, and the token."""
    from trackio.utils import parse_trackio_server_url

    plain, token = parse_trackio_server_url(address)
    return plain, token or read_text("TRACKIO_WRITE_TOKEN")


# Trackio prints, waits, and asks for a token on the terminal: none of it in this process. Without a terminal of its own
# the child can't ask.
_MAKE_SPACE = """
import json, os, sys
import huggingface_hub, trackio
trackio.init(**json.loads(sys.argv[1]), embed=False, auto_log_gpu=False, auto_log_cpu=False)
space = trackio.context_vars.current_space_id.get()
if not huggingface_hub.repo_exists(space, repo_type="space"):
    sys.exit("the Space could not be made")
print("\\n" + json.dumps(space), flush=True)
os._exit(0)
"""


def make_space(project: str, space: str, bucket: str | None, *, is_private: bool | None) -> str:
    """Make a Space for the project where there is none; return its whole name, "user/space".

    Raises:
        TrackerError: the Hub can't be reached, or doesn't allow it.
    """
    asked = {"project": project, "space_id": space, "bucket_id": bucket, "private": is_private}
    try:
        finished = subprocess.run(
            [sys.executable, "-c", _MAKE_SPACE, json.dumps(asked)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, start_new_session=True,
            timeout=_SPACE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TrackerError(f"the Hub has not made the Space within {_SPACE_SECONDS:.0f} s") from error
    if finished.returncode != 0:
        said = [line for line in finished.stderr.splitlines() if line.strip()]
        raise TrackerError(said[-1].strip() if said else "the Space could not be made")
    return str(json.loads(finished.stdout.strip().splitlines()[-1]))


def _require_answer(place: str) -> None:
    """See that somebody answers: Trackio's client tries for long."""
    import httpx
    from trackio.remote_client import _resolve_src_url

    address = _resolve_src_url(place)
    try:
        httpx.get(f"{address}version", timeout=_REQUEST_SECONDS)
    except httpx.TimeoutException as error:
        raise TrackerError(f"{place} did not answer within {_REQUEST_SECONDS:.0f} s") from error
    except httpx.HTTPError as error:
        raise TrackerError(f"nothing answers at {place}: {describe(error)}") from error


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _row_query(log_id: str) -> str:
    return f"SELECT 1 FROM metrics WHERE log_id = '{log_id}' LIMIT 1"


def _entries(
    target: Target, rows: Sequence[Row], config: Mapping[str, Any] | None
) -> Iterator[tuple[dict[str, Any], Row]]:
    from trackio.utils import serialize_values

    for number, row in enumerate(rows):
        yield (
            {
                "project": target.project,
                "run": target.name,
                "run_id": target.run_id,
                "metrics": serialize_values(row.values),
                "step": row.step,
                "config": serialize_values(dict(config)) if config is not None and number == 0 else None,
                "log_id": row.log_id,
            },
            row,
        )


def _timestamp(row: Row) -> str:
    return datetime.fromtimestamp(row.time, UTC).isoformat()


@contextmanager
def _trackio_in(directory: Path) -> Iterator[Any]:
    """Let Trackio's storage use `directory` meanwhile: it takes what TRACKIO_DIR said when it was imported."""
    from trackio import sqlite_storage, utils

    modules: tuple[Any, ...] = (sqlite_storage, utils)
    with _directory_lock:
        before = [module.TRACKIO_DIR for module in modules]
        for module in modules:
            module.TRACKIO_DIR = directory
        try:
            yield sqlite_storage.SQLiteStorage
        finally:
            for module, path in zip(modules, before, strict=True):
                module.TRACKIO_DIR = path
