"""Vector tiles, read by the letter of their specification."""

import numpy as np
import pytest
import rasterio.features
import shapely
from rasterio import Affine
from shapely.affinity import affine_transform

from hook.explore.vector_tiles import EXTENT, RegionTiles, as_tile, encode


def fields_of(content):
    """Pairs of field number and value of a protocol buffer."""
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            value |= (content[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if content[place - 1] < 128:
                return value

    while place < len(content):
        key = varint()
        if key & 7 == 2:
            size = varint()
            place += size
            yield key >> 3, content[place - size : place]
        else:
            yield key >> 3, varint()


def rings_of(content):
    """Rings of a geometry, from the commands of its pen."""
    words, place = [], 0
    while place < len(content):
        value = shift = 0
        while content[place] > 127:
            value |= (content[place] & 127) << shift
            place, shift = place + 1, shift + 7
        words.append(value | content[place] << shift)
        place += 1
    pen, rings = np.zeros(2, int), []
    words = iter(words)
    for word in words:
        command, count = word & 7, word >> 3
        assert (command, count) in ((1, 1), (7, 1)) or (command == 2 and count > 1)
        for _ in range(count if command < 7 else 0):
            pen = pen + [(w >> 1) ^ -(w & 1) for w in (next(words), next(words))]
            if command == 1:
                rings.append([])
            rings[-1].append(pen.tolist())
    return rings


def read_tile(content):
    """Polygons of a tile by id, with those rings as outlines that are clockwise on the screen."""
    ((number, layer),) = fields_of(content)
    header = [(key, value) for key, value in fields_of(layer) if key != 2]
    assert number == 3 and sorted(header) == [(1, b"regions"), (5, EXTENT), (15, 2)]
    found = {}
    for feature in (dict(fields_of(value)) for key, value in fields_of(layer) if key == 2):
        assert feature[3] == 3 and feature[1] not in found
        polygons = []
        for ring in rings_of(feature[4]):
            if shapely.is_ccw(shapely.linearrings(ring)):  # in coordinates with rows upwards
                polygons.append((ring, []))
            else:
                polygons[-1][1].append(ring)
        found[feature[1]] = shapely.MultiPolygon(polygons)
    return found


@pytest.fixture(scope="module")
def regions():
    """A coverage of 512 x 512 pixels with holes, many parts and edges of one pixel."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 40, (32, 32)).repeat(16, axis=0).repeat(16, axis=1)
    fine = rng.random(coarse.shape) < 0.003
    labels = np.where(fine, 40 + rng.integers(0, 9, coarse.shape), coarse).astype(np.int32)
    parts = {}
    for shape, value in rasterio.features.shapes(labels):
        parts.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    return np.array([shapely.MultiPolygon(parts[value]) for value in sorted(parts)], object)


def test_tiles_at_full_resolution_are_the_regions(regions):
    tiles, found = RegionTiles(regions, Affine.identity(), 1), {}
    tile = shapely.box(0, 0, EXTENT, EXTENT)
    for x, y in np.ndindex(2, 2):
        for region, shape in read_tile(tiles.tile(1, x, y)).items():
            part = shapely.make_valid(shape) & tile
            place = [256 / EXTENT, 0, 0, 256 / EXTENT, 256 * x, 256 * y]
            found.setdefault(region, []).append(affine_transform(part, place))
    assert sorted(found) == list(range(len(regions)))
    for region, parts in found.items():
        union = shapely.union_all(parts)
        assert shapely.area(shapely.symmetric_difference(union, regions[region])) < 1e-6


def test_small_tiles_have_no_gaps(regions, monkeypatch):
    """Rounded to units of which a region has few, neighbours still share their edges."""
    full = RegionTiles(regions, Affine.identity(), 1).tile(0, 0, 0)
    monkeypatch.setattr("hook.explore.vector_tiles._CROWDED", 10)
    monkeypatch.setattr("hook.explore.vector_tiles._STEP", 128)
    content = RegionTiles(regions, Affine.identity(), 1).tile(0, 0, 0)
    shapes = list(read_tile(content).values())
    assert len(content) < len(full) / 2
    area = sum(shape.area for shape in shapes)
    assert area == pytest.approx(EXTENT**2, rel=1e-9)
    points = np.vstack([shapely.get_coordinates(shape) for shape in shapes])
    assert (points % 128 == 0).all()


def test_outlines_turn_clockwise_on_the_screen():
    outer = np.array([[0, 0], [0, 90], [90, 90], [90, 0], [0, 0]])
    hole = np.array([[10, 10], [10, 20], [20, 20], [20, 10], [10, 10]])
    for ring in (outer, outer[::-1]):
        content = encode(
            np.vstack([ring, hole]), np.array([5, 10]), np.array([7, 7]), np.array([True, False])
        )
        (shape,) = read_tile(as_tile(content)).values()
        assert shape.area == 90 * 90 - 100 and len(shape.geoms) == 1


def test_what_is_smaller_than_a_unit_vanishes():
    specks = [shapely.box(1, 1, 1.01, 1.01), shapely.box(5, 5, 9, 9), shapely.box(2, 0, 2.01, 9)]
    assert list(read_tile(RegionTiles(np.array(specks), Affine.identity(), 0).tile(0, 0, 0))) == [1]
    assert RegionTiles(np.array(specks[:1]), Affine.identity(), 0).tile(0, 0, 0) == b""


def test_large_ids_and_long_rings():
    angles = np.linspace(0, 2 * np.pi, 3000)
    ring = np.rint(2000 + 1900 * np.column_stack([np.cos(angles), np.sin(angles)])).astype(int)
    content = encode(ring, np.array([3000]), np.array([123_456_789]), np.array([True]))
    ((region, shape),) = read_tile(as_tile(content)).items()
    assert region == 123_456_789 and shape.area == pytest.approx(np.pi * 1900**2, rel=1e-3)


def test_an_area_without_regions_is_empty(regions):
    assert RegionTiles(regions, Affine.identity(), 4).tile(4, 15, 15) == b""
