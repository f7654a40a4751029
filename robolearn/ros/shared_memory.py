"""Shared memory that killed processes left behind.

Fast DDS gives every participant a segment in ``/dev/shm`` (16 MiB with our profile) and an exclusive lock on a file
beside it. A process that is killed removes neither; the kernel only takes the lock away.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
MIN_AGE_S = 10.0
"""Younger files are left alone: a process that starts makes its file before it locks it."""
_LOCK = re.compile(r"fastdds_[0-9a-f]{16}_el")


def sweep(folder: Path = FOLDER, min_age_s: float = MIN_AGE_S) -> int:
    """Remove the segments of Fast DDS whose process is gone; return how many bytes that frees.

    Segments of other users, of running processes and of the last seconds stay.
    """
    freed = 0
    for lock in sorted(folder.glob("fastdds_*_el")) if folder.is_dir() else []:
        if _LOCK.fullmatch(lock.name):
            freed += _remove_if_dead(lock, min_age_s)
    return freed


def _remove_if_dead(lock: Path, min_age_s: float) -> int:
    segment = lock.with_name(lock.name.removesuffix("_el"))
    try:
        if time.time() - lock.stat().st_mtime < min_age_s:
            return 0
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # gone meanwhile, or somebody else's
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = segment.stat().st_size if segment.exists() else 0
        segment.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
    except OSError:  # locked: its process lives
        return 0
    finally:
        os.close(descriptor)
    return size
