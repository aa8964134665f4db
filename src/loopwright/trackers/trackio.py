"""Report to Trackio: its local database, a server of one's own, or a Space on the Hub.

A record becomes a row with the record's step and time. The row's id is made of the run and the record's number, and
Trackio keeps one row for each id: what is sent twice is there once. Which run it is, the first of these that there is:

    the program's current run ─▶ the one remembered ─▶ one with the run's own id, made where there is none
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.env import read_text
from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError
from loopwright.records import Record, Run, Status
from loopwright.trackers import trackio_store as stores
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.description import origin
from loopwright.trackers.naming import as_float, group_name, numbers
from loopwright.trackers.trackio_current import current_run, make_current, make_run
from loopwright.trackers.trackio_store import LocalStore, Row, ServerStore, Store, Target

logger: Logger = get_logger(__name__)

_GLOBAL_STEP = "train/global_step"
_LARGEST = 2**63 - 1
_DEFAULT_PROJECT = "huggingface"


class TrackioCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to Trackio.

    The arguments `project` and `run_name` name project and run. `trackio_space_id` names a Space on the Hub to report
    to, `trackio_bucket_id` the bucket that it keeps its data in; `hub_private_repo` makes it a private one.

    Environment:
        TRACKIO_DIR: Where the databases are, one for each project; by default Trackio's own, `trackio` in `HF_HOME`.
        TRACKIO_SPACE_ID: As `trackio_space_id`, where that is not given.
        TRACKIO_SERVER_URL: A Trackio server to report to, where there is no Space.
        TRACKIO_WRITE_TOKEN: The server's token, where the address has none.
        TRACKIO_STORAGE_MODE: "sqlite", or "jsonl" for files that the dashboard imports, or "auto", the default: these
            files on a network disk.
    """

    name: ClassVar[str] = "trackio"
    sdk_modules: ClassVar[tuple[str, ...]] = ("trackio", "trackio.sqlite_storage", "trackio.remote_client")
    # Not the server's address: it may hold a token.
    variables: ClassVar[tuple[str, ...]] = ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_STORAGE_MODE")
    ambient_module: ClassVar[str | None] = "trackio"
    stays_here: ClassVar[tuple[str, ...]] = ("_store", "_thread_run", "_programs_run")

    _store: Store | None = None
    _target: Target | None = None
    _first: str | None = None  # id of the first row that was sent
    _last: Row | None = None
    _about: dict[str, Any] | None = None  # what the configuration says beside the parameters
    _is_described: bool = False
    _programs_run: Any = None
    _thread_run: Any = None

    def __init__(self) -> None:
        require_installed("trackio", extra="trackio", purpose="TrackioCallback")

    @property
    def _trackio(self) -> Any:
        """The SDK, by the name that subclasses of transformers' callback use."""
        import trackio

        return trackio

    def why_off(self) -> str | None:
        """Look for a run of the program's own; nothing switches Trackio off."""
        # Asked on the thread that trains: another one doesn't see its current run.
        self._programs_run = current_run()
        return None

    # The run

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Find the run, or begin it."""
        run = self._run_to_show()
        self._is_described, self._last = False, None
        program = self._programs_run if self._live is not None else None
        place, target = self._settle(run, program)
        self._store = store = self._open(place, None if program is None else program._write_token)
        target = target or self._name_run(run, store)
        self.standing.remember({"place": place, "target": list(target), "first": self._first})
        self._target = target
        self.show_at(_shown(place, target))
        self._about = self._describe(run, target, program)
        if self._live is not None and program is None:
            self._leave()
            token = getattr(store, "write_token", None)
            self._thread_run = make_run(target, place, token, lambda: int(state.global_step))

    def _settle(self, run: Run, program: Any) -> tuple[dict[str, str], Target | None]:
        """Return where the run is, and what it is called, where that is settled."""
        reference = self.standing.reference
        known = Target(*reference["target"]) if "target" in reference else None
        if program is not None:
            target = Target(program.project, program.name, program.id)
            # Another run than before has got nothing yet.
            self._first = reference.get("first") if target == known else None
            return _place_of(program), target
        self._first = reference.get("first")
        place = reference.get("place")
        if place is None:
            place = self._choose_place(run)
            self.standing.remember({"place": place})  # a server's address is in no journal
        return place, known

    def _name_run(self, run: Run, store: Store) -> Target:
        project = run.project or _DEFAULT_PROJECT
        if (objection := stores.objection_to(project)) is not None:
            warn_once(logger, f"trackio: {objection} The run is in the project {_DEFAULT_PROJECT!r}")
            project = _DEFAULT_PROJECT
        name = run.trial_name or run.name or Path(run.output_dir).name
        runs = store.runs(project)
        if run.id in runs:  # a session that was killed had not remembered it
            name = runs[run.id]
        elif name in runs.values():
            name = f"{name}_{run.short_id}"
        return Target(project, name, run.id)

    # Where it is

    def _choose_place(self, run: Run) -> dict[str, str]:
        directory = self.variable("TRACKIO_DIR") or stores.default_directory()
        local = {"directory": str(Path(directory).expanduser().absolute())}
        space = run.arguments.get("trackio_space_id") or self.variable("TRACKIO_SPACE_ID")
        if space is not None:
            return self._choose_space(run, str(space)) or local
        address = read_text("TRACKIO_SERVER_URL")
        if address is None:
            return local
        address, token = stores.split_address(address)
        if token is not None and address.startswith(("http://", "https://")):
            return {"server": address}
        lacks = "there is no write token: set TRACKIO_WRITE_TOKEN" if token is None else "expected http://... there"
        warn_once(logger, f"trackio: TRACKIO_SERVER_URL={address}, and {lacks}; the run is in {local['directory']}")
        return local

    def _choose_space(self, run: Run, space: str) -> dict[str, str] | None:
        project = run.project or _DEFAULT_PROJECT
        bucket, is_private = run.arguments.get("trackio_bucket_id"), run.arguments.get("hub_private_repo")
        try:
            if stores.hub_token() is None:
                raise TrackerError("there is no token for the Hub (run `hf auth login` before the next one)")
            return {"space": stores.make_space(project, space, bucket, is_private=is_private)}
        except TrackerError as error:
            later = f"send it later with `trackio sync --project {project} --space-id {space}`"
            warn_once(logger, f"trackio: {error}, so the run is in the local database and not in {space}; {later}")
            return None

    def _open(self, place: dict[str, str], token: str | None) -> Store:
        if "directory" in place:
            return LocalStore(Path(place["directory"]))
        if "space" in place:
            return ServerStore(place["space"])
        address = read_text("TRACKIO_SERVER_URL")
        token = token or (read_text("TRACKIO_WRITE_TOKEN") if address is None else stores.split_address(address)[1])
        if token is None:
            raise TrackerError(f"the run is at {place['server']}: set TRACKIO_WRITE_TOKEN, as no token is kept")
        return ServerStore(place["server"], token)

    # Records

    def recover(self) -> int | None:
        """Return 0 where the first row is gone, or has gone to another run."""
        store, target = self._opened()
        if self.standing.is_new or (self._first is not None and store.holds(target.project, self._first)):
            return None
        self._first = None
        return 0

    def write(self, records: Sequence[Record]) -> None:
        """Keep a row for each record."""
        _, target = self._opened()
        run = self._run_to_show()
        self._send([_row(record, run, target) for record in records])

    def _send(self, rows: Sequence[Row]) -> None:
        store, target = self._opened()
        store.append(target, rows, None if self._is_described else self._about)
        self._is_described = True
        self._last = rows[-1]
        if self._first is None:
            self._first = rows[0].log_id
            self.standing.remember({"first": self._first})

    def _opened(self) -> tuple[Store, Target]:
        if self._store is None or self._target is None:
            raise TrackerError("TrackioCallback is not open")
        return self._store, self._target

    def _describe(self, run: Run, target: Target, program: Any) -> dict[str, Any] | None:
        """Return the run's configuration, or None where it is the program's and not at hand."""
        if program is not None:
            program.config.update(run.parameters)
            return dict(program.config)
        if target.run_id != run.id:
            return None
        rewound_to = self.standing.reference.get("rewound_to_step")
        return {
            **run.parameters,
            **origin(run),
            **({} if rewound_to is None else {"loopwright/rewound_to_step": rewound_to}),
            "_Username": None,
            "_Created": datetime.fromtimestamp(run.created_at, UTC).isoformat(),
            "_Group": run.search_name,
        }

    def _redescribe(self, **about: Any) -> None:
        """Add to the configuration: at once, where there is a row to send it with, else with the next."""
        if self._about is None or self._programs_run is not None:
            return
        self._about |= {f"loopwright/{name}": value for name, value in about.items()}
        self._is_described = False
        if self._last is not None:
            self._send([self._last])  # the row is there already, and stays as it is

    def rewind(self, step: int) -> None:
        """Say in the configuration that rows from `step` on have newer ones beside them."""
        self.standing.remember({"rewound_to_step": step})
        self._redescribe(rewound_to_step=step)

    def close(self, status: Status) -> None:
        """Say in the configuration how the run ended; Trackio itself knows no end."""
        self._redescribe(status=status.value)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the store, which holds nothing open."""
        self._leave()
        self._store = self._target = self._last = None

    # The training's thread

    def adopt(self) -> None:
        """Make the run the current one of this thread, for the program's `trackio.log`."""
        if self._thread_run is not None:
            make_current(self._thread_run)

    def _leave(self) -> None:
        run, self._thread_run = self._thread_run, None
        if run is not None:
            run.finish()


def _place_of(program: Any) -> dict[str, str]:
    """Return where the program's own run is."""
    if program._server_base_url is not None:
        return {"server": program._server_base_url}
    if program._space_id is not None:
        return {"space": program._space_id}
    return {"directory": str(stores.default_directory().absolute())}


def _shown(place: dict[str, str], target: Target) -> str:
    """Return where people find the run."""
    if "directory" in place:
        return f"{target.name} in {place['directory']} (`trackio show --project {target.project}` shows it)"
    return f"{target.name} in {place.get('server') or 'https://huggingface.co/spaces/' + place['space']}"


def _row(record: Record, run: Run, target: Target) -> Row:
    # The program's own run may get the records of several trainings.
    owner = run.id if target.run_id == run.id else f"{target.run_id}-{run.id}"
    values = {**dict(_values(record)), _GLOBAL_STEP: record.step}
    return Row(f"{owner}-{record.sequence}", record.step, record.time, values)


def _values(record: Record) -> Iterator[tuple[str, Any]]:
    for name, value in numbers(record.values):
        yield group_name(name), _fitting(value)
    for name, value in record.values.items():
        if isinstance(value, str):
            yield group_name(name), value


def _fitting(value: float) -> float:
    """Return a number that Trackio draws: it takes no truth values, and no integers beyond 64 bits."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        return as_float(value)
    return value
