import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from hook.apis import (
    RegionExtractor,
    SceneMapper,
    class_statistics,
    embed_chip,
    load_model,
    show_tokens,
    tokenize,
)
from hook.errors import ConfigError, DataError
from hook.geo.arrays import raster_file

rioxarray = pytest.importorskip("rioxarray", reason="pip install 'hook-rs[xarray]'")
xarray = pytest.importorskip("xarray")
OPTIONS = dict(window=32, progress=False)


@pytest.fixture(scope="module")
def scene(scenes):
    return scenes / "images" / "first.tif"


@pytest.fixture(scope="module")
def array(scene):
    """The scene as rioxarray reads it."""
    with rioxarray.open_rasterio(scene) as source:
        return source.load()


@pytest.fixture(scope="module")
def mapper(seg_run):
    return SceneMapper(seg_run)


@pytest.fixture(scope="module")
def mapped(mapper, scene, tmp_path_factory):
    """The map that the engine writes of the file."""
    path = tmp_path_factory.mktemp("map") / "map.tif"
    mapper.map(scene, path, **OPTIONS)
    return path


# ---------------------------------------------------------------------------------- files
def test_a_data_array_is_written_as_it_was_read(array, scene):
    with raster_file(array) as path, rasterio.open(path) as got, rasterio.open(scene) as wanted:
        assert (got.crs, got.transform, got.nodata) == (wanted.crs, wanted.transform, wanted.nodata)
        assert got.descriptions == wanted.descriptions
        np.testing.assert_array_equal(got.read(), wanted.read())
    assert not path.exists()


def test_what_rioxarray_knows_is_known_without_it(array, scene):
    """CRS and nodata by CF attributes, the grid by coordinates, south up and bands last too."""
    plain = xarray.DataArray(
        array.values.transpose(1, 2, 0)[::-1],
        dims=("lat", "lon", "band"),
        coords=dict(lat=array.y.values[::-1], lon=array.x.values, band=["nir", "red"]),
        attrs=dict(crs="EPSG:32633", _FillValue=0),
    )
    with raster_file(plain) as path, rasterio.open(path) as got, rasterio.open(scene) as wanted:
        assert got.crs == wanted.crs and got.nodata == 0 and got.descriptions == ("nir", "red")
        assert got.transform.e == -wanted.transform.e
        np.testing.assert_array_equal(got.read()[:, ::-1], wanted.read())


def test_masked_values_are_no_data(scene, mapper, mapped):
    with rioxarray.open_rasterio(scene, masked=True) as source:
        found = mapper.map(source.load(), **OPTIONS)
    with rasterio.open(mapped) as wanted:
        np.testing.assert_array_equal(found.values, wanted.read(1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3, 4, 5)), "not an image"),
        (np.zeros((0, 3, 4)), "not an image"),
        (np.zeros((2, 3, 4), complex), "not an image"),
        (np.full((2, 3, 4), 2**40), "not an image"),
        (xarray.DataArray(np.zeros((2, 3)), dims=("time", "x")), "not an image"),
        (
            xarray.DataArray(np.zeros((2, 3)), dims=("y", "x"), coords=dict(x=[0, 1, 5])),
            None,
        ),
        (
            xarray.DataArray(np.zeros((2, 3)), dims=("y", "x"), coords=dict(x=[0, 1, 5], y=[1, 0])),
            "not on a regular grid along x",
        ),
        (
            xarray.DataArray(np.zeros((2, 3)), dims=("y", "x"), attrs=dict(crs="EPSG:nothing")),
            "CRS is invalid",
        ),
    ],
)
def test_what_is_no_image(values, message):
    if message is None:  # coordinates of one axis alone place nothing
        with raster_file(values) as path, rasterio.open(path) as source:
            assert source.transform.is_identity
        return
    with pytest.raises(DataError, match=message) as caught, raster_file(values):
        pass
    assert "remedy" in str(caught.value)


# ---------------------------------------------------------------------------------- maps
def test_arrays_in_and_out_are_the_files_map(mapper, array, mapped):
    found = mapper.map(array, **OPTIONS)
    with rasterio.open(mapped) as wanted:
        np.testing.assert_array_equal(found.values, wanted.read(1))
        assert found.rio.crs == wanted.crs and found.rio.transform() == wanted.transform
        assert found.rio.nodata == wanted.nodata == 255
    assert found.dims == ("y", "x") and found.attrs["classes"] == ["water", "field", "town"]
    assert found.attrs["palette"][2] == [200, 0, 0] and found.attrs["flag_values"] == [0, 1, 2]


def test_the_map_of_an_array_can_be_written(mapper, array, mapped, tmp_path):
    mapper.map(array, tmp_path / "map.tif", vectors=tmp_path / "map.gpkg", **OPTIONS)
    with rasterio.open(tmp_path / "map.tif") as got, rasterio.open(mapped) as wanted:
        np.testing.assert_array_equal(got.read(1), wanted.read(1))
    assert len(geopandas.read_file(tmp_path / "map.gpkg"))
    mapper.map(array, **OPTIONS).rio.to_raster(tmp_path / "back.tif")
    with rasterio.open(tmp_path / "back.tif") as got, rasterio.open(mapped) as wanted:
        np.testing.assert_array_equal(got.read(1), wanted.read(1))


def test_numpy_values_have_no_place(mapper, array, mapped, recwarn):
    values = array.sel(band=[2, 1]).values  # the model's order: red, nir
    found = mapper.map(values, nodata=0, **OPTIONS)
    with rasterio.open(mapped) as wanted:
        np.testing.assert_array_equal(found.values, wanted.read(1))
    assert found.rio.crs is None
    assert not [w for w in recwarn if "georeferenced" in str(w.message).lower()]


def test_a_file_without_an_output_is_an_array_too(mapper, scene, array):
    assert mapper.map(scene, **OPTIONS).equals(mapper.map(array, **OPTIONS))


def test_an_area_of_interest_as_a_table(mapper, array):
    left, bottom, right, top = array.rio.bounds()
    half = geopandas.GeoDataFrame(
        geometry=[shapely.box(left, bottom, (left + right) / 2, top)], crs=array.rio.crs
    )
    found = mapper.map(array, aoi=half.to_crs("EPSG:4326"), **OPTIONS)
    assert found.sizes["x"] == pytest.approx(array.sizes["x"] / 2, abs=1)


def test_what_files_alone_can_do(mapper, array, tmp_path):
    with pytest.raises(ConfigError, match="resume needs files"):
        mapper.map(array, tmp_path / "map.tif", resume=True, **OPTIONS)
    with pytest.raises(ConfigError, match="scores need a file"):
        mapper.map(array, scores="probs", **OPTIONS)
    mapper.map(array, scores="probs", scores_path=tmp_path / "scores.tif", **OPTIONS)
    assert (tmp_path / "scores.tif").is_file()
    assert "windows" in str(mapper.map(array, dry_run=True, **OPTIONS)).lower()


def test_without_xarray_the_extra_is_named(mapper, scene, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "rioxarray", None)
    with pytest.raises(ConfigError, match="xarray is not installed") as caught:
        mapper.map(scene, **OPTIONS)
    assert "hook-rs[xarray]" in str(caught.value)


# ---------------------------------------------------------------------------------- the rest
def test_regions_of_an_array_are_those_of_the_file(seg_run, array, scene, tmp_path):
    extractor = RegionExtractor(seg_run)
    extractor.extract(scene, tmp_path / "regions.parquet", **OPTIONS)
    wanted = geopandas.read_parquet(tmp_path / "regions.parquet")
    found = extractor.extract(array, **OPTIONS)
    assert isinstance(found, geopandas.GeoDataFrame) and found.crs == wanted.crs
    assert found.geometry.geom_equals(wanted.geometry).all()
    np.testing.assert_array_equal(np.stack(found.embedding), np.stack(wanted.embedding))


def test_tokens_and_pictures_of_an_array(seg_run, array, tmp_path):
    model = load_model(seg_run)
    chip = array.isel(y=slice(32, 64), x=slice(16, 48))
    path = tmp_path / "chip.tif"
    chip.rio.to_raster(path)
    with rasterio.open(path, "r+") as dst:
        dst.descriptions = ("nir", "red")
    np.testing.assert_array_equal(tokenize(model, chip).tokens, tokenize(model, path).tokens)
    np.testing.assert_array_equal(embed_chip(model, chip), embed_chip(model, path))
    pictures = [np.asarray(show_tokens(model, image)) for image in (chip.rename(path.name), path)]
    np.testing.assert_array_equal(*pictures)


def test_zones_as_a_table(mapped):
    with rasterio.open(mapped) as source:
        left, bottom, right, top = source.bounds
        crs = source.crs
    zones = geopandas.GeoDataFrame(
        dict(name=["all"]), geometry=[shapely.box(left, bottom, right, top)], crs=crs
    )
    rows = class_statistics(mapped, zones=zones, zone_field="name", progress=False)
    whole = class_statistics(mapped, progress=False)
    assert set(rows.zone) == {"all"}
    assert rows.pixels.tolist() == whole.pixels.tolist()


def test_a_dataset_is_told_from_its_arrays(seg_run, array):
    mapper = SceneMapper(seg_run)
    with pytest.raises(DataError, match=r"xarray\.Dataset was given") as caught:
        mapper.map(array.to_dataset(name="reflectance"), progress=False)
    assert "reflectance" in str(caught.value)
