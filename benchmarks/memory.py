"""Peak memory of the running process, shared by the benchmarks."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """Largest resident size so far, in MiB (VmHWM; unlike ru_maxrss it does not inherit the parent's peak)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
