"""What tasks that push a held tool into an opening share: frames, what is seen of them, actions, a scripted approach.

Frames are those of ``tasks/peg_insert.py``: a hole frame (origin at the middle of the opening, z into the hole), its
estimate, and the tip frame of the tool. All functions take poses (7,): position [m] and quaternion (w, x, y, z) in the
base frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array, Observation
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.sim import rotation
from robolearn.sim.person import Person

FRAME = 24
"""Numbers in one frame of a policy's state: position 3, rotation 3, twist 6, wrench 6, previous action 6."""
MAX_TURN = 0.06
"""Largest turn commanded in a step [rad]; slow enough that the arm follows and the driver has nothing to limit."""
POSITION_M, ROTATION_RAD = 0.003, 0.05
"""What positions and angles are divided by, for a network."""
_TWIST = np.array([0.03, 0.03, 0.03, 0.3, 0.3, 0.3])
_WRENCH = np.array([4.0, 4.0, 4.0, 0.04, 0.04, 0.04])


def relative(pose: Array, frame: Array) -> tuple[Array, Array]:
    """Position (3,) and quaternion (4,) of ``pose`` in ``frame`` (both (7,) in the base frame)."""
    position = rotation.matrix(frame[3:]).T @ (pose[:3] - frame[:3])
    return position, rotation.multiply(rotation.conjugate(frame[3:]), pose[3:])


def displaced(frame: Array, offset: Array, turn: float) -> Array:
    """(7,) pose of ``frame`` moved by ``offset`` (3,) in its own axes [m] and turned about its own z [rad]."""
    position = frame[:3] + rotation.matrix(frame[3:]) @ offset
    return np.concatenate([position, rotation.multiply(frame[3:], rotation.about_z(turn))])


def tilt_deg(turn: Array) -> float:
    """Angle between the z axes of two frames, one of which has the orientation ``turn`` (4,) in the other [deg]."""
    return math.degrees(math.acos(min(1.0, max(-1.0, float(rotation.matrix(turn)[2, 2])))))


def frame(raw: Observation, estimate: Array, previous: Array) -> Array:
    """(24,) scaled pose in ``estimate``, twist, wrench and ``previous`` (6,) action.

    The inverse hyperbolic sine keeps tenths of a millimetre near the estimate and centimetres far from it.
    """
    position, turn = relative(raw["tool_pose"], estimate)
    return np.concatenate(
        [
            np.arcsinh(position / POSITION_M),
            rotation.to_rotvec(turn) / ROTATION_RAD,
            *felt(raw),
            previous,
        ]
    )


def felt(raw: Observation) -> tuple[Array, Array]:
    """Scaled twist (6,) and wrench (6,) of the tip, in its axes."""
    return raw["tool_twist"] / _TWIST, raw["wrench"] / _WRENCH


def check_ages(ages: Sequence[int]) -> None:
    """Raise ConfigError unless ``ages`` of frames rise from 0."""
    if not ages or ages[0] != 0 or list(ages) != sorted(set(ages)):
        raise ConfigError(f"history: expected rising ages starting with 0, got {tuple(ages)}")


def remember(frames: Sequence[Array], latest: Array, ages: Sequence[int]) -> tuple[list[Array], Array]:
    """Newest-first frames with ``latest`` added, and those of ``ages`` laid end to end as float32.

    Before an episode's first frame there was one like it.
    """
    longest = ages[-1] + 1
    kept = [latest, *frames[: longest - 1]]
    while len(kept) < longest:
        kept.append(latest)
    return kept, np.concatenate([kept[age] for age in ages]).astype(np.float32)


class Aligned:
    """Six numbers in [-1, 1] for a displacement of the tip and an orientation relative to an aligned one.

    Zero turns towards alignment, so that neither rotation noise nor a human's released key wanders (docs/adr/0006).

    Args:
        translation_mm: displacement of the tip by a unit action, along x, y, z of the tip.
        rotation_deg: orientation relative to the aligned one by a unit action, about x, y, z of the tip.
    """

    def __init__(self, translation_mm: Sequence[float], rotation_deg: Sequence[float]) -> None:
        self.translation = 1e-3 * np.array(translation_mm)
        self.rotation = np.deg2rad(rotation_deg)

    def command(self, action: Array, aligned: Array, reference: Array) -> Array:
        """(7,) robot action; turns are limited to what the robot takes in one step.

        Args:
            action: (6,) normalised.
            aligned: (4,) orientation that a zero action asks for.
            reference: (4,) orientation commanded at present.
        """
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        wanted = rotation.multiply(aligned, rotation.from_rotvec(action[3:] * self.rotation))
        turn = rotation.to_rotvec(rotation.multiply(rotation.conjugate(reference), wanted))
        turn *= min(1.0, MAX_TURN / max(math.sqrt(float(turn @ turn)), 1e-9))
        return np.concatenate([action[:3] * self.translation, turn, [0.0]])

    def normalise(self, robot_action: Array, aligned: Array, reference: Array) -> Array:
        """(6,) normalised action of an executed (7,) robot action; exact where ``command`` did not limit."""
        executed = np.asarray(robot_action, dtype=np.float64)
        reached = rotation.multiply(reference, rotation.from_rotvec(executed[3:6]))
        offset = rotation.to_rotvec(rotation.multiply(rotation.conjugate(aligned), reached))
        both = np.concatenate([executed[:3] / self.translation, offset / self.rotation])
        return np.asarray(np.clip(both, -1.0, 1.0), dtype=np.float32)

    def scripted(self, step: Array, aligned: Array, goal: Array, noise: Array) -> Array:
        """(6,) normalised action that moves the tip by ``step`` (3,) in tip axes [m], shortened to what is allowed, and
        turns it to ``goal`` (4,); ``noise`` (6,) is added."""
        offset = rotation.to_rotvec(rotation.multiply(rotation.conjugate(aligned), goal))
        move = step / self.translation
        move /= max(1.0, float(np.abs(move).max()))
        action = np.concatenate([move, offset / self.rotation]) + noise
        return np.asarray(np.clip(action, -1.0, 1.0), dtype=np.float32)


def approach(position: Array, turn: Array, *, near_m: float = 0.0006, near_rad: float = 0.02) -> Array:
    """(3,) displacement in tip axes [m]: over the hole, straighten, go in gently; back out when beside it.

    Args:
        position, turn: pose of the tip in the hole frame, (3,) [m] and (4,).
        near_m, near_rad: how well the tool has to be aligned before it goes in.
    """
    x, y, z = position.tolist()
    aligned = math.hypot(x, y) < near_m and float(np.abs(rotation.to_rotvec(turn)).max()) < near_rad
    if z > 0.002 or (aligned and z > -0.008):
        down = 0.0045
    else:
        down = -0.006 - z + (0.004 if aligned else 0.0)
    return np.asarray(rotation.matrix(rotation.conjugate(turn)) @ [-1.6 * x, -1.6 * y, down])


def search(position: Array, turn: Array, speed: float, *, growth_m: float, reach_m: float, way: float = 1.0) -> Array:
    """(3,) displacement in tip axes [m] of somebody who finds an opening by feel, knowing only the estimate.

    Down onto the estimate, then along a spiral, pressing lightly, until the tool drops in; when an edge of it has
    caught in the opening, lift it while sliding on; when it has come too far, back off and begin anew. What is done
    depends on where the tip is, whether it moves and which way it goes round, and on nothing else, so that it can be
    learned from what is observed.

    Args:
        position, turn: pose of the tip in the estimate, (3,) [m] and (4,).
        speed: of the tip [m/s].
        growth_m: distance of two turns of the spiral.
        reach_m: farthest that is searched.
        way: 1 or -1, the sense of rotation.
    """
    x, y, z = position.tolist()
    radius = math.hypot(x, y)
    if z > 0.002:
        step = [0.0, 0.0, _PUSH_M]
    elif z < -0.0015:
        centred = radius < 0.0008
        step = [-1.2 * x, -1.2 * y, _PUSH_M if centred else min(0.004, max(-0.004, -0.006 - z))]
    elif radius > reach_m:
        step = [-x, -y, -_PUSH_M]
    else:
        along, across = _along_spiral(x, way * y, growth_m)
        caught = z > _CAUGHT_M and speed < _STILL_M_S
        step = [along, way * across, -_PRESS_M if caught else _PRESS_M]
    return np.asarray(rotation.matrix(rotation.conjugate(turn)) @ step)


_PUSH_M, _PRESS_M, _SLIDE_M = 0.006, 0.003, 0.003
"""Displacements commanded when pushing in, pressing on the rim, and sliding along it, against friction."""
_AHEAD_M = 0.0008
"""How far along the spiral the tip comes in a step."""
_CAUGHT_M, _STILL_M_S = 0.00005, 0.002
"""A tip deeper than the first and slower than the second, though pushed along, has caught on the opening's edge."""


def _along_spiral(x: float, y: float, growth_m: float) -> tuple[float, float]:
    """Displacement of length ``_SLIDE_M`` towards the next point of the spiral through (x, y) about the origin [m]."""
    radius, angle = max(math.hypot(x, y), 0.0005), math.atan2(y, x)
    turned = min(_AHEAD_M / radius, 1.5)
    farther = radius + growth_m * turned / (2.0 * math.pi)
    dx, dy = farther * math.cos(angle + turned) - x, farther * math.sin(angle + turned) - y
    scale = _SLIDE_M / max(math.hypot(dx, dy), 1e-9)
    return scale * dx, scale * dy


def as_a_person(position: Array, turn: Array, person: Person) -> Array:
    """``approach`` of somebody who misjudges the hole along x and y, is soon content with the alignment, and slow."""
    misjudged = position - [*person.aim[:2], 0.0]
    return person.pace * approach(misjudged, turn, near_m=0.0018, near_rad=0.05)


def turned(frames: int, quarters: Sequence[int]) -> tuple[Symmetry, ...]:
    """Turns about z by so many quarters, for a state of ``frames`` frames and actions of ``Aligned``.

    Every frame holds vectors in axes that turn along.
    """
    quarter, found = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), []
    for turns in quarters:
        vector = SignedPermutation.of_matrix(np.linalg.matrix_power(quarter, turns))
        state = SignedPermutation.joined(*[vector] * (FRAME // 3 * frames))
        found.append(Symmetry({"state": state}, SignedPermutation.joined(vector, vector)))
    return tuple(found)
