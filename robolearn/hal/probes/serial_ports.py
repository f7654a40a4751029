"""Serial ports at which something hangs: servo buses, leader arms, grippers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robolearn.hal.resources import HEALTHY, Found, Resource


def probe(devices: Path = Path("/dev"), ports: Iterable[Any] | None = None) -> Found:
    """USB serial ports by the name that stays (``/dev/serial/by-id``), and what pyserial knows of them.

    Args:
        devices: where device nodes lie.
        ports: what ``serial.tools.list_ports.comports()`` gives; asked when not given.
    """
    problem = ""
    if ports is None:
        try:
            from serial.tools.list_ports import comports
        except ImportError:
            ports, problem = (), "pyserial is not installed, so serial ports have no description; pip install pyserial"
        else:
            ports = comports()
    by_node = {str(Path(port.device).resolve()): port for port in ports if getattr(port, "vid", None) is not None}
    folder = devices / "serial" / "by-id"
    links = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {str(link.resolve()): link.name for link in links}
    for node in by_node:
        found.setdefault(node, Path(node).name)
    resources = tuple(_port(name, node, by_node.get(node)) for node, name in found.items())
    return Found(resources, problem if resources else "")


def _port(name: str, node: str, port: Any) -> Resource:
    labels = {"device": node}
    if port is not None:
        labels |= {"name": str(port.description or ""), "usb": f"{port.vid:04x}:{port.pid or 0:04x}"}
    if not os.access(node, os.R_OK | os.W_OK):
        why = f"{node} may not be opened; join its group: sudo usermod -aG dialout $USER, then log in again"
        return Resource(f"serial:{name}", "serial", labels, health="no-access", unusable=why)
    return Resource(f"serial:{name}", "serial", labels, health=HEALTHY)
