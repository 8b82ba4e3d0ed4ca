"""One data set becomes several hospitals, and no patient is in two of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.plan import PlanError
from simulations.division import divide
from simulations.run import main
from simulations.settings import Division
from tests.support.mini_archives import write_rsna

SITES = ("a", "b", "c")


@pytest.fixture
def rows() -> pd.DataFrame:
    """300 patients with four images each; one image of every tenth is of another GE."""
    frame = pd.DataFrame(
        {"patient_key": np.repeat([f"p{i:03d}" for i in range(300)], 4)}
    )
    patient = np.repeat(np.arange(300), 4)
    frame["vendor"] = pd.array(
        np.choose(patient % 3, ["ge", "hologic", "siemens"]), "string"
    )
    frame.loc[::40, "vendor"] = "ge"
    frame["density"] = pd.array(np.choose(patient % 4, list("ABCD")), "string")
    frame["cancer_pathology"] = pd.array(patient % 5 == 0, "Int64")
    frame.loc[frame.index[-40:], ["vendor", "density"]] = pd.NA
    return frame


def _patients(groups: dict[str, np.ndarray]) -> list[str]:
    return [patient for group in groups.values() for patient in group]


def test_by_vendor_a_patient_goes_where_most_images_are_from(
    rows: pd.DataFrame,
) -> None:
    values = {"a": ("ge",), "b": ("hologic", "siemens")}
    groups = divide(rows, Division("vendor", values), ("a", "b"), 0)
    patients = _patients(groups)
    assert len(set(patients)) == len(patients) == 290  # ten have no vendor
    assert all(int(patient[1:]) % 3 == 0 for patient in groups["a"])


@pytest.mark.parametrize("by", ["density", "cancer_pathology"])
def test_drawn_divisions_keep_everybody_once_and_repeat(
    rows: pd.DataFrame, by: str
) -> None:
    rule = Division(by, alpha=0.5, minimum=20)  # type: ignore[arg-type]
    groups = divide(rows, rule, SITES, 1)
    patients = _patients(groups)
    assert sorted(patients) == sorted(set(rows["patient_key"]))
    assert min(map(len, groups.values())) >= 20
    again = divide(rows.sample(frac=1, random_state=0), rule, SITES, 1)
    assert all(np.array_equal(groups[site], again[site]) for site in SITES)
    other = divide(rows, rule, SITES, 2)
    assert any(not np.array_equal(groups[site], other[site]) for site in SITES)


def test_a_small_alpha_gives_hospitals_that_differ_more(rows: pd.DataFrame) -> None:
    def spread(alpha: float) -> float:
        densities = rows.groupby("patient_key")["density"].first()
        widths = []
        for seed in range(20):
            groups = divide(
                rows, Division("density", alpha=alpha, minimum=1), SITES, seed
            )
            shares = [(densities[group] == "A").mean() for group in groups.values()]
            widths.append(max(shares) - min(shares))
        return float(np.mean(widths))

    assert spread(0.2) > 2 * spread(50.0)


def test_impossible_divisions_say_what_to_change(rows: pd.DataFrame) -> None:
    with pytest.raises(PlanError, match=r"names no value for c.*ge, hologic"):
        divide(rows, Division("vendor", {"a": ("ge",), "b": ("x",)}), SITES, 0)
    with pytest.raises(PlanError, match="b: fewer than 20 patients by vendor"):
        divide(rows, Division("vendor", {"a": ("ge",), "b": ("x",)}), ("a", "b"), 0)
    with pytest.raises(PlanError, match="one value to two"):
        divide(rows, Division("vendor", {"a": ("ge",), "b": ("ge",)}), ("a", "b"), 0)
    with pytest.raises(PlanError, match=r"Raise data\.divide\.alpha"):
        divide(rows, Division("density", alpha=0.01, minimum=99), SITES, 0)
    with pytest.raises(ValueError, match="either values or alpha"):
        Division("vendor")


def test_one_download_becomes_three_hospitals_and_a_report(tmp_path: Path) -> None:
    root = write_rsna(tmp_path / "rsna", 60)
    main(
        [
            "data=archives",
            f"data.sites=[{','.join(SITES)}]",
            f"+data.archives.whole={{importer:rsna,root:{root}}}",
            "+data.divide={by:birads,alpha:5.0,minimum:12}",
            f"data.prepared={tmp_path / 'prepared'}",
            f"run_dir={tmp_path / 'run'}",
            "arms=[fedbn_head]",
            "compare=[]",
            "plan/model@plan.every_stage.model=resnet_tiny",
            "plan.stages.adapt.rounds=2",
            "plan.every_stage.work={unit:steps,amount:2,batch_size:8}",
            "plan.target={field:birads,at_least:2,unit:breast,label_sources:[radiologist]}",
            "plan.preprocessing.rows=64",
            "plan.preprocessing.columns=32",
            "plan.split.train=0.4",
            "plan.split.validation=0.3",
            "plan.split.test=0.3",
            "plan.evaluation.replicates=50",
            "threads=1",
        ]
    )
    report = json.loads((tmp_path / "run" / "report.json").read_bytes())
    sites = report["arms"][0]["results"][0]["sites"]
    assert [site["site"] for site in sites] == list(SITES)
