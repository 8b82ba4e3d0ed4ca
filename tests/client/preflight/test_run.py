"""The whole preflight, and a running site, with a real SuperLink behind the door."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import grpc
import psutil
import pytest
from flwr.supernode import node_auth_http_interceptor
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.fleet import Fleet
from client.preflight.finding import Finding
from client.preflight.traffic import PIECE, speed, traffic
from client.site import Coordinator
from common.plan import plan_to_json
from server.deploy.certificates import create
from tests.server.deploy.running import (
    PATIENCE,
    TOMORROW,
    flwr,
    free_port,
    key_pair,
    proxy,
    running,
    superlink,
)
from tests.support.hospitals import small_plan
from tests.support.mammo_client import add_labels, client, make_hospital

ROOT = Path(__file__).parents[3]
IMAGES = 40
EVERYTHING = (
    *("plan", "policy", "data", "cache", "threads", "accelerator", "training"),
    *("memory", "disk", "key file", "proxy", "DNS", "certificate", "coordinator"),
    *("clock", "registration", "bandwidth"),
)


@dataclass(frozen=True)
class Place:
    """A hospital ``north`` whose key is registered, and its coordinator."""

    folder: Path
    coordinator: Coordinator
    health_port: int


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = make_hospital(tmp_path_factory.mktemp("hospital"), IMAGES)
    add_labels(folder, IMAGES)
    tls = create(folder / "tls", [], TOMORROW + timedelta(days=60))
    port, health_port = free_port(), free_port()
    with superlink(folder, tls, port), proxy(folder, tls, port) as door:
        coordinator = Coordinator(
            f"127.0.0.1:{door}", tls.authority, folder / "keys" / "north"
        )
        settings = folder / "site" / "north.yaml"
        settings.write_text(
            f"{settings.read_text()}health_port: {health_port}\n"
            f"coordinator: {{address: '{coordinator.address}', "
            "certificates: ../tls/ca.crt, key: ../keys/north}\n"
        )
        assert client(folder, "init")[0] == 0
        (folder / "config.toml").write_text(
            f'[superlink.consortium]\naddress = "127.0.0.1:{port}"\n'
            f'root-certificates = "{tls.authority}"\n'
        )
        public = str(folder / "keys" / "north.pub")
        flwr(folder, "supernode", "register", public, "consortium", "--name", "north")
        yield Place(folder, coordinator, health_port)


def shown(said: str) -> dict[str, str]:
    """Find the state of each thing in what `check` printed."""
    found = {}
    for name in EVERYTHING:
        for state in ("ok", "warning", "problem", "unknown"):
            if f"{state} {name} " in said:
                assert name not in found, said
                found[name] = state
    return found


def test_a_new_site_is_told_what_to_do(place: Place) -> None:
    code, said = client(place.folder, "check", "--no-data")
    found = shown(said)
    assert code == 1 and tuple(found) == EVERYTHING
    assert [name for name in found if found[name] == "problem"] == ["data"]
    assert found["plan"] == "warning" and found["accelerator"] == "ok"
    assert {found[name] for name in ("cache", "training", "memory")} == {"unknown"}


def test_a_site_that_only_receives_needs_no_images(place: Place) -> None:
    plan = place.folder / "others.json"
    plan.write_bytes(plan_to_json(small_plan(sites=("south", "east"))))
    assert client(place.folder, "approve", "--yes", plan)[0] == 0
    code, said = client(place.folder, "check", "--no-data")
    found = shown(said)
    assert code == 0, said
    assert {found[name] for name in ("data", "cache", "training")} == {"ok"}
    assert "this site does not train" in said
    assert found["registration"] == found["bandwidth"] == "ok"


def test_a_hospital_that_is_ready_has_no_problem(place: Place) -> None:
    plan = place.folder / "plan.json"
    plan.write_bytes(plan_to_json(small_plan(sites=("north", "south"))))
    assert client(place.folder, "approve", "--yes", plan)[0] == 0
    assert client(place.folder, "prepare", "--plan", plan)[0] == 0
    code, said = client(place.folder, "check")
    found = shown(said)
    assert code == 0 and f"{IMAGES} found" in said, said
    assert tuple(found) == EVERYTHING
    assert set(found.values()) <= {"ok", "warning"}
    assert "s per image; 3 rounds take" in said
    assert found["certificate"] == "ok" and "days left: 61" in said


def findings(coordinator: Coordinator) -> list[Finding]:
    return list(traffic(coordinator, 10**6))


def test_the_door_takes_a_piece_as_large_as_flowers(place: Place) -> None:
    registered, bandwidth = findings(place.coordinator)
    assert registered.state == "ok"
    assert "Mbit/s to the coordinator: 1.0 MB a round take" in bandwidth.said
    assert "way back is not measured" in bandwidth.said


def test_a_key_that_nobody_registered_is_a_problem(
    place: Place, tmp_path: Path
) -> None:
    key_pair(tmp_path, "other")
    other = replace(place.coordinator, key=tmp_path / "other.key")
    found = findings(other)[0]
    assert found.state == "problem" and "does not know" in found.said
    assert str(tmp_path / "other.pub") in found.remedy


def test_a_clock_that_is_early_has_its_signatures_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = node_auth_http_interceptor.now
    ahead = timedelta(seconds=10)
    monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: now() + ahead)
    registered, bandwidth = findings(place.coordinator)
    assert registered.state == "problem" and "clocks differ" in registered.said
    assert bandwidth.state == "unknown"


def test_without_a_key_nothing_is_claimed(place: Place, tmp_path: Path) -> None:
    found = findings(replace(place.coordinator, key=tmp_path / "none"))
    assert [one.state for one in found] == ["unknown", "unknown"]


def test_asking_disturbs_no_node_that_is_online(place: Place) -> None:
    where = place.coordinator
    fleet = Fleet(where.address, where.certificates, where.key)
    fleet.join()
    findings(where)
    fleet.heartbeat()
    assert fleet.next() is None
    fleet.leave()
    findings(where)
    fleet.join()
    fleet.leave()


@pytest.mark.parametrize(
    ("mbit", "state", "round_takes"),
    [(1.3, "problem", "1 min 5 s"), (1.5, "ok", "56 s")],
)
def test_a_line_slower_than_flower_needs_is_a_problem(
    mbit: float, state: str, round_takes: str
) -> None:
    found = speed(8 * PIECE / (mbit * 1e6), 2 * PIECE)
    assert found.state == state and f"about {mbit} Mbit/s" in found.said
    assert f"10.5 MB a round take {round_takes};" in found.said


def test_a_running_site_serves_while_its_worker_lives(place: Place) -> None:
    words = ["--config-dir", str(place.folder), "--site", "north"]
    command = [sys.executable, "-m", "client.cli", *words]
    surroundings = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    with running(command, place.folder / "site.log", surroundings) as site:
        wait_for(place, "SERVING")
        code, said = client(place.folder, "status", "--json")
        facts = json.loads(said)
        assert code == 0 and facts["at_work"] is True
        assert 60 < facts["certificate_days_left"] < 61.1
        worker = next(
            child
            for child in psutil.Process(site.process.pid).children()
            if child.cmdline()[-1] == "run-worker"
        )
        worker.kill()
        wait_for(place, "NOT_SERVING")
        code, said = client(place.folder, "status")
        assert code == 1 and "no: the worker does not run" in said
        wait_for(place, "SERVING")
    code, said = client(place.folder, "status")
    assert code == 1 and "no: the node does not run" in said


def wait_for(place: Place, status: str) -> None:
    options = [("grpc.enable_http_proxy", 0)]
    end = time.monotonic() + PATIENCE
    with grpc.insecure_channel(f"127.0.0.1:{place.health_port}", options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        wanted = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        while (
            stub.Check(request, timeout=PATIENCE, wait_for_ready=True).status != wanted
        ):
            assert time.monotonic() < end, f"never {status}"
            time.sleep(0.1)
