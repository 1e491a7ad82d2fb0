"""Scenes and maps drawn in their coordinates."""

import math

import geopandas
import matplotlib
import numpy as np
import pytest
import rasterio
import shapely

matplotlib.use("Agg")
from matplotlib import pyplot
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT

from hook.apis import show_map, show_scene, stretch_to_rgb
from hook.errors import ConfigError, DataError, HookError, SceneError
from hook.geo.arrays import read_class_map

UTM = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)
LEFT, RIGHT, BOTTOM, TOP = 500_000, 500_120, 4_999_920, 5_000_000


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(1, 200, (4, 40, 60)).astype(np.uint8)


def write(path, values, **options):
    profile = dict(driver="GTiff", crs="EPSG:32633", transform=UTM, dtype=values.dtype)
    # Four bands of bytes would pass for red, green, blue and alpha.
    profile |= dict(photometric="MINISBLACK") | options
    names = profile.pop("names", None)
    count, height, width = values.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as sink:
        sink.write(values)
        if names:
            sink.descriptions = names
    return path


def picture(axes):
    return np.asarray(axes.get_images()[0].get_array())


def scale_bar(axes):
    """Label and length in units of the axes; None where there is none."""
    for artist in axes.artists:
        if isinstance(artist, AnchoredSizeBar):
            return artist.txt_label.get_text(), artist.size_bar.get_children()[0].get_width()
    return None


def test_picture_lies_where_the_scene_does(tmp_path, values):
    names = ("nir", "blue", "green", "red")
    path = write(tmp_path / "a.tif", values, names=names)
    axes = show_scene(path, title="A")
    assert axes.get_images()[0].get_extent() == [LEFT, RIGHT, BOTTOM, TOP]
    assert axes.get_title() == "A"
    np.testing.assert_array_equal(picture(axes), stretch_to_rgb(values[[3, 2, 1]]))
    for bands in (("nir", "red", "green"), (1, 4, 3)):
        np.testing.assert_array_equal(
            picture(show_scene(path, bands=bands)), stretch_to_rgb(values[[0, 3, 2]])
        )
    np.testing.assert_array_equal(
        picture(show_scene(path, bands="blue")), stretch_to_rgb(values[1:2])
    )


def test_polygons_are_drawn_over_it(tmp_path, values):
    path = write(tmp_path / "a.tif", values)
    _, given = pyplot.subplots()
    axes = show_scene(path, given)
    assert axes is given
    box = shapely.box(LEFT + 10, BOTTOM + 10, LEFT + 20, BOTTOM + 20)
    geopandas.GeoSeries([box], crs="EPSG:32633").plot(ax=axes)
    assert axes.get_xlim() == (LEFT, RIGHT) and axes.get_ylim() == (BOTTOM, TOP)
    assert axes.get_aspect() == 1


def test_large_scene_is_read_at_the_size_of_the_picture(tmp_path, values):
    path = write(tmp_path / "a.tif", values)
    shown = picture(show_scene(path, bands=1, pixels=30))
    assert shown.shape == (20, 30, 3)
    means = values[0].reshape(20, 2, 30, 2).mean((1, 3))
    wanted = stretch_to_rgb(means[np.newaxis])
    assert np.abs(shown.astype(int) - wanted).max() <= 3  # means are rounded to whole numbers


def test_part_of_a_scene(tmp_path, values):
    path = write(tmp_path / "a.tif", values)
    axes = show_scene(path, bounds=(LEFT + 20, BOTTOM - 50, LEFT + 41, BOTTOM + 40))
    assert axes.get_images()[0].get_extent() == [LEFT + 20, LEFT + 42, BOTTOM, BOTTOM + 40]
    np.testing.assert_array_equal(picture(axes), stretch_to_rgb(values[:3, 20:, 10:21]))


def test_parts_of_a_scene_look_like_the_whole(tmp_path, values):
    path = write(tmp_path / "a.tif", values)
    box = (LEFT + 20, BOTTOM, LEFT + 40, BOTTOM + 40)
    whole = picture(show_scene(path))
    part = picture(show_scene(path, bounds=box, stretch="scene"))
    np.testing.assert_array_equal(part, whole[20:, 10:20])
    assert (picture(show_scene(path, bounds=box)) != part).any()


def test_no_data_is_white(tmp_path, values):
    values[:, :, :10] = 0
    for options in (dict(nodata=0), dict(photometric="RGB", alpha="YES")):
        if "alpha" in options:
            values[3] = 255 * (values[0] > 0)
        axes = show_scene(write(tmp_path / "a.tif", values, **options))
        assert (picture(axes)[:, :10] == 255).all()
        valid = values[0] > 0
        np.testing.assert_array_equal(picture(axes), stretch_to_rgb(values[:3], valid=valid))


def test_several_files_are_one_scene(tmp_path, values):
    whole = picture(show_scene(write(tmp_path / "all.tif", values), bands=1))
    left = write(tmp_path / "left.tif", values[:, :, :30])
    grid = UTM * UTM.translation(30, 0)
    right = write(tmp_path / "right.tif", values[:, :, 30:], transform=grid)
    axes = show_scene([left, right], bands=1)
    assert axes.get_images()[0].get_extent() == [LEFT, RIGHT, BOTTOM, TOP]
    np.testing.assert_array_equal(picture(axes), whole)


def test_file_in_another_crs_is_brought_to_the_first(tmp_path, values):
    smooth = np.broadcast_to(np.linspace(50, 200, 60), (1, 40, 60)).astype(np.uint8)
    whole = picture(show_scene(write(tmp_path / "all.tif", smooth)))
    left = write(tmp_path / "left.tif", smooth[:, :, :30])
    with rasterio.open(tmp_path / "all.tif") as source:
        with WarpedVRT(source, crs="EPSG:3857", add_alpha=True) as warped:
            profile = dict(crs=warped.crs, transform=warped.transform)
            pixels = warped.read()
    other = write(tmp_path / "other.tif", pixels, photometric="MINISBLACK", alpha="YES", **profile)
    axes = show_scene([left, other])
    bounds = axes.get_images()[0].get_extent()
    np.testing.assert_allclose(bounds, [LEFT, RIGHT, BOTTOM, TOP], atol=5)
    shown = picture(axes)
    middle = shown[10:30, 5:55].astype(int) - whole[10:30, 5:55]
    assert np.abs(middle).max() < 25  # two pixels of the ramp


def test_zeros_of_several_files_are_data(tmp_path, values):
    values[0] = 0
    files = [
        write(tmp_path / f"{k}.tif", values[:3], transform=UTM * UTM.translation(60 * k, 0))
        for k in range(2)
    ]
    shown = picture(show_scene(files))
    wanted = stretch_to_rgb(np.concatenate([values[:3]] * 2, axis=2))
    np.testing.assert_array_equal(shown, wanted)
    tiny = show_scene(files, bounds=(LEFT + 1, TOP - 1.5, LEFT + 1.5, TOP - 1))
    assert picture(tiny).shape == (1, 1, 3)
    apart = write(tmp_path / "far.tif", values[:3], transform=UTM * UTM.translation(600, 0))
    between = show_scene([files[0], apart], bounds=(RIGHT + 50, BOTTOM, RIGHT + 60, TOP))
    assert (picture(between) == 255).all()


def test_pixels_that_are_not_square(tmp_path, values):
    flat = rasterio.Affine(2, 0, LEFT, 0, -4, TOP)
    one = write(tmp_path / "a.tif", values, transform=flat)
    two = write(tmp_path / "b.tif", values, transform=flat * flat.translation(60, 0))
    assert picture(show_scene([one, two])).shape == (40, 120, 3)


def test_wedges_of_a_turned_map_are_no_class(tmp_path):
    ones = np.ones((1, 40, 60), np.uint8)
    axes = show_map(write(tmp_path / "a.tif", ones, transform=UTM * rasterio.Affine.rotation(30)))
    assert list(legend_of(axes)) == ["class_1"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_grid_without_a_crs_and_a_crs_without_a_grid(tmp_path, values):
    axes = show_scene(write(tmp_path / "a.tif", values, crs=None))
    assert axes.get_images()[0].get_extent() == [LEFT, RIGHT, BOTTOM, TOP]
    assert scale_bar(axes) is None
    axes = show_scene(write(tmp_path / "b.tif", values, transform=rasterio.Affine.identity()))
    assert axes.get_images()[0].get_extent() == [0, 60, 40, 0]
    assert scale_bar(axes) is None


def test_names_that_a_file_has_not_are_refused(tmp_path, values):
    path = write(tmp_path / "a.tif", values[:3], photometric="RGB")
    np.testing.assert_array_equal(
        picture(show_scene(path, bands=("red", "green", "blue"))), stretch_to_rgb(values[:3])
    )
    with pytest.raises(DataError, match="no band named 'nir'"):
        show_scene(path, bands=("nir", "red", "green"))


def test_arrays(tmp_path, values):
    rioxarray = pytest.importorskip("rioxarray")
    axes = show_scene(values)
    assert axes.get_images()[0].get_extent() == [0, 60, 40, 0]  # rows grow downwards
    assert scale_bar(axes) is None
    np.testing.assert_array_equal(picture(axes), stretch_to_rgb(values))
    np.testing.assert_array_equal(
        picture(show_scene(values, bounds=(10, 5, 30, 20))),
        stretch_to_rgb(values[:, 5:20, 10:30]),
    )
    with rioxarray.open_rasterio(write(tmp_path / "a.tif", values)) as array:
        axes = show_scene(array)
    assert axes.get_images()[0].get_extent() == [LEFT, RIGHT, BOTTOM, TOP]
    np.testing.assert_array_equal(picture(axes), stretch_to_rgb(values))


def test_rotated_grid_is_set_upright(tmp_path, values):
    turned = UTM * rasterio.Affine.rotation(30)
    axes = show_scene(write(tmp_path / "a.tif", values, transform=turned))
    left, right, bottom, top = axes.get_images()[0].get_extent()
    corners = [turned * corner for corner in ((0, 0), (60, 0), (60, 40), (0, 40))]
    for side, corner in ((left, min(corners)), (right, max(corners))):
        assert abs(side - corner[0]) < 4
    assert top - bottom > 80
    shown = picture(axes)
    assert (shown[0, 0] == 255).all() and (shown[-1, -1] == 255).all()  # beside the raster
    assert (shown[len(shown) // 2, shown.shape[1] // 2] != 255).any()


def test_colours_of_bands_without_names(tmp_path, values):
    path = write(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as sink:
        sink.colorinterp = [ColorInterp[n] for n in ("blue", "green", "red", "undefined")]
    np.testing.assert_array_equal(picture(show_scene(path)), stretch_to_rgb(values[[2, 1, 0]]))


def test_scale_bar_is_true_on_the_ground(tmp_path, values):
    """Lengths: a degree of longitude is 111,320 m times the cosine of the latitude."""
    label, length = scale_bar(show_scene(write(tmp_path / "utm.tif", values)))
    assert label == "20 m"
    assert length == pytest.approx(20, rel=1e-3)
    latitude = math.radians(60)
    degrees = rasterio.Affine(1e-4, 0, 10, 0, -1e-4, 60)
    path = write(tmp_path / "deg.tif", values, crs="EPSG:4326", transform=degrees)
    axes = show_scene(path)
    label, length = scale_bar(axes)
    assert label == "50 m"
    assert length == pytest.approx(50 / (111_320 * math.cos(latitude)), rel=5e-3)
    assert axes.get_aspect() == pytest.approx(1 / math.cos(latitude), rel=1e-3)
    north = 6_378_137 * math.log(math.tan(math.pi / 4 + latitude / 2))
    mercator = rasterio.Affine(2, 0, 0, 0, -2, north)
    path = write(tmp_path / "mercator.tif", values, crs="EPSG:3857", transform=mercator)
    wide = rasterio.Affine(5, 0, -150, 0, -2, 60)
    path_wide = write(tmp_path / "wide.tif", values, crs="EPSG:4326", transform=wide)
    label, length = scale_bar(show_scene(path_wide))
    shown = float(label.split()[0]) * 1000
    assert length == pytest.approx(shown / (111_320 * math.cos(math.radians(20))), rel=5e-3)
    label, length = scale_bar(show_scene(path))
    assert label == "10 m"
    assert length == pytest.approx(20, rel=5e-3)  # Mercator stretches by 1 / cos 60
    assert scale_bar(show_scene(path, scale_bar=False)) is None


def test_wrong_options_are_refused(tmp_path, values):
    path = write(tmp_path / "a.tif", values, names=("a", "b", "c", "d"))
    for options, words in (
        (dict(bounds=(1, 2, 3)), "not a box"),
        (dict(bounds="abcd"), "not a box"),
        (dict(bounds=(RIGHT, BOTTOM, LEFT, TOP)), "not a box"),
        (dict(bounds=(0, 0, 1, 1)), "nothing inside the bounds"),
        (dict(bands=("a", "b")), "bands to show"),
        (dict(bands=("a", "b", "nir")), "nir"),
        (dict(bands=9), "bands"),
        (dict(bands=3.5), "bands=3.5"),
        (dict(bands=[1.5]), "bands="),
        (dict(bands=[None]), "bands="),
        (dict(bounds=(RIGHT, BOTTOM, RIGHT + 9, TOP)), "nothing inside"),
        (dict(pixels=0), "pixels"),
        (dict(stretch="all"), "stretch"),
        (dict(axes=3), "axes=3"),
        (dict(pixels="a"), "pixels"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            show_scene(path, **options)
    two = write(tmp_path / "two.tif", values[:2], transform=UTM * UTM.translation(60, 0))
    with pytest.raises(DataError, match="no band 3"):
        show_scene([path, two])
    (tmp_path / "b.tif").write_bytes(path.read_bytes()[:3000])
    for wrong in (tmp_path / "none.tif", tmp_path / "b.tif", None, [], np.zeros(3)):
        with pytest.raises(HookError):
            show_scene(wrong)


# ------------------------------------------------------------------------------------- maps
@pytest.fixture
def class_map(tmp_path):
    labels = np.kron(np.array([[0, 1, 255]], np.uint8), np.ones((20, 20), np.uint8))
    path = write(tmp_path / "map.tif", labels[np.newaxis], nodata=255)
    return path, labels


def legend_of(axes):
    handles, names = axes.get_legend().legend_handles, axes.get_legend().get_texts()
    colours = [tuple(round(255 * c) for c in handle.get_facecolor()[:3]) for handle in handles]
    return dict(zip([text.get_text() for text in names], colours, strict=True))


def test_class_without_a_name_has_its_number(class_map):
    pytest.importorskip("rioxarray")
    array = read_class_map(class_map[0], ["a", "", "c"], [(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    assert list(legend_of(show_map(array))) == ["a", "class_1"]


def test_map_has_its_colours_and_names(class_map):
    pytest.importorskip("rioxarray")
    path, labels = class_map
    colours = [(17, 34, 51), (68, 85, 102), (1, 2, 3)]
    axes = show_map(read_class_map(path, ["field", "road", "absent"], colours))
    wanted = np.array([*colours, *[(255, 255, 255)] * 253], np.uint8)[labels]
    np.testing.assert_array_equal(picture(axes), wanted)
    assert legend_of(axes) == {"field": colours[0], "road": colours[1]}
    assert scale_bar(axes)[0] == "20 m"
    assert show_map(path, legend=False).get_legend() is None


def test_map_without_names(class_map):
    path, labels = class_map
    for given in (path, labels):
        axes = show_map(given)
        assert list(legend_of(axes)) == ["class_0", "class_1"]
        shown = picture(axes)
        assert (shown[labels == 255] == 255).all()
        assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 3


def test_values_of_a_map_may_be_large_or_below_zero(tmp_path):
    values = np.array([[[-3, 7], [1_000_000, 7]]], np.int32)
    axes = show_map(write(tmp_path / "a.tif", values))
    assert list(legend_of(axes)) == ["class_7", "class_1000000"]
    shown = picture(axes)
    assert (shown[0, 0] == 255).all()
    assert (shown[0, 1] == shown[1, 1]).all() and (shown[1, 0] != shown[1, 1]).any()


def test_grid_that_grows_to_the_north_is_turned(tmp_path, values):
    north = rasterio.Affine(2, 0, LEFT, 0, 2, BOTTOM)
    axes = show_scene(write(tmp_path / "a.tif", values[:, ::-1], transform=north))
    assert axes.get_images()[0].get_extent() == [LEFT, RIGHT, BOTTOM, TOP]
    np.testing.assert_array_equal(picture(axes), stretch_to_rgb(values))


def test_reduced_map_shows_classes_that_are_there(class_map):
    path, _ = class_map
    axes = show_map(path, pixels=7)
    colours = {tuple(c) for c in picture(axes).reshape(-1, 3)}
    assert len(colours) == 3  # no mixture of two classes


def test_what_is_no_map_is_refused(tmp_path, values):
    with pytest.raises(SceneError, match="not a class map"):
        show_map(write(tmp_path / "a.tif", values))
    with pytest.raises(SceneError, match="is not a map"):
        show_map(3)
