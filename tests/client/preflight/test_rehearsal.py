"""The step that is taken before the first one: its sizes, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from client.data.manifest import read_linkage, read_manifest, write_manifest
from client.data.site_data import import_site, prepare_site
from client.preflight import rehearsed
from client.preflight.rehearsal import rehearse
from client.preflight.rehearsed import Rehearsed, StageSize, rehearse_apart
from client.site import Site, read_site
from common.models import build_model
from common.norms import find_norms
from common.plan import Aggregation, Optimizer, Plan, Start, Target, Work
from common.transport import Transport
from tests.support.hospitals import small_plan, small_stage
from tests.support.mammo_client import add_labels, make_hospital

ROOT = Path(__file__).parents[3]
IMAGES = 40


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A hospital with labels whose images are prepared."""
    folder = make_hospital(tmp_path_factory.mktemp("hospital"), IMAGES)
    add_labels(folder, IMAGES)
    found = read_site(folder, "north")
    import_site("hospital", found.archive, found.folder, "north", found.options)
    prepare_site(found.folder, found.archive, plan_of().preprocessing)
    return found


def plan_of(**changes: object) -> Plan:
    epochs = Work("epochs", 2, 4, drop_last=False)
    stage = small_stage(work=epochs, **changes)
    return small_plan(stage, sites=("north", "south"))


def test_a_step_tells_time_memory_and_patients(site: Site) -> None:
    found = rehearse(site, plan_of())
    assert (found.device, found.failure) == ("CPU", "")
    assert found.seconds_per_image > 0 and found.peak_bytes > 50 * 10**6
    (stage,) = found.stages
    assert stage.images == 2 * found.patients  # one image each, two epochs
    assert 0 < found.patients + found.validation < IMAGES


def test_sizes_are_those_of_the_models_tensors(site: Site) -> None:
    """Convolutions travel, norm layers and the head stay, in bytes."""
    plan = plan_of(optimizer=Optimizer("sgd", state="keep"))
    model = build_model(plan.stages[0].model, 0)
    everything = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    convolutions = sum(
        4 * m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)
    )
    norms = sum(
        sum(t.numel() * t.element_size() for t in norm.state_dict().values())
        for _, norm in find_norms(model)
    )
    parameters = sum(4 * p.numel() for p in model.parameters())
    (size,) = rehearse(site, plan).stages
    assert size.sent == convolutions and size.whole == everything
    head = everything - convolutions - norms
    assert size.kept == norms + head + parameters  # with the momentum of each
    assert size.fixed == 0


@pytest.mark.parametrize("transport", ["float16", "bfloat16"])
def test_sizes_follow_the_number_format_of_messages(
    site: Site, transport: Transport
) -> None:
    """Half travels; what rounding kept back is on the disk, as float32."""
    plan = plan_of()
    (size,) = rehearse(site, plan).stages
    half = replace(plan, aggregation=Aggregation(transport=transport))
    found = rehearse(site, half)
    assert found.stages == (
        replace(size, sent=size.sent // 2, kept=size.kept + size.sent),
    )
    assert found.bytes_per_round == size.sent // 2


def test_norms_for_each_vendor_are_counted(tmp_path: Path) -> None:
    folder = make_hospital(tmp_path, IMAGES)
    add_labels(folder, IMAGES)
    here = read_site(folder, "north")
    import_site("hospital", here.archive, here.folder, "north", here.options)
    manifest = read_manifest(here.folder)
    manifest["vendor"] = ["ge", "hologic"] * (IMAGES // 2)
    write_manifest(here.folder, manifest, read_linkage(here.folder))
    prepare_site(here.folder, here.archive, plan_of().preprocessing)
    model = build_model(plan_of().stages[0].model, 0)
    norms = sum(
        sum(t.numel() * t.element_size() for t in norm.state_dict().values())
        for _, norm in find_norms(model)
    )
    (one,) = rehearse(here, plan_of()).stages
    (two,) = rehearse(here, plan_of(norm_domain="vendor")).stages
    assert (two.sent, two.images) == (one.sent, one.images)
    assert two.kept == one.kept + norms and two.whole == one.whole + norms


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_mode": "reestimate", "trainable": ()},
        {"optimizer": Optimizer("sgd", proximal=0.1)},
        {"optimizer": Optimizer("adamw")},
    ],
)
def test_every_kind_of_stage_can_be_tried(
    site: Site, changes: dict[str, object]
) -> None:
    found = rehearse(site, plan_of(**changes))
    assert not found.failure and found.seconds_per_image > 0
    assert found.stages[0].images


def test_without_a_plan_only_the_device_is_tried(site: Site) -> None:
    assert rehearse(site, None) == Rehearsed("CPU")


def test_without_prepared_images_the_step_is_taken_all_the_same(site: Site) -> None:
    plan = plan_of()
    other = replace(plan, preprocessing=replace(plan.preprocessing, rows=48))
    found = rehearse(site, other)
    assert not found.failure and found.seconds_per_image > 0
    assert found.stages[0].images is None and found.seconds_in_all is None


def test_a_target_without_labels_is_told_beside_what_is_known(site: Site) -> None:
    target = Target(label_sources=("registry",))
    found = rehearse(site, replace(plan_of(), target=target))
    assert "no image of the train part has a label" in found.failure
    assert found.seconds_per_image > 0 and found.bytes_per_round > 0


def test_a_start_file_that_is_missing_is_told(site: Site) -> None:
    start = Start("checkpoint", sha256="a" * 64)
    found = rehearse(site, replace(plan_of(), start=start))
    assert "start_file" in found.failure


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_wanted_and_absent_is_told(site: Site) -> None:
    found = rehearse(replace(site, device="cuda"), plan_of())
    assert not found.device and "torch finds no GPU" in found.failure


def test_the_projection_is_the_sum_over_stages() -> None:
    stages = (
        StageSize(rounds=3, sent=100, kept=40, fixed=5, whole=200, images=30),
        StageSize(rounds=2, sent=70, kept=60, fixed=0, whole=180, images=12),
    )
    found = Rehearsed("CPU", "", 0.5, validation=6, stages=stages)
    assert found.seconds_in_all == 0.5 * (3 * (30 + 6 / 3) + 2 * (12 + 6 / 3))
    assert found.bytes_in_all == 2 * (3 * 100 + 2 * 70) + 2 * 70
    assert found.bytes_per_round == 100
    assert found.disk_bytes == 4 * 60 + 2 * 200 + 5
    assert Rehearsed("CPU").disk_bytes == Rehearsed("CPU").bytes_in_all == 0


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Rehearsed:
    """Let a shell script stand in for the process that takes the step."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return rehearse_apart(["--site", "north"])


def test_a_process_that_runs_out_of_memory_does_not_end_the_preflight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pretend(tmp_path, monkeypatch, "kill -9 $$")
    assert "memory is full" in found.failure


@pytest.mark.parametrize(
    "script", ["exit 3", "echo hello; exit 3", "echo '{}'; exit 3"]
)
def test_a_process_that_says_nothing_of_use_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    assert pretend(tmp_path, monkeypatch, script).failure.endswith("ended with 3")


def test_a_process_that_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsed, "_LONGEST", 0.2)
    assert "longer than" in pretend(tmp_path, monkeypatch, "exec sleep 60").failure


def test_what_is_written_is_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = StageSize(rounds=3, sent=100, kept=40, fixed=5, whole=200, images=None)
    said = Rehearsed("CPU", "", 0.25, 10**9, 4, 2, (stage,))
    (tmp_path / "said").write_text(said.to_json())
    script = f"echo a warning; cat {tmp_path / 'said'}"
    assert pretend(tmp_path, monkeypatch, script) == said


def test_the_preflight_itself_imports_no_torch() -> None:
    code = "import client.preflight.run, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == 0
