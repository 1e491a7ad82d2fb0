import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rio_cogeo import cog_validate

from hook.errors import SceneError
from hook.scenes import ClassMapSink, ProbabilitySink, RowBlock, SceneGeometry
from hook.scenes.sinks import PROBABILITY_NODATA, map_dtype
from hook.scenes.staging import StagedFiles
from hook.scenes.styles import default_class_names, default_palette

ROTATED = Affine(0.4, 0.1, 300000, 0.1, -0.5, 3000000)


def write(sink_class, output, scores, valid, rows=100, transform=ROTATED, **options):
    geometry = SceneGeometry(*valid.shape, rasterio.CRS.from_epsg(32645), transform)
    with StagedFiles() as files:
        sink = sink_class(
            files, output, geometry, class_names=default_class_names(len(scores)), **options
        )
        try:
            for start in range(0, len(valid), rows):
                stop = start + rows
                sink.write(RowBlock(start, scores[:, start:stop], valid[start:stop]))
            sink.finish()
        finally:
            sink.close()
        files.commit()
    return sink


def scores_and_valid(num_classes, height, width):
    rng = np.random.default_rng(0)
    return rng.random((num_classes, height, width), np.float32), rng.random((height, width)) > 0.2


@pytest.mark.parametrize("num_classes, dtype, nodata", [(3, "uint8", 255), (300, "uint16", 65535)])
def test_class_map_is_a_complete_cog(tmp_path, num_classes, dtype, nodata):
    scores, valid = scores_and_valid(num_classes, 70, 90)
    if num_classes == 3:
        scores, valid = scores_and_valid(num_classes, 1100, 600)
    palette = default_palette(num_classes)
    output = tmp_path / "map.tif"
    sink = write(ClassMapSink, output, scores, valid, palette=palette)
    expected = np.where(valid, scores.argmax(axis=0), nodata)
    with rasterio.open(output) as source:
        np.testing.assert_array_equal(source.read(1), expected)
        np.testing.assert_array_equal(source.read_masks(1) > 0, valid)
        assert source.dtypes == (dtype,) and source.nodata == nodata
        assert source.crs.to_epsg() == 32645 and source.transform == ROTATED
        assert source.block_shapes == [(512, 512)] and source.compression.value == "DEFLATE"
        assert source.descriptions == ("class",)
        colormap = source.colormap(1)
        assert [colormap[i][:3] for i in range(num_classes)] == palette
        assert all(colormap[i][3] == 255 for i in range(num_classes)) and colormap[nodata][3] == 0
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.overviews(1) == ([2, 4] if num_classes == 3 else [])
    assert cog_validate(output, strict=True, quiet=True)[0]
    counts = np.bincount(expected[valid], minlength=num_classes)
    np.testing.assert_array_equal(sink.class_pixels, counts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.qml", "map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize("size", [(513, 512), (1100, 1024), (2049, 512), (2100, 1023), (512, 900)])
def test_valid_where_an_overview_is_as_wide_as_a_block(tmp_path, size):
    scores, valid = np.ones((1, *size), np.float32), np.ones(size, bool)
    write(ClassMapSink, tmp_path / "map.tif", scores, valid, palette=default_palette(1))
    assert cog_validate(tmp_path / "map.tif", strict=True, quiet=True)[0]


def test_overviews_hold_classes_only(tmp_path):
    # Averaging classes 0 and 2 would give 1, which is nowhere.
    scores = np.zeros((3, 1100, 600), np.float32)
    scores[0, :, ::2] = scores[2, :, 1::2] = 1
    valid = np.ones((1100, 600), bool)
    write(ClassMapSink, tmp_path / "map.tif", scores, valid, palette=default_palette(3))
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as source:
        assert set(np.unique(source.read(1))) <= {0, 2}


def test_probabilities_are_steps_of_a_scale(tmp_path):
    scores, valid = scores_and_valid(4, 700, 530)
    scores /= scores.sum(axis=0)
    write(ProbabilitySink, tmp_path / "p.tif", scores, valid, rows=64)
    with rasterio.open(tmp_path / "p.tif") as source:
        stored = source.read()
        assert source.descriptions == tuple(default_class_names(4))
        assert source.nodata == PROBABILITY_NODATA and source.offsets == (0,) * 4
        real = stored * source.scales[0]
        np.testing.assert_array_equal(source.read_masks() > 0, np.broadcast_to(valid, stored.shape))
    assert np.abs(real - scores)[:, valid].max() <= 0.5 * 0.004 + 1e-6
    assert cog_validate(tmp_path / "p.tif", strict=True, quiet=True)[0]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25])
def test_constant_probabilities_are_exact(tmp_path, value):
    scores = np.full((1, 5, 5), value, np.float32)
    write(ProbabilitySink, tmp_path / "p.tif", scores, np.ones((5, 5), bool))
    with rasterio.open(tmp_path / "p.tif") as source:
        assert (source.read() == round(value * 250)).all()


def test_scores_that_are_no_probabilities_are_refused(tmp_path):
    scores = np.full((1, 5, 5), 3, np.float32)
    with pytest.raises(SceneError, match="softmax"):
        write(ProbabilitySink, tmp_path / "p.tif", scores, np.ones((5, 5), bool))
    assert not list(tmp_path.iterdir())


def test_missing_rows_are_an_error(tmp_path):
    scores, valid = scores_and_valid(2, 30, 30)
    geometry = SceneGeometry(31, 30, None, Affine.identity())
    with StagedFiles() as files:
        sink = ProbabilitySink(files, tmp_path / "p.tif", geometry, class_names=["a", "b"])
        sink.write(RowBlock(0, scores, valid))
        with pytest.raises(SceneError, match=r"p\.tif: incomplete"):
            sink.finish()
        sink.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{"compress": "FOO"}, {"COMPRESS": "JPEG"}, {"BLOCKSIZE": 7}, {"COMPRES": "ZSTD"}]
)
def test_impossible_creation_options_are_refused_at_once(tmp_path, options):
    with pytest.raises(SceneError, match="creation options"):
        write(
            ClassMapSink,
            tmp_path / "map.tif",
            *scores_and_valid(2, 4, 4),
            palette=default_palette(2),
            creation_options=options,
        )
    assert not list(tmp_path.iterdir())


def test_creation_options_reach_gdal(tmp_path):
    options = {"compress": "LZW", "BLOCKSIZE": 256}
    scores, valid = scores_and_valid(2, 4, 4)
    write(ProbabilitySink, tmp_path / "p.tif", scores, valid, creation_options=options)
    with rasterio.open(tmp_path / "p.tif") as source:
        assert source.compression.value == "LZW" and source.block_shapes[0] == (256, 256)


def test_dtype_and_nodata_of_a_map():
    assert map_dtype(254, None) == ("uint8", 255)
    assert map_dtype(255, None) == ("uint16", 65535)
    assert map_dtype(4, 100) == ("uint8", 100)
    for num_classes, nodata in ((4, 3), (4, 256), (4, -1), (300, 255), (0, None), (70000, None)):
        with pytest.raises(SceneError, match="expected"):
            map_dtype(num_classes, nodata)
