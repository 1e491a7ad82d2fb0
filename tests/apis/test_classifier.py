import csv

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio

from hook.apis import Classifier
from hook.cli import main
from hook.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def classifier(cls_run):
    return Classifier(cls_run, batch_size=3)


def images(count=4, seed=0):
    return np.random.default_rng(seed).random((count, 3, 16, 16), np.float32)


def test_a_batch_of_arrays_is_a_table(classifier):
    table = classifier.predict(images(), progress=False)
    assert type(table) is pd.DataFrame and table["file"].tolist() == [0, 1, 2, 3]
    scores = table[[f"score_{name}" for name in classifier.classes]].to_numpy()
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores.max(1), table.score)
    assert [classifier.classes[k] for k in scores.argmax(1)] == table["class"].tolist()
    alone = pd.concat([classifier.predict(image, progress=False) for image in images()])
    np.testing.assert_allclose(alone.score, table.score, rtol=1e-4)


def test_files_have_footprints_where_all_lie_somewhere(classifier, write_scene, cls_run, capsys):
    values = images(3)
    paths = [
        write_scene(values[0], "a.tif"),
        write_scene(values[1], "b.tif"),
        write_scene(values[2], "c.tif", crs="EPSG:32646"),
    ]
    table = classifier.predict(paths[:2], progress=False)
    assert isinstance(table, geopandas.GeoDataFrame) and table.crs == "EPSG:32645"
    with rasterio.open(paths[0]) as source:
        assert table.geometry[0].bounds == tuple(source.bounds)
    several = classifier.predict(paths, progress=False)
    assert several.crs == "EPSG:4326" and len(several) == 3
    # What the command writes.
    main(["predict", *map(str, cls_run), *map(str, paths), "--quiet"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(rows[0]) == [n for n in several.columns if n not in ("score", "geometry")]
    assert [row["class"] for row in rows] == several["class"].tolist()
    mixed = classifier.predict([paths[0], values[1]], progress=False)
    assert type(mixed) is pd.DataFrame and mixed["file"].tolist() == [str(paths[0]), 1]


def test_a_data_array(classifier):
    xarray = pytest.importorskip("xarray")
    values = images(1)[0]
    array = xarray.DataArray(values, dims=("band", "y", "x"))
    assert classifier.predict(array).score[0] == classifier.predict(values).score[0]


def test_a_published_model_by_its_file(cls_model, classifier):
    found = Classifier(cls_model).predict(images(), progress=False)
    np.testing.assert_allclose(
        found.score, classifier.predict(images(), progress=False).score, atol=5e-3
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no image was given"),
        (3, "not an image or a list of images"),
        (["nowhere.tif"], "nowhere.tif does not exist"),
        (np.zeros((5, 16, 16), np.float32), "the array: its bands have no names"),
        (np.zeros(7), "is not an image"),
    ],
)
def test_what_cannot_be_classified(classifier, given, message):
    with pytest.raises(DataError, match=message) as caught:
        classifier.predict(given, progress=False)
    assert "remedy" in str(caught.value)


def test_a_segmentation_is_refused(seg_run):
    with pytest.raises(ConfigError, match="classifies pixels") as caught:
        Classifier(seg_run)
    assert "SceneMapper" in str(caught.value)


@pytest.mark.parametrize("number", ["a", 2.5, True])
def test_options_of_the_wrong_type_show_at_once(classifier, number):
    with pytest.raises(ConfigError, match="num_tokens="):
        Classifier(classifier.model, num_tokens=number)
    with pytest.raises(ConfigError, match="batch_size="):
        Classifier(classifier.model, batch_size=number)
