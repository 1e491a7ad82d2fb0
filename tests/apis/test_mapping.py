"""Scenes through a model: against the model itself, window by window."""

import base64
import hashlib
import json
import shutil
import warnings

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
import torch
from torchgeo.datasets import RasterDataset

from hook.apis import SceneMapper, load_model
from hook.engine.models import default_window
from hook.errors import ConfigError, DataError, HookError, SceneError
from hook.evaluation.prediction_writer import colour_table
from hook.geo.styles import distinct_palette
from hook.inference.windows import WindowPredictor


def test_a_scene_without_overlap_is_the_models_answer_per_window(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    scene = scenes / "images" / "first.tif"
    out, vectors = tmp_path / "map.tif", tmp_path / "map.gpkg"
    report = SceneMapper(model).map(scene, out, overlap=0, vectors=vectors, progress=False)
    with rasterio.open(scene) as source, rasterio.open(out) as result:
        image = source.read([2, 1]).astype(np.float32)
        valid = source.dataset_mask() > 0
        found = result.read(1)
        assert (result.crs, result.transform, result.shape) == (
            source.crs,
            source.transform,
            source.shape,
        )
        assert np.array_equal(found == result.nodata, ~valid)
        assert result.colormap(1)[2] == (200, 0, 0, 255)
    assert report.pixels == valid.sum()
    units = np.where(valid, image * np.float32(0.01), np.float32(1.3))
    inputs = (torch.from_numpy(units[None, :, :32, :32]) - 1.3) / 0.7
    meta = dict(ori_shape=(32, 32), img_shape=(32, 32), pad_shape=(32, 32))
    with torch.no_grad():
        scores = np.sort(model.inference(inputs, [meta]).softmax(1)[0].numpy(), axis=0)
        classes = model.inference(inputs, [meta])[0].argmax(0).numpy()
    clear = (scores[-1] - scores[-2] > 1e-4) & valid[:32, :32]
    assert clear.mean() > 0.8
    assert np.array_equal(found[:32, :32][clear], classes[clear])
    polygons = geopandas.read_file(vectors)
    assert polygons.area.sum() == pytest.approx(valid.sum() * 4)  # 2 m pixels
    assert set(polygons["class_name"]) <= {"water", "field", "town"}


def test_the_item_beside_a_map_tells_of_scene_and_model(seg_run, scenes, tmp_path):
    scene = scenes / "images" / "first.tif"
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        SceneMapper(seg_run).map(
            scene,
            tmp_path / name / "map.tif",
            overlap=0,
            vectors=tmp_path / name / "map.gpkg",
            datetime="2020-05-01/2020-05-02",
            progress=False,
        )
        texts.append((tmp_path / name / "map.json").read_text("utf-8"))
    assert texts[0] == texts[1]
    item = json.loads(texts[0])
    assert item["assets"]["vectors"]["href"] == "./map.gpkg"
    assert str(tmp_path) not in texts[0] and str(scenes) not in texts[0]
    properties = item["properties"]
    assert properties["start_datetime"] == "2020-05-01T00:00:00Z"
    assert properties["end_datetime"] == "2020-05-02T23:59:59Z"
    assert properties["mlm:tasks"] == ["semantic-segmentation"]
    assert properties["mlm:framework"] == "PyTorch"
    model = load_model(seg_run)
    assert properties["mlm:total_parameters"] == sum(p.numel() for p in model.parameters())
    entry = properties["mlm:input"][0]
    assert entry["input"]["shape"] == [-1, 2, 32, 32]
    assert entry["bands"] == list(model.dataset_meta["bands"])
    # What the schema of MLM 1.5.0 asks for besides: the model's file, and its bands.
    assert "https://stac-extensions.github.io/mlm/v1.5.0/schema.json" in item["stac_extensions"]
    assert "https://stac-extensions.github.io/eo/v1.1.0/schema.json" in item["stac_extensions"]
    assert entry["input"]["dim_order"] == ["batch", "bands", "height", "width"]
    asset = item["assets"]["model"]
    assert asset["roles"] == ["mlm:model"] and asset["mlm:artifact_type"] == "torch.save"
    assert asset["eo:bands"] == [{"name": "red"}, {"name": "nir"}]
    digest = base64.urlsafe_b64decode(asset["href"].removeprefix("ni:///sha-256;") + "=")
    assert digest == hashlib.sha256(seg_run[1].read_bytes()).digest()
    # The model's mean 1.3 and deviation 0.7 are in units of 0.01 of the file's values.
    scaling = {"type": "z-score", "mean": 130.0, "stddev": 70.0}
    assert entry["value_scaling"] == [scaling, scaling]
    result = properties["mlm:output"][0]
    assert result["result"]["shape"] == [-1, 3, 32, 32]
    assert [k["name"] for k in result["classification:classes"]] == ["water", "field", "town"]
    details = properties["mlm:hyperparameters"]
    assert details["checkpoint_sha256"] == hashlib.sha256(seg_run[1].read_bytes()).hexdigest()
    assert details["config"] == "tiny_seg"
    assert (details["window"], details["overlap"], details["blend"]) == (32, 0, "hann")
    with pytest.raises(SceneError, match="time of the scene"):
        SceneMapper(seg_run).map(scene, tmp_path / "x.tif", datetime="yesterday", progress=False)


def test_a_map_without_colours_of_its_own_has_those_of_every_picture(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    model.dataset_meta = {k: v for k, v in model.dataset_meta.items() if k != "palette"}
    out = tmp_path / "map.tif"
    SceneMapper(model).map(scenes / "images" / "first.tif", out, overlap=0, progress=False)
    # A loaded model may be another than its file: it is told of, but not named as an asset.
    item = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert "model" not in item["assets"] and "mlm:name" in item["properties"]
    assert not any("/mlm/" in extension for extension in item["stac_extensions"])
    with rasterio.open(out) as result:
        found = [list(result.colormap(1)[k][:3]) for k in range(3)]
    assert found == distinct_palette(3)
    assert found == [list(colour_table("abc")[k][:3]) for k in range(3)]


def test_predictor_gives_probabilities_in_evaluation_mode(seg_run):
    model = load_model(seg_run)
    assert default_window(model) == 32
    predict = WindowPredictor(model)
    windows = np.full((2, 2, 32, 32), 130, np.uint16)
    valid = np.ones((2, 32, 32), bool)
    scores = predict(windows, valid)
    assert scores.shape == (2, 3, 32, 32)
    assert scores.dtype == np.float32
    assert np.allclose(scores.sum(1), 1, atol=1e-5)
    # What is under an invalid pixel does not matter.
    valid[:, :8] = False
    windows_of_trash = windows.copy()
    windows_of_trash[:, :, :8] = 65535
    assert np.array_equal(predict(windows, valid), predict(windows_of_trash, valid))
    model.train()
    with pytest.raises(ConfigError, match="training mode"):
        WindowPredictor(model)


def test_tta_makes_the_map_follow_a_turn_of_the_scene(seg_run):
    predict = WindowPredictor(load_model(seg_run), tta="d4")
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 300, (1, 2, 32, 32)).astype(np.uint16)
    valid = np.ones((1, 32, 32), bool)
    turned = predict(np.rot90(windows, axes=(2, 3)).copy(), valid)
    assert np.allclose(np.rot90(predict(windows, valid), axes=(2, 3)), turned, atol=1e-5)


def test_bands_by_index(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    scene = scenes / "images" / "third.tif"
    maps = {}
    for name, bidx in (("named", None), ("same", [2, 1]), ("swapped", [1, 2])):
        SceneMapper(model).map(scene, tmp_path / f"{name}.tif", bidx=bidx, progress=False)
        maps[name] = rasterio.open(tmp_path / f"{name}.tif").read(1)
    assert np.array_equal(maps["named"], maps["same"])
    with pytest.raises(DataError, match="different number of bands"):
        SceneMapper(model).map(scene, tmp_path / "x.tif", bidx=[1], progress=False)


def test_bad_input(seg_run, scenes, tmp_path):
    scene = scenes / "images" / "first.tif"
    model = load_model(seg_run)
    with pytest.raises(DataError, match="none.tif cannot be read"):
        SceneMapper(model).map(scenes / "none.tif", tmp_path / "x.tif")
    with pytest.raises(DataError, match="masks"):
        SceneMapper(model).map(scenes / "masks" / "first.tif", tmp_path / "x.tif")
    (tmp_path / "old.tif").write_text("")
    with pytest.raises(SceneError, match="old.tif"):
        SceneMapper(model).map(scene, tmp_path / "old.tif", progress=False)
    (tmp_path / "old.gpkg").write_text("")
    with pytest.raises(ConfigError, match="old.gpkg exists"):
        SceneMapper(model).map(scene, tmp_path / "x.tif", vectors=tmp_path / "old.gpkg")
    # What cannot be written is refused before the scene is mapped.
    with pytest.raises(ConfigError, match="unknown vector format"):
        SceneMapper(model).map(scene, tmp_path / "x.tif", vectors=tmp_path / "x.shp")
    with pytest.raises(ConfigError, match="no/x.gpkg cannot be written"):
        SceneMapper(model).map(scene, tmp_path / "x.tif", vectors=tmp_path / "no" / "x.gpkg")
    with pytest.raises(ConfigError, match="windows of 3 x 3 pixels do not fit the model"):
        SceneMapper(model).map(scene, tmp_path / "x.tif", window=3, overlap=0, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.gpkg", "old.tif"]


def test_a_classification_gives_a_class_to_every_cell(cls_run, rgb_scene, tmp_path):
    model = load_model(cls_run)
    out = tmp_path / "map.tif"
    report = SceneMapper(model).map(
        rgb_scene, out, overlap=0, batch_size=2, scores="probs", progress=False
    )
    with rasterio.open(rgb_scene) as source:
        image = source.read()
        transform = source.transform
    with rasterio.open(out) as result, rasterio.open(tmp_path / "map.scores.tif") as scores:
        assert result.shape == (4, 6)
        assert result.transform.almost_equals(transform @ rasterio.Affine.scale(16))
        found, probabilities = result.read(1), scores.read() * scores.scales[0]
    predict = WindowPredictor(model)
    for row, column in np.ndindex(4, 6):
        window = image[:, row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16]
        answer = predict(np.repeat(window[None], 2, 0), np.ones((2, 16, 16), bool))[0]
        assert found[row, column] == answer.argmax()
        assert np.abs(probabilities[:, row, column] - answer).max() < 0.003
    assert report.pixels == 24
    SceneMapper(model).map(rgb_scene, tmp_path / "fine.tif", overlap=0.5, progress=False)
    with rasterio.open(tmp_path / "fine.tif") as result:
        assert result.shape == (8, 12)


@pytest.fixture
def rgb_scene(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (3, 64, 96)).astype(np.uint8)
    profile = dict(driver="GTiff", count=3, height=64, width=96, dtype="uint8", crs="EPSG:32633")
    place = rasterio.transform.from_origin(500000, 5300000, 2, 2)
    with rasterio.open(tmp_path / "rgb.tif", "w", **profile, transform=place) as target:
        target.write(values)
    return tmp_path / "rgb.tif"


def test_an_area_of_interest_as_file_table_or_box(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    scene = scenes / "images" / "first.tif"
    with rasterio.open(scene) as source:
        left, bottom, right, top = source.bounds
        crs = source.crs
    box = (left + 8, bottom + 20, right - 30, top - 16)  # pixels are 2 m wide
    area = geopandas.GeoDataFrame(geometry=[shapely.box(*box)], crs=crs)
    area.to_crs(4326).to_file(tmp_path / "area.gpkg")
    for name, aoi in (("box", box), ("table", area), ("file", tmp_path / "area.gpkg")):
        SceneMapper(model).map(scene, tmp_path / f"{name}.tif", aoi=aoi, progress=False)
        with rasterio.open(tmp_path / f"{name}.tif") as result:
            assert np.allclose(result.bounds, box, atol=2.01 if name == "file" else 1e-6)
    points = geopandas.GeoDataFrame(geometry=[shapely.Point(left, top)], crs=crs)
    for aoi, message in (
        (points, "has no area"),
        (tmp_path / "none.gpkg", "none.gpkg cannot be read"),
        ((1, 2, 0, 3), "is not a box"),
        ((0, 0, 1, 1), "outside the scene"),
    ):
        with pytest.raises(HookError, match=message):
            SceneMapper(model).map(scene, tmp_path / "x.tif", aoi=aoi, progress=False)


def test_numbers_of_numpy(seg_run, scenes, tmp_path):
    mapper, scene = SceneMapper(seg_run), scenes / "images" / "first.tif"
    wanted = mapper.map(scene, window=32, overlap=0.25, batch_size=2, progress=False)
    numbers = dict(window=np.int64(32), overlap=np.float32(0.25), batch_size=np.int64(2))
    mapper.map(scene, tmp_path / "map.tif", progress=False, **numbers)
    with rasterio.open(tmp_path / "map.tif") as source:
        np.testing.assert_array_equal(source.read(1), wanted)


def test_an_area_without_a_crs_is_told_of(seg_run, scenes, tmp_path):
    mapper, scene = SceneMapper(seg_run), scenes / "images" / "first.tif"
    with rasterio.open(scene) as source:
        left, bottom, right, top = source.bounds
    box = (left, bottom, (left + right) / 2, top)
    wanted = mapper.map(scene, aoi=box, progress=False)
    table = geopandas.GeoDataFrame(geometry=[shapely.box(*box)])
    with pytest.warns(UserWarning, match="area of interest: no CRS"):
        found = mapper.map(scene, aoi=table, progress=False)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("times", "told"), [(0.4, True), (0.6, False), (1.9, False), (3, True)])
def test_pixels_of_another_size_than_the_models_are_told_of(seg_run, scenes, times, told):
    from hook.inference.scenes import scene_resolution

    mapper, scene = SceneMapper(seg_run), scenes / "images" / "first.tif"
    metres = scene_resolution(scene)
    with rasterio.open(scene) as source:  # in UTM, where a metre is one
        assert metres == pytest.approx(source.res[0], rel=1e-3)
    mapper.model.dataset_meta["resolution"] = metres / times
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mapper.map(scene, dry_run=True, progress=False)
    assert any("the model was trained on pixels of" in str(one.message) for one in said) == told


def test_areas_that_cannot_be_used(seg_run, scenes, tmp_path):
    mapper = SceneMapper(load_model(seg_run))
    scene, out = scenes / "images" / "second.tif", tmp_path / "map.tif"
    with rasterio.open(scene) as source:
        left, bottom, right, top = source.bounds
        crs = source.crs
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    local = 'LOCAL_CS["fields",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    fields = geopandas.GeoSeries([shapely.box(0, 0, 9, 9)], crs=local)
    for aoi, message in (
        (table, "has no geometries"),
        (fields, "cannot be reprojected to the scene's CRS"),
        (pandas.DataFrame({"a": [1]}), "is not a box"),
        (["a", 0, 1, 2], "is not a box"),
    ):
        with pytest.raises(HookError, match=message):
            mapper.map(scene, out, aoi=aoi, progress=False)
    # A bow tie: two triangles, half of the box, that meet in its middle.
    bow = shapely.Polygon([(left, bottom), (right, top), (right, bottom), (left, top)])
    report = mapper.map(
        scene, out, aoi=geopandas.GeoDataFrame(geometry=[bow], crs=crs), progress=False
    )
    whole = mapper.map(scene, tmp_path / "whole.tif", progress=False)
    assert report.pixels == pytest.approx(whole.pixels / 2, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None,), {}, "no scene to read"),
        (([],), {}, "no scene to read"),
        (("second",), dict(vectors="map.json"), "is a different file of this map"),
        (("nowhere",), dict(vectors="map.geojson"), "GeoJSON needs coordinates"),
        (("local",), dict(vectors="map.geojson"), "CRS without a transformation to WGS 84"),
        (("second",), dict(bidx=[1, 9]), "no band 9"),
    ],
)
def test_what_cannot_be_mapped_is_refused_before_the_model_runs(
    seg_run, scenes, write_scene, tmp_path, monkeypatch, arguments, options, message
):
    write_scene(np.ones((2, 40, 40), np.uint16), name="nowhere.tif", crs=None, transform=None)
    plane = rasterio.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    local = write_scene(np.ones((2, 40, 40), np.uint16), name="local.tif", crs=plane)
    files = {"second": scenes / "images" / "second.tif", "nowhere": tmp_path / "nowhere.tif"}
    files["local"] = local
    scene = files.get(arguments[0]) if isinstance(arguments[0], str) else arguments[0]
    if "vectors" in options:
        options = dict(vectors=tmp_path / options["vectors"])
    mapper = SceneMapper(load_model(seg_run))
    monkeypatch.setattr(WindowPredictor, "__call__", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(HookError, match=message):
        mapper.map(scene, tmp_path / "map.tif", progress=False, **options)
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize("threads", [0, -1, 1.5])
def test_impossible_threads(seg_run, threads):
    with pytest.raises(ConfigError, match="threads"):
        SceneMapper(seg_run, threads=threads)


def test_polygons_as_json_are_named_beside_the_map(seg_run, scenes, tmp_path):
    mapper = SceneMapper(load_model(seg_run))
    scene = scenes / "images" / "second.tif"
    mapper.map(scene, tmp_path / "map.tif", vectors=tmp_path / "v.json", progress=False)
    item = json.loads((tmp_path / "map.json").read_text())
    assert item["assets"]["vectors"]["type"] == "application/geo+json"


def test_a_torchgeo_dataset_is_a_scene(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    image = scenes / "images" / "first.tif"
    dataset = RasterDataset(str(image))
    for name, scene in (("file", image), ("dataset", dataset)):
        SceneMapper(model).map(scene, tmp_path / f"{name}.tif", progress=False)
    assert (tmp_path / "file.tif").read_bytes() == (tmp_path / "dataset.tif").read_bytes()


def test_two_workers_give_the_same_bytes(seg_run, scenes, tmp_path):
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    scene = scenes / "images" / "second.tif"
    options = dict(overlap=24, batch_size=2, progress=False)
    threads = torch.get_num_threads()
    try:
        mapper = SceneMapper(seg_run, threads=1)
        mapper.map(scene, tmp_path / "one.tif", **options)
        mapper.map(scene, tmp_path / "two.tif", cluster="local", workers=2, **options)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()
    with pytest.raises(ConfigError, match="cannot be sent to several workers"):
        SceneMapper(load_model(seg_run)).map(scene, tmp_path / "x.tif", cluster="local")


def test_maps_of_other_batch_sizes_differ_by_rounding_only(seg_run, scenes, tmp_path):
    """Scores by one step of uint8 at most; classes where two are as likely."""
    model, found = load_model(seg_run), []
    for batch in (1, 2, 5):
        out = tmp_path / f"{batch}.tif"
        options = dict(overlap=0.5, scores=("probs",), batch_size=batch, progress=False)
        SceneMapper(model).map(scenes / "images" / "second.tif", out, **options)
        with rasterio.open(out) as classes, rasterio.open(tmp_path / f"{batch}.scores.tif") as sure:
            found.append((classes.read(1), sure.read().astype(int)))
    assert len(np.unique(found[0][0])) > 2 and found[0][1].std() > 1
    for classes, scores in found[1:]:
        assert np.abs(scores - found[0][1]).max() <= 1
        for row, column in np.argwhere(classes != found[0][0]):
            first, second = np.sort(scores[:, row, column])[-2:]
            assert second - first <= 1


def test_other_weights_do_not_go_on_with_a_map(seg_run, scenes, tmp_path, monkeypatch):
    model = load_model(seg_run)
    scene = scenes / "images" / "second.tif"
    options = dict(overlap=30, batch_size=1, progress=False)
    whole = tmp_path / "whole.tif"
    SceneMapper(model).map(scene, whole, **options)
    calls = iter(range(120))
    answer = WindowPredictor.__call__

    def interrupted(self, *arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return answer(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(WindowPredictor, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            SceneMapper(model).map(scene, tmp_path / "map.tif", **options)
    assert not (tmp_path / "map.tif").exists()
    with torch.no_grad():
        bias = model.decode_head.conv_seg.bias
        bias += 1
        with pytest.raises(SceneError, match="what differs: model"):
            SceneMapper(model).map(scene, tmp_path / "map.tif", resume=True, **options)
        bias -= 1
    model = load_model(seg_run)
    report = SceneMapper(model).map(scene, tmp_path / "map.tif", resume=True, **options)
    assert report.resumed_windows >= 64
    assert (tmp_path / "map.tif").read_bytes() == whole.read_bytes()


def test_precision_and_compilation(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    windows = np.random.default_rng(0).integers(0, 300, (2, 2, 32, 32)).astype(np.uint16)
    valid = np.ones((2, 32, 32), bool)
    exact = WindowPredictor(model)(windows, valid)
    coarse = WindowPredictor(model, precision="bf16")(windows, valid)
    assert coarse.dtype == np.float32
    assert 0 < np.abs(exact - coarse).max() < 0.05
    for options in (dict(precision="fp8"), dict(tta="spin")):
        with pytest.raises(ConfigError, match="unknown"):
            WindowPredictor(model, **options)
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler to compile models with")
    compiled = WindowPredictor(model, compile=True)(windows, valid)
    assert np.allclose(compiled, exact, atol=1e-5)


# ------------------------------------------------------------------------- arguments of wrong types
@pytest.fixture(scope="module")
def mapper(seg_run):
    return SceneMapper(seg_run)


@pytest.mark.parametrize(
    "options",
    [
        dict(num_tokens="a"),
        dict(num_tokens=2.5),
        dict(threads="x"),
        dict(threads=True),
        dict(device=3),
    ],
)
def test_wrong_options_of_a_mapper(mapper, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        SceneMapper(mapper.model, **options)


@pytest.mark.parametrize(
    "options",
    [
        dict(window="a"),
        dict(window=0),
        dict(window=-3),
        dict(window=2.5),
        dict(overlap="x"),
        dict(overlap=None),
        dict(bidx=1),
        dict(bidx="abc"),
        dict(bidx=[1.5, 2]),
        dict(batch_size="a"),
        dict(batch_size=0),
        dict(creation_options="x"),
        dict(min_area="x"),
        dict(min_area=-1),
        dict(simplify="x"),
        dict(workers="x"),
        dict(workers=0),
        dict(cluster=3),
        dict(scores=3),
        dict(scores_path=3),
        dict(vectors=3),
        dict(datetime=3),
        dict(output=3),
    ],
)
@pytest.mark.parametrize("as_array", [False, True])
def test_wrong_options_of_a_map(mapper, scenes, tmp_path, options, as_array):
    scene = np.zeros((2, 40, 40), np.uint16) if as_array else scenes / "images" / "third.tif"
    arguments = dict(output=tmp_path / "map.tif", progress=False) | options
    with pytest.raises(ConfigError, match=f"{next(iter(options))}=") as caught:
        mapper.map(scene, **arguments)
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_the_old_name_of_the_time(seg_run, scenes, tmp_path):
    scene, output = scenes / "images" / "first.tif", tmp_path / "map.tif"
    with pytest.warns(DeprecationWarning, match="taken= is deprecated: use datetime="):
        SceneMapper(seg_run).map(scene, output, taken="2024-05-31", progress=False)
    item = json.loads(output.with_suffix(".json").read_text())
    assert item["properties"]["start_datetime"].startswith("2024-05-31")
