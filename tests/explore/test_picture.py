"""Tiles of scenes against direct reads."""

import io

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from hook.errors import ConfigError, DataError
from hook.explore.picture import ScenePicture
from hook.visualization.drawing import stretch_limits, stretch_to_rgb


def pixels(png):
    return np.array(Image.open(io.BytesIO(png)))


def write(path, image, overviews=(), **profile):
    count, height, width = image.shape
    size = dict(count=count, height=height, width=width, dtype=image.dtype)
    with rasterio.open(path, "w", driver="GTiff", tiled=True, **size, **profile) as sink:
        sink.write(image)
        if overviews:
            sink.build_overviews(overviews, Resampling.average)
    return str(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize(
    "place",
    [
        {},
        {"crs": "EPSG:3031", "transform": from_origin(-2e6, 1e6, 30, 30)},
        {
            "crs": "EPSG:32632",
            "transform": from_origin(5e5, 5e6, 10, 10) @ rasterio.Affine.rotation(30),
        },
    ],
    ids=["no CRS", "polar", "rotated"],
)
def test_full_resolution_is_the_scene(tmp_path, rng, dtype, place):
    image = rng.integers(1, 120, (5, 300, 400)).astype(dtype)
    image[:, 20:40, 30:60] = 0
    picture = ScenePicture(write(tmp_path / "a.tif", image, nodata=0, **place))
    assert (picture.zmax, picture.rgb, picture.bands) == (1, [1, 2, 3], list("12345"))
    found = pixels(picture.tile(1, 0, 0, [4, 2, 1]))
    chosen = image[[3, 1, 0]]
    limits = stretch_limits(chosen, valid=(chosen != 0).all(0))
    wanted = stretch_to_rgb(chosen[:, :256, :256], limits=limits)
    assert found.shape == (256, 256, 4)
    empty = np.zeros((256, 256), bool)
    empty[20:40, 30:60] = True
    assert (found[..., 3] == np.where(empty, 0, 255)).all()
    assert (np.abs(found[~empty][:, :3].astype(int) - wanted[~empty]) <= 2).all()
    # Beyond the scene nothing is drawn.
    corner = pixels(picture.tile(1, 1, 1))
    assert (corner[:44, :144, 3] == 255).all() and corner[44:].max() == corner[:, 144:].max() == 0
    assert pixels(picture.tile(0, 0, 0))[150:].max() == 0


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_large_scene_is_read_once_for_its_small_tiles(tmp_path, rng):
    small = rng.integers(50, 200, (3, 34, 64)).astype(np.uint8)
    image = small.repeat(144, axis=1).repeat(144, axis=2)[:, :4800, :9088]
    image[:, :1000, :1000] = 0
    shares, options = [], dict(nodata=0, compress="deflate", zlevel=1)
    plain = ScenePicture(write(tmp_path / "a.tif", image, **options), report=shares.append)
    other = ScenePicture(write(tmp_path / "b.tif", image, (2, 4, 8, 16), **options))
    assert plain.zmax == 6
    for place in ((0, 0, 0), (2, 1, 0), (2, 0, 0), (3, 1, 1), (6, 3, 4), (5, 0, 0)):
        one, two = pixels(plain.tile(*place)), pixels(other.tile(*place))
        same = (np.abs(one.astype(int) - two) <= 6).all(axis=2)
        assert same.mean() > 0.97, place  # edges are averaged on other grids
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 5
    count = len(shares)
    plain.tile(1, 0, 0, [1, 2, 3])
    assert len(shares) == count


def test_beside_the_scene_there_is_no_tile(data):
    picture = ScenePicture(str(data / "scene.tif"))
    assert (picture.zmax, picture.rgb, picture.bands[0]) == (0, [3, 2, 1], "blue")
    picture.zmax = 1  # as of a larger scene
    assert picture.tile(1, 1, 1) is None
    for place in ((2, 0, 0), (-1, 0, 0), (1, 2, 0), (1, 0, -1)):
        with pytest.raises(ConfigError, match="no tile"):
            picture.tile(*place)


@pytest.mark.parametrize("bands", [[0], [5], [1, 2], [], [1, 2, 3, 4]])
def test_bands_are_checked(data, bands):
    with pytest.raises(ConfigError, match="bands"):
        ScenePicture(str(data / "scene.tif")).tile(0, 0, 0, bands)


def test_one_band_is_grey(data):
    found = pixels(ScenePicture(str(data / "scene.tif")).tile(0, 0, 0, [4]))
    assert (found[..., :1] == found[..., :3]).all() and found[50, 10, 0] < found[50, 100, 0]


def test_thumbnails_show_a_box_with_its_surroundings(data):
    picture = ScenePicture(str(data / "scene.tif"))
    found = pixels(picture.thumbnail((72, 40, 88, 56), 96))
    assert found.shape == (96, 96, 4)
    left, right = found[:, :40, :3].mean(), found[:, 56:, :3].mean()
    assert left < right - 50  # the bright half begins in the middle
    ring = [[72, 40], [88, 40], [88, 56], [72, 56], [72, 40]]
    drawn = pixels(picture.thumbnail((72, 40, 88, 56), 96, rings=[ring]))
    across = drawn[48, :20, :3].mean(axis=-1)  # 21 pixels of the scene are 96: 9 is the left side
    assert (across == 255).sum() == 2 and (across == 0).sum() == 2, "white between black"
    assert across[9] == 255 and (drawn[12:80, 12:80] == found[12:80, 12:80]).all()
    assert pixels(picture.thumbnail((150, 80, 160, 96), 64))[-1, -1, 3] == 0
    assert pixels(picture.thumbnail((3, 3, 4, 4), 16)).shape == (16, 16, 4)


def test_a_nodata_value_can_be_given(data):
    picture = ScenePicture(str(data / "scene.tif"), nodata="nan")
    assert pixels(picture.tile(0, 0, 0))[0, 0, 3] == 255


def test_a_file_that_is_no_raster(tmp_path):
    (tmp_path / "a.tif").write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        ScenePicture(str(tmp_path / "a.tif"))
