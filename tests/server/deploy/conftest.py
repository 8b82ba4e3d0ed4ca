"""What every test of the deployment shares: loopback is asked of no proxy."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _loopback_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
