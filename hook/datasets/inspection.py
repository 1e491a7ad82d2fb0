"""Read bands, classes, colours and label values of a user's images and labels."""

import string
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hook.datasets.files import IGNORE_INDEX, list_files, read_features, search_folder, some
from hook.datasets.scene_files import (
    PathLike,
    Scene,
    check_mask_format,
    check_one_kind,
    read_scenes,
)
from hook.errors import ConfigError, DataError
from hook.geo.bands import band_names, image_bands
from hook.geo.raster import RASTER_SUFFIXES, open_raster
from hook.geo.styles import distinct_palette, read_category_names
from hook.geo.vector import VECTOR_SUFFIXES, is_vector_file, table_text
from hook.progress import progress_bar

_MAX_CLASSES = 64
_UNKNOWN = (2**16 - 1, 2**32 - 1)  # -1 as an unsigned integer

Colour = Sequence[int] | str


@dataclass
class LabelledImages:
    """Images and labels as options of :class:`hook.datasets.GeoTIFFFolder`.

    Attributes:
        scenes: The images, each on its own grid.
        masks: The labels: rasters, or vector files.
        bands: Names or 1-based numbers of the bands, in the model's order.
        classes: Names, in the order of the labels.
        palette: Colour [r, g, b] of each class.
        options: Further options, equal for all parts.
        splits: Options ``split`` and, for separate images, ``images`` of each part; see
            :mod:`hook.datasets.holdout`.
        how: Description of the split.
    """

    scenes: list[Scene]
    masks: list[str]
    bands: list[str | int]
    classes: list[str]
    palette: list[list[int]]
    options: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    how: str = ""

    @property
    def images(self) -> list[str]:
        """Paths of the images."""
        return [scene.path for scene in self.scenes]


def inspect_folder(root: Path) -> LabelledImages:
    """Find images, masks and classes in a folder; ``splits`` is left empty.

    ``images/`` holds GeoTIFFs, ``masks/`` class indexes or vector files with features of the second
    class; the optional ``classes.txt`` has a ``name`` or ``name #rrggbb`` per line.

    Raises:
        DataError: If the folder has a different layout, or its files are inconsistent.
    """
    images, masks = root / "images", root / "masks"
    for folder, suffixes in (
        (images, RASTER_SUFFIXES),
        (masks, RASTER_SUFFIXES + VECTOR_SUFFIXES),
    ):
        exists = folder.is_dir()
        files = search_folder(folder, ["*"]) if exists else ()
        if not any(path.suffix.lower() in suffixes for path in files):
            outer = folder if exists else root
            listed = sorted(path.name for path in outer.iterdir()) if outer.is_dir() else ()
            raise DataError(
                f"{folder} has no usable file" if exists else f"{folder} does not exist",
                expected=f"GeoTIFFs in {images} and their masks in {masks}, ending in "
                + ", ".join(suffixes),
                found=some(listed) or "nothing",
                remedy="arrange or convert the files, or correct the folder",
            )
    path = root / "classes.txt"
    names, palette = read_classes_file(path) if path.is_file() else (None, None)
    try:
        return inspect_files(images, masks, classes=names, palette=palette)
    except ConfigError as error:  # no option was set, so the files are inconsistent
        raise DataError(
            f"{root}: {error.what}",
            expected=error.expected,
            found=error.found,
            remedy=f"correct {path} or {masks}",
        ) from error


def read_classes_file(path: Path) -> tuple[list[str], dict[str, list[int]]]:
    """Read class names, one ``name`` or ``name #rrggbb`` per line, optionally after an index.

    Returns:
        The names, and a colour for each name that has one.

    Raises:
        DataError: If the file is not text, or does not name two or more different classes.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text",
            expected="UTF-8",
            found=str(error),
            remedy="save it as UTF-8",
        ) from error
    names, colours = [], []
    for line in filter(None, map(str.strip, lines)):
        name, _, code = line.rpartition(" #")
        colour = _hex_colour(code) if name else None
        names.append(name.strip() if colour else line)
        colours.append(colour)
    prefixes = [name.partition(" ")[0].strip(":,;") for name in names]
    if prefixes == [str(index) for index in range(len(names))]:  # "0 background", "1 building"
        names = [name.partition(" ")[2].strip() or name for name in names]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"{path} does not name the classes",
            expected="two or more different names, one per line",
            found=", ".join(names) or "no name",
            remedy="correct the file",
        )
    pairs = zip(names, colours, strict=True)
    return names, {name: colour for name, colour in pairs if colour is not None}


def inspect_files(
    images: PathLike | Sequence[PathLike],
    labels: PathLike | Sequence[PathLike],
    *,
    label: str | None = None,
    classes: Sequence[str] | Mapping[Any, str] | None = None,
    palette: Sequence[Colour] | Mapping[str, Colour] | None = None,
    background: str | None = None,
    layer: str | int | None = None,
) -> LabelledImages:
    """Read bands, classes and colours of images and labels; see :func:`hook.apis.train`.

    Args:
        images: Folder(s) or file(s).
        labels: Folder(s) or file(s): single-band rasters, or vector files.
        label: Attribute of the vector files that holds the class.
        classes: Names in the order of the labels, or a name for each value.
        palette: Colours in the order of the classes, or by name.
        background: Class of unlabelled pixels.
        layer: Layer of the vector files, see :func:`hook.geo.vector.choose_layer`.

    Returns:
        Images and labels; ``splits`` is empty.

    Raises:
        ConfigError: If the options contradict each other or the labels.
        DataError: If a file is missing or invalid.
    """
    paths = list_files(images, "", None, RASTER_SUFFIXES, "images")
    masks = list_files(labels, "", None, RASTER_SUFFIXES + VECTOR_SUFFIXES, "labels")
    check_one_kind(masks, "labels", "pass files of one kind")
    with open_raster(paths[0]) as src:
        bands = band_names(src)
    scenes = read_scenes(paths, masks, bands)
    if is_vector_file(masks[0]):
        read = _classes_without_attribute if label is None else _classes_of_attribute
        names, options = read(masks, layer, label, classes, background)
        options |= {} if layer is None else {"mask_layer": layer}
    elif label is not None or layer is not None:
        raise ConfigError(
            f"label={label!r}, layer={layer!r}: of polygons, but the labels are rasters",
            expected="label=None and layer=None",
            found=some(masks),
            remedy="omit them; classes={value: name} names the values of a raster",
        )
    else:
        names, options = _classes_of_rasters(masks, classes, background)
    _check_names(names)
    colours = _colours(palette, names, masks[0], options)
    return LabelledImages(scenes, masks, bands, names, colours, options)


# ---------------------------------------------------------------------------------- colours
def _colours(palette: Any, names: list[str], mask: str, options: Mapping) -> list[list[int]]:
    """Return a colour for each class: from ``palette``, else from the mask, else a distinct one."""
    ignores_mask = (palette is not None and len(palette)) or is_vector_file(mask)
    stored = {} if ignores_mask else _colour_table(mask)
    values = options.get("label_map") or {index: index for index in range(len(names))}
    colours = {
        names[index]: list(stored[value][:3])
        for value, index in reversed(values.items())
        if value in stored and index != "ignore"
    }
    if isinstance(palette, Mapping):
        unknown = [name for name in palette if name not in names]
        if unknown:
            raise ConfigError(
                f"palette: no class {unknown[0]!r}",
                expected=f"names among {', '.join(names)}",
                found=some(palette),
                remedy="correct palette or classes",
            )
        colours |= {name: _rgb(colour) for name, colour in palette.items()}
    elif palette is not None:
        if isinstance(palette, str) or len(palette) != len(names):
            raise ConfigError(
                "the number of colours in palette differs from the number of classes",
                expected=f"{len(names)}: {', '.join(names)}",
                found=palette if isinstance(palette, str) else len(palette),
                remedy="set a colour for each class, or palette={name: colour} for some",
            )
        colours = dict(zip(names, map(_rgb, palette), strict=True))
    spare = zip(names, distinct_palette(len(names)), strict=True)
    return [colours.get(name, list(colour)) for name, colour in spare]


def _colour_table(path: str) -> dict[int, tuple[int, ...]]:
    with open_raster(path) as src:
        try:
            return src.colormap(1)
        except ValueError:
            return {}


def _hex_colour(code: str) -> list[int] | None:
    if len(code) != 6 or not set(code) <= set(string.hexdigits):
        return None
    return list(bytes.fromhex(code))


def _rgb(colour: Colour) -> list[int]:
    if isinstance(colour, str):
        values = _hex_colour(colour.lstrip("#"))
    else:
        values = list(colour)
        if len(values) != 3 or not all(float(v).is_integer() and 0 <= v <= 255 for v in values):
            values = None
    if values is None:
        raise ConfigError(
            f"palette: {colour!r} is not a colour",
            expected="(red, green, blue) from 0 to 255, or '#rrggbb'",
            found=colour,
            remedy="correct palette",
        )
    return [int(value) for value in values]


# ---------------------------------------------------------------------------------- rasters
def _classes_of_rasters(
    masks: list[str], classes: Any, background: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Return the classes of masks; values that are not class indexes need ``label_map``."""
    values, labels = _mask_values(masks)
    named, given = classes, {}
    if named is None:
        named = _names_in_masks(masks, values, labels)
    if isinstance(named, Mapping):
        given = {_mask_value(value): str(name) for value, name in named.items()}
    unlabelled = {
        value: "ignore"
        for value in labels
        if (value < 0 or value in _UNKNOWN) and value not in given
    }
    for found in (values, labels):
        for value in unlabelled:
            del found[value]
    # Other values than those named are ignored anyway, except with a background.
    if unlabelled and (not isinstance(classes, Mapping) or background is not None):
        warnings.warn(
            f"{Path(masks[0]).parent}: mask values {some(sorted(unlabelled))} are ignored as no "
            "data; if one is a class, name it: classes={value: name}",
            stacklevel=4,
        )
    if not isinstance(named, Mapping):
        names, options = _classes_of_indexes(masks, labels, named)
        pairs = options.get("label_map") or {index: index for index in range(len(names))}
        if background is None:
            if unlabelled:
                options["label_map"] = pairs | unlabelled
                if IGNORE_INDEX in labels:
                    options["label_map"].setdefault(IGNORE_INDEX, "ignore")
            return names, options
        given = {value: names[index] for value, index in pairs.items() if index != "ignore"}
    if background is None:
        values = labels
    names = list(dict.fromkeys(given.values()))
    if background is not None and background not in names:
        names = [background, *names]
    if not set(given) & set(values):
        raise DataError(
            f"{masks[0]}: none of the values in classes occurs",
            expected=some(given),
            found=some(sorted(values), 12),
            remedy="correct classes: {value in the mask: name}",
        )
    default = "ignore" if background is None else names.index(background)
    label_map = {value: names.index(name) for value, name in given.items()}
    label_map |= {value: default for value in values if value not in given} | unlabelled
    options = {} if background is None else dict(mask_nodata=None, missing_masks="error")
    return names, dict(label_map=label_map) | options


def _classes_of_indexes(
    masks: list[str], values: Mapping[int, str], classes: Sequence[str] | str | None
) -> tuple[list[str], dict[str, Any]]:
    """Return the classes of masks with class indexes as values."""
    names = None if classes is None else _check_names(_as_names(classes))
    is_binary = set(values) <= {0, IGNORE_INDEX} and IGNORE_INDEX in values
    if is_binary and (names is None or len(names) == 2):
        # Convention of binary masks: 255 is the object, not "no label".
        names = names or ["background", "object"]
        return names, dict(label_map={0: 0, IGNORE_INDEX: 1}, mask_nodata=None)
    found = sorted(value for value in values if value != IGNORE_INDEX)
    if names is not None:
        wrong = [value for value in found if not 0 <= value < len(names)]
        if wrong:
            raise DataError(
                f"{values[wrong[0]]}: label outside the range",
                expected=f"0 to {len(names) - 1} ({', '.join(names)}), "
                f"or {IGNORE_INDEX} for no label",
                found=wrong[0],
                remedy="correct the mask, or name all classes",
            )
        return names, {}
    if not 1 < len(found) <= _MAX_CLASSES:
        raise DataError(
            f"{Path(masks[0]).parent}: the values of the masks are not class indexes",
            expected=f"2 to {_MAX_CLASSES} different values, {IGNORE_INDEX} for no label",
            found=f"{len(found)}: {some(found, 12)}",
            remedy="relabel the masks, or name the classes",
        )
    names = [f"class {value}" for value in found]
    if found == list(range(len(found))):
        return names, {}
    ignored = {IGNORE_INDEX: "ignore"} if IGNORE_INDEX in values else {}
    return names, dict(label_map={value: index for index, value in enumerate(found)} | ignored)


def _mask_value(value: Any) -> int:
    try:
        if float(value) == int(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        f"classes: {value!r} is not an integer raster value",
        expected="{integer: name}",
        found=value,
        remedy="correct classes",
    )


def _as_names(classes: Iterable[Any] | str) -> list[str]:
    return [classes] if isinstance(classes, str) else [str(name) for name in classes]


def _check_names(names: list[str]) -> list[str]:
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            "classes names fewer than two classes, or one twice",
            expected="two or more different names",
            found=", ".join(names) or "none",
            remedy="correct classes, or name the class between the objects with background=",
        )
    return names


def _mask_values(masks: list[str]) -> tuple[dict[int, str], dict[int, str]]:
    """Return a file for each value that occurs: for all values, and for all except nodata."""
    values: dict[int, str] = {}
    labels: dict[int, str] = {}
    for path in progress_bar(masks, desc="masks", unit="file", leave=False, delay=2):
        with open_raster(path) as src:
            check_mask_format(src)
            if np.dtype(src.dtypes[0]).kind not in "iu" or len(image_bands(src)) != 1:
                raise DataError(
                    f"{path} is not a mask",
                    expected="one band of integers",
                    found=f"{src.count} bands of {src.dtypes[0]}",
                    remedy="convert it, or remove it from the masks",
                )
            for _, window in src.block_windows(1):
                for value in np.unique(src.read(1, window=window)).tolist():
                    values.setdefault(value, path)
                    if value != src.nodata or value == IGNORE_INDEX:
                        labels.setdefault(value, path)
    return values, labels


def _names_in_masks(
    masks: list[str], values: Mapping[int, str], labels: Mapping[int, str]
) -> list[str] | dict[int, str] | None:
    """Return the names in masks: of the values 0, 1, ..., of other values, or None without any."""
    names: dict[int, str] = {}
    origins: dict[int, str] = {}
    for path in masks:
        for value, name in enumerate(read_category_names(path) or ()):
            if not name:
                continue
            origins.setdefault(value, path)
            if names.setdefault(value, name) != name:
                raise DataError(
                    f"{path}: value {value} is {name!r}",
                    expected=f"{names[value]!r}, as in {origins[value]}",
                    found="two names of a class",
                    remedy="correct the names in one of them, or pass classes={value: name}",
                )
    if not names:
        with open_raster(masks[0]) as src:
            tag = next((v for k, v in src.tags().items() if k.lower() == "classes"), "")
        parts = [name.strip() for name in tag.split(",") if name.strip()]
        return parts if len(parts) >= 2 else None
    if len(names) >= 2 and names.keys() == {*range(len(names))}:
        return [names[value] for value in range(len(names))]
    names = {value: name for value, name in names.items() if value in labels or value not in values}
    missing = [v for v in labels if v not in names and 0 <= v != IGNORE_INDEX and v not in _UNKNOWN]
    if missing:
        warnings.warn(
            f"{labels[missing[0]]}: values {some(sorted(missing))} have no name, unlike "
            f"{some(sorted(names))}; they are classes too, named after their values",
            stacklevel=5,
        )
    names |= {value: f"class {value}" for value in missing}
    return dict(sorted(names.items()))


# ---------------------------------------------------------------------------------- features
def _classes_of_attribute(
    masks: list[str], layer: str | int | None, label: str, classes: Any, background: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Return the classes of polygons from an attribute."""
    values: set[Any] = set()
    for path in masks:
        table = read_features(path, layer, label, "label")
        column = table[label]
        missing = column.isna() | (column.map(table_text) == "")
        if missing.any():
            raise DataError(
                f"{path}: features without {label}",
                expected="a class for each feature",
                found=f"{int(missing.sum())} of {len(table)} without one, or with blanks only",
                remedy="complete the attribute, or remove these features",
            )
        values |= {_plain(value) for value in column.unique()}
    if len(values) > _MAX_CLASSES:
        raise ConfigError(
            f"label={label!r} has {len(values)} different values",
            expected=f"an attribute with at most {_MAX_CLASSES} classes",
            found=some(values),
            remedy="use a different attribute, or select values with classes={value: name}",
        )
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    given = _names_of_values(ordered, label, classes)
    names = list(dict.fromkeys(given.values()))
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        names = _as_names(classes)  # in the caller's order, including absent classes
    if background is None and len(names) == 1:
        background = "background"
    if background is not None and background not in names:
        names = [background, *names]
    label_map = {value: names.index(name) for value, name in given.items()}
    label_map |= {value: "ignore" for value in ordered if value not in given}
    outside = "ignore" if background is None else names.index(background)
    return names, dict(label_field=label, label_map=label_map, background=outside)


def _classes_without_attribute(
    masks: list[str], layer: str | int | None, _: None, classes: Any, background: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Return the two classes, inside and outside, of polygons of a single class."""
    for path in masks:
        read_features(path, layer)
    names = ["object"] if classes is None else classes
    names = _as_names(names.values() if isinstance(names, Mapping) else names)
    if len(names) == 1:
        names = [background or "background", *names]
    if len(names) != 2 or (background is not None and background not in names):
        raise ConfigError(
            "polygons without a class attribute have two classes: inside and outside",
            expected="label= (the attribute with the class), or two names of classes",
            found=", ".join(names),
            remedy="name the attribute: label='...', or rasterise the classes",
        )
    outside = 0 if background is None else names.index(background)
    return names, dict(label=1 - outside, background=outside)


def _names_of_values(values: list[Any], label: str, classes: Any) -> dict[Any, str]:
    """Return a class name for each value of an attribute."""
    if classes is None:
        return {value: str(value) for value in values}
    if isinstance(classes, Mapping):
        as_text = {str(value): value for value in values}
        given = {
            as_text[str(_plain(key))]: str(name)
            for key, name in classes.items()
            if str(_plain(key)) in as_text
        }
        if not given:
            raise ConfigError(
                f"classes: none of the values occurs in {label!r}",
                expected=some(values),
                found=some(classes),
                remedy="correct classes: {value of the attribute: name}",
            )
        return given
    names = _as_names(classes)
    folded = {name.casefold(): name for name in names}
    if all(str(value).casefold() in folded for value in values):
        return {value: folded[str(value).casefold()] for value in values}
    if all(isinstance(value, int) and 0 <= value < len(names) for value in values):
        return {value: names[value] for value in values}
    raise ConfigError(
        f"classes does not name the values of {label!r}",
        expected=some(values, 16),
        found=", ".join(names),
        remedy="name each value: classes={value: name}; other values are ignored",
    )


def _plain(value: Any) -> Any:
    """Convert a value to a type that a config can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else str(value).strip()
