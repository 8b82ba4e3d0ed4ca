"""A source model is kept with its provenance, and other runs start from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.checkpoint import read_tensors
from common.plan import read_plan
from simulations.run import main
from tests.support.commands import small


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def kept(root: Path) -> Path:
    words = [f"run_dir={root}/pretrain", f"keep_source={root}/kept"]
    main(["experiment=pretrain_source", *words, *small(root, ["public"])])
    return root / "kept"


def test_the_source_says_where_it_comes_from(kept: Path) -> None:
    tensors, metadata = read_tensors(kept / "source.safetensors")
    provenance = json.loads((kept / "provenance.json").read_bytes())
    assert provenance["tensors"] == metadata["tensors"]
    assert provenance["trained_on"] == ["public"]
    assert provenance["synthetic"] is True
    assert "heads.malignancy.weight" in tensors


def test_another_run_starts_from_it(kept: Path, root: Path) -> None:
    source, metadata = read_tensors(kept / "source.safetensors")
    main(
        [
            "experiment=demo",
            f"run_dir={root}/demo",
            f"start_file={kept}/source.safetensors",
            "plan.start.kind=checkpoint",
            f"plan.start.sha256={metadata['tensors']}",
            "arms=[local_only]",
            "compare=[]",
            "plan.every_stage.optimizer.learning_rate=1e-12",
            "plan.every_stage.optimizer.weight_decay=0.0",
            *small(root, ["north", "lakeside"]),
        ]
    )
    run = root / "demo" / "arms" / "local_only" / "seed-0"
    model = next((run / "sites" / "north" / "models").rglob("model.safetensors"))
    tensors, _ = read_tensors(model)
    for key in ("backbone.stem.0.weight", "heads.malignancy.weight"):
        assert np.allclose(tensors[key], source[key], atol=1e-6)
    assert read_plan(run / "plan.json").start.kind == "checkpoint"


def test_a_file_that_is_not_the_plans_is_refused(
    kept: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(
            [
                "experiment=demo",
                f"run_dir={root}/refused",
                f"start_file={kept}/source.safetensors",
                "plan.start.kind=checkpoint",
                f"plan.start.sha256={'0' * 64}",
                *small(root, ["north", "lakeside"]),
            ]
        )
    assert "not the checkpoint of the plan" in capsys.readouterr().err
