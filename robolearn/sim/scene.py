"""What stands around a robot, as plain data: a task describes it, a simulated driver builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Vec3 = tuple[float, float, float]
Rgba = tuple[float, float, float, float]


@dataclass(frozen=True)
class Geom:
    """A primitive shape in its body's frame.

    Attributes:
        shape: ``box`` (size: half-lengths) or ``cylinder`` (size: radius, half-length, 0).
        size: see ``shape`` [m].
        pos: centre [m].
        rgba: colour.
        collides: False for something that is only seen.
    """

    shape: Literal["box", "cylinder"]
    size: Vec3
    pos: Vec3 = (0.0, 0.0, 0.0)
    rgba: Rgba = (0.6, 0.6, 0.6, 1.0)
    collides: bool = True


@dataclass(frozen=True)
class Body:
    """A rigid body; the pose of one placed by name is set at every reset."""

    name: str
    geoms: tuple[Geom, ...]


@dataclass(frozen=True)
class Contact:
    """Contact of the scene's shapes: sliding friction, and MuJoCo's soft-contact parameters.

    The values stand for a tool held between rubber finger pads: about 6 kg of arm meeting a rigid contact at 30 mm/s
    would give 200 N for 2 ms; these give 14 N over some 30 ms, and sink in by less than 0.1 mm under a static 8 N
    (0.5 mm for a moment on impact). MuJoCo's defaults let a pressed peg sink in by millimetres. There is no chamfer,
    but this softness rounds an edge by about 0.3 mm: a peg pressed gently 0.8 mm beside the middle of a socket with
    0.5 mm clearance slips in, at 0.9 mm it rests on the rim.
    """

    friction: float = 0.3
    solref: tuple[float, float] = (0.05, 0.7)
    solimp: Vec3 = (0.9, 0.95, 0.0002)


@dataclass(frozen=True)
class Scene:
    """Everything a simulated robot needs to know of a task.

    Attributes:
        placed: bodies posed at every reset (they do not move by themselves).
        tool: what the closed gripper holds, in the TCP frame (z out of the hand); its pose in the hand is fixed.
        tool_mass: mass of the tool [kg].
        tip: tip of the tool in the TCP frame [m]; control, wrench and success are about this point.
        focus: point the fixed cameras look at, in the base frame [m].
        contact: contact parameters.
    """

    placed: tuple[Body, ...]
    tool: Body
    tool_mass: float
    tip: Vec3
    focus: Vec3
    contact: Contact = Contact()
