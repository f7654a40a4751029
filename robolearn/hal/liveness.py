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


def who_locks(path: Path, byte: int) -> str:
    """In words, which process has a write lock on a byte of a file (proc(5), locks), and what to do if it is stopped.

    Empty when that cannot be told. The file is not opened: closing it would drop the locks of this very process.
    """
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    for line in lines:
        # 1: POSIX  ADVISORY  WRITE 1234 08:01:5678 1073741825 1073741825
        fields = line.split()[1:]
        if fields[:1] != ["POSIX"] or fields[2:3] != ["WRITE"] or len(fields) != 7:
            continue
        pid, file, start, end = int(fields[3]), fields[4], int(fields[5]), fields[6]
        if int(file.rpartition(":")[2]) == inode and start <= byte and (end == "EOF" or byte <= int(end)):
            stat = _stat(pid) if pid > 0 else None
            if stat and stat[0] in "Tt":
                return f"process {pid} has it and is stopped; let it go on: kill -CONT {pid}, or end it: kill -9 {pid}"
            return f"process {pid} has it"
    return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time [ticks] of a process (proc(5), fields 3 and 22), or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])
