"""The benchmark of objectives: every term is measured beside ce."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.objectives import known_terms
from simulations.benchmark import app


def test_every_term_is_measured_beside_ce(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    words = ["--model", "resnet_tiny", "--rows", "32", "--turns", "3"]
    result = CliRunner().invoke(app, ["objectives", *words, "--json", str(file)])
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_bytes())
    others = [f"ce + {name}" for name in known_terms() if name != "ce"]
    assert list(found) == ["ce", *others]
    assert found["ce"]["ratio"] == 1.0
    assert all(one["images_per_second"] > 0 for one in found.values())
    assert all(name in result.output for name in found)


@pytest.mark.parametrize(
    "words", [["--model", "resnet_huge"], ["--json", "/nowhere/at/all.json"]]
)
def test_a_mistake_is_told_before_anything_is_measured(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["objectives", *words])
    assert result.exit_code == 2 and words[0] in result.output
