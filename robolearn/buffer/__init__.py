"""Every transition is kept: durable logs and segments, an index, and a tier in memory to sample from.

The classes a program needs to write and to sample; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robolearn.buffer.replay import Replay
    from robolearn.buffer.schema import Schema
    from robolearn.buffer.writer import Writer

__all__ = ["Replay", "Schema", "Writer"]

_PLACES = {"Replay": "replay", "Schema": "schema", "Writer": "writer"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'robolearn.buffer' has no attribute '{name}'")
    return getattr(import_module(f"robolearn.buffer.{_PLACES[name]}"), name)
