"""Predicted masks as files: GeoTIFF where the data are georeferenced, PNG elsewhere."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from affine import Affine
from mmengine.dist import get_rank
from PIL import Image
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from hook.errors import DataError


class Part(NamedTuple):
    """One chip's prediction, waiting in a temporary file."""

    file: str
    img_path: str
    geo: dict | None


class PredictionWriter:
    """Writes class maps, one file per image, or per scene where chips were cut from one.

    Every process of a distributed test keeps its chips under a temporary name; the main process
    then writes each file once. The folder must be visible to all of them.

    GeoTIFFs carry CRS, transform, colour table and nodata (255, or 65535 beyond 255 classes) where
    the input has no valid pixel. Chips that name their scene (``geo['source']``) and place
    (``geo['window']``) are put together to one GeoTIFF on that scene's grid.

    Args:
        folder: Output folder.
        dataset_meta: ``classes`` and, for colours, ``palette``.
    """

    def __init__(self, folder: str | os.PathLike, dataset_meta: dict) -> None:
        self.folder = Path(folder)
        self.classes = tuple(dataset_meta["classes"])
        self.palette = dataset_meta.get("palette")
        self.dtype = np.uint8 if len(self.classes) <= 255 else np.uint16
        self.nodata = int(np.iinfo(self.dtype).max)
        self._parts = self.folder / ".parts"
        self._count = 0

    def keep(self, sample: dict, prediction: np.ndarray) -> Part:
        """Set one prediction aside.

        Args:
            sample: Data sample as a dictionary, with ``img_path`` and, where there are such,
                ``geo`` and ``valid_mask``.
            prediction: (H, W) class indexes.

        Returns:
            What :meth:`finish` needs to know about it.
        """
        mask = prediction.astype(self.dtype)
        if "valid_mask" in sample:
            valid = np.asarray(sample["valid_mask"]["data"].squeeze(0).cpu())
            if valid.shape == mask.shape:
                mask[valid == 0] = self.nodata
        self._parts.mkdir(parents=True, exist_ok=True)
        file = self._parts / f"{get_rank()}_{self._count}.npy"
        self._count += 1
        np.save(file, mask)
        return Part(str(file), str(sample.get("img_path", file.stem)), sample.get("geo"))

    def finish(self, parts: Sequence[Part]) -> int:
        """Write all files and remove the temporary ones.

        Args:
            parts: What :meth:`keep` returned in all processes, each chip once.

        Returns:
            The number of files written.
        """
        scenes: dict[str, list[Part]] = {}
        written = 0
        names: dict[str, str] = {}
        for part in parts:
            if part.geo and part.geo.get("source") and part.geo.get("window") is not None:
                scenes.setdefault(str(part.geo["source"]), []).append(part)
        for source, chips in scenes.items():
            self._write_scene(self._name(source, ".tif", names), source, chips)
            written += 1
        for part in parts:
            if part.geo and str(part.geo.get("source")) in scenes:
                continue
            mask = np.load(part.file)
            if part.geo:
                target = self._name(part.img_path, ".tif", names)
                with self._open(target, part.geo["crs"], _affine(part.geo), *mask.shape) as sink:
                    sink.write(mask, 1)
            else:
                self._write_png(self._name(part.img_path, ".png", names), mask)
            written += 1
        shutil.rmtree(self._parts, ignore_errors=True)
        self._count = 0
        return written

    def _name(self, source: str, suffix: str, taken: dict[str, str]) -> Path:
        """Return the source's name with ``suffix``, with its folder's name where that is taken."""
        path = Path(source)
        stem, parents = path.stem, list(path.parents)
        name, level = stem + suffix, 0
        while taken.get(name, source) != source or (name in taken and level == 0):
            if level >= len(parents) or not parents[level].name:
                name = f"{stem}_{len(taken)}{suffix}"
                break
            stem = f"{parents[level].name}_{stem}"
            name, level = stem + suffix, level + 1
        taken[name] = source
        return self.folder / name

    def _open(self, target: Path, crs: str, transform: Affine, height: int, width: int):
        return _AtomicRaster(
            target,
            {
                "driver": "GTiff",
                "dtype": np.dtype(self.dtype).name,
                "count": 1,
                "height": height,
                "width": width,
                "crs": crs,
                "transform": transform,
                "nodata": self.nodata,
                "compress": "deflate",
                "tiled": True,
                "blockxsize": 256,
                "blockysize": 256,
                "bigtiff": "if_safer",
            },
            self._colormap(),
            self.classes,
        )

    def _colormap(self) -> dict[int, tuple[int, int, int, int]]:
        palette = self.palette or default_palette(len(self.classes))
        table = {i: (*map(int, colour), 255) for i, colour in enumerate(palette)}
        table[self.nodata] = (0, 0, 0, 0)
        return table

    def _write_scene(self, target: Path, source: str, chips: Sequence[Part]) -> None:
        """Put chips together on their scene's grid; where no chip lies stays nodata."""
        first = chips[0].geo
        row, col, *_ = first["window"]
        transform = _affine(first) * Affine.translation(-col, -row)
        height = max(chip.geo["window"][0] + chip.geo["window"][2] for chip in chips)
        width = max(chip.geo["window"][1] + chip.geo["window"][3] for chip in chips)
        try:
            with rasterio.open(source) as scene:
                if scene.transform.almost_equals(transform, 1e-6 * abs(transform.a)):
                    height, width = scene.height, scene.width
        except RasterioIOError:
            pass  # no single file (an index, an archive): the windows give the size
        with self._open(target, first["crs"], transform, height, width) as sink:
            for chip in sorted(chips, key=lambda part: part.geo["window"][:2]):
                row, col, *_ = chip.geo["window"]
                mask = np.load(chip.file)
                top, left = max(0, -row), max(0, -col)
                mask = mask[top : height - row, left : width - col]
                if not mask.size:
                    continue
                window = Window(col + left, row + top, mask.shape[1], mask.shape[0])
                before = sink.read(1, window=window)
                # Overlapping or padded chips must not erase what another chip knows.
                sink.write(np.where(mask == self.nodata, before, mask), 1, window=window)

    def _write_png(self, target: Path, mask: np.ndarray) -> None:
        if mask.dtype != np.uint8:
            raise DataError(
                f"{target}: a PNG mask holds at most 255 classes",
                expected="georeferenced data for more classes",
                found=f"{len(self.classes)} classes",
            )
        image = Image.fromarray(mask, mode="P")
        colours = np.zeros((256, 3), np.uint8)
        for index, colour in self._colormap().items():
            colours[index] = colour[:3]
        image.putpalette(colours.tobytes())
        partial = target.with_name(f".{target.name}.partial")
        image.save(partial, format="PNG")
        os.replace(partial, target)


class _AtomicRaster:
    """A GeoTIFF that gets its final name when it is complete."""

    def __init__(self, target: Path, profile: dict, colormap: dict, classes: Sequence[str]) -> None:
        self._target, self._profile = target, profile
        self._colormap, self._classes = colormap, classes
        self._partial = target.with_name(f".{target.name}.partial")

    def __enter__(self):
        self._target.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(self._partial, "w", **self._profile) as sink:
            sink.write_colormap(1, self._colormap)
            sink.set_band_description(1, "class")
            sink.update_tags(classes=",".join(self._classes))
        self._sink = rasterio.open(self._partial, "r+")
        return self._sink

    def __exit__(self, kind, *_):
        self._sink.close()
        if kind is None:
            os.replace(self._partial, self._target)
        else:
            self._partial.unlink(missing_ok=True)


def _affine(geo: dict) -> Affine:
    return Affine(*geo["transform"][:6])


def default_palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Return distinct colours for classes whose dataset names none, as matplotlib's tab20."""
    from matplotlib import colormaps

    table = colormaps["tab20"].colors
    colours = [tuple(round(255 * v) for v in table[i % len(table)]) for i in range(num_classes)]
    return colours
