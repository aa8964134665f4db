"""A process of its own for each implementation: the parent's handle on it (`Worker`), and what runs in it (`serve`).

The parent sends a line of JSON, {"function": "module:name", "arguments": {...}}, and gets one back, {"result": ...} or
{"error": ...}. The worker's standard output and error are a pseudo-terminal that the parent reads and forgets, so
that progress bars and log lines are written as a person's terminal makes them be written.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import traceback
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]

_TERMINAL_SIZE = (40, 120)
_TIMEOUT_SECONDS = 600


class WorkerError(RuntimeError):
    """What was asked of a worker raised there, or the worker died; the message ends with the reason in one line."""

    @property
    def reason(self) -> str:
        """The last line."""
        return str(self).strip().splitlines()[-1]


class Worker:
    """A process that runs what it is asked to, one request at a time.

    Arguments:
        environment: Variables that it has besides this process's.

    Example:
        ```python
        with Worker() as worker:
            worker.ask("benchmarks.suites.overhead:train_once", implementation="bare", ...)
        ```
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        terminal, terminal_inside = pty.openpty()
        fcntl.ioctl(terminal_inside, termios.TIOCSWINSZ, struct.pack("HHHH", *_TERMINAL_SIZE, 0, 0))
        self._socket, inside = socket.socketpair()
        with inside:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", str(inside.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=terminal_inside,
                stderr=terminal_inside,
                pass_fds=[inside.fileno()],
                env={**os.environ, **(environment or {})},
            )
        os.close(terminal_inside)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._lines = self._socket.makefile("rw")
        self._shown: deque[bytes] = deque(maxlen=20)
        self._reader = Thread(target=self._read_terminal, args=(terminal,), name="terminal-reader", daemon=True)
        self._reader.start()

    def ask(self, function: str, **arguments: Any) -> Any:
        """Run `function`, given as "module:name", in the worker and return its result.

        Raises:
            WorkerError: it raised, or the worker died or was silent for ten minutes.
        """
        try:
            self._lines.write(json.dumps({"function": function, "arguments": arguments}) + "\n")
            self._lines.flush()
            answer = self._lines.readline()
        except OSError as error:
            raise WorkerError(f"{self._terminal_text()}\nthe worker does not answer: {error}") from error
        if not answer:
            raise WorkerError(f"{self._terminal_text()}\nthe worker died with status {self._process.wait()}")
        reply = json.loads(answer)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["result"]

    def close(self) -> None:
        """End the process."""
        self._lines.close()
        self._socket.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _read_terminal(self, terminal: int) -> None:
        try:
            while data := os.read(terminal, 65536):
                self._shown.append(data)
        except OSError:
            pass  # Linux says so when the last writer has gone.
        finally:
            os.close(terminal)

    def _terminal_text(self) -> str:
        return b"".join(self._shown).decode(errors="replace")


def serve(connection: socket.socket) -> None:
    """Answer requests until the parent closes its end."""
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            lines.write(json.dumps(_answer(json.loads(line))) + "\n")
            lines.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        module, _, name = request["function"].partition(":")
        return {"result": getattr(importlib.import_module(module), name)(**request["arguments"])}
    except Exception:
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    # The working tree is what is measured, whatever is installed.
    sys.path.insert(0, str(ROOT / "src"))
    serve(socket.socket(fileno=int(sys.argv[1])))
