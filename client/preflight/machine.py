"""The site's own machine: disk, memory, processor, key file."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

from client.preflight.finding import Finding, gigabytes
from common.keys import KeyFileError, read_key

_LOGS = 200_000_000
_LOOK_SECONDS = 0.5


def disk(state: Path, needed: int) -> Finding:
    """Compare the free space with what generations, models and logs will take.

    Parameters
    ----------
    state : the site's folder of local state; need not exist yet
    needed : bytes, as the plan takes; 0 where no plan is known
    """
    here = next(path for path in (state, *state.parents) if path.exists())
    free = shutil.disk_usage(here).free
    wanted = needed + _LOGS
    what = "this plan and the logs take" if needed else "the logs take"
    said = f"{gigabytes(free)} are free, {what} up to {gigabytes(wanted)}"
    remedy = f"Make room on the disk of {here}, or name another one by state:."
    if free < wanted:
        return Finding("disk", "problem", said, remedy)
    if free < 2 * wanted:
        return Finding("disk", "warning", said, remedy)
    return Finding("disk", "ok", said)


def free_memory() -> int | None:
    """Return the bytes that processes can get without swapping; None = not known."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def memory(free: int | None, peak: int) -> Finding:
    """Compare the free memory with what a training step took.

    Parameters
    ----------
    free : bytes before the step, as `free_memory`
    peak : bytes of the process that took it; 0 where none was taken
    """
    if free is None or not peak:
        known = "" if free is None else f"{gigabytes(free)} are free, "
        return Finding("memory", "unknown", f"{known}what training takes is not known")
    said = f"{gigabytes(free)} are free, a training step takes {gigabytes(peak)}"
    remedy = "End other programs, or train on a machine with more memory."
    if free < peak:
        return Finding("memory", "problem", said, remedy)
    if free < 1.5 * peak:
        return Finding("memory", "warning", said, remedy)
    return Finding("memory", "ok", said)


def threads(wanted: int | None, cores: int, idle: float | None) -> Finding:
    """Compare the cores with the threads that training takes.

    Parameters
    ----------
    wanted : of the plan or the settings; None = as many as there are cores
    cores : that this process may use
    idle : how many of them do nothing, as `idle_cores`
    """
    takes = wanted or cores
    said = f"training takes {takes}, this machine has {cores}"
    if takes > cores:
        remedy = "A round lasts longer: set threads: lower, unless the plan pins it."
        return Finding("threads", "warning", said, remedy)
    if idle is None:
        return Finding("threads", "ok", said)
    said += f", {round(idle)} of them idle"
    if round(idle) < takes:
        remedy = "A round lasts longer while other programs compute."
        return Finding("threads", "warning", said, remedy)
    return Finding("threads", "ok", said)


def idle_cores() -> float | None:
    """Count the cores that do nothing at the moment; None where nobody tells."""
    before = _ticks()
    if before is None:
        return None
    time.sleep(_LOOK_SECONDS)
    after = _ticks()
    assert after is not None
    idle = 0.0
    for core, (quiet, total) in after.items():
        passed = total - before[core][1]
        idle += (quiet - before[core][0]) / passed if passed else 1.0
    return idle


def _ticks() -> dict[str, tuple[int, int]] | None:
    """Read how long each core was idle, and was there; see proc(5)."""
    file = Path("/proc/stat")
    if not file.is_file():
        return None
    ours = {f"cpu{core}" for core in cores()}
    found = {}
    for line in file.read_text().splitlines():
        name, *fields = line.split()
        if name in ours:
            numbers = [int(field) for field in fields[:8]]
            found[name] = (numbers[3] + numbers[4], sum(numbers))
    return found


def cores() -> set[int]:
    """List the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def key_file(path: Path) -> Finding:
    """Look at the site's private key: its kind, and who may read it."""
    name = "key file"
    if not path.is_file():
        remedy = "mammo-client --site NAME init makes it; the coordinator registers it."
        return Finding(name, "problem", f"there is no {path}", remedy)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        said = f"others of this machine may use {path} (mode {mode:04o})"
        return Finding(name, "problem", said, f"Type: chmod 600 {path}")
    another = (
        "Let init make a key: move this one away, type mammo-client --site NAME init, "
        "and send the new public key to the coordinator."
    )
    try:
        key = read_key(path)
    except KeyFileError as error:
        return Finding(name, "problem", str(error), another)
    return Finding(name, "ok", f"ECDSA on {key.curve.name}, mode {mode:04o}")
