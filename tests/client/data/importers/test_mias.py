"""mini-MIAS: several lines become one image, pairs of images one patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client.data.importers import Imported, ImporterError
from client.data.importers.files import Source
from client.data.importers.mias import import_archive
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through

INFO = """\
INFORMATION:
This file lists the films in the MIAS database and provides appropriate details
as follows: 1st column: MIAS database reference number, such as mdb001 or mdb322.

REF BG CLASS SEVERITY X Y RADIUS
mdb001 G CIRC B 535 425 197
mdb002 G CIRC B 522 280 69
mdb003 D NORM
mdb005 F CIRC B 477 133 30
mdb005 F CIRC B 500 168 26
mdb059 F CIRC B
mdb144 G MISC B 233 994 29
mdb144 G MISC M 313 540 27
mdb216 D CALC M *NOTE 3*
mdb300  F  ASYM
mdb321 D NORM
mdb322 D CALC M 1 2 3
mdb322 D CALC M 4 5 6
"""
LISTED = (1, 2, 3, 5, 59, 144, 216, 300, 321)


def _grey_map(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16), np.uint8)
    return b"P5\n16 16\n255\n" + pixels.tobytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The archive without mdb322, and with one image that no line is about."""
    (tmp_path / "Info.txt").write_text(INFO)
    (tmp_path / "README").write_text("words")
    for number in (*LISTED, 7):
        (tmp_path / f"mdb{number:03d}.pgm").write_bytes(_grey_map(number))
    return tmp_path


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return imported, rows.set_index("source_path").sort_index()


def test_every_file_is_a_row(root: Path, pseudonymiser: Pseudonymiser) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 11,
        "table_rows_unmatched": 2,
        "files_unmatched": 1,
    }
    assert rows["reason"].dropna().to_dict() == {"README": "X_NOT_IMAGE"}
    films = rows[rows["status"] == "ok"]
    assert len(films) == 10 and set(films["dataset"]) == {"mias"}
    facts = films[["modality_kind", "view", "bits_stored", "photometric", "reader"]]
    assert set(facts.itertuples(index=False, name=None)) == {
        ("SFM", "MLO", 8, "MONOCHROME2", "raster")
    }


def test_label_is_malignant_if_any_line_is(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    films = rows[rows["status"] == "ok"]
    classes = films["pathology_class"].fillna("").to_dict()
    assert classes == {
        "mdb001.pgm": "benign",
        "mdb002.pgm": "benign",
        "mdb003.pgm": "normal",
        "mdb005.pgm": "benign",
        "mdb007.pgm": "",
        "mdb059.pgm": "benign",
        "mdb144.pgm": "malignant",
        "mdb216.pgm": "malignant",
        "mdb300.pgm": "",
        "mdb321.pgm": "normal",
    }
    truth = films["cancer_pathology"].fillna(-1).to_dict()
    worth = {"malignant": 1, "benign": 0, "normal": 0, "": -1}
    assert truth == {name: worth[word] for name, word in classes.items()}
    labelled = films[films["cancer_pathology"].notna()]
    assert set(labelled["label_level"]) == {"image"}
    assert set(labelled["label_source"]) == {"dataset"}
    assert set(films["label_level"].isna() == films["cancer_pathology"].isna()) == {
        True
    }
    assert list(label(films, Target()).fillna(-1)) == list(truth.values())


def test_pair_is_a_patient_and_odd_is_right(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    first, second = rows.loc["mdb001.pgm"], rows.loc["mdb002.pgm"]
    assert (first["laterality"], second["laterality"]) == ("R", "L")
    assert first["patient_key"] == second["patient_key"]
    assert first["exam_key"] == second["exam_key"]
    assert first["breast_key"] != second["breast_key"]
    assert rows["patient_key"].nunique() == 9 and rows["exam_order"].max() == 0


def test_background_tissue_is_no_acr_density(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    assert rows["density"].isna().all() and rows["birads"].isna().all()


def test_image_stored_under_both_classes_is_one(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    for folder in ("benign", "malignant"):
        (root / folder).mkdir()
        (root / folder / "mdb144.pgm").write_bytes(_grey_map(144))
    (root / "mdb144.pgm").unlink()
    _, rows = _import(root, pseudonymiser)
    assert rows.loc["malignant/mdb144.pgm", "reason"] == "X_DUPLICATE"
    assert rows.loc["benign/mdb144.pgm", "status"] == "ok"
    assert rows.loc["benign/mdb144.pgm", "cancer_pathology"] == 1


def test_broken_and_foreign_files_have_their_codes(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    for name, content in {
        "mdb001.pgm": b"",
        "mdb002.pgm": b"words",
        "mdb003.pgm": b"\x89PNG\r\n\x1a\n broken",
        "other.pgm": _grey_map(400),
        "mdb005.pgm": b"P5\n16",
    }.items():
        (root / name).write_bytes(content)
    _, rows = _import(root, pseudonymiser)
    assert rows["reason"].dropna().to_dict() == {
        "README": "X_NOT_IMAGE",
        "mdb001.pgm": "Q_EMPTY",
        "mdb002.pgm": "X_NOT_IMAGE",
        "mdb003.pgm": "Q_CODESTREAM",
        "mdb005.pgm": "Q_CODESTREAM",
        "other.pgm": "X_NO_PATIENT",
    }


def test_names_in_upper_case_are_the_same(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / "mdb216.pgm").rename(root / "MDB216.PGM")
    imported, rows = _import(root, pseudonymiser)
    assert rows.loc["MDB216.PGM", "cancer_pathology"] == 1
    assert imported.notes["table_rows_unmatched"] == 2


def test_nothing_in_the_manifest_identifies(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = imported.manifest.to_csv()
    assert "mdb" not in text and "pair" not in text and "pgm" not in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mdb004 X CIRC B 1 2 3", r"10 images, and 1 lines .* first \[19\]"),
        ("mdb004 F JANE B 1 2 3", r"1 lines about images that cannot be read"),
        ("mdb004 F CIRC 1 2 3", r"1 lines about images that cannot be read"),
    ],
)
def test_line_that_cannot_be_read_is_refused_without_quoting_it(
    root: Path, pseudonymiser: Pseudonymiser, line: str, message: str
) -> None:
    (root / "Info.txt").write_text(f"{INFO.rstrip()}\n{line}\n")
    with pytest.raises(ImporterError, match=message) as caught:
        _import(root, pseudonymiser)
    text = str(caught.value)
    assert "mdb004" not in text and "JANE" not in text and "Traceback" not in text


def test_absent_or_empty_table_is_named(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / "Info.txt").write_text("REF BG CLASS SEVERITY X Y RADIUS\n")
    with pytest.raises(ImporterError, match=r"Info\.txt has 0 images"):
        _import(root, pseudonymiser)
    (root / "Info.txt").unlink()
    with pytest.raises(ImporterError, match=r"No table Info\.txt"):
        _import(root, pseudonymiser)


def test_options_are_checked(root: Path, pseudonymiser: Pseudonymiser) -> None:
    _, rows = _import(root, pseudonymiser, dataset="other")
    assert set(rows["dataset"]) == {"other"}
    with pytest.raises(ImporterError, match="options of importer mias"):
        _import(root, pseudonymiser, allow_8bit=True)


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("mias", root, tmp_path_factory.mktemp("site"))
