"""The page of ``hook explore`` in a headless browser: from a click to the saved map."""

import io
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image

from hook.errors import SceneError
from hook.regions.few_labels import classify_regions

from . import conftest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: hook-rs[test]")

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
BUNDLE = ROOT / "hook/explore/static/vendor/maplibre-gl.mjs"
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine"),
    pytest.mark.skipif(
        not BUNDLE.is_file(), reason="no map library: run tools/misc/bundle_explore.py, needs npm"
    ),
]
FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROWS, COLUMNS, SIDE = 6, 10, 16  # regions, and pixels of one; the first has no data
LARGE = 192  # pixels of a region of a larger scene
WATER, FOREST = "#0000ff", "#00ff00"


def region_at(column: int, row: int) -> int:
    """The region of a pixel."""
    return row // SIDE * COLUMNS + column // SIDE - 1


class Command:
    """``hook explore`` as a person starts it."""

    def __init__(self, data: Path, out: Path) -> None:
        words = ["explore", data / "scene.tif", "--regions", data / "regions.parquet"]
        command = [sys.executable, "-m", "hook.cli", *words, "--out", out, "--no-browser"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*map(str, command)], stdout=pipe, stderr=pipe, text=True)
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.process.stderr.read()

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(how)
        self.process.communicate(timeout=30)


class Server(NamedTuple):
    """A session that is served in this process, which starts faster."""

    address: str
    out: Path


@pytest.fixture
def server(data, tmp_path, serve_session) -> Server:
    """A new session of the scene and the regions of ``conftest.py``."""
    out = tmp_path / "session"
    client = serve_session(data / "scene.tif", out, data / "regions.parquet").client
    return Server(f"http://{client.host}/?token={client.token}", out)


@pytest.fixture(scope="module")
def chromium():
    """The browser, with a profile of its own."""
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


class Person:
    """Someone at the page."""

    def __init__(self, page, address: str) -> None:
        self.page = page
        self.trouble: list[str] = []
        host = urlsplit(address).netloc
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                urlsplit(request.url).scheme in ("blob", "data")
                or urlsplit(request.url).netloc == host
                or self.trouble.append(f"asked {request.url}")
            ),
        )
        page.goto(address)
        page.wait_for_selector("body[data-loaded=yes]")

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.trouble.append(text)

    def add_class(self, name: str, color: str) -> None:
        """Type a class."""
        self.page.get_by_label("Colour of the new class").fill(color)
        self.page.get_by_label("Name of the new class").fill(name)
        self.page.keyboard.press("Enter")
        self.page.locator(".class", has_text=name).wait_for()
        self.page.evaluate("document.activeElement.blur()")

    def place(self, column: float, row: float) -> tuple[float, float]:
        """Where a pixel of the scene is in the window."""
        return self.page.evaluate(
            """async ([column, row]) => {
              const { theMap } = await import("/static/js/view.js");
              const { toWorld } = await import("/static/js/grid.js");
              const box = document.getElementById("map").getBoundingClientRect();
              const dot = theMap().project(toWorld([column, row]));
              return [dot.x + box.left, dot.y + box.top];
            }""",
            [column, row],
        )

    def click(self, column: int, row: int) -> None:
        """Click a pixel of the scene."""
        self.page.mouse.click(*self.place(column, row))
        self.page.get_by_role("heading", name=f"Region {region_at(column, row)}").wait_for()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def labels(self) -> dict[int, str]:
        """The labels that the page shows, by name."""
        found = self.page.evaluate(
            """async () => {
              const { state, classOf } = await import("/static/js/store.js");
              return [...state.labels].map(([region, id]) => [region, classOf(id).name]);
            }"""
        )
        return dict(map(tuple, found))

    def until(self, expression: str) -> None:
        """Wait until the state of the page fulfils an expression, and the map is drawn."""
        # Not wait_for_function, to which the promise of an asynchronous function is true.
        end = time.monotonic() + 30
        while not self.page.evaluate(
            'async () => { const { state } = await import("/static/js/store.js"); '
            f"return Boolean({expression}); }}"
        ):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(50)
        self.page.evaluate(
            """async () => {
              const { theMap } = await import("/static/js/view.js");
              theMap().triggerRepaint();
              await theMap().once("idle");
            }"""
        )
        self.page.wait_for_selector("body:not([data-regions=loading])")

    def color_at(self, column: float, row: float) -> tuple[int, ...]:
        """The colour that is drawn at a pixel of the scene."""
        x, y = self.place(column, row)
        return tuple(self.shown({"x": x, "y": y, "width": 1, "height": 1})[0, 0].tolist())

    def shown(self, part: dict[str, float] | None = None) -> np.ndarray:
        """Colours (h, w, 3) of the window or a part of it."""
        png = self.page.screenshot(clip=part)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def jump(self, zoom: float, column: float, row: float, wait: bool = True) -> None:
        """Show a pixel of the scene in the middle of the window, and wait until it is drawn."""
        self.page.evaluate(
            """async ([zoom, ...place]) => {
              const { theMap } = await import("/static/js/view.js");
              const { toWorld } = await import("/static/js/grid.js");
              theMap().jumpTo({ center: toWorld(place), zoom });
            }""",
            [zoom, column, row],
        )
        if wait:
            self.until("true")

    def region_under(self, column: float, row: float) -> int | None:
        """The region that a click at a pixel of the scene would take."""
        return self.page.evaluate(
            """async ([column, row]) => {
              const { theMap, theRegions } = await import("/static/js/view.js");
              const { toWorld } = await import("/static/js/grid.js");
              return theRegions().regionAt(theMap().project(toWorld([column, row])));
            }""",
            [column, row],
        )


@pytest.fixture
def open_page(chromium, server):
    """Open the page, also several times; at the end nothing may have been complained of."""
    contexts, persons = [], []

    def open_it(width: int = 1280, height: int = 800, address: str = "", **options) -> Person:
        size = {"width": width, "height": height}
        contexts.append(chromium.new_context(viewport=size, **options))
        persons.append(Person(contexts[-1].new_page(), address or server.address))
        return persons[-1]

    yield open_it
    trouble = [line for person in persons for line in person.trouble]
    for context in contexts:
        context.close()
    assert not trouble


def label_four(person: Person) -> dict[int, str]:
    """Add two classes and label two regions of each by clicks."""
    person.add_class("water", WATER)
    person.add_class("forest", FOREST)
    person.press("1")
    person.click(24, 10)
    person.click(40, 88)
    person.press("2")
    person.click(100, 10)
    person.click(120, 88)
    person.until("state.map && state.labels.size === 4")
    names = ("water", "water", "forest", "forest")
    places = ((24, 10), (40, 88), (100, 10), (120, 88))
    return {region_at(*place): name for place, name in zip(places, names, strict=True)}


def test_a_click_shows_a_region(open_page, data):
    person = open_page()
    person.click(100, 20)
    table = geopandas.read_parquet(data / "regions.parquet")
    row = table.iloc[region_at(100, 20)]
    panel = person.page.locator("#region")
    text = panel.text_content()
    assert f"{row.area_m2:,.0f} m²" in text and "256 pixels" in text
    center = row.geometry.representative_point()
    assert f"x {center.x:,.1f}  y {center.y:,.1f}" in text
    for band in ("blue", "green", "red", "nir"):
        shown = panel.get_by_role("row", name=band).inner_text().replace(",", "")
        assert f"{row[f'mean_{band}']:.4g}" in shown
    person.page.mouse.move(*person.place(100.5, 20.5))
    shown = person.page.locator("#place").inner_text().replace(",", "")
    x, y = map(float, re.fullmatch(r"x (\S+)  y (\S+)  EPSG:32632", shown).groups())
    assert (x, y) == pytest.approx((688_801, 5_338_759), abs=1)  # half a pixel of the scene


def test_similar_regions_are_lit_nearest_first(open_page):
    person = open_page()
    person.click(100, 20)
    slider = person.page.get_by_label("How many")
    slider.fill("12")
    person.press("f")
    person.until("state.found.length === 12")
    names = person.page.locator("#found button").evaluate_all(
        "all => all.map(each => [each.dataset.region, each.ariaLabel])"
    )
    similarity = [float(name.rsplit(" ", 1)[1]) for _, name in names]
    assert similarity == sorted(similarity, reverse=True) and len(names) == 12
    assert all((int(region) + 1) % COLUMNS >= COLUMNS // 2 for region, _ in names), (
        "in the bright half"
    )
    loaded = (
        "() => [...document.querySelectorAll('#found img')].every((each) => each.naturalWidth > 0)"
    )
    person.page.wait_for_function(loaded)
    slider.fill("5")
    slider.dispatch_event("change")
    person.until("state.found.length === 5")
    person.page.get_by_label("Opacity").fill("1")
    row, column = divmod(int(names[0][0]) + 1, COLUMNS)
    place = (column + 0.5) * SIDE, (row + 0.5) * SIDE
    person.until("state.opacity === 1")
    red, green, blue = person.color_at(*place)
    assert red > 180 and green < 90 and blue > 140, "magenta"


def test_a_polygon_finds_regions(open_page):
    person = open_page()
    person.press("p")
    for corner in ((20, 4), (60, 4), (60, 28)):
        person.page.mouse.click(*person.place(*corner))
    person.press("Enter")
    person.until("state.found.length === 20 && !state.drawing")
    found = person.page.locator("#found button").evaluate_all(
        "all => all.map(e => e.dataset.region)"
    )
    assert all((int(region) + 1) % COLUMNS < COLUMNS // 2 for region in found), "in the dark half"


def test_from_clicks_to_the_saved_map(open_page, server, data, tmp_path):
    person = open_page()
    expected = label_four(person)
    assert person.labels() == expected
    person.page.get_by_label("Opacity").fill("1")
    person.press("Escape", "o")
    person.until("state.opacity === 1 && !state.outlines")
    person.page.mouse.move(2, 2)
    assert person.color_at(24, 72) == (0, 0, 255), "a region without a label has the map's colour"
    assert person.color_at(88, 72) == (0, 255, 0)

    water = person.page.get_by_role("radio", name="water")
    assert "2 labels, 2.97 ha" in water.get_attribute("aria-label")
    person.press("Control+s")
    person.page.get_by_label("Train a model").is_visible()
    person.page.get_by_role("dialog").get_by_role("button", name="Save").click()
    person.page.wait_for_selector("#job[data-state=finished]", timeout=60_000)
    listed = person.page.locator("#job-files li").all_inner_texts()
    assert listed and all((server.out / Path(name).name).exists() for name in listed)

    by_command = tmp_path / "by_command.parquet"
    words = ["label", data / "regions.parquet", server.out / "labels.gpkg", by_command]
    subprocess.run([sys.executable, "-m", "hook.cli", *map(str, words)], check=True)
    saved = geopandas.read_parquet(server.out / "classified.parquet")
    assert saved.class_name.equals(geopandas.read_parquet(by_command).class_name)
    assert saved.class_name.equals(classify_regions(data / "regions.parquet", expected).class_name)
    shown = person.page.evaluate(
        """async () => {
          const { state } = await import("/static/js/store.js");
          return [...state.map.classes].map((index) => state.classes[index].name);
        }"""
    )
    assert shown == saved.class_name.tolist()
    with rasterio.open(server.out / "map.tif") as source:
        values = source.read(1)
    names = saved.groupby("class_id").class_name.first()
    cells = values.reshape(ROWS, SIDE, COLUMNS, SIDE)
    assert (cells == cells[:, :1, :, :1]).all()
    nodata, *cells = cells[:, 0, :, 0].ravel()
    assert names[cells].tolist() == shown and nodata not in names


def test_a_training_is_shown_by_a_page_opened_meanwhile(open_page, server, monkeypatch):
    go_on = threading.Event()

    def run_worker(tell, folder, **job):
        tell("training", 0.1)
        tell("training", 0.5)
        assert go_on.wait(60)
        return [f"{folder}/config.py", f"{folder}/checkpoint.pth"]

    monkeypatch.setattr("hook.explore.saving.run_worker", run_worker)
    first, watching = open_page(), open_page()
    label_four(first)
    first.press("Control+s")
    first.page.get_by_label("Train a model").check()
    first.page.get_by_role("dialog").get_by_role("button", name="Save").click()
    first.page.get_by_text("Training a model, about 1 min left").wait_for()
    first.page.goto("about:blank")
    second = open_page()
    for person in (watching, second):
        person.page.get_by_role("button", name="Saving 52 %").wait_for()
    second.press("Control+s")
    second.page.get_by_text("Training a model, about 1 min left").wait_for()
    assert second.page.locator("#save-start").is_disabled()
    go_on.set()
    second.page.get_by_text(f"Saved in {server.out}").wait_for()
    command = "hook map model/config.py model/checkpoint.pth other_scene.tif other_map.tif"
    assert second.page.locator("#job-command").inner_text() == command
    watching.page.get_by_role("button", name="Saved").wait_for()


def test_undo_delete_and_relabel(open_page):
    person = open_page()
    expected = label_four(person)
    person.press("Control+z")
    person.until("state.labels.size === 3")
    last = region_at(120, 88)
    assert person.labels() == {k: v for k, v in expected.items() if k != last}
    person.press("Escape")
    person.click(24, 10)
    person.press("Delete")
    person.until("state.labels.size === 2")
    assert region_at(24, 10) not in person.labels()
    person.press("1")
    person.click(100, 10)
    person.until("!state.map")  # one class is left
    assert set(person.labels().values()) == {"water"}
    person.press("Control+z", "Control+z")
    person.until("state.labels.size === 3 && state.map")
    assert person.labels() == {k: v for k, v in expected.items() if k != last}


def test_uncertain_regions_are_offered(open_page):
    person = open_page()
    label_four(person)
    person.press("Escape", "n")
    person.until("state.offered !== null && state.selected?.id === state.offered")
    assert "What is this?" in person.page.locator("#hint").inner_text()
    first = person.page.evaluate("import('/static/js/store.js').then((m) => m.state.offered)")
    person.press("2")
    person.until(f"state.labels.has({first}) && state.offered !== {first}")
    assert person.labels()[first] == "forest"
    second = person.page.evaluate("import('/static/js/store.js').then((m) => m.state.offered)")
    person.press("s")
    person.until(f"state.offered !== {second} && state.offered !== null")
    assert second not in person.labels()


def test_classes_are_renamed_recoloured_and_deleted(open_page):
    person = open_page()
    label_four(person)
    page = person.page
    page.get_by_role("button", name="Rename forest").click()
    page.get_by_label("New name of forest").fill('<img src="x">')
    person.press("Enter")
    person.until("state.classes[1].name.startsWith('<img')")
    assert page.locator(".class").nth(1).locator("img").count() == 0, "shown as text"
    page.get_by_label("Colour of water").evaluate(
        "each => { each.value = '#ff0000'; each.dispatchEvent(new Event('change')); }"
    )
    person.until("state.classes[0].color === '#ff0000'")
    page.get_by_label("Opacity").fill("1")
    person.until("state.opacity === 1")
    page.mouse.move(2, 2)
    assert person.color_at(24, 72) == (255, 0, 0)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete water").click()
    person.until("state.classes.length === 1 && state.labels.size === 2 && !state.map")
    page.get_by_label("Name of the new class").fill('<img src="x">')
    person.press("Enter")
    assert page.get_by_role("alert").inner_text()
    assert page.locator(".class").count() == 1
    person.trouble.clear()  # Chromium reports the refusal


def test_compare_and_probabilities(open_page):
    person = open_page()
    label_four(person)
    person.page.get_by_label("Opacity").fill("1")
    person.press("Escape", "o", "c")
    person.until("state.compare && state.opacity === 1")
    person.page.mouse.move(2, 2)
    swipe = person.page.get_by_role("slider", name="Border between image and map")
    swipe.press("Home")
    person.until("true")
    assert person.color_at(24, 72) == (0, 0, 255), "the map from the left edge"
    swipe.press("End")
    person.until("true")
    assert len(set(person.color_at(24, 72))) > 0 and person.color_at(24, 72) != (0, 0, 255)
    person.press("o")
    person.until("state.outlines")
    colors = [person.color_at(SIDE + shift / 8, 72) for shift in range(-4, 5)]
    assert any(red > 120 and blue < 120 for red, _, blue in colors), "outlines stay at the left"
    person.press("c", "o", "m")
    person.until("state.mode === 'probability' && !state.compare && !state.outlines")
    assert person.page.locator("#ramp").is_visible()
    from_state = person.page.evaluate(
        """async () => {
          const { ramp } = await import("/static/js/paint.js");
          const { state } = await import("/static/js/store.js");
          return ramp(state.map.probability[40] / 255);
        }"""
    )
    assert person.color_at(24, 72) == pytest.approx(tuple(from_state), abs=2)


def is_outline(colors: np.ndarray) -> np.ndarray:
    """Where the colour is that of outlines over an opaque class: water or forest."""
    red, green, blue = np.moveaxis(colors.astype(int), -1, 0)
    return (abs(red - 204) < 6) & (green > 170) & (blue > 55) & (blue < 130)


@pytest.mark.parametrize("dots", [1, 2])
def test_outlines_and_colours_are_where_regions_are(open_page, dots):
    person = open_page(device_scale_factor=dots)
    label_four(person)
    person.page.get_by_label("Opacity").fill("1")
    person.press("Escape")
    person.until("state.opacity === 1")
    person.page.mouse.move(2, 2)
    (left, top), (right, _) = person.place(48, 48), person.place(64, 48)
    side = right - left
    part = {"x": left - side / 2, "y": top - side / 2, "width": 2 * side, "height": side}
    colors = person.shown(part)
    lines = is_outline(colors)
    # Edges of squares: one across, two up and down, as wide as a pixel of the page.
    rows, columns = np.flatnonzero(lines.mean(1) > 0.9), np.flatnonzero(lines.mean(0) > 0.9)
    assert len(rows) == dots and len(columns) == 2 * dots
    assert abs(rows.mean() + 0.5 - dots * side / 2) <= 1.5
    assert np.allclose(
        columns.reshape(2, dots).mean(1) + 0.5, dots * side * np.array([0.5, 1.5]), atol=1.5
    )
    inside = np.ones(lines.shape, bool)
    inside[rows], inside[:, columns] = False, False
    assert (colors[inside] == (0, 0, 255)).all(), "the colour of the class up to the outline"
    person.press("o")
    person.until("!state.outlines")
    assert (person.shown(part) == (0, 0, 255)).all()


@pytest.fixture
def large(open_page, serve_session, tmp_path, monkeypatch):
    """A page of a scene of many tiles, labelled, and the paths it asks for."""
    for name, value in {"HEIGHT": 6 * LARGE, "WIDTH": 10 * LARGE, "SIDE": LARGE}.items():
        monkeypatch.setattr(conftest, name, value)
    regions = conftest.write_regions(conftest.write_scene(tmp_path))
    client = serve_session(tmp_path / "scene.tif", tmp_path / "large", regions).client
    water, forest = client.add_class("water", WATER), client.add_class("forest", FOREST)
    client.label(r1=water, r20=water, r8=forest, r38=forest)
    asked = []
    person = open_page(address=f"http://{client.host}/?token={client.token}")
    person.page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    person.until("state.map")
    person.page.get_by_label("Opacity").fill("1")
    person.until("state.opacity === 1")
    person.page.mouse.move(2, 2)
    return person, asked


def test_what_is_shown_is_what_is_clicked(large):
    person, _ = large
    seen = set()
    for zoom, column, row in ((0, 960, 576), (1, 700, 500), (2.4, 1000, 300), (4, 960, 384)):
        person.jump(zoom, column, row)
        dot = 2048 / (512 * 2**zoom)  # a pixel of the window, in pixels of the scene
        for x in np.arange(-60, 61, 20) * dot + column + 0.3 * dot:
            for y in (row - 50 * dot, row + 30 * dot):
                region = int(y // LARGE) * COLUMNS + int(x // LARGE) - 1
                assert person.region_under(x, y) == region, (zoom, x, y)
                if min(x % LARGE, -x % LARGE, y % LARGE, -y % LARGE) > 4 * dot:  # no outline
                    wanted = (0, 0, 255) if x < 960 else (0, 255, 0)
                    assert person.color_at(x, y) == wanted, (zoom, x, y)
                    seen.add(region)
    assert len(seen) >= 6
    for place in ((100, 100), (960, 1160), (-5, 500)):
        assert person.region_under(*place) is None


def test_labels_and_colours_ask_for_no_tile_again(large):
    person, asked = large
    person.jump(0, 960, 576)
    person.page.mouse.click(*person.place(980, 500))
    person.until("state.selected")
    asked.clear()
    person.press("1", "Enter")
    person.until("state.labels.size === 5 && state.map")
    person.press("m", "m", "m", "o", "c", "f")
    person.until("state.found.length > 0")
    assert "/api/map" in asked and "/api/labels" in asked
    assert not any("/api/tiles/regions/" in path for path in asked)
    person.jump(2, 960, 576)
    assert any("/api/tiles/regions/3/" in path for path in asked)
    asked.clear()
    person.jump(0, 960, 576)
    person.jump(2, 960, 576)
    assert not any("/api/tiles/regions/" in path for path in asked), "they are kept"


def test_a_tile_that_fails_is_told_and_asked_for_again(large):
    person, _ = large
    person.jump(0, 960, 576)
    page, tiles = person.page, "**/api/tiles/regions/3/**"
    page.route(tiles, lambda route: route.fulfill(status=500, json={"message": "no tile today"}))
    person.jump(2, 700, 300, wait=False)
    page.get_by_role("alert").filter(has_text="no tile today").wait_for()
    assert page.locator("body").get_attribute("data-regions") == "loading"
    assert person.color_at(700, 250) == (0, 0, 255), "a coarser tile is shown meanwhile"
    page.unroute(tiles)
    page.wait_for_selector("body[data-regions=drawn]")
    assert person.color_at(700, 250) == (0, 0, 255)
    person.trouble.clear()  # Chromium reports the failures


def test_a_lost_context_of_webgl(large):
    """As when the graphics driver starts again."""
    person, asked = large
    asked.clear()
    person.page.evaluate(
        """async () => {
          const { theMap } = await import("/static/js/view.js");
          const of = theMap().getCanvas().getContext("webgl2").getExtension("WEBGL_lose_context");
          of.loseContext();
          await new Promise((resolve) => setTimeout(resolve, 300));
          const back = theMap().once("idle");
          of.restoreContext();
          await back;
        }"""
    )
    person.until("true")
    assert person.color_at(700, 250) == (0, 0, 255) and person.color_at(1300, 800) == (0, 255, 0)
    assert not any("/api/tiles/regions/" in path for path in asked)
    person.trouble.clear()  # MapLibre tells of a layer that it does not restore by itself


def test_regions_appear_when_they_are_ready(chromium, server):
    page = chromium.new_context().new_page()

    def waiting(route) -> None:
        answer = route.fetch()
        session = answer.json()
        session["regions"] = {"state": "computing", "done": 0.4, "count": 0, "message": ""}
        route.fulfill(response=answer, json=session)

    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/api/session", waiting)
    person = Person(page, server.address)
    person.until("state.regions.state === 'computing'")
    assert not any("/api/tiles/regions/" in url for url in asked)
    assert person.region_under(100, 20) is None
    page.unroute("**/api/session")
    page.evaluate(
        """async () => {
          const { hear } = await import("/static/js/labels.js");
          await hear({ type: "regions", state: "ready", done: 1, count: 59, message: "" });
        }"""
    )
    person.until("state.regions.state === 'ready'")
    page.wait_for_selector("body[data-regions=drawn]")
    assert person.region_under(100, 20) == region_at(100, 20)
    assert not person.trouble
    page.context.close()


def test_bands(open_page):
    person = open_page()
    asked = []
    person.page.on("request", lambda request: asked.append(request.url))
    person.page.get_by_label("Band shown as red").select_option("nir")
    person.until("true")
    assert any("/api/tiles/scene/" in url and "bands=4,2,1" in url for url in asked)


def test_the_whole_loop_by_keyboard(open_page):
    person = open_page()
    page = person.page

    def tab_to(condition: str) -> None:
        for _ in range(60):
            person.press("Tab")
            if page.evaluate(
                f"(() => {{ const e = document.activeElement; return {condition}; }})()"
            ):
                return
        raise AssertionError(f"Tab does not come to {condition}")

    for name in ("water", "forest"):
        tab_to("e.id === 'new-name'")
        page.keyboard.type(name)
        person.press("Enter")
        person.until(f"state.classes.some((each) => each.name === '{name}')")
    tab_to("e.matches('canvas')")
    person.press("1")
    for _ in range(2):
        person.press("ArrowLeft")
        person.until("true")
    person.press("Enter")
    person.until("state.labels.size === 1")
    person.press("2")
    for _ in range(4):
        person.press("ArrowRight")
        person.until("true")
    person.press("Enter")
    person.until("state.labels.size === 2 && state.map")
    assert sorted(person.labels().values()) == ["forest", "water"]
    person.press("Control+z")
    person.until("state.labels.size === 1")


def test_labels_outlive_a_killed_server(open_page, data, tmp_path):
    command = Command(data, tmp_path / "killed")
    try:
        person = open_page(address=command.address)
        person.until("state.regions.state === 'ready'")
        expected = label_four(person)
    finally:
        command.stop(signal.SIGKILL)
    person.page.locator("#hint", has_text="does not answer").wait_for()
    person.trouble.clear()  # Chromium reports the lost connection
    again = Command(data, tmp_path / "killed")
    try:
        later = open_page(address=again.address)
        later.until("state.map && state.labels.size === 4")
        assert later.labels() == expected
        later.page.goto("about:blank")
        person.page.goto("about:blank")
        person.trouble.clear()  # it has tried to connect again
    finally:
        again.stop()


def test_two_pages_keep_both_labels(open_page):
    one, other = open_page(), open_page()
    one.add_class("water", WATER)
    one.add_class("forest", FOREST)
    other.until("state.classes.length === 2")
    one.press("1")
    other.press("2")
    one.click(24, 10)
    other.click(100, 88)
    for person in (one, other):
        person.until("state.labels.size === 2 && state.map")
        assert person.labels() == {region_at(24, 10): "water", region_at(100, 88): "forest"}


def address_of(served) -> str:
    """The address of the page of a session."""
    return f"http://{served.client.host}/?token={served.client.token}"


def test_regions_that_are_ready_before_the_page_listens(open_page, waiting, computing):
    person = open_page(address=address_of(waiting))

    def late(route):
        computing.end(waiting.session)
        route.continue_()

    person.page.route("**/api/events*", late)
    person.page.reload()
    person.until("state.regions.state === 'ready'")


def test_an_answer_that_was_overtaken_is_not_shown(open_page, waiting, computing):
    person = open_page(address=address_of(waiting))
    page, held = person.page, []

    def delay(route):
        answer = route.fetch()
        if held:
            route.fulfill(response=answer)
        else:
            held.append((route, answer))  # says that regions are being computed

    page.route("**/api/session", delay)
    page.evaluate("import('/static/js/labels.js').then((labels) => void labels.readSession())")
    while not held:
        page.wait_for_timeout(20)
    computing.end(waiting.session)
    person.until("state.regions.state === 'ready'")
    with page.expect_response("**/api/session"):
        route, answer = held[0]
        route.fulfill(response=answer)
    page.wait_for_timeout(200)
    person.until("state.regions.state === 'ready'")


def test_points_are_set_while_regions_are_computed(open_page, waiting, computing):
    person, other = (open_page(address=address_of(waiting)) for _ in range(2))
    page, hint = person.page, person.page.locator("#hint")
    assert "add two classes" in hint.inner_text()
    person.add_class("water", WATER)
    person.add_class("wood", "#00ff00")
    page.get_by_role("button", name="Rename wood").click()
    page.get_by_label("New name of wood").fill("forest")
    person.press("Enter")
    person.until("state.classes[1].name === 'forest'")

    def click(*places: tuple[int, int]) -> None:
        for place in places:
            count = page.evaluate(
                "import('/static/js/store.js').then((m) => m.state.points.length)"
            )
            page.mouse.click(*person.place(*place))
            person.until(f"state.points.length !== {count}")

    person.press("1")
    click((24, 10), (40, 88), (60, 40))
    assert "go on with forest" in hint.inner_text()
    person.press("2")
    click((100, 10), (120, 88), (56, 44), (8, 8))
    page.mouse.move(2, 2)
    assert person.color_at(40, 88) == (0, 0, 255) and person.color_at(120, 88) == (0, 255, 0)
    assert "4 labels" in page.get_by_role("radio", name="forest").get_attribute("aria-label")
    other.until("state.points.length === 7")
    click((150, 50))
    person.press("Delete")  # the point that was set last
    person.until("state.points.length === 7")
    person.press("Control+z")
    person.until("state.points.length === 8")
    click((150, 50))  # on it again
    person.press("1")
    page.mouse.click(*person.place(8, 8))  # another class
    person.until("state.points.at(-1).class_id === state.classes[0].id")
    person.press("Control+z")
    person.until("state.points.at(-1).class_id === state.classes[1].id")
    page.mouse.click(*person.place(-2, -2))  # beside the scene
    person.press("p", "Escape")
    person.until("state.chosen === null && state.points.length === 7 && state.drawing === null")
    for name in ("Save", "Draw a polygon", "Like this region"):
        assert page.get_by_role("button", name=name).is_disabled()

    assert computing.end(waiting.session)["state"] == "ready"
    expected = {
        region_at(24, 10): "water", region_at(40, 88): "water", region_at(60, 40): "forest",
        region_at(100, 10): "forest", region_at(120, 88): "forest",
    }  # fmt: skip
    for each in (person, other):
        each.until("state.map && state.labels.size === 5")
        assert each.labels() == expected
    note = page.locator("#points-note").inner_text()
    assert "6 points became 5 labels. 1 of them did not count" in note
    assert "1 point in no region" in note
    page.get_by_label("Opacity").fill("1")
    person.press("o")
    person.until("state.opacity === 1 && !state.outlines")
    assert person.color_at(24, 72) == (0, 0, 255), "the map of all regions"
    page.mouse.click(*person.place(8, 8))
    person.until("state.point !== null")
    person.press("Delete")
    person.until("state.points.length === 0")
    assert "no region" not in page.locator("#points-note").inner_text()
    person.press(*5 * ["Control+z"])  # that, twice (150, 50), (8, 8), and the last in a region
    both = region_at(56, 44)
    person.until(f"state.points.length === 0 && state.labels.get({both}) === state.classes[0].id")


def test_points_by_keyboard(open_page, waiting):
    person = open_page(address=address_of(waiting))
    person.add_class("water", WATER)
    person.press("1")
    person.page.locator("#map canvas").focus()
    person.press("Enter")
    person.until("state.points.length === 1")
    at = person.page.evaluate("import('/static/js/store.js').then((m) => m.state.points[0].at)")
    assert 0 < at[0] < 160 and 0 < at[1] < 96
    person.press("Delete")
    person.until("state.points.length === 0")


def test_progress_while_regions_are_computed(open_page, waiting, computing):
    person = open_page(address=address_of(waiting))
    page = person.page
    bar = page.get_by_role("progressbar")
    assert page.get_by_label("Computing regions 40 %").get_attribute("value") == "0.4"
    waiting.session.report("computing", 0.5, "merging seeds")
    person.until("state.regions.done === 0.5")
    assert page.get_by_label("Merging seeds 50 %").get_attribute("value") == "0.5"
    waiting.session._report_picture(0.25)
    person.until("state.picture === 0.25")
    assert page.get_by_label("Reading the scene 25 %").get_attribute("value") == "0.25"
    waiting.session._report_picture(1.0)
    person.until("state.picture === 1")
    assert page.get_by_label("Merging seeds 50 %").is_visible()
    page.get_by_label("Band shown as red").select_option("nir")  # usable before the end
    computing.error = SceneError("the model failed", remedy="choose another")
    assert computing.end(waiting.session)["state"] == "failed"
    person.until("state.regions.state === 'failed'")
    assert "the model failed" in page.locator("#hint").inner_text() and not bar.is_visible()
    waiting.session._report_picture(0.5)
    person.until("state.picture === 0.5")
    assert bar.is_visible()


OPERATED = {
    "button", "checkbox", "combobox", "ColorWell", "DisclosureTriangle", "dialog", "progressbar",
    "group", "radio", "radiogroup", "slider", "textbox", "image", "heading", "complementary",
}  # fmt: skip


def names_of(page) -> list[tuple[str, str]]:
    """Role and name of all that a screen reader tells of the page."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    nodes = [node for node in tree if not node["ignored"] and node["role"]["value"] in OPERATED]
    return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]


def test_everything_has_a_name(open_page):
    person = open_page()
    label_four(person)
    person.press("f", "c")
    person.until("state.found.length > 0 && state.compare")
    found = names_of(person.page)
    person.press("Control+s")
    found += names_of(person.page)
    person.press("Escape", "?")
    found += names_of(person.page)
    assert len(found) > 60 and {"textbox", "slider", "radio"} <= {role for role, _ in found}
    assert not [entry for entry in found if not entry[1].strip()]


@pytest.mark.parametrize("width, height", [(390, 844), (1440, 900), (3840, 2160)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_window_sizes(open_page, width, height, scheme):
    phone = width == 390
    person = open_page(width, height, color_scheme=scheme, has_touch=phone)
    label_four(person)
    person.press("f")
    person.until("state.found.length > 0")
    sizes = person.page.evaluate(
        """() => ({
          wide: document.documentElement.scrollWidth,
          high: document.documentElement.scrollHeight,
          map: document.querySelector("#map canvas").getBoundingClientRect().toJSON(),
          cut: [...document.querySelectorAll("header *, #stage *:not(canvas), aside *")]
            .filter((e) => e.checkVisibility() && !e.closest(".maplibregl-map"))
            .map((e) => [e.getBoundingClientRect(), e])
            .filter(([box]) => box.left < -1 || box.right > innerWidth + 1)
            .map(([, e]) => e.outerHTML.slice(0, 80)),
          letters: parseFloat(getComputedStyle(document.body).fontSize),
          ground: getComputedStyle(document.body).backgroundColor,
          small: [...document.querySelectorAll("button")]
            .filter((e) => e.checkVisibility())
            .filter((e) => Math.min(e.offsetWidth, e.offsetHeight) < 24)
            .map((e) => e.outerHTML.slice(0, 80)),
        })"""
    )
    assert sizes["wide"] == width and sizes["high"] == height, "nothing scrolls but the panel"
    assert sizes["map"]["width"] * sizes["map"]["height"] > 0.35 * width * height
    assert not sizes["cut"]
    assert not sizes["small"], "large enough for a finger"
    assert sizes["letters"] >= (18 if width > 3000 else 13)
    dark = sum(map(int, sizes["ground"].strip("rgb()").split(","))) < 200
    assert dark == (scheme == "dark")


CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((v, k) => v * a + under[k] * (1 - a));
  const ground = (e) =>
    e ? over(numbers(getComputedStyle(e).backgroundColor), ground(e.parentElement)) : [0, 0, 0];
  const light = (color) => color.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0.05);
  const contrast = (e, part) => {
    const under = ground(e), [r, g, b, a = 1] = numbers(getComputedStyle(e, part).color);
    const text = over([r, g, b, a * getComputedStyle(e).opacity], under);
    const [low, high] = [light(under), light(text)].sort((x, y) => x - y);
    return high / low;
  };
  const shown = [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility({ visibilityProperty: true }));
  const said = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [
    ...shown.filter(said).map((e) => [contrast(e), e.textContent.trim()]),
    ...shown.filter((e) => e.placeholder)
      .map((e) => [contrast(e, "::placeholder"), e.placeholder]),
  ];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(open_page, scheme):
    """By 4.5 to 1, as WCAG 2.2 (1.4.3) asks for; that of what is disabled, too."""
    person = open_page(color_scheme=scheme)
    label_four(person)
    person.press("Escape", "n", "f")
    person.until("state.found.length > 0 && state.offered !== null")
    found = person.page.evaluate(CONTRAST)
    person.press("Control+s")
    found += person.page.evaluate(CONTRAST)
    assert {"New class", "Choose a class to label these", "Skip"} <= {text for _, text in found}
    assert not [(ratio, text) for ratio, text in found if ratio < 4.5]
