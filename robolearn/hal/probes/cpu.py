"""The cores of this machine."""

from __future__ import annotations

import os
import socket

from robolearn.hal.resources import Found, Resource


def probe() -> Found:
    """The cores this process may use, as one resource to share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Found((Resource(f"cpu:{socket.gethostname()}", "cpu", {}, float(cores)),))
