"""What every test shares: one torch thread, our switches before anybody's imports."""

from __future__ import annotations

import pytest
import torch

import common.quiet  # noqa: F401


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Bit-for-bit comparisons need the same number of threads everywhere."""
    torch.set_num_threads(1)
