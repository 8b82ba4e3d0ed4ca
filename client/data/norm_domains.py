"""Which norm layers an image goes through, where a site keeps some for each vendor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.norm_domains import Switch
from common.vendors import VENDORS

MINIMUM_IMAGES = 2
"""Training images of a vendor with norms of its own: one image has no spread."""


def vendor_names(rows: pd.DataFrame) -> np.ndarray:
    """Return the vendor of each manifest row, str [row]; always one of `VENDORS`."""
    vendors = rows["vendor"].fillna("unknown")
    return vendors.where(vendors.isin(VENDORS), "other").to_numpy(dtype=str)


def assign_domains(vendors: np.ndarray, training: np.ndarray) -> dict[str, str]:
    """Tell which vendor's norms the images of each vendor go through: their own.

    A vendor with fewer than `MINIMUM_IMAGES` training images has too few to learn
    norms from: its images go with those of the vendor that has most.

    Parameters
    ----------
    vendors : str [image], of all images of the site
    training : int64, positions of the labelled training images

    Returns
    -------
    Every vendor of the site, sorted, to the vendor whose norms its images get.
    """
    names, counts = np.unique(vendors[training], return_counts=True)
    own = set(names[counts >= MINIMUM_IMAGES])
    most = str(names[counts.argmax()])
    return {str(v): str(v) if v in own else most for v in np.unique(vendors)}


@dataclass(frozen=True)
class NormDomains:
    """The norms of one site in one model.

    Attributes
    ----------
    of : vendor of an image to the vendor whose norms it goes through
    switch : of the model, see `common.norm_domains`
    """

    of: Mapping[str, str]
    switch: Switch

    @property
    def learnt(self) -> list[str]:
        """Vendors with norms of their own."""
        return [vendor for vendor, domain in self.of.items() if vendor == domain]

    def know(self, vendors: np.ndarray) -> np.ndarray:
        """Tell for each image whether its vendor was at the site, bool [image]."""
        return np.isin(vendors, list(self.of))

    def apart(self, vendors: np.ndarray) -> list[np.ndarray]:
        """Part images by their norms; int64 positions in ``vendors``, ascending."""
        domains = self._domains(vendors)
        return [np.flatnonzero(domains == domain) for domain in np.unique(domains)]

    def choose(self, vendors: np.ndarray) -> None:
        """Turn the model's switch for a batch, whose images have the same norms."""
        (domain,) = np.unique(self._domains(vendors))
        self.switch.domain = str(domain)

    def _domains(self, vendors: np.ndarray) -> np.ndarray:
        return np.array([self.of[vendor] for vendor in vendors], dtype=str)
