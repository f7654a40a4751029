"""Devices to drive a robot with: SpaceMouse (hidraw) and gamepads (the kernel's joystick interface)."""

from __future__ import annotations

import os
from pathlib import Path

from robolearn.hal.resources import HEALTHY, Found, Resource

_3DCONNEXION = 0x256F
_LOGITECH = 0x046D
_LOGITECH_SPACE = range(0xC603, 0xC630)
"""Products that 3Dconnexion sold under Logitech's vendor number."""


def probe(classes: Path = Path("/sys/class"), devices: Path = Path("/dev")) -> Found:
    """Every SpaceMouse and gamepad, whether it can be opened or not."""
    return Found((*_space_mice(classes / "hidraw", devices), *_gamepads(classes / "input", devices / "input")))


def _space_mice(folder: Path, devices: Path) -> list[Resource]:
    found: dict[str, Resource] = {}
    for node in sorted(folder.glob("hidraw*")):
        facts = _uevent(node / "device" / "uevent")
        vendor, product = _numbers(facts.get("HID_ID", ""))
        if vendor == _3DCONNEXION or (vendor == _LOGITECH and product in _LOGITECH_SPACE):
            # One device may have several interfaces; the first one carries the motion.
            name = f"spacemouse:{facts.get('HID_UNIQ') or facts.get('HID_PHYS', node.name).partition('/')[0]}"
            found.setdefault(name, _resource(name, "spacemouse", facts.get("HID_NAME", ""), devices / node.name))
    return list(found.values())


def _gamepads(folder: Path, devices: Path) -> list[Resource]:
    found = []
    for node in sorted(folder.glob("js*")):
        try:
            name = (node / "device" / "name").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            name = ""
        if "3dconnexion" not in name.lower():
            found.append(_resource(f"gamepad:{node.name}", "gamepad", name, devices / node.name))
    return found


def _resource(name: str, device: str, product: str, path: Path) -> Resource:
    labels = {"type": device, "name": product, "device": str(path)}
    if not path.exists():
        return Resource(name, "teleop", labels, health="absent", unusable=f"there is no {path}; plug it in again")
    if not os.access(path, os.R_OK):
        why = f"{path} may not be read; add a udev rule that gives it to your group (docs/hal.md)"
        return Resource(name, "teleop", labels, health="no-access", unusable=why)
    return Resource(name, "teleop", labels, health=HEALTHY)


def _uevent(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _numbers(identity: str) -> tuple[int, int]:
    """``0003:0000256F:0000C635`` (bus, vendor, product) -> vendor and product."""
    try:
        _, vendor, product = (int(part, 16) for part in identity.split(":"))
    except ValueError:
        return 0, 0
    return vendor, product
