"""The names that people import, and that each says what it is."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import loopwright

PUBLIC_NAMES = {
    "DEFAULT_CALLBACKS",
    "DEFAULT_PROGRESS_CALLBACK",
    "PREFIX_CHECKPOINT_DIR",
    "TRAINER_STATE_NAME",
    "BestRun",
    "CallbackHandler",
    "DefaultFlowCallback",
    "EarlyStoppingCallback",
    "EvalLoopOutput",
    "EvalPrediction",
    "Event",
    "ExportableState",
    "IntervalStrategy",
    "LoopwrightError",
    "OptimizerNames",
    "PredictionOutput",
    "Preempted",
    "PrinterCallback",
    "ProgressCallback",
    "SaveStrategy",
    "SchedulerType",
    "TimeBudgetCallback",
    "TimedSaveCallback",
    "TrainOutput",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "__version__",
    "default_compute_objective",
    "default_data_collator",
    "default_hp_space_optuna",
    "enable_full_determinism",
    "gather_scalars",
    "get_last_checkpoint",
    "get_scheduler",
    "set_seed",
}
PUBLIC_OBJECTS = sorted(name for name in PUBLIC_NAMES if callable(getattr(loopwright, name)))


def test_public_names_are_these_and_no_others() -> None:
    assert set(loopwright.__all__) == PUBLIC_NAMES
    assert len(loopwright.__all__) == len(PUBLIC_NAMES)


def test_every_public_name_is_there_and_listed() -> None:
    assert all(hasattr(loopwright, name) for name in PUBLIC_NAMES)
    assert set(dir(loopwright)) >= PUBLIC_NAMES


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainor'"):
        loopwright.Trainor  # noqa: B018 -- looking it up is the test


def test_type_checkers_read_the_names_from_where_the_interpreter_loads_them() -> None:
    tree = ast.parse(Path(loopwright.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    written = {
        alias.asname or alias.name: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert written == {name: f"loopwright.{module}" for name, module in loopwright._HOME.items()}


def test_package_says_that_it_is_typed() -> None:
    assert Path(loopwright.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("name", PUBLIC_OBJECTS)
def test_public_object_has_a_docstring_of_its_own(name: str) -> None:
    thing = getattr(loopwright, name)
    inherited = {inspect.getdoc(base) for base in getattr(thing, "__mro__", ())[1:]}
    text = inspect.getdoc(thing)
    assert text, f"{name} has no docstring"
    assert text not in inherited
    assert not text.startswith(f"{name}("), f"{name} has only the docstring that dataclass or NamedTuple made"


@pytest.mark.parametrize("name", [name for name in PUBLIC_OBJECTS if inspect.isclass(getattr(loopwright, name))])
def test_public_methods_have_docstrings(name: str) -> None:
    kind = getattr(loopwright, name)
    ours = [base for base in kind.__mro__ if base.__module__.startswith("loopwright")]
    bare = [
        f"{base.__name__}.{method}"
        for base in ours
        for method, value in vars(base).items()
        if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, property | classmethod))
        if not inspect.getdoc(value)
    ]
    assert bare == []
