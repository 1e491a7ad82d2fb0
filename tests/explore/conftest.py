"""A small scene with regions, and a served session of it."""

import json
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

pytest.importorskip("fastapi", reason="needs hook-rs[explore]")

from hook.errors import SceneError
from hook.explore.server import Events, PageServer, listening, make_app
from hook.explore.session import Session

HEIGHT, WIDTH, SIDE = 96, 160, 16
TOKEN = "a-token"


def write_scene(folder, seed=0, crs="EPSG:32632", transform=None, name="scene.tif"):
    """A scene of four bands: dark at the left, bright at the right, without data in a corner."""
    rng = np.random.default_rng(seed)
    image = rng.normal(1000, 40, (4, HEIGHT, WIDTH))
    image[:, :, WIDTH // 2 :] += 1500
    image = image.astype(np.uint16)
    image[:, :SIDE, :SIDE] = 0
    profile = dict(height=HEIGHT, width=WIDTH, count=4, dtype="uint16", nodata=0, crs=crs)
    profile["transform"] = from_origin(688_600, 5_338_800, 2, 2) if transform is None else transform
    with rasterio.open(folder / name, "w", driver="GTiff", **profile) as sink:
        sink.write(image)
        sink.descriptions = ("blue", "green", "red", "nir")
    return folder / name


def write_regions(scene, name="regions.parquet"):
    """Squares of 16 pixels as ``hook regions`` writes them, where the scene has data."""
    with rasterio.open(scene) as source:
        image, grid, crs = source.read().astype(float), source.transform, source.crs
    rows, columns = HEIGHT // SIDE, WIDTH // SIDE
    cells = image.reshape(4, rows, SIDE, columns, SIDE).transpose(1, 3, 0, 2, 4)
    cells = cells.reshape(rows * columns, 4, -1)[1:]
    fields = {"pixels": np.full(len(cells), SIDE * SIDE), "area_m2": 4.0 * SIDE * SIDE}
    for k, band in enumerate(("blue", "green", "red", "nir")):
        fields |= {f"mean_{band}": cells[:, k].mean(1), f"std_{band}": cells[:, k].std(1)}
    noise = np.random.default_rng(1).normal(0, 0.1, (len(cells), 1))
    fields["embedding"] = list(np.hstack([cells.mean(2) / 1000, noise]).astype(np.float32))
    corners = [(SIDE * c, SIDE * r) for r in range(rows) for c in range(columns)][1:]
    shapes = [shapely.box(x, y, x + SIDE, y + SIDE) for x, y in corners]
    place = [grid.a, grid.b, grid.d, grid.e, grid.c, grid.f]
    shapes = [shapely.affinity.affine_transform(shape, place) for shape in shapes]
    table = geopandas.GeoDataFrame(fields, geometry=shapes, crs=crs)
    table.to_parquet(scene.parent / name)
    return scene.parent / name


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with ``scene.tif`` and ``regions.parquet``, not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    write_regions(write_scene(folder))
    return folder


class Answer(NamedTuple):
    """Status, headers and body."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """Asks a server as the page does; several are several pages."""

    def __init__(self, port, app):
        self.port, self.host, self.token = port, f"127.0.0.1:{port}", TOKEN
        self.app = app and app.app  # inside the guard

    def ask(self, path, body=None, method=None, token=TOKEN, **headers):
        """Send a request; ``body`` is sent as JSON, bytes as they are."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"X-Hook-Token": token, "Content-Type": "application/json", **headers}
        url = f"http://{self.host}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    def add_class(self, name, color="#00aa00"):
        """Add a class, and return its id."""
        return self.ask("/api/classes", {"name": name, "color": color}).json["id"]

    def label(self, **labels):
        """Set labels: ``r5=1``."""
        pairs = [{"region": int(key[1:]), "class_id": value} for key, value in labels.items()]
        return self.ask("/api/labels", {"labels": pairs})

    def add_point(self, column, row, number, **more):
        """Set a point, and return its id."""
        body = {"at": [column, row], "class_id": number, **more}
        return self.ask("/api/points", body).json["id"]

    def wait(self, job):
        """Return the state of a job at its end."""
        while (state := self.ask(f"/api/jobs/{job}").json)["state"] == "running":
            threading.Event().wait(0.05)
        return state


class Served(NamedTuple):
    """A session and a page of it."""

    session: Session
    client: Client
    events: list


@pytest.fixture
def serve_session():
    """Serve sessions until the test ends."""
    servers = []

    def serve(scene, folder, regions=None):
        events, seen = Events(), []
        folder.mkdir(exist_ok=True)

        def publish(event):
            seen.append(event)
            events.publish(event)

        session = Session(str(scene), folder, publish=publish)
        if regions is not None:
            session.load(session.adopt(regions), {})
        listener = listening(0)
        port = listener.getsockname()[1]
        hosts = [f"127.0.0.1:{port}", f"localhost:{port}"]
        app = make_app(session, events, TOKEN, hosts)
        server = PageServer(app, events)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        servers.append((server, thread, listener, session))
        return Served(session, Client(port, app), seen)

    yield serve
    for server, thread, listener, session in servers:
        server.should_exit = True
        thread.join(10)
        listener.close()
        session.close()


@pytest.fixture
def served(data, tmp_path, serve_session):
    """A session of the small scene, with its regions."""
    return serve_session(data / "scene.tif", tmp_path / "session", data / "regions.parquet")


class Computing:
    """A model at work: its regions are there when a test says so."""

    def __init__(self, regions: Path) -> None:
        self._regions, self.held = regions, threading.Event()
        self.error = None
        """What it fails with."""

    def run_worker(self, tell, job, output=None, **given):
        """Instead of :func:`hook.explore.jobs.run_worker`."""
        if job != "extract":
            return  # the session itself draws what was not drawn
        tell("", 0.4)
        assert self.held.wait(60)
        if self.error is not None:
            raise self.error
        shutil.copyfile(self._regions, output)

    def end(self, session: Session) -> dict:
        """Let it end, and return the state of the regions."""
        self.held.set()
        while session.state["state"] == "computing":
            threading.Event().wait(0.02)
        return session.state


@pytest.fixture
def computing(data, monkeypatch):
    """What the sessions of a test wait for that compute regions."""
    found = Computing(data / "regions.parquet")
    monkeypatch.setattr("hook.explore.session.run_worker", found.run_worker)
    yield found
    found.error = found.error or SceneError("the test has ended")
    found.held.set()


@pytest.fixture
def waiting(data, tmp_path, serve_session, computing):
    """A session of the small scene, whose regions are being computed."""
    served = serve_session(data / "scene.tif", tmp_path / "waiting")
    served.session.compute(served.session.folder / "regions.parquet", {"model": "a"})
    return served
