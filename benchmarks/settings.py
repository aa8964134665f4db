"""What differs between two cases of a benchmark. No torch here: the parent process needs none."""

from __future__ import annotations

from dataclasses import dataclass

HEALTHY, SLOW, DEAD = "healthy", "slow", "dead"
# What a call into a slow service takes.
SLOW_SECONDS = 0.05


@dataclass(frozen=True)
class Setting:
    """One case.

    Arguments:
        workload: Name of the model and its data (see `workloads.py`).
        log_every: Write a log line (mean loss, gradient norm, learning rate) every so many steps.
        bar: Show a progress bar. The bare loop never has one.
        accumulation: Micro-batches per step.
        idle_callbacks: Callbacks that override nothing, besides the library's defaults.
        listening_callbacks: Callbacks that override the end of a step, and count.
        shuffle: Draw the examples in random order.
        silent: Write log lines nowhere but to trackers.
        trackers: Trackers that are told of every log line.
        service: How their service is: "healthy", "slow" (50 ms a call) or "dead" (it refuses connections).
        in_process: Whether the trackers live in the training's process, where there is another place for them.
        ranks: Processes that train together.
    """

    workload: str = "mlp1"
    log_every: int = 100
    bar: bool = True
    accumulation: int = 1
    idle_callbacks: int = 0
    listening_callbacks: int = 0
    shuffle: bool = True
    silent: bool = False
    trackers: int = 0
    service: str = HEALTHY
    in_process: bool = False
    ranks: int = 1

    def __str__(self) -> str:
        parts = [
            f"log every {self.log_every}",
            "bar" if self.bar else "no bar",
            f"accumulation {self.accumulation}" if self.accumulation > 1 else "",
            f"{self.idle_callbacks} idle callbacks" if self.idle_callbacks else "",
            f"{self.listening_callbacks} counting callbacks" if self.listening_callbacks else "",
            "silent" if self.silent else "",
            f"{self.trackers} {self.service} trackers" if self.trackers else "",
            "in the training's process" if self.in_process else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Options:
    """What the user asked of a suite.

    Arguments:
        implementations: Names of those to run, the bare loop first.
        num_rounds: Rounds; None for the suite's own number.
        full: Run all cases, not the standard ones alone.
        cases: Names of the cases of `overhead` to run, instead of the standard ones or all.
        round_seconds: About how long a round of the bare loop lasts.
    """

    implementations: tuple[str, ...]
    num_rounds: int | None = None
    full: bool = False
    cases: tuple[str, ...] = ()
    round_seconds: float = 1.0
