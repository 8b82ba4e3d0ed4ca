"""The rooms: who may import whom, and where what leaves a hospital is built."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"common", "client", "server", "simulations", "configs"}
MAY_IMPORT = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulations": {"simulations", "client", "server", "common"},
    "configs": set(),
}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        yield from (name.split(".")[0] for name in names)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    assert sources(room)
    for path in sources(room):
        foreign = (set(imported_rooms(path)) & ROOMS) - MAY_IMPORT[room]
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_messages_are_built_in_egress_and_nowhere_else_at_a_hospital() -> None:
    builders = set()
    for path in sources("client"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in {"Message", "Error"}:
                    builders.add(path.relative_to(ROOT).as_posix())
    assert builders == {"client/egress.py"}


def test_only_the_ray_module_knows_ray() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in sources(room)
        if "ray" in set(imported_rooms(path))
    }
    assert users <= {"simulations/ray.py", "simulations/benchmark.py"}


@pytest.mark.parametrize("word", ["strict=False", "torch.load(", "allow_pickle=True"])
def test_forbidden_words_are_absent(word: str) -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in sources(room)
        if any(word in line.partition("#")[0] for line in path.read_text().splitlines())
        and "pickle" not in word
    ]
    if word == "strict=False":  # zip(strict=...) is another thing
        found = [f for f in found if "zip(" not in (ROOT / f).read_text()]
    assert not found


def test_nothing_is_unpickled() -> None:
    for room in ROOMS:
        for path in sources(room):
            assert not {"pickle", "cloudpickle", "dill", "joblib"} & set(
                imported_rooms(path)
            ), path


def test_no_file_is_crowded() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for room in ROOMS
        for path in sources(room)
        if (lines := len(path.read_text().splitlines())) > 350
    }
    assert not long


def test_nothing_that_is_installed_with_us_is_under_the_gpl() -> None:
    """The LGPL and exceptions for runtime libraries are not the GPL."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in lines if "==" in line}
    assert len(names) > 50
    strict = {name for name in names if any(map(_is_gpl, _licences(name)))}
    assert not strict
    assert "pylibjpeg-libjpeg" not in names


def _licences(name: str) -> list[str]:
    try:
        about = metadata(name)
    except PackageNotFoundError:  # of another platform
        return []
    classifiers = about.get_all("Classifier") or []
    short = [about.get("License-Expression") or about.get("License") or ""]
    return [c for c in classifiers if c.startswith("License ::")] + [short[0][:80]]


def _is_gpl(licence: str) -> bool:
    return bool(re.search(r"\bA?GPL|(?<!Lesser )General Public", licence))
