"""Tiles of region ids, compared with points in polygons, and the file they are kept in."""

import errno
import functools
import gzip
import io
import shutil
from zipfile import ZipFile

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from hook.errors import SceneError
from hook.explore import id_tiles
from hook.explore.id_tiles import FILE, IdTiles, burn, pixel_bounds
from hook.explore.picture import ScenePicture
from hook.geo.vector import apply_affine

GRIDS = {
    "north": from_origin(688_600, 5_338_800, 2, 2),
    "none": rasterio.Affine.identity(),
    "rotated": rasterio.Affine(1.7, 1, 688_600, 1, -1.7, 5_338_800),
    "south up": rasterio.Affine(0.1, 0, -2e6, 0, 0.1, 1e6),
}
HEIGHT, WIDTH = 700, 1300


def picture(folder):
    """A scene without content."""
    profile = dict(driver="GTiff", count=1, height=HEIGHT, width=WIDTH, dtype="uint8")
    rasterio.open(folder / "scene.tif", "w", transform=GRIDS["north"], **profile).close()
    return ScenePicture(str(folder / "scene.tif"))


def shapes():
    """Polygons in columns and rows: a hole with a polygon in it, two parts, and slanted edges."""
    rng = np.random.default_rng(0)
    hole = shapely.box(100, 100, 400, 420).difference(shapely.box(180, 200, 300, 330))
    parts = shapely.MultiPolygon([shapely.box(500, 20, 530, 300), shapely.box(600, 500, 777, 690)])
    slanted = [
        shapely.Point(x, y).buffer(size, 3)
        for x, y, size in zip(*rng.uniform((800, 40, 3), (1260, 660, 40), (40, 3)).T, strict=True)
    ]
    return np.array([hole, shapely.box(190, 210, 290, 320), parts, *slanted], object)


def make(folder, given=None, grid="north", digest="a"):
    """Tiles of polygons in columns and rows, drawn if they are not there."""
    tiles = IdTiles(folder, digest, GRIDS[grid], picture(folder))
    if not tiles.drawn:
        shown = apply_affine(shapes() if given is None else given, GRIDS[grid])
        tiles.draw(shapely.STRtree(shown))
    tiles.open()
    return tiles


def pixels_of(tiles, z, x, y):
    """The ids of a tile."""
    content = tiles.tile(z, x, y)
    if not content:
        return np.zeros((256, 256), np.uint32)
    return np.frombuffer(gzip.decompress(content), "<u4").reshape(256, 256)


@functools.cache
def wanted(z):
    """Ids of all tiles of a zoom, by the points in the middle of their pixels."""
    step = 2 ** (3 - z)
    places = np.arange(step // 2 + 0.5, 2048, step)
    columns, rows = np.meshgrid(places[places < WIDTH], places[places < HEIGHT])
    ids = np.zeros((256 * 2**z, 256 * 2**z), np.uint32)
    for number, shape in enumerate(shapes()):
        shapely.prepare(shape)
        inside = shapely.contains_xy(shape, columns, rows)
        ids[: len(rows), : rows.shape[1]][inside] = number + 1
    return ids


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("block", [256, 512, 2048])
def test_ids_of_all_zooms(tmp_path, monkeypatch, grid, block):
    monkeypatch.setattr(id_tiles, "_BLOCK", block)
    tiles = make(tmp_path, grid=grid)
    for z in range(4):
        found = np.block([[pixels_of(tiles, z, x, y) for x in range(2**z)] for y in range(2**z)])
        np.testing.assert_array_equal(found, wanted(z))
    assert found[150, 150] == 1 and found[250, 250] == 2 and found[205, 185] == 0
    assert found[100, 510] == found[600, 700] == 3
    tiles.close()


def test_the_last_of_overlapping_polygons_is_on_top():
    tree = shapely.STRtree([shapely.box(0, 0, 4, 4), shapely.box(2, 0, 6, 4)])
    values = np.full((3, 8), 9, np.uint8)
    burn(values, (1, 0), tree, rasterio.Affine.identity(), np.array([5, 7]))
    assert values.tolist() == [[5, 5, 7, 7, 7, 7, 9, 9]] * 3


@pytest.mark.parametrize("grid", GRIDS)
def test_bounds_in_columns_and_rows(monkeypatch, grid):
    monkeypatch.setattr(id_tiles, "_AT_ONCE", 7)
    found = pixel_bounds(apply_affine(shapes(), GRIDS[grid]), GRIDS[grid])
    np.testing.assert_allclose(found, shapely.bounds(shapes()), atol=1e-3)
    assert found.dtype == np.float32 and pixel_bounds(shapes()[:0], GRIDS[grid]).shape == (0, 4)


def test_tiles_are_made_once(tmp_path):
    make(tmp_path).close()
    before = (tmp_path / FILE).stat()
    make(tmp_path).close()
    assert (tmp_path / FILE).stat() == before
    make(tmp_path, shapes()[:2], digest="b").close()
    assert (tmp_path / FILE).stat() != before, "of other regions"
    before = (tmp_path / FILE).stat()
    tiles = make(tmp_path, shapes()[:2], grid="south up", digest="b")
    assert (tmp_path / FILE).stat() != before, "on another grid"
    assert pixels_of(tiles, 3, 0, 0).max() == 2
    tiles.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "scene.tif"]


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "text", *range(0, 100, 9)])
def test_damaged_tiles_are_made_again(tmp_path, damage):
    make(tmp_path).close()
    path, whole = tmp_path / FILE, (tmp_path / FILE).read_bytes()
    changed = bytearray(whole)
    if isinstance(damage, int):  # in all parts of the file: contents, names, table of contents
        changed[len(whole) * damage // 100] ^= 0x41
    parts = {"cut": whole[:-500], "emptied": b"", "text": b"no tiles"}
    path.write_bytes(parts.get(damage, changed))
    if damage == "removed":
        path.unlink()
    make(tmp_path).close()
    with ZipFile(path) as found, ZipFile(io.BytesIO(whole)) as expected:
        assert found.comment == expected.comment and found.namelist() == expected.namelist()
        assert all(found.read(name) == expected.read(name) for name in found.namelist())


@pytest.mark.parametrize("kept", [None, 0, 10, 100])
def test_a_file_that_is_damaged_while_it_is_open(tmp_path, kept):
    """Bytes are changed, or all but some of a tile are cut off."""
    tiles = make(tmp_path)
    with ZipFile(tmp_path / FILE) as file:
        first = file.getinfo("3/0/0").header_offset
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(first + 100)
        file.write(b"damage")
        if kept is not None:
            file.truncate(first + kept)
    with pytest.raises(SceneError, match="cannot be read") as refused:
        tiles.tile(3, 0, 0)
    assert refused.value.expected and "again" in refused.value.remedy
    tiles.close()


def test_a_full_disk(tmp_path, monkeypatch):
    make(tmp_path).close()
    before = (tmp_path / FILE).read_bytes()

    def full(self, *given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ZipFile, "writestr", full)
    with pytest.raises(SceneError, match=f"{FILE}: cannot be written") as refused:
        make(tmp_path, digest="b")
    assert "No space left" in str(refused.value.found) and refused.value.remedy
    assert (tmp_path / FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "scene.tif"]


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    """Tiles that are there are read; others cannot be made."""
    make(tmp_path).close()

    def refuse(*given, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("hook.geo.staging.tempfile.mkdtemp", refuse)
    make(tmp_path).close()
    with pytest.raises(SceneError, match=f"{FILE}: cannot be written"):
        make(tmp_path, digest="b")


def test_tiles_of_a_session(data, tmp_path, serve_session):
    """They are those of the regions that were read, and made once."""
    regions = tmp_path / "regions.parquet"
    table = geopandas.read_parquet(data / "regions.parquet").iloc[::-1].reset_index(drop=True)
    table.to_parquet(regions)
    served = serve_session(data / "scene.tif", tmp_path / "session", regions)
    content = served.client.ask("/api/tiles/regions/0/0/0.ids").body
    ids = np.frombuffer(gzip.decompress(content), "<u4").reshape(256, 256)
    assert (ids[88, 152], ids[8, 24]) == (1, 59)
    before = (tmp_path / "session" / FILE).stat().st_mtime_ns
    served.session.close()
    shutil.copytree(tmp_path / "session", tmp_path / "moved")
    again = serve_session(data / "scene.tif", tmp_path / "moved", regions)
    assert again.client.ask("/api/tiles/regions/0/0/0.ids").body == content
    assert before == (tmp_path / "session" / FILE).stat().st_mtime_ns
