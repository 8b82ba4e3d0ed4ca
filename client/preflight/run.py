"""All findings of the preflight, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from client.preflight import machine, plan
from client.preflight.finding import Finding
from client.preflight.network import network
from client.preflight.rehearsed import rehearse_apart
from client.preflight.traffic import no_traffic, traffic
from client.site import Coordinator, Site
from common.plan import Plan


def preflight(
    site: Site, coordinator: Coordinator, policy_file: Path, words: Sequence[str]
) -> Iterator[Finding]:
    """Look at everything that a site needs to take part.

    Parameters
    ----------
    site : its settings
    coordinator : that the settings name
    policy_file : need not exist
    words : of the command line that choose the site, for a process of its own
    """
    approved, finding = plan.approved(site)
    yield finding
    yield plan.policy(policy_file, approved)
    if approved is None or site.site in approved.roster.sites:
        bytes_per_round = yield from _training(site, approved, words)
    else:
        bytes_per_round = 0
        said = "not needed: this site does not train, it may receive the shared part"
        for name in ("data", "cache", "training"):
            yield Finding(name, "ok", said)
    yield machine.key_file(coordinator.key)
    reached = False
    for finding in network(coordinator):
        reached |= finding.name == "coordinator" and finding.state == "ok"
        yield finding
    if reached:
        yield from traffic(coordinator, bytes_per_round)
    else:
        yield from no_traffic("without an answer")


def _training(
    site: Site, approved: Plan | None, words: Sequence[str]
) -> Generator[Finding, None, int]:
    """Look at data and machine; return the bytes that a round sends, 0 if unknown."""
    yield plan.data(site)
    yield plan.cache(site, approved)
    pinned = approved.threads if approved else None
    cores = len(machine.cores())
    yield machine.threads(pinned or site.threads, cores, machine.idle_cores())
    free = machine.free_memory()
    rehearsed = rehearse_apart(words)
    yield plan.accelerator(site.device, rehearsed)
    yield plan.training(approved, rehearsed)
    yield machine.memory(free, rehearsed.peak_bytes)
    yield machine.disk(site.state_folder, rehearsed.disk_bytes)
    return rehearsed.bytes_per_round
