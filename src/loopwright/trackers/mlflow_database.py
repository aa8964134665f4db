"""Make the SQLite file that MLflow keeps runs in, whole or not at all.

    a folder beside the file's place ── MLflow makes its tables in there, for seconds ── the file gets its name

MLflow makes them in many transactions, in the file's place. A process that is killed meanwhile leaves a file that no
MLflow opens ever after: a `table … already exists`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from loopwright.errors import TrackerError


def prepare_database(uri: str) -> None:
    """Make the file of the database at `uri`, where that is SQLite's and there is none.

    Raises:
        TrackerError: it can't be made.
    """
    file = _file_of(uri)
    if file is None or (file.is_file() and os.access(file, os.W_OK)):
        return
    _require_room_for(file)
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _make(file)
    except (OSError, SQLAlchemyError) as error:
        raise TrackerError(f"{file} could not be made: {getattr(error, 'orig', None) or error}") from error


def _file_of(uri: str) -> Path | None:
    scheme, separator, path = uri.partition(":///")
    if scheme != "sqlite" or not separator or path.startswith((":", "file:")):
        return None
    return Path(path.partition("?")[0])


def _require_room_for(file: Path) -> None:
    """Refuse a file that can't be made: MLflow would try for 100 s."""
    nearest = file if file.exists() else next(parent for parent in file.parents if parent.exists())
    if file.is_dir() or not os.access(nearest, os.W_OK):
        raise TrackerError(f"{file} can't be written as a database")


def _make(file: Path) -> None:
    from mlflow.store.db import utils

    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
        whole = Path(folder, file.name)
        engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{whole}")
        try:
            utils._initialize_tables(engine)
        finally:
            engine.dispose()
        # A link never replaces a file: another process, or MLflow's own server, may have been faster. Where a
        # filesystem has no links, MLflow makes the file as it always does.
        with suppress(OSError):
            os.link(whole, file)
