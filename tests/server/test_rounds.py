"""What a federation does with stages, bad replies, missing sites and old news."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.policy import SitePolicy
from common.plan import Aggregation, Model, Plan, Roster
from common.records import Code, Refusal, Reply, Request
from server.aggregation import cap_shares, weight_shares
from server.participation import RunFailed
from tests.support.hospitals import SITES, small_plan, small_stage
from tests.support.killed_run import two_stage_plan
from tests.support.runs import (
    MACHINE,
    Spoil,
    assert_same_models,
    in_round,
    model_tensors,
    play,
    with_field,
    with_tensors,
)

TRUNK = "backbone.stem.0.weight"


def set_nan(tensors: dict[str, np.ndarray]) -> None:
    tensors[TRUNK] = np.full_like(tensors[TRUNK], np.nan)


def set_infinite(tensors: dict[str, np.ndarray]) -> None:
    tensors[TRUNK] = np.full_like(tensors[TRUNK], np.inf)


def cut_shape(tensors: dict[str, np.ndarray]) -> None:
    tensors[TRUNK] = tensors[TRUNK][:1]


def change_type(tensors: dict[str, np.ndarray]) -> None:
    tensors[TRUNK] = tensors[TRUNK].astype(np.float64)


def add_key(tensors: dict[str, np.ndarray]) -> None:
    tensors["backbone.planted"] = np.zeros(3, np.float32)


def drop_key(tensors: dict[str, np.ndarray]) -> None:
    del tensors[TRUNK]


BAD_REPLIES: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "nan": (with_tensors(set_nan), "not finite"),
    "infinity": (with_tensors(set_infinite), "not finite"),
    "shape": (with_tensors(cut_shape), "expected float32"),
    "type": (with_tensors(change_type), "float64"),
    "unknown_key": (with_tensors(add_key), "1 unknown"),
    "missing_key": (with_tensors(drop_key), "1 tensors missing"),
    "absurd_count": (with_field("patients", 10**9), "absurd count"),
    "negative_count": (with_field("images", -5), "absurd count"),
    "grown_count": (with_field("patients", 31), "declared"),
    "other_round": (with_field("evaluated_round", 0), "another round"),
    "impossible_metric": (with_field("roc_auc", 5.0), "between 0 and 1"),
    "other_site": (with_field("site", "beta"), "another site"),
    "moved_fixed": (with_field("fixed_hash", "0" * 64), "stand still"),
}


@pytest.mark.parametrize("kind", BAD_REPLIES)
def test_a_bad_reply_is_refused_and_recorded_and_the_round_goes_on(
    kind: str, tmp_path: Path
) -> None:
    change, words = BAD_REPLIES[kind]
    plan = small_plan()
    outcome = play(plan, tmp_path, spoil={"alpha": in_round(2, change)})
    assert outcome.status == "complete_with_absences"
    bad = [entry for entry in outcome.state.ledger if not entry["counted"]]
    assert [(e["site"], e["round"], e["replied"]) for e in bad] == [("alpha", 2, True)]
    assert words in bad[0]["reason"]
    shares = [e["weight_share"] for e in outcome.state.ledger if e["round"] == 2]
    assert shares[0] is None
    assert sum(share for share in shares if share) == pytest.approx(1.0)


def test_an_uncounted_update_is_rolled_back_to_the_last_counted_one(
    tmp_path: Path,
) -> None:
    """Alpha's round 2 does not count, so its round 3 starts from its own round 1."""
    asked: list[tuple[int, int]] = []

    def watch(request: Request, reply: Reply) -> Reply:
        if request.kind == "train":
            fields = request.fields
            asked.append((int(fields["round"]), int(fields["local_round"])))
            if fields["round"] == 2:
                return with_tensors(set_nan)(reply)
        return reply

    play(small_plan(), tmp_path, spoil={"alpha": watch})
    assert asked == [(1, 0), (2, 1), (3, 1)]


def test_too_few_good_replies_fail_the_run_and_resuming_goes_on(tmp_path: Path) -> None:
    plan = small_plan(minimum=3)
    bad: dict[str, Spoil] = {"beta": in_round(2, with_tensors(set_nan))}
    with pytest.raises(RunFailed, match=r"round 2: 2 sites counted.*needs 3.*beta"):
        play(plan, tmp_path / "disturbed", spoil=bad)
    failure = tmp_path / "disturbed" / "coordinator" / "failure.json"
    said = json.loads(failure.read_bytes())
    assert said["status"] == "failed"
    assert [(e["site"], e["round"]) for e in said["ledger"] if not e["counted"]] == [
        ("beta", 2)
    ]
    play(plan, tmp_path / "disturbed")
    assert not failure.exists()
    play(plan, tmp_path / "undisturbed")
    assert_same_models(plan, tmp_path / "undisturbed", tmp_path / "disturbed", 3)


def test_a_required_site_that_does_not_count_fails_the_run(tmp_path: Path) -> None:
    plan = small_plan(roster=Roster(SITES, required=("gamma",), minimum_sites=1))
    with pytest.raises(RunFailed, match="required sites are missing: gamma"):
        play(plan, tmp_path, spoil={"gamma": in_round(1, with_field("patients", 0))})


def test_too_many_absences_of_one_site_fail_the_run(tmp_path: Path) -> None:
    plan = small_plan(roster=Roster(SITES, minimum_sites=2, permitted_absences=1))

    def always(request: Request, reply: Reply) -> Reply:
        change = with_field("patients", 0)
        return change(reply) if request.kind == "train" else reply

    with pytest.raises(RunFailed, match=r"round 2: alpha has missed 2 rounds"):
        play(plan, tmp_path, spoil={"alpha": always})


def test_the_handshake_names_every_site_that_disagrees(tmp_path: Path) -> None:
    def old(request: Request, reply: Reply) -> Reply:
        return with_field("version", "0.0.9")(reply)

    def other(request: Request, reply: Reply) -> Reply:
        return with_field("fingerprint", "f" * 64)(reply)

    with pytest.raises(RunFailed) as caught:
        play(small_plan(), tmp_path, spoil={"alpha": old, "gamma": other})
    assert "alpha: runs mammofed 0.0.9" in str(caught.value)
    assert "gamma: builds other tensors" in str(caught.value)
    assert "beta" not in str(caught.value)


def test_a_site_that_refuses_is_named_with_its_code(tmp_path: Path) -> None:
    def refuse(request: Request, reply: Reply) -> Reply:
        raise Refusal(Code.TARGET, "the text of patient Smith stays at the site")

    with pytest.raises(RunFailed, match="beta: TARGET") as caught:
        play(small_plan(), tmp_path, spoil={"beta": refuse})
    assert "Smith" not in str(caught.value)


def test_two_stages_with_another_preset_and_another_head(tmp_path: Path) -> None:
    plan = two_stage_plan()
    outcome = play(plan, tmp_path)
    assert {e["stage"] for e in outcome.state.ledger} == {"together", "personal"}
    assert outcome.selected in (3, 4, 5)
    alpha = model_tensors(tmp_path, plan, "alpha", 5)
    beta = model_tensors(tmp_path, plan, "beta", 5)
    assert "heads.second_reading.weight" in alpha
    assert "heads.malignancy.weight" not in alpha
    same = {key for key in alpha if np.array_equal(alpha[key], beta[key])}
    assert TRUNK in same
    assert "heads.second_reading.weight" not in same
    assert "backbone.stem.1.weight" not in same


def test_a_site_that_misses_the_opening_of_a_stage_fails_the_run(
    tmp_path: Path,
) -> None:
    """It could not carry its local part over; the run goes on once it is back."""
    plan = two_stage_plan()
    bad: dict[str, Spoil] = {"beta": in_round(3, with_tensors(set_nan))}
    with pytest.raises(RunFailed, match=r"round 3 \(it opens a stage\).*beta"):
        play(plan, tmp_path / "disturbed", spoil=bad)
    play(plan, tmp_path / "disturbed")
    play(plan, tmp_path / "undisturbed")
    assert_same_models(plan, tmp_path / "undisturbed", tmp_path / "disturbed", 5)


def test_an_absence_inside_a_later_stage_is_rolled_back_within_it(
    tmp_path: Path,
) -> None:
    plan = two_stage_plan()
    bad: dict[str, Spoil] = {"beta": in_round(4, with_tensors(set_nan))}
    outcome = play(plan, tmp_path, spoil=bad)
    assert outcome.status == "complete_with_absences"
    assert outcome.state.local_rounds[4]["beta"] == 3
    assert outcome.state.local_rounds[5]["beta"] == 5


def test_images_that_changed_since_the_first_handshake_are_named(
    tmp_path: Path,
) -> None:
    plan = small_plan(minimum=3)
    bad: dict[str, Spoil] = {"beta": in_round(2, with_tensors(set_nan))}
    with pytest.raises(RunFailed):
        play(plan, tmp_path, spoil=bad)

    def other(request: Request, reply: Reply) -> Reply:
        changed = with_field("snapshot", "0" * 64)
        return changed(reply) if request.kind == "handshake" else reply

    with pytest.raises(RunFailed, match="prepared images of gamma"):
        play(plan, tmp_path, spoil={"gamma": other})


def test_a_frozen_shared_part_never_travels_and_arrives_unchanged(
    tmp_path: Path,
) -> None:
    """Stage 2 trains the head alone: the trunk is fixed, compared by hash only."""
    sent: list[set[str]] = []

    def watch(request: Request, reply: Reply) -> Reply:
        if request.kind == "train":
            sent.append(set(reply.shared))
        return reply

    head_only = small_stage(
        "head", 2, sharing="fedavg", trainable=("head",), norm_mode="frozen"
    )
    plan = small_plan(small_stage("all", 1, sharing="fedavg"), head_only)
    play(plan, tmp_path, spoil={"alpha": watch})
    heads = {"heads.malignancy.weight", "heads.malignancy.bias"}
    assert sent[0] > heads
    assert sent[1:] == [heads, heads]
    play(small_plan(small_stage("all", 1, sharing="fedavg")), tmp_path / "first")
    first = model_tensors(tmp_path / "first", small_plan(), "alpha", 1)
    last = model_tensors(tmp_path, plan, "alpha", 3)
    assert np.array_equal(first[TRUNK], last[TRUNK])


def test_a_stage_may_reestimate_statistics_and_train_nothing(tmp_path: Path) -> None:
    refresh = small_stage(
        "refresh", 1, sharing="silobn", trainable=(), norm_mode="reestimate"
    )
    plan = small_plan(small_stage("all", 2, sharing="fedavg"), refresh)
    play(plan, tmp_path)
    alpha = model_tensors(tmp_path, plan, "alpha", 3)
    beta = model_tensors(tmp_path, plan, "beta", 3)
    assert np.array_equal(alpha[TRUNK], beta[TRUNK])
    mean = "backbone.stem.1.running_mean"
    assert not np.array_equal(alpha[mean], beta[mean])


def test_the_ledger_weighs_by_patients_and_records_banded_counts(
    tmp_path: Path,
) -> None:
    machine = replace(MACHINE, policies={"beta": SitePolicy(counts="banded")})
    outcome = play(small_plan(), tmp_path, machine=machine)
    first = {e["site"]: e for e in outcome.state.ledger if e["round"] == 1}
    assert [e["counts"] for e in first.values()] == ["exact", "banded", "exact"]
    assert first["beta"]["samples"] in (10, 20)
    total = sum(entry["samples"] for entry in first.values())
    for entry in first.values():
        assert entry["weight_share"] == pytest.approx(entry["samples"] / total)


def test_uniform_weights_are_equal(tmp_path: Path) -> None:
    plan = small_plan(aggregation=Aggregation(weight="uniform"))
    outcome = play(plan, tmp_path)
    assert {e["weight_share"] for e in outcome.state.ledger} == {1 / 3}


def test_no_site_weighs_more_than_the_plan_permits(tmp_path: Path) -> None:
    """Alpha does not count in round 2: then the bound leaves equal shares."""
    plan = small_plan(aggregation=Aggregation(maximum_share=0.36))
    spoil: dict[str, Spoil] = {"alpha": in_round(2, with_tensors(set_nan))}
    outcome = play(plan, tmp_path, spoil=spoil)
    found: dict[int, list[float]] = {1: [], 2: [], 3: []}
    samples: list[int] = []
    for entry in outcome.state.ledger:
        if entry["counted"]:
            found[entry["round"]].append(entry["weight_share"])
        if entry["round"] == 1:
            samples.append(entry["samples"])
    assert max(samples) / sum(samples) > 0.36  # or the bound would change nothing
    assert found[1] == found[3] == cap_shares(weight_shares(samples), 0.36)
    assert max(found[1]) == 0.36
    assert found[2] == [0.5, 0.5]


def test_an_update_above_the_norm_bound_is_refused(tmp_path: Path) -> None:
    plan = small_plan(aggregation=Aggregation(maximum_update_norm=1e-6))
    with pytest.raises(RunFailed, match="update norm"):
        play(plan, tmp_path)


def test_no_outside_socket_is_opened_in_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address} was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    assert play(small_plan(), tmp_path).status == "complete"


def test_the_outcome_is_written_and_matches_the_state(tmp_path: Path) -> None:
    outcome = play(small_plan(), tmp_path)
    written = json.loads((tmp_path / "coordinator" / "outcome.json").read_bytes())
    assert written["selected"] == outcome.selected
    assert written["ledger"] == outcome.state.ledger
    assert set(written["history"]) == {"1", "2", "3"}


def test_an_earlier_round_can_be_the_result_and_is_the_one_it_was(
    tmp_path: Path,
) -> None:
    """Its shared checkpoint and every site's generation must have been kept."""

    def best_at_three(request: Request, reply: Reply) -> Reply:
        if request.kind == "handshake":
            return reply
        early = reply.fields.get("evaluated_round", 6) in (1, 2, 3)
        return with_field("roc_auc", 0.9 if early else 0.1)(reply)

    long, short = small_plan(small_stage(rounds=6)), small_plan(small_stage(rounds=3))
    outcome = play(long, tmp_path / "long", spoil=dict.fromkeys(SITES, best_at_three))
    assert (outcome.selected, outcome.last) == (3, 6)
    play(short, tmp_path / "short")
    assert_same_models(long, tmp_path / "short", tmp_path / "long", 3)


def test_a_new_head_must_have_the_size_of_its_name(tmp_path: Path) -> None:
    other = small_stage("more", 1, model=Model("resnet_tiny", outputs=2))
    plan: Plan = small_plan(small_stage(rounds=1), other)
    with pytest.raises(ValueError, match="a name of its own"):
        play(plan, tmp_path)
