"""What ``bench_learning.py`` runs: every case beside the figure that it is there for."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One command line of ``robolearn train``, up to its seed.

    Attributes:
        name: of the case and of its run directories.
        task: ``TASK:TIER``.
        algo: policy family.
        options: everything else.
        base: case whose run of the same seed gives the demonstrations.
        starts_from_base: and the policy to start from (``--base``).
        experts: examine the scripted experts on the same episodes.
        labelled_like: case with corrections; this one gets as many demonstrations as make up, with the mean length of
            those that it began with, the steps that people drove there, demonstrations and corrections together.
    """

    name: str
    task: str
    algo: str
    options: tuple[str, ...] = ()
    base: Case | None = None
    starts_from_base: bool = field(default=True, kw_only=True)
    experts: bool = field(default=False, kw_only=True)
    labelled_like: Case | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Evaluation:
    """A trained case, executed in another way.

    Attributes:
        options: of ``robolearn eval``.
    """

    name: str
    of: Case
    options: tuple[str, ...]


def _peg() -> list[Case | Evaluation]:
    """RLPD on the tiers of peg insertion, beside no demonstrations and cloning."""
    cases: list[Case | Evaluation] = []
    for tier in ("smoke", "default", "hard"):
        task = f"peg_insert:{tier}"
        cases.append(Case(f"{tier}-rlpd", task, "rlpd", experts=True))
        cases.append(Case(f"{tier}-rlpd-no-demos", task, "rlpd", ("--demos", "0")))
        cases.append(Case(f"{tier}-bc", task, "bc"))
    return cases


def _imitate(task: str, algo: str) -> Case:
    return Case(f"{task}-{algo}", f"{task}:default", algo, experts=algo == "bc")


IMITATION = [_imitate(task, algo) for task in ("pick_place", "charger") for algo in ("bc", "flow", "diffusion")]
"""20 demonstrations: at least 90 % with diffusion and flow; cloning with an MLP worse somewhere."""


@dataclass(frozen=True)
class Refined:
    """A task with a base that is half good.

    Attributes:
        algo, demos: family of the base, and how many demonstrations make it half good.
        steps: of every run.
        residual: further options of residual RL.
    """

    task: str
    tier: str
    algo: str
    demos: int
    steps: int
    residual: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its cases, up to the family."""
        return f"{self.task}-{self.tier}"

    @property
    def base(self) -> Case:
        """The half-good clone."""
        return Case(f"{self.name}-base", f"{self.task}:{self.tier}", self.algo, ("--demos", str(self.demos)))

    def case(self, label: str, algo: str, *options: str) -> Case:
        """A run that starts from the base, or from nothing but its demonstrations."""
        alone = algo == "rlpd"
        options = ("--steps", str(self.steps), *(self.residual if algo == "residual" else ()), *options)
        return Case(f"{self.name}-{label}", self.base.task, algo, options, self.base, starts_from_base=not alone)


PEG = Refined("peg_insert", "smoke", "bc", 20, 4_000, ("--policy.actor-after", "500"))
CHARGER = Refined("charger", "default", "bc", 3, 6_000)


def _refine() -> list[Case | Evaluation]:
    """A base of 30 to 70 %: at least 95 % within 20,000 steps; EXPO in no more steps than RLPD."""
    return [
        case
        for task in (PEG, CHARGER)
        for case in (task.base, *(task.case(algo, algo) for algo in ("residual", "expo", "rlpd")))
    ]


def _ablations() -> list[Case | Evaluation]:
    """What should lose."""
    return [
        PEG.case("residual-scale-0", "residual", "--policy.scale", "0"),
        PEG.case("rlpd-no-layernorm", "rlpd", "--policy.no-layer-norm"),
        Case(f"{PEG.name}-rlpd-no-demos", PEG.base.task, "rlpd", ("--demos", "0")),
    ]


def _corrections() -> list[Case | Evaluation]:
    """People who help, beside nobody; corrections beside as many steps of plain demonstrations."""
    cap, peg, pick = "cap_tighten:default", "peg_insert:smoke", "pick_place:hard"
    curve = ("--steps", "4000", "--eval-every", "500", "--eval-curve-episodes", "50")
    few = Case("hg-base", pick, "flow", ("--demos", "5"))
    corrected = Case("hg-dagger", pick, "hg_dagger", ("--steps", "4500", "--policy.pretrain", "0"), few)
    return [
        few,
        corrected,
        Case("hg-plain", pick, "flow", labelled_like=corrected),
        Case("cap-hil-rlpd", cap, "hil_rlpd", curve),
        Case("cap-hil-rlpd-nobody", cap, "hil_rlpd", ("--human", "none", *curve)),
        Case("cap-rlpd", cap, "rlpd", curve),
        Case("rlif-weak", peg, "rlif", ("--script.skill", "WEAK"), experts=True),
    ]


def _execution() -> list[Case | Evaluation]:
    """Two steps of delay, with and without real-time chunking."""
    flow = _imitate("pick_place", "flow")
    ways = {"none": (), "ensemble": ("--mode", "ensemble")}
    cases: list[Case | Evaluation] = [Evaluation(f"delay-{name}", flow, options) for name, options in ways.items()]
    for mode in ("naive", "realtime"):
        cases.append(Evaluation(f"delay-2-{mode}", flow, ("--mode", mode, "--delay", "2")))
    return cases


SUITES: dict[str, list[Case | Evaluation]] = {
    "peg": _peg(),
    "imitation": list(IMITATION),
    "refine": _refine(),
    "ablations": _ablations(),
    "corrections": _corrections(),
    "execution": _execution(),
}
