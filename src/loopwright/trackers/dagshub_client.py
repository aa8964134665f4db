"""Talk to DagsHub through its client: never asking for a login, within set times, and without a word on the terminal.

The client asks in a browser where it knows no token, waits without end while it uploads, and draws progress bars: so it
is given the token, the times and the quiet.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from loopwright._support.env import read_text, set_variables
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError, describe

logger: Logger = get_logger(__name__)

DEFAULT_HOST = "https://dagshub.com"
_TRACKING_PATH = re.compile(r"/(?P<owner>[^/]+)/(?P<name>[^/]+)\.mlflow/?$")
_PORTS = {"https": 443, "http": 80}
# For a question, and for an upload: its answer comes when the files are committed. In httpx's words.
_ASKING = {"connect": 5.0, "read": 15.0, "write": 15.0, "pool": 5.0}
_UPLOADING = {"connect": 5.0, "read": 600.0, "write": 60.0, "pool": 5.0}


class Repository(NamedTuple):
    """A repository on DagsHub, and a branch of it; `host` is an address without a slash at its end."""

    host: str
    owner: str
    name: str
    branch: str = "main"

    def __str__(self) -> str:
        return f"{self.host}/{self.owner}/{self.name}@{self.branch}"


def find_repository(tracking_uri: str, host: str) -> Repository | None:
    """Return the repository whose MLflow is at `tracking_uri`; None where that isn't at the DagsHub at `host`."""
    named = _TRACKING_PATH.search(tracking_uri)
    origin = _origin(tracking_uri)
    if named is None or origin is None or origin != _origin(host):
        return None
    return Repository(host.rstrip("/"), named["owner"], named["name"])


def _origin(address: str) -> tuple[str, str, int] | None:
    try:
        place = urlsplit(address)
        port = place.port or _PORTS[place.scheme]
    except (ValueError, KeyError):  # no address, or none of the web
        return None
    return (place.scheme, place.hostname, port) if place.hostname else None


# Who we are


def known_token(host: str) -> str | None:
    """Return the token for the DagsHub at `host` that is known without network and without asking, or None."""
    token = read_text("DAGSHUB_USER_TOKEN")
    if token is not None:
        return token
    from dagshub.auth.tokens import TokenStorage

    storage = TokenStorage(read_text("DAGSHUB_CLIENT_TOKENS_CACHE"))
    try:
        # What is public tries tokens on the server, throws some away, and opens a browser to get another.
        found = [token for token in storage._load_cache_file().get(host, []) if not token.is_expired]
    except Exception as error:  # a file that it can't read, and says so in the log
        warn_once(logger, f"dagshub: the tokens in {storage.cache_location} can't be read: {describe(error)}")
        return None
    return min(found, key=lambda token: token.priority).token_text if found else None


def give_mlflow_credentials(tracking_uri: str, host: str) -> None:
    """Set MLflow's variables for this process to the known token, where MLflow has nothing to identify itself with.

    Raises:
        TrackerError: no token is known either.
    """
    from mlflow.utils.credentials import get_default_host_creds

    found = get_default_host_creds(tracking_uri)
    has_other = found.token or found.auth or found.aws_sigv4 or found.client_cert_path
    if found.password or has_other or urlsplit(tracking_uri).password:
        return
    token = known_token(host)
    if token is None:
        raise TrackerError(
            f"no credentials for {host} are known: set DAGSHUB_USER_TOKEN, or MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or run `dagshub login`"
        )
    set_variables({"MLFLOW_TRACKING_USERNAME": found.username or token, "MLFLOW_TRACKING_PASSWORD": token})


def undo_patches(client: Any) -> None:
    """Let an `MlflowClient` raise its errors, where `dagshub.mlflow.patch_mlflow` had them swallowed."""
    patch = getattr(sys.modules.get("dagshub.mlflow.patch"), "_global_mlflow_patch", None)
    originals: dict[str, Callable[..., Any]] = {} if patch is None else patch.original_func_lookup
    for path, function in originals.items():
        owner, _, name = path.rpartition(".")
        if owner.endswith(".MlflowClient"):
            setattr(client, name, function.__get__(client))


# Files


def upload(repository: Repository, path: Path, into: str, *, token: str, message: str) -> None:
    """Upload the files in the directory `path` to the directory `into`, made where there is none.

    A file that is there already is replaced; one that is the same makes no commit.

    Raises:
        TrackerError: DagsHub can't be reached, doesn't answer, or doesn't take them.
    """
    from dagshub.upload import Repo

    def prepare(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {token}"
        request.extensions["timeout"] = _UPLOADING if request.method == "PUT" else _ASKING
        return request

    # All of its requests go through `auth`, and it has no other place to set their times.
    prepared: Any = type("PreparedRepo", (Repo,), {"auth": staticmethod(prepare)})
    with _at(repository.host), _plain_errors(repository.host):
        directory = prepared(repository.owner, repository.name, branch=repository.branch).directory(into)
        try:
            directory.add_dir(str(path), commit_message=message, force=True)
        finally:
            for _, file in directory.files.values():  # after an error it leaves them open
                file.close()


@contextmanager
def _at(host: str) -> Iterator[None]:
    """Let the client speak to `host`, and to nobody else."""
    from dagshub.common import config

    before = config.host, config.quiet
    config.set_host(host)
    config.quiet = True
    try:
        yield
    finally:
        config.set_host(before[0])
        config.quiet = before[1]


@contextmanager
def _plain_errors(host: str) -> Iterator[None]:
    """Turn what the client raises into a `TrackerError` that says it in one line."""
    import httpx
    from tenacity import RetryError

    try:
        yield
    except httpx.TimeoutException as error:
        raise TrackerError(f"{host} did not answer in time") from error
    except httpx.ConnectError as error:
        raise TrackerError(f"nothing answers at {host}") from error
    except RetryError as error:  # the server's own errors, which it tries five times
        raise TrackerError(describe(error.last_attempt.exception() or error)) from error
    except Exception as error:
        raise TrackerError(describe(error)) from error
