"""Batches of one vendor each, and which vendors have norms of their own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from client.data.dataset import build_dataset, draw_batches, draw_batches_apart
from client.data.norm_domains import NormDomains, assign_domains
from common.norm_domains import Switch
from common.plan import Work
from tests.support.hospitals import MemorySnapshot, small_plan

GROUPS = [np.arange(100, 123), np.arange(7), np.arange(50, 61)]


def whose(batch: np.ndarray) -> int:
    (number,) = [n for n, group in enumerate(GROUPS) if np.isin(batch, group).all()]
    return number


@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_of_a_group_are_those_it_has_alone(drop_last: bool) -> None:
    work = Work("epochs", 3, 5, drop_last)
    batches = draw_batches_apart(GROUPS, work, seed=4)
    for number, group in enumerate(GROUPS):
        mine = [batch for batch in batches if whose(batch) == number]
        alone = draw_batches(group, work, seed=4)
        assert [b.tolist() for b in mine] == [b.tolist() for b in alone]
    turns = [whose(batch) for batch in batches]
    epoch = len(turns) // 3
    assert [sorted(turns[i : i + epoch]) for i in (0, epoch, 2 * epoch)] == 3 * [
        sorted(turns[:epoch])
    ]
    assert turns != sorted(turns) and turns[:epoch] != turns[epoch : 2 * epoch]
    again = [whose(batch) for batch in draw_batches_apart(GROUPS, work, seed=5)]
    assert turns != again


@pytest.mark.parametrize("amount", [1, 2, 7, 40])
def test_the_number_of_steps_is_that_of_the_work(amount: int) -> None:
    work = Work("steps", amount, 5)
    assert len(draw_batches_apart(GROUPS, work, seed=4)) == amount
    one, alone = (
        draw_batches_apart(GROUPS[:1], work, 4),
        draw_batches(GROUPS[0], work, 4),
    )
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in alone]


def test_a_vendor_of_one_training_image_goes_with_the_largest() -> None:
    vendors = np.array(["ge", "ims", "hologic", "hologic", "hologic", "ge", "fuji"])
    found = assign_domains(vendors, np.array([0, 1, 2, 3, 5]))
    own = {"ge": "ge", "hologic": "hologic"}
    assert found == {"fuji": "ge", "ims": "ge"} | own  # two each: the first by name
    found = assign_domains(vendors, np.array([1, 2, 3, 4, 5]))
    assert found == dict.fromkeys(("fuji", "ge", "ims", "hologic"), "hologic")
    assert assign_domains(vendors[:1], np.array([0])) == {"ge": "ge"}


def test_an_unknown_or_unlisted_vendor_is_one_of_the_list() -> None:
    snapshot = MemorySnapshot("alpha")
    names = ["ge", None, "acme.x", "hologic"] * (len(snapshot.rows) // 4)
    snapshot.rows["vendor"] = pd.array(names, "string")
    found = build_dataset({"alpha": snapshot}, small_plan()).vendors
    assert found[:4].tolist() == ["ge", "unknown", "other", "hologic"]


def test_images_are_parted_by_norms_and_mixed_batches_refused() -> None:
    switch = Switch()
    domains = NormDomains({"fuji": "ge", "ge": "ge", "ims": "ims"}, switch)
    vendors = np.array(["ims", "ge", "fuji", "ims"])
    assert [mine.tolist() for mine in domains.apart(vendors)] == [[1, 2], [0, 3]]
    assert domains.learnt == ["ge", "ims"]
    assert domains.know(np.array(["fuji", "siemens"])).tolist() == [True, False]
    domains.choose(vendors[[1, 2]])
    assert switch.domain == "ge"
    with pytest.raises(ValueError, match="too many values"):
        domains.choose(vendors)
