"""Which robots a run means: names, instances that exist once, and any with certain labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, RobolearnError, suggest
from robolearn.hal import site
from robolearn.hal.lease_types import Request, Status
from robolearn.hal.resources import Resource
from robolearn.run.config import TrainConfig

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


@dataclass(frozen=True)
class RobotRef:
    """One robot.

    Attributes:
        driver: plug-in that speaks to it.
        instance: which one; empty for a private simulated copy, which belongs to one run and is made when it is needed.
        declared: whether the site file says that it is simulated; None where the driver knows.
        labels: what people say about it, for example ``{"site": "labA"}``.
    """

    driver: str
    instance: str = ""
    declared: bool | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Nothing and nobody can be hurt. A driver may have to ask the robot.

        Raises:
            RobolearnError: it does not answer.
        """
        return is_simulated(self.name) if self.declared is None else self.declared

    @property
    def name(self) -> str:
        """``DRIVER`` or ``DRIVER:INSTANCE``."""
        return f"{self.driver}:{self.instance}" if self.instance else self.driver

    @property
    def shared(self) -> bool:
        """True for a robot that exists once and that others may ask for too."""
        return bool(self.instance)

    def resource(self, known: Iterable[Status] = ()) -> Resource:
        """What is leased; labels that are known already stay."""
        old = next((row.resource.labels for row in known if row.resource.id == self.name), {})
        labels = {**old, **self.labels, "driver": self.driver}
        return Resource(self.name, "robot", labels, simulated=self.simulated, seen_epoch=seen_epoch(self.name))


@dataclass(frozen=True)
class Choice:
    """The robots a run asks for.

    Attributes:
        count: how many.
        named: those that are named, in order; the first ``count`` are wanted, the others are spares. Empty when any
            will do.
        labels: what each must have, where none is named.
        private: the robots are simulated copies of the run's own.
    """

    count: int
    named: tuple[RobotRef, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    private: bool = False

    def resources(self, root: Path, known: Sequence[Status] = ()) -> list[Resource]:
        """What has to be in the lease table before the requests are made; spares that do not answer are left out.

        Raises:
            RobolearnError: a robot that is wanted does not answer.
        """
        if self.private:
            (ref,) = self.named
            return [
                Resource(private_id(ref.driver, root, i), "robot", {"private": ref.driver}, simulated=ref.simulated)
                for i in range(self.count)
            ]
        wanted = [ref.resource(known) for ref in self.named[: self.count]]
        for spare in self.named[self.count :]:
            with suppress(RobolearnError):
                wanted.append(spare.resource(known))
        return wanted or found_robots()

    def requests(self, root: Path) -> list[Request]:
        """One request for each robot, in order."""
        if self.private:
            return [Request("robot", private_id(self.named[0].driver, root, i)) for i in range(self.count)]
        if self.named:
            return [Request("robot", ref.name) for ref in self.named[: self.count]]
        return [Request("robot", labels=dict(self.labels))] * self.count

    @property
    def wanted(self) -> str:
        """For people: what is asked for."""
        if self.named:
            return ", ".join(ref.name for ref in self.named)
        return " ".join(f"{key}={value}" for key, value in self.labels.items())


def private_id(driver: str, root: Path, index: int) -> str:
    """Resource of a private copy: it belongs to the run directory, so that two runs do not disturb each other while
    nobody can drive one run twice."""
    return f"{driver}:{root}/{index}"


def choose(config: TrainConfig) -> Choice:
    """The robots a configuration asks for.

    Raises:
        ConfigError: unknown driver or name, a name that cannot be counted on, or real hardware without a name.
    """
    if config.robot_labels:
        return _by_labels(config)
    named = parse_robots(config.robot)
    if not named[0].shared:
        if not named[0].simulated:
            raise ConfigError(f"{config.robot} is real hardware; say which one: --robot {config.robot}:INSTANCE")
        return Choice(config.robots or 1, named, private=True)
    count = config.robots or len(named)
    return Choice(count, tuple(_count_on(named, count)))


def shared(config: TrainConfig) -> bool:
    """True when the run's robots exist once: leased, in real time, and evaluated on what is leased."""
    return bool(config.robot_labels) or config.robot not in plugins.names("robot")


def parse_robots(text: str) -> tuple[RobotRef, ...]:
    """``DRIVER``, ``DRIVER:INSTANCE,...`` or names of the site file, as references.

    Raises:
        ConfigError: unknown driver or name, an empty or repeated instance.
    """
    driver, colon, instances = text.partition(":")
    if not colon:
        if driver in plugins.names("robot"):
            return (RobotRef(driver),)
        found = tuple(_of_site(name.strip()) for name in text.split(","))
    else:
        plugins.locate("robot", driver)
        known = {robot.id: name for name, robot in site.load().robots.items()}
        ids = [f"{driver}:{instance.strip()}" for instance in instances.split(",")]
        found = tuple(_of_site(known[name]) if name in known else RobotRef(*split_robot(name)) for name in ids)
    names = [ref.name for ref in found]
    if "" in [ref.instance for ref in found] or len(set(names)) != len(names):
        raise ConfigError(f"--robot {text}: expected DRIVER:INSTANCE,INSTANCE,... with different instances")
    return found


def reference(name: str) -> RobotRef:
    """The one robot of a name."""
    found = parse_robots(name)
    if len(found) != 1:
        raise ConfigError(f"--robot {name}: expected one robot")
    return found[0]


def parse_labels(text: str) -> dict[str, str]:
    """``site=labA,model=fr3`` as a mapping.

    Raises:
        ConfigError: a part is no ``KEY=VALUE``.
    """
    labels = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"--robot-labels: expected KEY=VALUE,..., got '{part}'")
        labels[key] = value
    return labels


def split_robot(name: str) -> tuple[str, str]:
    """``"fr3_sim:bench1"`` -> driver ``"fr3_sim"`` and instance ``"bench1"`` (empty when not named)."""
    driver, _, instance = name.partition(":")
    return driver, instance


def is_simulated(name: str) -> bool:
    """False for real hardware: drivers, or instances of them, that do not say that they are simulated."""
    driver, instance = split_robot(name)
    module = plugins.load("robot", driver)
    asked = getattr(module, "simulated", None)
    return bool(asked(instance) if instance and asked is not None else getattr(module, "SIMULATED", False))


def seen_epoch(name: str) -> int:
    """Highest lease epoch a robot's driver has seen; 0 where drivers do not remember one."""
    driver, instance = split_robot(name)
    asked = getattr(plugins.load("robot", driver), "seen_epoch", None)
    return int(asked(instance)) if instance and asked is not None else 0


def driver_config(module: ModuleType, instance: str) -> Any:
    """The driver's configuration of a named robot, or its defaults."""
    of_instance = getattr(module, "of_instance", None)
    return of_instance(instance) if instance and of_instance is not None else module.Config()


def found_robots() -> list[Resource]:
    """The robots that the probes find: those of the site file, and those that answer."""
    found: dict[str, Resource] = {}
    for name in plugins.names("probe"):
        for resource in plugins.load("probe", name).probe().resources:
            if resource.kind == "robot":
                found.setdefault(resource.id, resource)
    return list(found.values())


def equal_labels(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two robots can stand in for each other: the same driver, model and site."""
    return all(one.get(key) == other.get(key) for key in ("driver", "model", "site"))


def _by_labels(config: TrainConfig) -> Choice:
    labels = parse_labels(config.robot_labels)
    if ":" in config.robot:
        raise ConfigError(f"--robot-labels takes any robot that has them; name the driver only, not {config.robot}")
    if config.robot:
        plugins.locate("robot", config.robot)
        labels["driver"] = config.robot
    return Choice(config.robots or 1, labels=labels)


def _count_on(named: Sequence[RobotRef], count: int) -> list[RobotRef]:
    """``named``, and names that count on from the last one until there are ``count``."""
    robots = list(named)
    if len(robots) >= count:
        return robots
    match = _NUMBERED.match(robots[-1].instance)
    if match is None or robots[-1].declared is not None:
        raise ConfigError(
            f"--robots {count}: {len(robots)} are named and '{robots[-1].name}' cannot be counted on from; "
            "name all of them, separated by commas"
        )
    last, number, names = robots[-1], int(match[2]), {ref.name for ref in robots}
    while len(robots) < count:
        number += 1
        instance = f"{match[1]}{number:0{len(match[2]) if match[2].startswith('0') else 1}d}"
        if f"{last.driver}:{instance}" not in names:
            robots.append(replace(last, instance=instance))
    return robots


def _of_site(name: str) -> RobotRef:
    place = site.load()
    if name not in place.robots:
        raise ConfigError(f"unknown robot '{name}'{suggest(name, [*plugins.names('robot'), *place.robots])}")
    robot = place.robots[name]
    return RobotRef(robot.driver, robot.instance, robot.simulated, {**robot.labels, "name": name})
