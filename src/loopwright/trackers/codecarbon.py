"""Measure a training's energy with CodeCarbon, and what it emits by that.

Here the data flows the other way: the SDK measures, and the training records. The delivery process, which is there from
the beginning to the end, holds the SDK's meter and keeps its newest reading where a kill can't take it; the training
reads it from there for its last log line:

    meter (delivery process) ─▶ delivery.db ─▶ last log line (training) ─▶ journal ─▶ every tracker
                                           └─▶ emissions.csv, a row for each session
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.delivery.store import read_delivered
from loopwright.errors import TrackerError
from loopwright.records import Record, Run, Status
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.presence import training_beside

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger: Logger = get_logger(__name__)

_LEAST_SECONDS = 1.0  # between two readings
_LAST_LINE = "train_runtime"  # is in a training's last log line
_SETTINGS = (
    "CLOUD_PROVIDER",
    "CLOUD_REGION",
    "COUNTRY_2LETTER_ISO_CODE",
    "COUNTRY_ISO_CODE",
    "EXPERIMENT_NAME",
    "FORCE_CARBON_INTENSITY_G_CO2E_KWH",
    "FORCE_CPU_POWER",
    "FORCE_RAM_POWER",
    "GPU_IDS",
    "MEASURE_POWER_SECS",
    "OUTPUT_DIR",
    "OUTPUT_FILE",
    "PROJECT_NAME",
    "PUE",
    "REGION",
    "TRACKING_MODE",
)


class CodeCarbonCallback(TrackerCallback):
    """A `TrainerCallback` that tracks the CO2 emission of training.

    It never asks the network: where it is measured, it is told.

    Arguments:
        country_iso_code: Country whose electricity is used, three letters ("FRA"). By default what the variable or
            CodeCarbon's configuration file says; without either, the world's average counts.

    Environment:
        CODECARBON_COUNTRY_ISO_CODE: See above.
        CODECARBON_OUTPUT_DIR, CODECARBON_OUTPUT_FILE: Where the table of sessions goes; by default
            `<output_dir>/emissions.csv`.
        CODECARBON_MEASURE_POWER_SECS, CODECARBON_TRACKING_MODE, CODECARBON_REGION, CODECARBON_PUE, …: As CodeCarbon
            documents them, for what is measured. Those that send something are left out.
    """

    name: ClassVar[str] = "codecarbon"
    sdk_modules: ClassVar[tuple[str, ...]] = ("codecarbon",)
    attends: ClassVar[bool] = True
    stays_here: ClassVar[tuple[str, ...]] = ("_meter", "_reading")
    variables: ClassVar[tuple[str, ...]] = (*(f"CODECARBON_{name}" for name in _SETTINGS), "CUDA_VISIBLE_DEVICES")

    _meter: Any = None
    _reading: dict[str, Any] | None = None
    _read_at: float = 0.0
    _before: dict[str, float] | None = None  # sums over the sessions before

    def __init__(self, country_iso_code: str | None = None) -> None:
        require_installed("codecarbon", extra="codecarbon", purpose="CodeCarbonCallback")
        self.country_iso_code = country_iso_code

    def constructor_arguments(self) -> dict[str, Any]:
        """Return the country."""
        return {"country_iso_code": self.country_iso_code}

    # The meter

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Start to measure, where the training is at work; write what a killed session had measured."""
        run = self._run_to_show()
        self.show_at(self._table(run))
        self._before = self.standing.reference.get("before")
        if (left := self.standing.reference.get("reading")) is not None:
            self._end_session(run, left)
        if training_beside(run) is not None:  # what is delivered later has nothing to measure
            self._meter = self._start_meter(run)

    def _start_meter(self, run: Run) -> Any:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.output import BaseOutput

        class Reading(BaseOutput):  # type: ignore[misc]
            """Takes what the meter has measured so far."""

            @staticmethod
            def out(total: Any, delta: Any) -> None:
                self._keep(dict(total.values))

        settings = self._settings(run)
        meter = OfflineEmissionsTracker(
            **settings,
            log_level="error",
            allow_multiple_runs=True,  # the lock for one at a time outlives a kill
            output_dir=run.output_dir,
            output_methods=[],  # they write, or send, at moments of their own
            output_handlers=[Reading()],
        )
        meter.start()
        if getattr(meter, "_start_time", None) is None:  # it logs what is wrong, and raises nothing
            raise TrackerError(f"CodeCarbon's meter doesn't start with {settings}; see delivery.log")
        return meter

    def _settings(self, run: Run) -> dict[str, Any]:
        """Return what is measured and where, as the SDK's arguments: those of the environment that began the run."""
        given = {name.lower(): self.variable(f"CODECARBON_{name}") for name in _SETTINGS}
        settings: dict[str, Any] = {name: text for name, text in given.items() if text is not None}
        settings.pop("output_dir", None)
        settings.pop("output_file", None)
        settings.setdefault("project_name", run.project or "codecarbon")
        settings.setdefault("tracking_mode", "machine")
        # This process hides all GPUs from itself; the training's are meant.
        if "gpu_ids" not in settings and (visible := self.variable("CUDA_VISIBLE_DEVICES")) is not None:
            settings["gpu_ids"] = visible
        settings["country_iso_code"] = self._choose_country(settings)
        return settings

    def _choose_country(self, settings: Mapping[str, Any]) -> str | None:
        """Return the country's three letters; None for the world's average, which is said unless it is meant."""
        from codecarbon.core.config import get_hierarchical_config
        from codecarbon.input import DataSource

        told = {**get_hierarchical_config(), **settings}
        country = self.country_iso_code or told.get("country_iso_code")
        if country is None:
            if not {"cloud_provider", "force_carbon_intensity_g_co2e_kwh"} & told.keys():
                _say_world("no country is given")
            return None
        if country.upper() in DataSource().get_global_energy_mix_data():
            return str(country.upper())
        _say_world(f"there is no country {country!r}")
        return None

    def _keep(self, reading: dict[str, Any]) -> None:
        self._reading = reading
        self.standing.remember({"reading": reading})

    # Records: they are only waited for

    def write(self, records: Sequence[Record]) -> None:
        """Take nothing: what is recorded isn't measured."""

    def confirmed(self) -> int:
        """Return all that came; read the meter by the way."""
        if self._meter is not None and time.monotonic() - self._read_at >= _LEAST_SECONDS:
            self._meter.flush()
            self._read_at = time.monotonic()
        return super().confirmed()

    def close(self, status: Status) -> None:
        """Stop the meter, and write the session's row."""
        meter, self._meter = self._meter, None
        if meter is None:
            return
        meter.stop()
        if self._reading is None:
            raise TrackerError("CodeCarbon's meter has measured nothing; see delivery.log")
        self._end_session(self._run_to_show(), self._reading)

    def _end_session(self, run: Run, reading: Mapping[str, Any]) -> None:
        """Write the session's row, and let the next one count from its end."""
        from codecarbon.output import EmissionsData, FileOutput

        path = self._table(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where a kill came before that was noted, the row is there already; to replace it rounds the others anew.
        is_there = path.exists() and reading["run_id"] in path.read_text(encoding="utf-8")
        how = "update" if is_there else "append"
        FileOutput(path.name, str(path.parent), on_csv_write=how).out(EmissionsData(**reading), None)
        self._before = measured({"before": self._before, "reading": reading})
        self.standing.remember({"before": self._before, "reading": None})
        self._reading = None

    def _table(self, run: Run) -> Path:
        directory = self.variable("CODECARBON_OUTPUT_DIR") or run.output_dir
        return (Path(directory) / (self.variable("CODECARBON_OUTPUT_FILE") or "emissions.csv")).absolute()

    def abandon(self) -> None:
        """Stop the meter; its reading is kept."""
        meter, self._meter = self._meter, None
        if meter is not None:
            meter.stop()

    # The training process

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add what was measured to the last line of a training."""
        if logs is not None and _LAST_LINE in logs and self._reporting is not None:
            logs.update(self._measured(self._reporting.recorder))
        super().on_log(args, state, control, model=model, logs=logs, **kwargs)

    def _measured(self, recorder: Any) -> dict[str, float]:
        if recorder is None or recorder.run is None:
            return {}
        return measured(read_delivered(recorder.output_dir, recorder.run.id, self.sink_name).reference)


def _say_world(why: str) -> None:
    warn_once(
        logger,
        f"codecarbon: {why}, so emissions are those of the world's average electricity: set "
        'CODECARBON_COUNTRY_ISO_CODE to three letters of ISO 3166, such as "FRA"',
    )


def measured(reference: Mapping[str, Any]) -> dict[str, float]:
    """Return what all sessions of a run have measured together, as metrics; nothing where none has measured yet.

    Arguments:
        reference: What the tracker remembers: "reading" of the present session, and sums of those "before".
    """
    before, reading = reference.get("before") or {}, reference.get("reading")
    now = {} if reading is None else {"emissions_kg": reading["emissions"], "energy_kwh": reading["energy_consumed"]}
    return {name: before.get(name, 0.0) + now.get(name, 0.0) for name in {**before, **now}}
