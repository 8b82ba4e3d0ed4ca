"""A site that was away for long: its statistics are of a network that has moved on.

Its weights are the federation's, its BatchNorm statistics are those of its last counted
round. Evaluated so, it would pull the choice of the round by numbers of a model that
nobody has.
"""

from __future__ import annotations

from torch import Tensor

from client.data.dataset import SiteDataset
from client.local_round import reestimate
from client.resident import Resident, as_tensor
from common.norms import running_statistics


def refresh_if_stale(
    resident: Resident,
    dataset: SiteDataset,
    stage_number: int,
    missed: int,
    tensors: dict[str, Tensor],
) -> bool:
    """Re-estimate a site's own statistics where the plan says they are too old.

    They are replaced only where they are the site's own and move in training: shared
    ones have just been received, and a stage that freezes them means them as they are.

    Parameters
    ----------
    resident : its stage model holds ``tensors``; new statistics are put into both
    missed : rounds by which the local state is older than the received weights
    tensors : the site's whole state

    Returns
    -------
    Whether it was done.

    Raises
    ------
    Refusal
        With ``STOPPED`` if the process was told to stop.
    """
    current, limit = resident.stage(stage_number), resident.plan.roster.stale_after
    stage, moving = current.contract.stage, running_statistics(current.model)
    own = [
        key
        for key in current.contract.local
        if key in moving and current.parts[key] == "norm_stats"
    ]
    shared = stage.sharing_letters()["norm_stats"]
    if limit is None or missed <= limit or not own:
        return False
    if shared or stage.norm_mode == "frozen":
        return False
    reestimate(resident, dataset, stage_number)
    fresh = current.look(own)
    tensors |= {key: as_tensor(array.copy()) for key, array in fresh.items()}
    current.put(tensors)  # the pass also moved what is not the site's own, as in a head
    return True
