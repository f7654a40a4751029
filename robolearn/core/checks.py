"""Checks of numbers in a configuration, for ``__post_init__``; each names the field, what it is and what it must be.

``of`` is what the field is called by the user, before its name: ``bc.`` where it is ``--policy.lr`` of family ``bc``.
Not-a-number passes none.
"""

from __future__ import annotations

from robolearn.core.errors import ConfigError


def at_least(config: object, least: float, *names: str, of: str = "") -> None:
    """Raise ConfigError for a field below ``least``."""
    for name in names:
        if not getattr(config, name) >= least:
            raise ConfigError(f"{of}{name} is {getattr(config, name)}; it must be at least {least:g}")


def positive(config: object, *names: str, of: str = "") -> None:
    """Raise ConfigError for a field that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{of}{name} is {getattr(config, name)}; it must be positive")


def within(config: object, low: float, high: float, *names: str, of: str = "", open_end: bool = False) -> None:
    """Raise ConfigError for a field outside [low, high], or [low, high) with ``open_end``."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high or (open_end and value == high):
            end = ")" if open_end else "]"
            raise ConfigError(f"{of}{name} is {value}; it must lie within [{low:g}, {high:g}{end}")
