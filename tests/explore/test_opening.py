"""The command as a person starts it, and kills it."""

import random
import re
import signal
import subprocess
import sys
import time
import urllib.request

import geopandas
import pytest
import rasterio
import shapely

from hook.errors import ConfigError, DataError, SceneError
from hook.explore import opening
from hook.explore.opening import explore
from hook.explore.server import listening
from hook.explore.session import Session

from .conftest import Client, write_regions, write_scene


@pytest.fixture(autouse=True)
def bundle(monkeypatch):
    """The map library of the page is there."""
    monkeypatch.setattr(opening, "BUNDLE", opening.STATIC / "index.html")


class Command:
    """``hook explore`` in a process of its own."""

    def __init__(self, *argv):
        code = "from hook.explore import opening; opening.BUNDLE = opening.STATIC / 'index.html'; "
        code += "from hook.cli import main; import signal, sys; "
        # Tests may run in the background of a shell, which ignores it there.
        code += "signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "main(['explore', *sys.argv[1:]])"
        command = [sys.executable, "-c", code, *map(str, argv), "--no-browser"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
        address = self.process.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{40,})\n", address)
        assert found, self.process.stderr.read()
        self.client = Client(int(found[1]), None)
        self.address = f"http://127.0.0.1:{found[1]}", found[2]
        token, ask = found[2], self.client.ask
        self.client.ask = lambda *given, token=token, **more: ask(*given, token=token, **more)

    def stop(self, how):
        """End the process, and return its exit status and what it wrote."""
        self.process.send_signal(how)
        _, text = self.process.communicate(timeout=30)
        return self.process.returncode, text

    def wait(self):
        """Wait for the regions, and return their state."""
        while (state := self.client.ask("/api/session").json["regions"])["state"] == "computing":
            time.sleep(0.1)
        return state


def test_killed_at_any_moment_it_loses_no_confirmed_label(data, tmp_path):
    random.seed(0)
    out, told = tmp_path / "session", {}
    argv = [data / "scene.tif", "--regions", data / "regions.parquet", "--out", out]
    for number in range(3):
        command = Command(*argv)
        client = command.client
        assert command.wait()["state"] == "ready"
        labels = client.ask("/api/session").json["labels"]
        assert told.items() <= labels.items()
        kind = client.add_class(f"class {number}")
        until = time.monotonic() + random.uniform(0.1, 0.5)
        for region in range(15 * number, 15 * number + 15):
            if time.monotonic() > until:
                break
            assert client.label(**{f"r{region}": kind}).status == 200
            told[str(region)] = kind
        assert command.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    assert len(told) > 3
    command = Command(data / "scene.tif", "--out", out)  # without regions or model
    assert told == command.client.ask("/api/session").json["labels"]
    status, text = command.stop(signal.SIGTERM)
    assert status in (0, 143) and "Traceback" not in text


def test_interrupted_by_an_impatient_person(data, tmp_path):
    """An open page ends with the server, and nothing is said about it."""
    command = Command(data / "scene.tif", "--regions", data / "regions.parquet", "--out", tmp_path)
    base, token = command.address
    with urllib.request.urlopen(f"{base}/api/events?token={token}", timeout=30) as stream:
        assert stream.readline() == b": begin\n"
        command.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        status, text = command.stop(signal.SIGINT)
        assert b"data: null" not in stream.read()
    assert status == 130 and text == "interrupted\n"


def test_the_page_is_there_before_the_regions_of_a_file(data, tmp_path):
    """They are drawn in another process, whose progress the page is told."""
    told = []
    session = Session(str(data / "scene.tif"), tmp_path, publish=told.append)
    session.begin(data / "regions.parquet", {}, given=data / "regions.parquet")
    assert session.state["state"] == "computing" and session.describe()["scene"]["width"]
    while session.state["state"] == "computing":
        time.sleep(0.05)
    assert session.state == {"state": "ready", "done": 1.0, "count": 59, "message": ""}
    assert ("drawing regions", 1.0) in [(event["message"], event["done"]) for event in told]
    session.close()
    told.clear()
    session = Session(str(data / "scene.tif"), tmp_path, publish=told.append)
    session.begin(session.stored, {})  # they are drawn
    assert session.state["state"] == "ready" and len(told) == 1
    session.close()


def test_regions_that_cannot_be_drawn(data, tmp_path, capsys, monkeypatch):
    session = Session(str(data / "scene.tif"), tmp_path)
    monkeypatch.setattr("hook.explore.id_tiles.FILE", "folder")
    (tmp_path / "folder").mkdir()
    session.begin(data / "regions.parquet", {})
    while session.state["state"] == "computing":
        time.sleep(0.05)
    assert session.state["state"] == "failed" and "folder" in session.state["message"]
    assert session.state["message"] in capsys.readouterr().err
    session.close()


def test_regions_are_made_and_continued(seg_run, scenes, tmp_path):
    scene = sorted(scenes.rglob("*.tif"))[0]
    out = tmp_path / "session"
    command = Command(*seg_run, scene, "--out", out)
    assert command.client.ask("/api/tiles/scene/0/0/0.png").status == 200  # meanwhile
    number = command.client.add_class("water")
    with rasterio.open(scene) as source:
        width, height, grid = source.width, source.height, source.transform
    places = [(width / 4, height / 4), (width / 4, 3 * height / 4), (3 * width / 4, height / 2)]
    for place in places:
        command.client.add_point(*place, number)
    command.stop(signal.SIGKILL)
    command = Command(*seg_run, scene, "--out", out)
    shown = command.client.ask("/api/session").json
    assert [one["at"] for one in shown["points"]] == [*map(list, places)] or shown["labels"]
    state = command.wait()
    assert state["state"] == "ready", state
    table = geopandas.read_parquet(out / "regions.parquet")
    assert state["count"] == len(table) > 0
    shown = command.client.ask("/api/session").json
    assert shown["points"] == [] and shown["labels"]
    for place in places:
        point = shapely.Point(grid @ place)
        assert any(table.geometry[int(row)].intersects(point) for row in shown["labels"])
    assert command.client.ask("/api/regions/0").json["class_name"]
    assert command.stop(signal.SIGINT)[0] in (0, 130)


def test_a_model_that_cannot_be_used(seg_run, data, tmp_path):
    checkpoint = tmp_path / "not.pth"
    checkpoint.write_text("not a checkpoint")
    command = Command(seg_run[0], checkpoint, data / "scene.tif", "--out", tmp_path / "s")
    state = command.wait()
    assert state["state"] == "failed" and "not.pth" in state["message"]
    command.stop(signal.SIGTERM)


@pytest.fixture
def not_served(monkeypatch):
    """What would be served."""
    served = []
    monkeypatch.setattr("hook.explore.server.serve", lambda *given: served.append(given))
    return served


def test_without_regions(data, tmp_path, not_served):
    with pytest.raises(ConfigError, match="no regions") as refused:
        explore(data / "scene.tif", out=tmp_path / "session")
    assert "--model" in refused.value.remedy and "--regions" in refused.value.remedy
    assert not (tmp_path / "session").exists()


def test_the_folder_is_next_to_the_scene(data, tmp_path, not_served):
    scene = write_scene(tmp_path)
    explore(scene, regions=data / "regions.parquet", opened=None)
    assert (tmp_path / "scene_explore" / "labels.sqlite").is_file()
    assert not_served[0][3] is None


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("hook-fast-tiny_eurosta", "hook-fast-tiny_eurosat"),
        ("no.safetensors", "no.safetensors"),
        (("no.py", "no.pth"), "no.py"),
    ],
)
def test_a_model_that_is_not_there(data, tmp_path, not_served, model, named):
    with pytest.raises(ConfigError) as refused:
        explore(data / "scene.tif", model=model, out=tmp_path / "session")
    assert named in f"{refused.value.what} {refused.value.found}"
    assert not (tmp_path / "session").exists()


def test_the_folder_is_a_file(data, tmp_path, not_served):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        explore(data / "scene.tif", regions=data / "regions.parquet", out=tmp_path / "file")


def test_a_taken_port_is_told_before_anything_is_written(data, tmp_path, not_served):
    with listening(0) as other, pytest.raises(ConfigError, match="port"):
        port = other.getsockname()[1]
        explore(
            data / "scene.tif", model="hook-fast-tiny_eurosat", out=tmp_path / "session", port=port
        )
    assert not (tmp_path / "session").exists()


def test_refused_regions_are_not_kept(data, tmp_path, not_served):
    """So that the right ones are not refused afterwards."""
    scene, out = write_scene(tmp_path, seed=1), tmp_path / "session"
    given = data / "regions.parquet"
    with pytest.raises(DataError, match="regions of a different scene") as refused:
        explore(scene, regions=given, out=out)
    assert str(given) in refused.value.what and refused.value.found.count("mean") == 2
    with pytest.raises(DataError, match="scene.tif: not a file of regions") as refused:
        explore(scene, regions=scene, out=out)
    assert ".parquet" in refused.value.expected and "hook regions" in refused.value.remedy
    explore(scene, regions=write_regions(scene), out=out)
    assert (out / "regions.parquet").is_file() and len(not_served) == 1


@pytest.mark.parametrize("option", [dict(scale=9), dict(embedding="seeds"), dict(bidx=[1])])
def test_options_of_a_model(data, tmp_path, not_served, option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        explore(data / "scene.tif", regions=data / "regions.parquet", out=tmp_path, **option)


def test_a_scene_that_cannot_be_read(tmp_path, not_served):
    with pytest.raises(SceneError, match="no.tif"):
        explore(tmp_path / "no.tif", model="hook-fast-tiny_eurosat", out=tmp_path / "session")
    assert not (tmp_path / "session").exists()


def test_a_session_of_another_model(data, tmp_path, not_served):
    out = tmp_path / "session"
    explore(data / "scene.tif", regions=data / "regions.parquet", out=out)
    explore(data / "scene.tif", out=out)
    with pytest.raises(DataError, match="model") as refused:
        explore(data / "scene.tif", model="hook-fast-tiny_eurosat", out=out)
    assert "regions" in refused.value.expected
    assert "hook-fast-tiny_eurosat" in refused.value.found


def test_without_the_extra(data, tmp_path, monkeypatch):
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as refused:
        explore(data / "scene.tif", regions=data / "regions.parquet", out=tmp_path)
    assert refused.value.remedy == "pip install 'hook-rs[explore]'"


def test_without_the_bundle(data, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "BUNDLE", tmp_path / "missing.mjs")
    with pytest.raises(ConfigError) as refused:
        explore(data / "scene.tif", regions=data / "regions.parquet", out=tmp_path)
    assert "bundle_explore.py" in refused.value.remedy


def test_importing_hook_and_its_command_loads_no_server():
    code = "import hook, hook.cli, sys; hook.cli.build_parser(); "
    code += (
        "print([m for m in ('fastapi', 'uvicorn', 'starlette', 'pydantic') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
