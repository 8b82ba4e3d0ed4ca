"""The manifest refuses what its contract does not allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from client.data.manifest import (
    FIELDS,
    ManifestError,
    empty_row,
    linkage_frame,
    manifest_frame,
    read_linkage,
    read_manifest,
    write_manifest,
)


def _row(digit: str, **facts: Any) -> dict[str, Any]:
    required = {"row_id": digit * 32, "dataset": "d", "site": "s", "status": "ok"}
    return empty_row() | required | facts


def _linkage(*digits: str) -> pd.DataFrame:
    return linkage_frame([{"row_id": digit * 32} for digit in digits])


def test_round_trip_keeps_values_types_and_order(tmp_path: Path) -> None:
    rows = [_row("b", birads=4, density="A", birads_sub="4a"), _row("a")]
    manifest = manifest_frame(rows)
    write_manifest(tmp_path, manifest, _linkage("a", "b"))
    read = read_manifest(tmp_path)
    pd.testing.assert_frame_equal(read, manifest)
    assert list(read["row_id"]) == ["a" * 32, "b" * 32]
    assert {str(kind) for kind in read.dtypes} == {"string", "Int64"}
    assert list(read_linkage(tmp_path)["row_id"]) == list(read["row_id"])


def test_linkage_is_private(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest_frame([_row("a")]), _linkage("a"))
    assert (tmp_path / "linkage.parquet").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("row_id", "1.2.840.10008"),
        ("patient_key", "DOE^JANE"),
        ("laterality", "left"),
        ("cancer_pathology", 2),
        ("age_years", 90),
        ("vendor", "Dr. Who"),
        ("site", None),
        ("status", None),
        ("reason", "X_SPOT"),
        ("reason", "W_NONSENSE"),
    ],
)
def test_value_outside_the_contract_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ManifestError, match=field) as caught:
        manifest_frame([_row("a", **{field: value})])
    assert str(value) not in str(caught.value) or field == "reason"


def test_status_other_than_ok_needs_its_reason() -> None:
    manifest_frame([_row("a", status="excluded", reason="X_SPOT")])
    manifest_frame([_row("a", reason="W_RANGE W_VALUE")])
    for reason in (None, "Q_CRASH"):
        with pytest.raises(ManifestError, match="reason"):
            manifest_frame([_row("a", status="excluded", reason=reason)])


def test_one_row_twice_is_refused() -> None:
    with pytest.raises(ManifestError, match="row_id"):
        manifest_frame([_row("a"), _row("a")])


def test_other_rows_in_the_linkage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="same rows"):
        write_manifest(tmp_path, manifest_frame([_row("a")]), _linkage("b"))


def test_fields_are_those_of_the_canonical_record() -> None:
    names = """row_id dataset site patient_key exam_key breast_key exam_order laterality
    view modality_kind intent cancer_pathology pathology_class birads birads_sub density
    label_level label_source split_official age_years implant vendor model machine
    bits_stored photometric voi_applied frames volume_key slice_order repeat status
    reason"""
    assert list(FIELDS) == names.split()


def test_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest_frame([_row("a")]), _linkage("a"))
    path = tmp_path / "manifest.parquet"
    pd.read_parquet(path).drop(columns=["frames"]).to_parquet(path, index=False)
    with pytest.raises(ManifestError, match="Import the archive again"):
        read_manifest(tmp_path)
