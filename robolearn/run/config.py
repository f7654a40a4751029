"""The configuration of a training run (nothing heavy is imported)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from robolearn.teleop.scripted import Config as ScriptedHuman

DEFAULT_SCRIPT = ScriptedHuman()
"""What a scripted person is like where nobody said so: this very object gives way to the ``SCRIPT`` of the family."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. Written as ``config.yaml``; ``env`` and ``policy`` are the plug-ins' own configs.

    Attributes:
        task: task plug-in.
        tier: named difficulty of the task; its values land in ``env``.
        algo: policy plug-in.
        robot: ``DRIVER`` makes private simulated copies; ``DRIVER:INSTANCE`` names a robot that exists once
            (``ros2:/fr3_1``), a comma list several; or names of the site file (``fr3_left``). With ``robot_labels``
            a driver, or empty for any.
        robot_labels: take any free robots of the driver that have these labels: ``site=labA,model=fr3``.
        robots: number of robots (one actor process each); 0: as many as are named, or one. More than are named count
            on from the last name (``/fr3_1``: ``/fr3_2``, ...); named ones that are not needed are spares.
        obs: observe joint and force state, or camera images as well.
        seed: seed of everything random in the run.
        steps: robot steps to train for; 0 takes the task tier's budget.
        demos: scripted demonstrations to record first.
        demos_from: a run directory or buffer whose demonstrations are used instead.
        data: other runs or buffers to learn from as demonstrations, without copying, each with a filter of its steps:
            ``runs/a,runs/b:success,intervention``.
        ram_gb: memory for stored rows and images [GB]; 0 keeps everything there.
        sampling: with ``ram_gb``, ``exact`` draws uniformly and reads images that are not in memory, ``cached`` draws
            what is there, which is exchanged all the time.
        disk_gb: largest size of the run's buffer [GB]: its oldest sealed data goes, never what people gave; 0: none.
        run_dir: where the run lives; empty makes ``runs/<task>-<tier>-<algo>-<n>``.
        base: run whose policy this one starts from (``residual``, ``expo``, ``hg_dagger``, ...); its newest policy is
            copied. Families that cannot do without make one first: ``<run>-base``.
        base_algo: family of a base that is made first.
        reward: what a step is worth: reward plug-ins, added up: ``task``, ``intervention``, ``classifier:DIR``,
            ``task+0.5*intervention``; not ``keys``, until a device gives labels; empty: what the family expects, else
            the task's own.
        human: who corrects while it trains: ``script``, a scripted person in simulation, ``none``, or ``auto``: a
            scripted one for families that learn from corrections.
        script: what that person is like; by default as the family wants it.
        realtime: step simulated robots in real time while they train; evaluation does not wait. Robots that exist once
            always run in real time.
        headless: no live view even in a terminal.
        eval_episodes: episodes of the final, policy-only evaluation on unseen seeds.
        eval_experts: evaluate the scripted experts of the task as well; by default on private robots only.
        eval_every: robot steps between evaluations of the learning curve; 0 for none, -1: 1000, but none on robots that
            exist once, whose own time it would take.
        eval_curve_episodes: episodes of each of those.
        checkpoint_every_s: seconds between checkpoints.
        publish_every: learner calls between weight publications.
        device: where to learn; ``auto`` takes a GPU when there is one.
        wait: seconds to wait for a leased resource before failing.
        video: record a video of the final policy.
        env: task configuration.
        policy: policy configuration.
    """

    task: str = "peg_insert"
    tier: str = "default"
    algo: str = "rlpd"
    robot: str = "fr3_sim"
    robot_labels: str = ""
    robots: int = 0
    obs: Literal["state", "pixels"] = "state"
    seed: int = 0
    steps: int = 0
    demos: int = 20
    demos_from: str = ""
    data: str = ""
    ram_gb: float = 0.0
    sampling: Literal["exact", "cached"] = "exact"
    disk_gb: float = 0.0
    run_dir: str = ""
    base: str = ""
    base_algo: str = "flow"
    reward: str = ""
    human: Literal["auto", "none", "script"] = "auto"
    script: ScriptedHuman = field(default_factory=lambda: DEFAULT_SCRIPT)
    realtime: bool = False
    headless: bool = False
    eval_episodes: int = 100
    eval_experts: bool | None = None
    eval_every: int = -1
    eval_curve_episodes: int = 20
    checkpoint_every_s: float = 30.0
    publish_every: int = 5
    device: Literal["auto", "cpu", "cuda"] = "auto"
    wait: float = 0.0
    video: bool = True
    env: Any = None
    policy: Any = None


@dataclass(frozen=True)
class RunPaths:
    """Where everything of a run lies."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def command(self) -> Path:
        """The command line that started the run."""
        return self.root / "command.txt"

    @property
    def environment(self) -> Path:
        """Versions, git revision, machine."""
        return self.root / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, see docs/run-directory.md."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Things that happened, one JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def status(self) -> Path:
        """Current state, replaced atomically about once a second."""
        return self.root / "status.json"

    @property
    def results(self) -> Path:
        """Final numbers."""
        return self.root / "results.json"

    @property
    def counters(self) -> Path:
        """Counters shared by the processes of the run."""
        return self.root / "counters.bin"

    @property
    def evaluation(self) -> Path:
        """Episodes of the final evaluation, one JSON object a line, a file per process."""
        return self.root / "evaluation"

    @property
    def logs(self) -> Path:
        """What the processes of the run printed."""
        return self.root / "logs"

    @property
    def buffer(self) -> Path:
        """The replay buffer."""
        return self.root / "buffer"

    @property
    def base(self) -> Path:
        """The policy that the run started from."""
        return self.root / "base"

    @property
    def reward(self) -> Path:
        """What the run's reward was made of when it started: a copy of its classifier."""
        return self.root / "reward"

    @property
    def demonstrations(self) -> Path:
        """Where the demonstrations came from, once all of them are in the buffer."""
        return self.root / "demonstrations.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the learner."""
        return self.root / "checkpoints"

    @property
    def learner_lock(self) -> Path:
        """Locked by the learner while it lives."""
        return self.root / "learner.lock"

    @property
    def supervisor_lock(self) -> Path:
        """Locked by the supervisor while it lives."""
        return self.root / "supervisor.lock"

    @property
    def weights(self) -> Path:
        """Weights on their way from learner to actors."""
        return self.root / "weights"

    @property
    def videos(self) -> Path:
        """Videos."""
        return self.root / "videos"

    @property
    def plots(self) -> Path:
        """Pictures of learning curves."""
        return self.root / "plots"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.root / "tensorboard"

    @property
    def report(self) -> Path:
        """The self-contained report."""
        return self.root / "report.html"
