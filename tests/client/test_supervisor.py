"""A node that is dead or a zombie is started anew; one that waits is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.node_status import HEARTBEAT_THREAD, STATUS_FILE, NodeStatus, silence
from client.supervisor import SILENT_SECONDS, _Child, _watch

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def node() -> Iterator[_Child]:
    child = _Child("node", SLEEP)
    child.keep()
    yield child
    child.kill()


def said(state: Path, child: _Child, /, **threads: tuple[float, float]) -> None:
    """Write what a node's threads said: how long ago, and for how long."""
    assert child.process is not None
    now = time.time()
    facts = {name: [now - age, lease] for name, (age, lease) in threads.items()}
    (state / STATUS_FILE).write_text(
        json.dumps({"pid": child.process.pid, "threads": facts})
    )


@pytest.mark.parametrize(
    ("threads", "ended"),
    [
        ({"node": (1.0, 0.0), "heartbeat": (1.0, 6.0)}, False),
        ({"node": (SILENT_SECONDS + 1, 0.0), "heartbeat": (1.0, 6.0)}, True),
        ({"node": (1.0, 0.0), "heartbeat": (SILENT_SECONDS + 7, 6.0)}, True),
        ({"node": (50.0, 60.0), "heartbeat": (1.0, 6.0)}, False),
    ],
)
def test_a_node_is_ended_once_one_of_its_threads_is_silent(
    threads: dict[str, tuple[float, float]], ended: bool, node: _Child, tmp_path: Path
) -> None:
    said(tmp_path, node, **threads)
    _watch(node, tmp_path)
    assert node.process is not None
    assert (node.process.poll() is not None) == ended


def test_what_an_earlier_node_said_is_not_held_against_this_one(
    node: _Child, tmp_path: Path
) -> None:
    said(tmp_path, node, node=(3600.0, 0.0))
    file = tmp_path / STATUS_FILE
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"pid": 1}))
    _watch(node, tmp_path)
    assert node.process is not None and node.process.poll() is None


def test_a_node_that_ended_is_started_again_and_later_each_time() -> None:
    child = _Child("node", [sys.executable, "-c", ""])
    child.keep()
    pauses = []
    for _ in range(3):
        assert child.process is not None
        child.process.wait(60)
        child.keep()
        pauses.append(child.pause)
        child.not_before = 0.0
        child.keep()
    assert child.starts == 4 and pauses == [1.0, 3.0, 7.0]
    child.kill()


def test_every_thread_but_the_one_that_beats_speaks_for_the_node(
    tmp_path: Path,
) -> None:
    """Objects are fetched by threads of a pool, which come and go."""
    status = NodeStatus(tmp_path)
    for name, lease in (("pool-1", 5.0), (HEARTBEAT_THREAD, 7.0)):
        thread = threading.Thread(target=status.tick, args=(lease,), name=name)
        thread.start()
        thread.join()
    threads = json.loads((tmp_path / STATUS_FILE).read_bytes())["threads"]
    assert {name: lease for name, (_, lease) in threads.items()} == {
        "node": 5.0,
        "heartbeat": 7.0,
    }


def test_a_request_may_last_and_is_over_when_it_is_answered(tmp_path: Path) -> None:
    status = NodeStatus(tmp_path)
    with status.asking():
        assert silence({"threads": status._facts["threads"]}) < -50
    assert silence({"threads": status._facts["threads"]}) > -1


def test_a_node_that_hangs_is_ended_and_started_by_the_command_itself(
    tmp_path: Path,
) -> None:
    """The whole loop, with a node that says one word and then hangs."""
    program = (
        "import pathlib, sys, threading\n"
        "import client.supervisor as s\n"
        "s._GRACE, s.SILENT_SECONDS = 0.5, 2.0\n"
        "node = ('import sys, time; from pathlib import Path;'\n"
        "        'from client.node_status import NodeStatus;'\n"
        "        'NodeStatus(Path(sys.argv[1])); time.sleep(600)')\n"
        "right = s._Child\n"
        "def child(name, command):\n"
        "    words = [sys.executable, '-c', node, sys.argv[1]]\n"
        "    sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "    return right(name, words if name == 'node' else sleep)\n"
        "s._Child = child\n"
        "s.supervise([], pathlib.Path(sys.argv[1]), threading.Event())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command)
    try:
        seen: set[int] = set()
        end = time.monotonic() + 120
        while len(seen) < 2:
            assert time.monotonic() < end, "the node was not started again"
            if (tmp_path / STATUS_FILE).is_file():
                seen.add(json.loads((tmp_path / STATUS_FILE).read_bytes())["pid"])
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(30)
