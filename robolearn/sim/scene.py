"""What stands around a robot, as plain data: a task describes it, a simulated driver builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robolearn.core.errors import ConfigError, suggest

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
class Free(Body):
    """A body that moves by itself; a reset poses it by name, at rest. The robot shows its pose as ``body/NAME``.

    Attributes:
        mass: of the whole body [kg].
    """

    mass: float = 0.05


@dataclass(frozen=True)
class Screw(Body):
    """A body on a thread: it turns about its own z axis and moves along it. ``base`` carries it.

    A reset sets its angle by name, (1,) [rad]; the robot shows angle and rate as ``joint/NAME``, (2,) [rad, rad/s].

    Attributes:
        base: name of the placed body that carries the thread; at angle 0 the frames of both coincide.
        pitch: advance along z per turn [m]; positive angles advance along +z.
        low, high: stops [rad].
        friction: torque that has to be overcome [N m].
        mass: of the whole body [kg].
    """

    base: str = ""
    pitch: float = 0.002
    low: float = 0.0
    high: float = 6.283185307179586
    friction: float = 0.05
    mass: float = 0.05


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


GRIP = Contact(friction=1.0, solref=(0.004, 1.0), solimp=(0.95, 0.99, 0.001))
"""Contact of what fingers hold: stiff, so that it creeps out of the hand by less than a millimetre in ten seconds."""


@dataclass(frozen=True)
class Scene:
    """Everything a simulated robot needs to know of a task.

    Attributes:
        placed: bodies posed at every reset (they do not move by themselves).
        tool: what the closed gripper holds, in the TCP frame (z out of the hand); its pose in the hand is fixed. None:
            the hand is empty and its fingers move.
        tool_mass: mass of the tool [kg].
        tip: tip of the tool in the TCP frame [m]; control, wrench and success are about this point.
        focus: point the fixed cameras look at, in the base frame [m].
        contact: contact parameters.
        free: bodies that move by themselves.
        screws: bodies on threads.
        grip: contact parameters of free bodies and screws, whatever they meet.
        brisk: things are carried through the free: the arm moves quicker and holds its place more stiffly.
        view: distance of the side camera from ``focus``, as a multiple of the usual one.

    Raises:
        ConfigError: two bodies have the same name, or a screw's base is no placed body.
    """

    placed: tuple[Body, ...]
    tool: Body | None
    tool_mass: float
    tip: Vec3
    focus: Vec3
    contact: Contact = Contact()
    free: tuple[Free, ...] = ()
    screws: tuple[Screw, ...] = ()
    grip: Contact = GRIP
    brisk: bool = False
    view: float = 1.0

    def __post_init__(self) -> None:
        names = [body.name for body in (*self.placed, *self.free, *self.screws)]
        names += [] if self.tool is None else [self.tool.name]
        if len(set(names)) < len(names):
            raise ConfigError(f"scene: expected bodies of different names, got {', '.join(names)}")
        bases = [body.name for body in self.placed]
        for screw in self.screws:
            if screw.base not in bases:
                raise ConfigError(f"screw '{screw.name}': unknown base '{screw.base}'{suggest(screw.base, bases)}")
