"""Nothing of a patient is on the wire or at the coordinator, whatever goes wrong.

Two hospitals whose archive holds a canary in every place, as real processes with TLS.
A recorder between them and the door keeps every byte of both directions.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from client.data.canary import STEMS, Canaries
from client.data.planted_exam import ARCHIVE_NAME, OPTIONS, plant_exams
from client.data.pseudonyms import site_secret
from client.data.snapshot import cache_folder
from common.checkpoint import read_tensors
from common.compose import mammofed_version
from common.plan import Plan, Preprocessing, Roster, Split
from common.stages import Model, Stage, Work
from server.deploy.certificates import tls_files
from simulations.consortium import Hospital
from tests.e2e.consortium import PATIENCE, TestConsortium
from tests.e2e.recorder import Recorder

pytestmark = pytest.mark.long
SITES = ("north", "harbour")
FOLDER = f"{STEMS['folder name']}031"
TABLE = f"{STEMS['label table']}031"
KEPT = f"{STEMS['kept element']}031"
PREPROCESSING = Preprocessing(rows=32, columns=16)
SECRET = b"of planted exams, of no hospital"
LEAK = """\
import common.quiet
import client.client_app as app
import client.egress as egress

honest = app._refuse

def talkative(code, message, error, note):
    egress.write_reason = lambda reference, head: f"reference {reference}: {error}"
    return honest(code, message, error, note)

app._refuse = talkative
"""


class PlantedConsortium(TestConsortium):
    """Hospitals that read the planted archive, below a folder that is a canary."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder)
        archive = folder / "archives" / ARCHIVE_NAME
        self.canaries, _ = plant_exams(archive)
        self.recorder = Recorder(self.door_port)
        self.hospitals = [
            Hospital(
                site,
                {
                    "importer": "hospital",
                    "archive": str(archive),
                    "folder": str(folder / "data" / FOLDER / site),
                    "options": OPTIONS,
                    "workers": 1,
                },
            )
            for site in SITES
        ]

    def address_for(self, name: str) -> str:
        return f"127.0.0.1:{self.recorder.port}"

    def state(self, site: str) -> Path:
        return self.folder / "data" / FOLDER / site / "federation"

    def cache(self, site: str) -> Path:
        """Name the folder of a site's prepared images."""
        return cache_folder(self.state(site).parent, PREPROCESSING)

    def open(self) -> None:
        self.set_up()
        self.recorder.open(tls_files(self._tls))
        for site in SITES:
            folder = self.state(site).parent
            folder.mkdir(parents=True)
            site_secret(folder, SECRET)  # a split that is the same every time
            self.client(site, "prepare", "--rows", 32, "--columns", 16)
            self.start_site(site)

    def run(self) -> dict[str, Any]:
        """Run the plan adopted last, for the first time or again."""
        folder = self.plan.with_suffix("")
        ends = [folder / name for name in ("outcome.json", "failure.json")]
        for path in ends:
            path.unlink(missing_ok=True)
        run = self.start_run()
        self.wait_for("an outcome", lambda: any(path.is_file() for path in ends))
        return self.outcome(run, PATIENCE)

    def allow(self, *targets: str) -> None:
        """Let all hospitals allow plans of these targets only."""
        names = ", ".join(targets)
        (self.config_dir / "policy.yaml").write_text(f"targets: [{names}]\n")

    def on_the_wire(self) -> set[str]:
        """Search every byte that passed the recorder."""
        streams = (*self.recorder.sent, *self.recorder.received)
        return {kind for one in streams for kind in self.canaries.find(bytes(one))}

    def at_the_coordinator(self) -> set[tuple[str, str]]:
        """Search all that the coordinator holds: files, their names, database rows."""
        logs = [self.folder / "logs" / f"{name}.log" for name in ("superlink", "door")]
        folders = [self.folder / "coordinator", self.folder / "plans"]
        files = [path for one in folders for path in one.rglob("*")]
        assert {"superlink.db", "run.log", "log.jsonl", "failure.json"} <= {
            path.name for path in files
        }
        found = set()
        for path in (*logs, *files):
            texts = [os.fsencode(path.relative_to(self.folder))]
            texts += [path.read_bytes()] if path.is_file() else []
            texts += list(_rows(path)) if path.name == "superlink.db" else []
            kinds = {kind for text in texts for kind in self.canaries.find(text)}
            found |= {(path.name, kind) for kind in kinds}
        return found


def _rows(database: Path) -> Iterator[bytes]:
    """Read every value: long ones lie in pages that are apart in the file."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        for (table,) in tables.fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    yield value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[PlantedConsortium]:
    with PlantedConsortium(tmp_path_factory.mktemp("planted")) as consortium:
        consortium.open()
        yield consortium
        consortium.recorder.close()


def plan_of(name: str) -> Plan:
    stage = Stage("adapt", 2, model=Model("resnet_tiny"), work=Work("steps", 2, 8))
    return Plan(
        id=name,
        version=mammofed_version(),
        roster=Roster(SITES),
        stages=(stage,),
        preprocessing=PREPROCESSING,
        split=Split(0.4, 0.3, 0.3),
        threads=1,
    )


def flip(path: Path) -> None:
    """Damage a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    content[-9] ^= 1
    path.write_bytes(content)


def test_no_canary_leaves_a_hospital_whatever_goes_wrong(
    planted: PlantedConsortium,
) -> None:
    sent, received = planted.recorder.sent, planted.recorder.received
    plan = plan_of("whole")
    planted.adopt(plan)
    outcome = planted.run()
    assert outcome["status"] == "complete"
    assert {entry["weight_share"] for entry in outcome["ledger"]} == {0.5}
    _require_that_the_recorder_hears(planted, plan)

    # Closing again: one has damaged images, the other a damaged local state.
    flip(planted.cache("north") / "images.u16")
    (own,) = planted.state("harbour").glob(f"*/{plan.hash[:12]}/round-00002.*")
    flip(own)
    for site in SITES:
        planted.restart_site(site)
    reason = planted.run()["reason"]
    assert "north: CACHE" in reason and "harbour: LOCAL_STATE" in reason

    # One has approved another plan, the other's cache makes the worker fail.
    planted.adopt(plan_of("other"), "north")
    planted.adopt(plan_of("failing"), "harbour")
    facts_file = planted.cache("harbour") / "snapshot.json"
    facts = json.loads(facts_file.read_bytes())
    facts_file.write_text(json.dumps(facts | {"chunk_size": KEPT}))
    reason = planted.run()["reason"]
    assert "north: PLAN_NOT_APPROVED" in reason and "harbour: INTERNAL" in reason
    facts_file.write_text(json.dumps(facts))

    planted.adopt(plan_of("forbidden"))
    planted.allow(TABLE)
    reason = planted.run()["reason"]
    assert "north: POLICY" in reason and "harbour: POLICY" in reason

    assert _said_at_hospitals(planted) >= {"folder name", "kept element", "label table"}
    assert planted.on_the_wire() == set()
    assert planted.at_the_coordinator() == set()
    database = planted.folder / "coordinator" / "superlink.db"
    assert all(any(site.encode() in row for row in _rows(database)) for site in SITES)
    assert b"content-encoding" not in b"".join((*sent, *received)).lower()


def test_a_hospital_that_tells_its_errors_is_found_out(
    planted: PlantedConsortium, tmp_path: Path
) -> None:
    """The same search, and a node whose egress was changed to send exception texts."""
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    planted.allow("cancer_pathology")
    planted.adopt(plan_of("talkative"))
    planted.allow(TABLE)
    planted.restart_site("north", PYTHONPATH=str(tmp_path))
    planted.recorder.forget()
    reason = planted.run()["reason"]
    assert "north: POLICY" in reason
    assert planted.on_the_wire() == {"label table"}


def _require_that_the_recorder_hears(planted: PlantedConsortium, plan: Plan) -> None:
    """Find what must be there: requests, site names, tensors in both directions."""
    sent = b"".join(planted.recorder.sent)
    received = b"".join(planted.recorder.received)
    for words in (b"POST /v1/fleet/push-object HTTP/1.1", b"content-length: "):
        assert words.lower() in sent.lower()
    assert all(site.encode() in sent for site in SITES)
    assert plan.hash.encode() in sent and b"roc_auc" in sent
    folder = planted.plan.with_suffix("") / "checkpoints"
    averaged, _ = read_tensors(folder / "round-00002.safetensors")
    tensor = next(one for one in averaged.values() if one.ndim == 4)
    assert tensor.tobytes() in received  # the question to close
    trained = [one for one in _tensors(sent) if one.shape == tensor.shape]
    assert any(  # the answers of round 2
        np.array_equal(((one + other.astype(np.float64)) / 2).astype("f4"), tensor)
        for one, other in combinations(trained, 2)
    )


def _tensors(content: bytes) -> Iterator[np.ndarray]:
    """Find what messages in the safetensors format hold."""
    for found in re.finditer(re.escape(b'{"'), content):
        start = found.start() - 8  # before its header stands how long that is
        length = int.from_bytes(content[start : found.start()], "little")
        try:
            header = json.loads(content[found.start() : found.start() + length])
            size = max(one["data_offsets"][1] for one in header.values())
        except (ValueError, TypeError, KeyError):
            continue
        yield from safetensors.numpy.load(
            content[start : found.start() + length + size]
        ).values()


def _said_at_hospitals(planted: PlantedConsortium) -> set[str]:
    """Tell which canaries the hospitals' own logs hold: errors did quote them."""
    logs = [path for site in SITES for path in planted.state(site).glob("*.log")]
    return {kind for log in logs for kind in Canaries().find(log.read_bytes())}
