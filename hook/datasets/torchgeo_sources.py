"""Files, classes and bands of TorchGeo's non-geo data sets."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from hook.errors import ConfigError, DataError
from hook.geo.bands import scale_tags
from hook.geo.raster import RASTER_SUFFIXES, open_raster

# File layout of TorchGeo's classes, and the script that prepares it. The classes of
# hook.datasets.named have both as attributes.
TORCHGEO_LAYOUTS = {
    "EuroSAT": (
        "<root>/eurosat-{train,val,test}.txt and "
        "<root>/ds/images/remote_sensing/otherDatasets/sentinel_2/tif/<Class>/<Class>_<n>.tif",
        "tools/dataset_tools/prepare_eurosat.py",
    ),
    "RESISC45": (
        "<root>/resisc45-{train,val,test}.txt and <root>/NWPU-RESISC45/<class>/<class>_<nnn>.jpg",
        "tools/dataset_tools/prepare_nwpu_resisc45.py",
    ),
    "DeepGlobeLandCover": (
        "<root>/data/{training_data,test_data}/images/<id>_sat.jpg and .../masks/<id>_mask.png",
        "tools/dataset_tools/prepare_deepglobe_land_cover.py",
    ),
}


def build_source(cls: type[Dataset], arguments: Mapping[str, Any], data_root: str) -> Dataset:
    """Build a TorchGeo data set.

    Args:
        cls: Class of the data set.
        arguments: Its arguments. ``root`` defaults to ``data_root``, ``download`` to False.
        data_root: Folder of the data.

    Raises:
        ConfigError: If an argument is unknown or invalid.
        DataError: If the data are missing or cannot be read.
    """
    name, accepted, arguments = cls.__name__, inspect.signature(cls).parameters, dict(arguments)
    if "root" in accepted and data_root:
        arguments.setdefault("root", data_root)
    if "download" in accepted:
        arguments.setdefault("download", False)
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"dataset_args of {name}: {error}",
            expected=f"arguments of {name}: {', '.join(accepted)}",
            found=", ".join(arguments),
            remedy="correct dataset_args",
        ) from error
    root = arguments.get("root", data_root)
    try:
        source = cls(**arguments)
    except FileNotFoundError as error:
        layout, script = layout_of(cls)
        raise DataError(
            f"{name}: no data in {root}",
            expected=layout,
            found=str(error).splitlines()[0],
            remedy=f"set data_root to the folder that holds it{script}",
        ) from error
    except (AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f"dataset_args of {name} are invalid",
            expected=_accepted_values(cls),
            found=f"{arguments} ({error})" if str(error) else str(arguments),
            remedy="correct dataset_args",
        ) from error
    except (RuntimeError, OSError) as error:
        layout, script = layout_of(cls)
        raise DataError(
            f"{name}: the data in {root} cannot be read",
            expected=layout,
            found=error,
            remedy=f"download the files again{script}",
        ) from error
    if len(source) == 0:
        layout, script = layout_of(cls)
        raise DataError(
            f"{name}: no samples in {root}",
            expected=layout,
            found="no image",
            remedy=f"set data_root to the folder that holds them{script}",
        )
    return source


def layout_of(cls: type[Dataset]) -> tuple[str, str]:
    """Return the expected layout of a data set, and a hint that names its prepare script."""
    layout, script = getattr(cls, "layout", None), getattr(cls, "prepare_script", None)
    if layout is None:
        for base in cls.__mro__:
            if base.__name__ in TORCHGEO_LAYOUTS:
                layout, script = TORCHGEO_LAYOUTS[base.__name__]
                break
    if layout is None:
        layout = f"the files that the documentation of {cls.__module__}.{cls.__name__} lists"
    if script is None:
        return layout, ", or set download=True in dataset_args if the class can download"
    return layout, f", or prepare your download with {script}"


def check_tags(files: Sequence[tuple[str, str | None]], meta: Mapping[str, Any]) -> None:
    """Refuse images with scale or offset tags, which TorchGeo ignores, by the first of them.

    Args:
        files: (image, mask) files.
        meta: Dataset meta; its ``scale`` and ``offset`` take the place of tags.

    Raises:
        DataError: The image has tags, and the dataset meta no scale or offset.
    """
    path = files[0][0] if files else ""
    given = any(meta.get(key) is not None for key in ("scale", "offset"))
    if given or Path(path).suffix.lower() not in RASTER_SUFFIXES or not Path(path).is_file():
        return
    with open_raster(path) as src:
        tags = scale_tags(src, src.indexes)
    if tags is not None:
        scale, offset = (values.tolist() for values in tags)
        raise DataError(
            f"{path}: scale and offset tags, which TorchGeo does not apply",
            expected="no tags, or the same numbers in the dataset meta",
            found=f"scale {scale}, offset {offset}",
            remedy="set metainfo['scale'] and metainfo['offset']",
        )


def _accepted_values(cls: type[Dataset]) -> str:
    texts = [f"arguments of {cls.__name__}: {', '.join(inspect.signature(cls).parameters)}"]
    for attribute in ("splits", "all_band_names"):
        values = getattr(cls, attribute, None)
        if values:
            texts.append(f"{attribute}: {', '.join(map(str, values))}")
    return "; ".join(texts)


def normalise_name(name: str) -> str:
    """Return a class name as lower-case letters and digits, to compare spellings."""
    return re.sub(r"[^0-9a-z]", "", name.casefold())


def class_names(source: Dataset) -> tuple[str, ...] | None:
    """Return the class names of a TorchGeo data set, None if it has none."""
    classes = getattr(source, "classes", None)
    return _names(list(classes) if isinstance(classes, Mapping) else classes)


def class_colours(source: Dataset, num_classes: int) -> list[list[int]] | None:
    """Return the colours [r, g, b] of a TorchGeo data set, None if their number differs."""
    for attribute in ("palette", "colormap", "cmap"):
        colours = getattr(source, attribute, None)
        if isinstance(colours, Mapping):
            colours = list(colours.values())
        try:
            colours = [[int(channel) for channel in tuple(colour)[:3]] for colour in colours]
        except (TypeError, ValueError):
            continue
        if len(colours) == num_classes and all(len(colour) == 3 for colour in colours):
            return colours
    return None


def _names(values: Any) -> tuple[str, ...] | None:
    """Return a non-empty sequence of names as a tuple, anything else as None."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return None
    return tuple(values) if all(isinstance(value, str) for value in values) else None


def sample_files(source: Dataset) -> list[tuple[str, str | None]] | None:
    """Return (image, mask or None) files of all samples of a TorchGeo data set, None if unknown."""
    samples = getattr(source, "samples", None)  # torchvision's ImageFolder
    if isinstance(samples, list) and samples and isinstance(samples[0], tuple):
        return [(str(path), None) for path, _ in samples] if len(samples) == len(source) else None
    images = getattr(source, "image_fns", None) or getattr(source, "image_paths", None)
    masks = getattr(source, "mask_fns", None) or getattr(source, "mask_paths", None)
    entries = getattr(source, "files", None)
    if images is None and isinstance(entries, Sequence) and not isinstance(entries, str):
        if entries and all(isinstance(entry, Mapping) for entry in entries):
            images = [entry.get("image", entry.get("img")) for entry in entries]
            masks = [entry.get("mask") for entry in entries]
        else:
            images = list(entries)
    if images is None or len(images) != len(source):
        return None
    if not all(isinstance(path, str | Path) for path in images):
        return None
    if masks is None or len(masks) != len(images):
        masks = [None] * len(images)
    return [
        (str(image), str(mask) if isinstance(mask, str | Path) else None)
        for image, mask in zip(images, masks, strict=True)
    ]


def band_names(source: Dataset) -> tuple[str, ...] | None:
    """Return the names of the bands that a TorchGeo data set loads, None if unknown."""
    for attribute in ("bands", "band_names", "all_band_names", "all_bands"):
        if (names := _names(getattr(source, attribute, None))) is not None:
            return names
    return None


def select_bands(
    dataset: str, bands: Sequence[str | int] | None, known: tuple[str, ...] | None
) -> list[int] | None:
    """Resolve ``metainfo['bands']`` to positions in the data set's band order.

    Args:
        dataset: Name for messages.
        bands: Names or 1-based indexes, in the model's order.
        known: Names of the bands that the data set loads.

    Returns:
        0-based positions, or None for all bands in their order (also if the data set has no band
        names, so that ``bands`` only names them).

    Raises:
        ConfigError: If a name is unknown or an index is not positive.
    """
    if bands is None or (known is not None and tuple(bands) == known):
        return None
    is_index = [not isinstance(band, str) for band in bands]
    if any(is_index) and not all(is_index):
        raise ConfigError(
            f"{dataset}: metainfo['bands'] mixes names and indexes",
            expected="band names, or 1-based indexes",
            found=list(bands),
            remedy="use either names or indexes",
        )
    if all(is_index):
        if min(bands) < 1:
            raise ConfigError(
                f"{dataset}: metainfo['bands'] has an index below 1",
                expected="1-based indexes",
                found=list(bands),
                remedy="count bands from 1, as GDAL does",
            )
        return [int(band) - 1 for band in bands]
    if known is None:
        return None
    lower = [name.casefold() for name in known]
    unknown = [band for band in bands if band.casefold() not in lower]
    if unknown:
        raise ConfigError(
            f"{dataset}: unknown band {', '.join(unknown)}",
            expected=", ".join(known),
            found=", ".join(bands),
            remedy="correct metainfo['bands']",
        )
    return [lower.index(band.casefold()) for band in bands]
