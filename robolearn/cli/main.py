"""The ``robolearn`` command: finds the verb and runs it. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from robolearn import __version__
from robolearn.core.errors import ConfigError, RobolearnError, suggest

VERBS = {
    "train": "teach a policy a task; also goes on with a stopped run (--resume RUN)",
    "eval": "how often the policy of a run succeeds, on episodes nobody trained on",
    "rollout": "run the policy of a run and film it",
    "record": "record scripted demonstrations",
    "report": "write the report of a run: one HTML file with curves, numbers and video",
    "tasks": "list the tasks and their tiers",
    "policies": "list the algorithms",
    "buffer": "look into replay buffers, copy, prune and edit them",
    "reward": "what a step is worth: train a success classifier, judge stored episodes anew",
    "hal": "robots and compute, and who has them: ls, quarantine, clear",
    "host": "robot hosts under ROS 2: up, ls, status, stop, reset",
    "doctor": "check this machine, and say how to mend what is wrong",
}
"""Verb -> what it does; the module of the same name in this package does it."""

_MODULES = {"eval": "evaluate"}

_INTERRUPTED, _USAGE, _FAILED, _OK = 130, 2, 1, 0


def usage() -> str:
    """The text of ``robolearn --help``."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    return (
        "usage: robolearn VERB [OPTIONS]\n\n"
        "Teach robots: real and simulated arms, durable replay, learning while they move.\n\n"
        f"verbs:\n{verbs}\n\n"
        "  robolearn VERB --help      options of a verb\n"
        "  robolearn --version        version\n\n"
        "start here:\n"
        "  robolearn train peg_insert:smoke      learn an easy peg insertion, a few minutes\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        Exit status: 0 done, 1 it failed, 2 the command line or configuration is wrong, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except RobolearnError as error:
        complain(str(error))
        return _USAGE if isinstance(error, ConfigError) else _FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) is gone; keep the interpreter from complaining again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except OSError as error:
        complain(": ".join(filter(None, (str(error.filename or ""), error.strerror or str(error)))))
        return _FAILED


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"robolearn: error: {' '.join(message.split())}", file=sys.stderr)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return _OK
    if arguments[0] == "--version":
        print(f"robolearn {__version__}")
        return _OK
    verb = arguments[0]
    if verb not in VERBS:
        raise ConfigError(f"unknown verb '{verb}'{suggest(verb, VERBS)}")
    module = importlib.import_module(f"robolearn.cli.{_MODULES.get(verb, verb)}")
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
