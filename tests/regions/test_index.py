"""Search among regions against scikit-learn and brute force."""

import functools
import importlib.util
import warnings

import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from scipy.spatial.distance import cdist
from sklearn.covariance import ShrunkCovariance
from sklearn.metrics.pairwise import cosine_similarity

from hook.errors import ConfigError, DataError, SceneError
from hook.regions import RegionIndex, RegionRequest, TokenBatch, extract_regions, table
from hook.regions.table import Regions

CRS = "EPSG:32633"
SIDE = 10  # metres

# Cosines of the embeddings as they are.
raw = functools.partial(RegionIndex, whiten=False)


def grid(embeddings, columns=8, crs=CRS, **fields):
    """Squares in rows of eight from the lower left, with these embeddings."""
    number = np.arange(len(embeddings))
    left, bottom = 500000 + SIDE * (number % columns), 4000000 + SIDE * (number // columns)
    squares = shapely.box(left, bottom, left + SIDE, bottom + SIDE)
    data = {"name": [f"r{n}" for n in number], **fields, "embedding": list(embeddings)}
    return geopandas.GeoDataFrame(data, geometry=squares, crs=crs)


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


@pytest.fixture
def index(embeddings):
    return raw(grid(embeddings))


def brute_force(embeddings, vector, without=()):
    """Ids and cosines of all regions, the most similar first."""
    cosines = cosine_similarity(embeddings.astype(np.float64), [vector])[:, 0]
    order = [n for n in np.argsort(-cosines, kind="stable") if n not in set(without)]
    return order, cosines[order]


def assert_found(found, embeddings, vector, k, without=()):
    order, cosines = brute_force(embeddings, vector, without)
    assert found.region_id.tolist() == order[:k]
    np.testing.assert_allclose(found.similarity, cosines[:k], rtol=0, atol=1e-12)
    assert found.name.tolist() == [f"r{n}" for n in order[:k]]
    np.testing.assert_array_equal(np.stack(found.embedding), embeddings[order[:k]])


# --------------------------------------------------------------------------------------- queries
@pytest.mark.parametrize("chunk", [1, 100, 64 << 20])
def test_search_by_id_is_that_of_scikit_learn(embeddings, monkeypatch, chunk):
    monkeypatch.setattr(table, "CHUNK_BYTES", chunk)
    index = raw(grid(embeddings))
    for region in (0, 17, 39):
        found = index.by_id(region, 7)
        assert_found(found, embeddings, embeddings[region], 7, without=[region])
        nearest = np.argsort(cdist(embeddings[[region]], embeddings, "cosine")[0])[1:8]
        assert found.region_id.tolist() == nearest.tolist()
        kept = index.by_id(region, 7, keep_query=True)
        assert_found(kept, embeddings, embeddings[region], 7)
        assert kept.region_id[0] == region and kept.similarity[0] == pytest.approx(1)
    assert list(found.columns) == ["region_id", "name", "similarity", "embedding", "geometry"]
    assert found.crs == CRS and found.geometry.iloc[0] == grid(embeddings).geometry[nearest[0]]


def test_search_by_vector(index, embeddings):
    vector = np.random.default_rng(1).normal(size=6)
    assert_found(index.by_vector(vector, 40), embeddings, vector, 40)
    opposite = -1000 * vector.astype(np.float32)
    assert_found(index.by_vector(opposite, 3), embeddings, opposite, 3)


def test_search_by_point(index, embeddings):
    found = index.by_point(500000 + 2.5 * SIDE, 4000000 + 1.5 * SIDE, k=5)  # row 1, column 2
    assert_found(found, embeddings, embeddings[10], 5, without=[10])
    kept = index.by_point(500025, 4000015, k=5, keep_query=True)
    assert kept.region_id[0] == 10
    # On the corner of four regions the first of them is meant.
    corner = index.by_point(500010, 4000010, k=5)
    assert_found(corner, embeddings, embeddings[0], 5, without=[0])
    place = geopandas.GeoSeries([shapely.Point(500025, 4000015)], crs=CRS).to_crs(4326)[0]
    again = index.by_point(place.x, place.y, "EPSG:4326", 5)
    assert again.equals(found)
    assert place.x == pytest.approx(15, abs=1e-3)  # longitude comes first


def test_search_by_polygon_weights_by_area(index, embeddings):
    # Of squares 0, 1, 8, 9 it covers 3 x 4, 2 x 4, 3 x 1 and 2 x 1 square metres.
    polygon = shapely.box(500007, 4000006, 500012, 4000011)
    mean = np.average(embeddings[[0, 1, 8, 9]].astype(float), axis=0, weights=[12, 8, 3, 2])
    found = index.by_polygon(polygon, k=9)
    assert_found(found, embeddings, mean, 9, without=[0, 1, 8, 9])
    assert_found(index.by_polygon(polygon, k=9, keep_query=True), embeddings, mean, 9)
    there = geopandas.GeoSeries([polygon], crs=CRS).to_crs("EPSG:32632")[0]
    again = index.by_polygon(there, "EPSG:32632", k=9)
    assert again.region_id.equals(found.region_id)
    np.testing.assert_allclose(again.similarity, found.similarity, atol=1e-5)
    # One that only touches square 1 along an edge has nothing of it.
    assert_found(
        index.by_polygon(shapely.box(500000, 4000000, 500010, 4000010), k=3),
        *(embeddings, embeddings[0], 3, [0]),
    )


def test_polygons_as_tables_and_files(index, tmp_path):
    halves = [
        shapely.box(500007, 4000006, 500010, 4000011),
        shapely.box(500010, 4000006, 500012, 4000011),
    ]
    wanted = index.by_polygon(shapely.union_all(halves), k=9)
    table = geopandas.GeoDataFrame(geometry=halves, crs=CRS)
    table.to_file(tmp_path / "area.gpkg")
    table.iloc[:1].to_file(tmp_path / "areas.gpkg", layer="half")
    table.to_file(tmp_path / "areas.gpkg", layer="whole")
    files = tmp_path / "area.gpkg", f"{tmp_path}/areas.gpkg|layername=whole"
    for given in (table, table.geometry, table.to_crs(4326), *files):
        found = index.by_polygon(given, k=9)
        assert found.region_id.equals(wanted.region_id)
        np.testing.assert_allclose(found.similarity, wanted.similarity, atol=1e-5)
    with pytest.warns(UserWarning, match="no CRS"):
        found = index.by_polygon(table.set_crs(None, allow_override=True), k=9)
    assert found.equals(wanted)
    with pytest.raises(ConfigError, match="crs is for shapely geometries"):
        index.by_polygon(table, "EPSG:4326")
    with pytest.raises(DataError, match="cannot be read"):
        index.by_polygon(tmp_path / "none.gpkg")
    with pytest.raises(ConfigError, match="polygon="):
        index.by_polygon(geopandas.GeoDataFrame({"a": [1]}))
    with pytest.raises(ConfigError, match="no area"):
        index.by_polygon(table[:0])


def test_an_invalid_polygon_counts_with_its_area(index, embeddings):
    bow = shapely.Polygon(
        [(500000, 4000000), (500010, 4000010), (500010, 4000000), (500000, 4000010)]
    )
    assert not bow.is_valid and bow.area == 0
    with pytest.raises(ConfigError, match="has no area"):
        index.by_polygon(bow)
    lopsided = shapely.Polygon(
        [(500001, 4000001), (500009, 4000009), (500009, 4000001), (500001, 4000003)]
    )
    assert not lopsided.is_valid
    assert_found(index.by_polygon(lopsided, k=4), embeddings, embeddings[0], 4, without=[0])


def test_areas_are_those_on_the_earth():
    """In degrees a strip along a meridian has most of its area near the equator."""
    embeddings = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    squares = shapely.box([0, 0, 50], [0, 60, 0], [10, 10, 60], [60, 80, 10])
    regions = geopandas.GeoDataFrame(
        {"embedding": list(embeddings)}, geometry=squares, crs="EPSG:4326"
    )
    found = raw(regions).by_polygon(shapely.box(0, 40, 10, 80), k=3, keep_query=True)
    # On the sphere areas between parallels go with the difference of the sines.
    sines = np.sin(np.radians([40, 60, 80]))
    mean = np.diff(sines)
    expected = mean / np.linalg.norm(mean)
    similarity = dict(zip(found.region_id, found.similarity, strict=True))
    assert similarity[0] == pytest.approx(expected[0], abs=2e-3)
    assert similarity[1] == pytest.approx(expected[1], abs=2e-3)
    assert abs(similarity[0] - np.sqrt(0.5)) > 0.1  # what degrees would give


def test_without_a_crs_areas_are_those_of_the_plane(embeddings):
    index = raw(grid(embeddings, crs=None))
    polygon = shapely.box(500007, 4000006, 500012, 4000011)
    mean = np.average(embeddings[[0, 1, 8, 9]].astype(float), axis=0, weights=[12, 8, 3, 2])
    assert_found(index.by_polygon(polygon, k=4), embeddings, mean, 4, without=[0, 1, 8, 9])
    with pytest.raises(ConfigError, match="has no CRS"):
        index.by_polygon(polygon, CRS)
    with pytest.raises(ConfigError, match="has no CRS"):
        index.by_point(500025, 4000015, CRS)


@pytest.mark.parametrize("chunk", [52, 64 << 20])
def test_ties_come_in_the_order_of_the_file(monkeypatch, chunk):
    monkeypatch.setattr(table, "CHUNK_BYTES", chunk)
    rng = np.random.default_rng(3)
    kinds = rng.normal(size=(3, 13)).astype(np.float32)
    which = rng.integers(0, 3, 200)
    which[0] = 0
    # Doubling changes no cosine, not even in its last bit.
    embeddings = kinds[which] * rng.choice([0.5, 1, 2], (200, 1)).astype(np.float32)
    index = raw(grid(embeddings))
    same = np.flatnonzero(which == 0)
    found = index.by_id(0, 200, keep_query=True)
    assert found.region_id[: len(same)].tolist() == same.tolist()
    for kind in range(3):
        ids = found.region_id[which[found.region_id] == kind]
        assert ids.is_monotonic_increasing
        assert found.similarity[ids.index].nunique() == 1
    assert index.by_id(0, 5).region_id.tolist() == same[1:6].tolist()


def test_more_than_there_are(index, embeddings):
    assert_found(index.by_id(3, 1000), embeddings, embeddings[3], 39, without=[3])
    one = raw(grid(embeddings[:1]))
    found = one.by_id(0, 5)
    assert len(found) == 0 and found.columns[-3] == "similarity" and found.crs == CRS
    assert one.by_id(0, 5, keep_query=True).region_id.tolist() == [0]


# ------------------------------------------------------------------------------------------ files
@pytest.fixture
def files(write_scene, tmp_path):
    """The regions of one scene in both formats."""
    rng = np.random.default_rng(2)
    scene = write_scene(rng.integers(0, 255, (1, 60, 90)).astype(np.uint8) // 64 * 64)

    def tokenize(windows, valid):
        seeds = windows.reshape(len(windows), -1).astype(int).sum(1)
        vectors = [np.random.default_rng(seed).normal(size=(4, 5)) for seed in seeds]
        return TokenBatch(windows[:, 0] // 64, np.stack(vectors))

    paths = [tmp_path / name for name in ("regions.parquet", "regions.gpkg")]
    for path in paths:
        extract_regions(
            tokenize, RegionRequest(scene, path, window=20, progress=False), embed_dims=5
        )
    return paths


def test_geoparquet_and_geopackage_give_equal_answers(files, tmp_path):
    parquet, package = map(raw, files)
    assert len(parquet) == len(package) == 5 * 3 * 4 and parquet.embed_dims == 5
    stored = geopandas.read_parquet(files[0])
    place = stored.geometry[31].representative_point()
    polygon = place.buffer(6)
    answers = [
        (
            index.by_id(31, 60),
            index.by_point(place.x, place.y, k=8),
            index.by_polygon(polygon, k=8),
            index.by_vector(np.arange(5), 8),
        )
        for index in (parquet, package)
    ]
    for one, two in zip(*answers, strict=True):
        np.testing.assert_array_equal(np.stack(one.embedding), np.stack(two.embedding))
        assert shapely.equals_exact(one.geometry, two.geometry).all() and one.crs == two.crs
        plain = [table.drop(columns=["geometry", "embedding"]) for table in (one, two)]
        pandas.testing.assert_frame_equal(*map(pandas.DataFrame, plain))
    one, vectors = answers[0][0], np.stack(stored.embedding)
    np.testing.assert_array_equal(np.stack(one.embedding), vectors[one.region_id])
    assert one.pixels.tolist() == stored.pixels[one.region_id].tolist()
    cosines = cosine_similarity(vectors[one.region_id], vectors[[31]])[:, 0]
    np.testing.assert_allclose(one.similarity, cosines, atol=1e-6)
    # A table read by geopandas, and one with BLOBs, are as good as the files.
    blobs = geopandas.read_file(files[1])
    blobs["embedding"] = [row.tobytes() for row in vectors]
    for regions in (stored, blobs):
        found = raw(regions).by_id(31, 60)
        assert found.region_id.tolist() == one.region_id.tolist()


@pytest.mark.parametrize("ending", [".parquet", ".gpkg"])
def test_what_is_written_can_be_searched_again(files, tmp_path, ending):
    found = raw(files[0]).by_id(31, 10)
    out = tmp_path / f"found{ending}"
    assert Regions.read(found).write(out, out, "found") == 10
    again = raw(out).by_id(2, 9)
    # Ids and similarities are those of the new search.
    assert list(again.columns) == list(found.columns)
    assert set(again.region_id) == set(range(10)) - {2}
    assert again.similarity.is_monotonic_decreasing and again.similarity[0] != found.similarity[0]


def test_any_kind_of_list_is_read(embeddings, tmp_path):
    regions = grid(embeddings)
    expected = raw(regions).by_id(4, 6)
    regions.to_parquet(tmp_path / "lists.parquet")  # lists of any length
    doubles = grid(embeddings.astype(np.float64).tolist())
    for source in (tmp_path / "lists.parquet", doubles):
        found = raw(source).by_id(4, 6)
        assert found.region_id.equals(expected.region_id)
        np.testing.assert_array_equal(np.stack(found.embedding), np.stack(expected.embedding))


def test_missing_embeddings_in_several_row_groups(embeddings, tmp_path):
    regions = grid([None, None, *embeddings[2:]])
    regions.to_parquet(tmp_path / "r.parquet", row_group_size=2)  # the first is all null
    with pytest.warns(UserWarning, match="2 of 40 regions"):
        index = raw(tmp_path / "r.parquet")
    assert_found(index.by_id(30, 50), embeddings, embeddings[30], 37, without=[30, 0, 1])


# ------------------------------------------------------------------------ what cannot be compared
@pytest.mark.parametrize("kind", ["zero", "nan", "inf", "null"])
def test_regions_without_direction_are_never_found(embeddings, kind):
    rows = list(embeddings)
    value = {"zero": 0, "nan": np.nan, "inf": np.inf}.get(kind)
    rows[9] = None if kind == "null" else np.append(embeddings[9][:5], value).astype(np.float32)
    if kind == "zero":
        rows[9] = np.zeros(6, np.float32)
    with pytest.warns(UserWarning, match="1 of 40 regions.*never found"):
        index = raw(grid(rows))
    assert_found(index.by_id(3, 100), embeddings, embeddings[3], 38, without=[3, 9])
    with pytest.raises(DataError, match="no embedding to search with"):
        index.by_id(9)
    with pytest.raises(DataError, match="no embedding to search with"):
        index.by_point(500015, 4000015)
    # In a polygon the others count.
    polygon = shapely.box(500007, 4000006, 500012, 4000011)
    mean = np.average(embeddings[[0, 1, 8]].astype(float), axis=0, weights=[12, 8, 3])
    found = index.by_polygon(polygon, k=9)
    assert_found(found, embeddings, mean, 9, without=[0, 1, 8, 9])


def test_opposite_embeddings_have_no_mean(embeddings):
    regions = grid([embeddings[0], -embeddings[0], embeddings[1]])
    with pytest.raises(DataError, match="no direction"):
        raw(regions).by_polygon(shapely.box(500005, 4000000, 500015, 4000010))


def test_bad_queries(index):
    for region in (-1, 40, 1.5, True):
        with pytest.raises(ConfigError, match="no such region") as caught:
            index.by_id(region)
        assert caught.value.expected == "a row number from 0 to 39"
    for k in (0, -3, 2.5, True):
        with pytest.raises(ConfigError, match="k, the number"):
            index.by_id(0, k)
    for vector in (np.zeros(5), np.zeros((1, 6)), 3.0):
        with pytest.raises(ConfigError, match=r"shape \(6,\)"):
            index.by_vector(vector)
    for vector in (np.zeros(6), np.full(6, np.nan), [np.inf, 0, 0, 0, 0, 0]):
        with pytest.raises(ConfigError, match="no direction"):
            index.by_vector(vector)
    with pytest.raises(ConfigError, match="outside all regions") as caught:
        index.by_point(499999, 4000015)
    assert "500000 to 500080" in caught.value.expected
    for x in (np.nan, np.inf):
        with pytest.raises(ConfigError, match="not a position"):
            index.by_point(x, 4000015)
    with pytest.raises(ConfigError, match="unknown CRS"):
        index.by_point(500015, 4000015, "EPSG:moon")
    with pytest.raises(ConfigError, match="outside the area of the regions' CRS"):
        index.by_point(15, 1000, "EPSG:4326")
    with pytest.raises(ConfigError, match="overlaps no region") as caught:
        index.by_polygon(shapely.box(15, 36, 16, 37))
    assert "x 15 to 16, y 36 to 37" in str(caught.value)
    with pytest.raises(ConfigError, match="overlaps no region"):  # it touches an edge
        index.by_polygon(shapely.box(499990, 4000000, 500000, 4000010))
    for shape in (shapely.Point(500015, 4000015), shapely.Polygon()):
        with pytest.raises(ConfigError, match="has no area"):
            index.by_polygon(shape)


def test_bad_files(embeddings, tmp_path):
    regions = grid(embeddings)

    def refused(source, match):
        with pytest.raises(DataError, match=match) as caught:
            raw(source)
        return str(caught.value)

    assert "no such file" in refused(
        tmp_path / "none.parquet", "none.parquet: regions cannot be read"
    )
    assert "no such file" in refused(tmp_path / "none.gpkg", "none.gpkg: regions cannot be read")
    (tmp_path / "text.parquet").write_text("no Parquet")
    refused(tmp_path / "text.parquet", "cannot be read")
    pq.write_table(pa.table({"embedding": [[1.0]]}), tmp_path / "plain.parquet")
    assert "not GeoParquet" in refused(tmp_path / "plain.parquet", "cannot be read")
    without = regions.drop(columns="embedding")
    without.to_parquet(tmp_path / "without.parquet")
    without.to_file(tmp_path / "without.gpkg")
    for source in (without, tmp_path / "without.parquet", tmp_path / "without.gpkg"):
        message = refused(source, "has no field embedding")
        assert "found: name" in message and "hook regions" in message
    for name in ("empty.parquet", "empty.gpkg"):
        empty = Regions.read(regions).take(np.empty(0, int))
        empty.write(tmp_path / name, tmp_path / name, "regions")
        refused(tmp_path / name, f"{name}: has no regions")
    refused(regions.iloc[:0], "has no regions")
    refused(grid([None] * 3), "has no embeddings")
    refused(grid([[1.0, 2.0], [1.0]]), "embedding\n.*one width\n.*vectors of 1, 2 numbers")
    refused(grid([[], []]), "one width")
    refused(grid([b"12345678", b"123"]), "float32, 4 bytes each")
    refused(grid([b"12345678", b"1234"]), "one width")
    refused(grid(["a", "b"]), "a list of numbers")
    assert not (tmp_path / "none.gpkg").exists()


def test_unknown_format_of_output(embeddings, tmp_path):
    with pytest.raises(SceneError, match="unknown vector format"):
        Regions.read(grid(embeddings)).write(tmp_path / "a.shp", tmp_path / "a.shp", "a")


# ------------------------------------------------------------------------------------ approximate
@pytest.fixture(scope="module")
def many():
    """4,000 embeddings around a few dozen directions."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(40, 24))
    return (centres[rng.integers(0, 40, 4000)] + rng.normal(size=(4000, 24))).astype(np.float32)


def test_approximate_search_finds_nearly_all(many):
    pytest.importorskip("usearch", reason="hook-rs[search] is not installed")
    regions = grid(many)
    exact, approximate = raw(regions), raw(regions, approximate_above=3999)
    assert approximate.approximate and not exact.approximate
    assert not raw(regions, approximate_above=4000).approximate
    hits = selves = 0
    for region in range(0, 4000, 100):
        one, two = exact.by_id(region, 20), approximate.by_id(region, 20)
        hits += len(set(one.region_id) & set(two.region_id))
        both = one.merge(two, on="region_id")
        # What is found has exact cosines.
        np.testing.assert_array_equal(both.similarity_x, both.similarity_y)
        assert two.similarity.is_monotonic_decreasing and len(two) == 20
        assert region not in set(two.region_id)
        selves += approximate.by_id(region, 1, keep_query=True).region_id.tolist() == [region]
    assert selves >= 38  # of 40: threads build another graph every time
    assert hits >= 0.98 * 40 * 20
    assert "_graph" in vars(approximate)  # it was not the exact search that answered
    assert "_graph" not in vars(exact)


def test_approximate_search_never_finds_what_has_no_direction(many):
    pytest.importorskip("usearch", reason="hook-rs[search] is not installed")
    vectors = many.copy()
    vectors[:10], vectors[10:20] = 0, np.nan
    with pytest.warns(UserWarning, match="20 of 4000"):
        index = raw(grid(vectors), approximate_above=100)
    found = index.by_vector(many[5], 300)
    assert len(found) == 300 and found.region_id.min() >= 20


def test_queries_for_much_of_a_file_are_exact(many):
    index = raw(grid(many), approximate_above=100)
    assert_found(index.by_id(7, 3999), many, many[7], 3999, without=[7])
    assert_found(index.by_id(7, 500), many, many[7], 500, without=[7])
    # A polygon over half of the regions, which may not be found themselves.
    half = index.by_polygon(shapely.box(500000, 4000000, 500080, 4002500), k=5)
    own = range(2000)
    assert_found(half, many, many[:2000].mean(0, dtype=float), 5, without=own)
    assert "_graph" not in vars(index)


def test_a_missing_library_is_told(many, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "usearch" else found(name)
    )
    with pytest.raises(ConfigError, match="usearch") as caught:
        raw(grid(many), approximate_above=100)
    assert "hook-rs[search]" in caught.value.remedy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(raw(grid(many), approximate_above=None).by_id(0, 3)) == 3


# ------------------------------------------------------------------------------------- whitened
@pytest.fixture
def alike():
    """400 embeddings of four kinds that have nearly everything in common, and the kinds."""
    rng = np.random.default_rng(7)
    kind = rng.integers(0, 4, 400)
    common, signal = 5 + rng.normal(size=24), rng.normal(size=(4, 24))
    found = common + 0.3 * (signal[kind] + rng.normal(size=(400, 24)) / 2)
    return found.astype(np.float32), kind


def test_whitened_cosines_are_those_of_scikit_learn(alike):
    vectors = alike[0].astype(np.float64)
    index, shrunk = RegionIndex(grid(alike[0])), ShrunkCovariance(shrinkage=0.5).fit(vectors)
    # Any root of the inverse covariance gives the same cosines.
    root, mean_of_all = np.linalg.cholesky(shrunk.precision_), shrunk.location_
    polygon = shapely.box(500007, 4000006, 500012, 4000011)  # see above
    mean = np.average(vectors[[0, 1, 8, 9]], axis=0, weights=[12, 8, 3, 2])
    given = np.random.default_rng(1).normal(size=24) + 5
    for found, query, without in (
        (index.by_id(17, 30), vectors[17], [17]),
        (index.by_point(500025, 4000015, k=30), vectors[10], [10]),
        (index.by_polygon(polygon, k=30), mean, [0, 1, 8, 9]),
        (index.by_vector(given, 30), given, []),
    ):
        order, cosines = brute_force(
            (vectors - mean_of_all) @ root, (query - mean_of_all) @ root, without
        )
        assert found.region_id.tolist() == order[:30]
        np.testing.assert_allclose(found.similarity, cosines[:30], atol=1e-5)
        # The embeddings themselves are those of the file.
        np.testing.assert_array_equal(np.stack(found.embedding), alike[0][found.region_id])


def test_whitened_similarities_spread_and_find_no_fewer_of_a_kind(alike):
    vectors, kind = alike
    hits, spread = {}, {}
    for name, index in (("raw", raw(grid(vectors))), ("now", RegionIndex(grid(vectors)))):
        answers = [index.by_id(row, 399) for row in range(0, 400, 10)]
        similarity = np.concatenate([one.similarity for one in answers])
        spread[name] = np.percentile(similarity, [5, 95])
        hits[name] = np.mean(
            [
                kind[one.region_id[:10]] == kind[row]
                for row, one in zip(range(0, 400, 10), answers, strict=True)
            ]
        )
    assert spread["raw"][0] > 0.97 and spread["now"][0] < -0.3 < 0.4 < spread["now"][1]
    assert hits["now"] >= hits["raw"] > 0.9


@pytest.mark.parametrize("ending", [".parquet", ".gpkg"])
def test_a_part_of_the_regions_keeps_the_map_of_all(alike, tmp_path, ending):
    whole = RegionIndex(grid(alike[0]))
    found, path = whole.by_id(3, 12, keep_query=True), tmp_path / f"found{ending}"
    assert Regions.read(found).write(path, path, "found") == 12
    for part in (RegionIndex(path), RegionIndex(found)):
        again = part.by_id(0, 11)  # the query itself
        np.testing.assert_allclose(again.similarity, found.similarity[1:], atol=1e-6)
    # A table of other embeddings does not take them over.
    narrow = found.copy()
    narrow["embedding"] = [one[:6] for one in found.embedding]
    assert Regions.read(narrow).whitening is None


def test_few_or_equal_embeddings_are_compared_as_they_are(alike):
    few = grid(alike[0][:19])
    assert RegionIndex(few).by_id(0, 5).equals(raw(few).by_id(0, 5))
    equal = grid(np.repeat(alike[0][:1], 40, axis=0))
    assert RegionIndex(equal).by_id(0, 39).similarity.to_numpy() == pytest.approx(1)


def test_the_mean_of_all_is_like_none(alike):
    index = RegionIndex(grid(alike[0]))
    with pytest.raises(DataError, match="is the mean of all") as caught:
        index.by_vector(index._centre)
    assert "whiten=False" in caught.value.remedy


def test_the_approximate_search_is_of_whitened_embeddings(alike):
    pytest.importorskip("usearch", reason="hook-rs[search] is not installed")
    exact = RegionIndex(grid(alike[0]))
    index = RegionIndex(grid(alike[0]), approximate_above=100)
    found = index.by_id(7, 20)
    assert "_graph" in vars(index)
    # 256 candidates of 400, in a graph that has every row: none is missed, whatever the threads.
    assert found.equals(exact.by_id(7, 20))


def test_whiten_is_true_or_false(alike):
    with pytest.raises(ConfigError, match="whiten=1"):
        RegionIndex(grid(alike[0]), whiten=1)


# --------------------------------------------------------------------------------- wrong types
@pytest.mark.parametrize("regions", [None, 3, pandas.DataFrame({"a": [1]}), ["r.parquet"]])
def test_what_is_no_table_of_regions(regions):
    with pytest.raises(DataError, match="regions: not a file"):
        raw(regions)


def test_a_table_without_geometries():
    with pytest.raises(DataError, match="has no geometries"):
        raw(geopandas.GeoDataFrame({"a": [1]}))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (lambda index: index.by_id("a"), "no such region"),
        (lambda index: index.by_id(1.5), "no such region"),
        (lambda index: index.by_id(None), "no such region"),
        (lambda index: index.by_id(0, k="x"), "k, the number"),
        (lambda index: index.by_id(0, k=None), "k, the number"),
        (lambda index: index.by_point("a", "b"), "point 'a' 'b'"),
        (lambda index: index.by_point(None, 4e6), "point None"),
        (lambda index: index.by_vector("abc"), "vector"),
        (lambda index: index.by_vector(None), "vector"),
        (lambda index: index.by_vector([1, 2]), "vector"),
        (lambda index: index.by_vector(["a"] * 6), "vector"),
        (lambda index: index.by_vector([[1, 2], [3]]), "vector"),
        (lambda index: index.by_polygon(None), "polygon"),
        (lambda index: raw(None, approximate_above="x"), "approximate_above='x'"),
    ],
)
def test_queries_of_the_wrong_type(index, query, says):
    with pytest.raises(ConfigError, match=says) as caught:
        query(index)
    assert caught.value.remedy


def test_ids_and_numbers_of_numpy_are_taken(index):
    found = index.by_id(np.int64(3), k=np.uint8(2))
    assert found.region_id.tolist() == index.by_id(3, k=2).region_id.tolist()


@pytest.mark.parametrize("ending", [".gpkg", ".parquet", ".fgb", ".geojson"])
def test_a_field_without_values_is_written_as_text(tmp_path, ending):
    found = geopandas.GeoDataFrame({"note": [None]}, geometry=[shapely.box(0, 0, 1, 1)], crs=32631)
    out = tmp_path / f"found{ending}"
    assert Regions.from_table(found).write(out, out, "regions") == 1
    read = geopandas.read_parquet if ending == ".parquet" else geopandas.read_file
    assert read(out).note.isna().all()
