"""Virtual hospitals: images on disk become prepared snapshots, one folder per site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.data.cache import CacheError, Snapshot, open_snapshot
from client.data.site_data import IMPORT_FILE, import_site, prepare_site
from common.canonical import sha256_hex, sha256_of_file
from common.plan import Plan, PlanError
from simulations.partition import divide_folder
from simulations.progress import Bar, View
from simulations.settings import DataSettings
from simulations.synthetic.generate import generate
from simulations.synthetic.profiles import ALL_SITES, SiteProfile


def prepare_sites(
    data: DataSettings, plan: Plan, view: View
) -> tuple[dict[str, Snapshot], bool]:
    """Make, import and prepare every hospital's images; what is done is only opened.

    Returns
    -------
    Snapshots by site, in the order of the settings; True for synthetic images.
    """
    if data.kind == "synthetic":
        synthesise(data, view)
        archives = {site: Path(data.root) / site for site in data.sites}
        importer, options = "synthetic", {}
    else:
        archives = divide_folder(data, view)
        importer, options = "image_folder", dict(data.importer)
    snapshots = {
        site: _prepare(importer, archive, site, options, data, plan, view)
        for site, archive in archives.items()
    }
    return snapshots, data.kind == "synthetic"


def synthesise(data: DataSettings, view: View) -> None:
    """Write the synthetic consortium, or what is missing of it."""
    by_name = {profile.site: profile for profile in ALL_SITES}
    if unknown := set(data.sites) - set(by_name):
        raise PlanError(
            f"data.sites names {', '.join(sorted(unknown))}; the synthetic consortium "
            f"has {', '.join(by_name)}"
        )
    root = Path(data.root)
    todo = [site for site in data.sites if not (root / site / "site.json").is_file()]
    optional = {} if data.patients is None else {"patients_per_site": data.patients}
    for site in data.sites:
        with view.bar(f"synthetic DICOM of {site}", 1, quiet=site not in todo) as bar:
            _generate(root, by_name[site], data, optional, bar)


def _generate(
    root: Path,
    profile: SiteProfile,
    data: DataSettings,
    optional: Mapping[str, int],
    bar: Bar,
) -> None:
    """Generate one site; one that stands is checked against the parameters only."""
    try:
        generate(
            root,
            seed=data.seed,
            rows=data.rows,
            columns=data.columns,
            sites=[profile],
            workers=data.workers,
            lesions=data.lesions,
            progress=lambda site, done, total: bar.move(done, total),
            **optional,
        )
    except ValueError as error:
        raise PlanError(str(error)) from None


def _prepare(
    importer: str,
    archive: Path,
    site: str,
    options: Mapping[str, object],
    data: DataSettings,
    plan: Plan,
    view: View,
) -> Snapshot:
    """Import and prepare one site into a folder named after its archive's content."""
    identity = sha256_hex(_identity(archive).encode())[:8]
    folder = Path(data.prepared).resolve() / f"{site}-{identity}"
    if (folder / IMPORT_FILE).is_file():
        try:
            return open_snapshot(folder, plan.preprocessing)
        except CacheError:
            pass  # not prepared for this plan yet: prepare below, which says why not
    with view.bar(f"preparing {site}", 1) as bar:
        bar.move(0, 1, "reading headers")
        import_site(
            importer,
            archive,
            folder,
            site,
            options,
            secret=_secret(importer, data, site),
            synthetic=True,
        )
        return prepare_site(
            folder,
            archive,
            plan.preprocessing,
            workers=data.workers,
            progress=bar.move,
        )


def _secret(importer: str, data: DataSettings, site: str) -> bytes | None:
    """Derive a virtual hospital's secret, so that its split is the same everywhere.

    A synthetic archive brings its own. A real hospital draws one and never shares it.
    """
    if importer == "synthetic":
        return None
    text = f"mammofed virtual hospital {data.seed} {site}"
    return bytes.fromhex(sha256_hex(text.encode()))


def _identity(archive: Path) -> str:
    """Identify an archive by its description: site.json, or the table of a division."""
    for name in ("site.json", "division.json"):
        if (archive / name).is_file():
            return sha256_of_file(archive / name)
    raise PlanError(f"{archive} is no archive that mammo-sim made")
