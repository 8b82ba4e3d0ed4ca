"""Batches that hold every class of every domain alike, however few images it has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from client.data.dataset import Draw, SiteDataset, count_batches
from client.seen import Facts
from common.plan import Work
from common.seeds import derive_seed


def cells_of(dataset: SiteDataset, rows: np.ndarray, domain: str) -> np.ndarray:
    """Number class and domain of labelled rows together, int64 [row].

    The cell is ``2 * domain + class``, class 1 is positive.
    """
    positive = (dataset.targets(rows) >= 0.5).astype(np.int64)
    return np.asarray(2 * dataset.domains(domain)[rows] + positive)


def count_facts(
    dataset: SiteDataset, rows: np.ndarray, domain: str, work: Work, features: int
) -> Facts:
    """Tell an objective what it may ask of a site's training images.

    Parameters
    ----------
    rows : labelled training rows, at least one
    features : width of what the head is given
    """
    counts = np.bincount(cells_of(dataset, rows, domain))
    pairs = np.pad(counts, (0, len(counts) % 2)).reshape(-1, 2)
    drawn = pairs
    if work.sampler == "balanced":  # as many of each cell that there is
        drawn = (pairs > 0).astype(np.int64)
    negatives, positives = (int(one) for one in drawn.sum(0))
    return Facts(
        negatives, positives, features, tuple((int(n), int(p)) for n, p in pairs)
    )


def balanced(dataset: SiteDataset, domain: str) -> Draw:
    """Return how the balanced sampler draws batches of a site.

    Every batch has as many images of each cell, one more of some where the size does
    not divide. The rows of a cell come in a drawn order, and in a new one once all have
    come. The number of batches is that of `client.data.dataset.draw_batches`.
    """

    def draw(indices: np.ndarray, work: Work, seed: int) -> list[np.ndarray]:
        size, _, steps = count_batches(len(indices), work)
        cells = cells_of(dataset, indices, domain)
        rows = [
            _endless(indices[cells == cell], derive_seed(seed, "cell", int(cell)))
            for cell in np.unique(cells)
        ]
        random = np.random.default_rng(derive_seed(seed, "cells"))
        batches = []
        for _ in range(steps):
            turns = np.resize(random.permutation(len(rows)), size)
            batches.append(np.array([next(rows[turn]) for turn in turns]))
        return batches

    return draw


def _endless(rows: np.ndarray, seed: int) -> Iterator[int]:
    random = np.random.default_rng(seed)
    while True:
        yield from random.permutation(rows)
