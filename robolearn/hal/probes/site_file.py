"""What the site file declares: robots, cameras and devices that nothing can find by itself."""

from __future__ import annotations

from pathlib import Path

from robolearn.core.errors import ConfigError
from robolearn.hal import site
from robolearn.hal.resources import Found


def probe(path: Path | None = None) -> Found:
    """Everything in the site file; without one, nothing."""
    try:
        return Found(site.load(path).resources())
    except ConfigError as error:
        return Found(problem=str(error))
