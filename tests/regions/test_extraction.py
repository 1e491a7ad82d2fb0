"""Token regions against numpy, rasterio and shapely on the whole scene."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import geopandas
import networkx
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import features
from scipy import ndimage

from hook.errors import HookError, SceneError
from hook.regions import RegionRequest, TokenBatch, extract_regions, layer
from hook.regions.plan import pool_seeds
from hook.scenes import WindowGrid
from hook.scenes.cluster import connect, on_cluster
from hook.scenes.reader import AreaOfInterest

CLASSES = ("field", "road", "water")
PIXEL = 0.25  # square metres


@pytest.fixture(scope="module")
def models():
    """The module of tokenizers, which other processes import too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(Path(__file__).parent)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder)
        yield importlib.import_module("region_models")


def smooth(rng, shape, top=256):
    """Random values with regions of some size."""
    noise = ndimage.gaussian_filter(rng.random(shape), (0, 3, 3))
    low, high = noise.min(), noise.max()
    return ((noise - low) / (high - low) * (top - 1)).astype(np.uint8)


@pytest.fixture
def values():
    values = smooth(np.random.default_rng(0), (4, 131, 97)).clip(1)
    values[:, 20:50, 60:] = 0  # nodata, over several windows
    values[:, 90, 10] = 0
    values[2, 100:110, 5:40] = 0  # nodata in one band
    return values


@pytest.fixture
def scene(write_scene, values):
    return write_scene(values, nodata=0, photometric="minisblack")


OF_MODEL = {
    "embed_dims": 3,
    "class_names": CLASSES,
    "band_names": ("red", "green", "blue", "nir"),
    "fingerprint": None,
    "run_blocks": None,
}
OPTIONS = {"window": 32, "batch_size": 3, "progress": False}


def run(tokenize, scene, output, *, merge=None, **options):
    known = {name: options.pop(name, usual) for name, usual in OF_MODEL.items()}
    if merge is not None:
        options |= dict(merge=True, merge_threshold=merge)
    return extract_regions(tokenize, RegionRequest(scene, output, **OPTIONS | options), **known)


def windows_of_pixels(grid):
    """(H, W) number of the window whose centre is nearest, the later of equals."""

    def nearest(offsets, size):
        centres = np.array(offsets) + grid.window / 2
        distance = np.abs(np.arange(size)[:, None] + 0.5 - centres)
        return len(offsets) - 1 - distance[:, ::-1].argmin(axis=1)

    rows = nearest(grid.row_offs, grid.height)
    return rows[:, None] * len(grid.col_offs) + nearest(grid.col_offs, grid.width)


def perimeter(mask):
    framed = np.pad(mask, 1)
    return 0.5 * ((framed[1:] != framed[:-1]).sum() + (framed[:, 1:] != framed[:, :-1]).sum())


def traced(mask, transform):
    shapes = features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4, transform=transform)
    return shapely.union_all([shapely.geometry.shape(geometry) for geometry, _ in shapes])


@pytest.mark.parametrize("explode", [False, True])
@pytest.mark.parametrize("overlap", [0, 0.25, 13])
def test_regions_are_those_of_numpy(models, scene, values, tmp_path, overlap, explode):
    out = tmp_path / "regions.parquet"
    report = run(models.by_value, scene, out, overlap=overlap, explode=explode)
    table = geopandas.read_parquet(out)
    grid = WindowGrid(131, 97, 32, overlap)
    place = windows_of_pixels(grid)
    covered = (values != 0).any(axis=0)
    valid = (values != 0).all(axis=0)
    transform = rasterio.open(scene).transform
    expected = []
    for number, window in enumerate(grid):
        rows = slice(window.row_off, window.row_off + 32)
        columns = slice(window.col_off, window.col_off + 32)
        answer = models.by_value(values[None, :, rows, columns], None)
        owners = np.full(covered.shape, -1)
        owners[rows, columns] = answer.token_ids[0]
        probabilities = np.zeros((3, *covered.shape))
        probabilities[:, rows, columns] = answer.pixel_scores[0]
        for token in range(4):
            mask = covered & (place == number) & (owners == token)
            parts, count = ndimage.label(mask)
            masks = [parts == part + 1 for part in range(count)] if explode else [mask]
            expected += [
                (number, token, mask, probabilities, answer.embeddings[0, token])
                for mask in masks
                if mask.any()
            ]
    assert len(table) == report.regions == len(expected)
    assert set(table.geom_type) == {"Polygon" if explode else "MultiPolygon"}
    for row, (number, token, mask, probabilities, embedding) in zip(
        table.itertuples(), expected, strict=True
    ):
        assert (row.window_id, row.token_id, row.pixels) == (number, token, mask.sum())
        assert row.geometry.equals(traced(mask, transform))
        assert row.area_m2 == mask.sum() * PIXEL
        assert row.perimeter_m == perimeter(mask)
        np.testing.assert_array_equal(row.embedding, embedding)
        votes = np.bincount(probabilities[:, mask].argmax(axis=0), minlength=3)
        assert votes[row.class_id] == votes.max() and CLASSES[row.class_id] == row.class_name
        assert row.score == pytest.approx(probabilities[row.class_id][mask].mean())
        for band, name in zip(values, OF_MODEL["band_names"], strict=True):
            known = band[mask & valid].astype(float)
            found = getattr(row, f"mean_{name}"), getattr(row, f"std_{name}")
            wanted = (known.mean(), known.std()) if len(known) else (np.nan, np.nan)
            assert found == pytest.approx(wanted, nan_ok=True)
    assert report.pixels == covered.sum() == table.pixels.sum()
    assert shapely.coverage_is_valid(table.geometry.to_numpy()) and table.is_valid.all()
    union = shapely.union_all(table.geometry.to_numpy())
    assert union.equals(traced(covered, transform))


def test_geoparquet_and_geopackage_say_the_same(models, scene, tmp_path, monkeypatch):
    monkeypatch.setattr(layer, "_BATCH_ROWS", 7)
    run(models.by_value, scene, tmp_path / "r.parquet")
    run(models.by_value, scene, tmp_path / "r.gpkg", layer="tokens")
    with pq.ParquetFile(tmp_path / "r.parquet") as file:
        kind = file.schema_arrow.field("embedding").type
        assert (str(kind.value_type), kind.list_size) == ("float", 3)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert len(sizes) > 3 and set(sizes[:-1]) == {7} and sizes[-1] <= 7
        geo = json.loads(file.metadata.metadata[b"geo"])
    one = geopandas.read_parquet(tmp_path / "r.parquet")
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0" and column["geometry_types"] == ["MultiPolygon"]
    assert column["bbox"] == one.total_bounds.tolist()
    assert one.crs == "EPSG:32645"
    info = pyogrio.read_info(tmp_path / "r.gpkg", layer="tokens")
    assert info["geometry_type"] == "MultiPolygon" and info["crs"] == "EPSG:32645"
    assert info["layer_metadata"]["embedding_dims"] == "3"
    _, arrow = pyogrio.read_arrow(tmp_path / "r.gpkg")
    stored = arrow.column("embedding").to_pylist()
    found = np.stack([np.frombuffer(blob, "<f4") for blob in stored])
    np.testing.assert_array_equal(found, np.stack(one.embedding))
    two = geopandas.read_file(tmp_path / "r.gpkg")
    assert shapely.equals_exact(one.geometry, two.geometry).all()
    for name in one.columns.difference(["geometry", "embedding", "bbox"]):
        assert one[name].equals(two[name].astype(one[name].dtype)), name


def test_duckdb_reads_geoparquet(models, scene, tmp_path):
    run(models.by_value, scene, tmp_path / "r.parquet")
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    with duckdb.connect() as database:

        def ask(columns):
            return database.execute(f"select {columns} from '{tmp_path / 'r.parquet'}'").fetchone()

        assert ask("sum(pixels), min(len(embedding))") == (table.pixels.sum(), 3)
        geometry, embedding = ask("geometry, embedding")
        loaded = database.execute("select extension_name from duckdb_extensions() where loaded")
        names = {name for (name,) in loaded.fetchall()}
    assert shapely.equals_exact(shapely.from_wkb(geometry), table.geometry[0])
    assert np.allclose(embedding, table.embedding[0])
    assert "parquet" in names and "spatial" not in names  # what comes with DuckDB is enough


def test_scores_of_tokens_and_none(models, scene, tmp_path):
    rng = np.random.default_rng(1)
    scores = rng.dirichlet(np.ones(3), 4).astype(np.float32)

    def tokenize(windows, valid):
        answer = models.by_value(windows, valid)
        return answer._replace(
            pixel_scores=None, token_scores=np.repeat(scores[None], len(windows), 0)
        )

    run(tokenize, scene, tmp_path / "r.parquet")
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    assert (table.class_id == scores.argmax(1)[table.token_id]).all()
    assert np.allclose(table.score, scores.max(1)[table.token_id])

    def without(windows, valid):
        return models.by_value(windows, valid)._replace(pixel_scores=None)

    run(without, scene, tmp_path / "n.parquet", class_names=None)
    table = geopandas.read_parquet(tmp_path / "n.parquet")
    assert not {"class_id", "class_name", "score"} & set(table.columns)


# ---------------------------------------------------------------------------------- merging
@pytest.fixture
def fields():
    """(H, W) number of the field, 0 where there is no data; larger than windows."""
    rng = np.random.default_rng(4)
    rows, columns = rng.uniform(0, 1, (2, 9)) * [[131], [97]]
    row, column = np.mgrid[:131, :97]
    fields = np.hypot(row[..., None] - rows, column[..., None] - columns).argmin(axis=2) + 1
    fields[60:64, 10:40] = 0
    parts = [ndimage.label(fields == number)[1] for number in range(1, 10)]
    assert max(parts) == 1, "the fields are connected"
    return fields


@pytest.mark.parametrize("options", [{}, {"overlap": 0.25, "explode": True}])
def test_regions_embedded_by_their_seeds(models, scene, tmp_path, options):
    """With pixels as seeds and bands as features the embedding is the statistics of the bands."""

    def tokenize(windows, valid):
        seeds = windows.reshape(*windows.shape[:2], -1).transpose(0, 2, 1)
        seeds = np.where(valid.reshape(len(valid), -1, 1), seeds, 0)
        places = np.broadcast_to(np.arange(32 * 32).reshape(32, 32), valid.shape)
        answer = models.by_value(windows, valid)
        return answer._replace(embeddings=None, seeds=seeds, seed_of_pixel=places)

    run(tokenize, scene, tmp_path / "r.parquet", embed_dims=8, **options)
    run(models.by_value, scene, tmp_path / "same.parquet", **options)
    found, same = (
        geopandas.read_parquet(tmp_path / name) for name in ("r.parquet", "same.parquet")
    )
    assert found.drop(columns="embedding").equals(same.drop(columns="embedding"))
    known = found.mean_red.notna()  # a region without a pixel that is valid in all bands
    assert known.sum() > 20
    bands = [f"{kind}_{band}" for kind in ("mean", "std") for band in OF_MODEL["band_names"]]
    embeddings = np.stack(found.embedding)
    np.testing.assert_allclose(embeddings[known], found[bands][known], rtol=1e-5, atol=1e-3)
    assert not embeddings[~known].any()


def test_pooled_seeds():
    """Against numpy, region by region; a seed that is zero does not count."""
    rng = np.random.default_rng(0)
    seeds, labels = rng.normal(50, 0.01, (30, 5)), rng.integers(0, 6, 400)
    places = rng.integers(0, 30, 400)
    seeds[:4] = 0
    places[labels == 3] = 2  # a region of which nothing is known
    found = pool_seeds(seeds, places, labels, 7)
    assert found.shape == (7, 10) and found.dtype == np.float32
    for region in (0, 1, 2, 4, 5):
        own = seeds[places[(labels == region) & (places > 3)]]
        np.testing.assert_allclose(found[region, :5], own.mean(0), rtol=1e-6)
        np.testing.assert_allclose(found[region, 5:], own.std(0), rtol=1e-4)
    assert not found[[3, 6]].any()


@pytest.fixture
def field_scene(write_scene, fields):
    values = np.random.default_rng(5).integers(1, 999, (2, 131, 97)).astype(np.float32)
    values[0] = fields
    values[:, fields == 0] = np.nan
    return write_scene(values), values


def by_field(windows, valid):
    """A token per field; its embedding leans a little to the window's own direction."""
    owners = np.nan_to_num(windows[:, 0]).astype(np.int64)
    lean = np.nan_to_num(windows[:, 1]).reshape(len(windows), -1).sum(1) % 7 / 70
    embeddings = np.repeat(np.eye(10, 11, dtype=np.float32)[None], len(windows), 0)
    embeddings[..., 10] = lean[:, None]
    return TokenBatch(owners, embeddings)


MERGE = {"embed_dims": 11, "class_names": None, "band_names": None}


@pytest.mark.parametrize("explode", [False, True])
@pytest.mark.parametrize("overlap", [0, 0.25])
def test_merging_gives_the_fields(field_scene, fields, tmp_path, overlap, explode):
    scene, values = field_scene
    options = {**MERGE, "overlap": overlap, "explode": explode}
    cut, whole = tmp_path / "cut.parquet", tmp_path / "whole.parquet"
    run(by_field, scene, cut, **options)
    run(by_field, scene, whole, merge=0.9, **options)
    cut, whole = geopandas.read_parquet(cut), geopandas.read_parquet(whole)
    assert len(cut) > 30 and len(whole) == 9
    transform = rasterio.open(scene).transform
    assert shapely.coverage_is_valid(whole.geometry.to_numpy()) and whole.is_valid.all()
    assert set(whole.geom_type) == {"Polygon" if explode else "MultiPolygon"}
    found = set()
    for row in whole.itertuples():
        number = np.argmax(row.embedding)
        mask = fields == number
        found.add(number)
        assert row.geometry.equals(traced(mask, transform))
        assert (row.pixels, row.area_m2) == (mask.sum(), mask.sum() * PIXEL)
        assert row.perimeter_m == perimeter(mask)
        assert row.mean_2 == pytest.approx(values[1][mask].mean(dtype=float), rel=1e-12)
        assert row.std_2 == pytest.approx(values[1][mask].std(dtype=float), rel=1e-12)
        assert (row.mean_1, row.std_1) == (number, 0)
        parts = cut[[np.argmax(e) == number for e in cut.embedding]]
        assert row.window_id == parts.window_id.min() and row.token_id == number
        mean = np.average(np.stack(parts.embedding).astype(float), axis=0, weights=parts.pixels)
        np.testing.assert_allclose(row.embedding, mean, rtol=1e-6)
    assert found == set(range(1, 10))


def test_what_does_not_agree_stays_apart(field_scene, fields, tmp_path):
    scene, _ = field_scene
    place = windows_of_pixels(WindowGrid(131, 97, 32, 0))
    graph = networkx.Graph()
    graph.add_nodes_from(zip(place[fields > 0], fields[fields > 0], strict=True))
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        seam = (place[here] != place[there]) & (fields[here] > 0) & (fields[there] > 0)
        ends = [zip(place[at][seam], fields[at][seam], strict=True) for at in (here, there)]
        graph.add_edges_from(zip(*ends, strict=True))
    joined = list(networkx.connected_components(graph))
    contents = {}
    for name, merge in (("none", None), ("one", 1.0), ("most", -1.0)):
        run(by_field, scene, tmp_path / f"{name}.parquet", merge=merge, **MERGE)
        contents[name] = geopandas.read_parquet(tmp_path / f"{name}.parquet")
    none, one, most = contents.values()
    assert len(one) == len(none) == len(graph)
    # All that touch across seams, but not those that touch inside a window only.
    assert 1 < len(most) == len(joined) < len(none)
    assert {tuple(row) for row in most[["window_id", "token_id"]].to_numpy().tolist()} == {
        min(nodes) for nodes in joined
    }
    ordered = one.sort_values(["window_id", "token_id"], ignore_index=True)
    assert ordered.equals(none)
    assert most.pixels.sum() == none.pixels.sum()
    assert shapely.coverage_is_valid(most.geometry.to_numpy()) and most.is_valid.all()


def test_merged_classes_are_those_of_all_pixels(models, scene, values, tmp_path):
    def tokenize(windows, valid):
        answer = models.by_value(windows, valid)
        embeddings = np.repeat(np.eye(4, 3, dtype=np.float32)[None], len(windows), 0)
        embeddings[:, 3] = [-1, -1, -1]
        return answer._replace(embeddings=embeddings)

    run(tokenize, scene, tmp_path / "r.parquet", merge=0.9, explode=True)
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    covered = (values != 0).any(axis=0)
    owners = np.where(covered, values[0] // 64, 9)
    probabilities = models.by_value(values[None], None).pixel_scores[0]
    transform = rasterio.open(scene).transform
    regions_found = 0
    for token in range(4):
        parts, count = ndimage.label(owners == token)
        regions_found += count
        for row in table[table.token_id == token].itertuples():
            mask = features.geometry_mask([row.geometry], covered.shape, transform, invert=True)
            assert (
                len(np.unique(parts[mask])) == 1 and mask.sum() == (parts == parts[mask][0]).sum()
            )
            votes = np.bincount(probabilities[:, mask].argmax(axis=0), minlength=3)
            assert votes[row.class_id] == votes.max()
            assert row.score == pytest.approx(probabilities[row.class_id][mask].mean())
    # 4-connected parts of tokens over the whole scene, whatever windows they were cut by.
    assert len(table) == regions_found


# ------------------------------------------------------------------------- interruptions, workers
@pytest.mark.parametrize("name", ["r.parquet", "r.gpkg"])
@pytest.mark.parametrize("merge", [None, 0.9999])
def test_bytes_depend_on_scene_and_options_alone(models, scene, tmp_path, name, merge):
    contents = set()
    for batch_size, block_windows in ((1, 64), (3, 1), (4, 7)):
        (folder := tmp_path / f"{batch_size}").mkdir()
        options = dict(batch_size=batch_size, block_windows=block_windows, merge=merge)
        run(models.by_value, scene, folder / name, **options)
        contents.add((folder / name).read_bytes())
        assert [path.name for path in folder.iterdir()] == [name]
    assert len(contents) == 1


KILLED = """
import sys
from region_models import KillAfter
from hook.regions import RegionRequest, extract_regions

request = RegionRequest(sys.argv[1], sys.argv[2], window=32, overlap=0.5, batch_size=2,
                        block_windows=8, merge=True, merge_threshold=0.99999, resume=True,
                        progress=False)
extract_regions(KillAfter(int(sys.argv[3])), request, embed_dims=3, class_names=["a", "b", "c"])
"""


@pytest.mark.parametrize("name", ["r.parquet", "r.gpkg"])
def test_a_killed_run_goes_on_with_the_same_bytes(models, scene, tmp_path, name):
    def start(output, batches):
        command = [sys.executable, "-c", KILLED, str(scene), str(output), str(batches)]
        return subprocess.run(command, timeout=120).returncode

    (tmp_path / "whole").mkdir()
    assert start(tmp_path / "whole" / name, 10**6) == 0
    for batches in (6, 9):
        assert start(tmp_path / name, batches) == -signal.SIGKILL
        assert not (tmp_path / name).exists()
    assert list((tmp_path / f".{name}.unfinished").glob("*.done"))
    assert start(tmp_path / name, 10**6) == 0
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


class Injected(Exception):
    pass


@pytest.mark.parametrize("place", ["model", "write"])
def test_a_failure_leaves_no_file_and_what_was_done(models, scene, tmp_path, monkeypatch, place):
    calls = iter(range(4))

    def fails(windows, valid):
        if place == "model" and next(calls, None) is None:
            raise Injected
        return models.by_value(windows, valid)

    out = tmp_path / "out" / "r.parquet"
    out.parent.mkdir()
    options = {"block_windows": 4, "fingerprint": {"weights": "a"}}
    with monkeypatch.context() as patch:
        if place == "write":
            patch.setattr(layer, "areas_m2", lambda *arguments: (_ for _ in ()).throw(Injected()))
        with pytest.raises(Injected):
            run(fails, scene, out, **options)
    assert [path.name for path in out.parent.iterdir()] == [".r.parquet.unfinished"]
    with pytest.raises(SceneError, match="an interrupted run left part"):
        run(models.by_value, scene, out, **options)
    for changed, found in (
        ({"fingerprint": {"weights": "b"}}, "what differs: model"),
        ({"merge": 0.9}, "what differs: merge"),
        ({"explode": True}, "what differs: explode"),
    ):
        with pytest.raises(SceneError, match=found):
            run(models.by_value, scene, out, resume=True, **{**options, **changed})
    os.utime(scene, (1, 1))
    with pytest.raises(SceneError, match="what differs: input"):
        run(models.by_value, scene, out, resume=True, **options)
    report = run(models.by_value, scene, out, overwrite=True, **options)
    assert report.resumed_windows == 0 and [p.name for p in out.parent.iterdir()] == ["r.parquet"]


@pytest.mark.parametrize("name", ["r.parquet", "r.gpkg"])
def test_a_finished_run_is_left_as_it_is(models, scene, tmp_path, name):
    (folder := tmp_path / "out").mkdir()
    first = run(models.by_value, scene, folder / name, resume=True)
    content = (folder / name).read_bytes()
    again = run(None, scene, folder / name, resume=True)
    assert again.finished_before and "finished already" in str(again)
    assert (again.regions, again.pixels) == (first.regions, first.pixels)
    np.testing.assert_equal(again.ranges, first.ranges)
    with pytest.raises(SceneError, match="what differs: explode .false, now true"):
        run(None, scene, folder / name, resume=True, explode=True)
    assert (folder / name).read_bytes() == content and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("merge", [None, 0.9999])
def test_two_workers_give_the_same_bytes(models, scene, tmp_path, merge):
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    (notes := tmp_path / "notes").mkdir()
    options = {"block_windows": 4, "merge": merge}
    run(models.by_value, scene, tmp_path / "one.parquet", **options)
    with connect("local", 2) as client:
        make = models.MakeTokenizer(notes)
        blocks = on_cluster(client, make, "tokens", ["a", "b"])
        report = run(None, scene, tmp_path / "two.parquet", run_blocks=blocks, **options)
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert report.windows == 20
    assert sorted(path.suffix for path in notes.iterdir()) == [".a", ".b"]


# ---------------------------------------------------------------------------------- edges
@pytest.mark.parametrize("name", ["r.parquet", "r.gpkg"])
def test_a_scene_without_any_data(models, write_scene, tmp_path, name):
    scene = write_scene(np.zeros((4, 40, 70), np.uint8), nodata=0, photometric="minisblack")
    report = run(models.by_value, scene, tmp_path / name, merge=0.5)
    assert (report.regions, report.pixels, report.empty_windows) == (0, 0, report.windows)
    read = geopandas.read_parquet if name.endswith("parquet") else geopandas.read_file
    table = read(tmp_path / name)
    assert len(table) == 0 and "embedding" in table.columns and table.crs == "EPSG:32645"


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 32)])
def test_scenes_of_any_size(models, write_scene, tmp_path, size):
    values = smooth(np.random.default_rng(2), (4, *size)) if size > (1, 1) else np.ones((4, 1, 1))
    scene = write_scene(values.astype(np.uint8), photometric="minisblack")
    report = run(models.by_value, scene, tmp_path / "r.parquet")
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    assert report.pixels == table.pixels.sum() == size[0] * size[1]
    assert shapely.coverage_is_valid(table.geometry.to_numpy())
    assert table.area.sum() == size[0] * size[1] * PIXEL


def test_in_degrees_areas_and_perimeters_are_those_on_the_ellipsoid(models, write_scene, tmp_path):
    values = smooth(np.random.default_rng(3), (4, 40, 40))
    place = rasterio.Affine(1e-3, 0, 85.5, 0, -1e-3, 27.6)
    scene = write_scene(values, crs="EPSG:4326", transform=place, photometric="minisblack")
    run(models.by_value, scene, tmp_path / "r.parquet")
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    assert (table.geometry.count_geometries() > 1).any()
    geod = table.crs.get_geod()
    for row in table.itertuples():
        area, _ = geod.geometry_area_perimeter(row.geometry)
        assert row.area_m2 == pytest.approx(abs(area), rel=1e-4)
        rings = geod.geometry_length(row.geometry.boundary)
        assert row.perimeter_m == pytest.approx(rings, rel=1e-4)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.filterwarnings("ignore:.*not georeferenced")
def test_without_crs_there_are_no_metres(models, write_scene, tmp_path):
    values = smooth(np.random.default_rng(3), (4, 40, 40))
    scene = write_scene(values, crs=None, transform=None, photometric="minisblack")
    with pytest.warns(UserWarning, match="no area and no perimeter"):
        run(models.by_value, scene, tmp_path / "r.parquet")
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    assert table.crs is None and table.area_m2.isna().all() and table.perimeter_m.isna().all()
    assert table.area.sum() == 1600


def test_an_area_of_interest(models, scene, values, tmp_path):
    bounds = rasterio.open(scene).bounds
    shape = shapely.Point(bounds.left + 25, bounds.top - 30).buffer(12)
    aoi = AreaOfInterest((shape,))
    run(models.by_value, scene, tmp_path / "r.parquet", aoi=aoi)
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    inside = features.geometry_mask(
        [shape], values.shape[1:], rasterio.open(scene).transform, invert=True
    )
    expected = traced(inside & (values != 0).any(axis=0), rasterio.open(scene).transform)
    assert shapely.union_all(table.geometry.to_numpy()).equals(expected)


def test_impossible_answers_and_options(models, scene, tmp_path):
    def answers(**changes):
        def tokenize(windows, valid):
            answer = models.by_value(windows, valid)
            return answer._replace(
                **{name: f(getattr(answer, name)) for name, f in changes.items()}
            )

        return tokenize

    wrong = [
        (answers(token_ids=lambda a: a[:, :9]), {}, "token_ids"),
        (answers(token_ids=lambda a: a - 1), {}, "token_ids"),
        (answers(token_ids=lambda a: a + 1), {}, "token_ids"),
        (answers(embeddings=lambda a: a[..., :2]), {}, "embeddings"),
        (answers(embeddings=lambda a: a * np.nan), {}, "embeddings"),
        (answers(pixel_scores=lambda a: a[:, :2]), {}, "pixel_scores"),
        (answers(pixel_scores=lambda a: None), {}, "answer"),
        (models.by_value, {"band_names": ["a", "b", "c", "A"]}, "band_names"),
        (models.by_value, {"merge": 1.5}, "merge threshold"),
        (models.by_value, {"batch_size": 0}, "batch_size"),
        (models.by_value, {"bidx": [9]}, "bands that the file does not have"),
    ]
    for tokenize, options, message in wrong:
        with pytest.raises(HookError, match=message):
            run(tokenize, scene, tmp_path / "r.parquet", **options)
    with pytest.raises(SceneError, match="unknown format"):
        run(models.by_value, scene, tmp_path / "r.shp")
    with pytest.raises(SceneError, match="cannot be written"):
        run(models.by_value, scene, tmp_path / "no" / "r.gpkg")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
    (tmp_path / "r.gpkg").write_text("old")
    with pytest.raises(SceneError, match="exists already"):
        run(models.by_value, scene, tmp_path / "r.gpkg")
