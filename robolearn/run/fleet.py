"""The robots of a run while it goes on: one that fails is put aside and replaced, or the run goes on with fewer."""

from __future__ import annotations

from collections.abc import Callable

from robolearn.core.errors import LeaseError, RobolearnError, RobotStoppedError
from robolearn.run.children import Child
from robolearn.run.place import Place, Scheduler


class Fleet:
    """Decides what becomes of failures.

    A robot that exists once is quarantined when it latches a stop or its process dies again and again, and an equal
    free one takes its place; without one the run goes on with fewer. A private simulated robot has no equal that is
    any different: its stop is a sign of wrong limits or a wrong task, and ends the run.
    """

    def __init__(
        self, scheduler: Scheduler, *, shared: bool, run: str, steps: Callable[[], int], event: Callable[..., None]
    ) -> None:
        """Prepare.

        Args:
            shared: the robots exist once.
            run: the run directory, for advice.
            steps: robot steps of the run so far.
            event: (event, level, values) for the run's event log.
        """
        self._scheduler, self._shared, self._run = scheduler, shared, run
        self._steps, self._event = steps, event
        self._died_at: dict[str, int] = {}
        self.gone: list[str] = []
        """Robots that the run gave up."""

    def robots(self) -> list[Place]:
        """Where the run's robots are now."""
        return [place for place in self._scheduler.places() if place.grant is not None]

    def lost(self) -> dict[str, str]:
        """Role -> why the lease of its robot is no longer held.

        Raises:
            RobolearnError: the lease of something that cannot be replaced is lost.
        """
        robots = {place.role: place.resource for place in self.robots()}
        lost = self._scheduler.lost()
        for place in self._scheduler.places():
            if place.role in lost and not (self._shared and place.role in robots):
                raise RobolearnError(
                    f"the lease of {place.resource} is lost: {lost[place.role]}; the run stops, go on with: "
                    f"robolearn train --resume {self._run}"
                )
        return {role: why for role, why in lost.items() if role in robots}

    def failed(self, child: Child, error: RobolearnError) -> bool:
        """Answer for ``Children.watch``: True when the worker starts again, on another robot."""
        if not child.robot_of or not self._shared:
            advice = f"; look after it, then go on with: robolearn train --resume {self._run}"
            raise type(error)(f"{error}{advice}") if isinstance(error, RobotStoppedError) else error
        return self.substitute(child.robot_of, error) is not None

    def substitute(self, role: str, error: RobolearnError) -> Place | None:
        """Give up the robot of a role; return where the role is now, or None when the run goes on without it.

        Raises:
            RobolearnError: no robot is left, or the failure is hardly the robot's.
        """
        old = next(place.resource for place in self.robots() if place.role == role)
        broken = isinstance(error, RobotStoppedError | LeaseError)
        if not broken and self._died_at.get(role) == self._steps():
            raise RobolearnError(f"{error}; so it was with the robot before, it is hardly the robot")
        self._died_at[role] = self._steps()
        place = self._scheduler.replace(role, f"{self._run}: {error}", quarantine=not isinstance(error, LeaseError))
        if place is not None and place.resource == old:
            self._event("robot leased again", "warn", robot=old, why=str(error))
            return place
        self.gone.append(old)
        what = "robot lost" if isinstance(error, LeaseError) else "robot quarantined"
        self._event(what, "error", robot=old, why=str(error))
        if place is not None:
            self._event("robot replaced", "warn", robot=old, by=place.resource, worker=role)
            return place
        left = [other.resource for other in self.robots()]
        if not left:
            raise type(error)(
                f"no robot is left ({', '.join(self.gone)}): {error}; robolearn hal check {old}, then: "
                f"robolearn hal clear {old}, then go on with: robolearn train --resume {self._run}"
            )
        self._event("no other robot is free, going on with fewer", "warn", left=left)
        return None
