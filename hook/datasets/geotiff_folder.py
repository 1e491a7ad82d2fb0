"""MMEngine dataset of folders of GeoTIFFs and masks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from hook.datasets.chips import ChipReader
from hook.datasets.files import IGNORE_INDEX
from hook.datasets.grids import clip, cover, inside_area
from hook.datasets.labels import LabelOptions, Labels
from hook.datasets.samplers import ChipPlacer, ChipQuery, chips_per_epoch
from hook.datasets.scene_files import Scene, SceneOptions, check_choice
from hook.errors import ConfigError
from hook.geo.raster import parse_nodata
from hook.registry import DATASETS


@DATASETS.register_module()
class GeoTIFFFolder(BaseDataset):
    """Folders of GeoTIFFs with raster or vector masks for semantic segmentation.

    Pictures (PNG, JPEG) without a georeference are read too, in a folder without GeoTIFFs or by
    ``image_glob``; their masks are rasters of the same name and size, PNG for example.

    Chips are read in one of two modes:

    - ``mode='cover'``: a deterministic grid of adjacent chips. Every pixel is in exactly one chip;
      chips at the right and bottom edges are padded, and so are small scenes.
    - ``mode='random'``: chips at random positions, weighted by area, inside the scene if it is
      large enough. With :class:`hook.datasets.RandomGeoSampler` the draws do not depend on the
      number of workers and ranks; any other sampler draws each item independently.

    A chip never spans two files. If image and mask share a grid, values are returned unchanged.
    Files with several CRSs or resolutions need ``grid``: images are then resampled bilinearly,
    labels by nearest neighbour, with a warning in the log.

    Each sample holds ``img`` (H, W, C) in native values and band order of ``metainfo['bands']``,
    ``valid`` (H, W) uint8, ``gt_seg_map`` (H, W) if there are masks (ignore index without label,
    without image data, and in padding), and ``geo``: ``crs`` (WKT, or None), ``transform``
    (a, b, c, d, e, f) and size of the chip, ``source``, ``window`` (row, col, height, width of the
    chip in the scene; it may extend beyond the scene), ``scene_transform`` and ``scene_shape``.

    Args:
        images: Folder(s), searched recursively, or file(s) with the images.
        masks: Folder(s) or file(s) with the masks: single-band rasters, or vector files, which are
            rasterised on the image's grid. None for images without labels.
        data_root: Folder for relative paths.
        metainfo: Dataset meta; ``classes`` is required with masks. ``nodata`` replaces the nodata
            value of the images; their masks and alpha bands are always used, except for an alpha
            band among ``bands``, which is data.
        pipeline: Transforms.
        chip_size: Side of a chip in pixels, or (height, width).
        mode: ``'random'`` or ``'cover'``; default ``'cover'`` in test mode, else ``'random'``.
        ignore_index: Label of ignored pixels; default ``metainfo['ignore_index']``, else 255.
        length: Chips per epoch in random mode; default the number of chips that cover the data.
        test_mode: As in :class:`mmengine.dataset.BaseDataset`.
        **options: See below.

    Keyword Args:
        split: Part of the data: a list file or a list of file names (with or without folder and
            suffix); ``dict(attribute=..., value=...)`` for images with that value (or one of
            several) in a GeoTIFF tag; the same with ``file=``, a CSV with image names in the first
            other column, or a vector file: its polygons with that value are the area of the split;
            the same with a CSV and ``size=``: windows of that side whose first column and row in
            the image are the CSV's ``x`` and ``y``, a window per row;
            ``dict(bounds=(minx, miny, maxx, maxy), crs=...)`` for the pixels in a box.
        grid: None if all files have one CRS and resolution; ``dict(crs=..., res=...)`` for the grid
            to resample to; ``'image'`` to keep each image's grid and resample masks only.
        image_glob: Pattern(s) for image names in folders.
        mask_glob: Pattern(s) for mask names in folders.
        pair_by: ``'name'``: mask and image have the same name, except for endings such as
            ``_image`` and ``_mask``; ``'location'``: all masks that overlap the image; ``'auto'``:
            by name if the names are unique and match.
        missing_masks: How to treat images without a mask: ``'error'``, ``'skip'``, or
            ``'background'``.
        label_map: Class (index, name, or ``'ignore'``) for each value in the masks or in
            ``label_field``. Other values are errors.
        label_field: Attribute of vector files that holds the class (index or name).
        label: Class of all features without ``label_field``.
        background: Class outside all features, or ``'ignore'``.
        mask_layer: Layer of the vector files, which may also be named ``FILE|layername=NAME``;
            default the first of polygons, with a warning if there are several.
        all_touched: Burn all pixels touched by a feature, not only pixels with their centre inside.
        mask_nodata: ``'tag'`` to ignore pixels with the nodata value of the masks, a number to
            ignore instead, or None to treat the nodata value as a label.
        indices: Use only these chips of the cover, or the first ``indices`` chips.
        lazy_init: As in :class:`mmengine.dataset.BaseDataset`.
        serialize_data: As in :class:`mmengine.dataset.BaseDataset`.
        max_refetch: As in :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ConfigError: If options contradict each other or name an unknown class, band or attribute.
        DataError: If files are missing, unreadable, inconsistent with the config or disjoint.
    """

    def __init__(
        self,
        images: str | Path | Sequence[str | Path],
        masks: str | Path | Sequence[str | Path] | None = None,
        data_root: str | None = "",
        metainfo: Mapping[str, Any] | None = None,
        pipeline: Sequence[dict | Callable] = (),
        chip_size: int | Sequence[int] = 256,
        mode: str | None = None,
        ignore_index: int | None = None,
        length: int | None = None,
        test_mode: bool = False,
        **options: Any,
    ) -> None:
        def take(kind: type) -> dict[str, Any]:
            names = {field.name for field in fields(kind)} & set(options)
            return {name: options.pop(name) for name in names}

        meta = dict(metainfo or {})
        if "classes" in meta:
            meta["classes"] = tuple(meta["classes"])
        if ignore_index is None:
            ignore_index = meta.get("ignore_index", IGNORE_INDEX)
        self.ignore_index = int(ignore_index)
        meta.setdefault("ignore_index", self.ignore_index)
        self.nodata = parse_nodata(meta.get("nodata"))
        self.options = SceneOptions(images, masks, data_root or "", **take(SceneOptions))
        self.chip_size = _checked_chip_size(chip_size)
        self.mode = mode or ("cover" if test_mode else "random")
        check_choice("mode", self.mode, ("random", "cover"))
        if length is not None and int(length) < 1:
            raise ConfigError(
                f"GeoTIFFFolder: length={length}",
                expected="at least 1 chip per epoch",
                found=length,
                remedy="correct length, or omit it",
            )
        self.length = None if length is None else int(length)
        label_options = LabelOptions(**take(LabelOptions))
        self.labels: Labels | None = None
        if masks is not None:
            self.labels = Labels(label_options, meta.get("classes", ()), self.ignore_index)
        self.reader = ChipReader(self.chip_size, meta)
        self.scenes: list[Scene] = []
        # (row, col, height, width) per scene to draw random chips from: the bounding box of the
        # raster masks if they cover only a part of the image.
        self.sampling_windows: list[tuple[int, int, int, int]] = []
        self.torchgeo_dataset: Any = None
        super().__init__(
            metainfo=meta,
            data_root=data_root or "",
            data_prefix={},
            pipeline=list(pipeline),
            test_mode=test_mode,
            **options,
        )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict:
        # MMEngine's own method treats any string in the meta as a file to load.
        return {**cls.METAINFO, **(metainfo or {})}

    @property
    def layers(self) -> Sequence[str | int] | None:
        """Bands of the files that are read; see :func:`hook.geo.bands.resolve_bands`."""
        return self._metainfo.get("bands")

    def load_data_list(self) -> list[dict]:
        """Find the scenes and their masks, and list the chips of the cover."""
        from hook.datasets.scene_index import SceneIndex  # imports TorchGeo, about 1 s

        index = SceneIndex(self.options, self.layers, self.labels)
        self.scenes = [self._place(scene) for scene in index.scenes]
        self.torchgeo_dataset = index.torchgeo_dataset
        self.sampling_windows = [_labelled_window(scene) for scene in self.scenes]
        if self.length is None:
            self.length = chips_per_epoch(self.sampling_windows, self.chip_size)
        return [
            self._chip_info(number, row, col)
            for number, scene in enumerate(self.scenes)
            for row, col in cover(scene.window, self.chip_size)
        ]

    def _chip_info(self, scene: int, row: int, col: int) -> dict:
        info = {"scene": scene, "row": row, "col": col, "img_path": self.scenes[scene].path}
        if self.scenes[scene].masks:
            info["seg_map_path"] = self.scenes[scene].masks[0].path
        return info

    def random_query(self) -> ChipQuery:
        """Draw a random chip, weighted by area, with PyTorch's global random state."""
        areas = torch.tensor([height * width for _, _, height, width in self.sampling_windows])
        scene = int(torch.multinomial(areas.double(), 1))
        return ChipQuery(scene, *ChipPlacer(self.sampling_windows[scene], self.chip_size).draw())

    def __len__(self) -> int:
        """Return the number of chips per epoch in random mode, else of the cover."""
        chips = super().__len__()
        return self.length if self.mode == "random" else chips

    def get_data_info(self, idx: int | ChipQuery) -> dict:
        """Return ``scene``, ``row``, ``col``, ``img_path``, ``seg_map_path`` and ``sample_idx``.

        Args:
            idx: Index of a chip (in random mode: draws a random chip), or a query of
                :class:`hook.datasets.RandomGeoSampler`.
        """
        if not self._fully_initialized:
            self.full_init()
        if not isinstance(idx, tuple) and self.mode == "cover":
            return super().get_data_info(idx)
        if not isinstance(idx, tuple) and not -len(self) <= idx < len(self):
            raise IndexError(idx)  # ends a plain loop over the dataset
        query = ChipQuery(*idx) if isinstance(idx, tuple) else self.random_query()
        info = self._chip_info(*query)
        info["sample_idx"] = query.scene if isinstance(idx, tuple) else int(idx)
        return info

    def prepare_data(self, idx: int | ChipQuery) -> Any:
        """Read a chip and run the pipeline on it."""
        return self.pipeline(self.load_sample(idx))

    def load_sample(self, idx: int | ChipQuery) -> dict[str, Any]:
        """Read a chip as the sample dictionary documented for the class.

        Raises:
            DataError: If a file cannot be read or contains labels outside the range.
        """
        results = self.get_data_info(idx)
        scene = self.scenes[results.pop("scene")]
        row, col = results.pop("row"), results.pop("col")
        height, width = self.chip_size
        image, known = self.reader.read(scene, scene, row, col, self.nodata)
        inside = np.zeros((height, width), dtype=bool)
        inside[clip(row, col, (height, width), scene.window)[0]] = True
        if scene.area is not None:
            inside &= inside_area(scene.grid, scene.area, row, col, (height, width))
        valid = self._valid(known & inside)
        # Pixels of other splits must not reach the model through its receptive field.
        image[:, ~inside] = 0
        results.update(
            img=np.ascontiguousarray(image.transpose(1, 2, 0)),
            valid=valid.astype(np.uint8),
            seg_fields=["valid"],
            img_shape=(height, width),
            ori_shape=(height, width),
            reduce_zero_label=False,
            dataset_meta=self._metainfo,
            geo={
                "crs": None if scene.grid.is_picture else scene.grid.crs,
                "transform": tuple(scene.grid.window_affine(row, col))[:6],
                "width": width,
                "height": height,
                "source": scene.path,
                "window": (row, col, height, width),
                "scene_transform": scene.grid.transform,
                "scene_shape": (scene.grid.height, scene.grid.width),
            },
        )
        if self.labels is not None:
            labels = self._read_labels(scene, row, col)
            labels[~valid.any(axis=2) if valid.ndim > 2 else ~valid] = self.ignore_index
            small = len(self.labels.classes) <= 255 and 0 <= self.ignore_index <= 255
            results["gt_seg_map"] = labels.astype(np.uint8 if small else np.int32)
            results["seg_fields"] = ["gt_seg_map", "valid"]
        return results

    def _place(self, scene: Scene) -> Scene:
        """Return a scene with the window from which chips are cut."""
        return scene

    def _valid(self, known: np.ndarray) -> np.ndarray:
        """Return the (H, W) pixels of which all bands (C, H, W) are known."""
        return known.all(axis=0)

    def _read_labels(self, scene: Scene, row: int, col: int) -> np.ndarray:
        """Read (H, W) labels; the ignore index where no mask has data."""
        if not scene.masks or scene.masks[0].is_vector:
            return self.labels.rasterise(scene.masks, scene.grid, row, col, self.chip_size)
        labels = np.full(self.chip_size, self.ignore_index, dtype=np.int64)
        known = np.zeros(self.chip_size, dtype=bool)
        for mask in scene.masks:
            values, valid = self.reader.read(mask, scene, row, col, self.labels.nodata)
            new = valid[0] & ~known
            labels[new] = self.labels.decode(values[0], valid[0], mask.path)[new]
            known |= new
        return labels


def _checked_chip_size(chip_size: int | Sequence[int]) -> tuple[int, int]:
    size = (chip_size, chip_size) if isinstance(chip_size, int) else tuple(chip_size)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ConfigError(
            f"GeoTIFFFolder: chip_size={chip_size!r}",
            expected="a positive integer in pixels, or (height, width)",
            found=chip_size,
            remedy="correct chip_size",
        )
    return size


def _labelled_window(scene: Scene) -> tuple[int, int, int, int]:
    if not scene.masks or scene.masks[0].is_vector:
        return scene.window
    top, left, bottom, right = math.inf, math.inf, -math.inf, -math.inf
    for mask in scene.masks:
        if mask.offset is None:
            return scene.window
        row, col = mask.offset
        top, left = min(top, row), min(left, col)
        bottom, right = max(bottom, row + mask.own.height), max(right, col + mask.own.width)
    row, col, height, width = scene.window
    top, left = max(top, row), max(left, col)
    bottom, right = min(bottom, row + height), min(right, col + width)
    if bottom <= top or right <= left:
        return scene.window
    return top, left, bottom - top, right - left
