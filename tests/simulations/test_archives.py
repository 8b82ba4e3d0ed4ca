"""From public downloads to a federated report in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.run import main
from tests.support.mini_archives import write_rsna, write_vindr


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("archives")
    return [
        "data=archives",
        "data.sites=[rsna_1,vindr]",
        f"data.archives.rsna_1.root={write_rsna(root / 'rsna', 30)}",
        f"data.archives.vindr.root={write_vindr(root / 'vindr', 30)}",
        f"data.prepared={root / 'prepared'}",
        "arms=[fedbn_head,local_only]",
        "compare=[]",
        "plan/model@plan.every_stage.model=resnet_tiny",
        "plan.stages.adapt.rounds=2",
        "plan.every_stage.work={unit:steps,amount:2,batch_size:8}",
        "plan.preprocessing.rows=64",
        "plan.preprocessing.columns=32",
        "plan.split.train=0.4",
        "plan.split.validation=0.2",
        "plan.split.test=0.4",
        "plan.evaluation.replicates=50",
        "plan.evaluation.minimum_class=2",
        "threads=1",
    ]


def test_two_downloads_become_two_hospitals_and_a_report(
    words: list[str], tmp_path: Path
) -> None:
    target = (
        "plan.target={field:birads,at_least:2,unit:breast,"
        "label_sources:[radiologist,dataset]}"
    )
    main([*words, target, f"run_dir={tmp_path / 'run'}"])
    report = json.loads((tmp_path / "run" / "report.json").read_bytes())
    assert report["data"] == {"kind": "real", "patients_known": True}
    assert [arm["name"] for arm in report["arms"]] == ["fedbn_head", "local_only"]
    sites = report["arms"][0]["results"][0]["sites"]
    assert [site["site"] for site in sites] == ["rsna_1", "vindr"]
    assert all(site["positives"] > 0 for site in sites)
    assert "SYNTHETIC" not in (tmp_path / "run" / "report.html").read_text()


def test_a_data_set_without_the_target_is_refused_by_name(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words, f"run_dir={tmp_path / 'run'}"])
    told = capsys.readouterr()
    assert stopped.value.code != 0
    assert "the handshake failed:\n  vindr: TARGET" in told.err
    assert "has a label for cancer_pathology" in caplog.text  # at the site
    assert "Traceback" not in told.err


def test_a_site_without_an_archive_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "data.sites=[rsna_1,elsewhere]", f"run_dir={tmp_path / 'run'}"])
    assert "no archive elsewhere: data.archives describes" in capsys.readouterr().err


def test_a_hospital_left_out_meets_the_finished_models(
    words: list[str], tmp_path: Path
) -> None:
    target = (
        "plan.target={field:birads,at_least:2,unit:breast,"
        "label_sources:[radiologist,dataset]}"
    )
    main(
        [
            *words,
            target,
            "data.leave_out=[vindr]",
            "plan.roster.minimum_sites=1",
            f"run_dir={tmp_path / 'run'}",
        ]
    )
    report = json.loads((tmp_path / "run" / "report.json").read_bytes())
    matrix = report["cross_site"][0]
    assert (matrix["rows"], matrix["columns"]) == (["rsna_1"], ["rsna_1", "vindr"])
    assert all(0 <= area <= 1 for area in matrix["roc_auc"][0])
    sites = report["arms"][0]["results"][0]["sites"]
    assert [site["site"] for site in sites] == ["rsna_1"]
    assert report["plan"]["roster"]["sites"] == ["rsna_1"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("data.leave_out=[elsewhere]", "data.leave_out names elsewhere"),
        ("data.leave_out=vindr", "must be lists"),
        ("data.leave_out=[1]", "must be lists"),
    ],
)
def test_only_a_hospital_of_the_data_can_be_left_out(
    words: list[str], capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        main([*words, wrong])
    assert message in capsys.readouterr().err


def test_a_hospital_is_not_left_out_for_nobody_to_see(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["data.leave_out=[vindr]", "cross_site=false", "plan.roster.minimum_sites=1"]
    with pytest.raises(SystemExit):
        main([*words, *more, f"run_dir={tmp_path / 'run'}"])
    assert "cross_site=true" in capsys.readouterr().err
