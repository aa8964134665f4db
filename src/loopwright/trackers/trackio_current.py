"""Trackio's current run, which belongs to a thread: find the program's, and give the program's thread one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from loopwright.trackers.trackio_store import Target

_FINISH_SECONDS = 10.0


def current_run() -> Any:
    """Return the run that the program itself has begun on this thread, or None; imports nothing."""
    if "trackio" not in sys.modules:
        return None
    from trackio import context_vars

    run = context_vars.current_run.get()
    return None if run is None or hasattr(run, "is_loopwrights") or run._stop_flag.is_set() else run


def make_run(target: Target, place: dict[str, str], token: str | None, get_step: Callable[[], int]) -> Any:
    """Return a `trackio.Run` for the program's own `trackio.log`, beside what the tracker itself sends.

    Arguments:
        target: The run.
        place: Where it is: its "directory", "server" or "space".
        token: The server's write token.
        get_step: Returns the training's step, for a `trackio.log` that names none.
    """
    from trackio.run import Run

    class ThreadRun(Run):  # type: ignore[misc]
        is_loopwrights = True

        def _get_username(self) -> None:
            """Don't ask the Hub."""

        def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
            super().log(metrics, get_step() if step is None else step)

        def finish(self) -> None:
            """Let the thread write what it has got; Trackio's own prints."""
            self._stop_flag.set()
            thread = self._local_sender_thread or self._client_thread
            if thread is not None:
                thread.join(_FINISH_SECONDS)

    server, space = place.get("server"), place.get("space")
    run = ThreadRun(
        url=space or server, project=target.project, client=None, name=target.name, run_id=target.run_id,
        space_id=space, server_base_url=server, write_token=token, existing_runs=[], initial_last_step=0,
    )  # fmt: skip
    run._config_logged = True  # the tracker writes it
    return run


def make_current(run: Any) -> None:
    """Make `run` the current one of this thread."""
    from trackio import context_vars

    context_vars.current_run.set(run)
    context_vars.current_project.set(run.project)
