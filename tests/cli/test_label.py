"""``hook label`` in this process: files, options, exit status."""

import geopandas
import numpy as np
import pytest
import shapely

from hook.apis import classify_regions
from hook.cli import main


@pytest.fixture
def regions(tmp_path):
    """Two rows of squares: bands tell upper from lower, embeddings left from right."""
    number = np.arange(20)
    left, bottom = 3e5 + 10 * (number % 10), 3e6 + 10 * (number // 10)
    rng = np.random.default_rng(0)
    embeddings = np.where(number % 10 < 5, [[1], [0]], [[0], [1]]).T + rng.normal(0, 0.05, (20, 2))
    data = {
        "mean_red": np.where(number < 10, 50, 90) + rng.normal(0, 2, 20),
        "std_red": np.where(number < 10, 5, 9) + rng.normal(0, 0.2, 20),
        "embedding": [row.astype("<f4").tobytes() for row in embeddings],
    }
    table = geopandas.GeoDataFrame(
        data, geometry=shapely.box(left, bottom, left + 10, bottom + 10), crs="EPSG:32645"
    )
    table.to_file(tmp_path / "regions.gpkg", use_arrow=True)  # else BLOBs become text
    return tmp_path / "regions.gpkg"


@pytest.fixture
def labels(tmp_path):
    """One region at the lower left, one at the upper right."""
    points = geopandas.GeoDataFrame(
        {"kind": ["west", "east"]},
        geometry=geopandas.points_from_xy([300005, 300095], [3000005, 3000015]),
        crs="EPSG:32645",
    )
    points.to_crs(4326).to_file(tmp_path / "labels.geojson")
    return tmp_path / "labels.geojson"


def _run(*argv):
    main(["label", *map(str, argv)])


@pytest.mark.parametrize("method", ["linear", "mean"])
@pytest.mark.parametrize("features", ["embedding", "bands"])
def test_a_layer_of_classes(regions, labels, tmp_path, capsys, method, features):
    out = tmp_path / "out.gpkg"
    options = ["--method", method, "--features", features, "--layer", "land"]
    _run(regions, labels, out, "--field", "kind", *options)
    assert "out.gpkg: 20 regions (east 10, west 10)" in capsys.readouterr().err
    found = geopandas.read_file(out, layer="land")
    number = np.arange(20)
    west = number % 10 < 5 if features == "embedding" else number < 10
    assert found.class_name.tolist() == np.where(west, "west", "east").tolist()
    assert found.class_id.tolist() == west.astype(int).tolist()
    expected = classify_regions(regions, labels, field="kind", method=method, features=features)
    np.testing.assert_array_equal(found.score, expected.score)


def test_options_are_passed_on(regions, labels, tmp_path, capsys):
    strong, weak = tmp_path / "strong.parquet", tmp_path / "weak.parquet"
    _run(regions, labels, strong, "--field", "kind", "--strength", "100", "-q")
    _run(regions, labels, weak, "--field", "kind", "--strength", "0.01", "--quiet")
    assert capsys.readouterr().err == ""
    scores = [geopandas.read_parquet(path).score.mean() for path in (strong, weak)]
    assert scores[0] > 0.9 > 0.6 > scores[1]

    (tmp_path / "few.csv").write_text("region_id,class\n0,a\n9,b\n")
    _run(regions, tmp_path / "few.csv", tmp_path / "few.fgb")
    assert set(geopandas.read_file(tmp_path / "few.fgb").class_name) == {"a", "b"}

    before = strong.read_bytes()
    with pytest.raises(SystemExit) as caught:
        _run(regions, labels, strong, "--field", "kind")
    assert caught.value.code == 1 and strong.read_bytes() == before
    assert "strong.parquet: exists already" in capsys.readouterr().err
    _run(regions, labels, strong, "--field", "kind", "--method", "mean", "--overwrite")
    assert strong.read_bytes() != before


def test_bad_files_exit_with_one(regions, labels, tmp_path, capsys):
    out = tmp_path / "out.gpkg"
    (tmp_path / "one.csv").write_text("region_id,class\n0,a\n")
    (tmp_path / "two.csv").write_text("region_id,class\n0,a\n0,b\n")
    (tmp_path / "far.csv").write_text("region_id,class\n0,a\n20,b\n")
    names = sorted(path.name for path in tmp_path.iterdir())
    for arguments, message in (
        ((regions, labels, out), "has no field class"),
        ((regions, tmp_path / "one.csv", out), "fewer than two classes"),
        ((regions, tmp_path / "two.csv", out), "contradict"),
        ((regions, tmp_path / "far.csv", out), "hits no region"),
        ((tmp_path / "none.gpkg", labels, out), "none.gpkg"),
        ((regions, tmp_path / "none.gpkg", out), "none.gpkg"),
        ((regions, labels, tmp_path / "out.shp"), "unknown vector format"),
        ((regions, labels, regions, "--field", "kind", "--overwrite"), "is an input"),
        ((regions, labels, labels, "--field", "kind", "--overwrite"), "is an input"),
    ):
        with pytest.raises(SystemExit) as caught:
            _run(*arguments)
        assert caught.value.code == 1
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    "option",
    [
        ["--method", "forest"],
        ["--features", "pixels"],
        ["--strength", "0"],
        ["--strength", "-1"],
        ["--strength", "much"],
    ],
)
def test_bad_options_exit_with_two(option, capsys):
    with pytest.raises(SystemExit) as caught:
        _run("regions.gpkg", "labels.gpkg", "out.gpkg", *option)
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err
