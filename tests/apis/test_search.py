"""Search with files of queries and with a model: against the files that the model wrote."""

import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from sklearn.metrics.pairwise import cosine_similarity

from hook.apis import (
    RegionExtractor,
    RegionIndex,
    embed_chip,
    find_similar,
    load_model,
    tokenize,
)
from hook.errors import ConfigError, DataError, SceneError
from hook.tokenizers import token_map


@pytest.fixture(scope="module")
def regions(seg_run, scenes, tmp_path_factory):
    """Regions of a scene of 70 x 50 pixels of 2 m, in windows of 32 pixels."""
    out = tmp_path_factory.mktemp("regions") / "regions.parquet"
    scene = scenes / "images" / "first.tif"
    RegionExtractor(seg_run).extract(scene, out, overlap=0, progress=False)
    return out


@pytest.fixture
def chip(scenes, tmp_path):
    """The scene's first window as values, validity and file: its corner has no data."""
    with rasterio.open(scenes / "images" / "first.tif") as source:
        values, valid = source.read()[:, :32, :32], source.dataset_mask()[:32, :32] > 0
        profile = source.profile | {"height": 32, "width": 32}
        with rasterio.open(tmp_path / "chip.tif", "w", **profile) as target:
            target.write(values)
            target.descriptions = source.descriptions
    assert not valid.all()
    return values[::-1].copy(), valid, tmp_path / "chip.tif"  # the model takes red first


def vectors(table):
    return np.stack(table.embedding).astype(float)


def test_a_chip_is_embedded_as_its_window_is(seg_run, regions, chip):
    model = load_model(seg_run)
    values, valid, path = chip
    table = geopandas.read_parquet(regions)
    own = table[table.window_id == 0].set_index("token_id")
    assert len(own) > 1
    for token, row in own.iterrows():
        for source in (path, values):
            given = None if source is path else valid
            found = embed_chip(model, source, given, token=token)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, row.embedding, atol=1e-5)
    # The last column and row of windows are shifted back, so that the file's pixels are fewer.
    owners = token_map(tokenize(model, values, valid).assignment, (32, 32))[0].numpy()[valid]
    weights = np.bincount(owners, minlength=4)[own.index]
    assert weights.sum() == 32 * 32 - 64 and len(set(weights)) > 1
    mean = np.average(vectors(own), axis=0, weights=weights)
    np.testing.assert_allclose(embed_chip(model, path), mean, atol=1e-5)
    np.testing.assert_allclose(embed_chip(model, values, valid), mean, atol=1e-5)
    assert not np.allclose(embed_chip(model, values), mean, atol=1e-5)  # the corner counts


def test_the_bands_of_a_chip_can_be_chosen(seg_run, regions, chip):
    model = load_model(seg_run)
    values, valid, path = chip
    expected = embed_chip(model, values[::-1], valid)
    np.testing.assert_allclose(embed_chip(model, path, bidx=[1, 2]), expected, atol=1e-6)
    assert not np.allclose(embed_chip(model, path), expected, atol=1e-3)
    tokens = tokenize(model, path, bidx=np.array([1, 2])).tokens
    np.testing.assert_allclose(tokens, tokenize(model, values[::-1], valid).tokens, atol=1e-6)
    found = find_similar(regions, chip=path, model=model, bidx=[1, 2], k=2)
    assert found.equals(find_similar(regions, vector=expected, k=2))
    with pytest.raises(ConfigError, match="bidx is for files"):
        embed_chip(model, values, valid, bidx=[1, 2])
    with pytest.raises(ConfigError, match="bidx is for a chip only"):
        find_similar(regions, id=0, bidx=[1, 2])
    with pytest.raises(DataError, match=r"--bidx"):
        embed_chip(model, path, bidx=[1, 3])


def test_the_number_of_tokens_of_a_chip(seg_run, chip):
    model = load_model(seg_run)
    values, valid, path = chip
    one = embed_chip(model, path, num_tokens=1)
    np.testing.assert_array_equal(one, embed_chip(model, path, num_tokens=1, token=0))
    assert model.backbone.tokenizer.num_tokens == 4
    assert not np.allclose(one, embed_chip(model, path), atol=1e-4)


def test_a_chip_embedded_by_seeds(seg_run, scenes, chip, tmp_path):
    model = load_model(seg_run)
    values, valid, path = chip
    extractor = RegionExtractor(model, embedding="seeds")
    table = extractor.extract(path, overlap=0, progress=False)  # one window
    own = table.set_index("token_id")
    assert len(own) > 1
    for token, row in own.iterrows():
        found = embed_chip(model, path, token=token, embedding="seeds")
        np.testing.assert_allclose(found, row.embedding, atol=1e-5)
    # Means of all seeds are those of the regions, weighted by their pixels.
    half = own.embedding.iloc[0].size // 2
    mean = np.average(vectors(own)[:, :half], axis=0, weights=own.pixels)
    found = embed_chip(model, values, valid, embedding="seeds")
    np.testing.assert_allclose(found[:half], mean, atol=1e-5)
    options = dict(chip=path, model=model, token=int(own.index[0]), k=3)
    alike = find_similar(table, embedding="seeds", **options)
    assert alike.region_id[0] == 0
    with pytest.raises(ConfigError, match="as the embeddings of"):
        find_similar(table, **options)
    with pytest.raises(ConfigError, match="no such token"):
        embed_chip(model, path, token=99, embedding="seeds")
    with pytest.raises(ConfigError, match="embedding is for a chip only"):
        find_similar(table, id=0, embedding="seeds")


def test_search_by_chip(seg_run, regions, chip, tmp_path):
    table, (values, _, path) = geopandas.read_parquet(regions), chip
    own = table[table.window_id == 0]
    token = int(own.token_id.iloc[-1])
    found = find_similar(
        *(regions, tmp_path / "found.gpkg"),
        **dict(chip=path, model=seg_run, token=token, k=5),
    )
    assert found.region_id[0] == own.index[-1] and found.similarity[0] == pytest.approx(1, abs=1e-6)
    model = load_model(seg_run)
    index = RegionIndex(regions, whiten=False)
    found = find_similar(index, chip=path, model=model, k=len(table))
    cosines = cosine_similarity(vectors(table), embed_chip(model, path)[None].astype(float))[:, 0]
    np.testing.assert_allclose(found.similarity, np.sort(cosines)[::-1], atol=1e-12)
    np.testing.assert_allclose(found.similarity, cosines[found.region_id], atol=1e-12)
    for source in (path, values):
        again = find_similar(regions, chip=source, model=model, k=3)
        assert len(again) == 3
    weights = tmp_path / "weights.gpkg"
    weights.write_text("")
    model.weights_file = weights
    with pytest.raises(SceneError, match="is an input"):
        find_similar(regions, weights, chip=path, model=model, overwrite=True)


def test_a_classifier_embeds_chips_too(cls_run):
    model = load_model(cls_run)
    image = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    owners = token_map(tokenize(model, image).assignment, (16, 16))[0].numpy()
    tokens = [embed_chip(model, image, token=n).astype(float) for n in range(3)]
    mean = np.average(tokens, axis=0, weights=np.bincount(owners.ravel(), minlength=3))
    np.testing.assert_allclose(embed_chip(model, image), mean, atol=1e-6)


def test_queries_are_those_of_the_index(regions, tmp_path):
    index = RegionIndex(regions)
    place = geopandas.read_parquet(regions).geometry[5].representative_point()
    lon, lat = geopandas.GeoSeries([place], crs=index.crs).to_crs(4326)[0].coords[0]
    pair = geopandas.GeoDataFrame(geometry=[place.buffer(5), place.buffer(9)], crs=index.crs)
    pair.to_crs(4326).to_file(tmp_path / "area.geojson")
    pair.to_parquet(tmp_path / "area.parquet")
    whole = place.buffer(9)
    vector = np.random.default_rng(0).normal(size=index.embed_dims)
    expected = {
        "id": (index.by_id(5, 4), dict(id=5)),
        "at": (index.by_point(place.x, place.y, k=4), dict(at=(place.x, place.y))),
        "crs": (index.by_point(place.x, place.y, k=4), dict(at=(lon, lat), crs="EPSG:4326")),
        "polygon": (index.by_polygon(whole, k=4), dict(polygon=whole, crs=index.crs)),
        "table": (index.by_polygon(whole, k=4), dict(polygon=pair)),
        "parquet": (index.by_polygon(whole, k=4), dict(polygon=tmp_path / "area.parquet")),
        "vector": (index.by_vector(vector, 4), dict(vector=vector)),
        "zero": (index.by_id(0, 4), dict(id=0)),
    }
    for name, (wanted, query) in expected.items():
        for source in (regions, index):
            found = find_similar(source, k=4, **query)
            assert found.region_id.equals(wanted.region_id), name
            # Unions have their vertices where they have them.
            np.testing.assert_allclose(found.similarity, wanted.similarity, atol=1e-9)
    found = find_similar(regions, polygon=tmp_path / "area.geojson", k=4)  # 7 digits of degrees
    np.testing.assert_allclose(found.similarity, expected["polygon"][0].similarity, atol=1e-3)
    kept = find_similar(regions, id=5, k=1, keep_query=True)
    assert kept.region_id.tolist() == [5]


@pytest.mark.parametrize("ending", [".gpkg", ".parquet", ".fgb", ".geojson", ".json"])
def test_written_layers(regions, tmp_path, ending):
    out = tmp_path / f"found{ending}"
    found = find_similar(regions, out, id=3, k=6, layer="like")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if ending == ".parquet":
        stored = geopandas.read_parquet(out)
    else:
        stored = geopandas.read_file(out, layer=None if "json" in ending else "like")
    assert stored.crs == ("EPSG:4326" if "json" in ending else found.crs)
    if ending == ".fgb":  # which has an order of its own
        stored = stored.sort_values("similarity", ascending=False, ignore_index=True)
    assert stored.region_id.tolist() == found.region_id.tolist()
    np.testing.assert_allclose(stored.similarity, found.similarity, rtol=1e-14)
    assert stored.pixels.tolist() == found.pixels.tolist()
    assert set(stored.geom_type) == {"MultiPolygon"}
    assert stored.to_crs(found.crs).area.tolist() == pytest.approx(found.area.tolist(), rel=1e-3)
    assert ("embedding" in stored) == (ending in (".gpkg", ".parquet"))
    assert find_similar(regions, out, id=3, k=6, overwrite=True).equals(found)
    if "embedding" in stored:
        assert len(find_similar(out, id=0, k=10)) == 5


def test_a_layer_of_nothing(regions, tmp_path):
    find_similar(regions, tmp_path / "one.parquet", id=3, k=1)
    found = find_similar(tmp_path / "one.parquet", tmp_path / "none.gpkg", id=0)
    assert len(found) == 0 and len(geopandas.read_file(tmp_path / "none.gpkg")) == 0


def test_bad_options(seg_run, regions, tmp_path):
    point = shapely.Point(0, 0).buffer(1)
    table = geopandas.GeoDataFrame(geometry=[point], crs=4326)
    for options, match in (
        ({}, "the query of the search"),
        ({"id": 0, "at": (0, 0)}, "the query of the search"),
        ({"chip": np.zeros((2, 32, 32))}, "a chip needs a model"),
        ({"id": 0, "model": seg_run[0]}, "model is for a chip only"),
        ({"id": 0, "model": seg_run}, "model is for a chip only"),
        ({"at": (0, 0), "token": 0}, "token is for a chip only"),
        ({"id": 0, "crs": 4326}, "crs is for coordinates only"),
        ({"polygon": table, "crs": 4326}, "crs is for coordinates only"),
        ({"chip": np.zeros((2, 32, 32)), "model": seg_run[0]}, "without a checkpoint"),
        ({"polygon": table}, "overlaps no region"),
    ):
        with pytest.raises(ConfigError, match=match):
            find_similar(regions, tmp_path / "out.gpkg", **options)
    missing = tmp_path / "none.gpkg"
    with pytest.raises(DataError, match="none.gpkg: polygons cannot be read") as caught:
        find_similar(regions, tmp_path / "out.gpkg", polygon=missing)
    assert caught.value.found == "no such file"
    assert list(tmp_path.iterdir()) == []


def test_bad_chips(seg_run, regions, chip, tmp_path):
    model = load_model(seg_run)
    values, valid, path = chip
    for token in (4, -1):
        with pytest.raises(ConfigError, match="no such token") as caught:
            embed_chip(model, path, token=token)
        assert caught.value.expected == "0 to 3"
    for image in (values[:1], values[0], values[:, :0]):
        with pytest.raises(DataError, match=r"does not fit the model\n.*\(2, h, w\)"):
            embed_chip(model, image)
    for mask in (np.zeros((32, 32)), valid[:16]):
        with pytest.raises(DataError, match="validity of its pixels"):
            embed_chip(model, values, mask)
    with pytest.raises(DataError, match="the chip does not fit the model") as caught:
        embed_chip(model, values[:, :3, :3])
    assert "window" in caught.value.remedy
    with pytest.raises(DataError, match="none.tif cannot be read"):
        embed_chip(model, tmp_path / "none.tif")
    model.backbone = torch.nn.Identity()
    with pytest.raises(ConfigError, match="has no tokens"):
        embed_chip(model, values)


def test_outputs_are_not_overwritten(regions, tmp_path):
    copy, area, out = (tmp_path / name for name in ("r.parquet", "area.gpkg", "out.gpkg"))
    copy.write_bytes(regions.read_bytes())
    geopandas.read_parquet(regions)[["geometry"]].head(1).to_file(area)
    find_similar(copy, out, polygon=area, k=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SceneError, match="exists already"):
        find_similar(copy, out, id=0)
    for path in (copy, area):
        with pytest.raises(SceneError, match="is an input"):
            find_similar(copy, path, polygon=area, overwrite=True)
    with pytest.raises(SceneError, match="is an input"):
        find_similar(RegionIndex(copy), copy, id=0, overwrite=True)
    item = tmp_path / "map.json"
    item.write_text('{"type": "Feature", "stac_version": "1.1.0"}')
    with pytest.raises(SceneError, match="map.json: is a STAC Item"):
        find_similar(copy, item, id=0, overwrite=True)
    item.unlink()
    with pytest.raises(SceneError, match="unknown vector format"):
        find_similar(copy, tmp_path / "out.shp", id=0)
    with pytest.raises(SceneError, match="cannot be written"):
        find_similar(copy, tmp_path / "none" / "out.gpkg", id=0)
    with pytest.raises(ConfigError, match="no such region"):
        find_similar(copy, out, id=999, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_searching_by_place_needs_no_model():
    heavy = ("torch", "mmengine")
    code = f"import sys, hook.apis.search; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        (dict(at=(1,)), ConfigError, "at="),
        (dict(at="ab"), ConfigError, "at="),
        (dict(at=3), ConfigError, "at="),
        (dict(polygon=3), ConfigError, "polygon=3"),
        (dict(vector="abc"), ConfigError, "vector"),
        (dict(id="a"), ConfigError, "no such region"),
        (dict(id=0, k="x"), ConfigError, "k, the number"),
        (dict(id=0, output=3), ConfigError, "output=3"),
        (dict(id=0, regions=None), DataError, "regions"),
    ],
)
def test_queries_of_the_wrong_type(regions, query, error, says):
    with pytest.raises(error, match=says):
        find_similar(**(dict(regions=regions) | query))


def test_chips_of_the_wrong_type(seg_run, chip):
    model = load_model(seg_run)
    values, valid, path = chip
    for token in ("a", 1.5, True):
        with pytest.raises(ConfigError, match="token="):
            embed_chip(model, values, token=token)
    with pytest.raises(DataError, match="does not fit the model"):
        embed_chip(model, None)
    with pytest.raises(ConfigError, match="valid is for NumPy arrays only"):
        embed_chip(model, path, valid)
    with pytest.raises(ConfigError, match="no model 'a model'"):
        embed_chip("a model", values)
