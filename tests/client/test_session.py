"""What a site learns from the coordinator's requests."""

from __future__ import annotations

from pathlib import Path

from client.local_state import last_counted
from common.plan import Evaluation
from common.records import Reply, Request
from tests.support.hospitals import small_plan
from tests.support.runs import Spoil, in_round, play, with_field

NOT_COUNTED = with_field("patients", 0)


def counted(folder: Path, site: str) -> int | None:
    found = last_counted(folder / "sites" / site / "state")
    return found and found.round


def test_a_site_knows_which_of_its_rounds_counted_last(tmp_path: Path) -> None:
    """The closing message tells it of the last round."""
    spoil = {"alpha": in_round(3, NOT_COUNTED), "beta": in_round(2, NOT_COUNTED)}
    play(small_plan(), tmp_path, spoil=spoil)
    found = {site: counted(tmp_path, site) for site in ("alpha", "beta", "gamma")}
    assert found == {"alpha": 2, "beta": 3, "gamma": 3}


def test_a_round_counts_only_once_the_next_one_says_so(tmp_path: Path) -> None:
    told: list[int | None] = []

    def watch(request: Request, reply: Reply) -> Reply:
        if request.kind == "train":
            told.append(counted(tmp_path, "alpha"))
        return reply

    play(small_plan(), tmp_path, spoil={"alpha": watch})
    assert told == [0, 1, 2]
    assert counted(tmp_path, "alpha") == 3


def test_the_model_of_an_earlier_round_leaves_the_last_counted_one(
    tmp_path: Path,
) -> None:
    """Round 1 is selected, for which the closing message names that generation."""
    plan = small_plan(evaluation=Evaluation(replicates=50, trailing=1))
    best, worse = with_field("roc_auc", 1.0), with_field("roc_auc", 0.0)

    def spoil(request: Request, reply: Reply) -> Reply:
        return (best if request.fields.get("base_round") == 1 else worse)(reply)

    names = plan.roster.sites
    outcome = play(plan, tmp_path, spoil=dict.fromkeys(names, _known(spoil)))
    assert outcome.selected == 1
    assert [counted(tmp_path, site) for site in names] == [3, 3, 3]


def _known(spoil: Spoil) -> Spoil:
    """Spoil only answers that bear a metric."""
    return lambda request, reply: (
        spoil(request, reply) if "roc_auc" in reply.fields else reply
    )
