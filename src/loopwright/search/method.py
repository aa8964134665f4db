"""`Trainer.hyperparameter_search`, with transformers' signature: the part of the Trainer that belongs to this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.outputs import BestRun
    from loopwright.records import Trial
    from loopwright.search.hooks import SearchHooks


class Searching:
    """The Trainer's side of a hyper-parameter search.

    Attributes:
        trial: The trial that the training under way, or the last one, is of; None for a training that is no trial.
        search: The search under way, or None.
    """

    trial: Trial | None = None
    search: Any = None

    def hyperparameter_search(  # noqa: PLR0913 -- transformers' signature
        self: SearchHooks,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], Any] | None = None,
        n_trials: int | None = 20,
        direction: str | list[str] = "minimize",
        backend: str | None = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """Train again and again with what Optuna suggests, each time a run of its own, and return the best trial.

        Arguments:
            hp_space: `optuna.Trial -> dict` of arguments by name; by default `default_hp_space_optuna`.
            compute_objective: `metrics -> number` (or one for each direction); by default `default_compute_objective`.
            n_trials: How many trials this call makes, as Optuna counts them.
            direction: "minimize" or "maximize", or a list of them.
            backend: "optuna", or None.
            hp_name: `optuna.Trial -> name` of the trial and its folder, instead of `run-<number>`.
            **kwargs: For `optuna.create_study` and `Study.optimize`.

        Raises:
            SearchError: there is no `model_init`, or no trial was completed.
        """
        from loopwright.search.study import HyperparameterSearch

        search = HyperparameterSearch(self, hp_space, compute_objective, direction, backend, hp_name, kwargs)
        return search.run(n_trials)
