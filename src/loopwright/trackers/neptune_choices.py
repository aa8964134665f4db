"""Choose how a Neptune run is opened: from the constructor, environment variables, and what was remembered of it."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loopwright._support.env import read_text
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import ArgumentError, TrackerError
from loopwright.records import Run

logger: Logger = get_logger(__name__)

# Returns an environment variable, or None.
Variable = Callable[[str], str | None]

VARIABLES = ("NEPTUNE_CUSTOM_RUN_ID", "NEPTUNE_DATA_DIRECTORY", "NEPTUNE_MODE", "NEPTUNE_PROJECT")
MODES = ("async", "sync", "offline", "debug", "read-only")
WHICH_CHECKPOINTS = ("same", "last", "best")
OF_THE_TRAINING = ("capture_stdout", "capture_stderr", "capture_hardware_metrics", "capture_traceback")
_HOSTED = "neptune.ai"
_ANONYMOUS = "ANONYMOUS"
# Those of `neptune.init_run` in the SDK's last version, but for what has a name in the constructor.
_KNOWN_OPTIONS = frozenset(
    {
        *OF_THE_TRAINING,
        *("async_lag_callback", "async_lag_threshold", "async_no_progress_callback", "async_no_progress_threshold"),
        *("custom_run_id", "dependencies", "description", "fail_on_exception", "flush_period", "git_ref", "mode"),
        *("monitoring_namespace", "proxies", "source_files", "tags", "with_id"),
    }
)


class NeptuneMissingConfiguration(TrackerError):
    """The run is to be sent, and Neptune's token or project is missing."""


def check_arguments(texts: Mapping[str, Any], log_parameters: Any, log_checkpoints: Any, given: Any) -> None:
    """Check the constructor's arguments.

    Raises:
        ArgumentError: one of them can't be; the message says which, and what can.
    """
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise ArgumentError(f"{name}={text!r}: expected a text")
    if not isinstance(log_parameters, bool):
        raise ArgumentError(f"log_parameters={log_parameters!r}: expected True or False")
    if log_checkpoints is not None and log_checkpoints not in WHICH_CHECKPOINTS:
        raise ArgumentError(f"log_checkpoints={log_checkpoints!r}: expected None, 'same', 'last' or 'best'")
    sdk = sys.modules.get("neptune")
    if given is not None and (sdk is None or not isinstance(given, sdk.Run)):
        raise ArgumentError(f"run={given!r}: expected a run of Neptune's, as neptune.init_run() returns")


def check_options(options: Mapping[str, Any]) -> None:
    """Check what is to be handed to `neptune.init_run`.

    Raises:
        ArgumentError: it doesn't know a name, or there is no such mode.
    """
    if unknown := options.keys() - _KNOWN_OPTIONS:
        raise ArgumentError(
            f"{sorted(unknown)[0]}: neither NeptuneCallback nor neptune.init_run() has such an argument; "
            f"the latter's are {', '.join(sorted(_KNOWN_OPTIONS))}"
        )
    if options.get("mode") is not None and options["mode"] not in MODES:
        raise ArgumentError(f"mode={options['mode']!r}: expected one of {', '.join(MODES)}")


def asked_mode(options: Mapping[str, Any], variable: Variable) -> str | None:
    """Return the mode that was asked for, or None."""
    if options.get("mode") is not None:
        return str(options["mode"])
    text = variable("NEPTUNE_MODE")
    if text is None or text in MODES:
        return text
    expected = f"expected one of {', '.join(MODES)}; it counts as not set"
    warn_once(logger, f"environment variable NEPTUNE_MODE={text!r}: {expected}")
    return None


def why_offline(token: str | None, project: str | None) -> str | None:
    """Return why a run can't be sent, of which nobody has said whether it is to be; None where it can."""
    if token is None:
        return "NEPTUNE_API_TOKEN is not set"
    if is_hosted(address_of(token)):
        return f"NEPTUNE_API_TOKEN is one for {address_of(token)}"
    return None if project else "NEPTUNE_PROJECT is not set"


def require_configuration(token: str | None, project: str | None) -> str:
    """Return the token.

    Raises:
        NeptuneMissingConfiguration: there is none, or no project.
    """
    missing = [name for name, text in {"NEPTUNE_API_TOKEN": token, "NEPTUNE_PROJECT": project}.items() if not text]
    if token is None or missing:
        raise NeptuneMissingConfiguration(
            f"the run is to be sent to Neptune, and {' and '.join(missing)} is not set; "
            "NEPTUNE_MODE=offline keeps a run on the disk"
        )
    return token


def own_token(given: str | None) -> str | None:
    """Return the token of the constructor, or of the environment, which is never recorded."""
    return given or read_text("NEPTUNE_API_TOKEN")


def address_of(token: str) -> str:
    """Return the address that a token holds.

    Raises:
        TrackerError: it holds none.
    """
    if token.strip() == _ANONYMOUS:
        return f"https://app.{_HOSTED}"
    try:
        content = json.loads(base64.b64decode(token.strip().encode()))
        address = content.get("api_url") or content["api_address"]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise TrackerError("NEPTUNE_API_TOKEN is not a token of Neptune's: it holds no address") from None
    return str(address) if "://" in str(address) else f"https://{address}"


def is_hosted(address: str) -> bool:
    """Return whether it is one of Neptune's own service."""
    host = urlsplit(address).hostname or ""
    return host == _HOSTED or host.endswith(f".{_HOSTED}")


def choose_directory(run: Run, variable: Variable, before: str | None) -> Path:
    """Return the absolute directory in which what isn't sent is kept; the same as before."""
    wanted = before or variable("NEPTUNE_DATA_DIRECTORY") or f"{run.output_dir}/.neptune"
    return Path(wanted).expanduser().absolute()


def choose_id(run: Run, suffix: str) -> str:
    """Return a name for the run that is the same in all of its sessions; of two trackers' each has its own.

    Arguments:
        run: The run.
        suffix: What tells the tracker from the first of its kind.
    """
    return f"{run.id}-{suffix}"[:36] if suffix else run.id


def choose_custom_id(run: Run, own_id: str, asked: str | None) -> str:
    """Return the id by which a server finds the run again."""
    if asked is None or asked == own_id:
        return own_id
    if run.parent_id is None and run.trial_name is None:
        return asked
    logger.warning("neptune: the custom run id %s is another run's: this branch or trial has its own", asked)
    return own_id


def recordable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those that the journal can keep: a proxy's address may hold a password."""
    return {name: value for name, value in options.items() if name != "proxies" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
