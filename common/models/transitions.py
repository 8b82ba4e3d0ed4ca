"""From one stage to the next: which tensor carries on, which one starts again.

The rule, applied by the coordinator to the shared and by each site to its local
tensors; both use the same ``initial`` values (the run's start, or the plan's seed):

=================  ====================================================================
tensor             value at the beginning of the next stage
=================  ====================================================================
stays shared       the coordinator's
stays local        the site's own
shared -> local    the shared value the site received last
local -> shared    the initial value: no site's own value may become everybody's
new head           the initial value
norms by vendor    those of every vendor: what the rules above give for the site's own
=================  ====================================================================

From norms by vendor back to one norm there is no rule; a plan with that is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from common import plan
from common.contract import Contract

T = TypeVar("T")  # torch tensors or numpy arrays: nothing is computed here


def next_shared(
    shared: Mapping[str, T],
    initial: Mapping[str, T],
    old: Contract,
    new: Contract,
) -> dict[str, T]:
    """Give the coordinator its tensors for the next stage.

    Parameters
    ----------
    shared : all of ``old.shared``
    initial : state dict of the new stage's model as built from the plan's seed, with
        the run's start loaded
    old, new : contracts of the two stages

    Returns
    -------
    The tensors of ``new.shared``. Values are those of the arguments, not copies.

    Raises
    ------
    ValueError
        As `carry_over`.
    """
    return carry_over(
        shared, old.shared, initial, new.shared, old.stage.model, new.stage.model
    )


def next_local(
    local: Mapping[str, T],
    received: Mapping[str, T],
    initial: Mapping[str, T],
    old: Contract,
    new: Contract,
) -> dict[str, T]:
    """Give a site its own tensors for the next stage.

    Parameters
    ----------
    local : all of ``old.local``
    received : all of ``old.shared``, as the coordinator sent it last
    initial, old, new : as in `next_shared`

    Returns
    -------
    The tensors of ``new.local``. Values are those of the arguments, not copies.

    Raises
    ------
    ValueError
        As `carry_over`.
    """
    held = {key: local[key] for key in old.local if key in local}
    held |= {key: received[key] for key in old.shared if key in received}
    must_hold = {*old.local, *old.shared}
    if not old.copies:
        sources = {k: one for k, one in new.copies.items() if one in must_hold}
        must_hold |= sources.keys()
        held |= {key: held[one] for key, one in sources.items() if one in held}
    return carry_over(
        held,
        must_hold,
        initial,
        new.local,
        old.stage.model,
        new.stage.model,
    )


def carry_over(
    held: Mapping[str, T],
    must_hold: Collection[str],
    initial: Mapping[str, T],
    wanted: Collection[str],
    old: plan.Model,
    new: plan.Model,
) -> dict[str, T]:
    """Take wanted tensors from the last stage, or their initial values.

    Parameters
    ----------
    held : what this side holds at the end of the last stage
    must_hold : names that this side has to hold; a wanted one of them that is
        missing is an error, never silently a fresh start
    initial : values for the others
    wanted : names in the new stage

    Raises
    ------
    ValueError
        If the backbone changes, a head keeps its name but not its size, or a tensor
        is missing.
    """
    check_transition(old, new)
    missing = [key for key in wanted if key in must_hold and key not in held]
    missing += [key for key in wanted if key not in must_hold and key not in initial]
    if missing:
        raise ValueError(
            "Cannot start the next stage, the last one left no value of "
            f"{', '.join(sorted(missing))}. Resume from an earlier checkpoint"
        )
    return {key: held[key] if key in must_hold else initial[key] for key in wanted}


def check_transition(old: plan.Model, new: plan.Model) -> None:
    """Refuse a change of model that has no rule.

    Raises
    ------
    ValueError
        If the backbone differs, or a head of the same name has another size.
    """
    for field in ("name", "widths", "blocks", "channels"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            raise ValueError(
                f"model.{field} changes from {before} to {after} between two stages; "
                "a backbone cannot change within a run. Keep it, or start a new run"
            )
    if old.head == new.head and old.outputs != new.outputs:
        raise ValueError(
            f"model.outputs of head {old.head!r} changes from {old.outputs} to "
            f"{new.outputs} between two stages. Give the new head a name of its own"
        )
