"""A finished preparation is confirmed from sizes and times; a change is noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from client.data import confirm
from client.data.cache import CacheError, prepare
from client.data.site_data import import_site
from client.data.snapshot import IMAGES_FILE
from common.plan import Preprocessing

OPTIONS = {"dataset": "test"}


@pytest.fixture
def site(
    tmp_path: Path, archive: Callable[[int], Path], small: Preprocessing
) -> tuple[Path, Path]:
    """Prepare a site; return its folder and the archive."""
    root, folder = archive(5), tmp_path / "site"
    import_site("hospital", root, folder, "s", OPTIONS)
    prepare(folder, root, small)
    return folder, root


def _replace(path: Path, content: bytes, *, keep_time: bool) -> None:
    before = path.stat()
    path.write_bytes(content)
    shift = 0 if keep_time else 5_000_000_000
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + shift))


def test_unchanged_files_are_not_read_again(
    site: tuple[Path, Path], small: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        raise AssertionError("read although size and time are the same")

    monkeypatch.setattr(confirm, "sha256_of_file", read)
    told: list[tuple[int, int]] = []
    prepare(*site, small, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)
    with pytest.raises(AssertionError, match="read although"):
        prepare(*site, small, verify=True)


@pytest.mark.parametrize("gone", [True, False])
def test_a_changed_or_vanished_file_is_counted(
    site: tuple[Path, Path], small: Preprocessing, gone: bool
) -> None:
    folder, root = site
    path = root / "image0002"
    if gone:
        path.unlink()
    else:
        _replace(path, path.read_bytes()[:-1] + b"?", keep_time=False)
    with pytest.raises(CacheError, match="1 of 5 files") as caught:
        prepare(folder, root, small)
    assert "new folder" in str(caught.value) and "image0002" not in str(caught.value)


def test_verify_finds_what_kept_its_size_and_time(
    site: tuple[Path, Path], small: Preprocessing
) -> None:
    folder, root = site
    path = root / "image0002"
    _replace(path, path.read_bytes()[:-1] + b"?", keep_time=True)
    prepare(folder, root, small)
    with pytest.raises(CacheError, match="1 of 5 files"):
        prepare(folder, root, small, verify=True)


def test_verify_finds_a_damaged_image(
    site: tuple[Path, Path], small: Preprocessing
) -> None:
    folder, root = site
    images = next(folder.glob(f"cache/*/{IMAGES_FILE}"))
    content = bytearray(images.read_bytes())
    content[100] ^= 1
    images.write_bytes(bytes(content))
    prepare(folder, root, small)
    with pytest.raises(CacheError, match="checksum"):
        prepare(folder, root, small, verify=True)


def test_a_copied_archive_is_the_same_archive(
    site: tuple[Path, Path], small: Preprocessing, tmp_path: Path
) -> None:
    folder, root = site
    copy = Path(shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile))
    assert import_site("hospital", copy, folder, "s", OPTIONS).repeated
    assert len(prepare(folder, copy, small)) == 5


def test_without_its_archive_a_prepared_site_still_opens(
    site: tuple[Path, Path], small: Preprocessing
) -> None:
    folder, root = site
    shutil.rmtree(root)
    assert len(prepare(folder, root, small)) == 5


def test_verify_needs_the_archive(
    site: tuple[Path, Path], small: Preprocessing
) -> None:
    folder, root = site
    shutil.rmtree(root)
    with pytest.raises(CacheError, match="No archive folder"):
        prepare(folder, root, small, verify=True)


def test_a_second_size_confirms_the_first(
    site: tuple[Path, Path], small: Preprocessing
) -> None:
    folder, root = site
    (root / "image0002").unlink()
    larger = Preprocessing(rows=64, columns=32)
    with pytest.raises(CacheError, match="1 of 5 files"):
        prepare(folder, root, small, also=[larger])
