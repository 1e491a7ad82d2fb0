"""Values and validity of bands, compared with rasterio's own warping and with rioxarray."""

import itertools

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window

from hook.errors import DataError
from hook.geo.band_reader import BandReader, PixelGrid

HOLE = np.s_[6:14, 8:20]
ALL = Window(0, 0, 30, 20)


@pytest.fixture
def image(rng):
    return rng.integers(20, 200, (3, 20, 30), dtype=np.uint8)


@pytest.fixture
def marked(tmp_path, image, write_raster):
    """Write an image with a hole that is marked in one of several ways, and an untagged copy."""

    def write(kind):
        values, options, alpha = image.copy(), {}, None
        if kind == "nodata":
            values[:, *HOLE], options = 7, dict(nodata=7)
        elif kind in ("NaN", "infinity"):
            values = values.astype(np.float32)
            values[:, *HOLE] = np.nan if kind == "NaN" else -np.inf
        elif kind == "alpha":
            alpha = np.full((1, 20, 30), 255, np.uint8)
            alpha[:, *HOLE] = 0
            values = np.concatenate([values, alpha])
        elif kind == "nodata of each band":
            for band, value in enumerate((7, 9, 11)):
                values[band][HOLE] = value
        path = write_raster(tmp_path / "marked.tif", values, photometric="minisblack", **options)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
            if alpha is not None:
                kinds = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
                target.colorinterp = kinds
            if kind == "mask":
                mask = np.ones((20, 30), bool)
                mask[HOLE] = False
                target.write_mask(mask)
        return vrt_with_nodata(path, (7, 9, 11)) if kind == "nodata of each band" else path

    return write


def vrt_with_nodata(path, values):
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>{value}</NoDataValue>'
        f"<SimpleSource><SourceFilename>{path}</SourceFilename><SourceBand>{band}</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
        for band, value in enumerate(values, 1)
    )
    with rasterio.open(path) as source:
        place = ",".join(map(str, source.transform.to_gdal()))
        size = f'rasterXSize="{source.width}" rasterYSize="{source.height}"'
    vrt = path.replace(".tif", ".vrt")
    with open(vrt, "w") as file:
        file.write(
            f"<VRTDataset {size}><SRS>EPSG:32633</SRS><GeoTransform>{place}</GeoTransform>"
            f"{bands}</VRTDataset>"
        )
    return vrt


def warp(values, source, grid, method, nodata=None):
    """Warp a whole array with rasterio, without approximation."""
    target = np.zeros((len(values), 40, 50), values.dtype)
    scale = source.res[0] / grid.transform.a
    for band, out in zip(values, target, strict=True):
        rasterio.warp.reproject(
            band, out, src_transform=source.transform, src_crs=source.crs, src_nodata=nodata,
            dst_transform=grid.transform, dst_crs=grid.crs, dst_nodata=nodata, resampling=method,
            tolerance=0, XSCALE=scale, YSCALE=scale,
        )  # fmt: skip
    return target


def grid_of(source, crs, size):
    """A grid of 40 x 50 pixels around a raster."""
    corner = rasterio.warp.transform(source.crs, crs, [500000], [5200000])
    transform = rasterio.transform.from_origin(corner[0][0] - 40.7, corner[1][0] + 60.3, size, size)
    return PixelGrid(rasterio.CRS.from_string(crs), transform, 50, 40)


KINDS = ["nodata", "NaN", "infinity", "alpha", "mask", "nodata of each band"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("crs", "size"), [("EPSG:32633", 7), ("EPSG:32632", 10), ("EPSG:3857", 9)])
def test_nearest_neighbours_keep_values_and_holes(marked, image, kind, crs, size):
    path = marked(kind)
    with rasterio.open(path) as source:
        grid = grid_of(source, crs, size)
        reader = BandReader(source, [3, 1], grid=grid)
        values, valid = reader.read(Window(0, 0, 50, 40))
        part, part_valid = reader.read(Window(11, 5, 20, 17))
        wanted = warp(image[[2, 0]], source, grid, Resampling.nearest)
        known = np.ones((1, 20, 30), np.uint8)
        known[:, *HOLE] = 0
        expected = warp(known, source, grid, Resampling.nearest) > 0
    assert expected.any() and 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(valid, expected.repeat(2, axis=0))
    np.testing.assert_array_equal(values[valid], wanted[valid])
    np.testing.assert_array_equal(part, values[:, 5:22, 11:31])
    np.testing.assert_array_equal(part_valid, valid[:, 5:22, 11:31])


@pytest.mark.parametrize(
    ("kind", "size"), [*itertools.product(KINDS, [7, 10]), ("nodata of each band", 26)]
)
def test_interpolation_uses_the_valid_pixels_of_each_band(marked, image, kind, size):
    path = marked(kind)
    with rasterio.open(path) as source:
        grid = grid_of(source, "EPSG:32633", size)
        reader = BandReader(source, [1, 2, 3], grid=grid, resampling=Resampling.bilinear)
        values, valid = reader.read(Window(0, 0, 50, 40))
        holed = image.astype(np.float32)
        holed[:, *HOLE] = np.nan
        wanted = warp(holed, source, grid, Resampling.bilinear, np.nan)
    known = valid & np.isfinite(wanted)
    assert known.sum() > 0.85 * np.isfinite(wanted).sum() and known.sum() > 0.9 * valid.sum()
    assert np.abs(values[known] - wanted[known]).max() <= 0.51
    # No value of the hole itself, such as 7, reaches a pixel.
    assert values[valid].min() >= 20


def test_fine_files_are_read_in_parts(monkeypatch, marked):
    path = marked("nodata")
    with rasterio.open(path) as source:
        grid = grid_of(source, "EPSG:32633", 40)
        whole = BandReader(source, [1], grid=grid).read(Window(0, 0, 50, 40))
        monkeypatch.setattr("hook.geo.band_reader._MAX_PIXELS", 30)
        parts = BandReader(source, [1], grid=grid).read(Window(0, 0, 50, 40))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def tagged(tmp_path, image, write_raster):
    """Write an image with scale and offset tags of each band."""

    def write(scales=(0.5, 0.25, 2.0), offsets=(10.0, -3.0, 0.0)):
        values = image.copy()
        values[:, *HOLE] = 0
        path = write_raster(tmp_path / "tagged.tif", values, nodata=0)
        with rasterio.open(path, "r+") as target:
            target.scales, target.offsets = scales, offsets
        return path

    return write


def test_scale_and_offset_tags_are_applied(tagged, image):
    rioxarray = pytest.importorskip("rioxarray")
    path = tagged((0.5,) * 3, (10.0,) * 3)
    with rasterio.open(path) as source:
        reader = BandReader(source, [2, 1])
        values, valid = reader.read(ALL)
    with rioxarray.open_rasterio(path, mask_and_scale=True) as scaled:
        wanted = scaled.values[[1, 0]]
    assert values.dtype == reader.dtype == np.float32
    np.testing.assert_array_equal(valid, np.isfinite(wanted))  # nodata is of the stored values
    np.testing.assert_array_equal(values[valid], wanted[valid].astype(np.float32))


@pytest.mark.parametrize(
    "meta",
    [{}, {"scale": None, "offset": None}, {"scale": 1.0, "offset": 0.0}, {"scale": [1, 1, 1]}],
)
def test_tags_of_each_band(tagged, image, meta):
    with rasterio.open(tagged()) as source:
        values, valid = BandReader(source, [1, 2, 3], metainfo=meta).read(ALL)
    scale, offset = np.array([0.5, 0.25, 2]), np.array([10, -3, 0])
    wanted = image * scale[:, None, None] + offset[:, None, None]
    np.testing.assert_array_equal(values[valid], wanted[valid])


def test_tags_that_the_dataset_meta_repeats_are_applied_once(tagged, image):
    meta = dict(scale=[0.5, 0.25, 2.0], offset=[10.0, -3.0, 0.0])
    with rasterio.open(tagged()) as source:
        values, valid = BandReader(source, [1, 2, 3], metainfo=meta).read(ALL)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values[valid], image[valid])


@pytest.mark.parametrize(
    ("scales", "meta"),
    [
        ((0.5, 0.25, 2.0), {"scale": 0.01}),
        ((0.5, 0.25, 2.0), {"offset": 1}),
        ((0.5, 0.0, 2.0), {}),
        ((0.5, np.nan, 2.0), {}),
    ],
)
def test_tags_that_contradict_the_dataset_meta_are_refused(tagged, scales, meta):
    with rasterio.open(tagged(scales)) as source:
        with pytest.raises(DataError, match=r"tagged\.tif: scale and offset tags") as caught:
            BandReader(source, [1, 2, 3], metainfo=meta)
    assert "scale 0.5" in str(caught.value) and "gdal_translate" in caught.value.remedy


def test_a_netcdf_or_virtual_file_has_tags_too(tmp_path, tagged, image):
    path = tagged((0.5,) * 3, (10.0,) * 3)
    for driver in ("VRT", "netCDF"):
        copy = str(tmp_path / f"copy.{driver}")
        try:
            rasterio.shutil.copy(path, copy, driver=driver)
        except (rasterio.errors.RasterioError, ValueError):
            pytest.skip(f"GDAL without {driver}")
        name = copy if driver == "VRT" else f"netcdf:{copy}:Band2"
        with rasterio.open(name) as source:
            band = 2 if driver == "VRT" else 1
            values, valid = BandReader(source, [band]).read(ALL)
        np.testing.assert_array_equal(values[valid], (image[1:2] * 0.5 + 10)[valid])


def test_bands_of_different_types_are_read_together(tmp_path, image, write_raster):
    first = write_raster(tmp_path / "byte.tif", image[:1])
    second = write_raster(tmp_path / "real.tif", image[1:2].astype(np.float32) / 3)
    vrt = tmp_path / "mixed.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{band}"><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand>"
        for band, (dtype, path) in enumerate((("Byte", first), ("Float32", second)), 1)
    )
    vrt.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{bands}</VRTDataset>')
    with rasterio.open(vrt) as source:
        values, _ = BandReader(source, [2, 1]).read(ALL)
    np.testing.assert_array_equal(values[1], image[0])
    np.testing.assert_array_equal(values[0], image[1].astype(np.float32) / 3)
