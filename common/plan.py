"""The plan: the one document that a federation agrees on.

A plan is a tree of frozen dataclasses. It is written as canonical JSON, and the SHA-256
of those bytes is its identity: every message carries that hash, every site stores the
hash it approved, and a run folder refuses a plan with another one.

Only what every hospital must agree on is in here. Data folders, devices, threads and
run folders are local settings and never enter the hash.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from common.averaging import Aggregation
from common.canonical import canonical_json, sha256_hex
from common.stages import (
    STRICT,
    Augmentation,
    Fraction,
    Model,
    Objective,
    Optimizer,
    PositiveInt,
    Slug,
    Stage,
    Work,
    check_norm_domains,
)
from common.vendors import VendorIntent

__all__ = [
    "Aggregation",
    "Augmentation",
    "Evaluation",
    "Model",
    "Objective",
    "Optimizer",
    "Plan",
    "PlanError",
    "Preprocessing",
    "Roster",
    "Slug",
    "Split",
    "Stage",
    "Start",
    "Target",
    "Work",
    "plan_from_json",
    "plan_from_mapping",
    "plan_to_json",
    "read_plan",
]


class PlanError(ValueError):
    """A plan that cannot be used; the text names the field and the remedy."""


@dataclass(frozen=True, config=STRICT)
class Roster:
    """Which hospitals take part, and how many a round needs.

    Attributes
    ----------
    sites : every site of the federation, in the order in which sums are formed
    required : sites without which no round counts
    minimum_sites : a round with fewer counted replies fails the run
    permitted_absences : rounds any one site may miss before the run fails; None = any
    stale_after : a site whose local state is older than so many rounds re-estimates its
        BatchNorm statistics before it is evaluated and trains on; None = never. The
        default is a judgement, not measured: after a few missed rounds the statistics
        still fit the weights, and a pass over all images would cost more than it mends;
        beyond them they describe a network that is no longer there
    """

    sites: tuple[Slug, ...]
    required: tuple[Slug, ...] = ()
    minimum_sites: PositiveInt = 1
    permitted_absences: Annotated[int, Field(ge=0)] | None = None
    stale_after: Annotated[int, Field(ge=0)] | None = 5

    @model_validator(mode="after")
    def _consistent(self) -> Roster:
        if not self.sites or len(set(self.sites)) != len(self.sites):
            raise ValueError("roster.sites must name at least one site, each once")
        if unknown := set(self.required) - set(self.sites):
            raise ValueError(f"roster.required names {sorted(unknown)}, not in sites")
        if self.minimum_sites > len(self.sites):
            raise ValueError(
                f"roster.minimum_sites is {self.minimum_sites}, "
                f"but only {len(self.sites)} sites are listed"
            )
        return self


@dataclass(frozen=True, config=STRICT)
class Target:
    """What counts as positive. Importers record facts; only this decides.

    Attributes
    ----------
    field : manifest column that holds the fact
    at_least : a value of this or more is positive (pathology 1, or BI-RADS 4)
    unit : what one label belongs to; ``image`` only where patients are unknown
    label_sources : accepted values of ``label_source``
    """

    field: Literal["cancer_pathology", "birads"] = "cancer_pathology"
    at_least: int = 1
    unit: Literal["breast", "image"] = "breast"
    label_sources: tuple[
        Literal["pathology", "registry", "radiologist", "dataset", "assumed"], ...
    ] = ("pathology", "registry", "dataset")


ModalityKind = Literal["FFDM", "SFM", "SYNTH2D", "DBT", "CESM_LE"]


@dataclass(frozen=True, config=STRICT)
class Preprocessing:
    """How pixels become the cached image; part of the cache's identity.

    Attributes
    ----------
    modalities : accepted values of ``modality_kind``
    tomosynthesis : of ``DBT``: ``slab`` = one image, the maximum over all slices;
        ``slices`` = evenly spaced slices, each an image
    slices : how many of a volume; unused for a slab
    voi : ``first`` = first valid VOI LUT, else first window; ``none`` = stored range
    voi_of : exceptions, by vendor, or by vendor and presentation intent:
        ``{"siemens": "none", "ge/unknown": "none"}``; the closer one wins
    repeats : of several images of one breast and view: ``all``, or ``best`` = the one
        with the implant displaced, else the largest, else the latest
    crop : ``breast`` = bounding box of the breast, chest wall kept; ``none``
    rows, columns : size of the cached image; aspect kept, padded with 0
    """

    modalities: tuple[ModalityKind, ...] = ("FFDM",)
    tomosynthesis: Literal["slab", "slices"] = "slab"
    slices: PositiveInt = 8
    voi: Literal["first", "none"] = "first"
    voi_of: dict[VendorIntent, Literal["first", "none"]] = field(default_factory=dict)
    repeats: Literal["all", "best"] = "all"
    crop: Literal["breast", "none"] = "breast"
    rows: PositiveInt = 128
    columns: PositiveInt = 64


@dataclass(frozen=True, config=STRICT)
class Split:
    """Shares of patients; each patient's part depends on its key and ``seed`` only."""

    train: Fraction = 0.55
    validation: Fraction = 0.15
    test: Fraction = 0.30
    seed: int = 0
    official: bool = False

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if abs(self.train + self.validation + self.test - 1.0) > 1e-9:
            raise ValueError("split.train + validation + test must be 1")
        return self


@dataclass(frozen=True, config=STRICT)
class Start:
    """Where the first stage's weights come from.

    ``checkpoint`` names its content by hash: the file itself is a local setting.
    """

    kind: Literal["random", "checkpoint", "imagenet"] = "random"
    sha256: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _checkpoint_is_hashed(self) -> Start:
        if (self.kind == "checkpoint") != bool(self.sha256):
            raise ValueError(
                "start.sha256 belongs to start.kind=checkpoint, and only there"
            )
        return self


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """The evaluation protocol, the same for every arm.

    Attributes
    ----------
    selection : validation metric whose mean over sites selects the round
    trailing : evaluations in the trailing mean; ties go to the later round
    at_specificity : the threshold gives this specificity on validation
    replicates : bootstrap resamples of patients
    minimum_class : fewer positive or negative patients give no interval
    """

    selection: Literal["roc_auc", "average_precision"] = "roc_auc"
    trailing: PositiveInt = 3
    at_specificity: Fraction = 0.90
    replicates: PositiveInt = 2000
    minimum_class: PositiveInt = 10


@dataclass(frozen=True, config=STRICT)
class Plan:
    """Everything a federation agrees on.

    Attributes
    ----------
    id : short name, used in paths
    version : of mammofed; all sites must run it
    smoke_test : accepts unknown patients (every image its own), claims nothing
    seed : initial weights, batch order and augmentation derive from it
    threads : pins torch threads to reproduce a run; None leaves it to the site
    """

    id: Slug
    version: str
    roster: Roster
    stages: tuple[Stage, ...]
    target: Target = field(default_factory=Target)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    split: Split = field(default_factory=Split)
    start: Start = field(default_factory=Start)
    aggregation: Aggregation = field(default_factory=Aggregation)
    evaluation: Evaluation = field(default_factory=Evaluation)
    precision: Literal["auto", "float32"] = "auto"
    seed: int = 0
    smoke_test: bool = False
    threads: PositiveInt | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError("stages must hold at least one stage, each name once")
        check_norm_domains(self.stages)
        return self

    @property
    def rounds(self) -> int:
        """Rounds over all stages; they are numbered from 1 without a break."""
        return sum(stage.rounds for stage in self.stages)

    def stage_at(self, round_: int) -> int:
        """Return the index of the stage that a round belongs to.

        Round 0, the start, belongs to the first stage.
        """
        last = 0
        for number, stage in enumerate(self.stages):
            last += stage.rounds
            if round_ <= last:
                return number
        raise PlanError(f"round {round_} is beyond the plan's {self.rounds} rounds")

    def first_round(self, stage: int) -> int:
        """Return the first round of a stage, counted over the run."""
        return 1 + sum(earlier.rounds for earlier in self.stages[:stage])

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return sha256_hex(plan_to_json(self))


_PLAN = TypeAdapter(Plan)


def plan_from_mapping(mapping: dict[str, Any]) -> Plan:
    """Check a nested mapping and turn it into a plan.

    Raises
    ------
    PlanError
        Naming every unknown or ill-typed field by its path.
    """
    try:
        return _PLAN.validate_python(mapping)
    except ValidationError as error:
        raise PlanError(_explain(error)) from None


def plan_from_json(text: bytes) -> Plan:
    """Parse a plan that came as JSON; the same checks as `plan_from_mapping`."""
    try:
        return _PLAN.validate_json(text)
    except ValidationError as error:
        raise PlanError(_explain(error)) from None


def plan_to_json(plan: Plan) -> bytes:
    """Write the canonical form: sorted keys, no spaces, UTF-8; hash these bytes."""
    return canonical_json(_PLAN.dump_python(plan, mode="json"))


def read_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises
    ------
    PlanError
        If the file is missing or is not a plan.
    """
    if not path.is_file():
        raise PlanError(f"No plan at {path}. Make one: mammo-plan out={path}")
    return plan_from_json(path.read_bytes())


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "plan"
        reason = item["msg"].removeprefix("Value error, ")
        lines.append(f"  {where}: {reason}")
    return "The plan is not valid:\n" + "\n".join(lines)
