"""Describe a run as trackers show it: its parameters, without secrets, and the variables that say where it goes."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loopwright._support.env import read_all
from loopwright.arguments.masking import is_secret
from loopwright.journal.values import decode, encode
from loopwright.records import Run

_RECORDED_PACKAGES = ("loopwright", "torch", "numpy", "transformers")


def describe_run(owner: Any, *, began: float | None, parent: tuple[str, int | None] | None) -> Run:
    """Return the run of a Trainer, from its arguments, state and model.

    Arguments:
        owner: The Trainer.
        began: When its first attempt began, in seconds since 1970; None for now.
        parent: Run and step that it branched off; by default a trial's search.
    """
    args, state = owner.args, owner.state
    arguments = decode(encode(args.to_dict())[0])
    trial = state.trial_params if state.is_hyper_param_search else None
    if parent is None and (search := getattr(getattr(owner, "trial", None), "search_id", None)) is not None:
        parent = (search, None)
    return Run(
        id=owner.run_id,
        output_dir=str(Path(args.output_dir).resolve()),
        name=args.run_name,
        project=getattr(args, "project", None),
        created_at=time.time() if began is None else began,
        arguments=arguments,
        parameters=_parameters(owner.model, arguments, trial),
        parent_id=parent[0] if parent else None,
        parent_step=parent[1] if parent else None,
        trial_name=state.trial_name if state.is_hyper_param_search else None,
        trial_parameters=trial,
    )


def origin(run: Run, prefix: str = "loopwright/") -> dict[str, Any]:
    """Return what ties a service's run to ours, by name: its id, and where it branched off, if it did."""
    own = {"run_id": run.id, "parent_run_id": run.parent_id, "parent_step": run.parent_step}
    return {f"{prefix}{name}": value for name, value in own.items() if value is not None}


def recorded_variables(names: Iterable[str]) -> dict[str, str]:
    """Return those of the environment variables that are set and hold no secret."""
    return {
        name: text
        for name, text in read_all(names).items()
        if not is_secret(name.lower()) and not _holds_password(text)
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, those that are loaded."""
    found = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        if name in sys.modules:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:  # run from its sources
                found[name] = "unknown"
    return found


def _parameters(model: Any, arguments: Mapping[str, Any], trial: Mapping[str, Any] | None) -> dict[str, Any]:
    described: dict[str, Any] = {}
    config = getattr(model, "config", None)
    if isinstance(config, Mapping):
        described.update(config)
    elif config is not None and hasattr(config, "to_dict"):
        described.update(config.to_dict())
    if (adapters := getattr(model, "peft_config", None)) is not None:
        described["peft_config"] = {name: str(value) for name, value in dict(adapters).items()}
    open_ones = {str(name): value for name, value in described.items() if not is_secret(str(name).lower())}
    # Those of the arguments that are secret are masked already.
    return {**open_ones, **arguments, **(trial or {})}


def _holds_password(text: str) -> bool:
    _, _, rest = text.partition("://")
    return "@" in rest.split("/")[0]
