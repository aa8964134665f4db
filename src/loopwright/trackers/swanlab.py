"""Report to SwanLab: a run in its cloud, or offline in files that `swanlab sync` sends later.

SwanLab keeps one value of a metric for each step, the first. What its files hold is read from them when a run is opened
again, and is not written twice. Which run it is, the first of these that there is:

    the program's own ─▶ the one remembered ─▶ SWANLAB_RUN_ID ─▶ one with the run's own id, made where there is none
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.env import set_variables
from loopwright._support.extras import is_installed, require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError
from loopwright.records import Record, Run, Status
from loopwright.trackers import swanlab_session as sessions
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.description import origin
from loopwright.trackers.naming import as_float, group_name, numbers
from loopwright.trackers.swanlab_session import Session

logger: Logger = get_logger(__name__)

_GLOBAL_STEP = "train/global_step"
_MODES = {"cloud": "online", "online": "online", "local": "local", "offline": "offline", "disabled": "disabled"}
_RESUMES = ("allow", "must", "never")
_DEFAULT_PROJECT = "huggingface"
_LONGEST_PROJECT = 100
# Shown by transformers beside the curves.
_SINGLE_VALUES = frozenset(
    {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
)


class SwanLabCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to SwanLab.

    Environment:
        SWANLAB_API_KEY: The key for the cloud; else that of `swanlab login`. Without one the run is offline.
        SWANLAB_PROJECT: The project; by default the argument `project`, or, where that is left at its default, the name
            of the directory that the program was started in.
        SWANLAB_LOG_DIR: Where local files go; by default `swanlog` in `output_dir`.
        SWANLAB_MODE: "cloud" (or "online"), "offline", "local" for SwanLab's own dashboard, or "disabled".
        SWANLAB_LOG_MODEL: Not supported by SwanLab; warned about.
        SWANLAB_API_HOST, SWANLAB_WEB_HOST: A server of one's own.
        SWANLAB_RUN_ID: The run to go on with. Branches and trials have an id of their own.
        SWANLAB_RESUME: "must", "never" or "allow", the default: whether a run of SWANLAB_RUN_ID has to be there.
    """

    name: ClassVar[str] = "swanlab"
    sdk_modules: ClassVar[tuple[str, ...]] = ("swanlab",)
    variables: ClassVar[tuple[str, ...]] = (
        "SWANLAB_PROJECT",
        "SWANLAB_LOG_DIR",
        "SWANLAB_MODE",
        "SWANLAB_LOG_MODEL",
        "SWANLAB_API_HOST",
        "SWANLAB_WEB_HOST",
        "SWANLAB_RUN_ID",
        "SWANLAB_RESUME",
    )
    ambient_module: ClassVar[str | None] = "swanlab"
    stays_here: ClassVar[tuple[str, ...]] = ("_session",)

    _session: Session | None = None

    def __init__(self) -> None:
        require_installed("swanlab", extra="swanlab", purpose="SwanLabCallback")

    @property
    def _swanlab(self) -> Any:
        """The SDK, by the name that subclasses of transformers' callback use."""
        import swanlab

        return swanlab

    def why_off(self) -> str | None:
        """Return what switches it off."""
        # Read here so that the user sees what is wrong: what the delivery process says goes to its log.
        if self._asked_mode() == "disabled":
            return "SWANLAB_MODE=disabled"
        self._asked_resume()
        if (text := self.variable("SWANLAB_LOG_MODEL")) is not None:
            warn_once(logger, f"swanlab: SWANLAB_LOG_MODEL={text} has no effect, as SwanLab stores no models")
        return None

    # The run

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Begin the run, or go on with it."""
        run, reference = self._run_to_show(), self.standing.reference
        folders = [Path(folder) for folder in reference.get("folders", [])]
        kept = [folder for folder in folders if folder.is_dir()]
        program = sessions.programs_run() if self._live is not None else None
        if program is not None:
            self._session = Session(program, is_programs=True)
            self.standing.remember({"project": program._ctx.config.settings.project.name})
        else:
            self._session = Session(sessions.begin(self._choose(run)), is_programs=False)
        service_run = self._session.run
        where = {"swanlab_id": service_run.id, "mode": service_run.mode, "log_dir": str(self._session.log_dir)}
        self.settle_at(where, has_lost=len(kept) < len(folders))
        here = [] if self._session.is_online else [*map(str, kept), str(Path(service_run.dir).absolute())]
        self.standing.remember({"folders": list(dict.fromkeys(here))})
        self.show_at(service_run.url if self._session.is_online else f"{service_run.dir} (`swanlab sync` sends it)")
        service_run.config.update({**run.parameters, **self._origin(run)})

    def _choose(self, run: Run) -> dict[str, Any]:
        """Return the arguments of `swanlab.init`."""
        hosts = {name: self.variable(name) for name in ("SWANLAB_API_HOST", "SWANLAB_WEB_HOST")}
        set_variables({name: text for name, text in hosts.items() if text is not None})
        reference = self.standing.reference
        project = reference.get("project") or self._choose_project(run)
        log_dir = reference.get("log_dir") or self.variable("SWANLAB_LOG_DIR") or Path(run.output_dir) / "swanlog"
        log_dir = Path(log_dir).expanduser().absolute()
        self.standing.remember({"project": project})
        name = run.trial_name or run.name
        if run.trial_name is not None and run.name is not None and run.name != run.trial_name:
            name = f"{run.name}-{run.trial_name}"
        return {
            "mode": self._choose_mode(project, log_dir),
            "project": project,
            "name": name or Path(run.output_dir).name,
            "group": run.search_name,
            "log_dir": str(log_dir),
            "id": reference.get("swanlab_id") or self._choose_id(run),
            "resume": "must" if self._asked_resume() == "must" and "swanlab_id" not in reference else "allow",
        }

    def _asked_mode(self) -> str | None:
        text = self.variable("SWANLAB_MODE")
        if text is None or text in _MODES:
            return None if text is None else _MODES[text]
        warn_once(
            logger, f"environment variable SWANLAB_MODE={text!r}: expected one of {', '.join(_MODES)}; taken as unset"
        )
        return None

    def _asked_resume(self) -> str:
        text = (self.variable("SWANLAB_RESUME") or "allow").strip().lower()
        if text in _RESUMES:
            return text
        expected = f"expected one of {', '.join(_RESUMES)}; taken as allow"
        warn_once(logger, f"environment variable SWANLAB_RESUME={text!r}: {expected}")
        return "allow"

    def _choose_mode(self, project: str, log_dir: Path) -> str:
        asked, before = self._asked_mode(), self.standing.reference.get("mode")
        if asked == "local" and not is_installed("swanboard"):
            later = "pip install swanboard, or SWANLAB_MODE=offline"
            warn_once(logger, f"swanlab: SWANLAB_MODE=local needs the package swanboard ({later}): the run is offline")
            return "offline"
        if asked not in {None, "online"}:
            return str(asked)
        if asked is None and before == "offline":
            return "offline"  # the rest of the run shall be where its beginning is
        if sessions.api_key_is_known("online", project):
            sessions.require_answer("online", project)
            return "online"
        if asked is not None:
            raise TrackerError("SWANLAB_MODE=cloud, and there is no API key: set SWANLAB_API_KEY, or `swanlab login`")
        later = f"send it later with `swanlab sync {log_dir}/run-*`; before the next one, `swanlab login`"
        warn_once(logger, f"swanlab: no API key, so the run is offline ({later})")
        return "offline"

    def _choose_project(self, run: Run) -> str:
        wanted = self.variable("SWANLAB_PROJECT")
        if wanted is None:
            wanted = run.project if run.project not in {None, _DEFAULT_PROJECT} else Path.cwd().name
        fits = re.sub(r"[^0-9a-zA-Z_\-+.]", "_", str(wanted))[:_LONGEST_PROJECT] or _DEFAULT_PROJECT
        if fits != wanted:
            warn_once(logger, f"swanlab doesn't take every name: the project {wanted!r} is {fits!r} there")
        return fits

    def _choose_id(self, run: Run) -> str:
        wanted = self.variable("SWANLAB_RUN_ID")
        if wanted is None or run.parent_id is not None or run.trial_name is not None:
            return run.id
        if self._asked_resume() == "never":
            logger.warning("swanlab: SWANLAB_RUN_ID=%s and SWANLAB_RESUME=never: a new run is begun", wanted)
            return run.id
        return wanted

    def _origin(self, run: Run) -> dict[str, Any]:
        rewound_to = self.standing.reference.get("rewound_to_step")
        return origin(run) | ({} if rewound_to is None else {"loopwright/rewound_to_step": rewound_to})

    def _opened(self) -> Session:
        if self._session is None:
            raise TrackerError("SwanLabCallback is not open")
        return self._session

    # Records

    def write(self, records: Sequence[Record]) -> None:
        """Hand over numbers; texts stay in the journal."""
        session = self._opened()
        for record in records:
            session.write(record, _values(record))

    def confirmed(self) -> int:
        """Return the last record before the first that is not in the file; online nothing is confirmed but by the end.

        Online a session that begins after a kill gets everything of the one before again, and SwanLab drops what its
        server has.
        """
        session = self._opened()
        first = session.unconfirmed()
        if session.is_online:
            return 0
        return self._written if first is None else first - 1

    def rewind(self, step: int) -> None:
        """Say in the configuration from which step on the run went another way: SwanLab keeps the first values."""
        self.standing.remember({"rewound_to_step": step})
        self._opened().run.config.update({"loopwright/rewound_to_step": step})

    def close(self, status: Status) -> None:
        """End the run, unless it is the program's own."""
        if self._session is not None:
            self._session.end(status)
        self._session = None

    def abandon(self) -> None:
        """Let go of the run; another session goes on with it."""
        session, self._session = self._session, None
        if session is not None:
            session.leave()


def _values(record: Record) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in numbers(record.values):
        shown = f"single_value/{name}" if name in _SINGLE_VALUES else group_name(name)
        found[shown] = as_float(value)
    return {**found, _GLOBAL_STEP: float(record.step)}
