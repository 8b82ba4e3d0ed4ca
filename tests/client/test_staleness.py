"""A site that was away for long refreshes its statistics, when the plan says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from torch import nn

from client.data.dataset import TRAIN, VALIDATION, SiteDataset, build_dataset, in_order
from client.resident import Resident
from client.staleness import refresh_if_stale
from common.checkpoint import read_tensors
from common.models import build_model
from common.plan import Plan, Roster
from common.records import Code, Refusal, Reply, Request
from server.participation import RunFailed
from tests.support.hospitals import MemorySnapshot, small_plan, small_stage
from tests.support.runs import (
    MACHINE,
    absent_in,
    assert_same_models,
    in_round,
    model_tensors,
    play,
    with_tensors,
)

SITES = ("alpha", "beta")
METRICS = ("roc_auc", "average_precision", "validation_loss")


def plan_of(stale_after: int | None, rounds: int = 4, **changes: Any) -> Plan:
    roster = Roster(SITES, minimum_sites=1, stale_after=stale_after)
    stage = small_stage(rounds=rounds, **changes)
    return small_plan(stage, sites=SITES, roster=roster)


def refreshed(ledger: list[dict[str, Any]]) -> dict[tuple[str, int], bool | None]:
    return {(e["site"], e["round"]): e["reestimated"] for e in ledger}


def images_of(dataset: SiteDataset, plan: Plan, rows: np.ndarray) -> torch.Tensor:
    spec = plan.stages[0].model
    pixels = torch.from_numpy(dataset.pixels(rows).astype(np.float32)).unsqueeze(1)
    return (pixels / 65535.0 - spec.mean) / spec.scale


def recomputed(plan: Plan, site: str, tensors: dict[str, np.ndarray]) -> nn.Module:
    """Build a model with statistics taken from the inputs of its norms, by hand."""
    model = build_model(plan.stages[0].model, plan.seed)
    whole = {key: torch.from_numpy(array.copy()) for key, array in tensors.items()}
    model.load_state_dict(whole)
    dataset = build_dataset({site: MemorySnapshot(site)}, plan)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}

    def note(norm: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        (x,) = given
        moments = (len(x), x.mean((0, 2, 3)), x.var((0, 2, 3)))
        seen.setdefault(norm, []).append(moments)

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()  # normalises by the batch
    with torch.no_grad():
        size = plan.stages[0].work.batch_size
        for rows in in_order(dataset.select(TRAIN, labelled=False), size):
            model(images_of(dataset, plan, rows))
    for hook in hooks:
        hook.remove()
    for norm, moments in seen.items():
        total = sum(n for n, _, _ in moments)
        norm.running_mean = sum(n * m for n, m, _ in moments) / total  # type: ignore[assignment]
        norm.running_var = sum(n * v for n, _, v in moments) / total  # type: ignore[assignment]
    return model.eval()


def metrics_by_hand(plan: Plan, site: str, model: nn.Module) -> list[float]:
    """Score the validation images, average by breast."""
    dataset = build_dataset({site: MemorySnapshot(site)}, plan)
    rows = dataset.select(VALIDATION)
    with torch.no_grad():
        scores = torch.sigmoid(model(images_of(dataset, plan, rows))).squeeze(1)
    breasts = pd.DataFrame(
        {
            "breast": dataset.rows.iloc[rows]["breast_key"].to_numpy(),
            "target": dataset.targets(rows),
            "score": scores.double().numpy(),
        }
    )
    units = breasts.groupby("breast").mean()
    return [
        float(roc_auc_score(units["target"], units["score"])),
        float(average_precision_score(units["target"], units["score"])),
        float(log_loss(units["target"], units["score"])),
    ]


def local_tensors(folder: Path, site: str, round_: int) -> dict[str, np.ndarray]:
    state = folder / "sites" / site / "state"
    (file,) = state.glob(f"*/*/round-{round_:05d}.safetensors")
    return {k.partition("/")[2]: v for k, v in read_tensors(file)[0].items()}


@pytest.mark.parametrize(
    ("stale_after", "changes", "expected"),
    [
        (1, {}, True),
        (2, {}, False),  # it has missed two rounds, not more
        (None, {}, False),
        (1, {"sharing": "fedavg"}, False),  # statistics have just been received
        (1, {"norm_mode": "frozen"}, False),  # nobody moves them
    ],
)
def test_statistics_are_refreshed_exactly_when_the_rule_says(
    stale_after: int | None, changes: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    plan = plan_of(stale_after, **changes)
    outcome = play(plan, tmp_path, hear={"alpha": absent_in(2, 3)})
    said = refreshed(outcome.state.ledger)
    assert said.pop(("alpha", 4)) is expected
    assert said.pop(("alpha", 2)) is said.pop(("alpha", 3)) is None  # no reply
    assert set(said.values()) == {False}


def test_the_metrics_are_those_of_statistics_that_are_computed_by_hand(
    tmp_path: Path,
) -> None:
    plan = plan_of(1)
    seen: dict[str, Any] = {}

    def watch(request: Request, reply: Reply) -> Reply:
        if request.fields.get("round") == 4 and request.kind == "train":
            seen["shared"] = {k: v.copy() for k, v in request.shared.items()}
            seen["own"] = local_tensors(tmp_path, "beta", 1)
            seen["said"] = [reply.fields[name] for name in METRICS]
        return reply

    # Of the two only beta has both classes among its validation patients.
    hear = {"beta": absent_in(2, 3)}
    play(plan, tmp_path, spoil={"beta": watch}, hear=hear)
    whole = {**seen["shared"], **seen["own"]}
    model = recomputed(plan, "beta", whole)
    by_hand = metrics_by_hand(plan, "beta", model)
    assert seen["said"] == pytest.approx(by_hand, abs=1e-5)
    stale = build_model(plan.stages[0].model, plan.seed)
    stale.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in whole.items()})
    assert metrics_by_hand(plan, "beta", stale.eval()) != pytest.approx(
        by_hand, abs=1e-3
    )


def test_a_model_that_is_kept_after_a_long_absence_has_fresh_statistics(
    tmp_path: Path,
) -> None:
    plan = plan_of(1)
    play(plan, tmp_path, hear={"alpha": absent_in(3, 4)})
    outcome = json.loads((tmp_path / "coordinator" / "outcome.json").read_bytes())
    assert outcome["closed"]["last"] == {"reestimated": ["alpha"], "without": []}
    info = tmp_path / "sites" / "alpha" / "models" / "small" / "4" / "model.json"
    assert json.loads(info.read_bytes())["reestimated"] is True
    card = info.with_name("MODEL_CARD.md").read_text()
    assert "re-estimated at the end" in card
    kept = model_tensors(tmp_path, plan, "alpha", 4)
    others = model_tensors(tmp_path, plan, "beta", 4)
    own = local_tensors(tmp_path, "alpha", 2)
    by_hand = recomputed(plan, "alpha", {**others, **own}).state_dict()
    trunk = "backbone.stem.0.weight"
    assert np.array_equal(kept[trunk], others[trunk])
    statistics = [key for key in kept if key.endswith(("_mean", "_var"))]
    assert statistics
    for key in statistics:
        assert np.allclose(kept[key], by_hand[key], rtol=1e-4, atol=1e-6), key
        assert not np.allclose(kept[key], own[key], rtol=1e-4, atol=1e-6), key


def test_a_run_that_failed_after_a_refresh_goes_on_to_the_same(tmp_path: Path) -> None:
    plan = plan_of(1)
    plan = replace(plan, roster=replace(plan.roster, required=("beta",)))

    def set_nan(tensors: dict[str, Any]) -> None:
        key = min(tensors)
        tensors[key] = np.full_like(tensors[key], np.nan)

    hear = {"alpha": absent_in(2, 3)}
    bad = {"beta": in_round(4, with_tensors(set_nan))}
    with pytest.raises(RunFailed, match="round 4"):
        play(plan, tmp_path / "disturbed", spoil=bad, hear=hear)
    again = play(plan, tmp_path / "disturbed", hear=hear)
    straight = play(plan, tmp_path / "straight", hear=hear)
    assert refreshed(again.state.ledger) == refreshed(straight.state.ledger)
    assert again.state.history == straight.state.history
    assert_same_models(plan, tmp_path / "straight", tmp_path / "disturbed", 4)


def test_where_nobody_is_absent_the_rule_changes_nothing(tmp_path: Path) -> None:
    hashes = {
        play(plan_of(limit, 2), tmp_path / str(limit)).state.shared_hash
        for limit in (None, 0)
    }
    assert len(hashes) == 1


def test_an_uncounted_generation_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    """Alpha trains round 2, which is refused; or it is not there. Then all is alike."""

    def set_nan(tensors: dict[str, Any]) -> None:
        key = min(tensors)
        tensors[key] = np.full_like(tensors[key], np.nan)

    plan = plan_of(5, 3)
    refused = {"alpha": in_round(2, with_tensors(set_nan))}
    play(plan, tmp_path / "refused", spoil=refused)
    play(plan, tmp_path / "absent", hear={"alpha": absent_in(2)})
    assert_same_models(plan, tmp_path / "absent", tmp_path / "refused", 3)


def test_a_refresh_ends_when_the_site_is_told_to_stop() -> None:
    plan = plan_of(0)
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) == 2

    resident = Resident(plan, MACHINE.device, None, stopped)
    tensors = {k: v.clone() for k, v in resident.initial(0).items()}
    resident.stage(0).put(tensors)
    dataset = build_dataset({"alpha": MemorySnapshot("alpha")}, plan)
    with pytest.raises(Refusal) as caught:
        refresh_if_stale(resident, dataset, 0, 1, tensors)
    assert caught.value.code == Code.STOPPED and len(asked) == 2
