"""Random changes: repeatable, bounded, and nothing where nothing is asked."""

from __future__ import annotations

import torch

from client.data.augmentation import augment
from common.plan import Augmentation
from tests.support.hospitals import AUGMENTATION

IMAGES = torch.rand(6, 1, 32, 16, generator=torch.Generator().manual_seed(0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_changes_nothing() -> None:
    assert augment(IMAGES, Augmentation(), seeded(1)) is IMAGES


def test_the_same_seed_gives_the_same_images() -> None:
    one, same, other = (augment(IMAGES, AUGMENTATION, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_a_certain_flip_turns_images_upside_down() -> None:
    flipped = augment(IMAGES, Augmentation(flip=1.0), seeded(1))
    assert torch.allclose(flipped, IMAGES.flip(2), atol=1e-5)


def test_a_rotation_keeps_the_shape_of_things_on_an_oblong_image() -> None:
    """A disc stays a disc: the aspect of the image is taken into account."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(32), indexing="ij")
    disc = (((rows - 31.5) ** 2 + (columns - 15.5) ** 2) < 100).float()
    turned = augment(disc[None, None], Augmentation(rotation=90.0), seeded(3))[0, 0]
    assert (turned - disc).abs().mean() < 0.02


def test_noise_leaves_the_air_around_the_breast_alone() -> None:
    images = IMAGES.clone()
    images[:, :, :, 8:] = 0.0
    noisy = augment(images, Augmentation(noise=0.1), seeded(1))
    assert torch.equal(noisy[..., 8:], images[..., 8:])
    difference = (noisy - images)[..., :8]
    assert 0.08 < difference.std() < 0.12


def test_gamma_keeps_black_and_white() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3).repeat(4, 1, 1, 1)
    changed = augment(images, Augmentation(gamma=0.5), seeded(1))
    assert torch.equal(changed[..., 0], images[..., 0])
    assert torch.equal(changed[..., 2], images[..., 2])
    assert len(set(changed[:, 0, 0, 1].tolist())) == 4
