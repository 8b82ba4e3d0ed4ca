"""A site that joined after a plan was made: it may receive what the others share.

It takes no part in training. The shared part alone is no model: norms and head under
the default preset are each site's own, and this site has none yet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.approval import require_approved
from client.shared_part import SharedPart, write_shared_part
from common.contract import Contract, fingerprint, tensor_hash
from common.models import build_model
from common.parts import PARTS
from common.plan import Plan
from common.records import Code, Refusal, Reply, Request
from common.sharing import contract


class Newcomer:
    """Answers the coordinator of a plan whose roster does not name this site.

    Parameters
    ----------
    site : its name
    plan : approved here
    state : the site's folder of local state; gets ``models/<plan>/<round>/``
    """

    def __init__(self, site: str, plan: Plan, state: Path) -> None:
        self._site = site
        self._plan = plan
        self._state = state

    def answer(self, request: Request) -> Reply:
        """Keep the shared part that is offered; anything else is refused.

        Raises
        ------
        Refusal
            With ``ROSTER`` if something else is asked, ``PLAN_NOT_APPROVED``, and with
            ``FINGERPRINT``, ``NOT_FINITE`` or ``SHARED_HASH`` if the tensors are not
            exactly those that the plan and the announced hash say.
        """
        fields, plan = request.fields, self._plan
        if fields["plan"] != plan.hash:
            raise Refusal(Code.PLAN_NOT_APPROVED, "the message names another plan")
        require_approved(self._state, plan.hash)
        if request.kind != "offer":
            raise Refusal(Code.ROSTER, f"{self._site} is not in the plan's roster")
        round_ = int(fields["round"])
        if not 1 <= round_ <= plan.rounds:
            raise Refusal(Code.REQUEST, f"the plan has no round {round_}")
        stage = plan.stages[plan.stage_at(round_)]
        rule = contract(build_model(stage.model, plan.seed), stage)
        _require_whole(request, rule)
        letters = stage.sharing_letters()
        part = SharedPart(
            plan=plan.id,
            plan_hash=plan.hash,
            run=str(fields["run"]),
            round=round_,
            sharing=stage.sharing,
            missing=tuple(part for part in PARTS if not letters[part]),
            tensors=str(fields["shared_hash"]),
        )
        write_shared_part(self._state, request.shared, part)
        return Reply(
            "offer",
            {"site": self._site, "round": round_, "shared_hash": part.tensors},
        )


def _require_whole(request: Request, rule: Contract) -> None:
    """Refuse anything but the shared tensors of the stage, as they were announced."""
    layout = rule.layout_of(rule.shared)
    expected = fingerprint(layout, rule.stage.name, rule.stage.model.name)
    if not layout or request.fields["fingerprint"] != expected:
        raise Refusal(Code.FINGERPRINT, "the coordinator offers other tensors")
    wrong = [
        spec.key
        for spec in layout
        if spec.key not in request.shared
        or request.shared[spec.key].shape != spec.shape
        or request.shared[spec.key].dtype.name != spec.dtype
    ]
    if wrong or len(request.shared) != len(layout):
        raise Refusal(Code.FINGERPRINT, f"{len(wrong)} tensors do not fit")
    if not all(np.isfinite(array).all() for array in request.shared.values()):
        raise Refusal(Code.NOT_FINITE, "the offered weights are not finite")
    if tensor_hash(request.shared, rule.shared) != request.fields["shared_hash"]:
        raise Refusal(Code.SHARED_HASH, "the tensors are not the announced ones")
