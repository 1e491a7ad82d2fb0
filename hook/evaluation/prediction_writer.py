"""Write predicted masks: GeoTIFF for georeferenced data, else PNG."""

import io
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from mmengine.dist import get_rank
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from hook.errors import DataError
from hook.evaluation.samples import warn_no_prediction, without_class
from hook.geo.raster import GDAL_ERRORS, quiet_open
from hook.geo.side_files import identity
from hook.geo.staging import atomic_write, check_output, save_png, writing
from hook.geo.styles import distinct_palette, map_dtype


@dataclass(frozen=True)  # MMEngine would convert a named tuple to a plain one
class Part:
    """Prediction of one chip, in a temporary file."""

    file: str
    img_path: str
    geo: dict | None


class PredictionWriter:
    """Write class maps, one file per image, or per scene for chips of a scene.

    In distributed tests, every process writes its chips to temporary files, and the main process
    merges them; the folder must be visible to all processes.

    GeoTIFFs have CRS, transform, colour table and nodata (255, or 65535 beyond 255 classes) where
    the input is not valid. Chips with ``geo['source']`` and ``geo['window']`` are merged into one
    file on their scene's grid (``scene_transform``, ``scene_shape``), a PNG if it has no CRS.

    A file that HOOK did not write is kept, with a warning, instead of a new one.

    Args:
        folder: Output folder.
        dataset_meta: ``classes`` and optionally ``palette``.
    """

    def __init__(self, folder: str | os.PathLike, dataset_meta: dict) -> None:
        self.folder = Path(folder)
        self.classes = tuple(dataset_meta["classes"])
        self.palette = dataset_meta.get("palette")
        self.dtype, self.nodata = map_dtype(len(self.classes))
        self._parts = self.folder / ".parts"
        self._count = 0
        if get_rank() == 0:
            # Clean up after an aborted test; other processes may end before theirs are read.
            weakref.finalize(self, shutil.rmtree, self._parts, ignore_errors=True)

    def keep(self, sample: dict, prediction: np.ndarray) -> Part:
        """Write one prediction to a temporary file, for :meth:`finish`.

        Args:
            sample: Data sample as a dictionary, with optional ``img_path``, ``geo``,
                ``valid_mask``, and ``seg_logits``: pixels whose scores are not finite have no
                class, with a warning.
            prediction: (H, W) class indexes.
        """
        self._check_folder(sample)
        mask = prediction.astype(self.dtype)
        if "valid_mask" in sample:
            valid = np.asarray(sample["valid_mask"]["data"].squeeze(0).cpu())
            if valid.shape == mask.shape:
                mask[valid == 0] = self.nodata
        unknown = without_class(sample)
        if unknown is not None and (unknown := unknown.numpy() & (mask != self.nodata)).any():
            mask[unknown] = self.nodata
            warn_no_prediction(str(sample.get("img_path", "an image")), unknown)
        file = self._parts / f"{get_rank()}_{self._count}.npy"
        self._count += 1
        with writing(file, DataError):
            self._parts.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()  # to files, NumPy writes without noticing a full disk
            np.save(content, mask)
            file.write_bytes(content.getvalue())
        return Part(str(file), str(sample.get("img_path", file.stem)), sample.get("geo"))

    def _check_folder(self, sample: dict) -> None:
        """Refuse a folder where the result of an image would replace it or its labels."""
        source = (sample.get("geo") or {}).get("source") or sample.get("img_path")
        inputs = [path for path in (source, sample.get("seg_map_path")) if path is not None]
        stems = {Path(path).stem for path in inputs}
        targets = [self.folder / f"{stem}{end}" for stem in stems for end in (".tif", ".png")]
        if {*map(identity, targets)} & {*map(identity, inputs)} - {None}:
            check_output(targets, inputs, DataError)

    def finish(self, parts: Sequence[Part]) -> int:
        """Write all files, and remove the temporary ones.

        Args:
            parts: Results of :meth:`keep` of all processes, each chip once.

        Returns:
            The number of files written.
        """
        try:
            return self._write_all(parts)
        finally:
            shutil.rmtree(self._parts, ignore_errors=True)
            self._count = 0

    def _write_all(self, parts: Sequence[Part]) -> int:
        scenes: dict[str, list[Part]] = {}
        names: dict[str, str] = {}
        for part in parts:
            if _belongs_to_scene(part):
                scenes.setdefault(str(part.geo["source"]), []).append(part)
        targets = [
            (self._name(source, ".tif" if chips[0].geo["crs"] else ".png", names), chips)
            for source, chips in scenes.items()
        ]
        for part in parts:
            if not _belongs_to_scene(part):
                target = self._name(part.img_path, ".tif" if part.geo else ".png", names)
                targets.append((target, [part]))
        inputs = {*scenes, *(part.img_path for part in parts)}
        check_output((target for target, _ in targets), inputs, DataError)
        for target, chips in targets:
            geo = chips[0].geo
            if _belongs_to_scene(chips[0]):
                self._write_scene(target, chips)
                continue
            mask = np.load(chips[0].file)
            if geo:
                with self._open(target, geo["crs"], _affine(geo), *mask.shape) as sink:
                    sink.write(mask, 1)
            else:
                self._write_png(target, mask)
        return len(targets)

    def _name(self, source: str, suffix: str, names: dict[str, str]) -> Path:
        """Return a unique name: the source's with ``suffix``, after its folders' if needed."""
        path = Path(source)
        stem, parents = path.stem, list(path.parents)
        name, level = stem + suffix, 0
        while names.get(name, source) != source or (name in names and level == 0):
            if level >= len(parents) or not parents[level].name:
                name = f"{stem}_{len(names)}{suffix}"
                break
            stem = f"{parents[level].name}_{stem}"
            name, level = stem + suffix, level + 1
        names[name] = source
        return self.folder / name

    def _open(self, target: Path, crs: str, transform: Affine, height: int, width: int):
        grid = crs, transform, height, width
        return class_map_file(target, *grid, self.classes, self.palette, _is_class_map)

    def _write_scene(self, target: Path, chips: Sequence[Part]) -> None:
        """Merge chips on their scene's grid; nodata outside all chips."""
        first = chips[0].geo
        if "scene_transform" in first:
            transform = Affine(*first["scene_transform"][:6])
            height, width = first["scene_shape"]
        else:
            row, col, *_ = first["window"]
            transform = _affine(first) * Affine.translation(-col, -row)
            height = max(chip.geo["window"][0] + chip.geo["window"][2] for chip in chips)
            width = max(chip.geo["window"][1] + chip.geo["window"][3] for chip in chips)
        # Nodata of overlapping or padded chips must not replace classes of other chips.
        if not first["crs"]:
            merged = np.full((height, width), self.nodata, self.dtype)
            for mask, window in _clipped(chips, height, width):
                np.copyto(merged[window.toslices()], mask, where=mask != self.nodata)
            self._write_png(target, merged)
            return
        with self._open(target, first["crs"], transform, height, width) as sink:
            for mask, window in _clipped(chips, height, width):
                before = sink.read(1, window=window)
                sink.write(np.where(mask == self.nodata, before, mask), 1, window=window)

    def _write_png(self, target: Path, mask: np.ndarray) -> None:
        if mask.dtype != np.uint8:
            raise DataError(
                f"{target}: a PNG mask supports at most 255 classes",
                expected="georeferenced data for more classes",
                found=f"{len(self.classes)} classes",
                remedy="use georeferenced images, to write GeoTIFFs, or merge classes",
            )
        colours = np.zeros((256, 3), np.uint8)
        for index, colour in colour_table(self.classes, self.palette).items():
            colours[index] = colour[:3]
        save_png(target, mask, colours, ours=lambda path: _has_colours(path, colours))


@contextmanager
def class_map_file(
    target: Path,
    crs: str | None,
    transform: Affine,
    height: int,
    width: int,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    ours: Callable[[Path], bool] | None = None,
) -> Iterator[DatasetWriter]:
    """Create a GeoTIFF of class indexes, atomically.

    Args:
        target: File to write.
        crs: CRS as WKT; None without a georeference.
        transform: Affine transform of the pixels.
        height: Rows.
        width: Columns.
        classes: Class names.
        palette: One (r, g, b) per class; None for default colours.
        ours: Whether HOOK wrote an existing file, see :meth:`hook.geo.staging.StagedFiles.add`.

    Yields:
        A rasterio dataset open for reading and writing, filled with nodata.
    """
    dtype, nodata = map_dtype(len(classes))
    profile = {
        "driver": "GTiff",
        "dtype": dtype,
        "count": 1,
        "height": height,
        "width": width,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
        "compress": "deflate",
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "bigtiff": "if_safer",
    }
    with writing(target), atomic_write(target, ours=ours) as partial:
        # Reopened, so that blocks not written yet read as nodata.
        with quiet_open(partial, "w", **profile) as sink:
            sink.write_colormap(1, colour_table(classes, palette))
            sink.set_band_description(1, "class")
            sink.update_tags(classes=",".join(classes))
        with quiet_open(partial, "r+", driver="GTiff") as sink:
            yield sink
        with quiet_open(partial) as source:
            # A full disk may go unnoticed until a block is read.
            for _, window in source.block_windows(1):
                source.read(1, window=window)


def colour_table(
    classes: Sequence[str], palette: Sequence[Sequence[int]] | None = None
) -> dict[int, tuple[int, int, int, int]]:
    """Return GDAL's colour table of a class map: (r, g, b, 255) per class, nodata transparent."""
    palette = palette or distinct_palette(len(classes))
    table = {i: (*map(int, colour), 255) for i, colour in enumerate(palette)}
    table[map_dtype(len(classes))[1]] = (0, 0, 0, 0)
    return table


def _is_class_map(path: Path) -> bool:
    """Return whether a file was written by :func:`class_map_file`."""
    with suppress(*GDAL_ERRORS), quiet_open(path) as source:
        return "classes" in source.tags() and source.descriptions == ("class",)
    return False


def _has_colours(path: Path, colours: np.ndarray) -> bool:
    """Return whether a file has a colour table of (256, 3) colours."""
    with suppress(*GDAL_ERRORS, ValueError), quiet_open(path) as source:
        found = source.colormap(1)
        return found.keys() == set(range(256)) and all(
            found[index][:3] == tuple(colour) for index, colour in enumerate(colours.tolist())
        )
    return False


def _clipped(chips: Sequence[Part], height: int, width: int) -> Iterator[tuple[np.ndarray, Window]]:
    """Yield the masks of chips, clipped to their scene, and their windows."""
    for chip in sorted(chips, key=lambda part: part.geo["window"][:2]):
        row, col, *_ = chip.geo["window"]
        top, left = max(0, -row), max(0, -col)
        mask = np.load(chip.file)[top : height - row, left : width - col]
        if mask.size:
            yield mask, Window(col + left, row + top, mask.shape[1], mask.shape[0])


def _belongs_to_scene(part: Part) -> bool:
    geo = part.geo or {}
    return bool(geo.get("source")) and geo.get("window") is not None


def _affine(geo: dict) -> Affine:
    return Affine(*geo["transform"][:6])
