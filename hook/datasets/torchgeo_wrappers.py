"""MMEngine wrappers of TorchGeo's non-geo classification and segmentation datasets.

A config of :class:`TorchGeoClassification` or :class:`TorchGeoSegmentation` names a class of
:mod:`torchgeo.datasets` or :mod:`hook.datasets.named` and its arguments; samples are dictionaries
for the pipelines of this project.
"""

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from hook.datasets.files import IGNORE_INDEX
from hook.datasets.splits import match_names, read_split_list
from hook.datasets.torchgeo_sources import (
    band_names,
    build_source,
    check_tags,
    class_colours,
    class_names,
    layout_of,
    normalise_name,
    sample_files,
    select_bands,
)
from hook.errors import ConfigError, DataError
from hook.geo.raster import parse_nodata, valid_values
from hook.geo.styles import distinct_palette
from hook.registry import DATASETS


class TorchGeoDataset(BaseDataset, abc.ABC):
    """Base class of the classification and segmentation wrappers.

    Args:
        dataset: Class name, see :func:`hook.datasets.named.find_dataset_class`.
        dataset_args: Arguments of that class. ``root`` defaults to ``data_root``, ``download`` to
            False.
        split_list: Optional list file (:func:`hook.datasets.splits.read_split_list`) that selects
            samples, relative to the working directory or ``data_root``. The first existing file of
            several is used. Its name is stored as ``metainfo['split']``.
        data_root: Folder of the data.
        metainfo: Dataset meta. ``classes``, ``palette`` and ``bands`` default to the values of the
            TorchGeo class. ``bands`` selects and orders bands by name or 1-based index; ``nodata``
            marks pixels as invalid.
        dtype: Integer type of the stored pixels, such as ``'uint8'``, to cast TorchGeo's float32
            images back to; an error if that would change values.
        ignore_index: Label of ignored pixels.
        pipeline: Transforms.
        **options: Of :class:`mmengine.dataset.BaseDataset`: ``indices``, ``test_mode``,
            ``lazy_init``, ``serialize_data``, ``max_refetch``.

    Raises:
        ConfigError: If the class, one of its arguments, or a class name is unknown.
        DataError: If the data are missing or do not match the config.
    """

    def __init__(
        self,
        dataset: str,
        dataset_args: Mapping[str, Any] | None = None,
        split_list: str | Path | Sequence[str | Path] | None = None,
        data_root: str | None = "",
        metainfo: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        ignore_index: int | None = None,
        pipeline: Sequence[dict | Callable] = (),
        **options: Any,
    ) -> None:
        from hook.datasets.named import find_dataset_class  # imports TorchGeo, about 1 s

        self.dataset_name = dataset
        meta = dict(metainfo or {})
        if ignore_index is None:
            ignore_index = meta.get("ignore_index", IGNORE_INDEX)
        self.ignore_index = int(ignore_index)
        self.dtype = self._checked_dtype(dtype)
        self.source = build_source(find_dataset_class(dataset), dataset_args or {}, data_root or "")
        self.files = sample_files(self.source)
        check_tags(self.files or (), meta)
        self.split_list = self._find_split_list(split_list, data_root or "")
        meta = self._complete_metainfo(meta)
        super().__init__(
            metainfo=meta,
            data_root=data_root,
            data_prefix={},
            pipeline=list(pipeline),
            **options,
        )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        # MMEngine's own method treats any string in the meta (such as a split) as a file to load.
        return copy.deepcopy(dict(metainfo or {}))

    # Building -----------------------------------------------------------------------------------

    @staticmethod
    def _checked_dtype(dtype: str | None) -> np.dtype | None:
        if dtype is None:
            return None
        try:
            return np.dtype(dtype)
        except TypeError as error:
            raise ConfigError(
                f"dtype={dtype!r} is unknown",
                expected="uint8, uint16, int16 or float32",
                found=dtype,
                remedy="set the type of the stored pixels",
            ) from error

    def _find_split_list(
        self, split_list: str | Path | Sequence[str | Path] | None, data_root: str
    ) -> Path | None:
        if split_list is None:
            return None
        candidates = [split_list] if isinstance(split_list, str | Path) else list(split_list)
        for name in candidates:
            for path in (Path(name), Path(data_root) / name):
                if path.is_file():
                    return path
        _, script = layout_of(type(self.source))
        raise DataError(
            f"split list {' or '.join(map(str, candidates))} does not exist",
            expected=f"a list file at this path, or at this path below {data_root or '.'}",
            found="no file",
            remedy="copy the authors' list there, or create one with "
            f"tools/dataset_tools/make_splits.py{script}",
        )

    def _complete_metainfo(self, meta: dict[str, Any]) -> dict[str, Any]:
        known = self._known_classes()
        if meta.get("classes") is None:
            if known is None:
                raise ConfigError(
                    f"{self.dataset_name} does not name its classes",
                    expected="metainfo=dict(classes=(...))",
                    found="no classes",
                    remedy="name them in the order of their labels",
                )
            meta["classes"] = known
        meta["classes"] = tuple(meta["classes"])
        if len(set(meta["classes"])) != len(meta["classes"]):
            raise ConfigError(
                f"{self.dataset_name}: metainfo names a class twice",
                expected="each name once",
                found=", ".join(meta["classes"]),
                remedy="correct metainfo['classes']",
            )
        self._check_classes(meta["classes"], known)
        if meta.get("palette") is None:
            count = len(meta["classes"])
            meta["palette"] = self._known_palette(count) or distinct_palette(count)
        known_bands = band_names(self.source)
        if meta.get("bands") is None and known_bands:
            meta["bands"] = known_bands
        self.band_indexes = select_bands(self.dataset_name, meta.get("bands"), known_bands)
        meta.setdefault("ignore_index", self.ignore_index)
        if self.split_list is not None:
            meta.setdefault("split", self.split_list.stem)
        elif isinstance(getattr(self.source, "split", None), str):
            meta.setdefault("split", self.source.split)
        return meta

    def _known_classes(self) -> tuple[str, ...] | None:
        return class_names(self.source)

    def _known_palette(self, num_classes: int) -> list[list[int]] | None:
        return class_colours(self.source, num_classes)

    @abc.abstractmethod
    def _check_classes(self, classes: tuple[str, ...], known: tuple[str, ...] | None) -> None:
        """Compare the classes of the metainfo with the data set's classes."""

    # Samples ------------------------------------------------------------------------------------

    def load_data_list(self) -> list[dict]:
        """List ``source_index`` and, if known without opening files, paths and label of samples."""
        chosen = range(len(self.source))
        if self.split_list is not None:
            if self.files is None:
                raise ConfigError(
                    f"{self.dataset_name} does not list its files",
                    expected="a data set with samples that can be selected by name",
                    found=f"split_list={self.split_list}",
                    remedy="use the split argument of the class in dataset_args",
                )
            positions = {image: index for index, (image, _) in enumerate(self.files)}
            names, origin = read_split_list(self.split_list), f"split list {self.split_list}"
            chosen = [positions[path] for path in match_names(names, list(positions), origin, True)]
        data_list = []
        for index in chosen:
            info: dict[str, Any] = {"source_index": index}
            if self.files is None:
                info["img_path"] = f"{self.dataset_name}[{index}]"
            else:
                image, mask = self.files[index]
                info["img_path"] = image
                if mask is not None:
                    info["seg_map_path"] = mask
            self._add_label(info)
            data_list.append(info)
        return data_list

    def _add_label(self, info: dict[str, Any]) -> None:
        """Add the label of a sample if it is known without opening files; by default none."""

    def prepare_data(self, idx: int) -> Any:
        """Load sample ``idx`` and run the pipeline on it."""
        return self.pipeline(self.load_sample(idx))

    def load_sample(self, idx: int) -> dict[str, Any]:
        """Load sample ``idx`` as a dictionary.

        Returns:
            ``img`` (H, W, C) in the band order of ``metainfo['bands']``, ``valid`` (H, W) uint8,
            the label, paths and sizes.

        Raises:
            DataError: If the files cannot be read or have unexpected content.
        """
        results = self.get_data_info(idx)
        path = results["img_path"]
        try:
            sample = self.source[results.pop("source_index")]
        except (OSError, RuntimeError, ValueError, SyntaxError) as error:
            # PIL raises SyntaxError for truncated PNGs, rasterio RasterioIOError (an OSError).
            raise DataError(
                f"{path} or its label cannot be read",
                expected=f"an image that {self.dataset_name} can open",
                found=f"{type(error).__name__}: {error}",
                remedy="restore the file from the download",
            ) from error
        image = self._image(sample, path)
        nodata = parse_nodata(self._metainfo.get("nodata"))
        valid = valid_values(image.transpose(2, 0, 1), nodata)
        if self.dtype is not None:
            image = self._cast(image, valid, path)
        results.update(
            img=image,
            img_shape=image.shape[:2],
            ori_shape=image.shape[:2],
            valid=valid.astype(np.uint8),
            seg_fields=["valid"],
            reduce_zero_label=False,
            dataset_meta=self._metainfo,
        )
        self._label(sample, results)
        return results

    @abc.abstractmethod
    def _label(self, sample: Mapping[str, Any], results: dict[str, Any]) -> None:
        """Copy the label of a TorchGeo sample to the results."""

    def _image(self, sample: Mapping[str, Any], path: str) -> np.ndarray:
        image = sample.get("image")
        if image is None or image.ndim != 3:
            raise DataError(
                f"{path}: {self.dataset_name} returns no single image",
                expected="sample['image'] of shape (C, H, W)",
                found="no key 'image', but " + ", ".join(sample)
                if image is None
                else f"shape {tuple(image.shape)}",
                remedy="use a data set, or a mode of this one, with one image per sample",
            )
        array = torch.as_tensor(image).permute(1, 2, 0).numpy()
        if array.dtype.kind == "c":
            raise DataError(
                f"{path}: complex values",
                expected="integers or real numbers",
                found=array.dtype,
                remedy="write their amplitude, numpy.abs(values), to files and use these",
            )
        if self.band_indexes is not None:
            if max(self.band_indexes) >= array.shape[2]:
                raise DataError(
                    f"{path}: too few bands",
                    expected=f"at least {max(self.band_indexes) + 1} (bands of metainfo: "
                    f"{list(self._metainfo['bands'])})",
                    found=f"{array.shape[2]}",
                    remedy="correct metainfo['bands']",
                )
            array = array[:, :, self.band_indexes]
        bands = self._metainfo.get("bands")
        if bands is not None and len(bands) != array.shape[2]:
            raise DataError(
                f"{path}: wrong band count",
                expected=f"{len(bands)} (metainfo['bands']: {list(bands)})",
                found=f"{array.shape[2]}",
                remedy="correct metainfo['bands'], or select bands in dataset_args",
            )
        return np.ascontiguousarray(array)

    def _cast(self, image: np.ndarray, valid: np.ndarray, path: str) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            cast = image.astype(self.dtype)
        if not np.array_equal(cast[valid], image[valid]):
            raise DataError(
                f"{path}: dtype={self.dtype.name!r} would change pixel values",
                expected=f"values representable as {self.dtype.name}",
                found=f"{image[valid].min():g} to {image[valid].max():g}, stored as {image.dtype}",
                remedy="set the type of the stored pixels, or remove dtype",
            )
        return cast


@DATASETS.register_module()
class TorchGeoClassification(TorchGeoDataset):
    """Any TorchGeo scene-classification data set with one label per image.

    The order of ``metainfo['classes']``, and their case and punctuation, may differ from the class
    folders; labels follow the metainfo.

    Each sample holds ``img`` (H, W, C), ``valid`` (H, W), ``gt_label`` (int), paths and sizes. See
    :class:`TorchGeoDataset` for the arguments and errors.

    Example:
        >>> dict(type='hook.TorchGeoClassification', dataset='EuroSAT', data_root='data/eurosat',
        ...      dataset_args=dict(split='train', bands=('B04', 'B03', 'B02')))  # doctest: +SKIP
    """

    def _check_classes(self, classes: tuple[str, ...], known: tuple[str, ...] | None) -> None:
        self.label_of: list[int] | None = None
        if known is None:
            return
        index_of = {normalise_name(name): index for index, name in enumerate(classes)}
        stored = [normalise_name(name) for name in known]
        unknown = [name for name in classes if normalise_name(name) not in stored]
        extra = [name for name in known if normalise_name(name) not in index_of]
        if unknown or extra:
            raise ConfigError(
                f"{self.dataset_name}: metainfo['classes'] are not the classes of the data",
                expected=f"{len(known)} classes: {', '.join(known)}",
                found="; ".join(
                    f"{what} metainfo: {', '.join(names)}"
                    for what, names in (("unknown in", unknown), ("missing from", extra))
                    if names
                ),
                remedy="correct metainfo['classes'] or the class folders",
            )
        self.label_of = [index_of[name] for name in stored]

    def _add_label(self, info: dict[str, Any]) -> None:
        targets = getattr(self.source, "targets", None)
        if isinstance(targets, list):
            info["gt_label"] = self._map_label(targets[info["source_index"]], info["img_path"])

    def _map_label(self, label: Any, path: str) -> int:
        label = torch.as_tensor(label)
        if label.numel() != 1 or label.is_floating_point():
            raise DataError(
                f"{path}: {self.dataset_name} returns no single class label",
                expected="one integer per image",
                found=f"a label of shape {tuple(label.shape)} and type {label.dtype}",
                remedy="use a data set with one class per image",
            )
        value = int(label)
        limit = len(self._metainfo["classes"]) if self.label_of is None else len(self.label_of)
        if not 0 <= value < limit:
            raise DataError(
                f"{path}: label outside the range",
                expected=f"0 to {limit - 1} ({limit} classes)",
                found=value,
                remedy="name all classes in metainfo['classes']",
            )
        return value if self.label_of is None else self.label_of[value]

    def _label(self, sample: Mapping[str, Any], results: dict[str, Any]) -> None:
        label = sample.get("label")
        if label is None:
            raise DataError(
                f"{results['img_path']}: {self.dataset_name} returns no label",
                expected="sample['label']",
                found=", ".join(sample),
                remedy="use hook.TorchGeoSegmentation if it has masks",
            )
        results["gt_label"] = self._map_label(label, results["img_path"])


@DATASETS.register_module()
class TorchGeoSegmentation(TorchGeoDataset):
    """Any TorchGeo semantic-segmentation data set with one mask per image.

    Each sample holds ``img`` (H, W, C), ``valid`` (H, W), ``gt_seg_map`` (H, W) with the ignore
    index at invalid pixels, paths and sizes. See :class:`TorchGeoDataset` for the other arguments
    and errors.

    Args:
        label_map: Mapping of stored labels, such as ``{0: 255, 1: 0}``; other labels are kept.
        reduce_zero_label: Map the stored label 0 (unlabelled) to the ignore index and subtract one
            from all others. Transforms always get ``reduce_zero_label=False``.
        **kwargs: See :class:`TorchGeoDataset`.
    """

    def __init__(
        self,
        dataset: str,
        *args: Any,
        label_map: Mapping[int | str, int] | None = None,
        reduce_zero_label: bool = False,
        **kwargs: Any,
    ) -> None:
        if label_map and reduce_zero_label:
            raise ConfigError(
                f"{dataset}: label_map and reduce_zero_label exclude each other",
                expected="one of them",
                found=f"label_map={dict(label_map)}, reduce_zero_label=True",
                remedy="write the whole mapping as label_map",
            )
        try:
            # Command-line options are strings.
            self.label_map = {int(old): int(new) for old, new in (label_map or {}).items()}
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{dataset}: label_map is not a mapping of labels",
                expected="integers to integers, such as {0: 255, 1: 0}",
                found=label_map,
                remedy="correct label_map",
            ) from error
        self.reduce_zero_label = reduce_zero_label
        super().__init__(dataset, *args, **kwargs)

    def map_labels(self, labels: np.ndarray) -> np.ndarray:
        """Map stored integer labels of any shape to int64 labels of the model."""
        labels = labels.astype(np.int64)
        if self.reduce_zero_label:
            ignored = (labels == 0) | (labels == self.ignore_index)
            return np.where(ignored, self.ignore_index, labels - 1)
        mapped = labels.copy()
        for old, new in self.label_map.items():
            mapped[labels == old] = new
        return mapped

    def _known_classes(self) -> tuple[str, ...] | None:
        known = class_names(self.source)
        # TorchGeo's class names include the unlabelled 0 in some data sets only (not in LoveDA), so
        # with reduce_zero_label the config must list them.
        if known is None or self.reduce_zero_label:
            return None
        named: dict[int, str] = {}
        for label, name in zip(self.map_labels(np.arange(len(known))).tolist(), known, strict=True):
            if label != self.ignore_index:
                named.setdefault(label, name)
        if sorted(named) != list(range(len(named))):
            return None
        return tuple(named[label] for label in range(len(named)))

    def _known_palette(self, num_classes: int) -> list[list[int]] | None:
        stored = class_names(self.source)
        colours = class_colours(self.source, len(stored)) if stored else None
        if colours is None or self.reduce_zero_label:
            return super()._known_palette(num_classes)
        chosen: dict[int, list[int]] = {}
        labels = self.map_labels(np.arange(len(colours))).tolist()
        for label, colour in zip(labels, colours, strict=True):
            chosen.setdefault(label, colour)
        if all(label in chosen for label in range(num_classes)):
            return [chosen[label] for label in range(num_classes)]
        return None

    def _check_classes(self, classes: tuple[str, ...], known: tuple[str, ...] | None) -> None:
        if known is None:
            return
        names = [normalise_name(name) for name in classes]
        stored = [normalise_name(name) for name in known]
        if len(names) != len(stored):
            raise ConfigError(
                f"{self.dataset_name}: metainfo['classes'] has a different number of classes",
                expected=f"{len(known)} after the label mapping: {', '.join(known)}",
                found=f"{len(classes)}: {', '.join(classes)}",
                remedy="correct metainfo['classes'], label_map or reduce_zero_label",
            )
        if names != stored and sorted(names) == sorted(stored):
            raise ConfigError(
                f"{self.dataset_name}: the order of metainfo['classes'] differs from the labels",
                expected=", ".join(known),
                found=", ".join(classes),
                remedy="list them in the order of the labels, or map the labels with label_map",
            )

    def _label(self, sample: Mapping[str, Any], results: dict[str, Any]) -> None:
        path = results.get("seg_map_path", results["img_path"])
        mask = sample.get("mask")
        if mask is None:
            raise DataError(
                f"{path}: {self.dataset_name} returns no mask",
                expected="sample['mask']",
                found=", ".join(sample),
                remedy="use hook.TorchGeoClassification if it has one label per image",
            )
        stored = torch.as_tensor(mask).numpy()
        if stored.ndim == 3 and stored.shape[0] == 1:
            stored = stored[0]
        if stored.shape != results["img_shape"]:
            raise DataError(
                f"{path}: the mask and its image differ in size",
                expected=f"(H, W) = {tuple(results['img_shape'])}",
                found=tuple(stored.shape),
                remedy="restore the pair from the download",
            )
        if stored.dtype.kind == "f" and not np.array_equal(stored, np.round(stored)):
            raise DataError(
                f"{path}: the values of the mask are not class labels",
                expected="integers",
                found=f"{stored.dtype} values from {stored.min():g} to {stored.max():g}",
                remedy="use a data set with one class per pixel",
            )
        labels = self.map_labels(stored)
        num_classes = len(self._metainfo["classes"])
        wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != self.ignore_index)]
        if wrong.size:
            raise DataError(
                f"{path}: labels outside the range",
                expected=f"0 to {num_classes - 1}, or {self.ignore_index} to ignore a pixel",
                found=f"{np.unique(wrong)[:8].tolist()} after the label mapping",
                remedy="map them with label_map (or reduce_zero_label=True if 0 means "
                "unlabelled), or add their classes to metainfo['classes']",
            )
        labels[results["valid"] == 0] = self.ignore_index
        small = num_classes <= 255 and 0 <= self.ignore_index <= 255
        results["gt_seg_map"] = labels.astype(np.uint8 if small else np.int32)
        results["seg_fields"] = ["gt_seg_map", "valid"]
