"""Vector tiles of regions, in the pixel grid of a scene.

Mapbox Vector Tiles 2.1 (https://github.com/mapbox/vector-tile-spec), encoded for all regions of a
tile at once with NumPy: libraries that encode feature by feature take seconds for the 50,000
regions of the first tile.
"""

import numpy as np
import shapely
from rasterio import Affine

from hook.geo.vector import apply_affine

EXTENT = 4096
"""Units of a tile along each side."""
# Units around a tile in which outlines are kept, so that they are not drawn at its edge.
_BUFFER = 64
# Vertices of crowded tiles are rounded to multiples of these units; a tile is drawn at 512 pixels.
_STEP = 4
_CROWDED = 2000  # regions of a tile
_AT_ONCE = 4000


class RegionTiles:
    """Makes vector tiles of polygons, with their row numbers as ids, in a layer ``regions``.

    Neighbours keep common edges: vertices are rounded to a grid that is finer than a pixel of the
    page, and those that then lie on a straight line are dropped.

    Args:
        geometry: (N,) (multi)polygons.
        grid: Transform from columns and rows of the scene to their coordinates.
        zmax: Zoom at which 256 pixels of the scene are a tile.

    Attributes:
        bounds: (N, 4) float32: left, top, right and bottom in columns and rows of the scene.
    """

    def __init__(self, geometry: np.ndarray, grid: Affine, zmax: int) -> None:
        self.zmax = zmax
        parts = range(0, max(len(geometry), 1), _AT_ONCE)  # few copies at a time
        found = [_flattened(geometry[first : first + _AT_ONCE], grid) for first in parts]
        points, counts, regions, outer, bounds = zip(*found, strict=True)
        self._points, self.bounds = np.concatenate(points), np.concatenate(bounds)
        self._ends = np.concatenate(counts).cumsum()
        self._regions = np.concatenate(
            [of_ring + first for of_ring, first in zip(regions, parts, strict=True)]
        )
        self._outer = np.concatenate(outer)
        self._first_ring = np.searchsorted(self._regions, np.arange(len(geometry) + 1))

    def tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile, empty if no region is in it."""
        side = 256.0 * 2 ** (self.zmax - z)
        margin = side * _BUFFER / EXTENT
        box = x * side - margin, y * side - margin, (x + 1) * side + margin, (y + 1) * side + margin
        left, top, right, bottom = self.bounds.T
        seen = (left < box[2]) & (right > box[0]) & (top < box[3]) & (bottom > box[1])
        cut = seen & ((left < box[0]) | (right > box[2]) | (top < box[1]) | (bottom > box[3]))
        rows = np.flatnonzero(seen & ~cut)
        step = _STEP if len(rows) > _CROWDED else 1
        features = []
        for first in range(0, len(rows), _AT_ONCE):
            features.append(
                self._encoded(self._rings(rows[first : first + _AT_ONCE]), z, x, y, step)
            )
        if cut.any():
            features.append(self._encoded(self._cut(np.flatnonzero(cut), box), z, x, y, step))
        return as_tile(b"".join(features))

    def _encoded(self, rings: tuple[np.ndarray, ...], z: int, x: int, y: int, step: int) -> bytes:
        """Return features of rings, rounded to multiples of ``step`` units of a tile."""
        points, *others = rings
        side = 256.0 * 2 ** (self.zmax - z)
        scaled = (points - [x * side, y * side]) * (EXTENT / side / step)
        return encode(step * np.rint(scaled).astype(np.int64), *others)

    def _rings(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return points (P, 2), ends, regions and kinds of the rings of regions."""
        rings = _ranges(self._first_ring[rows], self._first_ring[rows + 1])
        starts = np.append(0, self._ends)[rings]
        points = self._points[_ranges(starts, self._ends[rings])].astype(np.float64)
        ends = (self._ends[rings] - starts).cumsum()
        return points, ends, self._regions[rings], self._outer[rings]

    def _cut(self, rows: np.ndarray, box: tuple[float, ...]) -> tuple[np.ndarray, ...]:
        """Return the same of the parts of regions inside a box."""
        points, ends, regions, outer = self._rings(rows)
        of_point = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        rings = shapely.linearrings(points, indices=of_point)
        polygons = shapely.polygons(rings, indices=outer.cumsum() - 1)
        pieces, polygon_of = shapely.get_parts(
            shapely.clip_by_rect(polygons, *box), return_index=True
        )
        areas = shapely.get_type_id(pieces) == shapely.GeometryType.POLYGON
        rings, piece_of = shapely.get_rings(pieces[areas], return_index=True)
        points, ring_of = shapely.get_coordinates(rings, return_index=True)
        ends = np.bincount(ring_of, minlength=len(rings)).cumsum()
        owners = regions[outer][polygon_of[areas]][piece_of]
        return points, ends, owners, np.diff(piece_of, prepend=-1) > 0


def _flattened(geometry: np.ndarray, grid: Affine) -> tuple[np.ndarray, ...]:
    """Return points (P, 2) of all rings, and of each ring the number of points, region and kind.

    The first ring of a part is its outline, others are holes. Last are the bounds of the regions.
    """
    geometry = apply_affine(geometry, ~grid)
    parts, region_of = shapely.get_parts(geometry, return_index=True)
    rings, part_of = shapely.get_rings(parts, return_index=True)
    counts = shapely.get_num_points(rings)
    points = shapely.get_coordinates(rings).astype(np.float32)
    outer = np.diff(part_of, prepend=-1) > 0
    return points, counts, region_of[part_of], outer, shapely.bounds(geometry).astype(np.float32)


def encode(points: np.ndarray, ends: np.ndarray, regions: np.ndarray, outer: np.ndarray) -> bytes:
    """Encode rings as features, which are polygons, of :func:`as_tile`.

    Args:
        points: (P, 2) integers, columns and rows in units of the tile, with the first point of a
            ring at its end again.
        ends: (R,) number of points up to the end of each ring.
        regions: (R,) id of the region of each ring, which follow each other.
        outer: (R,) True for outlines, False for the holes in the outline before them.
    """
    points, ring_of = _simplified(points, ends)
    points, ring_of = _oriented(points, ring_of, outer)
    if not len(points):
        return b""
    rings, counts = np.unique(ring_of, return_counts=True)
    new = np.diff(regions[rings], prepend=-1) != 0
    first = np.append(0, counts.cumsum()[:-1])
    # Commands of a ring: move, 2 numbers, line, 2 numbers for each further point, close.
    start = first * 2 + 3 * np.arange(len(rings))
    words = np.zeros(2 * len(points) + 3 * len(rings), np.int64)
    words[start] = 1 << 3 | 1
    words[start + 3] = counts - 1 << 3 | 2
    words[start + 2 * counts + 2] = 7 | 1 << 3
    before = np.vstack([[0, 0], points[:-1]])
    before[first[new]] = 0  # the pen starts in the corner in each feature
    delta = points - before
    place = start.repeat(counts) + 2 * (np.arange(len(points)) - first.repeat(counts)) + 2
    place[first] -= 1
    zigzag = delta << 1 ^ delta >> 63
    words[place], words[place + 1] = zigzag.T
    body, sizes = _varints(words)
    owners = np.flatnonzero(new)
    lengths = np.add.reduceat(sizes, start[owners])
    stops = lengths.cumsum()
    features = []
    for region, stop, length in zip(
        regions[rings][owners].tolist(), stops.tolist(), lengths.tolist(), strict=True
    ):
        content = b"\x08%b\x18\x03\x22%b%b" % (
            _varint(region),
            _varint(length),
            body[stop - length : stop],
        )
        features.append(b"\x12%b%b" % (_varint(len(content)), content))
    return b"".join(features)


def as_tile(features: bytes) -> bytes:
    """Return a tile with features in a layer ``regions``; empty without any."""
    if not features:
        return b""
    layer = b"\x0a\x07regions%b\x28%b\x78\x02" % (features, _varint(EXTENT))
    return b"\x1a%b%b" % (_varint(len(layer)), layer)


def _simplified(points: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop closing points, equal neighbours and points on straight lines; rings may vanish.

    Returns:
        Points (Q, 2), and the ring of each.
    """
    ring_of = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    open_ends = np.ones(len(points), bool)
    open_ends[ends - 1] = False
    points, ring_of = points[open_ends], ring_of[open_ends]
    for _ in range(3):  # what is dropped may bring others onto a line
        before, _ = _neighbours(points, ring_of)
        kept = (points != before).any(axis=1)
        points, ring_of = points[kept], ring_of[kept]
        before, after = _neighbours(points, ring_of)
        kept = _cross(points - before, after - points) != 0
        points, ring_of = points[kept], ring_of[kept]
    return points, ring_of


def _oriented(
    points: np.ndarray, ring_of: np.ndarray, outer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn outlines clockwise on the screen and holes the other way; drop rings without area."""
    _, after = _neighbours(points, ring_of)
    areas = np.bincount(ring_of, _cross(points, after), minlength=len(outer))
    kept = areas[ring_of] != 0
    points, ring_of = points[kept], ring_of[kept]
    first, last = _ends_of(ring_of)
    place = np.arange(len(points))
    wrong = ((areas > 0) != outer)[ring_of]
    return points[np.where(wrong, first + last - place, place)], ring_of


def _neighbours(points: np.ndarray, ring_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points before and after each point of closed rings."""
    first, last = _ends_of(ring_of)
    place = np.arange(len(points))
    before = np.where(place == first, last, place - 1)
    after = np.where(place == last, first, place + 1)
    return points[before], points[after]


def _ends_of(ring_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the first and the last point of each point's ring."""
    new = np.diff(ring_of, prepend=-1) != 0
    first = np.flatnonzero(new)
    ring = new.cumsum() - 1
    return first[ring], np.append(first[1:], len(ring_of))[ring] - 1


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return the integers of ranges, one after the other."""
    counts = stops - starts
    ends = counts.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) + (starts - ends + counts).repeat(counts)


def _varints(words: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Encode integers in 7 bits per byte, and return the number of bytes of each."""
    sizes = 1 + sum((words >= 1 << 7 * count).astype(np.int64) for count in range(1, 5))
    starts = sizes.cumsum() - sizes
    body = np.empty(sizes.sum(), np.uint8)
    for count in range(sizes.max()):
        more = sizes > count + 1
        used = sizes > count
        body[starts[used] + count] = (words[used] >> 7 * count & 127) | 128 * more[used]
    return body.tobytes(), sizes


def _varint(number: int) -> bytes:
    """Encode one integer."""
    if number < 1 << 7:
        return bytes((number,))
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)
