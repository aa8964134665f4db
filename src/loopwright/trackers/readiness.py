"""Say of a tracker whether it could report from here: its SDK, its version, what switches it off, its credentials.

No SDK is imported, no network asked, nobody prompted, and no secret read further than to see that it is there. So it is
a forecast: what the SDK's own configuration files say besides is known only when a training begins.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright._support.env import read_text
from loopwright.errors import LoopwrightError, describe
from loopwright.trackers import neptune_choices
from loopwright.trackers.registry import Listed

_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^\]]*\])?\s*([^;]*);.*extra == ['\"]([\w.-]+)['\"]")
_CONDITION = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([\d.]+)")


@dataclass(frozen=True, slots=True)
class Package:
    """A package that a tracker's extra names.

    Attributes:
        name: The distribution.
        version: What is installed; None where it isn't.
        wanted: The range of versions that Loopwright was written for, such as ">=2.1,<2.2".
    """

    name: str
    version: str | None
    wanted: str

    @property
    def fits(self) -> bool:
        """Whether the installed version lies in the range."""
        return self.version is not None and all(
            _holds(self.version, sign, bound) for sign, bound in _CONDITION.findall(self.wanted)
        )


@dataclass(frozen=True, slots=True)
class Credential:
    """Where a tracker looks for its credentials.

    Attributes:
        source: The variables' names, or the file.
        is_present: Whether there is something.
    """

    source: str
    is_present: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """What can be said of a tracker before a training.

    Attributes:
        name: As `report_to` takes it.
        state: "ready", "off" (it is installed, and something says that it reports nothing), "misconfigured" (a variable
            can't be understood), or "not installed".
        reason: Why it isn't ready, or None.
        goes: Where its numbers would go: "server", "offline" (files that are sent later), "files", or None.
        packages: What its extra names.
        credentials: Where it looks for them; empty where it needs none.
    """

    name: str
    state: str
    reason: str | None
    goes: str | None
    packages: tuple[Package, ...]
    credentials: tuple[Credential, ...]


def examine(tracker: Listed) -> Readiness:
    """Return what can be said of `tracker` here."""
    packages, credentials = _packages(tracker.name), _credentials(tracker.name)
    if not tracker.is_usable:
        pip = f'pip install "loopwright[{tracker.name}]"'
        return Readiness(tracker.name, "not installed", pip, None, packages, credentials)
    try:
        reason = tracker.load()().why_off()
        goes = _destination(tracker.name, any(one.is_present for one in credentials)) if reason is None else None
    except LoopwrightError as error:
        return Readiness(tracker.name, "misconfigured", str(error), None, packages, credentials)
    except Exception as error:  # a tracker of somebody else's
        return Readiness(tracker.name, "misconfigured", describe(error), None, packages, credentials)
    return Readiness(tracker.name, "ready" if reason is None else "off", reason, goes, packages, credentials)


# Packages


def _packages(name: str) -> tuple[Package, ...]:
    """Return what Loopwright's metadata says that the extra `name` needs."""
    found = (_REQUIREMENT.match(line) for line in importlib.metadata.requires("loopwright") or ())
    wanted = {match[1]: match[2].strip(" ()") for match in found if match and match[3].replace("-", "_") == name}
    return tuple(Package(package, _version(package), limits) for package, limits in wanted.items())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _holds(version: str, sign: str, bound: str) -> bool:
    left, right = _release(version), _release(bound)
    length = max(len(left), len(right))
    left, right = left + (0,) * (length - len(left)), right + (0,) * (length - len(right))
    holds = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}
    return holds.get(sign, left == right if sign == "==" else True)


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


# Credentials


@dataclass(frozen=True, slots=True)
class _Login:
    """A file in which a tool keeps credentials: where, the variable that moves it, a word that has to be in it."""

    path: str
    variable: str | None = None
    inside: str = ""
    word: Callable[[], str] = lambda: ""


def _wandb_host() -> str:
    return (read_text("WANDB_BASE_URL") or "https://api.wandb.ai").split("://")[-1].strip("/")


_BY_VARIABLES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "azure_ml": (("AZUREML_RUN_TOKEN",), ("MLFLOW_TRACKING_TOKEN",)),
    "clearml": (("CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY"), ("CLEARML_AUTH_TOKEN",)),
    "comet_ml": (("COMET_API_KEY",),),
    "dagshub": (("DAGSHUB_USER_TOKEN",), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")),
    "mlflow": (("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), ("MLFLOW_TRACKING_TOKEN",)),
    "neptune": (("NEPTUNE_API_TOKEN",),),
    "swanlab": (("SWANLAB_API_KEY",),),
    "trackio": (("TRACKIO_WRITE_TOKEN",), ("HF_TOKEN",)),
    "wandb": (("WANDB_API_KEY",),),
}
_BY_LOGIN: Mapping[str, tuple[_Login, ...]] = {
    "clearml": (_Login("~/clearml.conf", "CLEARML_CONFIG_FILE", "access_key"),),
    "comet_ml": (_Login("~/.comet.config", None, "api_key"), _Login(".comet.config", None, "api_key")),
    "dagshub": (_Login("~/.cache/dagshub/tokens", "DAGSHUB_CLIENT_TOKENS_CACHE", "token"),),
    "mlflow": (_Login("~/.mlflow/credentials", None, "mlflow_tracking"),),
    "swanlab": (_Login("~/.swanlab/.netrc", None, "machine"), _Login(".swanlab/.netrc", None, "machine")),
    "trackio": (_Login("~/.cache/huggingface/token", "HF_TOKEN_PATH"),),
    "wandb": (_Login("~/.netrc", "NETRC", word=_wandb_host), _Login("~/_netrc", word=_wandb_host)),
}


def _credentials(name: str) -> tuple[Credential, ...]:
    by_variables = [
        Credential(" and ".join(names), all(read_text(one) is not None for one in names))
        for names in _BY_VARIABLES.get(name, ())
    ]
    return tuple(by_variables) + tuple(_look(login) for login in _BY_LOGIN.get(name, ()))


def _look(login: _Login) -> Credential:
    moved = read_text(login.variable) if login.variable else None
    path = Path(moved or login.path)
    try:
        content = path.expanduser().read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):  # there is none, or no home
        return Credential(str(path), False)
    return Credential(str(path), bool(content.strip()) and (login.inside or login.word()) in content)


# Where the numbers would go

_FILES = frozenset({"codecarbon", "dvclive", "tensorboard"})
_MODES: Mapping[str, Mapping[str, str]] = {
    "comet_ml": {"1": "server", "true": "server", "0": "offline", "false": "offline"},
    "clearml": {"1": "offline", "true": "offline", "0": "server", "false": "server"},
    "neptune": {"async": "server", "sync": "server", "offline": "offline"},
    "swanlab": {"cloud": "server", "online": "server", "local": "files", "offline": "offline"},
    "wandb": {"online": "server", "shared": "server", "run": "server", "offline": "offline", "dryrun": "offline"},
}
_MLFLOWS_FILES = ("/", ".", "file:", "sqlite:")
_MODE_VARIABLES = {
    "comet_ml": "COMET_START_ONLINE",
    "clearml": "CLEARML_OFFLINE_MODE",
    "neptune": "NEPTUNE_MODE",
    "swanlab": "SWANLAB_MODE",
    "wandb": "WANDB_MODE",
}


def _destination(name: str, has_credentials: bool) -> str | None:
    if name in _FILES:
        return "files"
    if name == "mlflow":
        return "files" if (read_text("MLFLOW_TRACKING_URI") or "file:").startswith(_MLFLOWS_FILES) else "server"
    if name == "trackio":
        has_place = read_text("TRACKIO_SPACE_ID") or read_text("TRACKIO_SERVER_URL")
        return "server" if has_place and has_credentials else "files"
    if name not in _MODES:
        return "server"
    if name == "neptune":
        has_credentials = (
            neptune_choices.why_offline(read_text("NEPTUNE_API_TOKEN"), read_text("NEPTUNE_PROJECT")) is None
        )
    asked = (read_text(_MODE_VARIABLES[name]) or "").strip().lower()
    return _MODES[name].get(asked, "server" if has_credentials else "offline")


def as_dict(readiness: Readiness) -> dict[str, Any]:
    """Return it JSON-able."""
    return {
        "name": readiness.name,
        "state": readiness.state,
        "reason": readiness.reason,
        "goes": readiness.goes,
        "packages": [
            {"name": one.name, "version": one.version, "wanted": one.wanted, "fits": one.fits}
            for one in readiness.packages
        ],
        "credentials": [{"source": one.source, "is_present": one.is_present} for one in readiness.credentials],
    }
