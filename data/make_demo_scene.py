"""Generate the demo scene: a seeded, georeferenced aerial image of farmland with its ground truth.

The landscape is built as vectors (river, lakes, roads, parcels, woods, villages, farms), from which
image and truth are both drawn, so they agree to the pixel. The image is rendered at twice the
resolution with crops, furrows, tree crowns, roofs, terrain shading and cast shadows, then blurred
and sampled with sensor noise. As in reality the classes overlap in colour: maize and meadows
resemble broad-leaved forest, asphalt grey roofs, clay roofs bare soil, shadows water.

The folder has the layout of ``tools/demo.py --data``::

    images/scene.tif    uint16, blue green red nir, reflectance x 10000, nodata 0, UTM
    masks/scene.tif     uint8, class indexes, 255 = no data
    truth.gpkg          the same truth as polygons, layer ``landcover``
    classes.txt         one ``name #rrggbb`` per line

    python data/make_demo_scene.py data/demo
"""

import argparse
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy import fft, ndimage
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Point, Polygon, box
from shapely.ops import polygonize, split, unary_union

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hook.errors import ConfigError, reports_errors

CLASSES = ("field", "forest", "water", "road", "building")
PALETTE = ((221, 203, 125), (44, 111, 60), (58, 118, 190), (122, 122, 128), (200, 65, 50))
BANDS = ("blue", "green", "red", "nir")
CRS = "EPSG:32632"
ORIGIN = (688_400.0, 5_339_200.0)  # upper left corner, metres
NODATA, IGNORE = 0, 255
REFLECTANCE_SCALE = 10_000  # the convention of Sentinel-2's level 2A
FIELD, FOREST, WATER, ROAD, BUILDING = range(5)
OVERSAMPLING = 2
GRID = 1e-3  # metres
SWATH = (1.10, 0.19)  # slanted edge: share of the width at the top, and its inward shift below
MARGIN = 60.0  # metres of landscape beyond the frame, so that no object ends at its edge
SUN_AZIMUTH, SUN_ELEVATION = math.radians(152.0), math.radians(44.0)

# Reflectance in blue, green, red, near infrared; relative frequency; strength of furrows; strength
# of patches within a parcel.
CROPS = {
    "wheat, green": ((0.036, 0.072, 0.051, 0.43), 2.0, 0.07, 0.10),
    "wheat, ripe": ((0.080, 0.135, 0.180, 0.34), 2.6, 0.06, 0.08),
    "barley, stubble": ((0.105, 0.150, 0.200, 0.29), 1.6, 0.11, 0.10),
    "rapeseed": ((0.050, 0.118, 0.104, 0.44), 0.9, 0.05, 0.10),
    "maize": ((0.028, 0.054, 0.037, 0.37), 1.8, 0.13, 0.12),
    "sugar beet": ((0.031, 0.069, 0.043, 0.50), 1.0, 0.09, 0.10),
    "soil, dry": ((0.095, 0.128, 0.165, 0.22), 1.2, 0.12, 0.16),
    "soil, ploughed": ((0.058, 0.077, 0.098, 0.14), 1.2, 0.17, 0.16),
    "meadow": ((0.041, 0.077, 0.062, 0.36), 2.2, 0.02, 0.16),
    "hay": ((0.060, 0.105, 0.090, 0.34), 1.0, 0.09, 0.12),
}
GARDEN = (0.044, 0.079, 0.067, 0.32)
GRASS_STRIP = (0.048, 0.084, 0.072, 0.31)
TREES = {
    "broad-leaved": (0.026, 0.049, 0.036, 0.385),
    "needle-leaved": (0.021, 0.036, 0.026, 0.250),
}
ROOFS = {
    "clay tiles, red": ((0.070, 0.100, 0.200, 0.25), 4.0),
    "clay tiles, brown": ((0.062, 0.080, 0.145, 0.18), 2.6),
    "slate": ((0.068, 0.077, 0.084, 0.105), 1.6),
    "concrete tiles, grey": ((0.112, 0.129, 0.144, 0.17), 2.0),
    "metal, bright": ((0.260, 0.285, 0.300, 0.32), 0.6),
}
ROAD_SURFACES = {
    "asphalt": (0.100, 0.116, 0.130, 0.155),
    "street": (0.118, 0.136, 0.152, 0.175),
    "gravel track": (0.148, 0.175, 0.198, 0.250),
}
SHADOW = (0.52, 0.46, 0.40, 0.34)  # relative brightness of cast shadows (sky light), per band
HAZE = (0.016, 0.009, 0.005, 0.002)


@dataclass
class Parcel:
    """A parcel with one land use; ``angle`` is the working direction in radians."""

    polygon: Polygon
    kind: str
    angle: float
    spectrum: tuple[float, ...]
    furrow: float = 0.0
    patch: float = 0.0


@dataclass
class Building:
    """A building with its roof; ``angle`` is the direction of the ridge in radians."""

    polygon: Polygon
    kind: str
    angle: float
    height: float
    flat: bool


@dataclass
class Landscape:
    """All vectors of the scene, in metres from its upper left corner (x east, y south)."""

    width: float
    height: float
    river: LineString
    water: list[Polygon] = field(default_factory=list)
    roads: list[tuple[Polygon, str]] = field(default_factory=list)
    woods: list[tuple[Polygon, str]] = field(default_factory=list)
    parcels: list[Parcel] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)


@dataclass(frozen=True)
class DemoScene:
    """The files of a generated scene."""

    image: Path
    mask: Path
    vectors: Path
    classes: Path


def make_demo_scene(
    out_dir: str | Path,
    size: tuple[int, int] = (1024, 1536),
    seed: int = 0,
    resolution: float = 1.0,
) -> DemoScene:
    """Write the demo scene with its truth; the same arguments give the same pixels.

    Args:
        out_dir: Folder to write.
        size: Height and width in pixels.
        seed: Seed of the landscape and the sensor noise.
        resolution: Metres per pixel.

    Raises:
        ConfigError: If the scene is too small for a landscape.
    """
    height, width = size[0] * resolution, size[1] * resolution
    if not resolution > 0 or min(height, width) < 240 or min(size) < 48:
        raise ConfigError(
            "the demo scene is too small",
            expected="at least 48 pixels and 240 m on each side",
            found=f"{size[0]} x {size[1]} pixels of {resolution} m",
            remedy="raise --size or --resolution",
        )
    land = build_landscape(width, height, seed)
    layers = disjoint_layers(land)
    image = render(land, layers, size, resolution, seed)
    truth = draw_classes(layers, size, resolution)
    outside = ~inside_swath(size)
    image[:, outside] = NODATA
    truth[outside] = IGNORE

    folder = Path(out_dir)
    scene = DemoScene(
        folder / "images" / "scene.tif",
        folder / "masks" / "scene.tif",
        folder / "truth.gpkg",
        folder / "classes.txt",
    )
    for path in (scene.image, scene.mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    _write_rasters(scene, image, truth, resolution, seed)
    _write_vectors(scene.vectors, layers, size, resolution)
    lines = [f"{n} #{r:02x}{g:02x}{b:02x}" for n, (r, g, b) in zip(CLASSES, PALETTE, strict=True)]
    _replace(scene.classes, lambda part: part.write_text("\n".join(lines) + "\n"))
    return scene


# ------------------------------------------------------------------------------- the landscape


def build_landscape(width: float, height: float, seed: int) -> Landscape:
    """Build river, lakes, villages, roads, parcels, woods and buildings (metres)."""
    rng = np.random.default_rng([seed, 1])
    frame = box(-MARGIN, -MARGIN, width + MARGIN, height + MARGIN)
    river = _river_line(rng, width, height)
    land = Landscape(width, height, river)
    river_area = _river_area(rng, river)
    centres = _village_sites(rng, width, height, river)
    main, lanes = _country_roads(rng, width, height, centres)
    lakes = _lakes(rng, width, height, unary_union([river_area, *main, *lanes]), centres)
    land.water = [river_area.intersection(frame), *lakes]
    water = unary_union(land.water)

    streets = [_village_streets(rng, c, main[0], water) for c in centres]
    villages = [
        unary_union(s).buffer(34, quad_segs=3).simplify(4).intersection(frame) for s in streets
    ]
    tracks = _parcels(rng, land, frame, main, lanes, villages, water)
    _roads(rng, land, main, lanes, streets, tracks, water, unary_union(villages))
    roads = unary_union([r for r, _ in land.roads])
    _houses(rng, land, centres, streets, main, unary_union([roads, water]))
    _farms(rng, land, main, lanes, tracks, unary_union([roads, water, *villages]))
    _woods(rng, land, frame, villages, tracks)
    return land


def _smooth(line: LineString, rounds: int = 3) -> LineString:
    """Smooth a line by corner cutting (Chaikin, 1974)."""
    xy = np.asarray(line.coords)
    for _ in range(rounds):
        inner = np.stack([0.75 * xy[:-1] + 0.25 * xy[1:], 0.25 * xy[:-1] + 0.75 * xy[1:]], 1)
        xy = np.concatenate([xy[:1], inner.reshape(-1, 2), xy[-1:]])
    return LineString(xy)


def _river_line(rng: np.random.Generator, width: float, height: float) -> LineString:
    x = np.arange(-2 * MARGIN, width + 2 * MARGIN + 1, 8.0)
    t = x / width
    y = height * (0.56 + 0.10 * np.sin(2 * np.pi * (0.9 * t + rng.uniform())))
    for wavelength, swing in ((430.0, 42.0), (210.0, 17.0), (110.0, 5.0)):
        drift = 1 + 0.35 * np.sin(2 * np.pi * (0.7 * t + rng.uniform()))
        y += swing * min(1.0, height / 900) * np.sin(2 * np.pi * (x / wavelength + rng.uniform()))
        y += 0.3 * swing * min(1.0, height / 900) * drift
    return _smooth(LineString(np.stack([x, y], 1)), 1)


def _river_area(rng: np.random.Generator, river: LineString) -> Polygon:
    steps = np.arange(0, river.length, 4.0)
    phase = rng.uniform(size=3)
    half = 10 + 3.0 * np.sin(2 * np.pi * (steps / 600 + phase[0]))
    half += 1.6 * np.sin(2 * np.pi * (steps / 170 + phase[1]))
    half += 0.8 * np.sin(2 * np.pi * (steps / 61 + phase[2]))
    discs = shapely.buffer(shapely.line_interpolate_point(river, steps), half, quad_segs=8)
    return unary_union(list(discs)).simplify(0.2)


def _blob(rng: np.random.Generator, x: float, y: float, radius: float, rough: float) -> Polygon:
    """Return a smooth closed shape with a radius that varies by ``rough`` (share of it)."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    r = np.ones_like(angle)
    for k in range(1, 8):
        r += rough / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    r = radius * np.clip(r, 0.35, 1.9)
    stretch, turn = rng.uniform(0.6, 0.95), rng.uniform(0, 180)
    shape = Polygon(np.stack([x + r * np.cos(angle), y + stretch * r * np.sin(angle)], 1))
    return rotate(shape.buffer(0), turn, origin=(x, y))


def _river_y(river: LineString, x: float) -> float:
    xy = np.asarray(river.coords)
    return float(np.interp(x, xy[:, 0], xy[:, 1]))


def _village_sites(
    rng: np.random.Generator, width: float, height: float, river: LineString
) -> list[Point]:
    """Return one village site in each third of the scene, on the wider bank."""
    sites = []
    for share in (0.20, 0.56, 0.83):
        x = width * (share + rng.uniform(-0.03, 0.03))
        bank = _river_y(river, x)
        room = (bank, height - bank)
        north = room[0] > room[1] if abs(room[0] - room[1]) > 0.2 * height else rng.uniform() < 0.5
        y = bank - room[0] * rng.uniform(0.42, 0.60) if north else bank + room[1] * 0.5
        sites.append(Point(x, y))
    return sites


def _country_roads(
    rng: np.random.Generator, width: float, height: float, centres: list[Point]
) -> tuple[list[LineString], list[LineString]]:
    """Return the main road through all villages, and lanes from the villages to the frame."""
    west = (-2 * MARGIN, centres[0].y + rng.uniform(-0.12, 0.12) * height)
    east = (width + 2 * MARGIN, centres[-1].y + rng.uniform(-0.12, 0.12) * height)
    stops = [west, *[(c.x, c.y) for c in centres], east]
    bent = [stops[0]]
    for a, b in zip(stops[:-1], stops[1:], strict=True):
        for share in (0.35, 0.7):
            y = a[1] + share * (b[1] - a[1]) + rng.normal() * 0.025 * height
            bent.append((a[0] + share * (b[0] - a[0]), y))
        bent.append(b)
    main = _smooth(LineString(bent), 4)
    lanes = []
    for centre, way in zip(centres, (-1, 1, -1), strict=True):
        for side in (way, -way):
            end_y = -2 * MARGIN if side < 0 else height + 2 * MARGIN
            drift = rng.normal() * 0.06 * width
            x = centre.x + 0.5 * drift + rng.normal() * 0.03 * width
            middle, end = (x, 0.5 * (centre.y + end_y)), (centre.x + drift, end_y)
            lanes.append(_smooth(LineString([(centre.x, centre.y), middle, end])))
    return [main], lanes


def _lakes(
    rng: np.random.Generator, width: float, height: float, keep_off: Polygon, centres: list[Point]
) -> list[Polygon]:
    """Return lakes in west, middle and east, clear of roads, river and villages."""
    lakes: list[Polygon] = []
    blocked = keep_off.buffer(14)
    villages = unary_union([c.buffer(150) for c in centres])
    for west, east, radius in ((0.02, 0.42, 62), (0.05, 0.5, 26), (0.5, 0.68, 34), (0.7, 0.95, 56)):
        best = None
        for _ in range(60):
            x, y = rng.uniform(west, east) * width, rng.uniform(0.08, 0.92) * height
            shape = _blob(rng, x, y, radius * rng.uniform(0.8, 1.2), 0.28)
            if not shape.intersects(villages) and not shape.intersects(blocked):
                best = shape
                break
        if best is not None:
            lakes.append(best)
            blocked = unary_union([blocked, best.buffer(40)])
    return lakes


def _direction(line: LineString, at: Point) -> float:
    s = line.project(at)
    a, b = line.interpolate(max(0.0, s - 15)), line.interpolate(min(line.length, s + 15))
    return math.atan2(b.y - a.y, b.x - a.x)


def _village_streets(
    rng: np.random.Generator, centre: Point, main: LineString, water: Polygon
) -> list[LineString]:
    turn = math.degrees(_direction(main, centre))
    streets = []
    for offset in (-104, -52, 52, 104):
        reach = rng.uniform(70, 150, size=2) * (1.15 - abs(offset) / 200)
        start = (-reach[0], offset + rng.normal() * 4)
        streets.append(LineString([start, (reach[1], offset + rng.normal() * 4)]))
    for offset in (-100, -35, 40, 105):
        reach = np.minimum(rng.uniform(60, 140, size=2), 108)
        start = (offset + rng.normal() * 5, -reach[0])
        streets.append(LineString([start, (offset + rng.normal() * 5, reach[1])]))
    streets = [
        translate(rotate(s, turn + rng.normal() * 1.2, origin=(0, 0)), centre.x, centre.y)
        for s in streets
    ]
    clear = water.buffer(22)
    pieces = []
    for street in streets:
        for part in getattr(street.difference(clear), "geoms", [street.difference(clear)]):
            if part.length > 30:
                pieces.append(part)
    return pieces or [LineString([(centre.x - 20, centre.y), (centre.x + 20, centre.y)])]


def _halves(
    rng: np.random.Generator, polygon: Polygon, lengthwise: bool
) -> tuple[list[Polygon], LineString] | None:
    """Split a polygon across (or along) its long axis."""
    corners = np.asarray(polygon.minimum_rotated_rectangle.exterior.coords)
    sides = np.diff(corners, axis=0)[:2]
    length = np.hypot(*sides.T)
    along = sides[int(length.argmax())] / max(length.max(), 1e-6)
    across = np.array([-along[1], along[0]])
    if lengthwise:
        along, across = across, along
    centre = corners[:4].mean(0) + along * rng.uniform(-0.14, 0.14) * length.max()
    tilt = rng.normal() * math.radians(2.0)
    cut = across * math.cos(tilt) + along * math.sin(tilt)
    line = LineString([centre - cut * 5000, centre + cut * 5000])
    parts = [p for p in split(polygon, line).geoms if p.area > 50]
    return (parts, line.intersection(polygon)) if len(parts) > 1 else None


def _subdivide(
    rng: np.random.Generator,
    polygon: Polygon,
    target: float,
    cuts: list[LineString] | None = None,
    depth: int = 0,
) -> list[Polygon]:
    """Split a polygon into parts of about ``target`` square metres; append the first cuts."""
    if polygon.area < target * rng.uniform(0.7, 1.7) or depth > 14:
        return [polygon]
    corners = np.asarray(polygon.minimum_rotated_rectangle.exterior.coords)
    sides = np.hypot(*np.diff(corners, axis=0)[:2].T)
    aspect = sides.max() / max(sides.min(), 1e-6)
    cut = _halves(rng, polygon, lengthwise=aspect < 2.6 and rng.uniform() < 0.35)
    if cut is None:
        return [polygon]
    parts, line = cut
    if cuts is not None and polygon.area > 5.2 * target:
        cuts.append(line)
    return [q for p in parts for q in _subdivide(rng, p, target, cuts, depth + 1)]


def _long_side(polygon: Polygon) -> float:
    corners = np.asarray(polygon.minimum_rotated_rectangle.exterior.coords)
    sides = np.diff(corners, axis=0)[:2]
    x, y = sides[int(np.hypot(*sides.T).argmax())]
    return math.atan2(y, x)


def _parcels(
    rng: np.random.Generator,
    land: Landscape,
    frame: Polygon,
    main: list[LineString],
    lanes: list[LineString],
    villages: list[Polygon],
    water: Polygon,
) -> list[LineString]:
    """Divide the land between the roads into parcels; return the lines of farm tracks."""
    lines = unary_union([*main, *lanes, land.river, frame.exterior])
    village_area = unary_union(villages)
    names, weights = list(CROPS), np.array([c[1] for c in CROPS.values()])
    weights = weights / weights.sum()
    cuts: list[LineString] = []
    for block in polygonize(lines.intersection(frame)):
        for polygon in _subdivide(rng, block, 15_000, cuts):
            rest = polygon.difference(village_area)
            for piece in getattr(rest, "geoms", [rest]):
                if piece.geom_type != "Polygon" or piece.area < 60:
                    continue
                p = weights.copy()
                if piece.distance(water) < 6:  # wet land is mostly meadow
                    p[names.index("meadow")] += 0.8
                    p /= p.sum()
                kind = names[rng.choice(len(names), p=p)]
                spectrum, _, furrow, patch = CROPS[kind]
                tone = np.exp(rng.normal(0, 0.09) + rng.normal(0, 0.035, size=4))
                spectrum = tuple(np.array(spectrum) * tone)
                land.parcels.append(Parcel(piece, kind, _long_side(piece), spectrum, furrow, patch))
    for village in villages:
        for part in getattr(village, "geoms", [village]):
            for plot in _subdivide(rng, part, 750):
                tone = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.06, size=4))
                spectrum = tuple(np.array(GARDEN) * tone)
                land.parcels.append(Parcel(plot, "garden", _long_side(plot), spectrum, 0.0, 0.22))
    return cuts


def _roads(
    rng: np.random.Generator,
    land: Landscape,
    main: list[LineString],
    lanes: list[LineString],
    streets: list[list[LineString]],
    tracks: list[LineString],
    water: Polygon,
    villages: Polygon,
) -> None:
    style = dict(cap_style="flat", quad_segs=4)
    land.roads += [(m.buffer(4.5, **style), "asphalt") for m in main]
    land.roads += [(lane.buffer(3.1, **style), "asphalt") for lane in lanes]
    land.roads += [(s.buffer(2.6, quad_segs=3), "street") for group in streets for s in group]
    off = unary_union([water.buffer(5), villages])
    for track in tracks:
        if track.length < 90 or rng.uniform() < 0.25:
            continue
        rest = track.difference(off)
        for piece in getattr(rest, "geoms", [rest]):
            if piece.length > 50:
                land.roads.append((piece.buffer(1.7, **style), "gravel track"))


def _rectangle(x: float, y: float, length: float, width: float, angle: float) -> Polygon:
    shape = box(-length / 2, -width / 2, length / 2, width / 2)
    return translate(rotate(shape, angle, origin=(0, 0), use_radians=True), x, y)


def _place(land: Landscape, building: Building, keep_off: shapely.STRtree) -> bool:
    shape = building.polygon
    inside = 0 < shape.centroid.x < land.width and 0 < shape.centroid.y < land.height
    if not inside or len(keep_off.query(shape, predicate="intersects")):
        return False
    if shapely.dwithin([b.polygon for b in land.buildings], shape, 2.5).any():
        return False
    land.buildings.append(building)
    return True


def _roof(rng: np.random.Generator, names: list[str] | None = None) -> str:
    names = names or list(ROOFS)
    weights = np.array([ROOFS[n][1] for n in names])
    return names[rng.choice(len(names), p=weights / weights.sum())]


def _houses(
    rng: np.random.Generator,
    land: Landscape,
    centres: list[Point],
    streets: list[list[LineString]],
    main: list[LineString],
    blocked: Polygon,
) -> None:
    keep_off = shapely.STRtree(list(getattr(blocked, "geoms", [blocked])))
    for centre, group in zip(centres, streets, strict=True):
        through = main[0].intersection(centre.buffer(140))
        parts = [p for p in getattr(through, "geoms", [through]) if p.length > 0]
        # Large halls first, then houses in the remaining space.
        for street in (parts + group)[:3]:
            for _ in range(3):
                _along(rng, land, street, rng.uniform() * street.length, keep_off, hall=True)
        for street in [*parts, *group]:
            at = rng.uniform(4, 12)
            while at < street.length - 3:
                for side in (-1, 1):
                    if rng.uniform() < 0.86:
                        _along(rng, land, street, at, keep_off, side=side)
                at += rng.uniform(15.5, 22)


def _along(
    rng: np.random.Generator,
    land: Landscape,
    street: LineString,
    at: float,
    keep_off: shapely.STRtree,
    side: int | None = None,
    hall: bool = False,
) -> bool:
    """Try to place one building along a street."""
    side = side or (-1 if rng.uniform() < 0.5 else 1)
    point = street.interpolate(at)
    angle = _direction(street, point)
    if hall:
        length, width = rng.uniform(24, 46), rng.uniform(14, 24)
        offset = width / 2 + rng.uniform(7, 11)
        kind = _roof(rng, ["metal, bright", "concrete tiles, grey", "slate"])
        height, flat = rng.uniform(6, 9), True
    else:
        length, width = rng.uniform(9.5, 14.5), rng.uniform(7.5, 10)
        offset = width / 2 + rng.uniform(5.0, 10.0)
        kind = _roof(rng)
        height, flat = rng.uniform(5, 8), kind == "metal, bright"
    x = point.x - side * math.sin(angle) * offset
    y = point.y + side * math.cos(angle) * offset
    ridge = angle + (math.pi / 2 if not hall and rng.uniform() < 0.3 else 0)
    ridge += rng.normal() * 0.03
    shape = _rectangle(x, y, length, width, ridge)
    if not hall and rng.uniform() < 0.25:  # an annex, for an L shape
        end = length / 2 - 2.5
        x = x + math.cos(ridge) * end - math.sin(ridge) * width * 0.6
        y = y + math.sin(ridge) * end + math.cos(ridge) * width * 0.6
        shape = shape.union(_rectangle(x, y, 5.0, width * 0.9, ridge))
    return _place(land, Building(shape, kind, ridge, height, flat), keep_off)


def _farms(
    rng: np.random.Generator,
    land: Landscape,
    main: list[LineString],
    lanes: list[LineString],
    tracks: list[LineString],
    blocked: Polygon,
) -> None:
    keep_off = shapely.STRtree(list(getattr(blocked, "geoms", [blocked])))
    roads = [*lanes, *main, *[t for t in tracks if t.length > 120]]
    wanted = max(2, round(land.width * land.height / 110_000))
    for _ in range(wanted * 6):
        if wanted == 0:
            break
        road = roads[rng.integers(len(roads))]
        if road.geom_type != "LineString":
            continue
        at = rng.uniform(0.1, 0.9) * road.length
        spot = road.interpolate(at)
        if not (30 < spot.x < land.width - 30 and 30 < spot.y < land.height - 30):
            continue
        angle, side = _direction(road, spot), -1 if rng.uniform() < 0.5 else 1
        cx = spot.x - side * math.sin(angle) * 34
        cy = spot.y + side * math.cos(angle) * 34
        placed = 0
        for dx, dy in ((-17, -13), (16, -11), (-4, 17), (26, 16)):
            length, width = rng.uniform(16, 32), rng.uniform(10, 15)
            turn = angle + (math.pi / 2 if rng.uniform() < 0.4 else 0)
            x = cx + dx * math.cos(angle) - dy * math.sin(angle)
            y = cy + dx * math.sin(angle) + dy * math.cos(angle)
            kind = _roof(rng)
            shape = _rectangle(x, y, length, width, turn)
            placed += _place(
                land, Building(shape, kind, turn, rng.uniform(6, 9), length > 28), keep_off
            )
        if placed:
            wanted -= 1
            drive = LineString([spot, (cx, cy)]).buffer(2.2, cap_style="flat")
            land.roads.append((drive, "gravel track"))


def _woods(
    rng: np.random.Generator,
    land: Landscape,
    frame: Polygon,
    villages: list[Polygon],
    tracks: list[LineString],
) -> None:
    """Add forest parcels in clusters away from the river, groves, hedges and trees."""
    phase, turn = rng.uniform(0, 2 * np.pi, size=6), rng.uniform(0, np.pi, size=6)
    scale = max(land.height, 400.0)

    def favour(point: Point) -> float:
        value = 0.0
        for k in range(6):
            u = (point.x * math.cos(turn[k]) + point.y * math.sin(turn[k])) / scale
            value += math.sin(2 * math.pi * (0.55 + 0.28 * k) * u + phase[k]) / (1 + 0.4 * k)
        return value - 2.2 * math.exp(-point.distance(land.river) / 60)

    candidates = [p for p in land.parcels if p.kind != "garden"]
    order = sorted(candidates, key=lambda p: -favour(p.polygon.centroid))
    wanted, area = 0.19 * frame.area, 0.0
    chosen: set[int] = set()
    for parcel in order:
        if area > wanted:
            break
        chosen.add(id(parcel))
        area += parcel.polygon.area
        kind = "needle-leaved" if favour(parcel.polygon.centroid) % 0.7 < 0.25 else "broad-leaved"
        edge = parcel.polygon.buffer(3, join_style="round").simplify(0.5)
        land.woods.append((edge, kind))
    land.parcels = [p for p in land.parcels if id(p) not in chosen]

    settled = unary_union(villages)
    for _ in range(round(land.width * land.height / 75_000)):
        x, y = rng.uniform(0, land.width), rng.uniform(0, land.height)
        grove = _blob(rng, x, y, rng.uniform(14, 38), 0.3)
        if not grove.intersects(settled):
            land.woods.append((grove, "broad-leaved"))
    # Trees along parts of the river and some field borders.
    bank = LineString(land.river.coords)
    at = 0.0
    while at < bank.length:
        stretch = rng.uniform(40, 130)
        side = rng.uniform(12, 19) * (-1 if rng.uniform() < 0.5 else 1)
        piece = shapely.ops.substring(bank, at, min(at + stretch, bank.length))
        if piece.length > 20:
            shifted = piece.offset_curve(side)
            if not shifted.is_empty:
                land.woods.append((shifted.buffer(rng.uniform(4, 8)), "broad-leaved"))
        at += stretch + rng.uniform(20, 160)
    for parcel in land.parcels:
        if parcel.kind == "garden" or rng.uniform() > 0.22:
            continue
        border = parcel.polygon.exterior
        start = rng.uniform() * border.length
        hedge = shapely.ops.substring(
            border, start, min(border.length, start + rng.uniform(50, 140))
        )
        land.woods.append((hedge.buffer(rng.uniform(2.4, 3.8)), "broad-leaved"))
    gardens = [p for p in land.parcels if p.kind == "garden"]
    built = shapely.STRtree([b.polygon for b in land.buildings] or [Point(-1e6, -1e6)])
    for parcel in gardens:
        west, north, east, south = parcel.polygon.bounds
        for _ in range(rng.poisson(0.8)):
            spot = Point(rng.uniform(west, east), rng.uniform(north, south))
            tree = spot.buffer(rng.uniform(2.6, 4.6), quad_segs=4)
            if parcel.polygon.contains(spot) and not len(built.query(tree, predicate="intersects")):
                land.woods.append((tree, "broad-leaved"))


# --------------------------------------------------------------------- vectors to class layers


def disjoint_layers(land: Landscape) -> list[tuple[int, str, Polygon]]:
    """Return disjoint (class index, kind, polygon), fields first.

    Where they overlap, buildings precede roads, water, woods and fields.
    """
    frame = box(0, 0, land.width, land.height)
    stack = [
        (BUILDING, [(b.polygon, b.kind) for b in land.buildings]),
        (ROAD, land.roads),
        (WATER, [(w, "lake" if k else "river") for k, w in enumerate(land.water)]),
        (FOREST, land.woods),
        (FIELD, [(p.polygon, p.kind) for p in land.parcels]),
    ]
    occupied: list[Polygon] = []
    layers: list[list[tuple[int, str, Polygon]]] = []
    for index, members in stack:
        kinds: dict[str, list[Polygon]] = {}
        for polygon, kind in members:
            kinds.setdefault(kind, []).append(polygon)
        # Overlapping pieces of one kind are dissolved, except buildings and parcels.
        if index in (ROAD, FOREST):
            pieces = [
                (kind, part)
                for kind, polygons in kinds.items()
                for part in _polygons(unary_union(polygons))
            ]
        else:
            pieces = [(kind, polygon) for polygon, kind in members]
        layer: list[tuple[int, str, Polygon]] = []
        for kind, polygon in pieces:
            tree = shapely.STRtree(occupied)
            hits = [occupied[k] for k in tree.query(polygon, predicate="intersects")]
            # On a millimetre grid overlays are exact: the pieces are valid and disjoint.
            rest = shapely.intersection(polygon, frame, grid_size=GRID)
            if hits:
                rest = shapely.difference(rest, unary_union(hits), grid_size=GRID)
            parts = _polygons(rest)
            layer += [(index, kind, part) for part in parts]
            if index in (ROAD, FOREST):
                occupied += parts
        if index not in (ROAD, FOREST):
            occupied += [part for _, _, part in layer]
        layers.append(layer)
    return [item for layer in reversed(layers) for item in layer]


def _polygons(geometry: shapely.Geometry) -> list[Polygon]:
    parts = shapely.get_parts(geometry)
    return [p for p in parts if p.geom_type == "Polygon" and p.area > 1e-3]


def draw_classes(
    layers: list[tuple[int, str, Polygon]], size: tuple[int, int], resolution: float
) -> np.ndarray:
    """Rasterise the class layers by pixel centres: (H, W) uint8."""
    pairs = [(polygon, index) for index, _, polygon in layers]
    return rasterize(pairs, size, fill=FIELD, transform=Affine.scale(resolution), dtype="uint8")


# ------------------------------------------------------------------------------------ the picture


def inside_swath(size: tuple[int, int]) -> np.ndarray:
    """Return the valid area (H, W) bool, False beyond a slanted edge at the lower right."""
    rows, cols = np.mgrid[: size[0], : size[1]]
    return (cols + 0.5) / size[1] + SWATH[1] * (rows + 0.5) / size[0] < SWATH[0]


def fractal(
    rng: np.random.Generator, size: tuple[int, int], beta: float, largest: float
) -> np.ndarray:
    """Return noise with power spectrum 1/f^beta, flat beyond ``largest`` pixels: mean 0, std 1."""
    # Padding to a fast length also avoids periodic noise.
    padded = [fft.next_fast_len(int(s * 1.1) + 8, real=True) for s in size]
    white = rng.standard_normal(padded, dtype=np.float32)
    fy, fx = fft.fftfreq(padded[0])[:, None], fft.rfftfreq(padded[1])[None]
    radius = np.maximum(np.sqrt(fy**2 + fx**2), 1 / largest)
    noise = fft.irfft2(fft.rfft2(white) * (radius ** (-beta / 2)).astype(np.float32), s=padded)
    noise = noise[: size[0], : size[1]]
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _smooth_field(
    rng: np.random.Generator, size: tuple[int, int], beta: float, largest: float, step: int
) -> np.ndarray:
    """Return fractal noise without fine detail, interpolated from a coarse grid."""
    coarse = (size[0] // step + 3, size[1] // step + 3)
    noise = fractal(rng, coarse, beta, largest / step)
    return ndimage.zoom(noise, step, order=1)[: size[0], : size[1]]


def _shift(array: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """``out[y, x] = array[y + rows, x + cols]``, edges repeated."""
    h, w = array.shape
    y = np.clip(np.arange(h) + rows, 0, h - 1)
    x = np.clip(np.arange(w) + cols, 0, w - 1)
    return array[y[:, None], x[None]]


def render(
    land: Landscape,
    layers: list[tuple[int, str, Polygon]],
    size: tuple[int, int],
    resolution: float,
    seed: int,
) -> np.ndarray:
    """Render the image of the sensor: (4, H, W) uint16."""
    rng = np.random.default_rng([seed, 2])
    fine = (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING)
    metres = resolution / OVERSAMPLING
    transform = Affine.scale(metres)
    classes = draw_classes(layers, fine, metres)
    y, x = np.meshgrid(
        (np.arange(fine[0], dtype=np.float32) + 0.5) * metres,
        (np.arange(fine[1], dtype=np.float32) + 0.5) * metres,
        indexing="ij",
        sparse=True,
    )

    image = _paint_fields(rng, land, fine, metres, x, y)
    ground = _terrain(rng, land, fine, metres)
    canopy = np.zeros(fine, np.float32)
    light = _hillshade(ground, metres, soften=3.0)

    _paint_water(rng, image, classes == WATER, metres)
    _paint_roads(rng, image, layers, transform)
    crown_light = _paint_forest(rng, image, canopy, layers, classes, metres, transform)
    _paint_roofs(rng, image, canopy, land, transform)

    shade = _cast_shadow(canopy, metres)
    shade[classes == WATER] *= 0.8
    light *= crown_light
    for band in range(4):
        image[band] *= light * (1 - shade * (1 - SHADOW[band]))
        image[band] += HAZE[band]
    return _sense(rng, image, size)


def _paint_fields(
    rng: np.random.Generator,
    land: Landscape,
    fine: tuple[int, int],
    metres: float,
    x: np.ndarray,
    y: np.ndarray,
) -> np.ndarray:
    parcels = land.parcels
    ids = rasterize(
        [(p.polygon, k + 1) for k, p in enumerate(parcels)],
        fine,
        transform=Affine.scale(metres),
        dtype="uint16",
        all_touched=True,
    )
    table = np.array([GRASS_STRIP, *[p.spectrum for p in parcels]], np.float32)
    angle = np.array([0.0, *[p.angle for p in parcels]], np.float32)
    furrow = np.array([0.0, *[p.furrow for p in parcels]], np.float32)
    patch = np.array([0.1, *[p.patch for p in parcels]], np.float32)
    green = (table[:, 3] / table[:, 2] > 3.5).astype(np.float32)
    spacing = rng.uniform(2.6, 4.2, len(table)).astype(np.float32)
    lanes = rng.choice([15.0, 18.0, 24.0], len(table)).astype(np.float32)

    wander = _smooth_field(rng, fine, 3.0, 40 / metres, 8)
    across = y * np.cos(angle)[ids] - x * np.sin(angle)[ids]
    stripes = np.sin(2 * np.pi * (across + 0.5 * wander) / spacing[ids])
    stripes += 0.5 * np.sin(2 * np.pi * across / (2.7 * spacing[ids]) + 1.0)
    # Tramlines: two wheel tracks, 1.8 m apart, at the width of the sprayer.
    offset = np.mod(across, lanes[ids])
    wheels = ((offset < 0.6) | ((offset > 1.8) & (offset < 2.4))).astype(np.float32)
    soil = _smooth_field(rng, fine, 2.6, 160 / metres, 4)
    mottle = fractal(rng, fine, 1.4, 12 / metres)

    edge = (ids != _shift(ids, 0, 1)) | (ids != _shift(ids, 1, 0)) | (ids != _shift(ids, 1, 1))
    edge = ndimage.binary_dilation(edge, iterations=max(1, round(0.6 / metres)))
    texture = 1 + furrow[ids] * 0.55 * stripes + patch[ids] * (0.55 * soil + 0.35 * mottle)
    wheel_mark = wheels * (furrow[ids] > 0.03)
    image = np.empty((4, *fine), np.float32)
    for band in range(4):
        # Sparse plants show more soil: red increases where near infrared decreases.
        sign = np.where(green > 0, (-0.6, -0.3, -0.9, 1.0)[band], 1.0).astype(np.float32)
        factor = 1 + (texture - 1) * sign[ids]
        value = table[:, band][ids] * np.clip(factor, 0.45, 1.7)
        target = CROPS["soil, dry"][0][band] * 0.85
        value += 0.30 * wheel_mark * (target - value)
        value[edge] = GRASS_STRIP[band] * (1 + 0.15 * mottle[edge])
        image[band] = value
    return image


def _terrain(
    rng: np.random.Generator, land: Landscape, fine: tuple[int, int], metres: float
) -> np.ndarray:
    """Return fractal terrain with the river valley, in metres."""
    step = 8
    coarse = (fine[0] // step + 3, fine[1] // step + 3)
    hills = fractal(rng, coarse, 3.6, 900 / (metres * step)) * 13
    line = rasterize(
        [(land.river, 1)], coarse, transform=Affine.scale(metres * step), all_touched=True
    )
    distance = ndimage.distance_transform_edt(line == 0) * metres * step
    valley = 1 - np.exp(-((distance / 190) ** 2))
    terrain = (hills + 24) * valley
    return ndimage.zoom(terrain.astype(np.float32), step, order=1)[: fine[0], : fine[1]]


def _hillshade(surface: np.ndarray, metres: float, soften: float = 0.0) -> np.ndarray:
    """Return direct light relative to flat ground, with a share of sky light."""
    if soften:
        surface = ndimage.gaussian_filter(surface, soften / metres)
    dy, dx = np.gradient(surface, metres)
    sun = (math.sin(SUN_AZIMUTH), -math.cos(SUN_AZIMUTH))  # x east, y south
    flat = math.sin(SUN_ELEVATION)
    tilt = -(dx * sun[0] + dy * sun[1]) * math.cos(SUN_ELEVATION)
    direct = np.maximum(flat + tilt, 0) / np.sqrt(1 + dx**2 + dy**2) / flat
    return (0.22 + 0.78 * direct).astype(np.float32)


def _paint_water(
    rng: np.random.Generator, image: np.ndarray, water: np.ndarray, metres: float
) -> None:
    if not water.any():
        return
    depth = ndimage.distance_transform_edt(water).astype(np.float32) * metres
    shallow = np.exp(-depth / 3.2)
    swirl = _smooth_field(rng, water.shape, 2.8, 300 / metres, 8)
    ripples = fractal(rng, water.shape, 1.0, 8 / metres)
    deep = (0.036, 0.047, 0.026, 0.014)
    bank = (0.062, 0.082, 0.074, 0.090)
    for band in range(4):
        tone = deep[band] * (1 + (0.10, 0.16, 0.24, 0.12)[band] * swirl + 0.05 * ripples)
        image[band][water] = (tone + shallow * (bank[band] - tone))[water]
    # Wet ground and reeds on the land side of the shore.
    shore = ndimage.distance_transform_edt(~water).astype(np.float32) * metres
    reeds = np.exp(-((shore / 2.5) ** 2)) * (~water)
    for band in range(4):
        image[band] += 0.55 * reeds * ((0.036, 0.062, 0.047, 0.20)[band] - image[band])


def _paint_roads(
    rng: np.random.Generator,
    image: np.ndarray,
    layers: list[tuple[int, str, Polygon]],
    transform: Affine,
) -> None:
    fine = image.shape[1:]
    grain = fractal(rng, fine, 1.2, 60.0)
    for kind, spectrum in ROAD_SURFACES.items():
        shapes = [p for index, k, p in layers if index == ROAD and k == kind]
        if not shapes:
            continue
        road = rasterize(shapes, fine, transform=transform).astype(bool)
        for band in range(4):
            image[band][road] = spectrum[band] * (1 + 0.10 * grain[road])


def _paint_forest(
    rng: np.random.Generator,
    image: np.ndarray,
    canopy: np.ndarray,
    layers: list[tuple[int, str, Polygon]],
    classes: np.ndarray,
    metres: float,
    transform: Affine,
) -> np.ndarray:
    """Paint crowns on a jittered grid with random heights and tones; return their light."""
    fine = classes.shape
    forest = classes == FOREST
    light = np.ones(fine, np.float32)
    if not forest.any():
        return light
    needle = [p for index, k, p in layers if index == FOREST and k == "needle-leaved"]
    evergreen = np.zeros(fine, bool)
    if needle:
        evergreen = rasterize(needle, fine, transform=transform).astype(bool)
    spacing = 5.6 / metres
    rows, cols = np.mgrid[0 : fine[0] : spacing, 0 : fine[1] : spacing]
    rows = rows + rng.uniform(-0.46, 0.46, rows.shape) * spacing
    cols = cols + rng.uniform(-0.46, 0.46, cols.shape) * spacing
    rows = np.clip(rows, 0, fine[0] - 1).astype(int).ravel()
    cols = np.clip(cols, 0, fine[1] - 1).astype(int).ravel()
    grow = ndimage.binary_erosion(forest, iterations=max(1, round(1.0 / metres)), border_value=1)
    keep = grow[rows, cols]
    if not keep.any():
        keep = forest[rows, cols]
    stems = np.ones(fine, bool)
    stems[rows[keep], cols[keep]] = False
    distance, (near_y, near_x) = ndimage.distance_transform_edt(stems, return_indices=True)
    distance = distance.astype(np.float32) * metres
    stand = _smooth_field(rng, fine, 2.4, 120 / metres, 8)
    per_tree = rng.standard_normal((2, *fine), dtype=np.float32)[:, near_y, near_x]
    radius = 4.1 + 0.5 * per_tree[0]
    tall = 14 + 2.5 * stand + 2.0 * per_tree[1] + np.where(evergreen, 3.0, 0.0)
    dome = np.sqrt(np.clip(1 - (distance / radius) ** 2, 0.02, 1))
    height = np.where(forest, np.clip(tall, 5, 24) * (0.45 + 0.55 * dome), 0).astype(np.float32)
    edge = ndimage.distance_transform_edt(forest).astype(np.float32) * metres
    height *= np.clip(0.45 + edge / 6.0, 0, 1)
    canopy[...] = np.maximum(canopy, height)

    mix = 1 / (1 + np.exp(-(2.2 * stand + 1.5 * per_tree[0] - 1.2)))
    mix = np.where(evergreen, 0.9, 0.35 * mix)
    tone = np.exp(0.10 * per_tree[1] + 0.06 * stand)
    leaves = fractal(rng, fine, 0.8, 6 / metres)
    for band in range(4):
        broad, dark = TREES["broad-leaved"][band], TREES["needle-leaved"][band]
        spectrum = (broad + mix * (dark - broad)) * tone * (1 + 0.07 * leaves)
        image[band][forest] = spectrum[forest]
    bumps = _hillshade(ndimage.gaussian_filter(height, 0.5 / metres) * 0.42, metres)
    gaps = 0.62 + 0.38 * np.clip(dome * 1.15, 0, 1)
    light[forest] = (np.clip(bumps, 0.3, 1.8) * gaps * 1.12)[forest]
    return light


def _paint_roofs(
    rng: np.random.Generator,
    image: np.ndarray,
    canopy: np.ndarray,
    land: Landscape,
    transform: Affine,
) -> None:
    if not land.buildings:
        return
    fine = image.shape[1:]
    grain = fractal(rng, fine, 0.8, 10.0)
    sun = (math.sin(SUN_AZIMUTH), -math.cos(SUN_AZIMUTH))
    slopes, tones, heights = [], [np.zeros(4)], []
    for building in land.buildings:
        heights.append((building.polygon, building.height))
        spectrum = np.array(ROOFS[building.kind][0]) * np.exp(rng.normal(0, 0.10))
        normal = (-math.sin(building.angle), math.cos(building.angle))
        facing = normal[0] * sun[0] + normal[1] * sun[1]
        centre = building.polygon.minimum_rotated_rectangle.centroid
        dx, dy = math.cos(building.angle) * 200, math.sin(building.angle) * 200
        ridge = LineString([(centre.x - dx, centre.y - dy), (centre.x + dx, centre.y + dy)])
        parts = [building.polygon] if building.flat else split(building.polygon, ridge).geoms
        for part in parts:
            x, y = part.centroid.x - centre.x, part.centroid.y - centre.y
            side = x * normal[0] + y * normal[1]
            factor = 1.0 if building.flat else 1 + 0.34 * facing * np.sign(side)
            tones.append(spectrum * factor)
            slopes.append((part, len(tones) - 1))
    roof = rasterize(slopes, fine, transform=transform, dtype="int32")
    table = np.array(tones, np.float32)
    mask = roof > 0
    for band in range(4):
        image[band][mask] = table[:, band][roof[mask]] * (1 + 0.05 * grain[mask])
    tall = rasterize(heights, fine, transform=transform, dtype="float32")
    canopy[mask] = tall[mask]


def _cast_shadow(heights: np.ndarray, metres: float) -> np.ndarray:
    """Return the share of direct light blocked by taller objects: (H, W) float32 in [0, 1]."""
    shadow = np.zeros(heights.shape, bool)
    reach = float(heights.max()) / math.tan(SUN_ELEVATION)
    step = max(1.0, 2 * metres)
    for distance in np.arange(step, reach + step, step):
        cols = round(math.sin(SUN_AZIMUTH) * distance / metres)
        rows = round(-math.cos(SUN_AZIMUTH) * distance / metres)
        rise = distance * math.tan(SUN_ELEVATION)
        shadow |= _shift(heights, rows, cols) - rise > heights + 0.3
    return ndimage.gaussian_filter(shadow.astype(np.float32), 0.6)


def _sense(rng: np.random.Generator, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Blur with the point spread function, sample, add shot and read noise, quantise."""
    out = np.empty((4, *size), np.uint16)
    for band in range(4):
        blurred = ndimage.gaussian_filter(image[band], 0.55 * OVERSAMPLING)
        pixels = blurred.reshape(size[0], OVERSAMPLING, size[1], OVERSAMPLING).mean((1, 3))
        sigma = np.sqrt(0.0012**2 + (0.018 * pixels) ** 2)
        pixels = pixels + sigma * rng.standard_normal(size, dtype=np.float32)
        stripes = 0.0006 * rng.standard_normal((1, size[1]), dtype=np.float32)
        counts = np.rint((pixels + stripes) * REFLECTANCE_SCALE)
        # 0 is nodata, so the minimum is 1.
        out[band] = np.clip(counts, 1, 65535)
    return out


# --------------------------------------------------------------------------------------- writing


def _grid(resolution: float) -> Affine:
    return Affine(resolution, 0, ORIGIN[0], 0, -resolution, ORIGIN[1])


def _replace(path: Path, write) -> None:
    """Write a file atomically, via a temporary name."""
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_rasters(
    scene: DemoScene, image: np.ndarray, truth: np.ndarray, resolution: float, seed: int
) -> None:
    block = 256 if min(truth.shape) >= 256 else 16
    common = dict(
        driver="GTiff",
        height=truth.shape[0],
        width=truth.shape[1],
        crs=CRS,
        transform=_grid(resolution),
        tiled=True,
        blockxsize=block,
        blockysize=block,
        compress="deflate",
    )

    def write_image(path: Path) -> None:
        profile = dict(
            count=4, dtype="uint16", nodata=NODATA, predictor=2, photometric="minisblack"
        )
        with rasterio.open(path, "w", **common, **profile) as dst:
            dst.write(image)
            dst.descriptions = BANDS
            note = f"synthetic scene, seed {seed}, reflectance x {REFLECTANCE_SCALE}"
            dst.update_tags(TIFFTAG_IMAGEDESCRIPTION=note)

    def write_truth(path: Path) -> None:
        with rasterio.open(path, "w", **common, count=1, dtype="uint8", nodata=IGNORE) as dst:
            dst.write(truth, 1)
            dst.write_colormap(1, {k: (*rgb, 255) for k, rgb in enumerate(PALETTE)})
            dst.descriptions = ("land cover",)
            dst.update_tags(classes=",".join(CLASSES))

    _replace(scene.image, write_image)
    _replace(scene.mask, write_truth)


def _write_vectors(
    path: Path, layers: list[tuple[int, str, Polygon]], size: tuple[int, int], resolution: float
) -> None:
    to_map = _grid(1.0)
    swath = Polygon([(0, 0), (SWATH[0], 0), (SWATH[0] - SWATH[1], 1), (0, 1)])
    swath = shapely.transform(swath, lambda xy: xy * [size[1] * resolution, size[0] * resolution])
    rows = []
    for index, kind, polygon in layers:
        for part in _polygons(shapely.intersection(polygon, swath, grid_size=GRID)):
            placed = shapely.transform(part, lambda xy: xy * [1, -1] + [to_map.c, to_map.f])
            placed = shapely.set_precision(placed, GRID)
            rows.append((index, CLASSES[index], kind, round(part.area, 2), placed))
    frame = geopandas.GeoDataFrame(
        rows, columns=["class_id", "class", "kind", "area_m2", "geometry"], crs=CRS
    )
    # GeoPackages store the date of writing; a fixed one makes the file reproducible.
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2024-07-01T00:00:00.000Z"})
    try:
        _replace(path, lambda part: frame.to_file(part, layer="landcover", driver="GPKG"))
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", nargs="?", default="data/demo", help="folder to write")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(1024, 1536), metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resolution", type=float, default=1.0, help="metres per pixel")
    args = parser.parse_args(argv)
    scene = make_demo_scene(args.out_dir, tuple(args.size), args.seed, args.resolution)
    for path in (scene.image, scene.mask, scene.vectors, scene.classes):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
