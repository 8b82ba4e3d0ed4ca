"""A page holds what the message holds, no more and no less."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message

from client.dump import MEANINGS, document_of, write_message
from client.egress import pack_refusal, pack_reply, rehearsed_question, unrecorded
from client.policy import COUNTS, METRICS, SitePolicy
from common.packing import unpack_tensors
from common.records import REPLY_FIELDS, Code, Reply, Request
from simulations.federation import run_in_process
from simulations.grid import InProcessGrid
from tests.support.hospitals import populations, small_plan, small_stage
from tests.support.runs import MACHINE

NUMBERS = dict.fromkeys(("round", "base_round", "local_round", "keep_round"), 1)
WORDS = dict.fromkeys(("plan", "run", "shared_hash", "fingerprint"), "x")
QUESTION = Request("train", {**NUMBERS, **WORDS})
TRAINED: dict[str, Any] = {
    "site": "north",
    "patients": 20,
    "images": 50,
    "loss": 0.5,
    "seconds": 1.5,
    "step_seconds": 1.0,
    "evaluated_round": 0,
    "roc_auc": 0.75,
    "average_precision": 0.5,
    "validation_loss": math.nan,
    "fixed_hash": "f",
    "reestimated": False,
}


def trained(**changes: Any) -> Message:
    """Pack the reply to a round, with two tensors."""
    shared = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(0)}
    reply = Reply("train", TRAINED | changes, shared)
    return pack_reply(reply, rehearsed_question(QUESTION), unrecorded)


def effects(document: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["policy"] for one in document["fields"]}


def test_every_reply_of_a_real_run_is_written_down_as_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator's end of the grid is the second witness."""
    received: dict[str, list[Message]] = {"alpha": [], "beta": []}
    pull = InProcessGrid.pull_messages

    def watching(grid: InProcessGrid, names: Iterable[str]) -> Iterable[Message]:
        replies = list(pull(grid, names))
        for reply in replies:
            node = reply.metadata.src_node_id
            received[["alpha", "beta"][node - 1]].append(reply)
        return replies

    monkeypatch.setattr(InProcessGrid, "pull_messages", watching)
    plan = small_plan(small_stage(rounds=2), sites=("alpha", "beta"))
    machine = replace(MACHINE, dump=True)
    run_in_process(plan, populations(plan), tmp_path, machine, synthetic=True)  # type: ignore[arg-type]
    for site, replies in received.items():
        files = sorted((tmp_path / "sent" / site).glob("*.json"))
        kinds = ["handshake", "train", "train", "close", "close"]
        assert [path.stem[5:] for path in files] == kinds
        for path, reply in zip(files, replies, strict=True):
            document = json.loads(path.read_bytes())
            page = path.with_suffix(".txt").read_text()
            shared = reply.content["shared"]
            assert isinstance(shared, ArrayRecord)
            assert {t["name"]: t["sha256"] for t in document["tensors"]} == {
                key: hashlib.sha256(array.tobytes()).hexdigest()
                for key, array in unpack_tensors(shared).items()
            }
            assert document["bytes"] == sum(
                one.nbytes for one in unpack_tensors(shared).values()
            )
            there = dict(reply.content["fields"])  # type: ignore[call-overload]
            told = {one["name"]: one["value"] for one in document["fields"]}
            assert {k: str(v) for k, v in told.items()} == {
                k: str(v) for k, v in there.items()
            }
            assert all(f"  {name} " in page for name in there)
            assert all(f"  {key} " in page for key in unpack_tensors(shared))


def test_nothing_is_written_where_nobody_asks(tmp_path: Path) -> None:
    plan = small_plan(small_stage(rounds=1), sites=("alpha",))
    run_in_process(plan, populations(plan), tmp_path, MACHINE, synthetic=True)  # type: ignore[arg-type]
    assert not (tmp_path / "sent").exists()


def test_tensors_are_told_by_what_numpy_says_of_them(tmp_path: Path) -> None:
    a, b = document_of("north", trained(), SitePolicy())["tensors"]
    assert (b["name"], b["shape"], b["dtype"]) == ("b", [2, 3], "float32")
    assert (b["min"], b["max"]) == (0.0, 5.0)
    assert a["name"] == "a" and a["min"] is None and a["max"] is None
    page = write_message(tmp_path, "north", trained(), SitePolicy())
    assert "2 x 3" in (tmp_path / f"{page['file']}.txt").read_text()


def test_a_field_that_is_added_to_a_reply_is_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = REPLY_FIELDS["train"] | {"remark": str}
    monkeypatch.setitem(REPLY_FIELDS, "train", fields)
    document = write_message(tmp_path, "north", trained(remark="seen"), SitePolicy())
    (added,) = [one for one in document["fields"] if one["name"] == "remark"]
    assert added["value"] == "seen" and "nobody has described" in added["meaning"]
    assert "seen" in (tmp_path / "0001-train.txt").read_text()


def test_every_field_that_may_leave_has_its_meaning() -> None:
    assert set(MEANINGS) == {name for of in REPLY_FIELDS.values() for name in of}


def test_the_page_tells_what_the_policy_did() -> None:
    released = effects(document_of("north", trained(), SitePolicy()))
    assert released["patients"] == "exact" and released["roc_auc"] == "released"
    assert released["validation_loss"] == "undefined here" and released["site"] == ""
    strict = SitePolicy(counts="banded", release_metrics=False)
    kept = dict.fromkeys(METRICS, math.nan)
    obeyed = effects(document_of("north", trained(**kept), strict))
    assert {obeyed[name] for name in COUNTS & set(obeyed)} == {"rounded down"}
    assert {obeyed[name] for name in METRICS} == {"withheld"}


def test_the_page_tells_where_the_policy_was_not_heeded() -> None:
    strict = SitePolicy(counts="banded", release_metrics=False)
    told = effects(document_of("north", trained(patients=21), strict))
    assert told["patients"] == "NOT ROUNDED" and told["images"] == "rounded down"
    assert told["roc_auc"] == "NOT WITHHELD"


def test_a_refusal_is_a_number_and_a_reference(tmp_path: Path) -> None:
    question = rehearsed_question(QUESTION)
    message, reference = pack_refusal(Code.CACHE, question, unrecorded)
    document = write_message(tmp_path, "north", message, SitePolicy())
    told = {"code": 107, "name": "CACHE", "reason": f"reference {reference}"}
    assert document["error"] == told and not document["fields"]
    page = (tmp_path / "0001-refusal.txt").read_text()
    assert "107, CACHE" in page and reference in page


def test_pages_are_numbered_on_and_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "north"
    for _ in range(2):
        write_message(folder, "north", trained(), SitePolicy())
    names = {path.name for path in folder.iterdir()}
    assert names == {f"000{n}-train.{end}" for n in (1, 2) for end in ("json", "txt")}
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
