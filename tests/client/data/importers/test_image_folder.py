"""Rasters with a table: patients, depth and the 8-bit flag are never guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from client.data.importers import IMPORTERS, Imported, ImporterError, Source
from client.data.pseudonyms import Pseudonymiser
from tests.support.through import goes_through

Importer = Callable[..., Imported]
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
TABLE: dict[str, Any] = {
    "file": "labels.csv",
    "key": "file",
    "columns": {"laterality": "side", "cancer_pathology": "class"},
    "values": {"cancer_pathology": {"malignant": 1, "mixed": 1, "normal": 0}},
}


@pytest.fixture
def run(tmp_path: Path, pseudonymiser: Pseudonymiser) -> Importer:
    def importer(**options: Any) -> Imported:
        given = {"dataset": "test", "table": TABLE} | options
        return IMPORTERS["image_folder"](Source(tmp_path, pseudonymiser), "s", given)

    return importer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """Two 16-bit images, one 8-bit, one colour, one text; and their table."""
    grey = (RAMP // 16).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), RAMP)
    cv2.imwrite(str(tmp_path / "b.png"), RAMP[::-1])
    cv2.imwrite(str(tmp_path / "c.jpg"), grey)
    cv2.imwrite(str(tmp_path / "d.png"), np.dstack([grey] * 3))
    (tmp_path / "LICENSE").write_text("words")
    (tmp_path / "labels.csv").write_text(
        "file,class,side,who\n"
        "a.png,malignant,L,1\nb.png,normal,R,1\nc.jpg,mixed,,2\nd.png,normal,,3\n"
    )
    return tmp_path


def _by_path(imported: Imported, column: str) -> dict[str, Any]:
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return dict(zip(rows["source_path"], rows[column].astype(object), strict=True))


def test_unknown_patients_need_smoke_test(run: Importer) -> None:
    with pytest.raises(ImporterError, match="smoke_test"):
        run(bits_stored=12)
    imported = run(bits_stored=12, smoke_test=True)
    assert imported.manifest["patient_key"].nunique() == 5


def test_known_patients_keep_their_images_together(run: Importer) -> None:
    imported = run(bits_stored=12, table=TABLE | {"patient": "who"})
    keys = _by_path(imported, "patient_key")
    assert keys["a.png"] == keys["b.png"] != keys["c.jpg"]
    assert _by_path(imported, "reason")["LICENSE"] == "X_NOT_IMAGE"


def test_8_bit_and_colour_need_their_flag(run: Importer) -> None:
    reasons = _by_path(run(bits_stored=12, smoke_test=True), "reason")
    assert reasons["c.jpg"] == reasons["d.png"] == "X_8BIT"
    allowed = run(bits_stored=12, smoke_test=True, allow_8bit=True)
    status, bits = _by_path(allowed, "status"), _by_path(allowed, "bits_stored")
    assert {name for name in status if status[name] == "ok"} == {
        *("a.png", "b.png", "c.jpg", "d.png")
    }
    assert (bits["a.png"], bits["c.jpg"], bits["d.png"]) == (12, 8, 8)


def test_depth_of_16_bit_files_is_never_guessed(run: Importer) -> None:
    with pytest.raises(ImporterError, match="bits_stored"):
        run(smoke_test=True)


def test_depth_may_come_from_a_column(run: Importer, folder: Path) -> None:
    (folder / "labels.csv").write_text("file,bits\na.png,12\nb.png,16\nc.jpg,\n")
    table = {"file": "labels.csv", "key": "file", "columns": {"bits_stored": "bits"}}
    bits = _by_path(run(smoke_test=True, table=table), "bits_stored")
    assert (bits["a.png"], bits["b.png"]) == (12, 16)


def test_facts_come_from_the_table_and_unknown_stays_null(run: Importer) -> None:
    imported = run(
        bits_stored=12, smoke_test=True, allow_8bit=True, modality_kind="CESM_LE"
    )
    truth = _by_path(imported, "cancer_pathology")
    assert [truth[name] for name in ("a.png", "b.png", "c.jpg")] == [1, 0, 1]
    rows = imported.manifest
    assert set(rows["modality_kind"]) == {"CESM_LE"}
    assert rows["view"].isna().all() and rows["laterality"].isna().sum() == 3
    assert rows["breast_key"].isna().sum() == 3
    assert set(rows["label_source"].dropna()) == {"pathology"}


def test_same_bytes_under_two_names_never_reach_two_parts(
    run: Importer, folder: Path
) -> None:
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes())
    options = {"bits_stored": 12, "smoke_test": True, "table": None}
    assert _by_path(run(**options), "reason")["e.png"] == "X_DUPLICATE"
    with (folder / "labels.csv").open("a") as stream:
        stream.write("e.png,normal,L,9\n")
    reasons = _by_path(run(bits_stored=12, smoke_test=True), "reason")
    assert reasons["a.png"] == reasons["e.png"] == "X_CONFLICT"


def test_the_archive_goes_through_check_and_preparation(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = {"dataset": "test", "table": TABLE, "bits_stored": 12, "smoke_test": True}
    site = tmp_path_factory.mktemp("site")
    assert goes_through("image_folder", folder, site, **options) > 0
