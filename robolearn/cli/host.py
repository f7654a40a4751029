"""``robolearn host``: start a robot host, look at running ones, stop and reset them."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import tyro

from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json
from robolearn.core.errors import ConfigError, RobolearnError, suggest
from robolearn.hal.leases import default_path
from robolearn.ros import specs

if TYPE_CHECKING:
    from robolearn.ros.remote import Remote

WHAT = """A robot host: the process beside an arm that guards it. It needs ROS 2 (rclpy), but not the launch tool.

  robolearn host up                              a simulated arm and its host in /fr3_1, until Ctrl-C
  robolearn host up --robot fr3_left             the host of a real arm of the site file: it can move
  robolearn host ls                              hosts of this ROS domain
  robolearn host status /fr3_1                   mode, stop, counts, jitter
  robolearn host stop /fr3_1 --why TEXT          stop the arm and latch; no safety-rated emergency stop
  robolearn host reset /fr3_1 --person NAME      clear a latched stop, after a look at the arm"""

_ACTIONS = ("up", "ls", "status", "stop", "reset")


@dataclass(frozen=True)
class HostOptions:
    """Options of host.

    Attributes:
        action: up, ls, status, stop or reset.
        name: namespace of a running host, for status, stop and reset.
        robot: up: fr3_sim (simulated), or a robot of the site file.
        namespace: up: namespace of the robot; empty takes its own.
        params_file: up: YAML file of ROS parameters, which win over all others.
        task: up: task whose scene stands around a simulated arm, optionally TASK:TIER.
        cameras: up: cameras of a simulated arm, separated by commas.
        robots: up: how many simulated robots, in namespaces that count up.
        log_level: up: debug, info, warn, error or fatal.
        dry_run: up: print the command lines and start nothing.
        why: stop: the reason; noted in the state directory.
        person: reset: who has looked at the arm; noted in the state directory.
        wait: how long to look for a running host [s].
        json: print one JSON document.
    """

    action: tyro.conf.Positional[str]
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAMESPACE]")] = ""
    robot: str = "fr3_sim"
    namespace: str = ""
    params_file: str = ""
    task: str = "peg_insert"
    cameras: str = ""
    robots: int = 1
    log_level: str = "info"
    dry_run: bool = False
    why: str = ""
    person: str = ""
    wait: float = 10.0
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Do what the action says; exit status of ``up`` is that of the node that ended it."""
    options = parse(HostOptions, arguments, verb="host", what=WHAT)
    if options.action not in _ACTIONS:
        raise ConfigError(f"unknown action '{options.action}' of host{suggest(options.action, _ACTIONS)}")
    if options.action == "up":
        if options.name:
            raise ConfigError(
                f"host up: unexpected '{options.name}'; name a robot with --robot, a place with --namespace"
            )
        return _up(options)
    if options.action == "ls":
        return _ls(options)
    if not options.name:
        raise ConfigError(f"host {options.action}: which host? give its namespace; robolearn host ls lists them")
    if options.action == "reset" and not options.person:
        raise ConfigError("host reset: who has looked at the arm? --person NAME")
    return {"status": _status, "stop": _stop, "reset": _reset}[options.action](options)


def _up(options: HostOptions) -> int:
    task, _, tier = options.task.partition(":")
    nodes = specs.robot_host(
        robot=options.robot,
        namespace=options.namespace,
        params_file=options.params_file,
        task=task,
        tier=tier or "default",
        cameras=options.cameras,
        robots=options.robots,
        log_level=options.log_level,
    )
    if options.dry_run:
        lines = [specs.command(node) for node in nodes]
        print_json({"commands": lines}) if options.json else print("\n".join(map(shlex.join, lines)))
        return 0
    from robolearn.ros.context import require_rclpy
    from robolearn.ros.processes import Group
    from robolearn.ros.shared_memory import sweep

    require_rclpy()
    sweep()
    spaces = list(dict.fromkeys(node.namespace for node in nodes))
    with ExitStack() as stack:
        stop = stack.enter_context(_stop_flag())
        # Only once the processes are there: this one must not have threads of ROS when it forks.
        ready = _Ready(spaces, stack)
        return Group(_say, os.environ).run(nodes, stopping=stop.is_set, tick=ready.look)


class _Ready:
    """Says once that all hosts are up."""

    def __init__(self, spaces: Sequence[str], stack: ExitStack) -> None:
        self._spaces, self._waiting, self._stack = spaces, set(spaces), stack
        self._hosts: Remote | None = None

    def look(self) -> None:
        """Never waits."""
        if not self._waiting:
            return
        if self._hosts is None:
            from robolearn.ros.remote import remote

            self._hosts = self._stack.enter_context(remote())
        self._waiting = {space for space in self._waiting if not _well(self._hosts.newest(space))}
        if not self._waiting:
            _say("", f"ready: {_train(self._spaces)}")


def _well(status: Mapping[str, str] | None) -> bool:
    """A host that is heard and has nothing to complain about, such as an arm that says nothing."""
    return status is not None and not status.get("trouble")


@contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """Set by SIGINT, SIGTERM and SIGHUP; a second signal hurries nobody, since all end within two seconds."""
    event = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda signum, frame: event.set()) for number in numbers]
    try:
        yield event
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _say(label: str, line: str) -> None:
    """A line of output; a reader that has gone away must not end the robot's host half-way."""
    try:
        print(f"[{label}] {line}" if label else line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends


def _train(spaces: Sequence[str]) -> str:
    robots = f" --robots {len(spaces)}" if len(spaces) > 1 else ""
    return f"robolearn train peg_insert --robot ros2:{spaces[0]}{robots}"


def _ls(options: HostOptions) -> int:
    from robolearn.ros.remote import remote

    with remote() as hosts:
        found = {space: hosts.status(space, options.wait) for space in hosts.hosts(options.wait)}
    if options.json:
        print_json({"hosts": found})
        return 0
    if not found:
        from robolearn.ros.context import domain_id

        print(f"no robot host on ROS domain {domain_id()}; start one: robolearn host up")
        return 0
    rows = [[space, s.get("mode", ""), s.get("model", ""), s.get("message", "")] for space, s in found.items()]
    print(columns(rows, head=("host", "mode", "model", "")))
    return 0


def _status(options: HostOptions) -> int:
    from robolearn.ros.remote import remote, told

    with remote() as hosts:
        status = hosts.status(specs.absolute(options.name), options.wait)
    print_json(status) if options.json else print(told(status))
    return 0


def _stop(options: HostOptions) -> int:
    return _trigger(options, "estop")


def _reset(options: HostOptions) -> int:
    return _trigger(options, "reset")


def _trigger(options: HostOptions, service: str) -> int:
    from robolearn.ros.remote import remote

    space = specs.absolute(options.name)
    with remote() as hosts:
        done, words = hosts.trigger(space, service, options.wait)
    _note(space, {"action": options.action, "why": options.why, "person": options.person, "done": done, "said": words})
    if not done:
        raise RobolearnError(f"{space}: {options.action} refused: {words}")
    if options.json:
        print_json({"host": space, "done": options.action, "message": words})
    else:
        print(f"{space}: {words or 'done'}")
    return 0


def _note(space: str, values: Mapping[str, object]) -> None:
    """Who did what and why, a line in ``hosts/NAMESPACE.log`` of the state directory: the services carry no words."""
    path = default_path().parent / "hosts" / f"{space.strip('/').replace('/', '-')}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "user": getpass.getuser(), **values}
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line, ensure_ascii=False) + "\n")
