"""Virtual hospitals: images on disk become prepared snapshots, one folder per site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from client.data.cache import CacheError, Snapshot, open_snapshot
from client.data.site_data import IMPORT_FILE, import_site, prepare_site
from common.canonical import canonical_json, sha256_hex, sha256_of_file
from common.plan import Plan, PlanError
from common.progress import Bar, View
from simulations.division import divide_snapshot
from simulations.partition import divide_folder
from simulations.settings import Archive, DataSettings
from simulations.synthetic.generate import generate
from simulations.synthetic.profiles import ALL_SITES, SiteProfile

WHOLE = "whole"
"""Name of the archive that ``data.divide`` divides."""


def prepare_sites(
    data: DataSettings, plan: Plan, view: View
) -> tuple[dict[str, Snapshot], bool]:
    """Make, import and prepare every hospital's images; what is done is only opened.

    Returns
    -------
    Snapshots by site, in the order of the settings; True for synthetic images.
    """
    if data.kind == "archives" and data.divide is not None:
        whole = _prepare(_described(data, WHOLE), WHOLE, data, plan, view)
        parts = divide_snapshot(whole, data.divide, data.sites, data.seed)
        return parts, _described(data, WHOLE).importer == "synthetic"
    archives = _archives(data, view)
    snapshots = {
        site: _prepare(archive, site, data, plan, view)
        for site, archive in archives.items()
    }
    return snapshots, any(a.importer == "synthetic" for a in archives.values())


def _archives(data: DataSettings, view: View) -> dict[str, Archive]:
    """Find or make the archive of every hospital."""
    match data.kind:
        case "synthetic":
            synthesise(data, view)
            return {
                site: Archive("synthetic", f"{data.root}/{site}") for site in data.sites
            }
        case "folders":
            return {
                site: Archive("image_folder", str(folder), dict(data.importer))
                for site, folder in divide_folder(data, view).items()
            }
        case "archives":
            return {site: _described(data, site) for site in data.sites}


def _described(data: DataSettings, name: str) -> Archive:
    if name not in data.archives:
        raise PlanError(
            f"no archive {name}: data.archives describes "
            f"{', '.join(sorted(data.archives)) or 'none'}"
        )
    return data.archives[name]


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
            tomosynthesis=data.tomosynthesis,
            progress=lambda site, done, total: bar.move(done, total),
            **optional,
        )
    except ValueError as error:
        raise PlanError(str(error)) from None


def _prepare(
    archive: Archive,
    site: str,
    data: DataSettings,
    plan: Plan,
    view: View,
) -> Snapshot:
    """Import and prepare one site into a folder named after its archive."""
    identity = sha256_hex(_identity(archive, data).encode())[:8]
    root = Path(archive.root)
    folder = Path(data.prepared).resolve() / f"{site}-{identity}"
    if (folder / IMPORT_FILE).is_file():
        try:
            return open_snapshot(folder, plan.preprocessing)
        except CacheError:
            pass  # not prepared for this plan yet: prepare below, which says why not
    with view.bar(f"reading {site}", 1) as bar:
        import_site(
            archive.importer,
            root,
            folder,
            site,
            archive.options,
            secret=_secret(archive.importer, data, site),
            synthetic=archive.importer != "hospital",
            workers=data.workers,
            progress=bar.move,
        )
    with view.bar(f"preparing {site}", 1) as bar:
        return prepare_site(
            folder,
            root,
            plan.preprocessing,
            workers=data.workers,
            progress=bar.move,
        )


def _secret(importer: str, data: DataSettings, site: str) -> bytes | None:
    """Derive a virtual hospital's secret, so that its split is the same everywhere.

    That is for public data, whose identifiers are no secret. A synthetic archive brings
    its own. A hospital's export gets one that is drawn and stays in its folder: from a
    derived one anybody with a list of UIDs could tell who is who.
    """
    if importer in ("synthetic", "hospital"):
        return None
    text = f"mammofed virtual hospital {data.seed} {site}"
    return bytes.fromhex(sha256_hex(text.encode()))


def _identity(archive: Archive, data: DataSettings) -> str:
    """Identify an archive by our own description of it, else by where it is."""
    root = Path(archive.root)
    for name in ("site.json", "division.json"):
        if (root / name).is_file():
            return sha256_of_file(root / name)
    document: dict[str, object] = asdict(archive) | {
        "root": str(root.resolve()),
        "seed": data.seed,  # of the pseudonyms
    }
    table = archive.options.get("table")
    file = root / str(table.get("file", "")) if isinstance(table, dict) else root
    if file.is_file():  # a corrected label table is another archive
        document["table"] = sha256_of_file(file)
    return canonical_json(document).decode()
