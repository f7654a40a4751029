"""``robolearn buffer``: look into a replay buffer, copy it, prune it and edit it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from robolearn.core.errors import ConfigError, suggest

ACTIONS = {
    "info": ("buffer_look", "PATH", "what is in it"),
    "verify": ("buffer_look", "PATH", "read every byte and say what is wrong; --repair keeps what is sound"),
    "export": ("buffer_copy", "PATH OUT", "write it in another project's format"),
    "import": ("buffer_copy", "SOURCE PATH", "read another project's format into it"),
    "merge": ("buffer_copy", "SOURCE ... PATH", "copy episodes of other buffers into it"),
    "prune": ("buffer_edit", "PATH", "drop old segments; demonstrations and corrections stay"),
    "archive": ("buffer_edit", "PATH", "recode images of old segments as JPEG; cannot be undone"),
    "tag": ("buffer_edit", "PATH", "change marks, tags and rewards of episodes"),
    "seal": ("buffer_edit", "PATH", "turn closed logs into segments"),
    "add-key": ("buffer_edit", "PATH KEY", "give it one more observation key"),
}
"""Action -> module of this package, arguments, what it does. The module has a function of that name."""


def usage() -> str:
    """The text of ``robolearn buffer --help``."""
    lines = [(f"robolearn buffer {action} {given}", what) for action, (_, given, what) in ACTIONS.items()]
    width = max(len(line) for line, _ in lines)
    table = "\n".join(f"  {line:<{width}}  {what}" for line, what in lines)
    return (
        "usage: robolearn buffer ACTION PATH ... [OPTIONS]\n\n"
        "Look into a replay buffer, copy it, prune it and edit it. PATH is its directory, or a run directory.\n\n"
        f"{table}\n\n"
        "All take --json. robolearn buffer ACTION --help shows options.\n"
        "Filters (--select) are conditions joined by commas, e.g. success,robot=arm1 or 'demo|intervention' or\n"
        "'policy>=10,!truncated'.\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Find the action and do it."""
    if not arguments:
        raise ConfigError(f"buffer: which action? (have: {', '.join(ACTIONS)})")
    if arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        raise SystemExit(0)
    action = arguments[0]
    if action not in ACTIONS:
        raise ConfigError(f"unknown action '{action}' of buffer{suggest(action, ACTIONS)}")
    module = importlib.import_module(f"robolearn.cli.{ACTIONS[action][0]}")
    status: int = module.ACTIONS[action](arguments[1:])
    return status
