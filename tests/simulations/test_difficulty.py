"""The difficulty experiment measures what it says, on a few small images."""

from __future__ import annotations

import json
from pathlib import Path

from simulations.run import main
from tests.support.commands import small


def test_every_classifier_is_scored_at_every_hospital(tmp_path: Path) -> None:
    sites = ["north", "lakeside"]
    words = [f"run_dir={tmp_path}/run", "extra_test=12", *small(tmp_path, sites)]
    main(["experiment=difficulty", *words])
    areas = json.loads((tmp_path / "run" / "difficulty.json").read_bytes())
    assert set(areas) == {
        "pooled model",
        "metadata, logistic",
        "metadata, boosting",
        "mean and variance, logistic",
        "mean and variance, boosting",
        "model without lesions",
    }
    for by_site in areas.values():
        assert set(by_site) == {*sites, "mean"}
        assert all(0.0 <= area <= 1.0 for area in by_site.values())
        values = [by_site[site] for site in sites]
        assert abs(by_site["mean"] - sum(values) / 2) < 1e-12
    archives = {path.name for path in tmp_path.glob("synthetic*")}
    assert archives == {
        "synthetic",
        "synthetic-extra",
        "synthetic-without-lesions",
        "synthetic-extra-without-lesions",
    }
