"""A federation with messages of 16 bits, beside plain numpy."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.common.serde import recorddict_to_proto

import client.session
from client.assembly import assemble
from client.local_state import LocalState
from client.resident import Resident
from client.update import update_of
from common.checkpoint import CheckpointError, Tensors
from common.contract import fingerprint, tensor_hash
from common.models import build_model
from common.models.start import initial_tensors
from common.packing import pack_tensors
from common.plan import Aggregation, Model, Optimizer, Plan
from common.records import (
    REPLY_FIELDS,
    REQUEST_FIELDS,
    Code,
    Refusal,
    Reply,
    Request,
    encode,
)
from common.sharing import contract
from common.transport import Transport, to_wire
from server.aggregation import round_weights
from server.checkpoints import Checkpoints
from server.participation import RunFailed
from tests.support.hospitals import SITES, small_plan, small_stage
from tests.support.killed_run import two_stage_plan
from tests.support.runs import (
    Spoil,
    assert_same_models,
    in_round,
    model_tensors,
    play,
    with_tensors,
)

ROOT = Path(__file__).parents[2]
HALVES: tuple[Transport, ...] = ("float16", "bfloat16")
TRUNK = "backbone.stem.0.weight"


def compact(plan: Plan, transport: Transport, **changes: Any) -> Plan:
    return replace(plan, aggregation=Aggregation(transport=transport, **changes))


def rounded(array: np.ndarray, transport: str) -> np.ndarray:
    """Round one value after the other: Python's half, or the nearer of two bfloat16."""
    return np.array(
        [_rounded(float(one), transport) for one in array.reshape(-1)], np.float32
    ).reshape(array.shape)


def _rounded(value: float, transport: str) -> float:
    if transport == "float16":
        (half,) = struct.unpack("<e", struct.pack("<e", value))
        return float(half)
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    below, above = (
        struct.unpack("<f", struct.pack("<I", one))[0]
        for one in (bits & 0xFFFF0000, (bits & 0xFFFF0000) + 0x10000)
    )
    if abs(value - below) == abs(above - value):
        return float(above if bits & 0x10000 else below)
    return float(below if abs(value - below) < abs(above - value) else above)


@dataclass
class Call:
    """One site's training as it was: what went in and what came out."""

    trained: Tensors
    received: Tensors
    residual: Tensors


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Record every site's training, in the order of roster and rounds."""
    made: list[Call] = []

    def record(
        trained: Mapping[str, np.ndarray],
        received: Mapping[str, Any],
        residual: Mapping[str, np.ndarray],
        transport: Transport,
    ) -> tuple[Tensors, Tensors]:
        made.append(
            Call(
                {key: array.copy() for key, array in trained.items()},
                {key: received[key].numpy().copy() for key in trained},
                {key: array.copy() for key, array in residual.items()},
            )
        )
        return update_of(trained, received, residual, transport)

    monkeypatch.setattr(client.session, "update_of", record)
    return made


@pytest.mark.parametrize("transport", HALVES)
@pytest.mark.parametrize("sharing", ["fedbn_head", "fedavg"])
def test_rounds_are_those_of_plain_numpy_bit_for_bit(
    transport: Transport, sharing: str, calls: list[Call], tmp_path: Path
) -> None:
    """Training is taken as it was; all else is computed again."""
    stage = small_stage(rounds=2, sharing=sharing)
    plan = compact(small_plan(stage), transport)
    outcome = play(plan, tmp_path)
    shares = [entry["weight_share"] for entry in outcome.state.ledger[:3]]
    initial = initial_tensors(plan, stage.model, None)
    keys = sorted(calls[0].trained)
    exact = {key: initial[key].numpy() for key in keys}
    residuals = [{key: np.zeros_like(exact[key]) for key in keys} for _ in SITES]
    for round_ in (0, 1):
        sent_down = {key: rounded(exact[key], transport) for key in keys}
        mean = {key: np.zeros(exact[key].shape) for key in keys}
        for number, share in enumerate(shares):
            call = calls[3 * round_ + number]
            for key in keys:
                assert np.array_equal(call.received[key], sent_down[key])
                wanted = call.trained[key] - sent_down[key] + residuals[number][key]
                sent_up = rounded(wanted, transport)
                residuals[number][key] = wanted - sent_up
                mean[key] += share * sent_up.astype(np.float64)
        exact = {key: exact[key] + mean[key].astype(np.float32) for key in keys}
    for site in SITES:
        model = model_tensors(tmp_path, plan, site, 2)
        for key in keys:
            assert np.array_equal(model[key], rounded(exact[key], transport)), key
    assert any((residual != 0).any() for residual in residuals[0].values())


@pytest.mark.parametrize("transport", HALVES)
def test_every_site_keeps_the_weights_that_it_was_scored_with(
    transport: Transport, tmp_path: Path
) -> None:
    """Through two stages: another preset, another head, kept moments."""
    plan = compact(two_stage_plan(), transport)
    outcome = play(plan, tmp_path)
    shared = outcome.state.shared
    assert tensor_hash(shared, shared) == outcome.state.shared_hash
    assert TRUNK in shared
    for site in SITES:
        model = model_tensors(tmp_path, plan, site, 5)
        assert all(np.array_equal(model[key], shared[key]) for key in shared)
    again, nothing = round_weights(shared, transport)
    assert all(np.array_equal(again[key], shared[key]) for key in shared)
    assert not any(array.any() for array in nothing.values())


def test_an_update_that_does_not_count_is_not_owed_either(
    calls: list[Call], tmp_path: Path
) -> None:
    """Alpha's round 2 does not count, so round 3 goes on from round 1's residual."""

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[TRUNK] = np.full_like(tensors[TRUNK], np.nan)

    plan = compact(small_plan(), "float16")
    play(plan, tmp_path, spoil={"alpha": in_round(2, with_tensors(spoil))})
    second, third = calls[3], calls[6]
    assert second.residual[TRUNK].any()
    assert second.residual.keys() == third.residual.keys() == second.trained.keys()
    for key, array in second.residual.items():
        assert np.array_equal(third.residual[key], array)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    play(compact(two_stage_plan(), "bfloat16"), folder)
    return folder


@pytest.mark.parametrize("phase", ["local_state", "residual", "training"])
def test_a_killed_run_resumes_to_the_undisturbed_one(
    phase: str, undisturbed: Path, tmp_path: Path
) -> None:
    words = [str(tmp_path), phase, "bfloat16"]
    killed = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_run", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    plan = compact(two_stage_plan(), "bfloat16")
    play(plan, tmp_path)
    assert_same_models(plan, undisturbed, tmp_path, 5)


def test_exact_weights_are_kept_with_the_round(tmp_path: Path) -> None:
    plan = compact(small_plan(), "bfloat16")
    state = play(plan, tmp_path).state
    folder = tmp_path / "coordinator" / "checkpoints"
    read = Checkpoints(folder, plan.hash).newest()
    assert read is not None and read.residual.keys() == set(state.residual)
    assert all(np.array_equal(read.residual[k], v) for k, v in state.residual.items())
    (file,) = folder.glob("residual-*")
    file.unlink()
    with pytest.raises(CheckpointError, match="residual"):
        Checkpoints(folder, plan.hash).newest()


@pytest.mark.parametrize("kind", ["nan", "infinity", "type", "shape"])
def test_a_bad_update_is_refused(kind: str, tmp_path: Path) -> None:
    bits = {"nan": 0x7FC1, "infinity": 0x7F80}

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        if kind in bits:
            tensors[TRUNK] = np.full_like(tensors[TRUNK], bits[kind])
        elif kind == "type":  # of the other 16 bits, or a peer that sends float32
            tensors[TRUNK] = tensors[TRUNK].view(np.float16)
        else:
            tensors[TRUNK] = tensors[TRUNK][:1]

    plan = compact(small_plan(), "bfloat16")
    outcome = play(plan, tmp_path, spoil={"beta": in_round(2, with_tensors(spoil))})
    (bad,) = [entry for entry in outcome.state.ledger if not entry["counted"]]
    words = "not finite" if kind in bits else "expected uint16"
    assert words in bad["reason"]


def test_the_norm_is_that_of_the_difference(tmp_path: Path) -> None:
    norms: list[float] = []

    def watch(request: Request, reply: Reply) -> Reply:
        if request.kind == "train":
            arrays = [array.astype(np.float64) for array in reply.shared.values()]
            norms.append(float(np.sqrt(sum((array**2).sum() for array in arrays))))
        return reply

    spoil: dict[str, Spoil] = {"gamma": watch}
    outcome = play(compact(small_plan(), "float16"), tmp_path / "a", spoil=spoil)
    of_gamma = [e["update_norm"] for e in outcome.state.ledger if e["site"] == "gamma"]
    assert of_gamma == pytest.approx(norms, rel=1e-5)
    bounded = compact(small_plan(), "float16", maximum_update_norm=min(norms) / 2)
    with pytest.raises(RunFailed, match="update norm"):
        play(bounded, tmp_path / "b")


def test_the_fingerprint_holds_both_ends_to_one_format() -> None:
    stage = small_stage()
    model = build_model(stage.model, 0)
    rules = [contract(model, stage, one) for one in ("float32", *HALVES)]  # type: ignore[arg-type]
    assert len({rule.fingerprint for rule in rules}) == 3
    assert rules[0].fingerprint == contract(model, stage).fingerprint
    unnamed = [
        fingerprint(rule.on_wire, stage.name, stage.model.name) for rule in rules
    ]
    assert [one in unnamed for one in (r.fingerprint for r in rules)] == [True, 0, 0]


def test_a_site_refuses_weights_of_another_format(tmp_path: Path) -> None:
    plan = compact(small_plan(), "bfloat16")
    resident = Resident(plan, torch.device("cpu"), None)
    rule, initial = resident.stage(0).contract, resident.initial(0)
    state = LocalState(tmp_path, "run", plan.hash, "")
    for transport in ("float32", "float16", "bfloat16"):
        weights = {k: to_wire(initial[k].numpy(), transport) for k in rule.sent}
        request = Request("train", {"fingerprint": rule.fingerprint}, weights)
        if transport == "bfloat16":
            assert assemble(resident, state, 0, 0, request)[1].keys() >= set(rule.sent)
        else:
            with pytest.raises(Refusal) as caught:
                assemble(resident, state, 0, 0, request)
            assert caught.value.code == Code.FINGERPRINT


@pytest.mark.parametrize("transport", HALVES)
@pytest.mark.parametrize("name", ["resnet_small", "resnet18"])
def test_messages_have_half_the_bytes_both_ways(
    name: str, transport: Transport
) -> None:
    stage = small_stage(model=Model(name))
    model = build_model(stage.model, 0)
    rule = contract(model, stage, transport)
    weights = {key: model.state_dict()[key].numpy() for key in rule.sent}
    half = {key: to_wire(array, transport) for key, array in weights.items()}
    assert _request_bytes(half) <= 0.52 * _request_bytes(weights)
    assert _reply_bytes(half) <= 0.52 * _reply_bytes(weights)


def _request_bytes(shared: Mapping[str, np.ndarray]) -> int:
    schema = REQUEST_FIELDS["train"]
    fields = {key: kind() for key, kind in schema.items()}
    content = encode(fields, pack_tensors(shared), schema)
    return len(recorddict_to_proto(content).SerializeToString())


def _reply_bytes(shared: Mapping[str, np.ndarray]) -> int:
    numbers = dict.fromkeys(("patients", "images", "evaluated_round"), 1)
    floats = ("loss", "seconds", "step_seconds", "roc_auc", "average_precision")
    fields = {
        **numbers,
        **dict.fromkeys((*floats, "validation_loss"), 0.5),
        **dict.fromkeys(("site", "fixed_hash"), "alpha"),
        "reestimated": False,
    }
    content = encode(
        {**fields, "head": ""}, pack_tensors(shared), REPLY_FIELDS["train"]
    )
    return len(recorddict_to_proto(content).SerializeToString())


def test_parts_that_stand_still_and_fedprox_go_with_it(tmp_path: Path) -> None:
    frozen = small_stage("tuned", 2, sharing="fedavg", trainable=("head",))
    pulled = Optimizer("sgd", 0.02, proximal=0.1)
    plan = small_plan(
        replace(frozen, norm_mode="frozen"),
        small_stage("all", 2, sharing="fedper", optimizer=pulled),
    )
    outcome = play(compact(plan, "bfloat16"), tmp_path)
    assert outcome.status == "complete"
    for site in SITES:
        model = model_tensors(tmp_path, plan, site, 4)
        for key, array in outcome.state.shared.items():
            assert np.array_equal(model[key], array)


def test_a_start_that_the_format_cannot_hold_fails_the_run_in_words() -> None:
    weights = {"w": np.array([1e5], np.float32)}
    with pytest.raises(RunFailed, match=r"w cannot be sent as float16.*bfloat16"):
        round_weights(weights, "float16")
    assert round_weights(weights, "bfloat16")[0]["w"] == pytest.approx(1e5, rel=4e-3)
