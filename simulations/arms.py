"""The arms of a comparison: one base plan, changed in exactly one respect each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.plan import Plan, Roster, Stage, Start
from common.stages import shares_norms
from common.transport import Transport

POOLED = "pooled"
"""Name of the one site that holds everybody's images in the pooled arm."""


@dataclass(frozen=True)
class Arm:
    """One way of using the same hospitals' images.

    Attributes
    ----------
    title : for the report
    sharing : preset of every stage
    pooled : all images in one place
    proximal : mu of FedProx
    after : arm whose finished model this one starts from
    transport : number format of its messages
    """

    title: str
    sharing: str
    pooled: bool = False
    proximal: float = 0.0
    after: str = ""
    transport: Transport = "float32"


ARMS: dict[str, Arm] = {
    "local_only": Arm("each hospital alone", "local"),
    "pooled": Arm("all images in one place (not possible in reality)", "fedavg", True),
    "fedavg": Arm("everything averaged", "fedavg"),
    "fedavg_local_stats": Arm(
        "fedavg, then BatchNorm statistics re-estimated at each site",
        "silobn",
        after="fedavg",
    ),
    "fedprox": Arm("fedavg with a pull to the shared weights", "fedavg", proximal=0.01),
    "silobn": Arm("BatchNorm statistics local", "silobn"),
    "fedbn": Arm("BatchNorm local", "fedbn"),
    "fedbn_head": Arm("BatchNorm and head local", "fedbn_head"),
    "fedbn_head_float16": Arm(
        "BatchNorm and head local, messages in float16",
        "fedbn_head",
        transport="float16",
    ),
    "fedbn_head_bfloat16": Arm(
        "BatchNorm and head local, messages in bfloat16",
        "fedbn_head",
        transport="bfloat16",
    ),
}


def arm_of(name: str) -> Arm:
    """Look an arm up; four letters such as ``slsl`` are an arm of that sharing.

    Raises
    ------
    ValueError
        If it is neither; says what there is.
    """
    if name in ARMS:
        return ARMS[name]
    if len(name) == 4 and set(name) <= {"s", "l"}:
        return Arm(f"sharing {name}", name)
    raise ValueError(
        f"arm {name!r} is unknown; there are {', '.join(ARMS)}, and four letters s/l"
    )


def plan_for(name: str, base: Plan, *, seed: int, rate: float | None = None) -> Plan:
    """Derive an arm's plan from the base plan.

    Norm layers for each vendor are for arms that average no part of a norm; the others
    keep ``norm_domain: site``, or they would not be those arms.

    With ``work.unit: steps`` the pooled arm takes as many steps per round as all sites
    of the others together, so every arm sends the same number of images forward and
    backward (where every site has at least one full batch).

    Parameters
    ----------
    name : of the arm, see `arm_of`
    base : plan of the experiment
    seed : replaces the plan's
    rate : learning rate of every stage; None keeps the plan's

    Returns
    -------
    A plan with ``<id>_<arm>`` as its id.
    """
    arm = arm_of(name)
    stages = tuple(_stage(stage, arm, base, rate) for stage in base.stages)
    roster = base.roster
    if arm.pooled:
        roster = Roster(sites=(POOLED,))
    elif arm.sharing == "local":
        roster = replace(roster, minimum_sites=1)
    aggregation = base.aggregation
    if arm.transport != "float32":
        aggregation = replace(aggregation, transport=arm.transport)
    return replace(
        base,
        id=f"{base.id}_{name}",
        seed=seed,
        stages=stages,
        roster=roster,
        aggregation=aggregation,
    )


def _stage(stage: Stage, arm: Arm, base: Plan, rate: float | None) -> Stage:
    work, optimizer = stage.work, stage.optimizer
    if arm.pooled and work.unit == "steps":
        work = replace(work, amount=work.amount * len(base.roster.sites))
    if rate is not None:
        optimizer = replace(optimizer, learning_rate=rate)
    if arm.proximal:
        optimizer = replace(optimizer, proximal=arm.proximal)
    return replace(
        stage,
        sharing=arm.sharing,
        norm_domain="site" if shares_norms(arm.sharing) else stage.norm_domain,
        work=work,
        optimizer=optimizer,
    )


def restatistics_plan(base: Plan, source_hash: str, source: str, seed: int) -> Plan:
    """Make the plan of ``fedavg_local_stats``: one pass that trains nothing.

    Parameters
    ----------
    source_hash : content hash of the finished model's tensors
    source : where they come from, in words
    """
    last = base.stages[-1]
    stage = replace(
        last,
        name="local_statistics",
        rounds=1,
        sharing="silobn",
        norm_domain="site",
        trainable=(),
        norm_mode="reestimate",
    )
    return replace(
        base,
        id=f"{base.id}_fedavg_local_stats",
        seed=seed,
        stages=(stage,),
        start=Start("checkpoint", source_hash, source),
    )


def check_arms(names: Sequence[str]) -> None:
    """Refuse unknown arms and those whose forerunner is not in the list before them.

    Raises
    ------
    ValueError
        Naming the arm and what to do.
    """
    for position, name in enumerate(names):
        after = arm_of(name).after
        if after and after not in names[:position]:
            raise ValueError(f"arm {name} needs {after} before it in the list of arms")
