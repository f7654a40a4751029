"""``robolearn buffer``: look into a replay buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json
from robolearn.core.errors import ConfigError, suggest

WHAT = """Look into a replay buffer (or the buffer of a run).

  robolearn buffer info PATH      what is in it
  robolearn buffer verify PATH    read every byte and say what is wrong; exit status 1 if anything is"""

_ACTIONS = ("info", "verify")


@dataclass(frozen=True)
class BufferOptions:
    """Options of buffer.

    Attributes:
        action: info or verify.
        path: the buffer's directory, or a run directory.
        json: print one JSON document.
    """

    action: Positional[str]
    path: Positional[str]
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Look and print."""
    options = parse(BufferOptions, arguments, verb="buffer", what=WHAT)
    if options.action not in _ACTIONS:
        raise ConfigError(f"unknown action '{options.action}' of buffer{suggest(options.action, _ACTIONS)}")
    from robolearn.run.inventory import buffer_root

    root = buffer_root(Path(options.path))
    return _verify(root, options.json) if options.action == "verify" else _info(root, options.json)


def _verify(root: Path, as_json: bool) -> int:
    from robolearn.buffer.verify import verify

    found = verify(root)
    if as_json:
        print_json(
            {"buffer": root, "ok": found.ok, "rows": found.rows, "episodes": found.episodes, "problems": found.problems}
        )
    else:
        print(f"{root}: {found.rows} rows of {found.episodes} episodes are sound")
        for problem in found.problems:
            print(f"  problem: {problem}")
    return 0 if found.ok else 1


def _info(root: Path, as_json: bool) -> int:
    from robolearn.run.inventory import inventory

    found = inventory(root)
    if as_json:
        print_json(found)
        return 0
    rows = [
        ["episodes", f"{found['episodes']} ({found['successes']} successful, {found['open_episodes']} open)"],
        ["steps", f"{found['steps']} ({found['demo_steps']} of demonstrations)"],
        ["size", f"{found['bytes'] / 2**20:.1f} MiB"],
        *([f"steps by {s}", f"{n}"] for s, n in found["steps_by_source"].items()),
        *([f"steps of {r}", f"{n}"] for r, n in found["steps_by_robot"].items()),
        *([f"observes {k}", " x ".join(map(str, shape))] for k, shape in found["observation"].items()),
        ["action", " x ".join(map(str, found["action"]))],
    ]
    print(found["buffer"])
    print(columns(rows, indent="  "))
    return 0
