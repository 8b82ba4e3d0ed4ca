"""A site with several vendors: training, scores, state and messages of a federation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from client.data.dataset import (
    TRAIN,
    VALIDATION,
    SiteDataset,
    build_dataset,
    in_order,
)
from client.evaluation import score_images
from client.local_round import Kept, loader_of, train_round
from client.local_state import LocalState
from client.prediction import load_model, score_new
from client.resident import Resident
from common.checkpoint import read_tensors, write_tensors
from common.models import build_model
from common.norms import find_norms
from common.plan import (
    Augmentation,
    Model,
    Optimizer,
    Plan,
    Stage,
    Start,
    Work,
)
from common.records import Code, Refusal, Reply, Request
from common.sharing import load_exactly
from tests.support.hospitals import (
    MemorySnapshot,
    small_plan,
    small_stage,
    two_vendors_and_one,
)
from tests.support.runs import assert_same_models, model_tensors, play

CPU = torch.device("cpu")
BOTH = ("ge", "hologic")
SITES = ("alpha", "beta")


def stage_of(name: str = "adapt", rounds: int = 2, **changes: Any) -> Stage:
    return small_stage(name, rounds, norm_domain="vendor", **changes)


def hospital(*vendors: str, site: str = "alpha") -> dict[str, MemorySnapshot]:
    return {site: MemorySnapshot(site, vendors=vendors)}


def resident_at(plan: Plan, dataset: SiteDataset) -> Resident:
    resident = Resident(plan, CPU, None).at_site(dataset)
    resident.stage(0).put(resident.initial(0))
    return resident


def state_of(resident: Resident) -> dict[str, torch.Tensor]:
    state = resident.stage(0).model.state_dict()
    return {key: value.clone() for key, value in state.items()}


def of_vendor(resident: Resident, vendor: str) -> dict[str, torch.Tensor]:
    """Name the tensors of one vendor's norms as a model without copies does."""
    copies, state = resident.stage(0).contract.copies, state_of(resident)
    return {
        source: state[key] for key, source in copies.items() if f".{vendor}." in key
    }


def plain_model(resident: Resident, vendor: str) -> torch.nn.Module:
    """Build the ordinary model with the norms of one vendor."""
    model = build_model(resident.plan.stages[0].model, 0)
    common = {k: v for k, v in state_of(resident).items() if k in model.state_dict()}
    tensors = common | of_vendor(resident, vendor)
    load_exactly(model, tensors, model.state_dict().keys())
    return model.eval()


def test_one_vendor_gives_what_one_norm_gives(tmp_path: Path) -> None:
    """Bit for bit: weights of every round at the coordinator, norms, scores."""
    optimizer = Optimizer("adamw", 0.01, state="keep", schedule="cosine")
    stages = {
        "site": small_stage(optimizer=optimizer),
        "vendor": small_stage(optimizer=optimizer, norm_domain="vendor"),
    }
    hospitals = {site: hospital("ge", site=site) for site in SITES}
    plans = {name: small_plan(stage, sites=SITES) for name, stage in stages.items()}
    for name, plan in plans.items():
        play(plan, tmp_path / name, hospitals=hospitals)
    for path in (tmp_path / "site" / "coordinator").glob("checkpoints/*.safetensors"):
        other = tmp_path / "vendor" / "coordinator" / "checkpoints" / path.name
        left, right = read_tensors(path)[0], read_tensors(other)[0]
        assert left and left.keys() == right.keys()
        assert all(np.array_equal(left[key], right[key]) for key in left)
    for site in SITES:
        ours = model_tensors(tmp_path / "vendor", plans["vendor"], site, 3)
        ours = {key.replace(".ge.", "."): value for key, value in ours.items()}
        theirs = model_tensors(tmp_path / "site", plans["site"], site, 3)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
        scores = [
            pd.read_parquet(
                tmp_path / name / f"sites/{site}/scores/last/{site}.parquet"
            )
            for name in stages
        ]
        pd.testing.assert_frame_equal(*scores, check_exact=True)


def test_norms_of_a_vendor_learn_from_its_images_only() -> None:
    """With everything else frozen, as if the site had no other vendor."""
    work = Work("steps", 9, 8)
    stage = stage_of(
        trainable=("norm_affine",),
        augmentation=Augmentation(),
        objective={"ce": {"pos_weight": 1.0}},
        optimizer=Optimizer("sgd", 0.05),
        work=work,
    )
    plan = small_plan(stage, sites=("alpha",))
    dataset = build_dataset(hospital(*BOTH), plan)
    resident = resident_at(plan, dataset)
    train_round(resident, dataset, "alpha", 0, 1, Kept(), resident.initial(0))
    steps = {}
    for vendor in BOTH:
        rows = dataset.rows[dataset.vendors == vendor].reset_index(drop=True)
        alone = SiteDataset(dataset.snapshots, rows)
        counter = f"backbone.stem.1.{vendor}.num_batches_tracked"
        steps[vendor] = int(state_of(resident)[counter])
        less = replace(stage, work=replace(work, amount=steps[vendor]))
        other = resident_at(replace(plan, stages=(less,)), alone)
        train_round(other, alone, "alpha", 0, 1, Kept(), other.initial(0))
        expected, found = of_vendor(other, vendor), of_vendor(resident, vendor)
        assert found and all(torch.equal(found[k], expected[k]) for k in expected)
    assert sum(steps.values()) == 9 and min(steps.values()) > 0
    ge, hologic = (of_vendor(resident, vendor) for vendor in BOTH)
    assert not torch.equal(
        ge["backbone.stem.1.running_mean"], hologic["backbone.stem.1.running_mean"]
    )


def trained(*vendors: str, **changes: Any) -> tuple[Resident, SiteDataset]:
    plan = small_plan(stage_of(**changes), sites=("alpha",))
    dataset = build_dataset(hospital(*vendors), plan)
    resident = resident_at(plan, dataset)
    train_round(resident, dataset, "alpha", 0, 1, Kept(), resident.initial(0))
    return resident, dataset


def test_scores_are_those_of_each_vendors_own_model() -> None:
    """The second implementation: an ordinary model for each, one image at a time."""
    resident, dataset = trained(*BOTH, work=Work("epochs", 2, 8))
    loader = loader_of(resident, dataset, 0)
    scores = score_images(resident.stage(0).model, loader, (VALIDATION,), 7)
    indices = dataset.select(VALIDATION)
    models = {vendor: plain_model(resident, vendor) for vendor in set(dataset.vendors)}
    spec, expected = resident.plan.stages[0].model, []
    for index in indices:
        pixels = dataset.pixels(np.array([index])).astype(np.float32) / 65535
        images = (torch.from_numpy(pixels).unsqueeze(1) - spec.mean) / spec.scale
        with torch.no_grad():
            logit = models[dataset.vendors[index]](images).double()
        expected.append(float(torch.sigmoid(logit)))
    assert set(dataset.vendors[indices]) == set(BOTH)
    assert np.abs(scores["score"].to_numpy() - expected).max() < 1e-6
    assert scores["row_id"].tolist() == dataset.rows.iloc[indices]["row_id"].tolist()
    assert scores["score"].std() > 1e-3


def test_re_estimated_statistics_are_each_vendors_own() -> None:
    resident, dataset = trained(*BOTH, norm_mode="reestimate", trainable=())
    for vendor in BOTH:
        alone = SiteDataset(dataset.snapshots, dataset.rows[dataset.vendors == vendor])
        rows = alone.select(TRAIN, labelled=False)
        model = build_model(resident.plan.stages[0].model, resident.plan.seed)
        first = model.backbone.stem[0]  # the first norm's input, formula by hand
        loader = loader_of(resident, alone, 0)
        loader = replace(loader, norm_domains=None)
        means, variances, sizes = [], [], []
        batches = in_order(rows, resident.plan.stages[0].work.batch_size)
        for images, _, _ in loader.batches(batches):
            with torch.no_grad():
                out = first(images)
            means.append(out.mean((0, 2, 3)))
            variances.append(out.var((0, 2, 3)))
            sizes.append(len(images))
        weights = torch.tensor(sizes)[:, None] / sum(sizes)
        found = of_vendor(resident, vendor)
        mean, variance = (
            found[f"backbone.stem.1.running_{name}"] for name in ("mean", "var")
        )
        assert torch.allclose(mean, (torch.stack(means) * weights).sum(0), atol=1e-5)
        expected = (torch.stack(variances) * weights).sum(0)
        assert torch.allclose(variance, expected, atol=1e-5)


def test_frozen_statistics_stand_still_for_every_vendor() -> None:
    resident, _ = trained(*BOTH, norm_mode="frozen", work=Work("epochs", 1, 8))
    start = resident.initial(0)
    for vendor in BOTH:
        for source, value in of_vendor(resident, vendor).items():
            moves = not source.endswith(("running_mean", "running_var", "tracked"))
            assert torch.equal(value, start[source]) != moves


def test_sites_with_other_vendors_share_a_process(tmp_path: Path) -> None:
    """The outcome is what each site has beside others or alone in its process."""
    plan = small_plan(stage_of(), sites=SITES)
    outcome = play(plan, tmp_path, hospitals=two_vendors_and_one())
    assert outcome.status == "complete"
    names = {
        site: {
            key.rsplit(".", 2)[1]
            for key in model_tensors(tmp_path, plan, site, plan.rounds)
            if key.endswith("running_mean")
        }
        for site in SITES
    }
    assert names == {"alpha": set(BOTH), "beta": {"siemens"}}
    resident = Resident(plan, CPU, None)
    sites = [build_dataset(one, plan) for one in two_vendors_and_one().values()]
    alpha, beta = (resident.at_site(dataset) for dataset in sites)
    assert alpha.stage(0).model is not beta.stage(0).model
    again = resident.at_site(build_dataset(hospital(*BOTH, site="gamma"), plan))
    assert again.stage(0).model is alpha.stage(0).model
    assert alpha.plain.stage(0).model is resident.stage(0).model


def test_a_stopped_run_resumes_to_the_undisturbed_one(tmp_path: Path) -> None:
    """From one norm to one for each vendor on the way, with moments kept."""
    keep = Optimizer("adamw", 0.01, state="keep")
    stages = small_stage("one", 1, optimizer=keep), stage_of("two", 3, optimizer=keep)
    plan = small_plan(*stages, sites=SITES)
    play(plan, tmp_path / "whole", hospitals=two_vendors_and_one())

    class Killed(BaseException):
        pass

    def kill(round_: int) -> Any:
        def spoil(request: Request, reply: Reply) -> Reply:
            if request.kind == "train" and request.fields["round"] == round_:
                raise Killed
            return reply

        return spoil

    for round_ in (2, 4):
        with pytest.raises(Killed):
            play(
                plan,
                tmp_path / "cut",
                hospitals=two_vendors_and_one(),
                spoil={"beta": kill(round_)},
            )
    play(plan, tmp_path / "cut", hospitals=two_vendors_and_one())
    assert_same_models(plan, tmp_path / "whole", tmp_path / "cut", plan.rounds)


def test_every_vendor_begins_with_the_norm_that_the_site_had(tmp_path: Path) -> None:
    """The second stage trains the head only and leaves norms as they are."""
    last = stage_of("two", 1, trainable=("head",), norm_mode="frozen")
    plan = small_plan(small_stage("one", 2), last, sites=SITES)
    play(plan, tmp_path, hospitals=two_vendors_and_one())
    finished = model_tensors(tmp_path, plan, "alpha", 3)
    (path,) = (tmp_path / "sites/alpha/state").glob("*/*/round-00002.safetensors")
    before = {k.partition("/")[2]: v for k, v in read_tensors(path)[0].items()}
    model = build_model(Model("resnet_tiny"), 0)
    for name, norm in find_norms(model):
        for key in norm.state_dict():
            for vendor in BOTH:
                ours = finished[f"{name}.{vendor}.{key}"]
                assert np.array_equal(ours, before[f"{name}.{key}"])
    assert before["backbone.stem.1.num_batches_tracked"] == 4  # two rounds of two steps


def test_a_finished_model_scores_as_its_evaluation_did(tmp_path: Path) -> None:
    """New images of a vendor that the site did not have are left out."""
    plan = small_plan(stage_of(), sites=SITES)
    hospitals = two_vendors_and_one()
    outcome = play(plan, tmp_path, hospitals=hospitals)
    site = tmp_path / "sites" / "alpha"
    folder = site / "models" / plan.id / str(outcome.selected)
    info = json.loads((folder / "model.json").read_text())
    assert info["norm_domains"] == {vendor: vendor for vendor in BOTH}
    assert "apart for images of ge, hologic" in (folder / "MODEL_CARD.md").read_text()
    finished = load_model(folder, CPU)
    kept = pd.read_parquet(site / "scores" / "selected" / "alpha.parquet")
    kept = kept.set_index("row_id")["score"]
    snapshot = hospitals["alpha"]["alpha"]
    strange = snapshot.rows.index % 5 == 0
    snapshot.rows.loc[strange, "vendor"] = "siemens"
    moves: list[int] = []
    scored = score_new(finished, snapshot, lambda done, total: moves.append(total))  # type: ignore[arg-type]
    expected = set(snapshot.rows["row_id"][~strange])
    assert set(scored["row_id"]) == expected and set(moves) == {len(expected)}
    again = scored.set_index("row_id")["score"]
    both = again.index.intersection(kept.index)
    assert len(both) > 20
    assert (again[both] - kept[both]).abs().max() < 1e-6


def test_a_vendor_that_comes_during_a_run_is_refused_in_words(tmp_path: Path) -> None:
    plan = small_plan(stage_of(), sites=("alpha",), minimum=1)
    play(plan, tmp_path, hospitals={"alpha": hospital("ge")})
    (run,) = (tmp_path / "sites/alpha/state").glob("*/*/")
    state = LocalState(run.parent.parent, run.parent.name, plan.hash, "snapshot")
    dataset = build_dataset(hospital(*BOTH), plan)
    rule = resident_at(plan, dataset).stage(0).contract
    with pytest.raises(Refusal, match="other vendors than when the run") as refused:
        state.read(2).only(rule.local)
    assert refused.value.code == Code.LOCAL_STATE
    fewer = build_dataset(hospital("ge"), plan)
    rule = resident_at(plan, fewer).stage(0).contract
    assert dict(state.read(2).only(rule.local)).keys() == set(rule.local)


def test_a_start_reaches_every_vendor(tmp_path: Path) -> None:
    """A checkpoint has one norm: every vendor begins with it."""
    file = tmp_path / "start.safetensors"
    random = np.random.default_rng(0)
    tensors = {
        key: random.random(tensor.shape).astype(tensor.numpy().dtype)
        for key, tensor in build_model(Model("resnet_tiny"), 0).state_dict().items()
    }
    sha256 = write_tensors(file, tensors, {})
    plan = small_plan(stage_of(), sites=("alpha",))
    plan = replace(plan, start=Start("checkpoint", sha256, "a test"))
    dataset = build_dataset(hospital(*BOTH), plan)
    resident = Resident(plan, CPU, file).at_site(dataset)
    initial, copies = resident.initial(0), resident.stage(0).contract.copies
    assert copies
    for key, source in copies.items():
        assert np.array_equal(initial[key].numpy(), tensors[source])
