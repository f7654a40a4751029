"""Robots whose holder vanished: looked at, and given free again where nobody can be hurt."""

from __future__ import annotations

from robolearn.core import plugins
from robolearn.core.errors import LeaseError, RobolearnError
from robolearn.hal.check import Finding, failures, passed
from robolearn.hal.lease_types import Status
from robolearn.hal.leases import LeaseTable
from robolearn.run.robots import Choice, split_robot


def mend(table: LeaseTable, choice: Choice, *, may_raise: bool = True) -> list[str]:
    """Clear suspect simulated robots of a choice whose driver finds them sound; return their ids.

    A robot is suspect when its holder died or fell silent. Of a simulated one the driver's ``check`` decides; without
    a check, a dead holder is enough (the table's own rule). Real robots are left to people.

    Raises:
        LeaseError: a robot that is asked for by name is not sound.
    """
    wanted = [ref.name for ref in choice.named[: choice.count]]
    cleared = []
    for row in table.status():
        if row.resource.kind != "robot" or row.state != "suspect" or not _meant(row, choice):
            continue
        name = row.resource.id
        if not row.resource.simulated or not _checkable(name):
            continue
        findings = _look(name)
        if passed(findings):
            table.clear_checked(name, findings)
            cleared.append(name)
        elif may_raise and name in wanted:
            raise LeaseError(
                f"{name} is suspect and its check failed: {_told(findings)}; robolearn hal check {name} says more"
            )
    return cleared


def unsound(name: str) -> str:
    """What the driver's own check finds wrong with a robot; empty when it is sound or cannot be asked."""
    if not _checkable(name):
        return ""
    findings = _look(name)
    return "" if passed(findings) else _told(findings)


def _look(name: str) -> list[Finding]:
    driver, instance = split_robot(name)
    try:
        return list(plugins.load("robot", driver).check(instance))
    except (RobolearnError, OSError) as error:
        return [Finding("check", False, str(error))]


def _told(findings: list[Finding]) -> str:
    return "; ".join(f"{finding.name}: {finding.value}" for finding in failures(findings)) or "nothing was checked"


def _checkable(name: str) -> bool:
    driver, _ = split_robot(name)
    return driver in plugins.names("robot") and hasattr(plugins.load("robot", driver), "check")


def _meant(row: Status, choice: Choice) -> bool:
    if choice.named:
        return row.resource.id in {ref.name for ref in choice.named}
    return all(row.resource.labels.get(key) == value for key, value in choice.labels.items())
