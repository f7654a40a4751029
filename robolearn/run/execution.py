"""How the policy of a run executes its plans: as trained, as somebody asks, or as the pace of the robot allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from robolearn.core import plugins
from robolearn.core.errors import ConfigError
from robolearn.core.types import Base
from robolearn.policies.parts.execution import Execution


def executed(algo: str, policy: Any, base: Base | None, execution: Mapping[str, Any]) -> tuple[Any, Base | None]:
    """Configuration and base of a policy that executes its plans otherwise than as trained.

    Args:
        algo: family.
        policy: its configuration.
        base: what the run started from.
        execution: changes of the ``Execution`` of whoever plans, e.g. ``{"mode": "realtime", "delay": 2}``.

    Raises:
        ConfigError: nobody plans, the plans are those of a frozen base, or they cannot be executed like this.
    """
    family = plugins.load("policy", algo)
    if acting := getattr(family, "ACTING", ""):  # one of several families acts
        if base is not None:
            return policy, replace(base, config=_changed(base.algo, base.config, execution))
        name = getattr(policy, acting)
        return replace(policy, **{name: _changed(name, getattr(policy, name), execution)}), None
    if base is not None and getattr(family, "BASE", "") == "wanted":
        raise ConfigError(
            f"{algo} decides at every step, around its frozen base ('{base.algo}'), whose plans can only be executed "
            "as they were while it learned"
        )
    return _changed(algo, policy, execution), base


def _changed(algo: str, config: Any, execution: Mapping[str, Any]) -> Any:
    if not hasattr(config, "execution"):
        raise ConfigError(f"{algo} decides at every step; it has no plans that could be executed otherwise")
    waits = {"delay": 0, "threaded": False} if execution.get("mode") in ("receding", "ensemble") else {}
    return replace(config, execution=replace(config.execution, **{**waits, **execution}))


def emulated(config: Any) -> Any:
    """A family's configuration with every ``Execution`` in it as it is where nothing is in real time."""
    if isinstance(config, Execution):
        return config.emulated()
    if not is_dataclass(config) or isinstance(config, type):
        return config
    old = {field.name: getattr(config, field.name) for field in fields(config) if field.init}
    new = {name: emulated(value) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name]}
    return replace(config, **changed) if changed else config
