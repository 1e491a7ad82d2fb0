"""Sessions: what they keep, what they refuse, and the files they write."""

import json
import shutil
import threading
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from hook.apis import classify_regions
from hook.cli import main
from hook.errors import DataError, SceneError
from hook.explore import saving
from hook.explore.session import Session

from .conftest import SIDE, write_regions, write_scene


@pytest.fixture
def labelled(served):
    """The session with six labels of two classes."""
    water, wood = served.client.add_class("water", "#0000ff"), served.client.add_class("a wood")
    served.client.label(r3=water, r2=water, r21=water, r8=wood, r7=wood, r38=wood)
    return served


def save(served, *what):
    job = served.client.ask("/api/save", {"what": list(what)}).json["job"]
    return served.client.wait(job)


def test_saved_files_are_those_of_hook_label(labelled, data, tmp_path):
    state = save(labelled, "map", "labels", "regions")
    assert state["state"] == "finished" and state["done"] == 1
    assert state["files"] == [
        "labels.gpkg",
        "classified.parquet",
        "classified.gpkg",
        "map.tif",
        "map.json",
    ]
    folder = labelled.session.folder
    for suffix in ("parquet", "gpkg"):
        wanted = tmp_path / f"wanted.{suffix}"
        given = [folder / "regions.parquet", folder / "labels.gpkg", wanted, "--quiet"]
        main(["label", *map(str, given)])
        assert wanted.read_bytes() == (folder / f"classified.{suffix}").read_bytes()
    table = geopandas.read_parquet(wanted.with_suffix(".parquet"))
    found = labelled.session.map()
    names = {0: "water", 1: "a wood"}
    assert table.class_name.tolist() == [names[k] for k in found.classes.tolist()]
    np.testing.assert_array_equal(table.score, found.probability)
    labels = geopandas.read_file(folder / "labels.gpkg")
    assert labels["class"].tolist() == ["water"] * 2 + ["a wood"] * 2 + ["water", "a wood"]


def test_the_saved_map_is_on_the_grid_of_the_scene(labelled, data):
    assert save(labelled, "map")["state"] == "finished"
    folder, classes = labelled.session.folder, labelled.session.map().classes
    with rasterio.open(data / "scene.tif") as scene, rasterio.open(folder / "map.tif") as found:
        assert (found.shape, found.transform, found.crs) == (
            scene.shape,
            scene.transform,
            scene.crs,
        )
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and found.nodata == 255
        colours = found.colormap(1)
        values = found.read(1)
    assert colours[0][:3] == (0, 0xAA, 0) and colours[1][:3] == (0, 0, 255)
    # Values follow the names, as in the classified regions.
    wanted = np.append(255, 1 - classes).reshape(6, 10).repeat(SIDE, 0).repeat(SIDE, 1)
    np.testing.assert_array_equal(values, wanted)
    item = json.loads((folder / "map.json").read_text())
    listed = item["assets"]["map"]["classification:classes"]
    assert [one["title"] for one in listed] == ["a wood", "water", "No data"]
    assert listed[2]["count"] == SIDE * SIDE
    assert "a wood" in (folder / "map.qml").read_text()
    assert save(labelled, "map")["state"] == "finished"  # once more, over the old one


def test_saving_needs_labels(served):
    served.client.add_class("water")
    state = save(served, "map")
    assert state["state"] == "failed" and "fewer than two classes" in state["message"]
    assert not (served.session.folder / "map.tif").exists()


@pytest.fixture
def trained(labelled, monkeypatch):
    """Jobs of trainings, which wait for a word; the training itself is tested in tests/apis."""
    jobs, go_on = [], threading.Event()

    def run_worker(tell, job, folder, **options):
        tell("images", 1.0)
        tell("training", 0.1)
        tell("training", 0.5)
        assert job == "train" and go_on.wait(30)
        jobs.append(dict(folder=folder, **options))
        Path(folder).mkdir()
        paths = [Path(folder, name) for name in ("config.py", "checkpoint.pth")]
        for path in paths:
            path.touch()
        return list(map(str, paths))

    monkeypatch.setattr("hook.explore.saving.run_worker", run_worker)
    return jobs, go_on


def test_a_model_is_trained_on_the_map(labelled, trained, data):
    (jobs, go_on), folder = trained, labelled.session.folder
    go_on.set()
    state = save(labelled, "model")
    assert state["files"] == ["map.tif", "map.json", "model/config.py", "model/checkpoint.pth"]
    assert jobs[0]["scene"] == str(data / "scene.tif")
    assert jobs[0]["labels"] == str(folder / "map.tif") and (folder / "map.tif").is_file()
    assert jobs[0]["folder"] == str(folder / "model")
    told = [event for event in labelled.events if event["type"] == "job"]
    shares = [event["done"] for event in told]
    assert shares == sorted(shares) and told[-1]["state"] == "finished"
    messages = {event["message"] for event in told}
    assert {"Writing the map", "Training a model, about 1 min left"} <= messages
    again = save(labelled, "model")
    assert again["files"][2:] == ["model_2/config.py", "model_2/checkpoint.pth"]


def test_the_model_maps_a_scene(labelled, data, tmp_path):
    folder, told = labelled.session.folder, []
    assert save(labelled, "map")["state"] == "finished"
    options = dict(epochs=1, chip_size=32, batch_size=2, num_tokens=4)
    scene = str(data / "scene.tif")
    config, checkpoint = saving.train_model(
        scene, 7, folder, lambda *given: told.append(given), **options
    )
    assert (config, checkpoint) == (folder / "model/config.py", folder / "model/checkpoint.pth")
    shares = [done for _, done in told]
    assert shares == sorted(shares) and shares[-1] == 1 and "min left" in told[-1][0]
    main(["map", str(config), str(checkpoint), scene, str(tmp_path / "map.tif"), "--quiet"])
    with rasterio.open(tmp_path / "map.tif") as found, rasterio.open(folder / "map.tif") as wanted:
        assert found.shape == wanted.shape and found.colormap(1) == wanted.colormap(1)
        assert (found.read_masks(1) == wanted.read_masks(1)).all()


def test_a_model_is_trained_with_the_nodata_value_of_the_session(data, tmp_path, monkeypatch):
    def worker(tell, scene, **job):
        with rasterio.open(scene) as found, rasterio.open(data / "scene.tif") as wanted:
            assert found.nodata == 7 and found.transform == wanted.transform
            assert (found.read() == wanted.read()).all()
        return ["config.py"]

    monkeypatch.setattr(saving, "run_worker", worker)
    assert saving.train_model(str(data / "scene.tif"), "7", tmp_path, print) == [Path("config.py")]


def test_one_job_at_a_time(labelled, trained):
    client, (_, go_on) = labelled.client, trained
    job = client.ask("/api/save", {"what": ["model"]}).json["job"]
    refused = client.ask("/api/save", {"what": ["labels"]})
    assert refused.status == 400 and "already" in refused.json["message"]
    shown = client.ask("/api/session").json  # a page that is opened meanwhile
    assert shown["job"]["job"] == job and shown["job"]["state"] == "running"
    assert shown["folder"] == str(labelled.session.folder)
    go_on.set()
    assert client.wait(job)["state"] == "finished"
    assert save(labelled, "labels")["files"] == ["labels.gpkg"]


def test_a_file_of_others_is_not_replaced(labelled):
    other = labelled.session.folder / "map.json"
    other.write_text('{"of": "another program"}')
    with pytest.warns(UserWarning, match="HOOK did not write it"):
        assert save(labelled, "map")["state"] == "finished"
    assert other.read_text() == '{"of": "another program"}'


def test_a_session_goes_on(labelled, data, serve_session):
    before = labelled.client.ask("/api/session").json
    shown = labelled.client.ask("/api/map").json
    labelled.session.close()
    again = serve_session(data / "scene.tif", labelled.session.folder, data / "regions.parquet")
    assert again.client.ask("/api/session").json == before
    assert again.client.ask("/api/map").json == shown
    assert again.client.ask("/api/undo", method="POST").json["labels"]["3"] is None


def test_regions_of_other_digests_are_refused(labelled, data, tmp_path):
    table = geopandas.read_parquet(data / "regions.parquet")
    table.iloc[:50].to_parquet(tmp_path / "fewer.parquet")
    session = Session(str(data / "scene.tif"), labelled.session.folder)
    with pytest.raises(DataError, match="other regions") as refused:
        session.adopt(tmp_path / "fewer.parquet")
    assert "digest" in refused.value.expected and "digest" in refused.value.found
    shutil.copy(tmp_path / "fewer.parquet", session.folder / "regions.parquet")
    with pytest.raises(DataError, match="regions"):
        session.load(session.stored, {})


def test_a_scene_of_another_digest_is_refused(labelled, data, tmp_path):
    """By its content: the same scene may have been copied."""
    scene = tmp_path / "copy.tif"
    shutil.copyfile(data / "scene.tif", scene)
    session = Session(str(scene), labelled.session.folder)
    session.load(session.stored, {})
    session.close()
    with rasterio.open(scene, "r+") as source:
        image = source.read()
        image[:, 90, 90] += 1  # no region looks different in a few samples
        source.write(image)
    with pytest.raises(DataError, match="scene") as refused:
        session.load(session.stored, {})
    assert len(refused.value.expected) == len(refused.value.found) == 64


@pytest.mark.parametrize("kind", ["values", "CRS", "place", "no CRS", "shape"])
def test_regions_of_another_scene_are_refused(data, tmp_path, kind):
    other = tmp_path / "other"
    other.mkdir()
    options = {
        "values": dict(seed=5),
        "CRS": dict(crs="EPSG:32633"),
        "place": dict(transform=rasterio.Affine(2, 0, 700_000, 0, -2, 5_338_800)),
        "no CRS": dict(crs=None),
        "shape": {},
    }[kind]
    regions = write_regions(write_scene(other, **options))
    if kind == "shape":
        table = geopandas.read_parquet(regions)
        table = table.iloc[10:45]
        table.buffer(3, join_style="mitre").to_frame("geometry").join(
            table.drop(columns="geometry")
        ).to_parquet(regions)
    session = Session(str(data / "scene.tif"), tmp_path)
    with pytest.raises(DataError) as refused:
        session.load(regions, {})
    assert refused.value.expected and refused.value.found and refused.value.remedy


@pytest.mark.parametrize("suffix", [".txt", ".parquet", ".gpkg"])
def test_files_without_regions(data, tmp_path, suffix):
    path = tmp_path / f"regions{suffix}"
    path.write_text("no regions")
    session = Session(str(data / "scene.tif"), tmp_path / "session")
    session.folder.mkdir()
    with pytest.raises((DataError, SceneError)) as refused:
        session.load(session.adopt(path), {})
    assert refused.value.expected and refused.value.remedy


def test_regions_without_embeddings(data, tmp_path):
    table = geopandas.read_parquet(data / "regions.parquet").drop(columns="embedding")
    table.to_parquet(tmp_path / "regions.parquet")
    session = Session(str(data / "scene.tif"), tmp_path)
    with pytest.raises(DataError, match="embedding"):
        session.load(tmp_path / "regions.parquet", {})


@pytest.mark.parametrize("region", [3, 58])
@pytest.mark.parametrize("shape", [None, shapely.Polygon(), shapely.Point(688_700, 5_338_700)])
def test_regions_that_are_not_polygons(data, tmp_path, shape, region):
    table = geopandas.read_parquet(data / "regions.parquet")
    table.loc[region, "geometry"] = shape
    table.to_parquet(tmp_path / "regions.parquet")
    session = Session(str(data / "scene.tif"), tmp_path)
    with pytest.raises(DataError, match="polygon") as refused:
        session.load(tmp_path / "regions.parquet", {})
    assert f"region {region}" in refused.value.found and refused.value.remedy


@pytest.mark.parametrize("field", ["pixels", "area_m2", "score", "mean_red", "std_type"])
def test_fields_without_numbers(data, tmp_path, field):
    table = geopandas.read_parquet(data / "regions.parquet")
    table[field] = "much"
    table.to_parquet(tmp_path / "regions.parquet")
    session = Session(str(data / "scene.tif"), tmp_path)
    with pytest.raises(DataError, match=f"field {field}") as refused:
        session.load(tmp_path / "regions.parquet", {})
    assert "string" in refused.value.found and refused.value.remedy


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "place",
    [
        dict(crs=None, transform=rasterio.Affine.identity()),
        dict(crs=None),
        dict(crs="EPSG:3031", transform=rasterio.Affine(30, 0, -2e6, 0, -30, 1e6)),
        dict(transform=rasterio.Affine(1.7, 1, 688_600, 1, -1.7, 5_338_800)),
    ],
    ids=["none", "no CRS", "polar", "rotated"],
)
def test_scenes_anywhere(tmp_path, serve_session, place):
    scene = write_scene(tmp_path, **place)
    served = serve_session(scene, tmp_path / "session", write_regions(scene))
    found = served.client.ask("/api/regions/3").json
    assert np.allclose(found["bounds"], [64, 0, 80, 16])
    assert (served.client.ask("/api/session").json["scene"]["crs"] is None) == (
        not place.get("crs", 1)
    )
    one, two = served.client.add_class("a"), served.client.add_class("b")
    served.client.label(r3=one, r8=two)
    state = save(served, "labels", "regions", "map")
    assert state["state"] == "finished", state
    with rasterio.open(served.session.folder / "map.tif") as source:
        assert (source.read(1)[:SIDE, SIDE : 5 * SIDE] == 0).all()


def test_regions_without_features_have_no_class(data, tmp_path, serve_session):
    table = geopandas.read_parquet(data / "regions.parquet")
    table.at[5, "embedding"] = np.zeros(5, np.float32)
    table.loc[5, ["mean_red", "std_red"]] = np.nan
    table.to_parquet(tmp_path / "regions.parquet")
    served = serve_session(data / "scene.tif", tmp_path / "session", tmp_path / "regions.parquet")
    one, two = served.client.add_class("a"), served.client.add_class("b")
    served.client.label(r3=one, r8=two)
    found = served.session.map()
    assert found.classes[5] == 255 and 5 not in found.uncertain
    region = served.client.ask("/api/regions/5").json
    assert region["predicted"] is None and region["bands"]["red"] == {"mean": None, "std": None}
    served.client.label(r5=one)
    assert served.client.ask("/api/map").status == 409


def test_maps_are_those_of_classify_regions_bit_for_bit(data, tmp_path, serve_session):
    """With many labels of many classes, whose order is not that of the alphabet."""
    served = serve_session(data / "scene.tif", tmp_path / "session", data / "regions.parquet")
    names = ["m", "c", "z", "a"]
    numbers = [served.client.add_class(name) for name in names]
    chosen = np.random.default_rng(3).permutation(59)[:24].tolist()
    labels = {region: names[k % 4] for k, region in enumerate(chosen)}
    served.client.label(**{f"r{one}": numbers[names.index(name)] for one, name in labels.items()})
    found = served.session.map()
    wanted = classify_regions(data / "regions.parquet", labels)
    assert [names[k] for k in found.classes] == wanted.class_name.tolist()
    np.testing.assert_array_equal(found.probability, wanted.score)


def test_points_outlive_a_kill_before_they_become_labels(waiting, computing, data, serve_session):
    """The regions are written, and the process ends before it reads them."""
    client, folder = waiting.client, waiting.session.folder
    water, wood = client.add_class("water"), client.add_class("wood")
    for column, number in ((70, water), (100, wood), (3, wood)):
        client.add_point(column, 8, number)
    before = client.ask("/api/session").json
    waiting.session.close()
    again = serve_session(data / "scene.tif", folder)
    found = again.client.ask("/api/session").json
    assert [found[name] for name in ("classes", "points", "revision")] == [
        before[name] for name in ("classes", "points", "revision")
    ]
    again.session.close()
    later = serve_session(data / "scene.tif", folder, data / "regions.parquet")
    found = later.client.ask("/api/session").json
    assert found["labels"] == {"3": water, "5": wood}
    assert [point["at"] for point in found["points"]] == [[3, 8]]
    names = later.client.wait(later.client.ask("/api/save", {"what": ["labels"]}).json["job"])
    assert names["files"] == ["labels.gpkg"]
    assert len(geopandas.read_file(folder / "labels.gpkg")) == 2  # and not the point in no region


def test_labels_of_lost_regions_come_back_with_them(labelled, computing, data, serve_session):
    before = labelled.client.ask("/api/session").json
    folder = labelled.session.folder
    labelled.session.close()
    (folder / "regions.parquet").unlink()
    again = serve_session(data / "scene.tif", folder)
    again.session.compute(folder / "regions.parquet", {"model": "a"})
    found = again.client.ask("/api/session").json
    assert found["labels"] == before["labels"] and found["places"] == {}
    again.client.add_point(70, 8, found["classes"][1]["id"])
    assert computing.end(again.session)["state"] == "ready"
    found = again.client.ask("/api/session").json
    assert found["labels"] == {**before["labels"], "3": found["classes"][1]["id"]}
    assert again.client.ask("/api/undo", method="POST").json["labels"] == {
        "3": before["labels"]["3"]
    }


def test_labels_of_others_are_refused_before_regions_are_computed(labelled, computing):
    session, facts = labelled.session, {"model": "a"}
    session.journal.settle(facts, len)
    with pytest.raises(DataError, match="model"):
        session.compute(session.folder / "other.parquet", {"model": "b"})
    assert session.state["state"] == "ready"
