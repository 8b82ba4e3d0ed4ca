"""The rehearsal tells what a federation then sends, and leaves no trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.data.snapshot import open_snapshot
from client.policy import SitePolicy
from common.compose import mammofed_version
from common.plan import Plan, Preprocessing, Split, Work, plan_to_json
from simulations.federation import run_in_process
from tests.support.hospitals import small_plan, small_stage
from tests.support.mammo_client import add_labels, client, make_hospital
from tests.support.runs import MACHINE

OF_THE_MOMENT = {"seconds", "step_seconds", "seconds_per_image", "head"}
IMAGES = 60


def plan_of(**changes: Any) -> Plan:
    """Make a plan of one site, whose second stage shares what the first does not."""
    stages = (
        small_stage("own", rounds=1, work=Work("steps", 2, 4)),
        small_stage("all", rounds=1, sharing="fedavg", work=Work("steps", 2, 4)),
    )
    fields: dict[str, Any] = {
        "sites": ("north",),
        "version": mammofed_version(),
        "preprocessing": Preprocessing(rows=32, columns=16),
        "split": Split(0.4, 0.3, 0.3),
        "threads": 1,
    }
    return small_plan(*stages, **(fields | changes))


def approved(folder: Path, plan: Plan) -> Path:
    """Write a hospital that has approved a plan; nothing is prepared yet."""
    make_hospital(folder, IMAGES)
    add_labels(folder, IMAGES)
    (folder / "plan.json").write_bytes(plan_to_json(plan))
    code, said = client(folder, "approve", "--yes", folder / "plan.json")
    assert code == 0, said
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def documents(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    """Pick the fields that do not depend on the clock or on the log before."""
    return {
        one["name"]: one["value"]
        for one in document["fields"]
        if one["name"] not in OF_THE_MOMENT
    }


def test_the_rehearsal_tells_what_a_real_run_sends(tmp_path: Path) -> None:
    plan = plan_of()
    hospital = approved(tmp_path, plan)
    assert client(hospital, "prepare", "--plan", hospital / "plan.json")[0] == 0
    before = content(hospital / "data")
    code, said = client(hospital, "audit", "egress", hospital / "out")
    assert code == 0, said
    assert content(hospital / "data") == before
    assert "0003-train.txt" in said and "counts leave as they are" in said

    snapshot = open_snapshot(hospital / "data", plan.preprocessing)
    machine = replace(MACHINE, dump=True)
    run = tmp_path / "run"
    run_in_process(plan, {"north": {"north": snapshot}}, run, machine, synthetic=False)
    *rehearsed, refusal = documents(hospital / "out")
    real = documents(run / "sent" / "north")
    assert [one["kind"] for one in rehearsed] == [
        "handshake",
        "train",
        "train",
        "close",
    ]
    for ours, theirs in zip(rehearsed, real, strict=False):
        assert ours["kind"] == theirs["kind"]
        assert lasting(ours) == lasting(theirs)
        assert ours["tensors"] == theirs["tensors"]
        assert ours["weights"] == theirs["weights"]
        assert {f["name"] for f in ours["fields"]} == {
            f["name"] for f in theirs["fields"]
        }
    first, second = (one["tensors"] for one in rehearsed[1:3])
    assert 0 < len(first) < len(second)
    heads = {f["value"] for d in rehearsed for f in d["fields"] if f["name"] == "head"}
    assert len(heads) == 4 and {len(head) for head in heads} == {64}
    assert refusal["error"]["name"] == "PLAN_NOT_APPROVED"
    assert "head " in refusal["error"]["reason"]


def test_banded_counts_are_shown_as_they_would_leave(tmp_path: Path) -> None:
    hospital = approved(tmp_path, plan_of())
    assert client(hospital, "prepare", "--plan", hospital / "plan.json")[0] == 0
    assert client(hospital, "audit", "egress", hospital / "exact")[0] == 0
    exact = next(
        one["value"]
        for one in documents(hospital / "exact")[0]["fields"]
        if one["name"] == "images"
    )
    banded = SitePolicy(counts="banded").release_count(exact)
    policy = "counts: banded\nrelease_metrics: false\n"
    (hospital / "policy.yaml").write_text(policy)
    code, said = client(hospital, "audit", "egress", hospital / "out")
    assert code == 0 and "rounded down to published steps" in said
    hello, *_, close, _ = documents(hospital / "out")
    fields = {one["name"]: one for one in hello["fields"]}
    assert fields["images"]["value"] == banded and fields["counts"]["value"] == "banded"
    assert fields["images"]["policy"] == "rounded down"
    metric = next(one for one in close["fields"] if one["name"] == "roc_auc")
    assert metric["value"] == "nan" and metric["policy"] == "withheld"


def test_what_is_missing_is_one_sentence(tmp_path: Path) -> None:
    new = make_hospital(tmp_path / "new", 1)
    code, said = client(new, "audit", "egress", tmp_path / "out")
    assert code == 2 and "north has approved no plan yet" in said
    hospital = approved(tmp_path, plan_of())
    out = hospital / "out"
    code, said = client(hospital, "audit", "egress", out)
    assert code == 2 and "Run prepare for this site first" in said
    code, said = client(hospital, "audit", "egress", hospital / "archive" / "out")
    assert code == 2 and "lies in the archive" in said
    assert not out.exists() and not (hospital / "archive" / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    hospital = approved(tmp_path, plan_of())
    out = hospital / "out"
    out.mkdir()
    (out / "note").write_text("mine")
    code, said = client(hospital, "audit", "egress", out)
    assert code == 2 and "is not an empty folder" in said
    assert content(out) == {"note": b"mine"}
    code, said = client(hospital, "audit", "egress", out / "note")
    assert code == 2 and "is not an empty folder" in said


@pytest.mark.parametrize(
    ("version", "policy", "words"),
    [
        ("0.0.1", "", "would refuse with VERSION: the plan is for mammofed 0.0.1"),
        (mammofed_version(), "targets: [birads]", "would refuse with POLICY: the plan"),
        (mammofed_version(), "rumours: [birads]", "policy.yaml is not valid: rumours"),
    ],
)
def test_a_plan_that_the_node_would_refuse_is_told(
    tmp_path: Path, version: str, policy: str, words: str
) -> None:
    hospital = approved(tmp_path, plan_of(version=version))
    (hospital / "policy.yaml").write_text(policy)
    code, said = client(hospital, "audit", "egress", hospital / "out")
    assert code == 2 and words in said
    assert not (hospital / "out").exists()
    assert not list((hospital / "data").glob("rehearsal-*"))
