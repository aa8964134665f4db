"""One opening of a SwanLab run: hand points over, watch until its local file holds them, and end it.

    record ──▶ SwanLab's queue ──▶ its thread ──▶ the file's buffer ──▶ the file
                                                       flushed here, and read back: confirmed

SwanLab keeps the first value of a metric for each step, and drops what comes later; so nothing is handed over twice.
Online the file confirms nothing, as nobody would send the rest of it after a kill: there it is the end that confirms.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from loopwright._support.env import read_text, set_variables
from loopwright.errors import TrackerError
from loopwright.records import Record, Status
from loopwright.trackers.swanlab_files import Points, RunFile, run_files

_WRITE_SECONDS = 20.0
_LEAVE_SECONDS = 3.0
_ANSWER_SECONDS = 10.0
_ours: weakref.WeakSet[Any] = weakref.WeakSet()


class _Waiting(NamedTuple):
    """A record that is not known to be in the file: its number, the last of its points, and since when."""

    sequence: int
    point: tuple[str, int]
    since: float


class Session:
    """A SwanLab run from its opening to its end.

    Arguments:
        run: The SDK's run.
        is_programs: Whether the program began it: then it is not ended here.
    """

    def __init__(self, run: Any, *, is_programs: bool) -> None:
        self.run = run
        self.is_programs = is_programs
        self.is_online: Any = run.mode == "online"
        self.log_dir: Path = Path(run.dir).parent
        self._file = RunFile(Path(run._ctx.run_file))
        self._known = Points()  # handed over, in this session or before
        self._waiting: deque[_Waiting] = deque()
        if not self.is_online:
            for path in run_files(self.log_dir, run.id):
                self._known.add_all(RunFile(path).scalars())

    def write(self, record: Record, values: Mapping[str, Any]) -> None:
        """Hand over those of a record's values that SwanLab hasn't got, with the record's step and time."""
        from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped, unused-ignore]
        from swanlab.sdk.internal.bus import MetricLogEvent
        from swanlab.sdk.internal.run.fmt import flatten_dict

        if not self.run.alive:
            raise TrackerError("the SwanLab run has been ended")
        named = {key: value for key, value in flatten_dict(values).items() if self._known.add(key, record.step)}
        if not named:
            return
        moment = Timestamp()
        moment.FromNanoseconds(round(record.time * 1e9))
        # `run.log` stamps with the time of the delivery; it puts this same event into the queue.
        self.run._ctx.next_step(record.step)
        self.run._components.emitter.emit(MetricLogEvent(data=named, step=record.step, timestamp=moment))
        self._waiting.append(_Waiting(record.sequence, (next(reversed(named)), record.step), time.monotonic()))

    def unconfirmed(self) -> int | None:
        """Return the number of the first record that is not in the file yet, or None.

        Raises:
            TrackerError: SwanLab has not written it, long after it has got it.
        """
        self._look()
        if not self._waiting:
            return None
        first = self._waiting[0]
        if not self.is_online and time.monotonic() - first.since > _WRITE_SECONDS:
            raise TrackerError(f"SwanLab has not written what it got {_WRITE_SECONDS:.0f} s ago: {self._file.path}")
        return first.sequence

    def _look(self) -> None:
        store = self.run._core._store
        if store is not None:
            store.ensure_flushed()
        for scalar in self._file.scalars():  # in the order in which they were handed over
            if self._waiting and (scalar.key, scalar.step) == self._waiting[0].point:
                self._waiting.popleft()

    def end(self, status: Status) -> None:
        """End the run, unless it is the program's; all is in its file then, or with the server.

        Raises:
            TrackerError: it isn't.
        """
        if self.is_programs:
            self._wait()
        elif self.run.alive:
            self._finish(status)
        if self.is_online:
            if not self.is_programs and self.run._core._transport is not None:
                raise TrackerError("SwanLab's server has not got everything")
            return
        self._look()
        if self._waiting:
            raise TrackerError(f"SwanLab has not written everything: {self._file.path}")

    def _wait(self) -> None:
        until = time.monotonic() + _WRITE_SECONDS
        while self.run.alive and self.unconfirmed() is not None and time.monotonic() < until:
            time.sleep(0.05)

    def _finish(self, status: Status) -> None:
        state = "success" if status.is_success else "crashed" if status is Status.FAILED else "aborted"
        error = None if status.is_success else f"the training ended as {status.value}"
        with _quiet(), _same_hooks(), _others_untouched():
            self.run.finish(state=state, error=error)

    def leave(self) -> None:
        """Let go of a run that failed, so that nothing more gets into its file."""
        if self.is_programs or not self.run.alive:
            return
        core, consumer = self.run._core, self.run._components._consumer
        with _quiet():
            core._active = False  # it refuses what comes from now on
            consumer.stop()
            consumer._thread.join(_LEAVE_SECONDS)
            self.run._state = "aborted"
            _forget_current(self.run)
            for part in (core._heartbeat, core._watcher):
                if part is not None:
                    part.stop()
            with contextlib.suppress(OSError):  # nothing closes on a full disk
                _drop(core)


def _drop(core: Any) -> None:
    """Forget what is not sent, and close the file."""
    transport, store = core._transport, core._store
    if transport is not None:
        with transport._cond:
            transport._buf.drain()
            transport._pending = []
        transport.request_finish()
    core._store = None
    if store is not None:
        store.close()


def programs_run() -> Any:
    """Return the run that the program itself has begun, or None; imports nothing."""
    if "swanlab" not in sys.modules:
        return None
    import swanlab

    run = swanlab.get_run() if swanlab.has_run() else None
    return None if run is None or run in _ours else run


def begin(options: Mapping[str, Any]) -> Any:
    """Begin a run with the arguments `options` of `swanlab.init`, and without any of its side effects."""
    import swanlab

    settings = swanlab.Settings.model_validate
    nothing = {"hardware", "runtime", "requirements", "conda", "git", "swanlab", "monitor"}
    with _quiet(), _same_hooks(), plain_environment(options["mode"], options["project"]):
        if swanlab.has_run() and swanlab.get_run() in _ours:  # of another Trainer: SwanLab has one at a time
            _forget_current(swanlab.get_run())
        run = swanlab.init(
            settings=settings({
                "interactive": False,
                "mode": options["mode"],
                "terminal": {"proxy_type": "none"},
                "probe": dict.fromkeys(nothing, False),
            }),
            **options,
        )  # fmt: skip
        atexit.unregister(run._handle_atexit)
    run._core._store.ensure_flushed()  # after a kill its head is there, which `swanlab sync` wants
    _ours.add(run)
    return run


def api_key_is_known(mode: str, project: str) -> bool:
    """Return whether the SDK has an API key, or is logged in; it asks nobody."""
    import swanlab
    from swanlab.sdk.internal.core_python import client

    with plain_environment(mode, project):
        return client.exists() or swanlab.Settings().api_key is not None


def require_answer(mode: str, project: str) -> None:
    """See that somebody answers: the SDK tries for 15 s, and says then that the key may be wrong.

    Raises:
        TrackerError: nobody does.
    """
    import requests
    import swanlab

    with plain_environment(mode, project):
        address = swanlab.Settings().api_host
    try:
        requests.get(address, timeout=_ANSWER_SECONDS)
    except requests.RequestException as error:
        raise TrackerError(f"nothing answers at {address}: {type(error).__name__}") from error


@contextmanager
def plain_environment(mode: str, project: str) -> Iterator[None]:
    """Let the SDK find variables that it can read: a project's plain name is none to it, it wants JSON there."""
    wanted = {"SWANLAB_MODE": mode, "SWANLAB_PROJECT": json.dumps({"name": project})}
    before = {name: text for name in wanted if (text := read_text(name)) is not None}
    set_variables({name: text for name, text in wanted.items() if name in before})
    try:
        yield
    finally:
        set_variables(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let SwanLab say nothing on the terminal."""
    from swanlab.sdk.internal.pkg import console

    before, console.c.quiet = console.c.quiet, True
    try:
        yield
    finally:
        console.c.quiet = before


@contextmanager
def _same_hooks() -> Iterator[None]:
    """Leave the program's last words on an exception as they are."""
    before = sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = before


@contextmanager
def _others_untouched() -> Iterator[None]:
    """Keep connection and current run for other runs of this process: the end of one takes them from all."""
    from swanlab.sdk.internal import run as runs
    from swanlab.sdk.internal.core_python import client

    before, current = client._default_client, runs._current_run
    try:
        yield
    finally:
        if any(run.alive for run in _ours):
            client._default_client = before
        if current is not None and current.alive:
            runs.set_run(current)


def _forget_current(run: Any) -> None:
    from swanlab.sdk.internal import run as runs

    if runs._current_run is run:
        runs.clear_run()
