"""Which process holds something, and whether it is certainly gone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one of the same number.

    Attributes:
        boot: boot id of the host; monotonic times of another boot mean nothing.
        space: pid namespace; numbers of another one (a container's) mean nothing.
        pid: process number.
        started: start time in clock ticks since boot; 0 when unknown.
    """

    boot: str
    space: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> ProcessId:
        """This process."""
        pid = os.getpid()
        stat = _stat(pid)
        return cls(boot_id(), _pid_namespace(), pid, stat[1] if stat else 0)


def is_dead(process: ProcessId) -> bool:
    """True only when the process is certainly gone: an earlier boot, no such number, a later start, or a zombie.

    False for a process of another container or of a system without /proc: nothing is known then.
    """
    if process.boot != boot_id():
        return True
    if process.space != _pid_namespace() or not Path("/proc/self/stat").exists():
        return False
    try:
        stat = _stat(process.pid)
    except OSError:
        return False
    if stat is None:
        return True
    state, started = stat
    return state in "ZX" or (process.started != 0 and started != process.started)


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Identifies this boot of this host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


@lru_cache(maxsize=1)
def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time [ticks] of a process (proc(5), fields 3 and 22), or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])
