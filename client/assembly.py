"""A site's whole state, put together from what was received and what is its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from client.local_state import Generation, LocalState
from client.resident import Resident, as_tensor
from common.contract import Contract, tensor_hash
from common.models.transitions import next_local, next_shared
from common.records import Code, Refusal, Request
from common.transport import from_wire


def assemble(
    resident: Resident, state: LocalState, stage: int, local: int, request: Request
) -> tuple[Generation, dict[str, Tensor]]:
    """Put received, fixed and own tensors together to one whole state.

    Parameters
    ----------
    stage : number of the stage that the received tensors are of
    local : round of the site's generation to go on from; 0 = the start
    request : whose tensors were received

    Raises
    ------
    Refusal
        With ``FINGERPRINT`` if other tensors were received than the contract says, with
        ``LOCAL_STATE`` if the generation is absent, damaged or of another stage.
    """
    rule = resident.stage(stage).contract
    if request.fields["fingerprint"] != rule.fingerprint:
        raise Refusal(Code.FINGERPRINT, "the coordinator sends other tensors")
    wrong = [
        spec.key
        for spec in rule.on_wire
        if spec.key not in request.shared
        or request.shared[spec.key].shape != spec.shape
        or request.shared[spec.key].dtype.name != spec.dtype
    ]
    if wrong or len(request.shared) != len(rule.sent):
        raise Refusal(Code.FINGERPRINT, f"{len(wrong)} tensors do not fit")
    tensors = {
        key: as_tensor(from_wire(array, rule.transport))
        for key, array in request.shared.items()
    }
    if local:
        if resident.plan.stage_at(local) != stage:
            raise Refusal(
                Code.LOCAL_STATE, f"local state of round {local} is of another stage"
            )
        generation = state.read(local)
        fixed = state.read_fixed(resident.plan.stages[stage].name)
        tensors |= {key: as_tensor(one) for key, one in generation.only(rule.local)}
        tensors |= {key: as_tensor(fixed[key]) for key in rule.fixed}
    else:
        generation = Generation(0, "", {}, {})
        initial = resident.initial(stage)
        tensors |= {key: initial[key] for key in (*rule.local, *rule.fixed)}
    return generation, tensors


def enter_stage(
    resident: Resident, before: int, now: int, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Carry a whole state over to the next stage's model."""
    if before == now:
        return tensors
    old, new = resident.stage(before).contract, resident.stage(now).contract
    initial = resident.initial(now)
    return {
        **next_shared(tensors, initial, old, new),
        **next_local(tensors, tensors, initial, old, new),
    }


def require_announced(
    request: Request, tensors: Mapping[str, Tensor], rule: Contract
) -> None:
    """Refuse shared tensors that are not the ones the coordinator means.

    Checked where both ends have computed them, at the start of a stage, and before a
    model is kept. In between, Flower's objects carry their own content hash.

    Raises
    ------
    Refusal
        With ``SHARED_HASH``.
    """
    if request.fields["shared_hash"] != tensor_hash(tensors, rule.shared):
        raise Refusal(
            Code.SHARED_HASH,
            f"shared tensors for round {request.fields['round']} are not the "
            "announced ones",
        )
