"""Import and prepare as simulation and client call them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from client.data.importers import ImporterError
from client.data.site_data import import_site, prepare_site, read_options, site_counts
from common.plan import Preprocessing

Archive = Callable[[int], Path]
OPTIONS = {"dataset": "test"}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_same_import_again_changes_nothing(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    root, site = archive(4), tmp_path / "site"
    (root / "image0001").write_bytes((root / "image0001").read_bytes()[:-1000])
    assert not import_site("hospital", root, site, "s", OPTIONS).repeated
    prepare_site(site, root, small)
    before = _files(site)
    assert import_site("hospital", root, site, "s", OPTIONS).repeated
    assert _files(site) == before
    assert site_counts(site)["reason:Q_TRUNCATED"] == 1


def test_other_content_is_refused_and_nothing_is_overwritten(
    tmp_path: Path, archive: Archive
) -> None:
    root, site = archive(3), tmp_path / "site"
    import_site("hospital", root, site, "s", OPTIONS)
    before = _files(site)
    (root / "image0001").unlink()
    with pytest.raises(ImporterError, match="already holds another import") as caught:
        import_site("hospital", root, site, "s", OPTIONS)
    assert "new folder" in str(caught.value) and _files(site) == before


def test_interrupted_import_is_simply_made_again(
    tmp_path: Path, archive: Archive
) -> None:
    root, site = archive(2), tmp_path / "site"
    import_site("hospital", root, site, "s", OPTIONS)
    (site / "import.json").unlink()
    assert not import_site("hospital", root, site, "s", OPTIONS).repeated


def test_site_folder_is_closed_to_others(tmp_path: Path, archive: Archive) -> None:
    site = tmp_path / "deep" / "site"
    import_site("hospital", archive(1), site, "s", OPTIONS)
    assert site.stat().st_mode & 0o077 == 0


def test_unknown_importer_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ImporterError, match=r"There are: cbis_ddsm, .*, vindr\."):
        import_site("dicom", tmp_path, tmp_path / "site", "s")


def test_options_come_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("dataset: test\ntable: {columns: {density: ACR}}\n")
    assert read_options(path)["table"] == {"columns": {"density": "ACR"}}
    path.write_text("- a list\n")
    with pytest.raises(ImporterError, match="mapping"):
        read_options(path)
