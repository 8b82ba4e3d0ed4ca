"""How a federation averages: what replies weigh, what is absurd, how they travel.

`common.plan` puts this and everything else together; import from there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from common.stages import STRICT, NonNegative, PositiveFloat, PositiveInt
from common.transport import Transport


@dataclass(frozen=True, config=STRICT)
class Aggregation:
    """How replies are weighted, and what makes one absurd.

    Attributes
    ----------
    maximum_share : no site weighs more than this share of a round; what is above goes
        to the others in proportion to their weights. Below 1/sites all weigh the same.
        None = no bound
    maximum_samples : a declared count above this is refused
    maximum_update_norm : refuse larger L2 norms of (reply - sent); 0 = no bound
    round_timeout : seconds a round may last before silent sites count as absent
    transport : number format in messages. ``float32``; or, for half the bytes both
        ways, ``float16`` or ``bfloat16``: sites send rounded differences and the
        coordinator rounded weights, and each end keeps what rounding took for the next
        round (`client.update`, `server.aggregation.advance`)
    """

    weight: Literal["patients", "images", "uniform"] = "patients"
    maximum_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    maximum_samples: PositiveInt = 10_000_000
    maximum_update_norm: NonNegative = 0.0
    round_timeout: PositiveFloat = 86_400.0
    transport: Transport = "float32"
