"""Tiles of region ids: which region each pixel of a scene is in."""

import gzip
import json
import threading
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import shapely
from rasterio import Affine, features

from hook.errors import SceneError
from hook.explore.picture import TILE, ScenePicture
from hook.geo.staging import StagedFiles, writing
from hook.geo.vector import apply_affine
from hook.progress import progress_bar

FILE = "regions.tiles"
"""Name of the file in the folder of a session."""
_BLOCK = 2048  # pixels along each side that are drawn at once: as many as 8 x 8 tiles
_AT_ONCE = 4096  # regions


class IdTiles:
    """Tiles in the pixel grid of a scene, see :class:`hook.explore.picture.ScenePicture`.

    A tile is 256 x 256 little-endian uint32 row by row, compressed with gzip. The value is the row
    of the region that contains the centre of the pixel plus 1, or 0 where there is none; at zooms
    below ``zmax``, that of the pixel of the scene nearest to the centre of the larger pixel.

    All tiles are made once and kept in a ZIP file, which is made again if it is missing, damaged,
    or of other regions.

    Args:
        folder: Folder of the file.
        digest: Checksum of the regions.
        grid: Transform from columns and rows of the scene to their coordinates.
        picture: The scene.
    """

    def __init__(self, folder: Path, digest: str, grid: Affine, picture: ScenePicture) -> None:
        self._path, self._grid, self._zmax = folder / FILE, grid, picture.zmax
        self._shape = picture.height, picture.width
        of = {"regions": digest, "grid": grid[:6], "shape": self._shape}
        self._of = json.dumps(of).encode()
        self._lock, self._file = threading.Lock(), None

    @property
    def drawn(self) -> bool:
        """Whether the file is there, of these regions and undamaged."""
        try:
            with ZipFile(self._path) as file:
                return file.comment == self._of and file.testzip() is None
        except Exception:  # of many kinds, where bytes of a header are damaged
            return False

    def draw(self, tree: shapely.STRtree) -> None:
        """Make the file of (N,) (multi)polygons.

        Raises:
            SceneError: It cannot be written.
        """
        with StagedFiles(overwrite=True) as files, writing(self._path):
            with ZipFile(files.add(self._path), "w") as file:  # its members are compressed
                file.comment = self._of
                _draw(file, tree, self._grid, self._shape, self._zmax)
            files.commit()

    def open(self) -> None:
        """Open the file, which is drawn."""
        self._file = ZipFile(self._path)

    def tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile; empty if no region is in it.

        Raises:
            SceneError: The file was damaged since it was opened.
        """
        try:
            with self._lock:
                return self._file.read(f"{z}/{x}/{y}")
        except KeyError:
            return b""
        except (OSError, EOFError, BadZipFile) as error:
            raise SceneError(
                f"{self._path}: cannot be read",
                expected="the file as it was written",
                found=str(error) or "its end",
                remedy="start 'hook explore' again, which makes it again",
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def pixel_bounds(geometry: np.ndarray, grid: Affine) -> np.ndarray:
    """Return the bounds (N, 4) of polygons in columns and rows: left, top, right, bottom.

    They are float32, which rounds what is left of the transform from coordinates.
    """
    parts = (geometry[first : first + _AT_ONCE] for first in range(0, len(geometry), _AT_ONCE))
    found = [shapely.bounds(apply_affine(part, ~grid)) for part in parts]  # few copies at a time
    return np.concatenate([np.empty((0, 4)), *found]).astype(np.float32)


def burn(
    values: np.ndarray, place: tuple[int, int], tree: shapely.STRtree, grid: Affine, of: np.ndarray
) -> None:
    """Write the value of the polygon that contains the centre of each pixel, the last of several.

    Args:
        values: (h, w) pixels of the scene, changed where there is a polygon.
        place: Row and column of the first pixel.
        tree: (N,) polygons.
        grid: Transform from columns and rows to their coordinates.
        of: (N,) the value of each polygon.
    """
    (top, left), (height, width) = place, values.shape
    box = apply_affine(shapely.box(left, top, left + width, top + height), grid)
    if len(near := np.sort(tree.query(box))):
        shapes = apply_affine(tree.geometries[near], ~grid)
        pairs = zip(shapes, of[near].tolist(), strict=True)
        features.rasterize(pairs, out=values, transform=Affine.translation(left, top))


def _draw(
    file: ZipFile,
    tree: shapely.STRtree,
    grid: Affine,
    shape: tuple[int, int],
    zmax: int,
) -> None:
    """Write the tiles of all zooms, of which those that a block does not fill come last."""
    block = min(_BLOCK, TILE << zmax)
    ids = np.arange(1, len(tree) + 1, dtype=np.uint32)
    corners = [(y, x) for y in range(0, shape[0], block) for x in range(0, shape[1], block)]
    ends = [-(-side // block) * block for side in shape]
    large = {
        n: np.zeros([(end >> n) + 1 for end in ends], np.uint32)
        for n in range(zmax + 1)
        if block >> n < TILE
    }
    for top, left in progress_bar(corners, desc="drawing regions", leave=False):
        drawn = np.zeros((block, block), np.uint32)
        burn(drawn, (top, left), tree, grid, ids)
        for n in range(zmax + 1):
            # Pixels of the scene in the middle of those of the tile, which are 2**n times larger.
            row, column = ((2**n // 2 - first) % 2**n for first in (top, left))
            found = drawn[row :: 2**n, column :: 2**n]
            y, x = (top + row) >> n, (left + column) >> n
            if n in large:
                large[n][y : y + found.shape[0], x : x + found.shape[1]] = found
            else:
                _store(file, zmax - n, y // TILE, x // TILE, found)
    for n, found in large.items():
        _store(file, zmax - n, 0, 0, found)


def _store(file: ZipFile, z: int, y: int, x: int, ids: np.ndarray) -> None:
    """Write pixels as tiles, the first of which is given."""
    for row in range(0, ids.shape[0], TILE):
        for column in range(0, ids.shape[1], TILE):
            part = ids[row : row + TILE, column : column + TILE]
            if part.any():
                tile = np.zeros((TILE, TILE), "<u4")
                tile[: part.shape[0], : part.shape[1]] = part
                content = gzip.compress(tile.tobytes(), 1, mtime=0)
                file.writestr(f"{z}/{x + column // TILE}/{y + row // TILE}", content)
