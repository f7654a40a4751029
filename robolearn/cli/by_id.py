"""Tasks whose name goes on after the colon: ``gym:Pendulum-v1`` is the task ``gym`` with ``--env.id Pendulum-v1``."""

from __future__ import annotations

from robolearn.cli.options import dashed, peek
from robolearn.core import plugins
from robolearn.core.errors import ConfigError

ALIASES = {
    "--env-kwargs": "--env.kwargs",
    "--success-key": "--env.success-key",
    "--success-at": "--env.success-at",
    "--expert": "--env.expert",
    "--action-repeat": "--env.action-repeat",
    "--max-steps": "--env.max-steps",
}
"""Options of these tasks by shorter names."""


def by_id(task: str) -> bool:
    """Whether what follows the colon names an environment rather than a tier."""
    return task in plugins.names("task") and bool(getattr(plugins.load("task", task), "BY_ID", False))


def spell_out(name: str, options: list[str]) -> list[str]:
    """Options with the environment's id and the short names written out.

    Args:
        name: what follows the colon; may be empty.

    Raises:
        ConfigError: two environments are named.
    """
    spelled = [_long(option) for option in options]
    other = peek(spelled, "--env.id")
    if name and other not in (None, name):
        raise ConfigError(f"two environments are given: '{name}' and '{other}'")
    return ["--env.id", name, *spelled] if name and other is None else spelled


def _long(option: str) -> str:
    name, equals, value = option.partition("=")
    return ALIASES.get(dashed(name), name) + equals + value if name.startswith("--") else option
