"""``benchmark ingest`` on a few small files: what it writes, and how it adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.plan import Preprocessing
from simulations import benchmark_ingest
from simulations.benchmark import app


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    small = {
        "ROWS": 256,
        "COLUMNS": 128,
        "SIZE": Preprocessing(rows=96, columns=48),
        "TRAINED": Preprocessing(rows=64, columns=32),
        "_TURNS": 1,
        "_READ_STEPS": 2,
        "_TRAIN_STEPS": 1,
    }
    for name, value in small.items():
        monkeypatch.setattr(benchmark_ingest, name, value)
    path = tmp_path / "ingest.json"
    words = ["ingest", "--images", "4", "--stubs", "70", "--json", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "JPEG Lossless" in done.output and "Reading prepared images" in done.output
    loaded: dict[str, object] = json.loads(path.read_bytes())
    return loaded


def test_every_syntax_is_measured_against_floor_and_script(
    result: dict[str, dict[str, dict[str, float]]],
) -> None:
    assert set(result["syntaxes"]) == {"JPEG Lossless", "JPEG 2000", "uncompressed"}
    for entry in result["syntaxes"].values():
        assert min(entry.values()) > 0
        ratio = entry["prepare_seconds"] / entry["floor_seconds"]
        assert entry["ratio_to_floor"] == pytest.approx(ratio)
    reading = result["reading"]
    trained = reading["resnet18_images_per_second"]
    assert reading["ratio"] == pytest.approx(reading["images_per_second"] / trained)
    augmented = reading["augmented_images_per_second"]
    assert reading["augmented_ratio"] == pytest.approx(augmented / trained)
    assert result["confirming"]["stubs"] == 70
    assert min(result["confirming"].values()) > 0
    assert set(result["targets"]) == {"ratio_to_floor", "reading_ratio"}


def test_the_steps_of_a_preparation_and_its_memory_are_told(
    result: dict[str, dict[str, float]],
) -> None:
    assert list(result["stages"])[:3] == ["read the file", "hash the file", "parse"]
    assert result["stages"]["decode"] > 0
    assert min(result["memory"].values()) > 10
