"""One stage of a plan: model, sharing, objective, optimiser, work.

`common.plan` puts stages and everything else together; import from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import (
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic.dataclasses import dataclass

from common.parts import Part, parse_sharing

STRICT = ConfigDict(extra="forbid")

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


@dataclass(frozen=True, config=STRICT)
class Model:
    """A backbone and its named head; see ``common.models.build_model``.

    Attributes
    ----------
    widths, blocks : of ``resnet_small`` only; empty = that model's default
    head : name of the head; a new name in a later stage starts a new head
    mean, scale : the input is ``(x - mean) / scale`` with x in [0, 1]
    """

    name: Slug = "resnet_small"
    widths: tuple[PositiveInt, ...] = ()
    blocks: tuple[PositiveInt, ...] = ()
    channels: Literal[1, 3] = 1
    head: Slug = "malignancy"
    outputs: PositiveInt = 1
    mean: float = 0.2
    scale: PositiveFloat = 0.2


@dataclass(frozen=True, config=STRICT)
class Optimizer:
    """The local optimiser.

    Attributes
    ----------
    state : ``reset`` = new optimiser each round; ``keep`` = carried on at the site
    schedule : over the rounds of the stage; ``cosine`` falls to zero
    proximal : weight mu of FedProx, (mu/2) * squared distance of shared trainable
        tensors to the received ones (Li et al. 2020); 0 = FedAvg
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.05
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 1e-4
    state: Literal["reset", "keep"] = "reset"
    schedule: Literal["constant", "cosine"] = "constant"
    proximal: NonNegative = 0.0


Setting = StrictBool | StrictInt | StrictFloat | StrictStr | tuple[PositiveInt, ...]

Objective = dict[Slug, dict[Slug, Setting]]
"""The local loss, a sum: each term's name in ``client.objectives``, its ``weight`` (1
where it is not given), and whatever else that term takes. What a term takes is known
where it is built, at the sites; they check it when they approve and at the handshake.
"""


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """Random changes of the training images, drawn per image on the device.

    Attributes
    ----------
    rotation : degrees, uniform in [-rotation, rotation]
    shift : share of the image size; zoom : share; gamma : of ln(gamma)
    noise : standard deviation in units of [0, 1]
    flip : probability of turning the image upside down
    """

    rotation: NonNegative = 0.0
    shift: NonNegative = 0.0
    zoom: NonNegative = 0.0
    gamma: NonNegative = 0.0
    noise: NonNegative = 0.0
    flip: Fraction = 0.0


@dataclass(frozen=True, config=STRICT)
class Work:
    """How much a site trains in one round: epochs over its data, or steps.

    Attributes
    ----------
    sampler : ``shuffle`` takes every image once an epoch; ``balanced`` fills each batch
        alike from every class of every domain (``Stage.domain``), so that images of
        small ones come more often. Evaluation corrects for the odds it trains at
    """

    unit: Literal["epochs", "steps"] = "epochs"
    amount: PositiveInt = 1
    batch_size: PositiveInt = 32
    drop_last: bool = True
    sampler: Literal["shuffle", "balanced"] = "shuffle"


@dataclass(frozen=True, config=STRICT)
class Stage:
    """One part of a run with one model, one sharing preset and one objective.

    Attributes
    ----------
    sharing : preset name or four letters ``s``/``l`` for trunk, norm_affine,
        norm_stats, head; see ``common.parts``
    trainable : parts that the local optimiser moves; empty with ``reestimate``
    norm_mode : ``batch``, ``frozen`` (running statistics stand still) or
        ``reestimate`` (a label-free pass replaces them)
    norm_domain : ``vendor`` = a site keeps norm layers for each vendor among its images
        (Chang et al. 2019); only where neither part of them travels
    domain : what tells the images of a site apart for objectives that align domains,
        and for the balanced sampler; ``site``: nothing, but where several hospitals are
        pooled in a simulation they are told apart
    """

    name: Slug
    rounds: PositiveInt
    sharing: str = "fedbn_head"
    trainable: tuple[Literal["trunk", "norm_affine", "head"], ...] = (
        "trunk",
        "norm_affine",
        "head",
    )
    norm_mode: Literal["batch", "frozen", "reestimate"] = "batch"
    norm_domain: Literal["site", "vendor"] = "site"
    task: Literal["malignancy"] = "malignancy"
    model: Model = field(default_factory=Model)
    domain: Literal["site", "vendor", "model", "view"] = "site"
    objective: Objective = field(default_factory=lambda: {"ce": {}})
    optimizer: Optimizer = field(default_factory=Optimizer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    work: Work = field(default_factory=Work)

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        parse_sharing(self.sharing)
        if self.norm_domain == "vendor" and shares_norms(self.sharing):
            raise ValueError(
                f"stage {self.name}: norm_domain=vendor keeps norm layers for each "
                f"vendor at the site, but sharing={self.sharing} averages some of "
                "theirs. Use a sharing with both parts local, such as fedbn_head, or "
                "norm_domain=site"
            )
        if self.norm_domain == self.domain == "vendor":
            raise ValueError(
                f"stage {self.name}: with norm_domain=vendor a batch holds images of "
                "one vendor, so domain=vendor has nothing to tell apart in it. Use "
                "norm_domain=site, or domain=view"
            )
        if not self.objective:
            raise ValueError(
                f"stage {self.name}: objective names no term; "
                "objective={ce: {}} is the plain one"
            )
        for name, settings in self.objective.items():
            weight = settings.get("weight", 1.0)
            if isinstance(weight, bool | str | tuple) or weight <= 0:
                raise ValueError(
                    f"stage {self.name}: objective.{name}.weight must be a number "
                    "above 0; a term that is not wanted is left out"
                )
        if (self.norm_mode == "reestimate") != (not self.trainable):
            raise ValueError(
                f"stage {self.name}: norm_mode=reestimate trains nothing "
                "(trainable=[]), and every other mode trains something"
            )
        return self

    def sharing_letters(self) -> dict[Part, bool]:
        """Tell for each part whether the server averages it."""
        return parse_sharing(self.sharing)


def shares_norms(sharing: str) -> bool:
    """Tell whether a sharing averages any part of the norm layers."""
    letters = parse_sharing(sharing)
    return letters["norm_affine"] or letters["norm_stats"]


def check_norm_domains(stages: Sequence[Stage]) -> None:
    """Refuse to turn the norm layers of several vendors into one again.

    Raises
    ------
    ValueError
        Naming the two stages.
    """
    for before, after in pairwise(stages):
        if (before.norm_domain, after.norm_domain) == ("vendor", "site"):
            raise ValueError(
                f"stage {after.name} has norm_domain=site after stage {before.name} "
                "with norm_domain=vendor: norm layers of several vendors have no rule "
                "by which they become one. Keep vendor to the end of the run"
            )
