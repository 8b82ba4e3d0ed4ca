"""Worker processes that may die or hang: that costs one file, not the run.

Native decoders can end a process, or never come back. Every worker is a fresh Python
that reads tasks and writes answers as JSON lines; before each file it says which one.
When it dies, or is silent for too long and is killed, that file is marked as ``lost``,
a new worker starts, and gets the task again.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Task = dict[str, Any]
"""Plain JSON data; ``files`` is a list of dicts."""

LOST_CODES = {"crashed": "Q_CRASH", "hung": "Q_TIMEOUT"}
"""What a file is marked as in ``lost`` -> its reason code."""

_TICKS = 100
_ROOT = Path(__file__).resolve().parents[2]


class WorkerError(RuntimeError):
    """A worker failed as a whole, for example because the disk is full."""


def run_tasks(
    module: str,
    setup: Task,
    tasks: Sequence[Task],
    workers: int,
    seconds_per_file: float = 120.0,
) -> Iterator[tuple[int, Task]]:
    """Run tasks in worker processes; yield (position of the task, answer) as they end.

    Parameters
    ----------
    module : module to run; its main function calls `serve`
    setup : sent to each worker first
    tasks : one answer each, in any order
    workers : processes at a time, at least 1
    seconds_per_file : a worker that says nothing for so long is killed. It speaks
        before each file and each frame; a few times what the slowest decoder needs

    Raises
    ------
    WorkerError
        If a worker dies before its first file or twice at the same one, or reports a
        failure of its own.
    """
    waiting: queue.SimpleQueue[tuple[int, Task] | None] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[int, Task] | BaseException] = queue.SimpleQueue()
    for item in enumerate(tasks):
        waiting.put(item)
    team = [
        _Worker(module, setup, waiting, answers, seconds_per_file)
        for _ in range(max(1, min(workers, len(tasks))))
    ]
    try:
        for worker in team:
            waiting.put(None)
            worker.start()
        for _ in tasks:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        for worker in team:
            worker.stop()


class _Worker(threading.Thread):
    """One thread that keeps one process busy and replaces it when it dies."""

    def __init__(
        self,
        module: str,
        setup: Task,
        waiting: queue.SimpleQueue[tuple[int, Task] | None],
        answers: queue.SimpleQueue[tuple[int, Task] | BaseException],
        seconds: float,
    ) -> None:
        super().__init__(daemon=True)
        self._seconds = seconds
        self._module, self._setup = module, setup
        self._waiting, self._answers = waiting, answers
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self) -> None:
        try:
            while (item := self._waiting.get()) is not None and not self._stopped:
                self._answers.put((item[0], self._ask(item[1])))
        except Exception as error:
            self._answers.put(error)
        finally:
            self._end()

    def stop(self) -> None:
        """End the process and wait for the thread."""
        self._stopped = True
        self._end()
        self._waiting.put(None)
        self.join()

    def _ask(self, task: Task) -> Task:
        while True:
            at: int | None = None
            if self._stopped:
                raise WorkerError("Stopped.")
            process = self._process or self._begin()
            with suppress(BrokenPipeError):
                _send(process.stdin, task)
            hung = threading.Event()
            for line in self._listen(process, hung):
                message = json.loads(line)
                if "answer" in message:
                    if hung.is_set():  # it was killed while it answered
                        self._end()
                    return dict(message["answer"])
                if "failed" in message:
                    raise WorkerError(message["failed"])
                at = int(message["at"])
            self._end()
            if at is None or self._stopped:
                raise WorkerError(
                    f"A worker ({self._module}) died, or hung, before its first file: "
                    "the machine may be out of memory. Use fewer workers, run again."
                )
            if "lost" in task["files"][at]:
                raise WorkerError(
                    f"A worker ({self._module}) died again after the file that had "
                    "ended it was left out. Use fewer workers, then run again."
                )
            task["files"][at]["lost"] = "hung" if hung.is_set() else "crashed"

    def _listen(
        self, process: subprocess.Popen[str], hung: threading.Event
    ) -> Iterator[str]:
        """Yield what a process says; kill it, and say so, when it falls silent."""

        def kill() -> None:
            hung.set()
            process.kill()

        def watch() -> threading.Event:
            spoke = threading.Event()

            def wait() -> None:
                # In small waits: while the machine sleeps, at most one of them passes.
                for _ in range(_TICKS):
                    if spoke.wait(self._seconds / _TICKS):
                        return
                kill()

            threading.Thread(target=wait, daemon=True).start()
            return spoke

        spoke = watch()
        try:
            for line in process.stdout or ():
                spoke.set()
                yield line
                spoke = watch()
        finally:
            spoke.set()

    def _begin(self) -> subprocess.Popen[str]:
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            text=True,
            start_new_session=True,
        )
        _send(process.stdin, self._setup)
        self._process = process
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()


def serve(work: Any) -> None:
    """Answer tasks from standard input until it closes; the worker's main loop.

    Parameters
    ----------
    work : ``work(setup, task, starting) -> answer``; calls ``starting(position)``
        before each file of the task

    Notes
    -----
    Native code prints to standard output, and what it prints may quote a header: the
    answers move to a descriptor of their own, and 1 and 2 lead nowhere.
    """
    protocol = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    setup = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        try:
            answer = work(
                setup, json.loads(line), lambda at: _send(protocol, {"at": at})
            )
        except Exception as error:
            _send(protocol, {"failed": f"A worker failed: {describe(error)}"})
        else:
            _send(protocol, {"answer": answer})


def _send(stream: Any, message: Task) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def describe(error: Exception) -> str:
    """Tell type, errno and place of an error: its text may quote a header."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {_place(trace)}"
    number = f" (errno {error.errno})" if isinstance(error, OSError) else ""
    return f"{type(error).__name__}{number}{where}."


def _place(trace: Any) -> str:
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
