"""Peak memory of this process."""

from __future__ import annotations

from pathlib import Path


def peak_mb() -> float:
    """Largest resident memory so far, in MB; 0 where the system does not tell.

    Not `resource.getrusage`, whose peak a child process inherits from its parent.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
