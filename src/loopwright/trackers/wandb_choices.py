"""Choose how a W&B run is opened: from environment variables, the run, and what was remembered of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loopwright._support.env import parse_flag
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError, describe
from loopwright.records import Run
from loopwright.trackers.description import origin
from loopwright.trackers.presence import training_beside

logger: Logger = get_logger(__name__)

# Returns an environment variable, or None.
Variable = Callable[[str], str | None]

VARIABLES = (
    "WANDB_BASE_URL",
    "WANDB_DIR",
    "WANDB_ENTITY",
    "WANDB_JOB_TYPE",
    "WANDB_LOG_MODEL",
    "WANDB_MODE",
    "WANDB_NAME",
    "WANDB_NOTES",
    "WANDB_PROJECT",
    "WANDB_RESUME",
    "WANDB_RUN_GROUP",
    "WANDB_RUN_ID",
    "WANDB_TAGS",
)

_INIT_SECONDS = 20.0
_LONGEST_NAME = 128
_WHEN_TO_STORE = ("end", "checkpoint", "false")
_WHAT_TO_WATCH = ("gradients", "parameters", "all")


def when_to_store(variable: Variable) -> str:
    """Return what WANDB_LOG_MODEL says: "end", "checkpoint" or "false"."""
    text = (variable("WANDB_LOG_MODEL") or "false").strip().lower()
    if text in _WHEN_TO_STORE:
        return text
    said = f"environment variable WANDB_LOG_MODEL={text!r}"
    try:
        word = "end" if parse_flag("WANDB_LOG_MODEL", text) else "false"
    except ValueError:
        warn_once(logger, f"{said}: expected one of {', '.join(_WHEN_TO_STORE)}; no model is stored")
        return "false"
    warn_once(logger, f'{said}: yes and no are deprecated, say "{word}"')
    return word


def what_to_watch(variable: Variable) -> str | None:
    """Return what WANDB_WATCH says: "gradients", "parameters", "all", or None."""
    text = (variable("WANDB_WATCH") or "false").strip().lower()
    if text in _WHAT_TO_WATCH:
        return text
    if text not in {"false", "0", "no", "off", "none"}:
        warn_once(logger, f"environment variable WANDB_WATCH={text!r}: expected {', '.join(_WHAT_TO_WATCH)} or false")
    return None


def choose_mode(wandb: Any, variable: Variable, before: str | None) -> str:
    """Return "online", "offline", "disabled" or "shared"; nothing ever asks for a key.

    Arguments:
        wandb: The SDK.
        variable: Reads the environment.
        before: The run's mode when it was opened last.

    Raises:
        TrackerError: it is to be online, and there are no credentials.
    """
    asked = variable("WANDB_MODE")
    if asked is None and before == "offline":
        return before  # the rest of the run shall be where its beginning is
    settings = wandb.setup().settings
    mode = {"dryrun": "offline", "run": "online"}.get(asked or settings.mode, asked or settings.mode)
    address = variable("WANDB_BASE_URL") or settings.base_url
    if mode not in {"online", "shared"} or _has_credentials(settings, address):
        return str(mode)
    if asked is not None:
        raise TrackerError(f"WANDB_MODE={asked}, and there is no API key for {address}: run `wandb login`")
    warn_once(
        logger,
        f"wandb: no API key for {address}, so the run is offline (run `wandb login` before the next one, "
        "and `wandb sync` for this one)",
    )
    return "offline"


def _has_credentials(settings: Any, address: str) -> bool:
    """Ask the SDK whether it has credentials, without network and without a prompt."""
    try:
        from wandb.sdk.lib import wbauth

        found = wbauth.authenticate_session(host=address, source="loopwright", prompt=False, update_session=False)
    except (ImportError, AttributeError, TypeError):  # an older SDK
        from wandb.sdk.lib import apikey  # type: ignore[attr-defined]

        found = apikey.api_key(settings)
    except Exception as error:  # a key that can't be one, say
        raise TrackerError(f"W&B's credentials for {address}: {describe(error)}") from error
    return bool(found)


def choose_directory(run: Run, variable: Variable, before: str | None) -> Path:
    """Return the absolute directory in which W&B makes its "wandb"; the same as before."""
    wanted = Path(before or variable("WANDB_DIR") or Path.cwd()).expanduser().absolute()
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK | os.R_OK | os.X_OK):
            return wanted
    except OSError as error:
        logger.debug("wandb: %s", error)
    # The SDK itself would turn to /tmp, and say nothing.
    warn_once(logger, f"wandb: {wanted} can't be written, so its files go to {run.output_dir}")
    return Path(run.output_dir)


def choose_id(run: Run, variable: Variable, before: str | None) -> str:
    """Return W&B's id of the run; made of its own, so that a crash on the way makes no second one."""
    if before is not None:
        return before
    wanted = variable("WANDB_RUN_ID")
    if wanted is None:
        return run.id
    if run.parent_id is None and run.trial_name is None:
        return wanted
    logger.warning("wandb: WANDB_RUN_ID=%s is another run's: this branch or trial has an id of its own", wanted)
    return run.id


def describe_run(run: Run, variable: Variable) -> dict[str, Any]:
    """Return the part of `wandb.init`'s arguments that says what the run is."""
    is_trial = run.trial_name is not None
    group = variable("WANDB_RUN_GROUP")
    if is_trial:
        group = group or run.search_name
    tags = [tag.strip() for tag in (variable("WANDB_TAGS") or "").split(",") if tag.strip()]
    return {
        "project": variable("WANDB_PROJECT") or run.project or "huggingface",
        "entity": variable("WANDB_ENTITY"),
        "name": _cut(run.trial_name or run.name or variable("WANDB_NAME")),
        "group": _cut(group),
        "job_type": variable("WANDB_JOB_TYPE") or ("trial" if is_trial else None),
        "notes": variable("WANDB_NOTES"),
        "tags": tags or None,
        "config": {**run.parameters, **origin(run)},
    }


def _cut(name: str | None) -> str | None:
    return None if name is None else name[:_LONGEST_NAME]


def choose_settings(wandb: Any, run: Run, variable: Variable, *, is_in_training: bool, end_seconds: float) -> Any:
    """Return the SDK's settings: quiet, and never waiting for long.

    Arguments:
        wandb: The SDK.
        run: The run.
        variable: Reads the environment.
        is_in_training: Whether this is the training process.
        end_seconds: How long the run's end may take.
    """
    chosen: dict[str, Any] = {
        "console": "off",
        "finish_timeout": end_seconds,
        "finish_timeout_raises": True,
        "init_timeout": _INIT_SECONDS,
        "save_code": False,
        "silent": True,
    }
    if (address := variable("WANDB_BASE_URL")) is not None:
        chosen["base_url"] = address
    if not is_in_training:
        chosen |= _about_machine(run)
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in chosen.items() if name in known})


def _about_machine(run: Run) -> dict[str, Any]:
    """Let W&B watch the training process, where this one runs beside it; else watch nothing, and keep git out."""
    training = training_beside(run)
    if training is not None:
        return {"x_stats_pid": training}
    return {
        "disable_git": True,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
    }


def choose_resume(variable: Variable, *, is_known: bool) -> str:
    """Return `wandb.init`'s `resume`: what WANDB_RESUME says for the first opening, then "allow"."""
    wanted = (variable("WANDB_RESUME") or "allow").strip().lower()
    return wanted if wanted in {"must", "never"} and not is_known else "allow"


def known_to_sdk(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that are None."""
    return {name: value for name, value in arguments.items() if value is not None}
