"""The balanced sampler, and what it tells objectives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from client.data.dataset import TRAIN, SiteDataset, build_dataset, draw_batches
from client.data.sampler import balanced, cells_of, count_facts
from common.plan import Work
from tests.support.hospitals import MemorySnapshot, small_plan

VENDORS = ("ge", "hologic")


@pytest.fixture(scope="module")
def dataset() -> SiteDataset:
    snapshot = MemorySnapshot("alpha", vendors=VENDORS)
    return build_dataset({"alpha": snapshot}, small_plan(sites=("alpha",)))  # type: ignore[dict-item]


def drawn(dataset: SiteDataset, work: Work, seed: int = 0) -> list[np.ndarray]:
    return balanced(dataset, "vendor")(dataset.select(TRAIN), work, seed)


def test_every_batch_holds_each_class_of_each_vendor_alike(
    dataset: SiteDataset,
) -> None:
    for batch in drawn(dataset, Work("steps", 20, 16)):
        rows = dataset.rows.iloc[batch]
        counts = Counter(zip(rows["vendor"], rows["target"], strict=True))
        assert sorted(counts.values()) == [4, 4, 4, 4]


def test_slots_that_are_left_over_go_round(dataset: SiteDataset) -> None:
    batches = drawn(dataset, Work("steps", 200, 6))
    counts = np.array(
        [np.bincount(cells_of(dataset, one, "vendor")) for one in batches]
    )
    assert counts.min() == 1 and counts.max() == 2
    assert counts.mean(0) == pytest.approx(np.full(4, 1.5), abs=0.15)


def test_every_image_comes_before_one_comes_again(dataset: SiteDataset) -> None:
    rows = dataset.select(TRAIN)
    cells = cells_of(dataset, rows, "vendor")
    seen = np.concatenate(drawn(dataset, Work("steps", 60, 16)))
    for cell in np.unique(cells):
        mine = rows[cells == cell]
        order = [row for row in seen if row in set(mine)]
        assert sorted(order[: len(mine)]) == sorted(mine)


def test_an_epoch_has_as_many_batches_as_without_balance(dataset: SiteDataset) -> None:
    work = Work("epochs", 2, 16)
    assert len(drawn(dataset, work)) == len(
        draw_batches(dataset.select(TRAIN), work, 0)
    )


def test_the_same_seed_draws_the_same(dataset: SiteDataset) -> None:
    one, other, third = (drawn(dataset, Work("steps", 5, 16), s) for s in (1, 1, 2))
    assert all(map(np.array_equal, one, other))
    assert not all(map(np.array_equal, one, third))


def test_facts_count_images_by_domain_and_class(dataset: SiteDataset) -> None:
    rows = dataset.select(TRAIN)
    table = dataset.rows.iloc[rows]
    facts = count_facts(dataset, rows, "vendor", Work(), 7)
    for number, vendor in enumerate(VENDORS):
        mine = table.loc[table["vendor"] == vendor, "target"]
        assert facts.cells[number] == ((mine == 0).sum(), (mine == 1).sum())
    assert facts.features == 7
    assert facts.positives == (table["target"] == 1).sum()
    assert facts.negatives == (table["target"] == 0).sum()


def test_classes_are_drawn_alike_so_the_facts_say_so(dataset: SiteDataset) -> None:
    rows, work = dataset.select(TRAIN), Work(sampler="balanced")
    facts = count_facts(dataset, rows, "site", work, 7)
    assert facts.positives == facts.negatives > 0


def test_a_name_that_training_lacks_is_no_domain(dataset: SiteDataset) -> None:
    table = dataset.rows.copy()
    strange = np.flatnonzero(table["part"] != TRAIN)[0]
    table.loc[strange, "vendor"] = "fuji"
    other = SiteDataset(dataset.snapshots, table)
    found = other.domains("vendor")
    assert found[strange] == -1
    assert set(np.delete(found, strange)) == {0, 1}
