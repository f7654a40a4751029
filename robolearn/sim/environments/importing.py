"""Modules of the user's own: found in the current directory as well, whichever way robolearn was started."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robolearn.core.errors import ConfigError, suggest


def here() -> None:
    """Let modules of the current directory be imported, after all others."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def load_callable(what: str, address: str) -> Callable[..., Any]:
    """What ``module:callable`` names.

    Args:
        what: the option, for messages.

    Raises:
        ConfigError: no such module or callable, or importing it failed.
    """
    here()
    name, _, attribute = address.partition(":")
    if not name or not attribute:
        raise ConfigError(f"{what}: expected MODULE:CALLABLE, got '{address}'")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{what}: '{name}' cannot be imported from {os.getcwd()}: {told(error)}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(found) if not key.startswith("_")] if hasattr(found, "__dict__") else []
            raise ConfigError(f"{what}: '{name}' has no '{attribute}'{suggest(part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{what}: '{address}' is {type(found).__name__}, expected something to call")
    return found  # type: ignore[no-any-return]


def told(error: BaseException) -> str:
    """Type, message and place of an error of somebody else's code, in one line."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})" if frame is not None else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + text if text else ''}{place}"
