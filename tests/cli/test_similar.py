"""``hook similar`` in this process: files, options, exit status."""

import geopandas
import numpy as np
import pytest
import shapely
from sklearn.covariance import ShrunkCovariance
from sklearn.metrics.pairwise import cosine_similarity

from hook.apis import RegionExtractor
from hook.cli import main


@pytest.fixture(scope="module")
def regions(seg_run, scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("regions") / "regions.gpkg"
    scene = scenes / "images" / "first.tif"
    RegionExtractor(seg_run).extract(scene, out, explode=True, progress=False)
    return out


@pytest.fixture
def embeddings(regions):
    blobs = geopandas.read_file(regions).embedding
    return np.stack([np.frombuffer(blob, "<f4") for blob in blobs]).astype(float)


def _run(*argv):
    main(["similar", *map(str, argv)])


def test_every_kind_of_query(seg_run, scenes, regions, embeddings, tmp_path, capsys):
    table = geopandas.read_file(regions)
    place = table.geometry[4].representative_point()
    lon, lat = geopandas.GeoSeries([place], crs=table.crs).to_crs(4326)[0].coords[0]
    area = tmp_path / "area.gpkg"
    table[["geometry"]].loc[[4]].set_geometry([place.buffer(0.1)]).to_file(area)
    shrunk = ShrunkCovariance(shrinkage=0.5).fit(embeddings)
    whitened = (embeddings - shrunk.location_) @ np.linalg.cholesky(shrunk.precision_)
    cosines = cosine_similarity(whitened, whitened[[4]])[:, 0]
    cosines[4] = -2
    expected = np.argsort(-cosines, kind="stable")[:7].tolist()
    queries = [
        ["--at", place.x, place.y],
        ["--at", lon, lat, "--crs", "EPSG:4326"],
        ["--id", "4"],
        ["--polygon", area],
    ]
    for number, query in enumerate(queries):
        out = tmp_path / f"{number}.gpkg"
        # The output may stand after the options.
        _run(*([regions, *query, "-k", 7, out] if number % 2 else [regions, out, "-k", 7, *query]))
        message = capsys.readouterr().err
        assert f"{number}.gpkg: 7 regions, similarity from {cosines[expected[-1]]:.4f}" in message
        found = geopandas.read_file(out, layer="similar")
        assert found.region_id.tolist() == expected
        np.testing.assert_allclose(found.similarity, cosines[expected], atol=1e-5)

    out = tmp_path / "chip.fgb"
    third = scenes / "images" / "third.tif"
    _run(regions, "--chip", third, *seg_run, "-k", "3", "--bidx", "1..2", "--token", "2", "-q", out)
    assert capsys.readouterr().err == "" and len(geopandas.read_file(out)) == 3
    _run(regions, "--id", 4, "--keep-query", tmp_path / "k.parquet", "--quiet")
    kept = geopandas.read_parquet(tmp_path / "k.parquet")
    assert kept.region_id[0] == 4 and len(kept) == min(50, len(table))


def test_overwriting(regions, tmp_path, capsys):
    out = tmp_path / "out.geojson"
    _run(regions, "--id", 0, "-k", 2, out, "--layer", "like")
    before = out.read_bytes()
    with pytest.raises(SystemExit) as caught:
        _run(regions, "--id", 1, out)
    assert caught.value.code == 1 and out.read_bytes() == before
    assert "out.geojson: exists already" in capsys.readouterr().err
    _run(regions, "--id", 1, out, "--overwrite")
    found = geopandas.read_file(out)
    assert found.crs == "EPSG:4326" and 1 not in set(found.region_id)
    stored = regions.read_bytes()
    with pytest.raises(SystemExit) as caught:
        _run(regions, "--id", 1, regions, "--overwrite")
    assert caught.value.code == 1 and regions.read_bytes() == stored
    assert "regions.gpkg: is an input" in capsys.readouterr().err


def test_bad_queries_exit_with_one(seg_run, regions, tmp_path, capsys):
    out = tmp_path / "out.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(1, 1, 2, 2)], crs=4326).to_file(
        tmp_path / "far.geojson"
    )
    for arguments, message in (
        ((tmp_path / "none.parquet", "--id", 0, out), "none.parquet"),
        ((regions, "--id", 9999, out), "no such region"),
        ((regions, "--at", "-5", "-7.5", out), "outside all regions"),
        ((regions, "--at", 0, 0, "--crs", "EPSG:x", out), "unknown CRS"),
        ((regions, "--polygon", tmp_path / "far.geojson", out), "overlaps no region"),
        ((regions, "--polygon", tmp_path / "none.gpkg", out), "none.gpkg"),
        ((regions, "--chip", tmp_path / "none.tif", *seg_run, out), "none.tif"),
        ((regions, "--id", 0, tmp_path / "out.shp"), "unknown vector format"),
    ):
        with pytest.raises(SystemExit) as caught:
            _run(*arguments)
        assert caught.value.code == 1
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["far.geojson"]


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "required"),
        (["--id", "1", "--at", "1", "2"], "not allowed with"),
        (["--id", "-1"], "--id"),
        (["--id", "one"], "--id"),
        (["--at", "1", "east"], "--at"),
        (["--id", "1", "-k", "0"], "-k"),
        (["--id", "1", "--crs", "EPSG:4326"], "--crs"),
        (["--polygon", "a.gpkg", "--crs", "EPSG:4326"], "--crs"),
        (["--id", "1", "--token", "1"], "--token"),
        (["--chip", "a.tif"], "--chip"),
    ],
)
def test_bad_options_exit_with_two(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        _run("regions.parquet", "out.gpkg", *options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_chip_without_a_model_is_told_of_the_option(capsys):
    for words in (["r.parquet", "o.gpkg", "--chip", "x.tif"], ["--chip", "x.tif", "r.gpkg", "o"]):
        with pytest.raises(SystemExit) as caught:
            _run(*words)
        assert caught.value.code == 2
        assert "--chip FILE --model NAME" in capsys.readouterr().err
