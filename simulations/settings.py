"""What `mammo-sim` is told beside the plan: arms, seeds, data, folders, machine."""

from __future__ import annotations

import json
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from client.objectives import check_objective
from common.atomic import write_atomic
from common.plan import Plan, PlanError, plan_from_json, plan_to_json
from simulations.arms import check_arms

_STRICT = ConfigDict(extra="forbid")
_FILE, _PLAN = "experiment.json", "plan.json"
_LOCAL = {"run_dir", "device", "parallel", "backend", "dump"}
"""May differ between the calls of one run; so may the number of data workers."""


@dataclass(frozen=True, config=_STRICT)
class Archive:
    """The archive of one virtual hospital.

    Attributes
    ----------
    importer : key of `client.data.importers.IMPORTERS`
    root : folder of the archive, as it was downloaded
    options : of the importer
    """

    importer: str
    root: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class Division:
    """How one data set becomes several hospitals; see `simulations.division`.

    Attributes
    ----------
    by : manifest field
    values : hospital -> values of the field whose patients it gets
    alpha : instead of ``values``: patients of each value are dealt out in shares drawn
        from a symmetric Dirichlet distribution; small = hospitals that differ much
    minimum : patients that every hospital must get
    """

    by: Literal["vendor", "model", "machine", "density", "cancer_pathology", "birads"]
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    alpha: Annotated[float, Field(gt=0)] | None = None
    minimum: Annotated[int, Field(ge=1)] = 20

    @model_validator(mode="after")
    def _one_rule(self) -> Division:
        if bool(self.values) == (self.alpha is not None):
            raise ValueError("give either values or alpha")
        return self


@dataclass(frozen=True, config=_STRICT)
class DataSettings:
    """Where the virtual hospitals' images come from.

    Attributes
    ----------
    kind : ``synthetic`` is generated; ``folders`` are images with a label table;
        ``archives`` are data sets, each a hospital
    root : of the archive; ``prepared`` gets manifests and caches
    sites : names of the hospitals
    leave_out : of these take no part; the finished models meet them in the report's
        matrix across hospitals (leave one site out)
    patients : per synthetic site; None = the generator's default
    lesions : False leaves the findings out of synthetic pixels
    tomosynthesis : every third synthetic patient has volumes too, and 2D images of them
    importer : options of the ``image_folder`` importer, for ``folders``
    luts : display LUT that each site's images of ``folders`` pass through
    archives : by site, for ``archives``; others than those of ``sites`` are left alone
    divide : the one archive named ``whole`` becomes all sites by this rule
    """

    kind: Literal["synthetic", "folders", "archives"]
    root: str
    prepared: str
    sites: tuple[str, ...]
    workers: int = 2
    seed: int = 0
    patients: int | None = None
    rows: int = 512
    columns: int = 256
    lesions: bool = True
    tomosynthesis: bool = False
    importer: dict[str, Any] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    luts: dict[str, dict[str, Any]] = field(default_factory=dict)
    archives: dict[str, Archive] = field(default_factory=dict)
    divide: Division | None = None

    @property
    def taking_part(self) -> tuple[str, ...]:
        """Return the hospitals of the federation."""
        return tuple(site for site in self.sites if site not in self.leave_out)

    @model_validator(mode="after")
    def _divides_archives_only(self) -> DataSettings:
        if self.divide is not None and self.kind != "archives":
            raise ValueError("divide needs data=archives with an archive named whole")
        return self


@dataclass(frozen=True, config=_STRICT)
class Settings:
    """One experiment; see ``configs/simulation.yaml`` for each field's meaning."""

    name: str
    title: str
    arms: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    rates: tuple[Annotated[float, Field(gt=0)], ...]
    compare: tuple[str, ...]
    cross_site: bool
    run_dir: str
    start_file: str | None
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(gt=0)] | None
    backend: Literal["in_process", "ray", "deployed"]
    extra_test: int
    keep_source: str | None
    data: DataSettings
    parallel: Annotated[int, Field(gt=0)] = 1
    dump: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.run_dir)


_SETTINGS = TypeAdapter(Settings)


def settings_of(tree: dict[str, Any]) -> Settings:
    """Check the part of a composed tree that is not the plan.

    Raises
    ------
    PlanError
        Naming each field that is wrong.
    """
    try:
        settings = _SETTINGS.validate_python(
            {key: value for key, value in tree.items() if key != "plan"}
        )
        check_arms(settings.arms)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise PlanError(
            "The settings are not valid:\n  " + "\n  ".join(lines)
        ) from None
    except ValueError as error:
        raise PlanError(str(error)) from None
    if settings.extra_test and settings.arms != ("pooled",):
        raise PlanError("extra_test measures the pooled arm: arms=[pooled]")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise PlanError("seeds has one twice")
    if len({f"{rate:g}" for rate in settings.rates}) < len(settings.rates):
        raise PlanError("rates has one twice, to six digits")
    if settings.dump and settings.backend != "in_process":
        raise PlanError(
            "dump=true needs backend=in_process; a hospital types mammo-client audit "
            "egress"
        )
    if settings.backend in ("ray", "deployed"):  # has processes of its own
        settings = replace(settings, parallel=1)
    if unknown := set(settings.compare) - set(settings.arms):
        raise PlanError(f"compare names {', '.join(sorted(unknown))}, not in arms")
    # As a file would give them back: claims and processes compare what they read.
    return settings_from_json(settings_to_json(settings))


def settings_to_json(settings: Settings) -> bytes:
    """Write settings down for `settings_from_json`."""
    return json.dumps(asdict(settings), indent=2).encode()


def settings_from_json(content: bytes) -> Settings:
    """Read settings that `settings_to_json` wrote.

    Raises
    ------
    ValidationError
        If a field is missing, unknown or wrong.
    """
    return _SETTINGS.validate_json(content)


def check_together(settings: Settings, plan: Plan) -> None:
    """Refuse a plan whose values the arms would silently replace, or no term takes.

    Raises
    ------
    PlanError
        Naming the setting to use instead.
    """
    if plan.roster.sites != settings.data.taking_part:
        raise PlanError(
            "plan.roster.sites must be data.sites less data.leave_out; set those and "
            "leave the roster alone"
        )
    if settings.data.leave_out and not settings.cross_site:
        raise PlanError("data.leave_out needs cross_site=true, which shows its images")
    if any(stage.sharing != "fedbn_head" for stage in plan.stages):
        raise PlanError(
            "in a simulation the arm decides what is shared: use arms=[...], for "
            "example arms=[fedbn,slsl], and leave sharing alone"
        )
    for stage in plan.stages:
        check_objective(stage.objective)
    if plan.seed != 0:
        raise PlanError("set seeds=[...] instead of plan.seed")


def claim_folder(settings: Settings, plan: Plan) -> bool:
    """Make a run folder ours, or find that it already is.

    Returns
    -------
    True where it holds a part of this very experiment.

    Raises
    ------
    PlanError
        If it holds another experiment, or files of something else.
    """
    folder = settings.folder
    leftovers = {path.name for path in folder.glob("*")} - {".lock", _PLAN}
    if (folder / _FILE).is_file():
        before, earlier = read_folder(folder)
        now = asdict(settings)
        changed = [
            key
            for key, value in asdict(before).items()
            if key not in _LOCAL and _comparable(value) != _comparable(now[key])
        ]
        if earlier.hash != plan.hash:
            changed.append(f"plan ({earlier.hash[:12]}, now {plan.hash[:12]})")
        if changed:
            raise PlanError(
                f"{folder} holds another run; different: {', '.join(changed)}. "
                "Nothing was changed. Choose another folder with run_dir=..., "
                "or delete this one."
            )
        return True
    if leftovers:
        raise PlanError(
            f"{folder} is not empty and no run of ours; choose another run_dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / _PLAN, plan_to_json(plan))
    write_atomic(folder / _FILE, settings_to_json(settings))
    return False


def _comparable(value: object) -> object:
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if key != "workers"}
    return value


def read_folder(folder: Path) -> tuple[Settings, Plan]:
    """Read what a run folder was claimed for.

    Raises
    ------
    PlanError
        If there is no run in it.
    """
    if not (folder / _FILE).is_file():
        raise PlanError(f"No run in {folder}: it has no {_FILE}")
    try:
        settings = settings_from_json((folder / _FILE).read_bytes())
    except ValidationError:
        raise PlanError(
            f"{folder / _FILE} was edited, or written by another version of mammofed"
        ) from None
    return settings, plan_from_json((folder / _PLAN).read_bytes())
