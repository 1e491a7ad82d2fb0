"""Maps and polygons in the programs that people open them with: GDAL's own tools, and QGIS.

These are other builds of GDAL than the one in rasterio's and pyogrio's wheels, and often older.
"""

import json
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from hook.geo.styles import write_qml
from hook.scenes import MapRequest, map_scene, polygonize

# The first and the last colour must not be mistaken for black, white or nothing.
NAMES = ("field & meadow", "<water>", "Gebäude")
PALETTE = ((90, 170, 60), (31, 120, 180), (200, 65, 50))
# Wider and higher than a block, so that there are overviews; several sizes of regions.
HEIGHT, WIDTH, TILE = 1100, 600, 20
NODATA_ROWS = 40


def call(program: str, *arguments) -> str:
    """What a program prints; the test skips where the machine lacks it."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    # What a test runner has set for the GDAL of the wheels would mislead another one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GDAL_", "PROJ_"))}
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A map with its scores, what it must hold, and the numbers of its polygons by ending."""
    folder = tmp_path_factory.mktemp("mapped")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (HEIGHT // TILE, WIDTH // TILE))
    truth = np.kron(truth, np.ones((TILE, TILE), int))
    values = np.where(truth == np.arange(3)[:, None, None], 3, 1).astype(np.uint8)
    values[:, :NODATA_ROWS] = 0
    place = from_origin(300000, 3000000, 0.5, 0.5)
    profile = dict(driver="GTiff", count=3, height=HEIGHT, width=WIDTH, dtype="uint8", nodata=0)
    with rasterio.open(
        folder / "scene.tif", "w", crs="EPSG:32645", transform=place, **profile
    ) as target:
        target.write(values)

    def predict(windows, valid):
        scores = np.exp(windows.astype(np.float32))
        return scores / scores.sum(axis=1, keepdims=True)

    request = MapRequest(
        folder / "scene.tif",
        folder / "map.tif",
        window=256,
        overlap=0,
        scores=("probs", "margin"),
        progress=False,
    )
    map_scene(predict, request, num_classes=3, class_names=NAMES, palette=PALETTE)
    counts = {}
    for ending in ("gpkg", "fgb", "geojson"):
        counts[ending] = polygonize(
            folder / "map.tif",
            folder / f"map.{ending}",
            scores=folder / "map.scores.tif",
            progress=False,
        )
    truth[:NODATA_ROWS] = 255
    return SimpleNamespace(folder=folder, classes=truth.astype(np.uint8), counts=counts)


def test_gdalinfo_knows_the_class_map(mapped, write_scene):
    info = json.loads(call("gdalinfo", "-json", "-checksum", mapped.folder / "map.tif"))
    assert info["driverShortName"] == "GTiff" and info["size"] == [WIDTH, HEIGHT]
    assert CRS.from_wkt(info["coordinateSystem"]["wkt"]).to_epsg() == 32645
    assert info["geoTransform"] == [300000, 0.5, 0, 3000000, 0, -0.5]
    structure = info["metadata"]["IMAGE_STRUCTURE"]
    assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
    (band,) = info["bands"]
    assert band["block"] == [512, 512] and band["type"] == "Byte"
    assert band["noDataValue"] == 255
    assert band["categories"] == list(NAMES)
    assert [overview["size"] for overview in band["overviews"]] == [[300, 550], [150, 275]]
    assert band["colorInterpretation"] == "Palette"
    entries = band["colorTable"]["entries"]
    assert entries[:3] == [[*colour, 255] for colour in PALETTE]
    # The file's own bytes, as that GDAL decodes them, against a plain file of what must be there.
    plain = write_scene(mapped.classes[None], "plain.tif")
    expected = json.loads(call("gdalinfo", "-json", "-checksum", plain))["bands"][0]["checksum"]
    assert band["checksum"] == expected


def test_gdalinfo_knows_the_scores(mapped):
    info = json.loads(call("gdalinfo", "-json", "-stats", mapped.folder / "map.scores.tif"))
    (mapped.folder / "map.scores.tif.aux.xml").unlink(missing_ok=True)  # statistics
    assert info["size"] == [WIDTH, HEIGHT]
    assert info["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert CRS.from_wkt(info["coordinateSystem"]["wkt"]).to_epsg() == 32645
    bands = info["bands"]
    assert [band["description"] for band in bands] == [*NAMES, "margin"]
    # One band per value of 3, two of 1: the largest probability is e^3 / (e^3 + 2e).
    sure = np.exp(3) / (np.exp(3) + 2 * np.e)
    for band in bands:
        assert band["block"] == [512, 512] and band["type"] == "Byte"
        assert band["noDataValue"] == 255 and "colorTable" not in band
        assert band["scale"] == 0.004 and band.get("offset", 0) == 0
        assert len(band["overviews"]) == 2
        # Half a step of rounding; nodata, counted as a score, would be 1.02.
        largest = sure if band["description"] != "margin" else sure - (1 - sure) / 2
        assert band["maximum"] * band["scale"] == pytest.approx(largest, abs=0.0021)


@pytest.mark.parametrize("ending", ["gpkg", "fgb", "geojson"])
def test_ogrinfo_knows_the_polygons(mapped, ending):
    path = mapped.folder / f"map.{ending}"
    text = call("ogrinfo", "-ro", "-so", "-al", "-wkt_format", "WKT2_2019", path)
    assert re.search(r"^Layer name: (.+)$", text, re.M)[1] == "regions"
    assert re.search(r"^Geometry: (.+)$", text, re.M)[1] == "Polygon"
    assert int(re.search(r"^Feature Count: (\d+)$", text, re.M)[1]) == mapped.counts[ending] > 100
    wkt = re.search(r"^Layer SRS WKT:\n(.+?)\n(?=\w+ axis to|Data axis)", text, re.M | re.S)[1]
    # GeoJSON is always in WGS 84.
    epsg = 4326 if ending == "geojson" else 32645
    assert CRS.from_wkt(wkt).to_epsg() == epsg
    fields = re.findall(r"^(\w+): (Integer|Integer64|Real|String) \(\d+\.\d+\)", text, re.M)
    assert dict(fields) == {
        "class_id": "Integer",
        "class_name": "String",
        "score": "Real",
        "area_m2": "Real",
        "perimeter_m": "Real",
    }
    extent = re.search(r"^Extent: \((.+), (.+)\) - \((.+), (.+)\)$", text, re.M).groups()
    bounds = (300000, 3000000 - HEIGHT / 2, 300000 + WIDTH / 2, 3000000 - NODATA_ROWS / 2)
    expected = transform_bounds("EPSG:32645", f"EPSG:{epsg}", *bounds)
    tolerance = 2e-6 if epsg == 4326 else 1e-6  # degrees, of a pixel of 5e-6; metres
    assert [float(edge) for edge in extent] == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("ending", ["gpkg", "fgb", "geojson"])
def test_ogrinfo_reads_the_area_of_every_class(mapped, ending):
    text = call("ogrinfo", "-ro", "-q", "-al", "-geom=NO", mapped.folder / f"map.{ending}")
    areas = dict.fromkeys(NAMES, 0.0)
    for record in re.split(r"^OGRFeature", text, flags=re.M)[1:]:
        fields = dict(re.findall(r"^  (\w+) \(\w+\) = (.*)$", record, re.M))
        assert NAMES[int(fields["class_id"])] == fields["class_name"]
        areas[fields["class_name"]] += float(fields["area_m2"])
    pixels = np.bincount(mapped.classes.ravel(), minlength=256)[:3]
    assert list(areas.values()) == pytest.approx((pixels / 4).tolist(), rel=1e-9)  # half a metre


NO_QGIS = 77
# Draws layers at one pixel per pixel of the map: argument 1 is a list of [layer, picture, box].
# Prints what the layers' styles say, as JSON.
DRAW = f"""
import json, sys
try:
    from qgis.core import (QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings,
                           QgsRasterLayer, QgsRectangle, QgsVectorLayer)
    from qgis.PyQt.QtCore import QSize
    from qgis.PyQt.QtGui import QColor
except ImportError:
    sys.exit({NO_QGIS})

application = QgsApplication([], False)
application.initQgis()
styles = []
for path, picture, box, size in json.loads(sys.argv[1]):
    raster = path.endswith(".tif")
    layer = QgsRasterLayer(path, "map") if raster else QgsVectorLayer(path, "map", "ogr")
    assert layer.isValid(), path
    renderer = layer.renderer()
    if raster:
        style = [(c.value, c.label, c.color.name()) for c in renderer.classes()]
    else:
        style = [(c.value(), c.label(), c.symbol().color().name()) for c in renderer.categories()]
    styles.append((renderer.type(), style))
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(QgsRectangle(*box))
    settings.setOutputSize(QSize(*size))
    settings.setBackgroundColor(QColor(255, 255, 255))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    assert job.renderedImage().save(picture, "png")
print(json.dumps(styles))
sys.stdout.flush()
import os
os._exit(0)  # taking QGIS down is not what is tested, and fails at times
"""
# Colours that the map's own table lacks: they can come from the style only.
RESTYLED = ((255, 0, 255), (0, 255, 255), (255, 128, 0))


@pytest.fixture(scope="module")
def drawn(mapped, tmp_path_factory):
    """Pictures of the map, of the map with another style, and of its polygons, by QGIS."""
    python = shutil.which("python3", path="/usr/bin")
    if python is None:
        pytest.skip("the system has no Python, in which QGIS's bindings would be")
    folder = tmp_path_factory.mktemp("drawn")
    shutil.copy(mapped.folder / "map.tif", folder / "restyled.tif")
    write_qml(folder / "restyled.qml", NAMES, RESTYLED)
    layers = (mapped.folder / "map.tif", folder / "restyled.tif", mapped.folder / "map.gpkg")
    box = (300000, 3000000 - HEIGHT / 2, 300000 + WIDTH / 2, 3000000)
    pictures = [folder / f"{number}.png" for number in range(len(layers))]
    orders = [
        (str(layer), str(picture), box, (WIDTH, HEIGHT))
        for layer, picture in zip(layers, pictures, strict=True)
    ]
    # Nothing of this environment's Python, and no settings of the user's.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    environment |= {"QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(folder)}
    done = subprocess.run(
        [python, "-c", DRAW, json.dumps(orders)], env=environment, capture_output=True, timeout=120
    )
    if done.returncode == NO_QGIS:
        pytest.skip("the system's Python has no bindings of QGIS")
    assert done.returncode == 0, done.stderr.decode()
    styles = json.loads(done.stdout.decode().splitlines()[-1])
    images = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]
    return dict(zip(("map", "restyled", "polygons"), zip(styles, images, strict=True), strict=True))


def in_colours(classes, palette):
    """Classes as a picture; white where there are none."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[classes]


@pytest.mark.parametrize("name, palette", [("map", PALETTE), ("restyled", RESTYLED)])
def test_qgis_draws_every_pixel_of_a_map_in_its_classs_colour(mapped, drawn, name, palette):
    (kind, style), image = drawn[name]
    assert kind == "paletted"
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette]
    assert style == [[k, NAMES[k], colours[k]] for k in range(3)]
    np.testing.assert_array_equal(image, in_colours(mapped.classes, palette))


def test_qgis_draws_polygons_in_the_colours_of_their_map(mapped, drawn):
    (kind, style), image = drawn["polygons"]
    assert kind == "categorizedSymbol"
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE]
    assert [[int(value), *rest] for value, *rest in style] == [
        [k, NAMES[k], colours[k]] for k in range(3)
    ]
    # Outlines are drawn along the edges of regions, which lie on those of the tiles.
    rows, columns = (np.arange(size) % TILE for size in (HEIGHT, WIDTH))
    inner = ((rows >= 3) & (rows < TILE - 3))[:, None] & ((columns >= 3) & (columns < TILE - 3))
    np.testing.assert_array_equal(image[inner], in_colours(mapped.classes, PALETTE)[inner])
