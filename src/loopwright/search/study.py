"""A search from beginning to end: Optuna asks, the Trainer trains, and everything is put back.

    study.optimize ─▶ trial ─▶ arguments set, callbacks as at the start ─▶ Trainer.train ─▶ objective ─▶ study
                                                        │ each evaluation
                                                        └─▶ judge ─▶ trial.report ─▶ pruned: the training stops

Optuna's storage holds the trials and what came of them; each trial's journal holds its run; the journal in
`output_dir` holds the search's own run, a line for each trial.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright._support.env import read_text
from loopwright._support.log import Logger, get_logger
from loopwright.errors import ArgumentError, Preempted, SearchError
from loopwright.outputs import BestRun
from loopwright.records import Decision
from loopwright.runtime.signals import SignalWatch
from loopwright.search.options import check_backend, check_trainer, divide, read_directions
from loopwright.search.reporting import SearchReport
from loopwright.search.shelf import Shelf
from loopwright.search.space import default_compute_objective, default_hp_space_optuna, set_parameters
from loopwright.search.trials import ATTRIBUTE, choose_name, claim, fail_killed_trials

if TYPE_CHECKING:
    from loopwright.search.hooks import SearchHooks

logger: Logger = get_logger(__name__)


class _Left(BaseException):
    """A signal came, and the training has been saved and has returned."""


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna's lines on studies and trials back, which say what ours do; whoever asked for others gets them."""
    import optuna

    level = optuna.logging.get_verbosity()
    if level == optuna.logging.INFO:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


class HyperparameterSearch:
    """One `hyperparameter_search` of a Trainer; see there for the arguments.

    Attributes:
        search_id: The id of the search's run; the same when its study is gone on with.
        study: Optuna's.
        objective: What the trial's newest evaluation gives; None before one.
        is_pruned: Whether the trial is to end because others were better by then.

    Raises:
        SearchError, ArgumentError, MissingExtra: what was asked for can't be done.
    """

    def __init__(  # noqa: PLR0913 -- what can be said about a search
        self,
        trainer: SearchHooks,
        hp_space: Callable[[Any], Any] | None = None,
        compute_objective: Callable[[dict[str, float]], Any] | None = None,
        direction: Any = "minimize",
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_backend(backend)
        check_trainer(trainer)
        self.trainer = trainer
        self.directions: list[Any] = read_directions(direction)
        self._of_study, self._of_optimize = divide(options or {})
        self._hp_space = hp_space or default_hp_space_optuna
        self._compute_objective = compute_objective or default_compute_objective
        self._hp_name = hp_name
        self._output_dir = trainer.args.output_dir
        self._shelf = Shelf(trainer)
        self._signals = SignalWatch(is_on=trainer.args.signal_action != "off")
        self.study: Any = None
        self.search_id: str = ""
        self.objective: Any = None
        self.is_pruned: bool = False
        self._trial: Any = None
        self._name = ""
        self._last_reported: int | None = None
        self._is_cut = False

    # The search

    def run(self, n_trials: int | None) -> BestRun | list[BestRun]:
        """Make the trials, and return the best of the study.

        Raises:
            SearchError: no trial of the study was completed.
            Preempted: a signal came, and `signal_action` is "exit".
        """
        with _quiet_optuna():
            return self._run(n_trials)

    def _run(self, n_trials: int | None) -> BestRun | list[BestRun]:
        self._open_study()
        trainer = self.trainer
        report = SearchReport(self, self._output_dir)
        callbacks = [report.note_trial, self._stop_at_signal, *(self._of_optimize.pop("callbacks", None) or ())]
        trainer.search = self
        try:
            with self._signals, report, self._shelf:
                try:
                    self.study.optimize(self._try, n_trials=n_trials, callbacks=callbacks, **self._of_optimize)
                except _Left:
                    report.note_left(self._signals.received)
                self._leave_at_signal()
                report.show_all()
        finally:
            trainer.search = trainer.trial = None
        return self.best()

    def _open_study(self) -> None:
        import optuna

        Path(self._output_dir).mkdir(parents=True, exist_ok=True)  # where a storage may well be
        self.study = optuna.create_study(directions=self.directions, **self._of_study)
        found = [direction.name.lower() for direction in self.study.directions]
        if found != self.directions:
            raise ArgumentError(f"direction={self.directions}: the study {self.study.study_name!r} has {found}")
        attributes = self.study.user_attrs.get(ATTRIBUTE)
        if attributes is None:
            attributes = {"search_id": uuid.uuid4().hex, "began": time.time()}
            self.study.set_user_attr(ATTRIBUTE, attributes)
        self.search_id, self.began = attributes["search_id"], attributes["began"]
        fail_killed_trials(self.study)

    def best(self) -> BestRun | list[BestRun]:
        """Return the study's best trial, or those that no other one is better than in everything.

        Raises:
            SearchError: none was completed.
        """
        if len(self.directions) > 1:
            found = [BestRun(str(trial.number), trial.values, trial.params) for trial in self.study.best_trials]
            if found:
                return found
        elif (trial := self.best_trial()) is not None:
            return BestRun(str(trial.number), trial.value, trial.params)
        raise SearchError(f"no trial of the study {self.study.study_name!r} was completed: all failed or were pruned")

    def best_trial(self) -> Any:
        """Return the best trial of a single objective, None before one was completed."""
        try:
            return self.study.best_trial
        except ValueError:  # Optuna's way of saying that there is none
            return None

    def name_of(self, trial: Any) -> str:
        """Return the name of the trial under way."""
        return self._name

    def _stop_at_signal(self, study: Any, trial: Any) -> None:
        if self._signals.received is not None:
            study.stop()

    def _leave_where_asked(self) -> None:
        """Give the trial up where a signal has come that no training has seen."""
        if self._signals.received is not None:
            raise _Left

    def _leave_at_signal(self) -> None:
        signal = self._signals.received
        if signal is not None and self.trainer.args.signal_action == "exit":
            raise Preempted(signal.value, signal.name, self.trainer.state.global_step)

    # One trial

    def _try(self, trial: Any) -> Any:
        """Return the objective of a trial; what Optuna calls."""
        import optuna

        try:
            return self._train(trial)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            error.add_note(f"in trial {trial.number} of the search, with {trial.params}")
            raise
        except KeyboardInterrupt:
            raise
        except BaseException:
            # Optuna catches no such thing, and would hold the trial for running for ever.
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise

    def _train(self, trial: Any) -> Any:
        import optuna

        trainer = self.trainer
        self._trial, self.objective, self.is_pruned, self._last_reported = trial, None, False, None
        self._shelf.begin_trial()
        set_parameters(trainer.args, self._hp_space(trial))
        self._shelf.make_precision()
        self._name = choose_name(trial, self._hp_name)
        directory = Path(self._output_dir) / self._name
        lock = claim(trial, directory, self._name)
        try:
            self._place_files(directory)
            self._leave_where_asked()
            trainer.train(trial=trial)
            if trainer.training_loop is not None and trainer.training_loop.is_paused:
                raise _Left
            if self._is_cut:
                self._leave_where_asked()
            if self.is_pruned:
                raise optuna.TrialPruned(f"at step {trainer.state.global_step}")
            if self.objective is None:
                self.objective = self._measure(trainer.evaluate())
            return self.objective
        finally:
            self._shelf.end_trial()
            lock.release()

    def _place_files(self, directory: Path) -> None:
        args = self.trainer.args
        args.output_dir = str(directory)
        if args.logging_dir is None and read_text("TENSORBOARD_LOGGING_DIR") is None:
            # All trials below one directory, as TensorBoard compares them: it puts each into one of its own in there.
            moment = time.strftime("%b%d_%H-%M-%S", time.localtime(self.began))
            args.logging_dir = os.path.join(self._output_dir, "runs", f"{moment}_{platform.node()}")  # noqa: PTH118

    def judge(self, metrics: Mapping[str, float]) -> None:
        """Take what an evaluation inside the training measured; stop it where the pruner says so."""
        self.objective = self._measure(metrics)
        if self._signals.received is not None:  # before the training could see it, such as in model_init
            self._is_cut = self.trainer.control.should_training_stop = True
            return
        if len(self.directions) > 1:
            return  # Optuna prunes by one objective only
        trainer, trial = self.trainer, self._trial
        step = trainer.state.global_step
        if step != self._last_reported:
            trial.report(self.objective, step)
            self._last_reported = step
        if trial.should_prune():
            self.is_pruned = trainer.control.should_training_stop = True
            pruner = type(self.study.pruner).__name__
            decision = Decision(step, pruner, "on_evaluate", "should_training_stop", True)
            trainer.callback_handler.decisions.append(decision)
            trainer.reporting.decide(decision)

    def _measure(self, metrics: Mapping[str, float]) -> Any:
        found = self._compute_objective(dict(metrics))
        values = list(found) if isinstance(found, (list, tuple)) else [found]
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            raise ArgumentError(f"compute_objective returned {found!r}: expected numbers") from None
        if len(numbers) != len(self.directions):
            raise ArgumentError(
                f"compute_objective returned {found!r}: expected {len(self.directions)} number(s), one a direction"
            )
        return numbers[0] if len(numbers) == 1 else numbers
