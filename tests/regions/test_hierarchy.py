"""Regions of the whole scene against one hierarchy of all its seeds, and numpy."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
import torch
from rasterio import features
from scipy import ndimage

from hook.errors import ConfigError, HookError, SceneError
from hook.regions import RegionRequest, extract_regions, hierarchy
from hook.scenes.cluster import connect, on_cluster
from hook.tokenizers.hierarchy import merge_seeds, refine_borders

CLASSES = ("field", "road", "water")
OPTIONS = {"window": 32, "batch_size": 3, "progress": False}


@pytest.fixture(scope="module")
def models():
    """The module of functions of windows, which other processes import too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(Path(__file__).parent)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder)
        yield importlib.import_module("region_models")


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.random((4, 131, 97)), (0, 4, 4))
    values = ((noise - noise.min()) / np.ptp(noise) * 254 + 1).astype(np.uint8)
    values[:, 20:50, 60:] = 0  # nodata, over several windows and parts of seeds
    values[:, 90, 10] = 0
    values[2, 100:110, 5:40] = 0  # nodata in one band
    return values


@pytest.fixture
def scene(write_scene, values):
    return write_scene(values, nodata=0, photometric="minisblack")


def run(function, scene, output, fingerprint=None, run_blocks=None, refine=False, **options):
    request = RegionRequest(scene, output, **OPTIONS | options)
    keywords = dict(fingerprint=fingerprint, run_blocks=run_blocks, band_names="abcd")
    keywords["refine"] = refine
    return extract_regions(function, request, embed_dims=8, class_names=CLASSES, **keywords)


def seeds_of(models, values):
    """Mean colours (h, w, 4) of the seeds of the scene, and those with data (h, w)."""
    missing = (0, -values.shape[1] % 4), (0, -values.shape[2] % 4)
    padded = np.pad(values, ((0, 0), *missing), mode="symmetric")
    seeds = models.colours(padded[None], (padded != 0).all(axis=0)[None]).seeds[0]
    covered = np.pad((values != 0).any(axis=0), missing)
    return torch.from_numpy(seeds), models.mean_cells(covered.astype(float)) > 0


def raster_of(table, scene):
    """(H, W) row of the table at each pixel, -1 for none."""
    with rasterio.open(scene) as source:
        shapes = zip(table.geometry, range(len(table)), strict=True)
        return features.rasterize(
            shapes, source.shape, fill=-1, transform=source.transform, dtype="int32"
        )


def refined(regions, values):
    """(H, W) regions after refinement of the whole scene in one piece."""
    valid = (values != 0).all(axis=0)
    known = values[:, valid].astype(float)
    mean, deviation = known.mean(axis=1), known.std(axis=1)
    image = (values - mean[:, None, None]) / deviation[:, None, None]
    means = np.zeros((regions.max() + 1, len(values)))
    for number in range(len(means)):
        inside = valid & (regions == number)
        if inside.any():
            means[number] = image[:, inside].mean(axis=1)
    image[:, ~valid] = means[regions[~valid]].T
    parts = (torch.from_numpy(part)[None] for part in (regions, image.astype(np.float32)))
    means = torch.from_numpy(means.astype(np.float32))[None]
    found = refine_borders(*parts, means=means)[0].numpy()
    assert (found != regions).mean() > 0.02
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 3000.0},
        {"regions_per_km2": 12_000.0},
        {"scale": 3000.0, "refine": True},
        {"regions_per_km2": 40_000.0, "refine": True},
    ],
)
def test_regions_are_those_of_one_hierarchy_whatever_the_window(
    models, scene, values, tmp_path, options
):
    seeds, known = seeds_of(models, values)
    merged = merge_seeds(seeds[None], torch.from_numpy(known)[None])
    covered = (values != 0).any(axis=0)
    count = round(options.get("regions_per_km2", 0) * covered.sum() * 0.25e-6)
    wanted = merged.cut_at_cost(3000.0) if "scale" in options else merged.cut(count)
    wanted = wanted[0].numpy().repeat(4, axis=0).repeat(4, axis=1)[:131, :97]
    wanted = np.where(covered, wanted, -1)
    if "refine" in options:
        wanted = refined(wanted, values)
    contents = []
    for further in ({}, {"overlap": 0}, {"window": 48}, {"window": 256}):
        out = tmp_path / f"{len(contents)}.parquet"
        report = run(models.colours, scene, out, **options, **further)
        table = geopandas.read_parquet(out).sort_values("token_id", ignore_index=True)
        assert len(table) == report.regions == wanted.max() + 1 > 15
        np.testing.assert_array_equal(raster_of(table, scene), wanted)
        assert report.pixels == covered.sum()
        fields = table.drop(columns=["window_id", "geometry", "embedding"])
        contents.append((fields, np.stack(table.embedding), table.geometry))
    for fields, embeddings, polygons in contents[1:]:
        pandas.testing.assert_frame_equal(fields, contents[0][0])
        np.testing.assert_allclose(embeddings, contents[0][1], rtol=1e-5, atol=1e-4)
        assert polygons.geom_equals(contents[0][2]).all()


@pytest.mark.parametrize("refine", [False, True])
def test_fields_are_those_of_numpy(models, scene, values, tmp_path, refine):
    run(models.colours, scene, tmp_path / "r.parquet", scale=3000.0, refine=refine)
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    assert shapely.coverage_is_valid(table.geometry.to_numpy()) and table.is_valid.all()
    valid = (values != 0).all(axis=0)
    seeds = seeds_of(models, values)[0].numpy().repeat(4, axis=0).repeat(4, axis=1)[:131, :97]
    scores = models.colours(values[None, :, :128, :96], valid[None, :128, :96]).pixel_scores[0]
    raster = raster_of(table, scene)
    regions = np.unique(raster[:128, :96])
    assert len(regions) > 15
    for row in table.itertuples():
        mask = raster == row.Index
        assert row.pixels == mask.sum() and row.area_m2 == mask.sum() * 0.25
        framed = np.pad(mask, 1)
        edges = (framed[1:] != framed[:-1]).sum() + (framed[:, 1:] != framed[:, :-1]).sum()
        assert row.perimeter_m == 0.5 * edges
        inside = mask & valid
        if not inside.any():
            assert np.isnan(row.mean_a) and not np.any(row.embedding)
            continue
        for band, name in zip(values, "abcd", strict=True):
            assert getattr(row, f"mean_{name}") == pytest.approx(band[inside].mean())
            assert getattr(row, f"std_{name}") == pytest.approx(band[inside].std(), abs=1e-3)
        expected = np.concatenate([seeds[inside].mean(axis=0), seeds[inside].std(axis=0)])
        # Seeds are stored in half precision.
        np.testing.assert_allclose(row.embedding, expected, rtol=1e-3, atol=0.2)
        if not mask[128:].any() and not mask[:, 96:].any():
            chances = scores[:, mask[:128, :96]]
            votes = np.bincount(chances.argmax(axis=0), minlength=3)
            assert row.class_id == votes.argmax() and row.class_name == CLASSES[row.class_id]
            assert row.score == pytest.approx(chances[row.class_id].mean(), rel=1e-5)


def test_blocks_do_not_cut_regions(models, scene, values, tmp_path, monkeypatch):
    """In blocks of few rows: exact counts, nested and connected regions, almost as homogeneous."""
    seeds, known = seeds_of(models, values)

    def within(regions):
        groups = (seeds[torch.from_numpy((regions == n) & known)] for n in range(regions.max() + 1))
        return float(sum(((group - group.mean(dim=0)) ** 2).sum() for group in groups))

    whole = {n: merge_seeds(seeds[None], torch.from_numpy(known)[None]).cut(n) for n in (12, 40)}
    monkeypatch.setattr(hierarchy, "_BLOCK_SEEDS", 1)
    monkeypatch.setattr(hierarchy, "_BLOCK_ROWS", 7)
    area = (values != 0).any(axis=0).sum() * 0.25e-6
    found = {}
    for count in whole:
        out = tmp_path / f"{count}.parquet"
        run(models.colours, scene, out, regions_per_km2=count / area)
        table = geopandas.read_parquet(out)
        assert len(table) == count and table.token_id.is_unique
        found[count] = raster_of(table, scene)
        cells = np.pad(found[count], ((0, 1), (0, 3)), mode="edge")
        regions = cells.reshape(33, 4, 25, 4).max(axis=(1, 3))
        assert within(regions) < 1.05 * within(whole[count][0].numpy())
        assert all(ndimage.label(regions == n)[1] == 1 for n in range(count))
        assert (regions[6::7][:4] == regions[7::7][:4]).mean() > 0.5  # across borders of blocks
    pairs = np.unique(np.stack([found[40].ravel(), found[12].ravel()]), axis=1)
    assert pairs.shape[1] == 40 + 1  # each region lies within one of the coarser, and no data


def test_windows_of_different_surroundings_leave_no_edge(
    models, write_scene, tmp_path, monkeypatch
):
    """Where windows overlap, their features change over linearly."""
    values = np.random.default_rng(3).integers(1, 255, (4, 100, 131)).astype(np.uint8)
    scene = write_scene(values, photometric="minisblack")
    blocks = []

    def merge(features, *arguments, original=hierarchy._merge_block):
        blocks.append(features.copy())
        return original(features, *arguments)

    def of_windows(windows, valid):
        means = windows.reshape(len(windows), -1).mean(axis=1).astype(np.float32)
        answer = models.colours(windows, valid)
        grouping = np.broadcast_to(means[:, None, None, None], (*answer.seeds.shape[:3], 1))
        return answer._replace(grouping=grouping)

    monkeypatch.setattr(hierarchy, "_merge_block", merge)
    run(of_windows, scene, tmp_path / "r.parquet", overlap=16, scale=1.0)
    (features,) = blocks
    steps = max(np.abs(np.diff(features, axis=axis)).max() for axis in (0, 1))
    assert 0 < steps < 0.3 * np.ptp(features)


KILLED = """
import sys
from region_models import KillAfter, colours
from hook.regions import RegionRequest, extract_regions

request = RegionRequest(sys.argv[1], sys.argv[2], window=32, batch_size=2, block_windows=8,
                        regions_per_km2=9e3, resume=True, progress=False)
function = KillAfter(int(sys.argv[3]), colours)
extract_regions(function, request, embed_dims=8, class_names=["a", "b", "c"], refine=True)
"""


def test_a_killed_run_goes_on_with_the_same_bytes(models, scene, tmp_path):
    name = "r.gpkg"

    def start(output, batches):
        command = [sys.executable, "-c", KILLED, str(scene), str(output), str(batches)]
        return subprocess.run(command, timeout=120).returncode

    (tmp_path / "whole").mkdir()
    assert start(tmp_path / "whole" / name, 10**6) == 0
    for _ in range(2):
        assert start(tmp_path / name, 6) == -signal.SIGKILL
    assert list((tmp_path / f".{name}.unfinished").glob("*.done"))
    assert start(tmp_path / name, 10**6) == 0
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_two_workers_give_the_same_bytes(models, scene, tmp_path):
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    (notes := tmp_path / "notes").mkdir()
    options = {"block_windows": 4, "scale": 2000.0, "refine": True}
    run(models.colours, scene, tmp_path / "one.parquet", **options)
    with connect("local", 2) as client:
        make = models.MakeTokenizer(notes, models.colours)
        blocks = on_cluster(client, make, "colours", ["a", "b"])
        run(None, scene, tmp_path / "two.parquet", run_blocks=blocks, **options)
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 32)])
@pytest.mark.parametrize(
    "options", [{"scale": 1e9}, {"regions_per_km2": 1e9}, {"regions_per_km2": 1e9, "refine": True}]
)
def test_scenes_of_any_size(models, write_scene, tmp_path, size, options):
    values = np.random.default_rng(2).integers(1, 255, (4, *size)).astype(np.uint8)
    scene = write_scene(values, photometric="minisblack")
    report = run(models.colours, scene, tmp_path / "r.parquet", **options)
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    assert report.pixels == table.pixels.sum() == size[0] * size[1]
    seeds = -(-size[0] // 4) * -(-size[1] // 4)
    assert len(table) == (1 if "scale" in options else seeds)


def test_a_scene_without_any_data(models, write_scene, tmp_path):
    scene = write_scene(np.zeros((4, 40, 70), np.uint8), nodata=0, photometric="minisblack")
    for options in ({"scale": 1.0}, {"regions_per_km2": 1.0}, {"scale": 1.0, "refine": True}):
        report = run(models.colours, scene, tmp_path / "r.gpkg", overwrite=True, **options)
        assert (report.regions, report.pixels) == (0, 0)
        assert "embedding" in geopandas.read_file(tmp_path / "r.gpkg").columns


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (dict(scale=1.0, merge=True), "merge and scale exclude each other"),
        (dict(scale=1.0, explode=True), "explode and scale exclude each other"),
        (dict(scale=1.0, regions_per_km2=1.0), "regions_per_km2 and scale exclude each other"),
        (dict(regions_per_km2=1.0, merge=True), "merge and regions_per_km2 exclude"),
        (dict(scale=0), "scale=0"),
        (dict(scale="x"), "scale='x'"),
        (dict(regions_per_km2=float("nan")), "regions_per_km2=nan"),
        (dict(scale=1.0, window=50), "window=50"),
        (dict(refine=True), "refine is for regions of the whole scene"),
    ],
)
def test_options_that_exclude_each_other(models, scene, tmp_path, options, found):
    with pytest.raises(ConfigError, match=found):
        run(models.colours, scene, tmp_path / "r.gpkg", **options)
    assert not list(tmp_path.glob("*r.gpkg*"))


@pytest.mark.filterwarnings("ignore:.*not georeferenced")
def test_a_number_per_area_needs_areas(models, write_scene, values, tmp_path):
    scene = write_scene(values, crs=None, transform=None, photometric="minisblack")
    with pytest.raises(SceneError, match="regions_per_km2 cannot be counted"):
        run(models.colours, scene, tmp_path / "r.gpkg", regions_per_km2=10)


def test_impossible_seeds(models, scene, tmp_path):
    def answers(**changes):
        return lambda *windows: models.colours(*windows)._replace(**changes)

    for changes, found in (
        ({"seeds": np.zeros((3, 8, 8, 5))}, "seeds\n  expected: finite numbers of shape"),
        ({"grouping": np.full((3, 8, 8, 2), np.nan)}, "NaN or infinity"),
        ({"pixel_scores": None}, "pixel_scores"),
    ):
        with pytest.raises(HookError, match=found):
            run(answers(**changes), scene, tmp_path / "r.gpkg", scale=1.0)
