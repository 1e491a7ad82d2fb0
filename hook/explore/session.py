"""A session: a scene, its regions, and the labels that a person gives them."""

import math
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from pyproj import CRS
from rasterio import Affine

from hook.errors import ConfigError, DataError, HookError
from hook.explore import saving
from hook.explore.id_tiles import IdTiles, pixel_bounds
from hook.explore.jobs import Jobs, run_worker
from hook.explore.journal import FILE, LabelJournal, Settled
from hook.explore.origin import check_regions, digest_of_file, digest_of_scene
from hook.explore.picture import ScenePicture
from hook.geo.staging import StagedFiles, writing
from hook.geo.vector import apply_affine, reading_vectors
from hook.regions.few_labels import RegionClassifier, margins
from hook.regions.index import RegionIndex
from hook.regions.layer import FORMATS
from hook.regions.table import Regions
from hook.scenes.reader import SceneReader

MOST_UNCERTAIN = 50
NO_CLASS = 255


@dataclass(frozen=True)
class RegionMap:
    """The classes of all regions for one set of labels."""

    revision: int
    classes: np.ndarray
    """(N,) uint8, index of the class in the order of the classes; 255 for none."""
    probability: np.ndarray
    """(N,) probability of the class, 0 for none."""
    uncertain: list[int]
    """Regions without a label, smallest margin between two classes first."""
    order: list[int]
    """Ids of the classes."""


class LoadedRegions(NamedTuple):
    """The regions of a session, and what is made from them once."""

    table: Regions
    pixels: np.ndarray
    """(N, 4) bounds in columns and rows: left, top, right, bottom."""
    tiles: IdTiles
    index: RegionIndex
    classifier: RegionClassifier


class Session:
    """All that the page of a scene shows and changes, for several threads.

    Args:
        scene: A raster that GDAL opens.
        folder: Folder of the session.
        nodata: Replaces the nodata value of the scene.
        publish: Called with each event, a dict with ``type``.

    Raises:
        DataError: The scene cannot be read.
        SceneError: See :class:`hook.scenes.SceneReader`.
    """

    def __init__(
        self,
        scene: str,
        folder: Path,
        nodata: float | str | None = None,
        publish: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        self.scene, self.folder, self.nodata = scene, folder, nodata
        self.publish = publish
        self.state: dict[str, Any] = {"state": "waiting", "done": 0.0, "count": 0, "message": ""}
        self.loaded: LoadedRegions | None = None
        self.picture_read = 1.0
        """Share of a scene without overviews that was read for its first picture."""
        self._journal: LabelJournal | None = None
        self._journal_lock = threading.RLock()  # also held while points become labels
        self._map: RegionMap | None = None
        self._map_lock, self.jobs = threading.Lock(), Jobs(publish)
        with SceneReader(scene, nodata=nodata) as reader:  # warns of a missing georeference
            self.grid = reader.transform
            self.crs = reader.crs and CRS.from_user_input(reader.crs)
        self.picture = ScenePicture(scene, nodata, self._report_picture)

    def _report_picture(self, share: float) -> None:
        self.picture_read = round(share, 3)
        self.publish({"type": "picture", "done": self.picture_read})

    @property
    def journal(self) -> LabelJournal:
        """Classes, points and labels; the file is opened, or made, when it is first asked for.

        Raises:
            DataError: It is of another scene.
            SceneError: It cannot be written.
        """
        with self._journal_lock:
            if self._journal is None:
                facts = {"scene": digest_of_scene(self.scene)}
                self._journal = LabelJournal(self.folder / FILE, facts)
            return self._journal

    # ------------------------------------------------------------------------------ regions
    def report(self, state: str, done: float = 0.0, message: str = "", count: int = 0) -> None:
        """Set and publish the state of the regions."""
        self.state = {"state": state, "done": done, "count": count, "message": message}
        self.publish({"type": "regions", **self.state})

    def compute(self, path: Path, facts: Mapping[str, str], **job: Any) -> None:
        """Make the regions in a process of their own, continuing an interrupted one, and load them.

        Args:
            path: The file to write.
            facts: See :meth:`load`.
            **job: See :func:`hook.explore.worker.extract`.

        Raises:
            DataError: The folder has labels of other data.
            SceneError: The folder cannot be written to.
        """
        self.journal.compare(facts)

        def work() -> None:
            run_worker(self._tell, job="extract", scene=self.scene, output=str(path), **job)
            self.report("computing", 1.0, "reading regions")
            read = self._read(path, facts)
            self._draw(path, read[0]["regions"])
            self._prepare(*read)

        self._start(work)

    def begin(self, path: Path, facts: Mapping[str, str], given: Path | None = None) -> None:
        """Check regions and copy them into the folder; get them ready in a thread if it takes long.

        Args:
            path: The regions.
            facts: See :meth:`load`.
            given: A file to copy into the folder, unless it is there.

        Raises:
            DataError: See :meth:`load`.
            SceneError: See there.
        """
        read = self._read(path, facts)
        if given is not None:  # not before: the folder keeps no regions that are refused
            path = self.adopt(given)
        digest = read[0]["regions"]
        if self._tiles(digest).drawn:
            self._prepare(*read)
            return

        def work() -> None:
            self._draw(path, digest)
            self._prepare(*read)

        self._start(work)

    def _start(self, work: Callable[[], None]) -> None:
        """Get regions ready in a thread, and tell if that fails."""
        self.report("computing")

        def run() -> None:
            try:
                work()
            except HookError as error:
                print(f"hook explore: {error}", file=sys.stderr)
                self.report("failed", message=str(error))
            except Exception as error:  # the page must not wait for ever
                traceback.print_exc()
                self.report("failed", message=f"{type(error).__name__}: {error}")

        threading.Thread(target=run, daemon=True).start()

    def _tell(self, message: str, done: float) -> None:
        self.report("computing", done, message)

    def _draw(self, path: Path, digest: str) -> None:
        """Draw the tiles of regions in a process of their own, unless they are there."""
        if not self._tiles(digest).drawn:
            given = dict(regions=str(path), digest=digest, grid=self.grid[:6])
            run_worker(self._tell, job="draw", scene=self.scene, folder=str(self.folder), **given)

    def _tiles(self, digest: str) -> IdTiles:
        return IdTiles(self.folder, digest, self.grid, self.picture)

    @property
    def stored(self) -> Path | None:
        """The regions in the folder, if there are any."""
        paths = [self.folder / f"regions{suffix}" for suffix in FORMATS]
        return next((path for path in paths if path.is_file()), None)

    def compare(self, regions: Path) -> Path:
        """Return the copy of a file of regions in the folder, or the file if there is none.

        Raises:
            DataError: The file cannot be read, or the folder has other regions.
        """
        _check_suffix(regions)
        with reading_vectors(regions, "regions", "a file that 'hook regions' wrote"):
            digest = digest_of_file(regions)
        if (path := self.stored) is None:
            return regions
        if digest != (found := digest_of_file(path)):
            raise DataError(
                f"{self.folder}: a session of other regions",
                expected=f"{path.name} of digest {found[:16]}",
                found=f"{regions} of digest {digest[:16]}",
                remedy="omit --regions to go on, or begin another session (--out)",
            )
        return path

    def adopt(self, regions: Path) -> Path:
        """Copy a file of regions into the folder, unless it is there; return the copy.

        Raises:
            DataError: See :meth:`compare`.
            SceneError: It cannot be copied.
        """
        path = self.compare(regions)
        if path == self.stored:
            return path
        path = self.folder / f"regions{regions.suffix.lower()}"
        with StagedFiles(inputs=[regions]) as files, writing(path):
            shutil.copyfile(regions, files.add(path))
            files.commit()
        return path

    def load(self, path: Path, facts: Mapping[str, str]) -> None:
        """Read the regions, and make points the labels of the regions that contain them.

        Args:
            path: The regions.
            facts: What to compare with those the session was begun with, see
                :class:`LabelJournal`.

        Raises:
            DataError: The regions are not of this scene, lack embeddings, or are not those of the
                labels in the folder.
            SceneError: The folder cannot be written to.
        """
        self._prepare(*self._read(path, facts))

    def _read(self, path: Path, facts: Mapping[str, str]) -> tuple[dict, Regions, np.ndarray]:
        """Return facts with the digest of regions, the regions, and their bounds in pixels."""
        facts = {"regions": digest_of_file(path), **facts}
        self.journal.compare(facts)
        table = Regions.read(path)
        pixels = pixel_bounds(table.geometry, self.grid)
        check_regions(table, pixels, self.scene, self.crs, self.grid, self.picture)
        self.journal.keep(facts)
        pa.default_memory_pool().release_unused()  # as much as the regions themselves
        return facts, table, pixels

    def _prepare(self, facts: Mapping[str, str], table: Regions, pixels: np.ndarray) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of regions without embedding
            index = RegionIndex(table, approximate_above=None)
        tiles = self._tiles(facts["regions"])
        if not tiles.drawn:
            tiles.draw(table.tree)
        tiles.open()
        classifier = RegionClassifier(table)
        with self._journal_lock:
            settled = self.journal.settle(facts, lambda places: self._containing(table, places))
            self.loaded = LoadedRegions(table, pixels, tiles, index, classifier)
        self.report("ready", 1.0, _told(settled), len(table))

    def _containing(self, table: Regions, places: np.ndarray) -> np.ndarray:
        """Return the region, or -1, of each column and row (P, 2)."""
        return table.containing(apply_affine(shapely.points(places), self.grid))

    def region_tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile of region ids, see :class:`IdTiles`; empty where there is no region yet.

        Raises:
            ConfigError: There is no such tile.
            SceneError: See :meth:`IdTiles.tile`.
        """
        self.picture.check_tile(z, x, y)
        return b"" if self.loaded is None else self.loaded.tiles.tile(z, x, y)

    @property
    def ready(self) -> LoadedRegions:
        """The regions.

        Raises:
            ConfigError: They are not there yet.
        """
        if self.loaded is None:
            raise ConfigError(
                "the regions are not there yet",
                expected="regions that are ready",
                found=self.state["state"],
                remedy=self.state["message"] or "wait until they are computed",
            )
        return self.loaded

    def check_region(self, region: int) -> int:
        """Return the id of a region.

        Raises:
            ConfigError: There is no such region.
        """
        count = len(self.ready.table)
        if not 0 <= region < count:
            raise ConfigError(
                "no such region",
                expected=f"0 to {count - 1}",
                found=region,
                remedy="load the page again",
            )
        return region

    def describe(self) -> dict[str, Any]:
        """Return what a page needs when it is opened."""
        revision, classes, labels = self.journal.read()
        points = self.journal.read_points()
        return {
            "title": Path(self.scene).name,
            "folder": str(self.folder.resolve()),
            "job": self.jobs.latest and self.jobs.state(self.jobs.latest),
            "revision": revision,
            "scene": _describe_scene(self.picture, self.crs, self.grid),
            "picture": self.picture_read,
            "regions": self.state,
            "classes": [one._asdict() for one in classes],
            "labels": labels,
            "places": dict(zip(labels, self._at(np.array(list(labels), int)), strict=True))
            if labels and self.loaded is not None
            else {},
            "points": [
                {"id": one.id, "at": [one.x, one.y], "class_id": one.class_id} for one in points
            ],
        }

    def add_point(
        self, place: Sequence[float], number: int, replaced: int | None = None
    ) -> int | None:
        """Give a place a class: a point before there are regions, then the region's label.

        Args:
            place: Column and row.
            number: Id of the class.
            replaced: Id of a point that is removed in the same step of undo.

        Returns:
            Id of the point; None for a label.

        Raises:
            ConfigError: The place is beyond the scene or, with regions, in none of them, or there
                is no such class or point.
        """
        x, y = place
        _check_inside(x, y, self.picture)
        with self._journal_lock:  # not between the regions and the points of others
            if self.loaded is None:
                return self.journal.add_point(x, y, number, replaced)
            (region,) = self._containing(self.loaded.table, np.array([place])).tolist()
            if region < 0:
                raise ConfigError(
                    "no region at this place",
                    expected="a place in a region",
                    found=f"column {x:.10g}, row {y:.10g}",
                    remedy="click a region",
                )
            self.journal.set_labels({region: number})
            return None

    def changed(self) -> int:
        """Tell all pages of a change of classes or labels; return the revision."""
        revision = self.journal.revision
        self.publish({"type": "revision", "revision": revision})
        return revision

    def describe_region(self, region: int) -> dict[str, Any]:
        """Return the fields of a region, its label and its class in the map, if there is one.

        Raises:
            ConfigError: There is no such region.
        """
        loaded, region = self.ready, self.check_region(region)
        fields = loaded.table.fields
        row = {name: _as_json(fields[name][region].as_py()) for name in fields.column_names}
        _, classes, labels = self.journal.read()
        found, predicted = self._map, None
        if found is not None and (index := int(found.classes[region])) != NO_CLASS:
            # Since that map its class may have been deleted.
            predicted = next((one.id for one in classes if one.id == found.order[index]), None)
        bands = [name[5:] for name in row if name.startswith("mean_")]
        (place,) = self._at(np.array([region]))
        return {
            "id": region,
            "class_name": row.get("class_name"),
            "score": row.get("score"),
            "pixels": row.get("pixels"),
            "area_m2": row.get("area_m2"),
            "bands": {
                band: {"mean": row[f"mean_{band}"], "std": row.get(f"std_{band}")} for band in bands
            },
            "label": labels.get(region),
            "predicted": predicted,
            "probability": None if predicted is None else float(found.probability[region]),
            "bounds": loaded.pixels[region].tolist(),
            "at": place,
            "coordinates": list(self.grid @ tuple(place)),
            "outline": self.outline(region),
        }

    def outline(self, region: int) -> list[list[list[float]]]:
        """Return columns and rows of the rings of a region."""
        shape = apply_affine(self.ready.table.geometry[region], ~self.grid)
        rings = shapely.get_rings(shapely.get_parts(shape))
        return [shapely.get_coordinates(ring).tolist() for ring in rings]

    def _at(self, regions: np.ndarray) -> list[list[float]]:
        """Return column and row of a point in each region."""
        points = shapely.point_on_surface(self.ready.table.geometry[regions])
        return shapely.get_coordinates(apply_affine(points, ~self.grid)).tolist()

    # ------------------------------------------------------------------------------ similar
    def similar(
        self, regions: Sequence[int] | None, polygon: Sequence[Sequence[float]] | None, k: int
    ) -> list[dict[str, Any]]:
        """Return the ``k`` regions most similar to some, or to those in a polygon of the scene.

        Args:
            regions: Ids.
            polygon: Columns and rows of its points.
            k: Number of regions.

        Raises:
            ConfigError: There is no such region or the polygon overlaps none.
            DataError: There is no embedding to search with.
        """
        index = self.ready.index
        if polygon is not None:
            shape = _polygon(polygon)
            found = index.by_polygon(apply_affine(shape, self.grid), k=k)
        elif len(regions) == 1:
            found = index.by_id(self.check_region(regions[0]), k)
        else:
            found = index.by_ids([self.check_region(one) for one in regions], k)
        pairs = zip(found.region_id.tolist(), found.similarity.tolist(), strict=True)
        places = self._at(found.region_id.to_numpy())
        return [
            {"id": one, "similarity": value, "at": place}
            for (one, value), place in zip(pairs, places, strict=True)
        ]

    # ------------------------------------------------------------------------------ map
    def map(self) -> RegionMap:
        """Return the classes of all regions for the present labels.

        Raises:
            DataError: Fewer than two classes have labels, or see
                :func:`hook.regions.classify_regions`.
        """
        loaded = self.ready
        with self._map_lock:
            revision, classes, labels = self.journal.read()
            if self._map is None or self._map.revision != revision:
                names = {one.id: one.name for one in classes}
                self._map = _classify(loaded.classifier, revision, names, labels)
            return self._map

    def areas_m2(self, found: RegionMap) -> dict[int, float | None]:
        """Return the area of each class; None without a CRS that has areas."""
        fields = self.ready.table.fields
        if "area_m2" not in fields.column_names or fields["area_m2"].null_count:
            return dict.fromkeys(found.order)
        areas = pc.cast(fields["area_m2"], "double").to_numpy()
        sums = np.bincount(found.classes, areas, minlength=NO_CLASS + 1)
        return dict(zip(found.order, sums.tolist(), strict=False))

    # ------------------------------------------------------------------------------ files
    def save(self, what: Sequence[str]) -> str:
        """Write ``labels``, ``regions``, ``map`` or a ``model`` trained on it; return the job's id.

        They are those of the labels at the moment of the call.

        Raises:
            ConfigError: Another job is running.
        """
        loaded = self.ready
        _, classes, numbers = self.journal.read()
        names = {one.id: one.name for one in classes}
        labels = {region: names[number] for region, number in numbers.items()}
        given = loaded.table, labels, classes, self.scene, self.nodata, self.folder
        return self.jobs.start(lambda tell: saving.save(what, *given, tell))

    def close(self) -> None:
        """Close the journal and the tiles."""
        if self.loaded is not None:
            self.loaded.tiles.close()
        with self._journal_lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None


def _check_suffix(regions: Path) -> None:
    if regions.suffix.lower() not in FORMATS:
        raise DataError(
            f"{regions}: not a file of regions",
            expected=f"a file that 'hook regions' wrote, {' or '.join(FORMATS)}",
            found=regions.suffix or "no suffix",
            remedy="write the regions of the scene with 'hook regions', or pass --model",
        )


def _check_inside(x: float, y: float, picture: ScenePicture) -> None:
    if not (0 <= x <= picture.width and 0 <= y <= picture.height):
        raise ConfigError(
            "a point beyond the scene",
            expected=f"column 0 to {picture.width}, row 0 to {picture.height}",
            found=f"column {x:.10g}, row {y:.10g}",
            remedy="click the scene",
        )


def _describe_scene(picture: ScenePicture, crs: CRS | None, grid: Affine) -> dict[str, Any]:
    code = None if crs is None else crs.to_string()
    return {
        "width": picture.width,
        "height": picture.height,
        "zmax": picture.zmax,
        "bands": picture.bands,
        "numbers": picture.numbers,
        "rgb": picture.rgb,
        "crs": code if code is None or len(code) < 40 else crs.name,
        "transform": None if grid.is_identity else list(grid[:6]),
        "unit": crs.axis_info[0].unit_name if crs is not None and crs.axis_info else None,
    }


def _classify(
    classifier: RegionClassifier, revision: int, names: Mapping[int, str], labels: Mapping[int, int]
) -> RegionMap:
    chosen, scores = classifier.scores({row: names[one] for row, one in labels.items()})
    order = list(names)
    place = {name: position for position, name in enumerate(names.values())}
    known = np.nan_to_num(scores)
    classes = np.array([place[name] for name in chosen], np.uint8)[known.argmax(axis=1)]
    classes[~classifier.usable] = NO_CLASS
    margin = margins(scores)
    margin[list(labels)] = np.inf
    nearest = np.argpartition(margin, min(MOST_UNCERTAIN, len(margin) - 1))[:MOST_UNCERTAIN]
    nearest = nearest[np.lexsort((nearest, margin[nearest]))]
    uncertain = nearest[np.isfinite(margin[nearest])].tolist()
    return RegionMap(revision, classes, known.max(axis=1), uncertain, order)


def _told(settled: Settled) -> str:
    """Return what became of the points, for people; empty without points."""
    if not settled.points:
        return ""
    text = f"{_counted(settled.points, 'point')} became {_counted(settled.regions, 'label')}."
    if settled.overruled:
        text += f" {settled.overruled} of them did not count: a later point in the same region has "
        text += "another class."
    return text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _as_json(value: Any) -> Any:
    """Return a value of a table, with None for numbers that are not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _polygon(points: Sequence[Sequence[float]]) -> shapely.Polygon:
    if len(points) < 3 or not np.isfinite(points).all():
        raise ConfigError(
            "the polygon to search with",
            expected="three points or more",
            found=len(points),
            remedy="draw an area",
        )
    return shapely.Polygon(points)
