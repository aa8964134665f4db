"""What memory the process has, from Linux."""

from __future__ import annotations

from pathlib import Path


def resident_mb() -> float:
    """Return the megabytes that the process has now."""
    return _read_megabytes("VmRSS")


def peak_mb() -> float:
    """Return the most that it had since `reset_peak`, or since its beginning."""
    return _read_megabytes("VmHWM")


def reset_peak() -> float:
    """Let the peak be counted anew; return the megabytes that the process has now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident_mb()


def _read_megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6
