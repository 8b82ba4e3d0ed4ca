"""Images that a device holds are those of the memory map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.data import on_device
from client.data.dataset import Loader, build_dataset
from client.data.on_device import hold, take
from tests.support.hospitals import MemorySnapshot, small_plan

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 65536, (700, 5, 3)).astype(np.uint16)


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU stand for a GPU with a gigabyte free."""
    monkeypatch.setattr(on_device, "room", lambda device: 2**30)


@pytest.mark.usefixtures("roomy")
def test_every_value_of_16_bits_arrives() -> None:
    IMAGES[0, 0, :2] = 0, 65535
    held = hold(lambda rows: IMAGES[rows], len(IMAGES), CPU)
    assert held is not None
    rows = np.array([0, 699, 256, 255, 0])
    np.testing.assert_array_equal(take(held, rows).numpy(), IMAGES[rows])


def test_what_does_not_fit_is_left_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hold(lambda rows: IMAGES[rows], len(IMAGES), CPU) is None
    monkeypatch.setattr(on_device, "room", lambda device: IMAGES.nbytes - 1)
    assert hold(lambda rows: IMAGES[rows], len(IMAGES), CPU) is None
    monkeypatch.setattr(on_device, "room", lambda device: IMAGES.nbytes)
    assert hold(lambda rows: IMAGES[rows], len(IMAGES), CPU) is not None


def test_batches_are_the_same_and_images_are_copied_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = small_plan()
    site = plan.roster.sites[0]

    def batches() -> list[torch.Tensor]:
        dataset = build_dataset({site: MemorySnapshot(site)}, plan)
        loader = Loader(dataset, CPU, 0.5, 0.25, 1)
        rows = [np.array([3, 1, 2]), np.array([0, 3, 5])]
        return [batch.images.clone() for batch in loader.batches(rows)]

    from_map = batches()
    copies: list[int] = []
    true_hold = on_device.hold

    def counted(*values: object) -> object:
        copies.append(1)
        return true_hold(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(on_device, "room", lambda device: 2**30)
    monkeypatch.setattr("client.data.dataset.hold", counted)
    held = batches()
    assert len(copies) == 1
    assert all(map(torch.equal, from_map, held))
