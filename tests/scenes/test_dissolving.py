"""Small regions of a map, dissolved: against GDAL's sieve and the rule pixel by pixel."""

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio import features

from hook.scenes import polygonize


def test_small_regions_as_gdal_dissolves_them(write_scene, tmp_path):
    # Specks far apart in large areas: here GDAL's sieve leaves no choice.
    values = np.kron(np.random.default_rng(1).integers(0, 3, (4, 5)), np.ones((9, 9), int))
    values[4::9, 4::9] = (values[4::9, 4::9] + 1) % 3
    values = values.astype(np.uint8)
    values[:5, :7] = 255
    path = write_scene(values[None], "map.tif", nodata=255)
    polygonize(path, tmp_path / "map.gpkg", min_area=2 * 0.25, progress=False)
    table = geopandas.read_file(tmp_path / "map.gpkg")
    sieved = features.sieve(values, 2, mask=values != 255, connectivity=4)
    with rasterio.open(path) as source:
        burnt = features.rasterize(
            zip(table.geometry, table.class_id, strict=True),
            out_shape=source.shape,
            transform=source.transform,
            fill=255,
        )
    np.testing.assert_array_equal(burnt, sieved)
    assert (sieved != values).any()


def dissolved(values, smallest):
    """The rule of ``min_area`` pixel by pixel, on the whole map."""
    values = values.astype(int)
    while True:
        regions = [
            np.argwhere(features.rasterize([region], out_shape=values.shape) > 0)
            for region, value in features.shapes(values.astype(np.int32), connectivity=4)
            if value != 255
        ]
        regions.sort(key=lambda pixels: tuple(pixels[0]))
        number = np.full(np.array(values.shape) + 2, -1)
        for index, pixels in enumerate(regions):
            number[tuple(pixels.T + 1)] = index
        target = list(range(len(regions)))
        for index, pixels in enumerate(regions):
            row, col = pixels.T + 1
            around = {*number[row - 1, col], *number[row + 1, col]}
            around |= {*number[row, col - 1], *number[row, col + 1]}
            around -= {-1, index}
            best = max(around, key=lambda i: (len(regions[i]), -i), default=index)
            mine, its = (len(pixels), -index), (len(regions[best]), -best)
            if len(pixels) < smallest and its > mine:
                target[index] = best
        if target == list(range(len(regions))):
            return values
        before = values.copy()
        for index, pixels in enumerate(regions):
            goal = index
            while target[goal] != goal:
                goal = target[goal]
            values[tuple(pixels.T)] = before[tuple(regions[goal][0])]


@pytest.mark.parametrize("seed", range(4))
def test_small_regions_go_by_the_rule_in_strips_of_any_height(write_scene, tmp_path, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3 + seed, (19, 23)).astype(np.uint8)
    values[rng.random(values.shape) < 0.1] = 255
    path = write_scene(values[None], "map.tif", nodata=255)
    files = []
    for rows in (1, 4, 1000):
        files.append(tmp_path / f"{rows}.gpkg")
        polygonize(path, files[-1], min_area=6 * 0.25, progress=False, strip_rows=rows)
    assert len({file.read_bytes() for file in files}) == 1
    table = geopandas.read_file(files[0])
    with rasterio.open(path) as source:
        burnt = features.rasterize(
            zip(table.geometry, table.class_id, strict=True),
            out_shape=source.shape,
            transform=source.transform,
            fill=255,
        )
    np.testing.assert_array_equal(burnt, dissolved(values, 6))
    # What is still small has nothing around it.
    union = table.geometry.values
    for polygon in union[table.area_m2 < 6 * 0.25]:
        assert shapely.length(shapely.intersection(union, polygon.exterior)).astype(bool).sum() == 1


def test_min_area_counts_true_areas(write_scene, tmp_path):
    # Two specks of equal pixels, of half the area at 60 degrees.
    values = np.zeros((1, 61, 30), np.uint8)
    values[0, 0, 5], values[0, 60, 5] = 1, 2
    place = {"crs": "EPSG:4326", "transform": rasterio.Affine(1, 0, 0, 0, -1, 60.5)}
    path = write_scene(values, "map.tif", **place)
    polygonize(path, tmp_path / "map.gpkg", min_area=9e9, progress=False)
    assert set(geopandas.read_file(tmp_path / "map.gpkg").class_id) == {0, 2}
