import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rio_cogeo import cog_validate
from scipy.stats import entropy

from hook.errors import SceneError
from hook.geo.staging import StagedFiles
from hook.geo.styles import default_class_names, distinct_palette
from hook.scenes import ClassLayer, RowBlock, SceneGeometry, ScoreLayer
from hook.scenes.layers import SCORE_NODATA, Part, PartFile, try_options, write_cog

ROTATED = Affine(0.4, 0.1, 300000, 0.1, -0.5, 3000000)


def write(layer_class, output, scores, valid, rows=100, transform=ROTATED, **options):
    """Write scores as a layer in parts of some rows; return how often each value is there."""
    geometry = SceneGeometry(*valid.shape, rasterio.CRS.from_epsg(32645), transform)
    names = default_class_names(len(scores))
    layer = layer_class(output, class_names=names, **options)
    with StagedFiles() as files:
        staged = layer.add_to(files)
        try_options(layer, geometry)
        parts = []
        for start in range(0, len(valid), rows):
            block = RowBlock(start, scores[:, start : start + rows], valid[start : start + rows])
            count = len(block.valid)
            file = PartFile(staged.parent / f"{start}.tif", layer, count, valid.shape[1])
            encoded = layer.encode(block)
            file.write(encoded[:, :33])
            file.write(encoded[:, 33:])
            file.finish()
            parts.append(Part(start, count, file.path))
        counts = write_cog(staged, layer, geometry, parts, staged.parent)
        layer.finish()
        files.commit()
    return counts


def scores_and_valid(num_classes, height, width):
    rng = np.random.default_rng(0)
    return rng.random((num_classes, height, width), np.float32), rng.random((height, width)) > 0.2


@pytest.mark.parametrize(
    "num_classes, dtype, nodata",
    [(3, "uint8", 255), (255, "uint8", 255), (256, "uint16", 65535), (300, "uint16", 65535)],
)
def test_class_map_is_a_complete_cog(tmp_path, num_classes, dtype, nodata):
    scores, valid = scores_and_valid(num_classes, 70, 90)
    if num_classes == 3:
        scores, valid = scores_and_valid(num_classes, 1100, 600)
    palette = [tuple(colour) for colour in distinct_palette(num_classes)]
    output = tmp_path / "map.tif"
    found = write(ClassLayer, output, scores, valid, palette=palette)
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
    np.testing.assert_array_equal(found, np.bincount(expected.ravel(), minlength=len(found)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.qml", "map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize("size", [(513, 512), (1100, 1024), (2049, 512), (2100, 1023), (512, 900)])
def test_valid_where_an_overview_is_as_wide_as_a_block(tmp_path, size):
    scores, valid = np.ones((1, *size), np.float32), np.ones(size, bool)
    write(ClassLayer, tmp_path / "map.tif", scores, valid, palette=distinct_palette(1))
    assert cog_validate(tmp_path / "map.tif", strict=True, quiet=True)[0]


def test_overviews_hold_classes_only(tmp_path):
    # Averaging classes 0 and 2 would give 1, which is nowhere.
    scores = np.zeros((3, 1100, 600), np.float32)
    scores[0, :, ::2] = scores[2, :, 1::2] = 1
    valid = np.ones((1100, 600), bool)
    write(ClassLayer, tmp_path / "map.tif", scores, valid, palette=distinct_palette(3))
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as source:
        assert set(np.unique(source.read(1))) <= {0, 2}


def test_probabilities_are_steps_of_a_scale(tmp_path):
    scores, valid = scores_and_valid(4, 700, 530)
    scores /= scores.sum(axis=0)
    write(ScoreLayer, tmp_path / "p.tif", scores, valid, rows=64)
    with rasterio.open(tmp_path / "p.tif") as source:
        stored = source.read()
        assert source.descriptions == tuple(default_class_names(4))
        assert source.nodata == SCORE_NODATA and source.offsets == (0,) * 4
        real = stored * source.scales[0]
        np.testing.assert_array_equal(source.read_masks() > 0, np.broadcast_to(valid, stored.shape))
    assert np.abs(real - scores)[:, valid].max() <= 0.5 * 0.004 + 1e-6
    assert cog_validate(tmp_path / "p.tif", strict=True, quiet=True)[0]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25])
def test_constant_probabilities_are_exact(tmp_path, value):
    scores = np.full((1, 5, 5), value, np.float32)
    write(ScoreLayer, tmp_path / "p.tif", scores, np.ones((5, 5), bool))
    with rasterio.open(tmp_path / "p.tif") as source:
        assert (source.read() == round(value * 250)).all()


def test_scores_that_are_no_probabilities_are_refused(tmp_path):
    scores = np.full((1, 5, 5), 3, np.float32)
    with pytest.raises(SceneError, match="softmax"):
        write(ScoreLayer, tmp_path / "p.tif", scores, np.ones((5, 5), bool))
    assert not list(tmp_path.iterdir())


def test_missing_rows_are_an_error(tmp_path):
    layer = ScoreLayer(tmp_path / "p.tif", class_names=["a", "b"])
    file = PartFile(tmp_path / "part.tif", layer, 31, 30)
    file.write(np.zeros((2, 30, 30), np.uint8))
    with pytest.raises(SceneError, match=r"part\.tif: incomplete"):
        file.finish()
    geometry = SceneGeometry(31, 30, None, Affine.identity())
    for parts in ([Part(0, 30, file.path)], [Part(1, 30, file.path)], []):
        with pytest.raises(SceneError, match=r"p\.tif: incomplete"):
            write_cog(tmp_path / "p.tif", layer, geometry, parts, tmp_path)
    assert not (tmp_path / "p.tif").exists()


def test_entropy_and_margin_are_those_of_scipy_and_numpy(tmp_path):
    scores, valid = scores_and_valid(5, 40, 30)
    scores /= scores.sum(axis=0)
    scores[:, 0, 0], valid[0, 0] = [1, 0, 0, 0, 0], True
    scores[:, 0, 1], valid[0, 1] = 0.2, True
    kinds = ("margin", "probs", "entropy")
    write(ScoreLayer, tmp_path / "p.tif", scores, valid, kinds=kinds)
    with rasterio.open(tmp_path / "p.tif") as source:
        assert source.descriptions == ("margin", *default_class_names(5), "entropy")
        real = source.read() * source.scales[0]
    ordered = np.sort(scores, axis=0)
    expected = entropy(scores, axis=0) / np.log(5)
    assert np.abs(real[0] - (ordered[-1] - ordered[-2]))[valid].max() <= 0.002 + 1e-6
    assert np.abs(real[-1] - expected)[valid].max() <= 0.002 + 1e-6
    assert (real[0, 0, 0], real[-1, 0, 0]) == (1, 0)
    assert (real[0, 0, 1], real[-1, 0, 1]) == (0, 1)


@pytest.mark.parametrize("kinds", [[], ["sure"], ["probs", "probs"]])
def test_unknown_scores_are_refused(tmp_path, kinds):
    with pytest.raises(SceneError, match="probs, entropy, margin"):
        ScoreLayer(tmp_path / "p.tif", class_names=["a"], kinds=kinds)


def test_files_that_may_pass_four_gigabytes_are_big_tiff(tmp_path):
    """GDAL cannot know a compressed file's size beforehand: above 2 GB of values it is BigTIFF."""
    geometry = SceneGeometry(46_500, 46_500, rasterio.CRS.from_epsg(32645), ROTATED)
    palette = distinct_palette(2)
    layer = ClassLayer(tmp_path / "map.tif", class_names=["a", "b"], palette=palette)
    options = layer.options(geometry)
    # Its own driver for GeoTIFF heeds the option as that for COG does, and can leave blocks out.
    profile = dict(
        driver="GTiff", width=46_500, height=46_500, count=1, dtype="uint8", transform=ROTATED
    )
    kept = {name: options[name] for name in ("BIGTIFF", "COMPRESS")}
    magic = {}
    for size in (400, 46_500):
        path = tmp_path / f"{size}.tif"
        with rasterio.open(
            path, "w", **profile | dict(width=size, height=size), **kept, SPARSE_OK=True
        ):
            pass
        magic[size] = int.from_bytes(path.read_bytes()[2:4], "little")
    assert magic == {400: 42, 46_500: 43}


@pytest.mark.parametrize(
    "options", [{"compress": "FOO"}, {"COMPRESS": "JPEG"}, {"BLOCKSIZE": 7}, {"COMPRES": "ZSTD"}]
)
def test_impossible_creation_options_are_refused_at_once(tmp_path, options):
    with pytest.raises(SceneError, match="creation options"):
        write(
            ClassLayer,
            tmp_path / "map.tif",
            *scores_and_valid(2, 4, 4),
            palette=distinct_palette(2),
            creation_options=options,
        )
    assert not list(tmp_path.iterdir())


def test_creation_options_reach_gdal(tmp_path):
    options = {"compress": "LZW", "BLOCKSIZE": 256}
    scores, valid = scores_and_valid(2, 4, 4)
    write(ScoreLayer, tmp_path / "p.tif", scores, valid, creation_options=options)
    with rasterio.open(tmp_path / "p.tif") as source:
        assert source.compression.value == "LZW" and source.block_shapes[0] == (256, 256)
