"""What every ROS 2 process here shares: finding rclpy, contexts, quality of service, polled subscriptions.

rclpy is imported by the functions, never with this module, so that a machine without ROS can import everything.
``SENSOR``, ``COMMAND``, ``STATE`` and ``NEWEST`` are ``rclpy.qos.QoSProfile``, made when first asked for:

    SENSOR   best effort, last 5: measurements and images
    COMMAND  reliable, last 1: what an arm shall do
    STATE    reliable, last 10: joint states as ros2_control publishes them, status
    NEWEST   best effort, last 1: for subscribers; it matches both kinds of publishers
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import MissingDependencyError

if TYPE_CHECKING:
    SENSOR: Any
    COMMAND: Any
    STATE: Any
    NEWEST: Any

_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
_PROFILES = {"SENSOR": (False, 5), "COMMAND": (True, 1), "STATE": (True, 10), "NEWEST": (False, 1)}
_PRIORITY = 20
_AFTER_ERROR_S = 0.01
HOST_NODE = "robot_host"
"""Name of the node of every robot host."""


def __getattr__(name: str) -> Any:
    if name not in _PROFILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_rclpy()
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

    reliable, depth = _PROFILES[name]
    profile = QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )
    globals()[name] = profile
    return profile


def require_rclpy() -> Any:
    """Import rclpy and return it.

    Raises:
        MissingDependencyError: one line that says what is wrong with the ROS installation and what to do: rclpy is
            absent, its shared libraries are not found, or libraries of two installations are mixed.
    """
    if "rclpy" in sys.modules and hasattr(sys.modules["rclpy"], "init"):
        _preload()
        return sys.modules["rclpy"]
    spec = importlib.util.find_spec("rclpy")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "rclpy (ROS 2 for Python) is not installed: pip install 'robolearn[ros]' -c constraints.txt, or on a host "
            "with ROS of its own: source that ROS's setup.bash and use the Python it was built for"
        )
    home = Path(spec.origin).resolve().parent
    _refuse_mixture(home)
    try:
        rclpy = importlib.import_module("rclpy")
        importlib.import_module("rclpy.impl.implementation_singleton")
        _preload()
    except (ImportError, AttributeError, OSError) as error:
        for name in [name for name in sys.modules if name == "rclpy" or name.startswith("rclpy.")]:
            del sys.modules[name]  # a second try must not meet half a package
        raise MissingDependencyError(_diagnose(home, error)) from error
    return rclpy


def _preload() -> None:
    """Import what the first node would, quietly: a parser among it uses a deprecated module of Python."""
    if "rosidl_generator_py" in sys.modules:
        return
    with warnings.catch_warnings(), suppress(ImportError):
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("rosidl_generator_py")


def _in_environment(path: Path) -> bool:
    return path.is_relative_to(Path(sys.prefix).resolve())


def _refuse_mixture(home: Path) -> None:
    """ROS from this environment's wheels must not find another installation's libraries: it would crash or hang."""
    if not _in_environment(home):
        return
    for entry in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        folder = Path(entry).resolve()
        if (folder / "librcl.so").exists() and not _in_environment(folder):
            raise MissingDependencyError(
                f"two ROS installations are mixed: rclpy is {home}, but LD_LIBRARY_PATH leads to {folder}; "
                f"unset LD_LIBRARY_PATH {_GUARD} (and source no setup.bash), or use that ROS's own Python"
            )


def _diagnose(home: Path, error: BaseException) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if not _in_environment(home):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"rclpy of another ROS installation ({home}) does not load in this Python {version}: {reason}; use the "
            "Python that ROS was built for, or unset PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH "
            "and pip install 'robolearn[ros]' -c constraints.txt"
        )
    libraries = str(Path(sys.prefix) / "lib")
    if os.environ.get(_GUARD) and libraries not in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        return (
            f"rclpy cannot find its libraries: {_GUARD} is set but LD_LIBRARY_PATH lacks {libraries} "
            f"(sudo, systemd or a cleaned environment); unset {_GUARD}, or pass both variables"
        )
    return f"rclpy does not load ({reason}); reinstall it: pip install --force-reinstall 'robolearn[ros]'"


def clean_env(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment (default: this process's) for a child that is not of this Python environment.

    Without it the child would load this environment's ROS libraries.
    """
    env = dict(os.environ if env is None else env)
    if env.pop(_GUARD, None) is None:
        return env
    prefix = Path(sys.prefix)
    kept = [p for p in env.pop("LD_LIBRARY_PATH", "").split(os.pathsep) if p and not Path(p).is_relative_to(prefix)]
    if kept:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
    return env


def profile_path() -> Path:
    """The Fast DDS profile with which raw images arrive; ``FASTDDS_DEFAULT_PROFILES_FILE`` makes it used."""
    return Path(__file__).parent / "config" / "fastdds_profile.xml"


def with_profile(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` with the profile of ``profile_path``, unless it names another."""
    return {"FASTDDS_DEFAULT_PROFILES_FILE": str(profile_path()), **env}


def domain_id(env: Mapping[str, str] | None = None) -> str:
    """The ROS domain of this process, as text."""
    return (os.environ if env is None else env).get("ROS_DOMAIN_ID", "") or "0"


@contextmanager
def context(domain: int | None = None, args: Sequence[str] | None = None) -> Iterator[Any]:
    """An rclpy context of its own, without signal handlers; shut down at the end.

    Sees to it that this process uses ``with_profile``: the middleware reads it once, with the first node.

    Args:
        domain: ROS domain; None: ``ROS_DOMAIN_ID``.
        args: command line with ``--ros-args``; None: no arguments.

    Raises:
        MissingDependencyError: see ``require_rclpy``.
    """
    rclpy = require_rclpy()
    from rclpy.signals import SignalHandlerOptions

    os.environ.update(with_profile(os.environ))
    own = rclpy.Context()
    rclpy.init(
        args=list(args or ()),
        context=own,
        domain_id=domain,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    try:
        yield own
    finally:
        if own.ok():
            rclpy.shutdown(context=own)


def take_priority() -> str:
    """Ask for real-time priority for this thread and those it starts, else for a better nice value; what was granted.

    Processes started later inherit it: start those that compute much before.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except (OSError, AttributeError):
        pass
    else:
        return f"SCHED_FIFO {_PRIORITY}"
    try:
        return f"nice {os.nice(-10)}"
    except OSError:
        return f"nice {os.nice(0)} (real time was refused; grant rtprio or CAP_SYS_NICE for steadier timing)"


class SpinThread:
    """Serves the callbacks of nodes (services, parameters, timers) in one thread; a context manager.

    Not for data at high rates: see ``Newest``. A callback that raises is told and the thread goes on: one bad message
    must not take the services away.
    """

    def __init__(self, nodes: Iterable[Any], on_error: Callable[[BaseException], None] | None = None) -> None:
        """Start; ``on_error`` gets what callbacks raise (default: the first node's log)."""
        require_rclpy()
        from rclpy.executors import SingleThreadedExecutor

        self._nodes = list(nodes)
        self._on_error = on_error or self._log
        self._ended = threading.Event()
        self._executor = SingleThreadedExecutor(context=self._nodes[0].context)
        for node in self._nodes:
            self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name="ros-spin", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        while self._executor.context.ok() and not self._ended.is_set():
            try:
                self._executor.spin_once()
            except ExternalShutdownException:
                return
            except Exception as error:  # noqa: BLE001  # whatever a callback raises
                if not self._ended.is_set():
                    self._on_error(error)
                    self._ended.wait(_AFTER_ERROR_S)

    def _log(self, error: BaseException) -> None:
        self._nodes[0].get_logger().error(f"a callback failed: {type(error).__name__}: {error}")

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the thread and wait for it; idempotent. The nodes stay alive."""
        self._ended.set()
        self._executor.shutdown(timeout_sec=timeout_s)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """True while the thread serves; False after ``stop`` or a shut-down context."""
        return self._thread.is_alive()

    def __enter__(self) -> SpinThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Newest:
    """A subscription that is polled: no executor and no callback touch it, whoever spins the node.

    Attributes:
        message: the last message taken; None before the first.
        received_ns: when it arrived, in the clock's time; 0 before the first.
        count: messages taken so far.
    """

    def __init__(
        self, node: Any, kind: type, topic: str, qos: Any = None, *, clock: Clock | None = None, raw: bool = False
    ) -> None:
        """Subscribe ``node`` to ``topic`` (relative names get its namespace).

        Args:
            qos: default ``NEWEST``.
            raw: messages are bytes; ``rclpy.serialization.deserialize_message`` makes them messages.
        """
        require_rclpy()
        from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

        group = MutuallyExclusiveCallbackGroup()
        profile = __getattr__("NEWEST") if qos is None else qos
        self._node = node
        self._subscription = node.create_subscription(kind, topic, self._called, profile, callback_group=group, raw=raw)
        self._waiting: deque[Any] = deque()
        self._executor: Any = None
        if hasattr(self._subscription, "handle") and hasattr(self._subscription.handle, "take_message"):
            group.beginning_execution(self._subscription)  # busy for ever: executors leave it alone
        else:
            from rclpy.executors import SingleThreadedExecutor

            self._executor = SingleThreadedExecutor(context=node.context)
        self._kind, self._raw = kind, raw
        self._clock: Clock = clock or MonotonicClock()
        self._polled_ns = self._clock.now_ns()
        self.message: Any = None
        self.received_ns = 0
        self.count = 0

    def take(self) -> Any:
        """The newest message that arrived since the last call, or None; older ones are dropped. Never waits."""
        newest: Any = None
        while taken := self._next():
            newest = taken
        self._look([] if newest is None else [newest])
        return None if newest is None else self.message

    def take_all(self, limit: int = sys.maxsize) -> list[tuple[Any, int]]:
        """What has arrived since the last call and when [ns], oldest first; beyond ``limit`` it stays queued."""
        found: list[tuple[Any, int]] = []
        while len(found) < limit and (taken := self._next()):
            found.append(taken)
        return self._look(found)

    def _look(self, found: Sequence[tuple[Any, int]]) -> list[tuple[Any, int]]:
        """Remember the last message; give all of them with the time of their arrival in our clock."""
        now, wall_now = self._clock.now_ns(), time.time_ns()
        # The middleware stamps arrival in wall time; the bounds hold whatever happens to that clock.
        longest = now - self._polled_ns
        timed = [(message, now - (min(max(wall_now - wall, 0), longest) if wall else 0)) for message, wall in found]
        if timed:
            self.message, self.received_ns = timed[-1]
        self._polled_ns = now
        return timed

    @property
    def publishers(self) -> int:
        """How many publishers the topic has now."""
        return int(self._subscription.get_publisher_count())

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _next(self) -> tuple[Any, int] | None:
        """The oldest message that waits, and when it arrived in wall time [ns] (0: unknown)."""
        if self._executor is not None:
            if not self._waiting:
                self._spin()
            return (self._waiting.popleft(), 0) if self._waiting else None
        handle = self._subscription.handle
        with handle:
            taken = handle.take_message(self._kind, self._raw)
        if taken is None:
            return None
        self.count += 1
        return taken[0], int(taken[1]["received_timestamp"])

    def _spin(self) -> None:
        """Where messages cannot be taken directly: let an executor of our own deliver what waits."""
        before = -1
        self._executor.add_node(self._node)
        try:
            while before != self.count:
                before = self.count
                self._executor.spin_once(timeout_sec=0.0)
        finally:
            self._executor.remove_node(self._node)

    def _called(self, message: Any) -> None:
        self._waiting.append(message)
        self.count += 1


def robot_hosts(node: Any) -> tuple[str, ...]:
    """Namespaces in which a robot host is visible now, sorted."""
    return tuple(sorted(space for name, space in node.get_node_names_and_namespaces() if name == HOST_NODE))


def missing_host(namespace: str, hosts: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """One line for a robot host that does not answer: where we looked, what is visible, what would work."""
    env = os.environ if env is None else env
    where = f"no robot host in {namespace} on ROS domain {domain_id(env)}"
    reach = env.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    if hosts:
        return f"{where}; visible there: {', '.join(hosts)}"
    limits = f" (ROS_AUTOMATIC_DISCOVERY_RANGE={reach} hides other machines)" if reach in ("LOCALHOST", "OFF") else ""
    return (
        f"{where}, nor in any namespace{limits}; start it (robolearn host up --namespace {namespace}), "
        "or set ROS_DOMAIN_ID to the host's"
    )
