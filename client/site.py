"""A hospital's settings: one YAML file per site, ``site/NAME.yaml`` of the settings.

``mammo-client --site NAME init`` makes one to adapt. They are local: none of them
enters a plan, and none leaves the site.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from client.data.importers import IMPORTERS
from client.data.manifest import SLUG
from common.plan import Slug
from common.stages import STRICT, PositiveInt


class SiteError(ValueError):
    """Settings of a site that cannot be used; the text names file and key."""


@dataclass(frozen=True, config=STRICT)
class Coordinator:
    """How a site reaches the coordinator.

    Attributes
    ----------
    address : host and port of the public door, ``fl.example.org:8443``
    certificates : file of the authority that signed the coordinator's certificate, PEM
    key : file of the site's private key; its public part is registered there
    """

    address: str
    certificates: Path
    key: Path

    @field_validator("address")
    @classmethod
    def _has_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            raise ValueError("give host and port, such as fl.example.org:8443")
        return address


@dataclass(frozen=True, config=STRICT)
class Site:
    """The settings of one site; relative paths start at the folder of the file.

    Attributes
    ----------
    site : name of the site, which is that of the file too
    importer : kind of archive, a key of `client.data.importers.IMPORTERS`
    archive : its images; nothing is written there
    folder : the site's data: manifest, linkage, caches
    options : of the importer
    state : local state and finished models; default ``federation`` below `folder`
    workers : processes that read and decode; default one for each core
    coordinator : needed to take part in a federation, not to prepare images
    device : ``auto`` = a GPU where there is one
    threads : of training; default all cores, and a plan may pin another number
    start_file : file that a plan's start names by its hash
    health_port : of loopback, where monitoring asks by gRPC; default none
    """

    site: Slug
    importer: str
    archive: Path
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    state: Path | None = None
    workers: PositiveInt | None = None
    coordinator: Coordinator | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt | None = None
    start_file: Path | None = None
    health_port: Annotated[int, Field(ge=1, le=65535)] | None = None

    @field_validator("importer")
    @classmethod
    def _known(cls, importer: str) -> str:
        if importer not in IMPORTERS:
            raise ValueError(
                f"no importer of this name. There are: {', '.join(sorted(IMPORTERS))}"
            )
        return importer

    @property
    def state_folder(self) -> Path:
        """Where local state is, and ``models/``."""
        return self.state or self.folder / "federation"


def read_site(config_dir: Path, name: str) -> Site:
    """Read the settings of a site.

    Raises
    ------
    SiteError
        If the site is unknown, which lists those that there are, or its settings are
        not valid, which names every key.
    """
    path = settings_file(config_dir, name)
    if not re.fullmatch(SLUG, name) or not path.is_file():
        raise SiteError(f"No site {name!r} in {path.parent}. {known_sites(config_dir)}")
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SiteError(
            f"{path} is no YAML that can be read ({type(error).__name__}{where})."
        ) from None
    if not isinstance(mapping, dict):
        raise SiteError(f"{path} must hold a mapping of key to value. {_keys()}")
    return _resolved(_parsed(mapping, path), path)


def settings_file(config_dir: Path, name: str) -> Path:
    """Name the file of a site's settings."""
    return config_dir / "site" / f"{name}.yaml"


def _parsed(mapping: Mapping[Any, Any], path: Path) -> Site:
    try:
        return TypeAdapter(Site).validate_python(
            {str(key): value for key, value in mapping.items()}
        )
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, item['loc']))}: {_reason(item['type'], item['msg'])}"
            for item in error.errors()
        ]
        raise SiteError(
            f"{path} is not valid:\n" + "\n".join(lines) + f"\n{_keys()}"
        ) from None


def _reason(kind: str, message: str) -> str:
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return "no such key"
    return message.removeprefix("Value error, ")


def _resolved(site: Site, path: Path) -> Site:
    """Make every path absolute, and refuse what would not be found again."""
    if site.site != path.stem:
        raise SiteError(f"{path}: site is {site.site}, but the file is {path.name}.")
    base = path.parent.absolute()

    def found(one: Path) -> Path:
        return Path(os.path.normpath(base / one.expanduser()))

    try:
        resolved = replace(
            site,
            archive=found(site.archive),
            folder=found(site.folder),
            state=site.state and found(site.state),
            start_file=site.start_file and found(site.start_file),
            coordinator=site.coordinator
            and replace(
                site.coordinator,
                certificates=found(site.coordinator.certificates),
                key=found(site.coordinator.key),
            ),
        )
    except RuntimeError:
        raise SiteError(
            f"{path}: a path begins with ~ and a name that is no user of this machine."
        ) from None
    archive = resolved.archive.resolve()
    for name, ours in (("folder", resolved.folder), ("state", resolved.state_folder)):
        if ours.resolve().is_relative_to(archive):
            raise SiteError(
                f"{path}: {name} lies in the archive, into which nothing is written. "
                "Name a folder elsewhere."
            )
    return resolved


def _keys() -> str:
    return f"The keys are: {', '.join(key.name for key in fields(Site))}."


def known_sites(config_dir: Path) -> str:
    """Tell which sites have settings, or how to make the first."""
    names = sorted(path.stem for path in (config_dir / "site").glob("*.yaml"))
    if not names:
        return "There is none yet: mammo-client --site NAME init makes one to adapt."
    return f"There are: {', '.join(names)}."
