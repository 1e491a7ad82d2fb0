"""Token regions through a model: against the model itself, window by window."""

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch

from hook.apis import RegionExtractor, load_model, tokenize
from hook.errors import ConfigError, DataError, SceneError
from hook.inference.regions import RegionPredictor
from hook.tokenizers import HookTokenizer, token_map


@pytest.fixture
def rgb_scene(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (3, 32, 48)).astype(np.uint8)
    profile = dict(driver="GTiff", count=3, height=32, width=48, dtype="uint8", crs="EPSG:32633")
    place = rasterio.transform.from_origin(500000, 5300000, 2, 2)
    with rasterio.open(tmp_path / "rgb.tif", "w", **profile, transform=place) as target:
        target.write(values)
    return tmp_path / "rgb.tif"


def last_tokens(model, inputs):
    """Tokens of the last block, computed step by step."""
    tokens, assignment = model.backbone.tokenizer(inputs)
    for block in model.backbone.blocks:
        tokens = block(tokens)
    return model.backbone.norm(tokens), assignment


def test_a_segmentations_regions_are_the_models_tokens(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    scene = scenes / "images" / "second.tif"
    report = RegionExtractor(model).extract(
        scene, tmp_path / "r.parquet", batch_size=2, progress=False
    )
    table = geopandas.read_parquet(tmp_path / "r.parquet")
    with rasterio.open(scene) as source:
        image, valid = source.read([2, 1]).astype(np.float32), source.dataset_mask() > 0
    assert report.pixels == valid.sum() and table.area.sum() == valid.sum() * 4
    assert shapely.coverage_is_valid(table.geometry.to_numpy())
    assert list(table.columns[6:12]) == [
        *("area_m2", "perimeter_m", "mean_red", "std_red", "mean_nir", "std_nir")
    ]
    units = np.where(valid, image * np.float32(0.01), np.float32(1.3))
    # The window in the upper middle; at the lower border the next one takes half of the overlap.
    inputs = (torch.from_numpy(units[None, :, :32, 32:64]) - 1.3) / 0.7
    meta = dict(ori_shape=(32, 32), img_shape=(32, 32), pad_shape=(32, 32))
    with torch.no_grad():
        tokens, assignment = last_tokens(model, inputs)
        chances = model.inference(inputs, [meta]).softmax(1)[0].numpy()
    owners = token_map(assignment, (32, 32))[0].numpy()
    own = table[table.window_id == 1]
    core = np.s_[:20, :29]  # the last row and column of windows are shifted back
    owners, chances = owners[core], chances[(slice(None), *core)]
    assert own.token_id.tolist() == np.unique(owners).tolist()
    for row in own.itertuples():
        mask = owners == row.token_id
        assert row.pixels == mask.sum()
        np.testing.assert_allclose(row.embedding, tokens[0, row.token_id].numpy(), atol=1e-5)
        votes = np.bincount(chances[:, mask].argmax(0), minlength=3)
        assert abs(votes[row.class_id] - votes.max()) <= 1
        assert row.class_name == ("water", "field", "town")[row.class_id]
        assert row.score == pytest.approx(chances[row.class_id][mask].mean(), abs=1e-4)
        values = image[0, :20, 32:61]
        assert row.mean_red == pytest.approx(values[mask].mean(dtype=float))
        assert row.std_red == pytest.approx(values[mask].std(dtype=float))


def test_a_classification_judges_each_token_alone(cls_run, rgb_scene, tmp_path):
    model = load_model(cls_run)
    RegionExtractor(model).extract(rgb_scene, tmp_path / "r.gpkg", batch_size=4, progress=False)
    table = geopandas.read_file(tmp_path / "r.gpkg")
    assert table.window_id.max() == 5
    with rasterio.open(rgb_scene) as source:
        image = source.read().astype(np.float32)
    inputs = model.data_preprocessor({"inputs": [torch.from_numpy(image[:, 16:, 16:32])]}, False)
    with torch.no_grad():
        tokens, assignment = last_tokens(model, torch.stack(list(inputs["inputs"])))
        scores = model.head.fc(tokens[0]).softmax(1).numpy()
    for row in table[table.window_id == 4].itertuples():
        assert row.class_id == scores[row.token_id].argmax()
        assert row.score == pytest.approx(scores[row.token_id].max(), abs=1e-5)
        assert row.class_name == ("dark", "light", "noisy")[row.class_id]
    # A head that takes the class token cannot judge others.
    model.head.pooling = "cls_token"
    assert RegionPredictor(model).class_names is None
    answer = RegionPredictor(model)(np.zeros((2, 3, 16, 16), np.uint8), np.ones((2, 16, 16), bool))
    assert answer.token_scores is None and answer.pixel_scores is None


def test_regions_without_specks(seg_run, scenes, tmp_path):
    scene = scenes / "images" / "second.tif"
    sizes = {}
    for least in (0, 64):
        report = RegionExtractor(seg_run, min_region_pixels=least).extract(
            scene, tmp_path / f"{least}.parquet", explode=True, progress=False
        )
        table = geopandas.read_parquet(tmp_path / f"{least}.parquet")
        assert shapely.coverage_is_valid(table.geometry.to_numpy())
        assert table.area.sum() == report.pixels * 4
        sizes[least] = table.area.to_numpy() / 4
    # Nodata and the cores of windows still cut regions, so some stay below.
    assert len(sizes[64]) < len(sizes[0])
    assert (sizes[64] < 64).mean() < (sizes[0] < 64).mean()
    with pytest.raises(ConfigError, match="min_region_pixels=-1"):
        RegionExtractor(seg_run, min_region_pixels=-1)


def test_refined_regions_leave_the_edges_of_seeds(seg_run, scenes):
    scene, tables = scenes / "images" / "second.tif", {}
    for refine in (False, True):
        extractor = RegionExtractor(seg_run, refine=refine)
        tables[refine] = table = extractor.extract(scene, explode=True, progress=False)
        assert shapely.coverage_is_valid(table.geometry.to_numpy())
    assert tables[True].area.sum() == pytest.approx(tables[False].area.sum())
    assert tables[True].perimeter_m.sum() != pytest.approx(tables[False].perimeter_m.sum())


def test_any_number_of_tokens(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    scene = scenes / "images" / "third.tif"
    for number in (1, 3):
        out = tmp_path / f"{number}.parquet"
        RegionExtractor(model, num_tokens=number).extract(scene, out, progress=False)
        assert geopandas.read_parquet(out).token_id.max() == number - 1
    with pytest.raises(ConfigError, match="no queries for that many tokens"):
        RegionExtractor(model, num_tokens=9)


def test_a_model_that_chooses_the_number_itself(cls_run):
    model = load_model(cls_run)
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 255, (4, 3, 16, 16)).astype(np.uint8)
    valid = np.ones((4, 16, 16), bool)
    all_tokens = RegionPredictor(model)(windows, valid)
    for explained in np.linspace(0.005, 0.3, 60).tolist():
        model.backbone.explained = explained
        answer = RegionPredictor(model)(windows, valid)
        counts = [tokenize(model, window).num_tokens for window in windows]
        if counts != sorted(counts):
            break
    assert counts != sorted(counts), "images need different numbers of tokens"
    for number, (window, count) in enumerate(zip(windows, counts, strict=True)):
        model.backbone.explained = None
        cut = tokenize(model, window, num_tokens=count)
        owners = token_map(cut.assignment, (16, 16))[0].numpy()
        np.testing.assert_array_equal(answer.token_ids[number], owners)
        with torch.no_grad():
            tokens = cut.tokens
            for block in model.backbone.blocks:
                tokens = block(tokens)
        np.testing.assert_allclose(
            answer.embeddings[number, :count], model.backbone.norm(tokens)[0].detach(), atol=1e-5
        )
    # With a number asked for, all have it; and the model is as it was.
    model.backbone.explained = explained
    usual = model.backbone.tokenizer.num_tokens
    fixed = RegionPredictor(model, num_tokens=usual)(windows, valid)
    np.testing.assert_array_equal(fixed.token_ids, all_tokens.token_ids)
    assert model.backbone.explained == explained


def test_regions_embedded_by_seeds(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    scene, out = scenes / "images" / "second.tif", tmp_path / "r.parquet"
    options = dict(batch_size=2, overlap=0, explode=True, progress=False)
    RegionExtractor(model, embedding="seeds").extract(scene, out, **options)
    table = geopandas.read_parquet(out)
    with rasterio.open(scene) as source:
        image, valid = source.read([2, 1]).astype(np.float32), source.dataset_mask() > 0
        transform = source.transform
    units = np.where(valid, image * np.float32(0.01), np.float32(1.3))
    inputs = (torch.from_numpy(units[None, :, :32, 32:64]) - 1.3) / 0.7
    with torch.no_grad():
        seeds = model.backbone.tokenizer.perceive(inputs).features[0].numpy()
    pixels = seeds.repeat(4, axis=0).repeat(4, axis=1)
    own = table[table.window_id == 1]
    assert len(own) > len(own.token_id.unique()) > 1
    for row in own.itertuples():
        mask = rasterio.features.geometry_mask([row.geometry], valid.shape, transform, invert=True)
        mine = pixels[mask[:32, 32:64]]
        wanted = np.concatenate([mine.mean(0), mine.std(0)])
        np.testing.assert_allclose(row.embedding, wanted, atol=1e-5)
    tokens = RegionExtractor(model).extract(scene, **options)
    assert tokens.drop(columns="embedding").equals(table.drop(columns="embedding"))
    with pytest.raises(ConfigError, match="tokens or seeds"):
        RegionExtractor(model, embedding="pixels")


@pytest.fixture
def with_objects(monkeypatch):
    """Load a model with stand-ins for the grouping features of the preset ``objects``."""

    def load(run):
        model = load_model(run)
        monkeypatch.setattr(model.backbone.tokenizer, "preset", "objects")
        return model

    def first_features(tokenizer, seeds):
        return seeds.features[..., :5]

    monkeypatch.setattr(HookTokenizer, "grouping", first_features, raising=False)
    return load


def test_regions_of_the_whole_scene(seg_run, scenes, tmp_path, with_objects):
    model = with_objects(seg_run)
    scene, extractor = scenes / "images" / "second.tif", RegionExtractor(model)
    with rasterio.open(scene) as source:
        area = source.dataset_mask().astype(bool).sum() * 4e-6
        image, valid = source.read([2, 1]).astype(np.float32), source.dataset_mask() > 0
        transform = source.transform
    table = extractor.extract(scene, window=96, regions_per_km2=20 / area, progress=False)
    assert len(table) == 20 and table.area.sum() == valid.sum() * 4
    assert shapely.coverage_is_valid(table.geometry.to_numpy())
    # One window, padded by reflection.
    padded = np.pad(image, ((0, 0), (0, 56), (0, 6)), mode="symmetric")
    known = np.pad(valid, ((0, 56), (0, 6)), mode="symmetric")
    units = np.where(known, padded * np.float32(0.01), np.float32(1.3))
    inputs = (torch.from_numpy(units[None]) - 1.3) / 0.7
    meta = dict(ori_shape=(96, 96), img_shape=(96, 96), pad_shape=(96, 96))
    with torch.no_grad():
        seeds = model.backbone.tokenizer.perceive(inputs).features[0].numpy()
        chances = model.inference(inputs, [meta]).softmax(1)[0, :, :40, :90].numpy()
    pixels = seeds.repeat(4, axis=0).repeat(4, axis=1)[:40, :90]
    for row in table.itertuples():
        mask = rasterio.features.geometry_mask([row.geometry], valid.shape, transform, invert=True)
        wanted = np.concatenate([pixels[mask].mean(0), pixels[mask].std(0)])
        np.testing.assert_allclose(row.embedding, wanted, atol=2e-3)
        votes = np.bincount(chances[:, mask].argmax(0), minlength=3)
        assert abs(votes[row.class_id] - votes.max()) <= 1
        assert row.score == pytest.approx(chances[row.class_id][mask].mean(), abs=1e-4)
    options = dict(window=96, regions_per_km2=20 / area, progress=False)
    refined = RegionExtractor(model, refine=True).extract(scene, **options)
    assert len(refined) == 20 and refined.area.sum() == valid.sum() * 4
    assert shapely.coverage_is_valid(refined.geometry.to_numpy())
    assert not refined.geometry.geom_equals(table.geometry).all()
    # The extractor still makes regions of windows.
    options = dict(overlap=0, explode=True, progress=False)
    of_windows = extractor.extract(scene, **options)
    assert of_windows.equals(RegionExtractor(model).extract(scene, **options))


def test_regions_of_the_whole_scene_of_a_classification(cls_run, rgb_scene, with_objects):
    model = with_objects(cls_run)
    table = RegionExtractor(model).extract(rgb_scene, scale=1e-3, progress=False)
    assert len(table) > 5 and set(table.class_name) <= {"dark", "light", "noisy"}
    assert table.score.between(1 / 3, 1).all()
    model.head.pooling = "cls_token"  # seeds without the rest of the model
    same = RegionExtractor(model).extract(rgb_scene, scale=1e-3, progress=False)
    names = ["pixels", "mean_red", "geometry"]
    assert "class_id" not in same and table[names].equals(same[names])
    assert np.array_equal(np.stack(table.embedding), np.stack(same.embedding))


def test_options_of_tokens_with_regions_of_the_whole_scene(seg_run, scenes, tmp_path, with_objects):
    model, scene = with_objects(seg_run), scenes / "images" / "second.tif"
    for options, found in (
        (dict(num_tokens=2), "num_tokens and scale exclude each other"),
        (dict(min_region_pixels=9), "min_region_pixels and scale exclude each other"),
        (dict(embedding="tokens"), "embedding='tokens' and scale exclude each other"),
    ):
        with pytest.raises(ConfigError, match=found):
            RegionExtractor(model, **options).extract(scene, tmp_path / "r.gpkg", scale=1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_regions_of_the_whole_scene(seg_run, scenes, tmp_path):
    model, scene = load_model(seg_run), scenes / "images" / "second.tif"
    with pytest.raises(ConfigError, match="no regions of whole scenes"):
        RegionExtractor(model).extract(scene, tmp_path / "r.gpkg", regions_per_km2=1.0)
    assert list(tmp_path.iterdir()) == []


def test_seeds_of_a_model_that_chooses_the_number_of_tokens(cls_run):
    model = load_model(cls_run)
    windows = np.random.default_rng(0).integers(0, 255, (4, 3, 16, 16)).astype(np.uint8)
    valid = np.ones((4, 16, 16), bool)
    expected = RegionPredictor(model, embedding="seeds")(windows, valid)
    assert expected.seeds.shape == (4, 16, model.backbone.tokenizer.seed_dims)
    assert expected.seed_of_pixel[0, 4, 3] == 4 and expected.embeddings is None
    for explained in (0.02, 0.05, 0.1, 0.2):
        model.backbone.explained = explained
        answer = RegionPredictor(model, embedding="seeds")(windows, valid)
        np.testing.assert_allclose(answer.seeds, expected.seeds, atol=1e-5)


def test_fields_of_bands_chosen_by_number(seg_run, scenes, tmp_path):
    model = load_model(seg_run)
    scene = scenes / "images" / "third.tif"
    RegionExtractor(model).extract(scene, tmp_path / "a.parquet", progress=False)
    RegionExtractor(model).extract(scene, tmp_path / "b.parquet", bidx=[2, 1], progress=False)
    named, numbered = (geopandas.read_parquet(tmp_path / f"{name}.parquet") for name in "ab")
    assert numbered.mean_2.equals(named.mean_red) and numbered.std_1.equals(named.std_nir)


def test_merging_and_workers(seg_run, scenes, tmp_path):
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    scene = scenes / "images" / "first.tif"
    threads = torch.get_num_threads()
    options = dict(window=12, explode=True, progress=False)
    try:
        extractor = RegionExtractor(seg_run, threads=1)
        extractor.extract(scene, tmp_path / "one.parquet", merge=True, **options)
        extractor.extract(scene, tmp_path / "two.parquet", merge=True, cluster="local", **options)
        extractor.extract(scene, tmp_path / "cut.parquet", **options)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    one, cut = (geopandas.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "cut"))
    assert len(one) < len(cut) and one.pixels.sum() == cut.pixels.sum()
    with pytest.raises(ConfigError, match="cannot be sent to several workers"):
        RegionExtractor(load_model(seg_run)).extract(scene, tmp_path / "x.gpkg", cluster="local")


def test_bad_input(seg_run, scenes, tmp_path):
    scene = scenes / "images" / "first.tif"
    model = load_model(seg_run)
    with pytest.raises(DataError, match="none.tif cannot be read"):
        RegionExtractor(model).extract(scenes / "none.tif", tmp_path / "x.gpkg")
    with pytest.raises(SceneError, match="unknown format of regions"):
        RegionExtractor(model).extract(scene, tmp_path / "x.geojson")
    with pytest.raises(ConfigError, match="windows of 3 x 3 pixels do not fit the model"):
        RegionExtractor(model).extract(scene, tmp_path / "x.gpkg", window=3, progress=False)
    assert list(tmp_path.iterdir()) == []
    model.train()
    with pytest.raises(ConfigError, match="training mode"):
        RegionPredictor(model)
    model.eval().backbone.tokenizer = torch.nn.Identity()
    with pytest.raises(ConfigError, match="Identity has no seeds"):
        RegionPredictor(model, embedding="seeds")
    model.backbone = torch.nn.Identity()
    with pytest.raises(ConfigError, match="Identity has no tokens"):
        RegionPredictor(model)


# ------------------------------------------------------------------------- arguments of wrong types
@pytest.fixture(scope="module")
def extractor(seg_run):
    return RegionExtractor(seg_run)


@pytest.mark.parametrize("value", ["x", 2.5, True, None])
def test_min_region_of_the_wrong_type(extractor, value):
    for make in (RegionExtractor, RegionPredictor):
        with pytest.raises(ConfigError, match="min_region_pixels="):
            make(extractor.model, min_region_pixels=value)


@pytest.mark.parametrize("value", ["a", 2.5])
def test_num_tokens_of_the_wrong_type(extractor, value):
    with pytest.raises(ConfigError, match="num_tokens="):
        RegionExtractor(extractor.model, num_tokens=value)


@pytest.mark.parametrize(
    "options",
    [
        dict(merge_threshold="x"),
        dict(merge_threshold=2),
        dict(merge_threshold=None),
        dict(window="a"),
        dict(window=0),
        dict(overlap="x"),
        dict(batch_size="a"),
        dict(bidx=1),
        dict(workers="x"),
        dict(cluster=3),
        dict(layer=3),
        dict(output=3),
    ],
)
def test_wrong_options_of_an_extraction(extractor, scenes, tmp_path, options):
    arguments = dict(output=tmp_path / "r.gpkg", merge=True, progress=False) | options
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        extractor.extract(scenes / "images" / "third.tif", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_old_name_of_the_smallest_region(seg_run, scenes):
    with pytest.warns(DeprecationWarning, match="min_region= is deprecated: use min_region_pixels"):
        old = RegionExtractor(seg_run, min_region=9)
    new = RegionExtractor(seg_run, min_region_pixels=9)
    scene = scenes / "images" / "second.tif"
    assert old.extract(scene, progress=False).equals(new.extract(scene, progress=False))
