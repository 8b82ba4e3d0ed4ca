"""``mammo-sim`` from DICOM to report, as a person would type it, on few images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from client.data.dataset import TEST, VALIDATION, Loader, build_dataset
from client.data.snapshot import open_snapshot
from client.evaluation import score_images
from client.model_folder import preprocessing_of, read_model_folder
from common.plan import read_plan
from common.report.schema import check_report
from simulations.run import beside_training, main
from tests.support.commands import small

SITES = ("north", "lakeside")
ARMS = (
    "local_only",
    "pooled",
    "fedavg",
    "fedavg_local_stats",
    "silobn",
    "fedbn",
    "fedbn_head",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulation")


@pytest.fixture(scope="module")
def compared(root: Path) -> Path:
    """Run the small form of ``compare_sharing``: all arms, two rates, two seeds."""
    run_dir = root / "compare"
    words = ["experiment=compare_sharing", f"run_dir={run_dir}", *small(root, SITES)]
    main([*words, "rates=[0.003,0.01]", "seeds=[0,1]"])
    return run_dir


@pytest.fixture(scope="module")
def report(compared: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((compared / "report.json").read_bytes())
    return loaded


def first_run(compared: Path, arm: str) -> Path:
    rate = json.loads((compared / "chosen_rates.json").read_bytes())[arm]["rate"]
    return compared / "arms" / arm / f"seed-0-rate-{rate:g}"


def site_scores(compared: Path, arm: str, site: str, role: str) -> pd.DataFrame:
    """Find the scores that a site keeps, wherever the arm has put them."""
    folder = first_run(compared, arm)
    if arm == "fedavg_local_stats":
        folder = folder / role
    holder = "pooled" if arm == "pooled" else site
    return pd.read_parquet(
        folder / "sites" / holder / "scores" / role / f"{site}.parquet"
    )


def breasts(scores: pd.DataFrame, part: str) -> pd.DataFrame:
    rows = scores[scores["part"] == part]
    return rows.groupby("breast_key").agg(
        {"target": "max", "score": "mean", "patient_key": "first"}
    )


def results_of(report: dict[str, Any], arm: str, unit: str, at: str) -> dict[str, Any]:
    entry = next(a for a in report["arms"] if a["name"] == arm)
    found: dict[str, Any] = next(
        r for r in entry["results"] if (r["unit"], r["at"]) == (unit, at)
    )
    return found


def test_the_report_has_all_arms_and_follows_its_schema(report: dict[str, Any]) -> None:
    check_report(report)
    assert [arm["name"] for arm in report["arms"]] == list(ARMS)
    assert report["data"] == {"kind": "synthetic", "patients_known": True}
    assert report["status"] == "complete"
    assert [len(arm["seeds"]) for arm in report["arms"]] == [2] * len(ARMS)
    assert {row["arm"] for row in report["cross_site"]} == set(ARMS) - {"pooled"}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("at", ["selected", "last"])
def test_the_report_agrees_with_sklearn_on_the_sites_own_scores(
    arm: str, at: str, compared: Path, report: dict[str, Any]
) -> None:
    result = results_of(report, arm, "breast", at)
    for entry in result["sites"]:
        scores = site_scores(compared, arm, entry["site"], at)
        test = breasts(scores, TEST)
        target, score = test["target"], test["score"]
        predicted = score >= entry["threshold"]
        metrics = {name: value["value"] for name, value in entry["metrics"].items()}
        assert metrics["roc_auc"] == pytest.approx(roc_auc_score(target, score))
        assert metrics["average_precision"] == pytest.approx(
            average_precision_score(target, score)
        )
        assert metrics["brier"] == pytest.approx(brier_score_loss(target, score))
        assert metrics["accuracy"] == pytest.approx((predicted == target).mean())
        assert metrics["sensitivity"] == pytest.approx(predicted[target == 1].mean())
        healthy = breasts(scores, VALIDATION).query("target == 0")["score"]
        assert (healthy < entry["threshold"]).mean() >= 0.9
        assert entry["patients"] == test["patient_key"].nunique()
    sites = [entry["metrics"]["roc_auc"]["value"] for entry in result["sites"]]
    assert result["mean"]["roc_auc"]["value"] == pytest.approx(np.mean(sites))


def test_exams_take_the_worse_breast(compared: Path, report: dict[str, Any]) -> None:
    entry = results_of(report, "fedavg", "exam", "selected")["sites"][0]
    scores = site_scores(compared, "fedavg", entry["site"], "selected")
    rows = scores[scores["part"] == TEST]
    keys = ["exam_key", "breast_key"]
    exams = rows.groupby(keys)[["target", "score"]].mean().groupby("exam_key").max()
    assert entry["metrics"]["roc_auc"]["value"] == pytest.approx(
        roc_auc_score(exams["target"], exams["score"])
    )


def test_a_finished_model_reproduces_the_scores_of_its_site(
    compared: Path, root: Path
) -> None:
    run = first_run(compared, "fedbn_head")
    plan = read_plan(run / "plan.json")
    for site in SITES:
        folder = run / "sites" / site
        selected = json.loads((run / "coordinator" / "outcome.json").read_bytes())
        model, info = read_model_folder(
            folder / "models" / plan.id / str(selected["selected"])
        )
        prepared = next((root / "prepared").glob(f"{site}-*"))
        snapshot = open_snapshot(prepared, preprocessing_of(info))
        dataset = build_dataset({site: snapshot}, plan)
        spec = plan.stages[0].model
        loader = Loader(dataset, _cpu(), spec.mean, spec.scale, spec.channels)
        again = score_images(model, loader, (VALIDATION, TEST), 7).set_index("row_id")
        kept = site_scores(compared, "fedbn_head", site, "selected").set_index("row_id")
        assert again.index.equals(kept.index)
        assert np.abs(again["score"] - kept["score"]).max() < 1e-6


def test_the_cross_site_diagonal_is_the_sites_own_result(
    report: dict[str, Any],
) -> None:
    for matrix in report["cross_site"]:
        own = results_of(report, matrix["arm"], "breast", "selected")["sites"]
        for number, entry in enumerate(own):
            value = entry["metrics"]["roc_auc"]["value"]
            assert matrix["roc_auc"][number][number] == pytest.approx(value, abs=1e-6)


def test_a_paired_difference_is_the_difference_of_the_arms(
    report: dict[str, Any],
) -> None:
    pair = report["paired"][0]
    values = [
        results_of(report, pair[side], "breast", "selected")["mean"][pair["metric"]]
        for side in ("a", "b")
    ]
    assert (pair["a"], pair["b"], pair["site"]) == ("fedbn_head", "fedavg", "mean")
    assert pair["difference"] == pytest.approx(values[0]["value"] - values[1]["value"])


def test_the_local_statistics_arm_differs_from_its_fedavg_in_statistics_only(
    compared: Path,
) -> None:
    from common.checkpoint import read_tensors

    source = first_run(compared, "fedavg")
    plan = read_plan(source / "plan.json")
    round_ = json.loads((source / "coordinator" / "outcome.json").read_bytes())[
        "selected"
    ]
    before, _ = read_tensors(
        source
        / "sites"
        / "north"
        / "models"
        / plan.id
        / str(round_)
        / "model.safetensors"
    )
    follower = (
        first_run(compared, "fedavg_local_stats") / "selected" / "sites" / "north"
    )
    after, _ = read_tensors(next(follower.rglob("model.safetensors")))
    moved = {key for key in before if not np.array_equal(before[key], after[key])}
    assert moved
    assert all("running_" in key or "num_batches" in key for key in moved)


def test_tensorboard_has_a_run_per_arm_and_site(compared: Path) -> None:
    for arm in ("fedbn_head", "local_only"):
        folder = compared / "tensorboard" / arm
        for site in SITES:
            assert list(folder.glob(f"*/{site}/events.out.tfevents*"))


def test_the_page_says_synthetic_and_needs_nothing_else(compared: Path) -> None:
    page = (compared / "report.html").read_text()
    assert "SYNTHETIC" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_same_command_again_trains_nothing(
    compared: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = {p: p.stat().st_mtime_ns for p in compared.rglob("outcome.json")}
    main(["resume", str(compared)])
    assert {p: p.stat().st_mtime_ns for p in compared.rglob("outcome.json")} == stamps
    assert "Going on" in capsys.readouterr().out


def complain(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(str(caught.value.code)), capsys.readouterr().err


def test_a_folder_of_another_plan_is_refused_and_left_alone(
    compared: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (compared / "plan.json").read_bytes()
    words = ["experiment=compare_sharing", f"run_dir={compared}", *small(root, SITES)]
    status, text = complain([*words, "rates=[]", "plan.evaluation.trailing=2"], capsys)
    assert status == 2
    assert "plan (" in text
    assert "rates" in text
    assert (compared / "plan.json").read_bytes() == before


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose")
    words = ["experiment=demo", f"run_dir={tmp_path}", *small(root, SITES)]
    status, text = complain(words, capsys)
    assert status == 2
    assert "not empty" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["experiment=missing"], "demo"),
        (["resume", "/nowhere"], "No run in"),
        (["sythn"], "mammo-sim experiment=NAME"),
        (["experiment=demo", "data.sites=[north,atlantis]"], "atlantis"),
        (["experiment=demo", "plan.seed=3"], "seeds=["),
        (["experiment=demo", "plan.every_stage.sharing=fedavg"], "arms=["),
        (["experiment=demo", "plan.roster.sites=[north,harbour]"], "data.sites"),
        (["experiment=demo", "arms=[]"], "arms"),
        (["experiment=demo", "rates=[-1]"], "rates"),
        (["experiment=demo", "threads=0"], "threads"),
        (["experiment=demo", "extra_test=5"], "pooled"),
        (["experiment=demo", "plan.stages.adapt=5"], "mapping"),
    ],
)
def test_a_users_mistake_is_one_message_and_no_traceback(
    words: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = complain(words, capsys)
    assert status == 2
    assert expected in text
    assert "Traceback" not in text


def test_help_and_list_name_every_experiment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--help"])
    main(["list"])
    said = capsys.readouterr().out
    for name in ("demo", "compare_sharing", "real_images", "fedbn_head", "resume"):
        assert name in said


@pytest.mark.parametrize("verb", ["synth", "resume", "experiment=demo"])
def test_help_behind_a_verb_is_help_too(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([verb, "--help"])
    assert "goes on" in capsys.readouterr().out


@pytest.fixture
def real_images() -> Iterator[Path]:
    folder = Path(__file__).parents[3] / "shared" / "data" / "cdd-cesm"
    if not folder.is_dir():
        pytest.skip("the sample ../shared/data/cdd-cesm is absent")
    yield folder


def test_real_mammograms_train_and_claim_nothing(
    real_images: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    main(
        [
            "experiment=real_images",
            f"data.root={real_images}",
            f"data.prepared={tmp_path}/prepared",
            f"run_dir={run_dir}",
            "plan.stages.adapt.rounds=2",
            "plan/model@plan.every_stage.model=resnet_tiny",
            "plan.evaluation.replicates=50",
            "threads=1",
        ]
    )
    report = json.loads((run_dir / "report.json").read_bytes())
    assert report["data"] == {"kind": "real", "patients_known": False}
    results = report["arms"][0]["results"]
    assert {result["unit"] for result in results} == {"image"}
    sites = results[0]["sites"]
    assert [site["site"] for site in sites] == ["sigmoid", "gamma", "plain"]
    assert all(s["metrics"]["roc_auc"]["value"] is not None for s in sites)
    page = (run_dir / "report.html").read_text()
    assert "by image, smoke test" in page
    assert "SYNTHETIC" not in page


def _cpu():  # type: ignore[no-untyped-def]
    import torch

    return torch.device("cpu")


def test_what_is_not_training_is_a_round_less_its_slowest_site() -> None:
    rows = [(1, 2.0), (1, 3.5), (2, 1.0), (2, None)]
    ledger = [{"round": round_, "step_seconds": took} for round_, took in rows]
    outcome = {"seconds": {"1": 5.0, "2": 1.5}, "ledger": ledger}
    assert beside_training(outcome) == [1.5, 0.5]
