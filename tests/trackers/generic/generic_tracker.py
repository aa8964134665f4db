"""A tracker as a third party would write it, for a service on loopback; faults can be put into its SDK.

GENERIC_FAULT_FILE names a file that holds "what@where", such as "raise@deliver" or "hang@open": it is read at every
call, so a fault can be lifted while a process runs.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.naming import group_name, numbers


class GenericCallback(TrackerCallback):
    """Sends points to the service at GENERIC_URL."""

    name: ClassVar[str] = "generic"
    variables: ClassVar[tuple[str, ...]] = ("GENERIC_URL", "GENERIC_ARTIFACTS", "GENERIC_FAULT_FILE")

    def setup(self, args, state, model, **kwargs):
        self._suffer("open")
        self._post("open", {"parameters": len(self.run.parameters), "parent": self.run.parent_id})

    def write(self, records):
        self._suffer("deliver")
        points = [
            [group_name(name), record.step, round(record.time * 1000), repr(value)]
            for record in records
            for name, value in numbers(record.values)
        ]
        self._post("deliver", {"points": points})

    def wants_checkpoints(self):
        return self.flag("GENERIC_ARTIFACTS")

    def save_artifact(self, path, record):
        self._suffer("artifact")
        self._post("artifact", {"name": path.name, "files": sorted(file.name for file in path.iterdir())})

    def close(self, status):
        self._suffer("close")
        self._post("close", {"status": str(status)})

    def _post(self, where, content):
        address = urlsplit(self.variable("GENERIC_URL"))
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=3600)
        try:
            body = json.dumps({"run": self.run.id, "pid": os.getpid(), **content})
            connection.request("POST", f"/{where}", body=body)
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"the service answers {answer.status}")

    def _suffer(self, where):
        try:
            what, _, place = Path(self.variable("GENERIC_FAULT_FILE", os.devnull)).read_text().strip().partition("@")
        except FileNotFoundError:
            return
        if place != where:
            return
        if what == "raise":
            raise RuntimeError("out of order")
        if what == "exit":
            sys.exit(7)
        if what == "interrupt":
            raise KeyboardInterrupt
        if what == "die":
            os._exit(9)
        if what == "random":  # as SDKs do that seed or draw from the global generators
            import random

            random.seed(0)
            random.random()
        if what == "hang":
            time.sleep(3600)
