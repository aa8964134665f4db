"""Report to Comet: an experiment on its server, or offline in archives that `comet upload` sends later.

Which experiment it is, the first of these that there is:

    the program's own ─▶ the one remembered ─▶ COMET_EXPERIMENT_KEY ─▶ one whose key is made of the run's id
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.env import set_variables
from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError
from loopwright.records import Record, Run, Status
from loopwright.trackers import comet_choices as choices
from loopwright.trackers import comet_sdk
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.comet_online import OnlineSession
from loopwright.trackers.comet_sdk import Plan
from loopwright.trackers.comet_session import ArchivesSession, ProgramsSession
from loopwright.trackers.description import origin
from loopwright.trackers.naming import as_float, group_name, numbers

logger: Logger = get_logger(__name__)

Session = ArchivesSession | OnlineSession | ProgramsSession


class CometCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to Comet.

    Environment:
        COMET_API_KEY: The key; else that of `comet login`. Without one the experiment is offline.
        COMET_MODE: "get_or_create", the default, "create" for an experiment that must not be there yet, or "get" for
            one that must, which COMET_EXPERIMENT_KEY names. Deprecated: "ONLINE", "OFFLINE" and "DISABLED".
        COMET_START_ONLINE: Whether it is online. By default it is with a key.
        COMET_EXPERIMENT_KEY: The experiment to go on with. Branches and trials have a key of their own.
        COMET_PROJECT_NAME: The project; by default the argument `project`, unless that is left at its default.
        COMET_LOG_ASSETS: Whether checkpoints, and TensorBoard's files, are stored, which is the default.
        COMET_OFFLINE_DIRECTORY: Where archives go; by default `comet` in `output_dir`.
        COMET_WORKSPACE, COMET_URL_OVERRIDE: The workspace, and a server of one's own.
    """

    name: ClassVar[str] = "comet_ml"
    variables: ClassVar[tuple[str, ...]] = choices.VARIABLES
    stays_here: ClassVar[tuple[str, ...]] = ("_session",)

    _session: Session | None = None

    def __init__(self) -> None:
        require_installed("comet_ml", extra="comet_ml", purpose="CometCallback")

    @property
    def _experiment(self) -> Any:
        """The SDK's experiment, by the name that subclasses of transformers' callback use."""
        return self._opened().experiment

    def load(self) -> None:
        """Import the SDK, silenced."""
        comet_sdk.sdk()

    def needs_training_process(self) -> str | None:
        """Return that the program has an experiment of its own, which the records have to go to."""
        # Not an `ambient_module`: transformers imports the SDK without being asked.
        return "the program has a running Comet experiment" if comet_sdk.programs_experiment() is not None else None

    def why_off(self) -> str | None:
        """Return what switches it off."""
        # Read here so that the user sees what is wrong: what the delivery process says goes to its log.
        if choices.asked_mode(self.variable) == "disabled":
            return "COMET_MODE=DISABLED"
        choices.asked_online(self.variable)
        choices.asked_key(self.variable)
        return None

    def wants_checkpoints(self) -> bool:
        """Return what COMET_LOG_ASSETS says."""
        return self.flag("COMET_LOG_ASSETS", default=True)

    # The experiment

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Begin the experiment, or go on with it or with the program's."""
        self.abandon()
        run, reference = self._run_to_show(), self.standing.reference
        program = comet_sdk.programs_experiment() if self._live is not None else None
        if program is not None:
            where = {"key": program.get_key(), "mode": "program"}
            self._session = ProgramsSession(program, self._plan(run, where["key"], "get"))
            self.show_at(program.url or f"the program's experiment {where['key']}")
        else:
            key = reference.get("key") if reference.get("mode") != "program" else None
            key = key or choices.choose_key(run, self.variable, self._own_key(run))
            where = {"key": key, "mode": self._choose_mode(run, key)}
            if where["mode"] == "offline":
                where["directory"] = str(self._directory(run))
            self._session = self._begin(run, key, is_online=where["mode"] == "online")
        self.settle_at(where, has_lost=self._lacks_archives())
        self._remember_archives()

    def _begin(self, run: Run, key: str, *, is_online: bool) -> ArchivesSession | OnlineSession:
        owner, strategy = self._own_key(run), choices.choose_strategy(run, self.variable)
        has_begun = self.standing.reference.get("begun") == key
        plan = self._plan(run, key, "get_or_create" if has_begun and strategy == "create" else strategy)
        directory = self._directory(run)
        if not is_online:
            self.show_at(f"{directory}/{key}-*.zip (`comet upload` sends it)")
            return ArchivesSession(directory, owner, plan)
        session = OnlineSession(self._api_key(), plan, Path(run.output_dir) / f".comet-{owner}")
        self.standing.remember({"begun": key})
        self.show_at(session.url)
        return session

    def _choose_mode(self, run: Run, key: str) -> str:
        """Return "online" or "offline"; nothing ever asks for an API key."""
        if (address := self.variable("COMET_URL_OVERRIDE")) is not None:
            set_variables({"COMET_URL_OVERRIDE": address})
        asked, before = choices.asked_online(self.variable), self.standing.reference.get("mode")
        if asked is None and before in {"online", "offline"}:
            return str(before)  # the rest of the run shall be where its beginning is
        if asked is None:
            asked = comet_sdk.configured_online()
        if asked is not None:
            return "online" if asked else "offline"
        if comet_sdk.known_api_key() is not None:
            return "online"
        later = (
            f"send it later with `comet upload {self._directory(run)}/{key}-*.zip`; before the next one, `comet login`"
        )
        warn_once(logger, f"comet_ml: no API key, so the experiment is offline ({later})")
        return "offline"

    def _api_key(self) -> str:
        if (key := comet_sdk.known_api_key()) is None:
            raise TrackerError(
                "the experiment is to be online, and there is no API key: set COMET_API_KEY, or `comet login`; "
                "COMET_START_ONLINE=0 keeps it on the disk"
            )
        return key

    def _directory(self, run: Run) -> Path:
        return choices.choose_directory(run, self.variable, self.standing.reference.get("directory"))

    def _own_key(self, run: Run) -> str:
        return choices.own_key(run, self.sink_name.removeprefix(self.name).strip("-"))

    def _plan(self, run: Run, key: str, strategy: str) -> Plan:
        trial = run.trial_parameters or {}
        config = {name: value for name, value in run.parameters.items() if name not in run.arguments.keys() | trial}
        return Plan(
            key=key,
            strategy=strategy,
            project=choices.choose_project(run, self.variable),
            workspace=self.variable("COMET_WORKSPACE"),
            name=None if strategy == "get" else choices.choose_name(run),
            began=run.created_at,
            parameters={name: part for name, part in {"args": run.arguments, "config": config}.items() if part},
            others=self._others(run),
            trial=None if run.trial_name is None else (run.trial_name, trial),
        )

    def _others(self, run: Run) -> dict[str, Any]:
        rewound_to = self.standing.reference.get("rewound_to_step")
        return origin(run) | ({} if rewound_to is None else {"loopwright/rewound_to_step": rewound_to})

    def _archives(self) -> list[str]:
        session = self._session
        return [archive.path.name for archive in session.sealed] if isinstance(session, ArchivesSession) else []

    def _lacks_archives(self) -> bool:
        """Return whether somebody has deleted one, or it can't be read any more."""
        return bool(set(self.standing.reference.get("archives", [])) - set(self._archives()))

    def _remember_archives(self) -> None:
        if (present := self._archives()) != self.standing.reference.get("archives", []):
            self.standing.reference["archives"] = present
            self.standing.remember({"archives": present})

    def _opened(self) -> Session:
        if self._session is None:
            raise TrackerError("CometCallback is not open")
        return self._session

    # Records

    def write(self, records: Sequence[Record]) -> None:
        """Log numbers; texts stay in the journal."""
        session = self._opened()
        for record in records:
            epoch = record.values.get("epoch")
            epoch = as_float(epoch) if isinstance(epoch, (int, float)) else None
            if points := _points(record):
                session.add(record, points, epoch)
        session.flush()

    def confirmed(self) -> int:
        """Return the last record before the first that is in no archive, or that the server hasn't got."""
        if self._session is None:
            return self._written
        self._remember_archives()
        return self._session.confirmed(self._written)

    def save_artifact(self, path: Path, record: Record) -> None:
        """Store a checkpoint, or other files, as `<output_dir's name>/<path in it>`."""
        out = Path(self._run_to_show().output_dir)
        prefix = path.relative_to(out) if path.is_relative_to(out) else Path(path.name)
        self._opened().add_files(record, path, f"{out.name}/{prefix}")

    def rewind(self, step: int) -> None:
        """Take points from `step` on out of archives; what has been sent, Comet keeps."""
        self._opened().rewind(step, self._written)
        self.standing.reference["rewound_to_step"] = step
        self.standing.remember({"rewound_to_step": step})
        self._opened().note_others({"loopwright/rewound_to_step": step})

    def close(self, status: Status) -> None:
        """Say how the run ended, and end the experiment, unless it is the program's own."""
        if self._session is not None:
            events = self._send_events(self._session) if self.wants_checkpoints() else {}
            self._session.end({"loopwright/status": status.value})
            self._remember_archives()
            if events:
                self.standing.remember({"events": events})
        self._session = None

    def _send_events(self, session: Session) -> dict[str, int]:
        """Hand over TensorBoard's files as they are now; return their sizes, empty where none has changed."""
        out = Path(self._run_to_show().output_dir)
        sizes = {str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("events.out.tfevents.*"))}
        before = self.standing.reference.get("events", {})
        changed = [name for name, size in sizes.items() if before.get(name) != size]
        for name in changed:
            comet_sdk.send_file(session.experiment, out / name, f"{out.name}/{name}")
        return sizes if changed else {}

    def abandon(self) -> None:
        """Let go of the experiment; another session goes on with it."""
        session, self._session = self._session, None
        if session is not None:
            session.leave()


def _points(record: Record) -> dict[str, float]:
    return {choices.fit_name(group_name(name)): as_float(value) for name, value in numbers(record.values)}
