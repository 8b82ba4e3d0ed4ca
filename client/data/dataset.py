"""A site's prepared images with their labels and parts, ready for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from client.data.augmentation import augment
from client.data.cache import Snapshot
from client.data.labels import label
from client.data.norm_domains import NormDomains, vendor_names
from client.data.on_device import hold, take
from client.data.snapshot import joint_hash
from client.data.split import assign_split
from client.seen import Batch
from common.plan import Augmentation, Plan, Work
from common.records import Code, Refusal
from common.seeds import derive_seed

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class SiteDataset:
    """The images of one session, from one or more prepared snapshots.

    A hospital has one population, itself. A pooled arm of a simulation has one per
    hospital, trained together and evaluated apart.

    Attributes
    ----------
    snapshots : prepared images by population
    rows : one row per image with the manifest's fields and ``population``, ``part``
        (train, validation, test), ``target`` (1, 0 or NA), ``source``, ``position``
    """

    snapshots: Mapping[str, Snapshot]
    rows: pd.DataFrame

    @property
    def hash(self) -> str:
        """Identity of all snapshots together."""
        return joint_hash(s.hash for s in self.snapshots.values())

    @property
    def recipe(self) -> str:
        """Hash of the preprocessing, the same for all snapshots of a plan."""
        return next(iter(self.snapshots.values())).recipe

    def select(self, part: str, *, labelled: bool = True) -> np.ndarray:
        """Return row numbers (int64, ascending) of one part."""
        chosen = self.rows["part"] == part
        if labelled:
            chosen &= self.rows["target"].notna()
        return np.flatnonzero(chosen.to_numpy())

    def targets(self, indices: np.ndarray) -> np.ndarray:
        """Return float32 targets [image] of labelled rows."""
        return np.asarray(self._targets[indices])

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """Read uint16 [image, row, column] in the order asked for."""
        sources, positions = self._sources[indices], self._positions[indices]
        snapshots = list(self.snapshots.values())
        if len(snapshots) == 1:
            return snapshots[0].read(positions)
        first = snapshots[0].read(positions[:0])
        out = np.empty((len(indices), *first.shape[1:]), np.uint16)
        for number, snapshot in enumerate(snapshots):
            mine = sources == number
            if mine.any():
                out[mine] = snapshot.read(positions[mine])
        return out

    def images(self, indices: np.ndarray, device: torch.device) -> Tensor:
        """Return float32 [image, row, column] on a device; 65535 stands for 1.0.

        The first call copies all images to a GPU if they fit.
        """
        if device not in self._held:
            self._held[device] = hold(self.pixels, len(self.rows), device)
        if (held := self._held[device]) is not None:
            return take(held, indices)
        return torch.from_numpy(self.pixels(indices).astype(np.float32)).to(device)

    @cached_property
    def _held(self) -> dict[torch.device, Tensor | None]:
        return {}

    # Plain arrays, because a batch is read in less time than a table looks up a column.

    @cached_property
    def _targets(self) -> np.ndarray:
        return self.rows["target"].to_numpy(np.float32, na_value=np.nan)

    @cached_property
    def _sources(self) -> np.ndarray:
        return self.rows["source"].to_numpy()

    @cached_property
    def _positions(self) -> np.ndarray:
        return self.rows["position"].to_numpy()

    @cached_property
    def vendors(self) -> np.ndarray:
        """The vendor of each image, str [image]."""
        return vendor_names(self.rows)

    def domains(self, kind: str) -> np.ndarray:
        """Number what tells images apart, int64 [image] over all rows.

        Parameters
        ----------
        kind : ``site`` (the population), ``vendor``, ``model`` or ``view``; numbers
            follow the sorted names among the labelled training images, and an image
            whose name is not among them has -1
        """
        if kind not in self._domains:
            if kind == "vendor":
                names = self.vendors
            else:
                column = {"site": "population"}.get(kind, kind)
                names = self.rows[column].fillna("").to_numpy(dtype=str)
            known = np.unique(names[self.select(TRAIN)])
            found = pd.Index(known).get_indexer(pd.Index(names))
            self._domains[kind] = np.asarray(found, np.int64)
        return self._domains[kind]

    @cached_property
    def _domains(self) -> dict[str, np.ndarray]:
        return {}

    def count_patients(self, part: str) -> int:
        """Count the patients with a labelled image in a part."""
        return int(self.rows.iloc[self.select(part)]["patient_key"].nunique())


def build_dataset(
    snapshots: Mapping[str, Snapshot],
    plan: Plan,
    required: tuple[str, ...] = (TRAIN, VALIDATION),
) -> SiteDataset:
    """Label and split prepared images as the plan says.

    Parameters
    ----------
    snapshots : by population, in the order of the plan's roster
    plan : target and split
    required : parts that must have a labelled image; none where all is tested on

    Raises
    ------
    Refusal
        With ``TARGET`` if a required part lacks labelled images, or the unit of the
        target is a breast and images do not say which they show.
    """
    frames = []
    for number, (population, snapshot) in enumerate(snapshots.items()):
        rows = snapshot.rows.reset_index(drop=True)
        try:
            target = label(rows, plan.target, snapshot.beside)
        except ValueError as error:
            raise Refusal(Code.TARGET, str(error)) from None
        # Slices in files of their own are one image, as those of one file are.
        image = rows["volume_key"].fillna(rows["row_id"])
        rows = rows.assign(
            row_id=rows.groupby(image)["row_id"].transform("first"),
            population=population,
            target=target.to_numpy(),
            part=assign_split(
                rows["patient_key"], plan.split, rows["split_official"]
            ).to_numpy(dtype=object),
            source=number,
            position=np.arange(len(rows)),
        )
        frames.append(rows)
    dataset = SiteDataset(snapshots, pd.concat(frames, ignore_index=True))
    for part in required:
        if not len(dataset.select(part)):
            raise Refusal(
                Code.TARGET,
                f"no image of the {part} part has a label for "
                f"{plan.target.field} from {', '.join(plan.target.label_sources)}",
            )
    return dataset


Draw = Callable[[np.ndarray, Work, int], list[np.ndarray]]
"""Draws one round's batches: rows, how much, and a seed, to arrays of row numbers."""


def count_batches(images: int, work: Work) -> tuple[int, int, int]:
    """Return the size of a batch, batches an epoch, and batches a round."""
    size = min(work.batch_size, images)
    per_epoch = images // size if work.drop_last else -(-images // size)
    return size, per_epoch, work.amount * (per_epoch if work.unit == "epochs" else 1)


def draw_batches(indices: np.ndarray, work: Work, seed: int) -> list[np.ndarray]:
    """Draw the batches of one round: every epoch in its own order.

    Parameters
    ----------
    indices : int64, the training rows
    work : epochs or steps, batch size, ``drop_last``
    seed : gives the orders

    Returns
    -------
    Arrays of row numbers. A part smaller than one batch gives that one short batch
    even under ``drop_last``, so that a small site still trains.
    """
    random = np.random.default_rng(seed)
    size, per_epoch, steps = count_batches(len(indices), work)
    batches: list[np.ndarray] = []
    while len(batches) < steps:
        order = random.permutation(indices)
        batches += [order[i * size : (i + 1) * size] for i in range(per_epoch)]
    return batches[:steps]


def draw_batches_apart(
    groups: Sequence[np.ndarray], work: Work, seed: int, draw: Draw = draw_batches
) -> list[np.ndarray]:
    """Draw the batches of one round where no batch may mix two groups.

    Each group's batches are those that ``draw`` draws of it alone; whose turn it is is
    drawn too. An epoch has every batch of every group once; one group gives what
    ``draw`` gives.

    Parameters
    ----------
    groups : int64 each, the training rows of one group, at least one
    work, seed : as in `draw_batches`; the number of steps is as the work says
    draw : or another one with the same arguments
    """
    once = replace(work, unit="epochs", amount=1)
    epoch = np.repeat(
        np.arange(len(groups)), [len(draw(one, once, seed)) for one in groups]
    )
    random = np.random.default_rng(derive_seed(seed, "turns"))
    steps = work.amount * (len(epoch) if work.unit == "epochs" else 1)
    epochs = -(-steps // len(epoch))
    turns = np.concatenate([random.permutation(epoch) for _ in range(epochs)])[:steps]
    drawn = {}
    for number, count in zip(*np.unique(turns, return_counts=True), strict=True):
        asked = replace(work, unit="steps", amount=int(count))
        drawn[number] = iter(draw(groups[number], asked, seed))
    return [next(drawn[number]) for number in turns]


def in_order(indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut row numbers into batches without drawing; the last one may be short."""
    return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]


@dataclass(frozen=True)
class Loader:
    """Turns row numbers into normalised batches on a device.

    Attributes
    ----------
    mean, scale : the model's input is ``(x - mean) / scale``, x in [0, 1]
    channels : 1, or 3 equal ones
    norm_domains : of the model that the batches are for, where it keeps norms for each
        vendor; a batch then holds images with the same norms, see `apart`
    domain : what tells images apart for the objective, see `SiteDataset.domains`;
        None: nothing does
    """

    dataset: SiteDataset
    device: torch.device
    mean: float
    scale: float
    channels: int
    norm_domains: NormDomains | None = None
    domain: str | None = None

    def apart(self, indices: np.ndarray) -> list[np.ndarray]:
        """Part rows by the norms they go through; positions in ``indices``, int64."""
        if self.norm_domains is None:
            return [np.arange(len(indices))]
        return self.norm_domains.apart(self.dataset.vendors[indices])

    def batches(
        self,
        rows: list[np.ndarray],
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> Iterator[Batch]:
        """Yield batches on the device, in the order of ``rows``.

        Before a batch is given out, the model's norms are switched to it.
        """
        generator = torch.Generator().manual_seed(seed)
        domains = np.zeros(len(self.dataset.rows), np.int64)
        if self.domain is not None:
            domains = self.dataset.domains(self.domain)
        for indices in rows:
            if self.norm_domains is not None:
                self.norm_domains.choose(self.dataset.vendors[indices])
            images = self.dataset.images(indices, self.device).unsqueeze(1)
            images = images.div_(65535.0)
            if augmentation is not None:
                images = augment(images, augmentation, generator)
            images = images.sub_(self.mean).div_(self.scale)
            targets = torch.from_numpy(self.dataset.targets(indices))
            yield Batch(
                images.expand(-1, self.channels, -1, -1),
                targets.to(self.device),
                torch.from_numpy(domains[indices]).to(self.device),
            )
