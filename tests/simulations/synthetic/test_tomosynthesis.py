"""Volumes of the synthetic consortium: beside the mammograms, never instead."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.data.dataset import TEST, TRAIN, VALIDATION, build_dataset
from client.data.manifest import read_linkage, read_manifest
from client.data.site_data import import_site, prepare_site
from common.canonical import sha256_of_file
from common.plan import Preprocessing
from simulations.synthetic.generate import generate
from simulations.synthetic.profiles import FEDERATION
from simulations.synthetic.render import draw_views, make_grid, render_patient
from simulations.synthetic.tomosynthesis import SLICES, object_names, render_volume
from tests.support.hospitals import small_plan

NORTH, HARBOUR, LAKESIDE = FEDERATION[:3]
SITES = (NORTH, HARBOUR)


def make(root: Path, **changes) -> Path:
    arguments = {"seed": 1, "patients_per_site": 4, "rows": 64, "columns": 64}
    generate(root, **{**arguments, "sites": SITES, "workers": 1, **changes})
    return root


def content(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): sha256_of_file(path) for path in files}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("with"), tomosynthesis=True)


@pytest.fixture(scope="module", params=[NORTH, HARBOUR], ids=lambda p: p.site)
def rows(request, archive, tmp_path_factory) -> pd.DataFrame:
    """Manifest and linkage of one site, with its folder and archive as attributes."""
    folder = tmp_path_factory.mktemp("imported")
    root = archive / request.param.site
    import_site("synthetic", root, folder, request.param.site)
    table = read_manifest(folder).merge(read_linkage(folder), on="row_id")
    table.attrs = {"folder": str(folder), "root": str(root)}
    return table


def test_everything_written_without_stays_the_same(archive, tmp_path):
    before, after = content(make(tmp_path)), content(archive)
    for site in ("north", "harbour"):
        for name in ("site.json", "truth.csv"):
            assert before.pop(f"{site}/{name}") != after.pop(f"{site}/{name}")
        roots = (tmp_path, archive)
        truths = [pd.read_csv(root / site / "truth.csv") for root in roots]
        kept = truths[1][truths[1].sop_instance_uid.isin(truths[0].sop_instance_uid)]
        pd.testing.assert_frame_equal(kept.reset_index(drop=True), truths[0])
    assert before.items() <= after.items()
    added = after.keys() - before.keys()
    assert len(added) == 2 * 4 * (2 + 1 + SLICES)  # patients 0 and 3 of each site
    assert {name.split("/")[1] for name in added} == {"P0000", "P0003"}


def test_a_folder_with_tomosynthesis_is_another(archive, tmp_path):
    with pytest.raises(ValueError, match="other tomosynthesis"):
        make(archive)
    with pytest.raises(ValueError, match="other tomosynthesis"):
        make(make(tmp_path), tomosynthesis=True)


def test_new_files_are_what_they_look_like_and_of_the_same_breast(rows):
    assert set(rows["status"]) == {"ok"} and rows["reason"].isna().all()
    name = rows["source_path"].str.extract(r"[LR]_(?:CC|MLO)_?([a-z0-9]*)\.dcm")[0]
    kinds = {"synth2d": "SYNTH2D", "": "FFDM"}
    expected = [kinds.get(word, "DBT") for word in name]
    assert list(rows["modality_kind"]) == expected
    assert rows["voi_applied"].nunique() == 1 and rows["vendor"].nunique() == 1
    facts = ["view", "laterality", "patient_key", "exam_key", "breast_key"]
    facts += ["cancer_pathology", "pathology_class", "density", "age_years"]
    image = rows["source_path"].str.extract(r"(P\d+/[LR]_(?:CC|MLO))")[0]
    assert (rows.groupby(image)[facts].nunique(dropna=False) == 1).all().all()
    volumes = rows[rows["modality_kind"] == "DBT"]
    assert volumes["volume_key"].nunique() == 8
    assert volumes.groupby("volume_key")["frames"].sum().eq(SLICES).all()


@pytest.mark.parametrize(("tomosynthesis", "images"), [("slab", 8), ("slices", 32)])
def test_a_plan_with_tomosynthesis_prepares_and_reads(rows, tomosynthesis, images):
    wanted = Preprocessing(
        modalities=("DBT",),
        tomosynthesis=tomosynthesis,
        slices=4,
        rows=32,
        columns=16,
    )
    folder, root = Path(rows.attrs["folder"]), Path(rows.attrs["root"])
    snapshot = prepare_site(folder, root, wanted)
    assert len(snapshot) == images
    plan = small_plan(preprocessing=wanted)
    dataset = build_dataset({"site": snapshot}, plan, required=())
    parts = [dataset.select(part) for part in (TRAIN, VALIDATION, TEST)]
    chosen = np.sort(np.concatenate(parts))
    assert list(chosen) == list(range(images))
    read = dataset.pixels(chosen)
    assert len(np.unique(read.reshape(images, -1), axis=0)) == images
    np.testing.assert_array_equal(read, snapshot.read(chosen))


def test_the_default_plan_sees_mammograms_only(rows):
    folder, root = Path(rows.attrs["folder"]), Path(rows.attrs["root"])
    snapshot = prepare_site(folder, root, Preprocessing(rows=32, columns=16))
    assert set(snapshot.rows["modality_kind"]) == {"FFDM"}
    assert len(snapshot) == 16


def test_some_patients_have_tomosynthesis_and_one_site_stores_slices():
    assert [bool(object_names(NORTH, index)) for index in range(4)] == [
        *(True, False, False, True)
    ]
    assert len(object_names(NORTH, 0)) == 2
    assert len(object_names(HARBOUR, 0)) == 1 + SLICES


def shown(stored: np.ndarray, profile) -> np.ndarray:
    return profile.top - stored.astype(int) if profile.monochrome1 else stored


@pytest.mark.parametrize("profile", [NORTH, LAKESIDE], ids=lambda p: p.site)
def test_the_maximum_over_slices_looks_like_the_mammogram(profile):
    view = draw_views(profile, 1, 0)[1]
    grid = make_grid(profile, 128, 64)
    volume, flat = render_volume(profile, 1, 0, view, grid)
    mammogram = render_patient(profile, 1, 0, 128, 64)[view.laterality, view.view]
    plain = shown(mammogram, profile)
    assert volume.shape == (SLICES, 128, 64) and volume.dtype == np.uint16
    for image in (volume.max(axis=0), shown(flat, profile)):
        assert np.corrcoef(image.ravel(), plain.ravel())[0, 1] > 0.9


def test_a_finding_is_bright_in_a_few_neighbouring_slices():
    grid = make_grid(NORTH, 256, 128)
    index = next(
        index
        for index in range(0, 60, 3)
        if len(draw_views(NORTH, 1, index)[0].findings) == 1
    )
    view = draw_views(NORTH, 1, index)[0]
    with_it, _ = render_volume(NORTH, 1, index, view, grid)
    without, _ = render_volume(NORTH, 1, index, view, grid, with_lesions=False)
    added = (with_it.astype(int) - without).sum(axis=(1, 2))
    top = int(added.argmax())
    assert 2 <= top <= SLICES - 3
    order = np.abs(np.arange(SLICES) - top)
    assert added[order > 4].max(initial=0) < 0.05 * added[top]
    assert added[order == 1].min() > 0.5 * added[top]
