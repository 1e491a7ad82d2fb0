"""A session: a scene, its regions, and the labels that a person gives them."""

import math
import shutil
import threading
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

from hook.errors import ConfigError, DataError, HookError
from hook.explore import saving
from hook.explore.id_tiles import IdTiles, pixel_bounds
from hook.explore.jobs import Jobs, Tell, run_worker
from hook.explore.journal import FILE, LabelJournal
from hook.explore.origin import check_regions, digest_of_file, digest_of_scene
from hook.explore.picture import ScenePicture
from hook.geo.staging import StagedFiles, writing
from hook.geo.vector import apply_affine, driver_of, reading_vectors
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
    journal: LabelJournal


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
        self._map: RegionMap | None = None
        self._map_lock, self.jobs = threading.Lock(), Jobs(publish)
        with SceneReader(scene, nodata=nodata) as reader:  # warns of a missing georeference
            self.grid = reader.transform
            self.crs = reader.crs and CRS.from_user_input(reader.crs)
        self.picture = ScenePicture(scene, nodata, self._report_picture)

    def _report_picture(self, share: float) -> None:
        self.publish({"type": "picture", "done": round(share, 3)})

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
        """
        self.report("computing")

        def work() -> None:
            try:
                run_worker(
                    lambda message, done: self.report("computing", done, message),
                    job="extract",
                    scene=self.scene,
                    output=str(path),
                    **job,
                )
                self.load(path, facts)
            except HookError as error:
                self.report("failed", message=str(error))

        threading.Thread(target=work, daemon=True).start()

    @property
    def stored(self) -> Path | None:
        """The regions in the folder, if there are any."""
        paths = [self.folder / f"regions{suffix}" for suffix in FORMATS]
        return next((path for path in paths if path.is_file()), None)

    def adopt(self, regions: Path) -> Path:
        """Copy a file of regions into the folder, unless it is there; return the copy.

        Raises:
            DataError: The file cannot be read, or the folder has other regions.
            SceneError: It cannot be copied.
        """
        driver_of(regions, FORMATS, what="format of regions")
        with reading_vectors(regions, "regions", "a file that 'hook regions' wrote"):
            digest = digest_of_file(regions)
        if (path := self.stored) is not None:
            if digest != (found := digest_of_file(path)):
                raise DataError(
                    f"{self.folder}: a session of other regions",
                    expected=f"{path.name} of digest {found[:16]}",
                    found=f"{regions} of digest {digest[:16]}",
                    remedy="omit --regions to go on, or begin another session (--out)",
                )
            return path
        path = self.folder / f"regions{regions.suffix.lower()}"
        with StagedFiles(inputs=[regions]) as files, writing(path):
            shutil.copyfile(regions, files.add(path))
            files.commit()
        return path

    def load(self, path: Path, facts: Mapping[str, str]) -> None:
        """Read the regions and open the journal of their labels.

        Args:
            path: The regions.
            facts: What to compare with those the session was begun with, see
                :class:`LabelJournal`.

        Raises:
            DataError: The regions are not of this scene, lack embeddings, or are not those of the
                labels in the folder.
            SceneError: The folder cannot be written to.
        """
        facts = {
            "scene": digest_of_scene(self.scene),
            "regions": digest_of_file(path),
            **facts,
        }
        table = Regions.read(path)
        pixels = pixel_bounds(table.geometry, self.grid)
        check_regions(table, pixels, self.scene, self.crs, self.grid, self.picture)
        pa.default_memory_pool().release_unused()  # as much as the regions themselves
        journal = LabelJournal(self.folder / FILE, facts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of regions without embedding
            index = RegionIndex(table, approximate_above=None)
        tiles = IdTiles(
            self.folder,
            facts["regions"],
            table.tree,
            self.grid,
            self.picture,
            lambda share: self.report("computing", share, "drawing regions"),
        )
        self.loaded = LoadedRegions(table, pixels, tiles, index, RegionClassifier(table), journal)
        self.report("ready", 1.0, count=len(table))

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
        picture = self.picture
        revision, classes, labels = self.labels()
        has_crs = self.crs is not None
        code = self.crs.to_string() if has_crs else None
        return {
            "title": Path(self.scene).name,
            "revision": revision,
            "scene": {
                "width": picture.width,
                "height": picture.height,
                "zmax": picture.zmax,
                "bands": picture.bands,
                "numbers": picture.numbers,
                "rgb": picture.rgb,
                "crs": code if code is None or len(code) < 40 else self.crs.name,
                "transform": None if self.grid.is_identity else list(self.grid[:6]),
                "unit": self.crs.axis_info[0].unit_name if has_crs and self.crs.axis_info else None,
            },
            "regions": self.state,
            "classes": [one._asdict() for one in classes],
            "labels": labels,
            "places": dict(zip(labels, self._at(np.array(list(labels), int)), strict=True))
            if labels
            else {},
        }

    def labels(self) -> tuple[int, list, dict[int, int]]:
        """Return the revision, the classes and the labels; nothing before there are regions."""
        return (0, [], {}) if self.loaded is None else self.loaded.journal.read()

    def changed(self) -> int:
        """Tell all pages of a change of classes or labels; return the revision."""
        revision = self.ready.journal.revision
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
        _, classes, labels = loaded.journal.read()
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
            "outline": self._outline(region),
        }

    def _outline(self, region: int) -> list[list[list[float]]]:
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
            revision, classes, labels = loaded.journal.read()
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
        """
        loaded = self.ready
        _, classes, numbers = loaded.journal.read()
        names = {one.id: one.name for one in classes}
        labels = {region: names[number] for region, number in numbers.items()}

        def work(tell: Tell) -> list[str]:
            given, files = (loaded.table, labels), []
            steps = {
                "labels": lambda _: saving.save_labels(*given, self.folder),
                "regions": lambda _: saving.save_regions(*given, self.folder),
                "map": lambda _: saving.save_map(
                    *given, classes, self.scene, self.nodata, self.folder
                ),
                "model": self._train,
            }
            # A model is trained on the map.
            chosen = [name for name in steps if name in what or (name == "map" and "model" in what)]
            for number, name in enumerate(chosen):

                def tell_all(message: str, done: float, number: int = number) -> None:
                    tell(message, (number + done) / len(chosen))

                tell_all(name, 0.0)
                files += steps[name](tell_all)
            return [path.relative_to(self.folder).as_posix() for path in files]

        return self.jobs.start(work)

    def _train(self, tell: Tell) -> list[Path]:
        folder = self.folder / saving.MODEL
        job = dict(
            job="train",
            scene=self.scene,
            labels=str(self.folder / saving.MAP),
            folder=str(folder),
            options={},
        )
        return [Path(name) for name in run_worker(tell, **job)]

    def close(self) -> None:
        """Close the journal and the tiles."""
        if self.loaded is not None:
            self.loaded.tiles.close()
            self.loaded.journal.close()


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
