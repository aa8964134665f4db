"""A tracker whose service is healthy, slow or dead, in a file that Loopwright's delivery process can import.

It is given as an instance and registered nowhere. A subclass that overrides a hook of a registered tracker lives in
the training's process, on a thread of its own; so does this one where it is told to, by the method that is there for
that: nothing else differs.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

from benchmarks.settings import DEAD, HEALTHY, SLOW, SLOW_SECONDS
from loopwright.records import Record
from loopwright.trackers.base import TrackerCallback


class SlowTracker(TrackerCallback):
    """Makes JSON of the points, as SDKs do, and calls its service.

    Arguments:
        service: "healthy", "slow" or "dead".
        port: Where on loopback a dead service refuses connections.
        in_process: Whether to live in the training's process.
    """

    name: ClassVar[str] = "slow"

    def __init__(self, service: str = HEALTHY, port: int = 0, *, in_process: bool = False) -> None:
        self.service = service
        self.port = port
        self.in_process = in_process

    def constructor_arguments(self) -> dict[str, Any]:
        """Return those that the delivery process needs."""
        return {"service": self.service, "port": self.port}

    def needs_training_process(self) -> str | None:
        """Return why it has to live in the training's process, or None."""
        return "it was told to" if self.in_process else None

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Call the service."""
        self._call("")

    def write(self, records: Sequence[Record]) -> None:
        """Call the service with the points."""
        points = [[name, record.step, value] for record in records for name, value in record.values.items()]
        self._call(json.dumps(points))

    def _call(self, body: str) -> None:
        if self.service == SLOW:
            time.sleep(SLOW_SECONDS)
        elif self.service == DEAD:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(body.encode())


@cache
def _refusing_socket() -> socket.socket:
    # Bound, so that nobody else gets the port, and never listening.
    refusing = socket.socket()
    refusing.bind(("127.0.0.1", 0))
    return refusing


def refusing_port() -> int:
    """Return a port on loopback that refuses connections as long as this process lives."""
    port: int = _refusing_socket().getsockname()[1]
    return port
