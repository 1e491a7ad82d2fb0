"""Measure ``hook explore``: first picture, map after a label, memory, and labels after kills.

A scene and regions are made up. Run it where nothing else runs:

    python tools/analysis_tools/explore_benchmark.py --side 10000 --regions 50000 --kills 20
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from json import dumps, loads
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import rasterio.features
import shapely
from rasterio.enums import Resampling
from scipy.spatial import cKDTree

from hook.errors import HookError, reports_errors
from hook.geo.raster import quiet_open
from hook.regions.table import Regions

CELL = 4  # pixels, as seeds of HOOK


class Server:
    """A ``hook explore`` in a process of its own."""

    def __init__(self, *argv: object) -> None:
        command = [sys.executable, "-m", "hook.cli", "explore", *map(str, argv), "--no-browser"]
        self._begun = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        found = re.match(r"(http://[^/]+)/\?token=(\S+)", self.process.stdout.readline())
        if found is None:
            raise HookError("hook explore failed", remedy="see its message above")
        self.seconds = time.monotonic() - self._begun
        self._address, self._token = found[1], found[2]
        self.address = found[0]

    def wait(self) -> float:
        """Wait for the regions; return the seconds since the start of the command."""
        while loads(self.ask("/api/session"))["regions"]["state"] == "computing":
            time.sleep(0.05)
        return time.monotonic() - self._begun

    def ask(self, path: str, body: object = None) -> bytes:
        """Send a request, and return the body of the answer."""
        headers = {"X-Hook-Token": self._token, "Content-Type": "application/json"}
        data = None if body is None else dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()

    def megabytes(self) -> float:
        """Return the largest memory of the process so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End the process."""
        self.process.send_signal(how)
        self.process.wait()


def make_scene(path: Path, side: int, overviews: bool) -> None:
    """Write a scene of three bands with structure at all scales."""
    rng = np.random.default_rng(0)
    image = np.zeros((3, side, side), np.float32)
    for scale in (1, 8, 64, 512):
        coarse = rng.normal(0, 8, (3, -(-side // scale), -(-side // scale))).astype(np.float32)
        image += coarse.repeat(scale, axis=1).repeat(scale, axis=2)[:, :side, :side]
    options = dict(driver="GTiff", tiled=True, compress="deflate", zlevel=1, photometric="rgb")
    grid = rasterio.transform.from_origin(5e5, 5e6, 1, 1)
    size = dict(count=3, height=side, width=side, dtype="uint8", crs="EPSG:32632", transform=grid)
    with quiet_open(path, "w", **options, **size) as sink:
        sink.write((image + 100).clip(0, 255).astype(np.uint8))
        if overviews:
            sink.build_overviews([2, 4, 8, 16, 32], Resampling.average)


def make_regions(path: Path, side: int, count: int, dims: int) -> int:
    """Write about ``count`` regions with ragged borders; return their number."""
    rng = np.random.default_rng(1)
    cells = side // CELL
    rows, columns = np.divmod(np.arange(cells * cells), cells)
    places = np.column_stack([columns, rows]) + rng.normal(0, 0.5, (cells * cells, 2))
    _, labels = cKDTree(rng.random((count, 2)) * cells).query(places)
    labels = labels.reshape(cells, cells).astype(np.int32)
    grid = rasterio.transform.from_origin(5e5, 5e6, CELL, CELL)
    parts: dict[int, list] = {}
    for shape, value in rasterio.features.shapes(labels, transform=grid):
        parts.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    geometry = [shapely.MultiPolygon(part) for part in parts.values()]
    centres = shapely.get_coordinates(shapely.centroid(geometry))
    kind = (centres[:, 0] // 500 + centres[:, 1] // 500).astype(int) % 4
    embeddings = rng.normal(0, 1, (4, dims))[kind] + rng.normal(0, 2, (len(kind), dims))
    table = geopandas.GeoDataFrame(
        {"area_m2": shapely.area(geometry), "embedding": list(embeddings.astype(np.float32))},
        geometry=geometry,
        crs="EPSG:32632",
    )
    return Regions.from_table(table).write(path, path, "regions")  # in the batches of HOOK


def first_picture(server: Server) -> float:
    """Return the seconds until all tiles of zoom 2, which fill a window, were sent."""
    tiles = [f"/api/tiles/scene/2/{x}/{y}.png" for x in range(4) for y in range(4)]
    begun = time.monotonic()
    with ThreadPoolExecutor(6) as pages:  # as many connections as browsers open
        list(pages.map(server.ask, tiles))
    return time.monotonic() - begun


def measure_maps(server: Server, count: int, labels: int) -> list[float]:
    """Return the seconds from sending each label to the new map."""
    rng = random.Random(0)
    kinds = [
        loads(server.ask("/api/classes", {"name": name, "color": "#00aa00"}))["id"]
        for name in "abcd"
    ]
    taken = []
    for number in range(labels):
        one = {"region": rng.randrange(count), "class_id": kinds[number % 4]}
        begun = time.monotonic()
        server.ask("/api/labels", {"labels": [one]})
        if number:
            server.ask("/api/map")
            taken.append(time.monotonic() - begun)
    return taken


# From the key that labels the selected region until the map with its new colours is on the screen:
# reading a pixel waits for all that WebGL was told to draw.
_LABEL = """async ([region, index]) => {
  const { theMap } = await import("/static/js/view.js");
  const { select } = await import("/static/js/region.js");
  const { state, update } = await import("/static/js/store.js");
  await select(region);
  update({ chosen: state.classes[index].id });
  theMap().triggerRepaint();
  await theMap().once("idle"); // the selection is drawn
  const { gl } = theMap().painter.context, before = state.map, begun = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  while (state.map === before) await new Promise((next) => setTimeout(next, 2));
  theMap().triggerRepaint(); // it may be painted already
  await theMap().once("render");
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  return performance.now() - begun;
}"""
# Without a graphics card Chromium composes pages in software, and WebGL runs in SwiftShader.
_FLAGS = ("--no-sandbox", "--enable-unsafe-swiftshader")


@contextmanager
def open_page(server: Server, browser: str) -> Iterator[tuple]:
    """Open the page in a headless browser, whose WebGL runs on the CPU.

    Yields:
        The page, and the seconds until scene and regions were drawn.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=_FLAGS)
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(300_000)
        page.wait_for_timeout(1500)  # a browser that is still starting takes most of two cores
        begun = time.monotonic()
        page.goto(server.address)
        page.wait_for_selector("body[data-loaded=yes][data-regions=drawn]")
        page.evaluate(
            'async () => { const map = (await import("/static/js/view.js")).theMap(); '
            'if (!map.areTilesLoaded()) await map.once("idle"); }'
        )
        yield page, time.monotonic() - begun
        chromium.close()


def measure_page(server: Server, count: int, labels: int, browser: str) -> list[float]:
    """Return the seconds from a key to the repainted page, for each label.

    The session has labels of two classes or more.
    """
    rng, taken = random.Random(2), []
    with open_page(server, browser) as (page, _):
        page.wait_for_selector("body[data-map=ready]")
        for number in range(labels):
            taken.append(page.evaluate(_LABEL, [rng.randrange(count), number % 4]) / 1000)
            page.wait_for_timeout(1000)  # thumbnails
    return taken


def count_lost(argv: list, labels: int, kills: int) -> int:
    """Label, kill the server at random moments, and return the number of labels it lost."""
    rng, told = random.Random(1), {}
    for number in range(kills + 1):
        server = Server(*argv)
        server.wait()
        found = loads(server.ask("/api/session"))["labels"]
        lost = sum(found.get(region) != kind for region, kind in told.items())
        if lost or number == kills:
            server.stop()
            return lost
        kind = loads(server.ask("/api/classes", {"name": f"k{number}", "color": "#0000aa"}))["id"]
        until = time.monotonic() + rng.uniform(0, 0.5)
        with ThreadPoolExecutor(1) as page:
            killing = page.submit(lambda: time.sleep(max(until - time.monotonic(), 0)))  # noqa: B023
            killing.add_done_callback(lambda _: server.process.kill())  # noqa: B023
            for region in range(number * labels, (number + 1) * labels):
                try:
                    server.ask("/api/labels", {"labels": [{"region": region, "class_id": kind}]})
                except (OSError, HTTPException):  # killed before, or while it answered
                    break
                told[str(region)] = kind
        server.process.wait()
        print(f"kill {number + 1}: {len(told)} labels confirmed", file=sys.stderr)
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=10_000, help="of the scene in pixels")
    parser.add_argument("--regions", type=int, default=50_000, help="number of regions")
    parser.add_argument("--dims", type=int, default=192, help="width of the embeddings")
    parser.add_argument("--labels", type=int, default=30, help="labels, each with a new map")
    parser.add_argument("--browser", metavar="CHROMIUM", help="measure the page in it")
    parser.add_argument("--kills", type=int, default=20, help="kills of the server")
    return parser.parse_args()


@reports_errors
def main() -> None:
    """Print the measurements."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        regions = folder / "regions.parquet"
        count = make_regions(regions, args.side, args.regions, args.dims)
        for overviews in (True, False):
            scene = folder / f"{overviews}.tif"
            make_scene(scene, args.side, overviews)
            argv = [scene, "--regions", regions, "--out", folder / f"{overviews}"]
            server = Server(*argv)
            have = "with" if overviews else "without"
            print(f"start: {server.seconds:.1f} s, regions after {server.wait():.1f} s")
            if args.browser:
                seconds = []
                for _ in range(5):
                    with open_page(server, args.browser) as (_, one):
                        seconds.append(one)
                again = (
                    f"then median {np.median(seconds[1:]):.2f} s, longest {max(seconds[1:]):.2f} s"
                )
                print(f"first picture in the page {have} overviews: {seconds[0]:.2f} s, {again}")
            else:
                print(f"first picture {have} overviews: {first_picture(server):.2f} s", flush=True)
            if overviews:
                taken = measure_maps(server, count, args.labels)
                median, most = np.median(taken), max(taken)
                print(f"label to map: median {median:.2f} s, longest {most:.2f} s")
                if args.browser:
                    taken = measure_page(server, count, args.labels, args.browser)
                    median, most = np.median(taken), max(taken)
                    print(f"key to painted page: median {median:.2f} s, longest {most:.2f} s")
            print(f"memory: {server.megabytes():.0f} MB", flush=True)
            server.stop()
        # Of a small scene, so that most of the time is labelling.
        make_scene(folder / "small.tif", 1000, False)
        make_regions(folder / "small.parquet", 1000, 2000, 8)
        argv = [folder / "small.tif", "--regions", folder / "small.parquet"]
        lost = count_lost([*argv, "--out", folder / "small"], 50, args.kills)
        print(f"{args.kills} kills: {lost} labels lost")


if __name__ == "__main__":
    main()
