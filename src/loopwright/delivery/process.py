"""The training's end of delivery: start the process, watch it, start it again when it dies, and end it.

The process is started as a command, so it shares nothing with the training. A tracker that doesn't answer in time
costs it its life; it is started again without that tracker, which is tried in a process of its own from then on, at
growing intervals, so that it disturbs no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, Any

from loopwright._support.env import whole_environment
from loopwright._support.log import Logger, get_logger
from loopwright.delivery.follower import EXIT_HUNG
from loopwright.delivery.retry import Backoff

logger: Logger = get_logger(__name__)

# Called while delivery is waited for, with the records left by tracker and the seconds that remain.
OnWait = Callable[[dict[str, int], float], None]

LOG_NAME = "delivery.log"
# A process that says nothing for so long is taken for dead: it reports each second, whatever its trackers do.
_SILENCE_SECONDS = 60.0
_TRACKER_RETRY_SECONDS = 30.0
_TRACKER_RETRY_LONGEST_SECONDS = 900.0


class DeliveryProcess:
    """Delivers the journal in `output_dir` while this process trains.

    Arguments:
        output_dir: Where the journal is.
        trackers: The trackers' names.
        close_seconds: How long it may go on after the training.
        call_seconds: How long a call into an SDK may take.
    """

    def __init__(
        self, output_dir: Path | str, trackers: Collection[str], *, close_seconds: float, call_seconds: float
    ) -> None:
        self.output_dir: Path = Path(output_dir).resolve()
        self.trackers: list[str] = list(trackers)
        self.close_seconds = close_seconds
        self.call_seconds = call_seconds
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._children: list[_Child] = []

    def start(self) -> None:
        """Start it, where it doesn't run."""
        with self._lock:
            self._children = [child for child in self._children if not child.has_ended]
            served = {name for child in self._children for name in child.trackers}
            left = [name for name in self.trackers if name not in served]
            if left:
                self._add(left)

    def _add(self, trackers: Sequence[str], delay: Backoff | None = None) -> None:
        child = _Child(self, trackers, delay)
        self._children.append(child)
        child.start()

    def part_with(self, child: _Child, hung: Collection[str]) -> None:
        """Take trackers that hang out of `child`, into processes of their own."""
        with self._lock:
            for name in hung:
                logger.error(
                    "%s did not answer within %.0f s: its records wait in the journal, and it is tried again later",
                    name,
                    self.call_seconds,
                )
                if len(child.trackers) > 1:
                    child.trackers.remove(name)
                    delay = Backoff(_TRACKER_RETRY_SECONDS * 1.5, _TRACKER_RETRY_LONGEST_SECONDS)
                    self._add([name], delay)

    def pending(self) -> dict[str, int]:
        """Return the records left by tracker, as last reported."""
        with self._lock:
            reports = [child.report for child in self._children]
        return {name: found["pending"] for report in reports for name, found in report.items()}

    def drain(self, on_wait: OnWait | None = None) -> None:
        """Let it deliver what is left, wait for that at most `close_seconds`, and leave it ready for more."""
        self._ask("drain", on_wait)

    def finish(self, on_wait: OnWait | None = None) -> None:
        """Let it deliver what is left, wait for that at most `close_seconds`, and end it."""
        self._ask("end", on_wait)
        with self._lock:
            self._children = []

    def _ask(self, word: str, on_wait: OnWait | None) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            children = list(self._children)
        for child in children:
            child.ask(word)
        until = time.monotonic() + self.close_seconds
        while (waiting := [child for child in children if not child.has_done_so]) and time.monotonic() < until:
            if on_wait is not None:
                on_wait(self.pending(), until - time.monotonic())
            waiting[0].wait(0.1)
        for child in children:
            if word == "end" or not child.has_done_so:
                child.kill()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a delivery process stays with the process that started it")


class _Child:
    """One delivery process after another, for some trackers: each starts when the one before has died.

    A thread of this process waits for what it says, which costs the training nothing.
    """

    def __init__(self, owner: DeliveryProcess, trackers: Sequence[str], delay: Backoff | None) -> None:
        self.trackers: list[str] = list(trackers)
        self.report: dict[str, dict[str, Any]] = {}
        self._owner = owner
        self._delay = delay
        self._backoff = Backoff(1.0, 60.0)
        self._is_ending = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._heard_at = 0.0
        self._drains_asked = self._drains_done = 0
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._live, name="delivery", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether no process runs any more, and none will."""
        return not self._thread.is_alive()

    @property
    def has_done_so(self) -> bool:
        """Whether it has done what it was last asked for, or has ended."""
        return self.has_ended or (not self._is_ending.is_set() and self._drains_done >= self._drains_asked)

    def wait(self, seconds: float) -> None:
        """Wait until it says something, or has ended."""
        self._news.wait(seconds)
        self._news.clear()

    def ask(self, word: str) -> None:
        """Ask it to "drain", or to "end": then no process is started after it."""
        if word == "end":
            self._is_ending.set()
        else:
            self._drains_asked += 1
        self._write(word)

    def _write(self, word: str) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(word + "\n")
                process.stdin.flush()

    def kill(self) -> None:
        """End the process now, with all that it has started."""
        self._is_ending.set()
        if (process := self._process) is not None:
            _kill_group(process)
        self._thread.join(5.0)

    def _live(self) -> None:
        try:
            self._keep_alive()
        finally:
            self._news.set()

    def _keep_alive(self) -> None:
        if self._delay is not None:
            self._is_ending.wait(self._delay.fail())
        while not self._is_ending.is_set():
            try:
                status, hung = self._run_process()
            except OSError as error:
                logger.warning("delivery could not be started: %s; records wait in the journal", error)
                status, hung = 1, []
            if self._is_ending.is_set() or status == 0:
                return
            if hung:
                self._owner.part_with(self, hung)
                if self._delay is not None or self.trackers == hung:
                    self._delay = self._delay or Backoff(_TRACKER_RETRY_SECONDS, _TRACKER_RETRY_LONGEST_SECONDS)
                    self._is_ending.wait(self._delay.fail())
                continue
            if status != EXIT_HUNG:
                logger.warning("the delivery process ended (status %d) and is started again", status)
            self._is_ending.wait(self._backoff.fail())

    def _run_process(self) -> tuple[int, list[str]]:
        """Run one process to its end; return its exit status, and the trackers that hang."""
        process = self._start_process()
        self._process = process
        watch = threading.Thread(target=self._watch, args=(process,), name="delivery-watch", daemon=True)
        watch.start()
        # What was asked before it could hear.
        before = self._drains_done
        for word in ["drain"] * (self._drains_asked - before) + ["end"] * self._is_ending.is_set():
            self._write(word)
        hung: list[str] = []
        stream: IO[str] | None = process.stdout
        for line in stream or ():
            self._heard_at = time.monotonic()
            with contextlib.suppress(ValueError, KeyError):
                message = json.loads(line)
                self._take(message["trackers"])
                for text in message["notes"]:
                    logger.warning("%s", text)
                hung = message["hung"]
                self._drains_done = before + message["drains"]
            self._news.set()
        status = process.wait()
        if status == EXIT_HUNG:  # what the SDK had started may hang as well
            _kill_group(process, even_if_ended=True)
        with contextlib.suppress(OSError):
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        return status, hung

    def _take(self, report: dict[str, dict[str, Any]]) -> None:
        for name, found in report.items():
            before = self.report.get(name, {}).get("error")
            if found["error"] is not None and before is None:
                logger.warning("%s: %s; its records wait in the journal, and it is tried again", name, found["error"])
            elif found["error"] is None and before is not None:
                logger.warning("%s takes records again", name)
        self.report = report

    def _watch(self, process: subprocess.Popen[str]) -> None:
        """Kill a process that has fallen silent."""
        self._heard_at = time.monotonic()
        while process.poll() is None:
            if time.monotonic() - self._heard_at > _SILENCE_SECONDS:
                logger.error("the delivery process has been silent for %.0f s: killed", _SILENCE_SECONDS)
                _kill_group(process)
                return
            time.sleep(2.0)

    def _start_process(self) -> subprocess.Popen[str]:
        owner = self._owner
        command = [
            *(sys.executable, "-m", "loopwright", "sync", str(owner.output_dir), "--follow"),
            *("--close-timeout", str(owner.close_seconds), "--call-timeout", str(owner.call_seconds)),
            *(part for name in self.trackers for part in ("--tracker", name)),
        ]
        with (owner.output_dir / LOG_NAME).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                text=True,
                encoding="utf-8",
                # Ctrl-C is the training's business; and so the whole group can be killed.
                start_new_session=True,
            )


def _environment() -> dict[str, str]:
    """Return the child's environment: modules are found where they are found here, and no accelerator is touched."""
    paths = [path or str(Path.cwd()) for path in sys.path]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        **whole_environment(),
        **one_thread,
        "PYTHONPATH": os.pathsep.join(path for path in paths if not path.endswith(".zip")),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUNBUFFERED": "1",
    }


def _kill_group(process: subprocess.Popen[str], *, even_if_ended: bool = False) -> None:
    if process.poll() is not None and not even_if_ended:
        return
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
