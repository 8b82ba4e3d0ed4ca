"""What may come with a run, and every way in which more could come along."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from client.bundle import FILES, require_permitted
from common.records import Code, Refusal

PROJECT = """\
[project]
name = "mammofed"
version = "0.1.0"
[tool.flwr.app]
publisher = "mammofed"
[tool.flwr.app.components]
serverapp = "server.flower_app:app"
clientapp = "client.flower_app:app"
[tool.flwr.app.config]
plan = ""
"""
FILES_OF_A_RUN = {
    "pyproject.toml": PROJECT.encode(),
    "LICENSE": b"Apache License",
    ".info/CONTENT": b"pyproject.toml,0,0",
}


def bundle(**changes: bytes | None) -> bytes:
    """Zip the three permitted files, but for the changes; None leaves one out."""
    files: dict[str, bytes | None] = {**FILES_OF_A_RUN, **changes}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            if data is not None:
                archive.writestr(name, data)
    return content.getvalue()


def project(old: str, new: str) -> bytes:
    assert old in PROJECT
    return bundle(**{"pyproject.toml": PROJECT.replace(old, new).encode()})


def refused(content: bytes, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        require_permitted(content, overrides or {})
    assert caught.value.code == Code.BUNDLE
    return str(caught.value)


def test_the_three_files_may_come() -> None:
    assert set(FILES_OF_A_RUN) == FILES
    require_permitted(bundle(), {})
    require_permitted(bundle(), {"plan": "/plans/a.json"})


def test_a_bundle_needs_no_config_of_its_own() -> None:
    require_permitted(project('[tool.flwr.app.config]\nplan = ""\n', ""), {})


@pytest.mark.parametrize(
    "name",
    [
        "client/flower_app.py",
        "sitecustomize.py",
        "client.py",
        "plan.json",
        "../../evil.py",
        "/etc/cron.d/evil",
        "pyproject.toml/../x",
        "PYPROJECT.TOML",
        "LICENSE ",
        ".info/CONTENT/",
        "empty/",
    ],
)
def test_a_file_more_is_refused(name: str) -> None:
    said = refused(bundle(**{name: b"import os"}))
    assert "1 files beside the permitted three" in said
    assert name not in said  # a name is the sender's own words


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_less_is_refused(name: str) -> None:
    refused(bundle(**{name: None}))


def test_a_file_twice_is_refused() -> None:
    """Which of two files of one name counts, readers decide differently."""
    content = io.BytesIO(bundle())
    with zipfile.ZipFile(content, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("pyproject.toml", PROJECT)
    refused(content.getvalue())


COMPONENTS: dict[str, tuple[str, str]] = {
    "another server": ("server.flower_app:app", "server.other:app"),
    "another client": ("client.flower_app:app", "os:system"),
    "an attribute": ("client.flower_app:app", "client.flower_app:app.run"),
    "no client": ('clientapp = "client.flower_app:app"\n', ""),
    "one more": ("[tool.flwr.app.config]", 'other = "x:y"\n[tool.flwr.app.config]'),
    "a list": ('"client.flower_app:app"', '["client.flower_app:app"]'),
}


@pytest.mark.parametrize("kind", COMPONENTS)
def test_other_components_are_refused(kind: str) -> None:
    assert "other components" in refused(project(*COMPONENTS[kind]))


@pytest.mark.parametrize(
    "lines", ["epochs = 3", '"plan.x" = 1', "[tool.flwr.app.config.x]\ny = 1"]
)
def test_other_values_in_the_bundle_are_refused(lines: str) -> None:
    content = project('plan = ""', f'plan = ""\n{lines}')
    assert "other than the plan's path" in refused(content)


@pytest.mark.parametrize("config", ['"x"', "[1]", "true"])
def test_a_config_that_is_no_table_is_refused(config: str) -> None:
    without = PROJECT.replace('[tool.flwr.app.config]\nplan = ""\n', "")
    text = without.replace(
        'publisher = "mammofed"', f'publisher = "mammofed"\nconfig = {config}'
    )
    assert text != without != PROJECT
    refused(bundle(**{"pyproject.toml": text.encode()}))


@pytest.mark.parametrize("overrides", [{"epochs": 3}, {"plan": "x", "Plan": "y"}])
def test_other_values_of_the_command_line_are_refused(
    overrides: dict[str, Any],
) -> None:
    said = refused(bundle(), overrides)
    assert "comes with run-config values" in said


BYTES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no zip": lambda: b"#!/bin/sh\n",
    "cut off": lambda: bundle()[:-30],
    "one byte changed": lambda: _flipped(bundle()),
    "no TOML": lambda: bundle(**{"pyproject.toml": b"= ="}),
    "no UTF-8": lambda: bundle(**{"pyproject.toml": b"\xff\xfe"}),
    "empty project": lambda: bundle(**{"pyproject.toml": b""}),
    "no table": lambda: bundle(**{"pyproject.toml": b"tool = 3"}),
    "a deep nest": lambda: bundle(**{"pyproject.toml": b"a = " + b"[" * 5000}),
    "encrypted": lambda: _with_flag(bundle(), 0x1),
    "an unknown method": lambda: _with_method(bundle(), 99),
}


def _flipped(content: bytes) -> bytes:
    """Change a byte of the project's compressed content."""
    place = content.index(b"pyproject.toml") + len(b"pyproject.toml") + 20
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def _with_flag(content: bytes, flag: int) -> bytes:
    return _in_directory(content, 8, flag)


def _with_method(content: bytes, method: int) -> bytes:
    return _in_directory(content, 10, method)


def _in_directory(content: bytes, offset: int, value: int) -> bytes:
    """Change a field of the first entry of the zip's central directory."""
    place = content.index(b"PK\x01\x02") + offset
    return content[:place] + struct.pack("<H", value) + content[place + 2 :]


@pytest.mark.parametrize("kind", BYTES)
def test_hostile_bytes_are_refused_and_nothing_else_happens(kind: str) -> None:
    assert "cannot be read" in refused(BYTES[kind]())


def test_a_large_bundle_is_refused_before_it_is_opened() -> None:
    assert "too large" in refused(b"x" * (1024**2 + 1))


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    content = bundle(LICENSE=bytes(50 * 1024**2))
    assert len(content) < 1024**2
    assert "too large" in refused(content)


def test_a_bomb_that_lies_about_its_size_is_no_bomb() -> None:
    """The directory says 16 bytes, so no more are unpacked, and the sum is wrong."""
    content = bundle(**{"pyproject.toml": b"#" * (20 * 1024**2)})
    place = content.index(b"PK\x01\x02") + 24
    content = content[:place] + struct.pack("<I", 16) + content[place + 4 :]
    assert "cannot be read" in refused(content)
