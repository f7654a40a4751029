"""Errors a user can act on. Everything robolearn raises on purpose derives from RobolearnError."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobolearnError(Exception):
    """Base of all errors raised on purpose; the CLI prints its message without a traceback."""


class ConfigError(RobolearnError):
    """A configuration key or value is wrong."""


class SpecError(RobolearnError, ValueError):
    """An array does not match its ArraySpec."""


class StoreError(RobolearnError):
    """The replay buffer cannot be read or written as asked."""


class CorruptDataError(StoreError):
    """Stored bytes fail their checksum or structure."""


class LeaseError(RobolearnError):
    """A resource cannot be leased, or a lease is no longer valid."""


class StaleEpochError(LeaseError):
    """A command carries an older epoch than the driver has seen: somebody else holds the robot now."""


class RobotStoppedError(RobolearnError):
    """The robot is stopped and latched; a person has to clear it."""


class MissingDependencyError(RobolearnError):
    """An optional library or system package is absent; the message says what to install."""


class ResumeError(RobolearnError):
    """A run cannot be resumed as asked."""


class TrainingDivergedError(RobolearnError):
    """Losses or values of a learner have left what is possible; the message says which, since when, what to change."""


def suggest(got: str, names: Iterable[str]) -> str:
    """A hint like ``; did you mean 'x'? (have: x, y)`` for an unknown name."""
    have = sorted(names)
    near = difflib.get_close_matches(got, have, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{hint} (have: {', '.join(have) or 'none'})"
