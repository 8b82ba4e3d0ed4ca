"""Two processes never work in one folder, and a dead one holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.lock import FolderBusyError, held, is_held, locked

ROOT = Path(__file__).parents[2]


def test_a_second_process_is_told_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from common.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(FolderBusyError, match="Another process"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
    with locked(tmp_path):
        pass


def test_a_file_is_held_as_long_as_its_process_lives(tmp_path: Path) -> None:
    file = tmp_path / "worker.lock"
    assert not is_held(file)
    code = (
        "import sys, pathlib; from common.lock import held\n"
        "with held(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert is_held(file) and is_held(file)  # looking takes nothing away
        other.kill()
        other.wait()
    assert not is_held(file)
    with held(file):
        assert is_held(file)
    assert file.exists() and not is_held(file)
