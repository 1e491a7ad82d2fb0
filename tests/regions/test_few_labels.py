"""Classes of regions from few labels against scikit-learn, scipy and brute force."""

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import log_softmax

from hook.errors import ConfigError, DataError, SceneError
from hook.regions import classify_regions, table
from hook.regions.table import Regions

CRS = "EPSG:32633"
CLASSES = ("field", "town", "water")


@pytest.fixture
def truth():
    return np.random.default_rng(1).integers(0, 3, 60)


@pytest.fixture
def regions(truth):
    """Ten squares of 10 m a row, whose embeddings and bands tell their class with some noise."""
    rng = np.random.default_rng(0)
    left = 500000 + 10 * (np.arange(60) % 10)
    bottom = 4000000 + 10 * (np.arange(60) // 10)
    embeddings = (3 * rng.normal(size=(3, 5)))[truth] + rng.normal(size=(60, 5)) + 4
    bands = np.array([[900, 100], [500, 300], [90, 20]])[truth] + rng.normal(0, 60, (60, 2))
    data = {
        "pixels": np.full(60, 100),
        "class_name": "old",
        "mean_red": bands[:, 0],
        "std_red": bands[:, 1],
        "embedding": list(embeddings.astype(np.float32)),
    }
    return geopandas.GeoDataFrame(
        data, geometry=shapely.box(left, bottom, left + 10, bottom + 10), crs=CRS
    )


@pytest.fixture
def labels(truth):
    """Class names of the first regions: seven, of which one class has one."""
    few = {n: CLASSES[truth[n]] for n in range(7)}
    assert set(few.values()) == set(CLASSES)
    return few


def vectors(regions):
    return np.stack(regions.embedding).astype(float)


def standardised(x):
    return (x - x.mean(0)) / x.std(0)


def logistic(x, y, k, strength=1.0):
    """Balanced multinomial regression by a general minimiser: probabilities of all rows."""
    strength = strength * 6 / x.shape[1]
    known = np.array(sorted(y))
    t = np.array([y[n] for n in known])
    weights = len(t) / (k * np.bincount(t, minlength=k))[t]

    def loss(flat):
        w = flat.reshape(k, -1)
        scores = log_softmax(x[known] @ w[:, :-1].T + w[:, -1], axis=1)
        return (
            -strength * (weights * scores[np.arange(len(t)), t]).sum() + (w[:, :-1] ** 2).sum() / 2
        )

    found = minimize(loss, np.zeros(k * (x.shape[1] + 1)), tol=1e-10).x.reshape(k, -1)
    return np.exp(log_softmax(x @ found[:, :-1].T + found[:, -1], axis=1))


# ------------------------------------------------------------------------------------ classifiers
@pytest.mark.parametrize("chunk", [70, 64 << 20])
@pytest.mark.parametrize("strength", [1.0, 0.1])
def test_linear_is_the_regression_of_a_general_minimiser(
    regions, labels, monkeypatch, chunk, strength
):
    monkeypatch.setattr(table, "CHUNK_BYTES", chunk)
    found = classify_regions(regions, labels, strength=strength)
    y = {n: CLASSES.index(name) for n, name in labels.items()}
    chances = logistic(standardised(vectors(regions)), y, 3, strength)
    assert found.class_id.tolist() == chances.argmax(1).tolist()
    np.testing.assert_allclose(found.score, chances.max(1), atol=2e-3)
    assert found.class_name.tolist() == [CLASSES[k] for k in chances.argmax(1)]
    assert found.score.between(1 / 3, 1).all()


def test_fields_are_kept_and_old_classes_replaced(regions, labels, truth):
    found = classify_regions(regions, labels)
    names = ["pixels", "mean_red", "std_red", "class_id", "class_name", "score"]
    assert list(found.columns) == [*names, "embedding", "geometry"]
    assert "old" not in set(found.class_name) and found.crs == CRS
    assert found.geometry.equals(regions.geometry) and found.pixels.equals(regions.pixels)
    np.testing.assert_array_equal(vectors(found), vectors(regions))
    assert (found.class_id == truth).mean() > 0.9
    assert regions.class_name.eq("old").all()  # the argument is as it was


def test_two_classes(regions, labels):
    two = {n: "water" if name == "water" else "land" for n, name in labels.items()}
    found = classify_regions(regions, two)
    y = {n: int(name == "water") for n, name in two.items()}
    # For two classes scikit-learn has one vector, w, in place of w/2 and -w/2: twice the penalty.
    chances = logistic(standardised(vectors(regions)), y, 2, 0.5)
    assert found.class_id.tolist() == chances.argmax(1).tolist()
    np.testing.assert_allclose(found.score, chances.max(1), atol=2e-3)


@pytest.mark.parametrize("chunk", [70, 64 << 20])
def test_mean_is_the_nearest_mean_by_cosine(regions, labels, monkeypatch, chunk):
    monkeypatch.setattr(table, "CHUNK_BYTES", chunk)
    found = classify_regions(regions, labels, method="mean")
    x = vectors(regions)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = [
        np.mean([units[n] for n, name in labels.items() if name == wanted], axis=0)
        for wanted in CLASSES
    ]
    distances = cdist(x, np.stack(means), "cosine")
    assert found.class_id.tolist() == distances.argmin(1).tolist()
    np.testing.assert_allclose(found.score, 1 - distances.min(1), atol=1e-12)


@pytest.mark.parametrize("method", ["linear", "mean"])
def test_bands_as_features(regions, labels, method):
    without = regions.drop(columns="embedding")
    found = classify_regions(without, labels, method=method, features="bands")
    x = standardised(regions[["mean_red", "std_red"]].to_numpy())
    if method == "linear":
        y = {n: CLASSES.index(name) for n, name in labels.items()}
        expected = logistic(x, y, 3)
    else:
        units = x / np.linalg.norm(x, axis=1, keepdims=True)
        expected = 1 - cdist(
            x,
            [units[[n for n, c in labels.items() if c == name]].mean(0) for name in CLASSES],
            "cosine",
        )
    assert found.class_id.tolist() == expected.argmax(1).tolist()
    np.testing.assert_allclose(found.score, expected.max(1), atol=2e-3)
    assert "embedding" not in found
    with_embedding = classify_regions(regions, labels, method=method, features="bands")
    assert with_embedding.score.equals(found.score)
    # Embeddings say something else.
    assert not np.allclose(classify_regions(regions, labels, method=method).score, found.score)


@pytest.mark.parametrize("method", ["linear", "mean"])
@pytest.mark.parametrize("features", ["embedding", "bands"])
def test_regions_without_features_have_no_class(regions, labels, method, features):
    broken = regions.copy()
    broken.loc[[20, 21], "mean_red"] = [np.nan, np.inf]
    rows = [*broken.embedding]
    rows[20], rows[21] = None, np.zeros(5, np.float32)
    broken["embedding"] = rows
    with pytest.warns(UserWarning, match="2 of 60 regions have no features"):
        found = classify_regions(broken, labels, method=method, features=features)
    gone = found.index.isin([20, 21])
    for name in ("class_id", "class_name", "score"):
        assert found[name].isna().tolist() == gone.tolist()
    # They have no part in the statistics of the others.
    others = classify_regions(broken[~gone], labels, method=method, features=features)
    assert others.class_id.tolist() == found.class_id[~gone].tolist()
    np.testing.assert_allclose(others.score, found.score[~gone], atol=1e-9)
    with pytest.raises(DataError, match="labelled regions without features") as caught:
        classify_regions(broken, labels | {21: "town"}, method=method, features=features)
    assert caught.value.found == "region 21"


# ----------------------------------------------------------------------------------------- labels
def centres(regions, rows, names, field="class", crs=None):
    points = geopandas.GeoDataFrame(
        {field: names}, geometry=regions.geometry[list(rows)].centroid.to_numpy(), crs=CRS
    )
    return points if crs is None else points.to_crs(crs)


def test_points_files_and_ids_say_the_same(regions, labels, tmp_path):
    expected = classify_regions(regions, labels)
    points = centres(regions, labels, labels.values(), "kind")
    points.to_crs(4326).to_file(tmp_path / "points.geojson")
    points.to_crs(3857).to_file(tmp_path / "points.gpkg")
    points.to_parquet(tmp_path / "points.parquet")
    rows = [f"{n},{name}" for n, name in labels.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["region_id,kind", *rows]))
    doubled = geopandas.GeoDataFrame(
        points[["kind"]], geometry=[shapely.MultiPoint([p, p]) for p in points.geometry], crs=CRS
    )
    files = [tmp_path / f"points.{ending}" for ending in ("geojson", "gpkg", "parquet")]
    points.iloc[:2].to_file(tmp_path / "layers.gpkg", layer="few")
    points.to_file(tmp_path / "layers.gpkg", layer="labels.csv")
    files.append(f"{tmp_path}/layers.gpkg|layername=labels.csv")
    for source in (points, doubled, points.set_crs(None, allow_override=True), *files):
        assert classify_regions(regions, source, field="kind").equals(expected)
    assert classify_regions(regions, tmp_path / "labels.csv", field="kind").equals(expected)
    # As pandas and spreadsheets write columns with gaps, and as people type.
    rows = [f" {n}.0 , {name} " for n, name in labels.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["region_id , kind", *rows]))
    assert classify_regions(regions, tmp_path / "labels.csv", field="kind").equals(expected)
    reversed_ids = dict(reversed([(np.int64(n), name) for n, name in labels.items()]))
    assert classify_regions(regions, reversed_ids).equals(expected)


def test_regions_from_files(regions, labels, tmp_path):
    expected = classify_regions(regions, labels)
    for ending in (".parquet", ".gpkg"):
        path = tmp_path / f"regions{ending}"
        Regions.read(regions).write(path, path, "regions")
        if ending == ".gpkg":
            pyogrio.write_dataframe(regions[["geometry"]].iloc[:2], path, layer="others")
            path = f"{path}|layername=regions"
        found = classify_regions(path, labels)
        assert found.class_name.tolist() == expected.class_name.tolist()
        np.testing.assert_array_equal(found.score, expected.score)
        np.testing.assert_array_equal(vectors(found), vectors(expected))


def test_polygons_label_what_they_cover(regions):
    box = shapely.box
    polygons = [
        # More than half of regions 0, 1 and 2 in the lower row, less of those above and of 3.
        box(500000, 4000000, 500034, 4000014),
        # Nearly half of 5, and all of 6.
        box(500055.1, 4000000, 500070, 4000010),
        # Within 45, and a little of 46: the largest share is in 45.
        box(500053, 4000043, 500061, 4000044),
    ]
    drawn = geopandas.GeoDataFrame({"class": ["a", "b", "c"]}, geometry=polygons, crs=CRS)
    by_id = {0: "a", 1: "a", 2: "a", 6: "b", 45: "c"}
    expected = classify_regions(regions, by_id)
    assert classify_regions(regions, drawn).equals(expected)
    assert classify_regions(regions, drawn.to_crs(32632)).equals(expected)
    assert not classify_regions(regions, by_id | {5: "b"}).equals(expected)


def test_numbers_as_classes(regions, truth):
    points = centres(regions, range(8), truth[:8].astype(float), "code")
    found = classify_regions(regions, points, field="code")
    assert set(found.class_name) <= {"0", "1", "2"}
    expected = classify_regions(regions, {n: int(truth[n]) for n in range(8)})
    assert found.equals(expected)


def test_bad_labels(regions, labels, tmp_path):
    def refused(labels, match, error=DataError, **options):
        with pytest.raises(error, match=match) as caught:
            classify_regions(regions, labels, tmp_path / "out.gpkg", **options)
        assert list(tmp_path.glob("*out*")) == [] and list(tmp_path.glob(".*")) == []
        return caught.value

    assert refused({0: "a", 5: "a"}, "fewer than two classes").found == "a"
    assert refused({}, "fewer than two classes").found == "no label"
    for region in (60, -1, "seven", 1.5):
        error = refused(labels | {region: "water"}, "hits no region")
        assert error.expected == "a region id from 0 to 59" and error.found == region
    for name in (None, np.nan, "", " "):
        refused({0: "a", 1: name}, "label 1 has no class")
    points = centres(regions, [0, 1, 2], ["a", "b", "a"])
    assert refused(points, "no field kind", field="kind").found == "class"
    refused(points, "no field geometry", field="geometry")
    refused(centres(regions, [0, 1], ["a", None]), "label 1 has no class")
    moved = points.set_geometry(points.geometry.where([True, False, True], points.translate(500)))
    assert refused(moved, "hit no region").found.startswith("label 1 (counted from 0): POINT")
    far = geopandas.GeoDataFrame(
        {"class": ["a", "b"]}, geometry=[regions.geometry[0], shapely.box(0, 0, 1, 1)], crs=CRS
    )
    assert "label 1 " in refused(far, "hit no region").found
    twice = centres(regions, [0, 1, 1, 1, 0], ["a", "a", "b", "a", "c"])
    found = refused(twice, "contradict each other").found
    assert "region 1 is a (label 1) and b (label 2)" in found and "(label 3)" not in found
    assert "region 0 is a (label 0) and c (label 4)" in found
    lines = points.set_geometry(points.geometry.buffer(1).boundary)
    assert refused(lines, "neither points nor polygons").found == "LineString"
    regions_without = regions.set_crs(None, allow_override=True)
    with pytest.raises(DataError, match="has no CRS"):
        classify_regions(regions_without, points)

    missing = refused(tmp_path / "none.gpkg", "labels cannot be read")
    assert missing.found == "no such file"
    assert refused(tmp_path / "none.csv", "labels cannot be read").found == "no such file"
    (tmp_path / "text.gpkg").write_text("nothing")
    refused(tmp_path / "text.gpkg", "labels cannot be read")
    (tmp_path / "a.csv").write_text("region_id,name\n0,a\n1,b\n")
    assert refused(tmp_path / "a.csv", "no field class").found == "region_id, name"
    (tmp_path / "b.csv").write_text("region_id,class\n0,a\n1,\n")
    refused(tmp_path / "b.csv", "label row 2 has no class")
    (tmp_path / "d.csv").write_text("region_id,class\n0.5,a\n1,b\n")
    assert refused(tmp_path / "d.csv", "hits no region").found == "0.5"
    (tmp_path / "c.csv").write_text("region_id,class\n0,a\n0,b\n")
    refused(tmp_path / "c.csv", "contradict")


def test_bad_options(regions, labels):
    for options in ({"method": "forest"}, {"features": "all"}, {"strength": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            classify_regions(regions, labels, **options)
    with pytest.raises(DataError, match="has no field embedding"):
        classify_regions(regions.drop(columns="embedding"), labels)
    with pytest.raises(DataError, match="no band statistics"):
        classify_regions(regions[["embedding", "geometry"]], labels, features="bands")
    named = regions.assign(mean_red="much")
    with pytest.raises(DataError, match="field mean_red"):
        classify_regions(named, labels, features="bands")
    opposite = regions.copy()
    opposite["embedding"] = [np.ones(2), -np.ones(2), *[np.array([1.0, 2.0])] * 58]
    with pytest.raises(DataError, match="class a.*no mean direction"):
        classify_regions(opposite, {0: "a", 1: "a", 2: "b"}, method="mean")


# ----------------------------------------------------------------------------------------- output
@pytest.mark.parametrize("ending", [".gpkg", ".parquet", ".fgb", ".geojson", ".json"])
def test_written_layers(regions, labels, tmp_path, ending):
    broken = regions.copy()
    broken["embedding"] = [None if n == 20 else v for n, v in enumerate(regions.embedding)]
    out = tmp_path / f"classes{ending}"
    with pytest.warns(UserWarning, match="1 of 60"):
        expected = classify_regions(broken, labels, out, layer="land")
    read = geopandas.read_parquet if ending == ".parquet" else geopandas.read_file
    found = read(out)
    assert found.crs == (CRS if "json" not in ending else "EPSG:4326")
    assert ("embedding" in found) == (ending in (".gpkg", ".parquet"))
    places = found.to_crs(CRS).geometry.centroid
    order = np.lexsort((places.x.round(), places.y.round()))  # FlatGeobuf has its own
    found = found.iloc[order].reset_index(drop=True)
    assert found.class_name.fillna("").tolist() == expected.class_name.fillna("").tolist()
    assert np.flatnonzero(found.class_id.isna()).tolist() == [20]
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-12)
    shift = found.to_crs(CRS).geometry.distance(expected.geometry.centroid)
    assert shift.max() < 0.01 and set(found.geom_type) == {"Polygon"}
    if ending in (".gpkg", ".parquet"):
        again = Regions.read(out).embeddings
        np.testing.assert_array_equal(np.delete(again, 20, 0), np.delete(vectors(regions), 20, 0))
        assert np.isnan(again[20]).all()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_outputs_are_not_overwritten(regions, labels, tmp_path):
    source, out = tmp_path / "regions.gpkg", tmp_path / "out.gpkg"
    Regions.read(regions).write(source, source, "regions")
    points = centres(regions, labels, labels.values())
    points.to_file(tmp_path / "points.gpkg")
    classify_regions(source, tmp_path / "points.gpkg", out)
    before = out.read_bytes()
    with pytest.raises(SceneError, match="exists already"):
        classify_regions(source, labels, out)
    for path in (source, tmp_path / "points.gpkg"):
        with pytest.raises(SceneError, match="is an input"):
            classify_regions(source, tmp_path / "points.gpkg", path, overwrite=True)
    with pytest.raises(SceneError, match="unknown vector format"):
        classify_regions(source, labels, tmp_path / "out.shp")
    with pytest.raises(SceneError, match="cannot be written"):
        classify_regions(source, labels, tmp_path / "none" / "out.gpkg")
    with pytest.raises(SceneError, match="needs coordinates in WGS 84"):
        plane = regions.set_crs(None, allow_override=True)
        classify_regions(plane, labels, tmp_path / "out.geojson")
    assert out.read_bytes() == before
    classify_regions(source, labels, out, overwrite=True)
    assert out.read_bytes() == before  # the same labels give the same bytes
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("labels", [None, 3, [1, 2], np.zeros(3)])
def test_what_is_no_label(regions, labels):
    with pytest.raises(DataError, match="labels: of an unknown kind"):
        classify_regions(regions, labels)


def test_options_of_the_wrong_type(regions):
    with pytest.raises(DataError, match="regions: not a file"):
        classify_regions(None, {0: "a", 1: "b"})
    with pytest.raises(ConfigError, match="strength"):
        classify_regions(regions, {0: "a", 1: "b"}, strength="x")
