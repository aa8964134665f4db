"""Record a search in the journal of its `output_dir`, a line for each trial, and show how it gets on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright._support.log import Logger, get_logger
from loopwright.errors import JournalBusy, Preempted
from loopwright.errors import describe as describe_error
from loopwright.journal.recorder import Recorder
from loopwright.journal.values import decode, encode
from loopwright.records import Kind, Run, Status
from loopwright.search.shown import describe, readable, show_line, show_table
from loopwright.search.trials import ATTRIBUTE

if TYPE_CHECKING:
    from loopwright.search.study import HyperparameterSearch

logger: Logger = get_logger(__name__)


class SearchReport:
    """A context that is one attempt of the search's run."""

    def __init__(self, search: HyperparameterSearch, output_dir: str) -> None:
        self.search = search
        self._args = search.trainer.args
        self._output_dir = output_dir
        self._recorder: Recorder | None = None
        self._left: str | None = None

    def __enter__(self) -> SearchReport:
        search = self.search
        if not search.trainer.is_world_process_zero():
            return self
        search.trainer.reporting.close()
        run = Run(
            id=search.search_id,
            output_dir=str(Path(self._output_dir).resolve()),
            name=self._args.run_name,
            project=getattr(self._args, "project", None),
            created_at=search.began,
            arguments=decode(encode(self._args.to_dict())[0]),
        )
        recorder = Recorder(self._output_dir)
        try:
            recorder.begin_attempt(run, purpose="search")
        except JournalBusy as error:  # several processes may work on one study
            logger.info("this part of the search is in the trials' journals alone: %s", error)
            return self
        self._recorder = recorder
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._recorder is None:
            return
        status, reason = Status.COMPLETED, None
        if self._left is not None:
            status, reason = Status.PREEMPTED, self._left
        if isinstance(error, Preempted):
            status, reason = Status.PREEMPTED, error.reason
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            status, reason = Status.INTERRUPTED, describe_error(error)
        elif error is not None:
            status = Status.FAILED
            reason = "; ".join([describe_error(error), *getattr(error, "__notes__", ())])
        self._recorder.end_attempt(status, reason)
        self._recorder.close()

    def note_left(self, signal: Any) -> None:
        """Remember that a signal has ended the search."""
        self._left = "a signal" if signal is None else signal.name

    def note_trial(self, study: Any, trial: Any) -> None:
        """Record and show a trial that has ended."""
        name = _name(trial)
        state, best = trial.state.name.lower(), self._best()
        values: dict[str, Any] = {"trial": name, "state": state, "parameters": trial.params, **_numbered(trial.values)}
        if best is not None:
            values |= {"best_trial": _name(best), "best_objective": best.value}
        if self._recorder is not None:
            self._recorder.record(Kind.LOG, trial.number, values)
        outcome = f"objective {readable(trial.values)}" if trial.values else state
        so_far = "" if best is None else f"best {readable(best.value)} ({_name(best)})"
        show_line(describe(name, trial.params, outcome, so_far), on_terminal=not self._args.disable_tqdm)

    def show_all(self) -> None:
        """Show the table of all trials of the study."""
        if not self._args.disable_tqdm:
            trials = sorted(self.search.study.get_trials(deepcopy=False), key=self._rank)
            show_table([(_name(one), one.state.name.lower(), readable(one.values or ""), one.params) for one in trials])

    def _best(self) -> Any:
        return self.search.best_trial() if len(self.search.directions) == 1 else None

    def _rank(self, trial: Any) -> tuple[bool, float, int]:
        if not trial.values or trial.state.name != "COMPLETE" or math.isnan(trial.values[0]):
            return True, 0.0, trial.number
        sign = 1 if self.search.directions[0] == "minimize" else -1
        return False, sign * trial.values[0], trial.number


def _name(trial: Any) -> str:
    return str(trial.user_attrs.get(ATTRIBUTE, {}).get("name") or f"run-{trial.number}")


def _numbered(values: list[float] | None) -> dict[str, float]:
    if not values:
        return {}
    return {"objective": values[0]} if len(values) == 1 else {f"objective_{n}": value for n, value in enumerate(values)}
