"""Worker processes: a death costs one file, a failure of the worker ends the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.data.workers import WorkerError, run_tasks

WORKER = """
import os, signal, time
from client.data.workers import serve

def work(setup, task, starting):
    done = []
    for position, file in enumerate(task["files"]):
        starting(position)
        print("noise on standard output")
        if file["name"] == "stubborn":
            os.kill(os.getpid(), signal.SIGKILL)
        elif "lost" in file:
            done.append(file["lost"])
        elif file["name"] == "killer":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif file["name"] == "sleeper":
            time.sleep(600)
        elif file["name"] == "full disk":
            raise OSError(28, "CANARY")
        else:
            done.append(file["name"] + setup["suffix"])
    return {"done": done}

if EARLY:
    os.kill(os.getpid(), signal.SIGKILL)
serve(work)
"""


def _run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tasks: list[list[str]],
    *,
    early: bool = False,
    seconds: float = 60.0,
) -> dict[int, Any]:
    (tmp_path / "fake_worker.py").write_text(WORKER.replace("EARLY", str(early)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    given = [{"files": [{"name": name} for name in names]} for names in tasks]
    answers = run_tasks(
        "fake_worker", {"suffix": "!"}, given, workers=2, seconds_per_file=seconds
    )
    return {position: answer["done"] for position, answer in answers}


def test_every_task_is_answered_and_a_crash_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [["a", "b"], ["c", "killer", "d", "killer"], ["e"], []]
    assert _run(tmp_path, monkeypatch, tasks) == {
        0: ["a!", "b!"],
        1: ["c!", "crashed", "d!", "crashed"],
        2: ["e!"],
        3: [],
    }


def test_a_file_that_never_ends_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [["a", "sleeper", "b", "killer"], ["c"]]
    assert _run(tmp_path, monkeypatch, tasks, seconds=6.0) == {
        0: ["a!", "hung", "b!", "crashed"],
        1: ["c!"],
    }


def test_failure_of_the_worker_is_raised_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        WorkerError, match=r"OSError \(errno 28\) at fake_worker"
    ) as info:
        _run(tmp_path, monkeypatch, [["a"], ["full disk"]])
    assert "CANARY" not in str(info.value)


def test_worker_that_dies_twice_at_one_file_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkerError, match="died again"):
        _run(tmp_path, monkeypatch, [["a", "stubborn"]])


def test_worker_that_cannot_start_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkerError, match="before its first file"):
        _run(tmp_path, monkeypatch, [["a"]], early=True)
