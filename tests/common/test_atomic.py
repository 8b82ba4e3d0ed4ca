"""Files appear whole, with their permission bits, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from common.atomic import atomic_file, write_atomic
from common.checkpoint import write_tensors


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_files_and_tensors_have_the_mode_asked_for(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "words", b"x", mode)
        write_tensors(tmp_path / "tensors", {"a": np.ones(3)}, {}, mode)
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "words"
    write_atomic(path, b"old")
    with pytest.raises(OSError, match="full"), atomic_file(path) as temporary:
        temporary.write_bytes(b"ne")
        raise OSError("disk full")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_what_is_flushed_is_the_file_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []

    def fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    write_tensors(tmp_path / "tensors", {"a": np.ones(3)}, {})
    assert (tmp_path / "tensors").stat().st_ino in flushed
