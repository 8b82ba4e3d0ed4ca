"""Whatever breaks, a run ends as if nothing had, or says what was missing."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from client.node_status import read_status
from tests.e2e.consortium import (
    PATIENCE,
    TestConsortium,
    kill,
    ledger_of,
    require_equal_to_simulation,
    small_plan,
)
from tests.e2e.wire import Wire

pytestmark = pytest.mark.long
STEPS = 300
"""Of a round: long enough that what happens amid training does."""


@pytest.fixture(autouse=True)
def _everybody_is_there(consortium: TestConsortium) -> None:
    """Bring back whom the test before has ended."""
    for hospital in consortium.hospitals:
        name = hospital.name
        consortium.wires[name].mend()
        process = consortium.processes.get(name)
        if process is None or process.poll() is not None:
            consortium.processes.pop(name, None)
            consortium.start_site(name)


def _begin(consortium: TestConsortium, name: str, **changes: object) -> int:
    consortium.adopt(small_plan(name, steps=STEPS, **changes))  # type: ignore[arg-type]
    return consortium.start_run()


def _ends_undisturbed(consortium: TestConsortium, name: str, run: int) -> None:
    outcome = consortium.outcome(run, PATIENCE)
    assert outcome["status"] == "complete", outcome.get("reason")
    require_equal_to_simulation(consortium, small_plan(name, steps=STEPS))


def _cut_amid_upload(consortium: TestConsortium, site: str) -> Wire:
    consortium.wait_until_training(site, 2)
    wire = consortium.wires[site]
    before = wire.passed
    # The upload is the first that is more than heartbeats.
    consortium.wait_for(f"{site} sends", lambda: wire.passed - before > 40_000)
    wire.cut()
    return wire


def test_a_node_that_is_killed_amid_training(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "node_killed")
    consortium.wait_until_training("north", 2)
    kill(consortium.family("north")["node"])
    _ends_undisturbed(consortium, "node_killed", run)


def test_a_node_that_hangs_is_started_anew(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "node_hung")
    consortium.wait_until_training("harbour", 2)
    hung = consortium.family("harbour")["node"]
    hung.suspend()
    consortium.wait_for("the node is another", lambda: not hung.is_running())
    _ends_undisturbed(consortium, "node_hung", run)


def test_a_site_that_is_killed_while_it_closes(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "close_killed")
    consortium.wait_for(
        "harbour closes",
        lambda: read_status(consortium.state("harbour"))["doing"] == "evaluate.close",
    )
    consortium.restart_site("harbour")
    _ends_undisturbed(consortium, "close_killed", run)


def test_a_site_that_is_killed_between_two_rounds(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "pause_killed")

    def between() -> bool:
        status = read_status(consortium.state("lakeside"))
        return consortium.round_saved() >= 1 and status["doing"] == "waiting"

    consortium.wait_for("lakeside waits", between)
    consortium.restart_site("lakeside")
    _ends_undisturbed(consortium, "pause_killed", run)


def test_a_server_app_that_is_killed_is_resumed_by_the_same_command(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "server_app_killed")
    consortium.wait_until_training("north", 2)
    superlink = psutil.Process(consortium.processes["superlink"].pid)
    apps = [
        child
        for child in superlink.children(recursive=True)
        if any("flwr-serverapp" in word for word in child.cmdline())
    ]
    kill(*apps)
    consortium.wait_for(
        "the run is over", lambda: consortium.run_status(run) == "finished"
    )
    again = consortium.start_run()
    _ends_undisturbed(consortium, "server_app_killed", again)


def test_a_site_and_the_superlink_that_are_killed_together(
    consortium: TestConsortium,
) -> None:
    _begin(consortium, "both_killed")
    consortium.wait_until_training("harbour", 2)
    consortium.kill_coordinator()
    consortium.kill_site("harbour")
    consortium.processes.pop("harbour").wait()
    consortium.start_superlink()
    consortium.start_site("harbour")
    _ends_undisturbed(consortium, "both_killed", consortium.start_run())


def test_a_network_that_is_cut_for_90_s_amid_an_upload(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "cut")
    wire = _cut_amid_upload(consortium, "north")
    time.sleep(90)
    wire.mend()
    _ends_undisturbed(consortium, "cut", run)


def test_a_site_that_is_killed_amid_an_upload_holds_up_nobody(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "upload_killed")
    wire = _cut_amid_upload(consortium, "north")
    consortium.kill_site("north")
    consortium.processes.pop("north").wait()
    wire.mend()
    consortium.start_site("north")
    _ends_undisturbed(consortium, "upload_killed", run)
    outcome = consortium.outcome(run, PATIENCE)
    longest = max(outcome["seconds"].values())
    assert longest < 120, "Flower ends a broken upload after 180 s"
    again = {
        site for (_, site), one in ledger_of(outcome).items() if one["attempts"] > 1
    }
    assert again == {"north"}


def test_a_site_that_is_ten_times_slower(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "slow")
    consortium.wait_until_training("lakeside", 2)
    with _slowed(consortium.family("lakeside")["worker"]):
        _ends_undisturbed(consortium, "slow", run)


def test_a_database_that_is_locked_for_8_s(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "locked")
    consortium.wait_until_training("north", 2)
    database = consortium.folder / "coordinator" / "superlink.db"
    with sqlite3.connect(database, timeout=30, isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(8)
        connection.execute("ROLLBACK")
    _ends_undisturbed(consortium, "locked", run)
    assert consortium.processes["superlink"].poll() is None


def test_a_local_state_that_is_corrupt_is_told_and_the_rest_goes_on(
    consortium: TestConsortium,
) -> None:
    plan = small_plan("corrupt", steps=STEPS)
    consortium.adopt(plan)
    run = consortium.start_run()
    consortium.wait_until_training("harbour", 3)
    consortium.kill_site("harbour")
    (mine,) = consortium.state("harbour").glob(f"*/{plan.hash[:12]}/round-00002.*")
    content = bytearray(mine.read_bytes())
    content[-9] ^= 1
    mine.write_bytes(content)
    consortium.processes.pop("harbour").wait()
    consortium.start_site("harbour")
    outcome = consortium.outcome(run, PATIENCE)
    assert outcome["status"] == "failed"  # it cannot close without its own part
    assert "harbour: LOCAL_STATE" in outcome["reason"]
    entry = ledger_of(outcome)[3, "harbour"]
    assert not entry["counted"] and "LOCAL_STATE" in entry["reason"]
    assert ledger_of(outcome)[3, "north"]["counted"]


def test_a_site_that_leaves_for_good_is_absent_and_the_rest_goes_on(
    consortium: TestConsortium,
) -> None:
    run = _begin(consortium, "left")
    consortium.wait_until_training("lakeside", 2)
    consortium.kill_site("lakeside")
    outcome = consortium.outcome(run, PATIENCE)
    assert outcome["status"] == "complete_with_absences", outcome.get("reason")
    ledger = ledger_of(outcome)
    assert ledger[1, "lakeside"]["counted"]
    assert ledger[2, "lakeside"]["reason"] == "offline"
    assert ledger[3, "lakeside"]["reason"] == "offline"
    assert ledger[3, "north"]["weight_share"] > ledger[1, "north"]["weight_share"]


def test_a_site_that_pauses_ends_training_within_a_step(
    consortium: TestConsortium,
) -> None:
    consortium.adopt(small_plan("paused", steps=2 * STEPS))
    run = consortium.start_run()
    consortium.wait_until_training("lakeside", 2)
    consortium.client("lakeside", "pause")
    try:
        outcome = consortium.outcome(run, PATIENCE)
    finally:
        consortium.client("lakeside", "resume")
    entry = ledger_of(outcome)[2, "lakeside"]
    assert not entry["counted"] and "STOPPED" in entry["reason"]


def test_a_late_reply_and_duplicates_change_nothing(
    consortium: TestConsortium, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import logging\n"
        "from client.fleet import Fleet\n"
        "from client.fleet_errors import FleetError, LostMessageError\n"
        "right, held, trained = Fleet.send, [], 0\n"
        "def send(self, reply, seconds):\n"
        "    global trained\n"
        "    trained += reply.metadata.message_type == 'train.round'\n"
        "    if trained == 2 and not held:\n"
        "        held.append(reply)\n"
        "        raise LostMessageError('held back')\n"
        "    sent = right(self, reply, seconds)\n"
        "    for again in [reply, *held]:\n"
        "        try:\n"
        "            right(self, again, seconds)\n"
        "            logging.warning('sent once more')\n"
        "        except FleetError as error:\n"
        "            logging.warning('not taken once more: %s', error)\n"
        "    return sent\n"
        "Fleet.send = send\n"
    )
    consortium.restart_site("north", PYTHONPATH=str(tmp_path))
    try:
        run = _begin(consortium, "twice")
        _ends_undisturbed(consortium, "twice", run)
    finally:
        consortium.restart_site("north")
    outcome = json.loads(
        (consortium.plan.with_suffix("") / "outcome.json").read_bytes()
    )
    assert ledger_of(outcome)[2, "north"]["attempts"] == 2
    said = (consortium.folder / "logs" / "north.log").read_text()
    assert said.count("once more") > 6


def test_a_second_process_of_a_site_is_refused(consortium: TestConsortium) -> None:
    first = psutil.Process(consortium.processes["north"].pid)
    # A test before may just have started it, and the second could be the first.
    consortium.wait_for("north at work", lambda: len(first.children()) == 2)
    words = consortium._client_words("north")
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "Another process" in done.stderr and "Traceback" not in done.stderr


def test_a_clock_that_is_off_by_two_minutes_is_told(
    consortium: TestConsortium, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import datetime\n"
        "import flwr.supercore.date as date\n"
        "right = date.now\n"
        "date.now = lambda: right() + datetime.timedelta(seconds=120)\n"
    )
    consortium.restart_site("north", PYTHONPATH=str(tmp_path))
    try:
        consortium.wait_for(
            "north tells its trouble",
            lambda: "clock" in str(read_status(consortium.state("north"))["trouble"]),
        )
    finally:
        consortium.restart_site("north")


def test_a_disk_that_is_full_is_noticed_before_the_round(
    consortium: TestConsortium, tmp_path: Path
) -> None:
    state = consortium.state("lakeside")
    consortium.stop("lakeside")
    aside = tmp_path / "aside"
    shutil.move(state, aside)
    try:
        with _small_disk(state):
            consortium.start_site("lakeside")
            consortium.adopt(small_plan("full", steps=STEPS))
            free = shutil.disk_usage(state).free
            (state / "filler").write_bytes(bytes(free - 100_000))
            outcome = consortium.outcome(consortium.start_run(), PATIENCE)
            consortium.stop("lakeside")
        assert outcome["status"] == "failed"
        assert "lakeside: DISK" in outcome["reason"]
    finally:
        shutil.rmtree(state, ignore_errors=True)
        shutil.move(aside, state)


def test_a_coordinators_disk_that_is_full_stops_the_run_until_there_is_room(
    consortium: TestConsortium,
) -> None:
    plan = small_plan("crowded", steps=STEPS)
    consortium.adopt(plan)
    folder = consortium.plan.with_suffix("")
    with _small_disk(folder):
        filler = folder / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(folder).free - 200_000))
        outcome = consortium.outcome(consortium.start_run(), PATIENCE)
        assert outcome["status"] == "failed"
        assert "disk is too full" in outcome["reason"]
        filler.unlink()
        _ends_undisturbed(consortium, "crowded", consortium.start_run())


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """Put a disk of 2 MB at a folder; what is on it is lost at the end."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _slowed(worker: psutil.Process) -> Iterator[None]:
    """Let a process run a tenth of the time."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set() and worker.is_running():
            worker.send_signal(signal.SIGSTOP)
            time.sleep(0.27)
            worker.send_signal(signal.SIGCONT)
            time.sleep(0.03)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
