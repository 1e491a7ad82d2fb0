"""What a user's images and labels hold: bands, classes, colours, and which part is held out."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform_bounds

from hook.arguments import number, refused
from hook.datasets.files import list_files, match_names, pair_name, some
from hook.errors import ConfigError, DataError
from hook.geo.raster import RASTER_SUFFIXES, unreadable
from hook.geo.styles import distinct_palette, read_category_names
from hook.geo.vector import VECTOR_SUFFIXES, is_vector_file
from hook.progress import progress_bar

IGNORE = 255
_MOST_CLASSES = 64
_HEX = "0123456789abcdefABCDEF"

PathLike = str | Path
Colour = Sequence[int] | str


@dataclass
class LabelledImages:
    """Images and their labels, in the terms of :class:`hook.datasets.GeoTIFFFolder`.

    Attributes:
        images: The images.
        masks: Their labels: rasters, or vector files.
        bands: Names or 1-based numbers of the bands, in the model's order.
        classes: Names, in the order of the labels.
        palette: A colour [r, g, b] for each class.
        options: Further options of the data set, the same for all parts.
        splits: For each part the options ``split`` and, where it has images of its own, ``images``.
        how: How it was divided, in words.
        root: The folder they lie in, where there is one.
    """

    images: list[Path]
    masks: list[Path]
    bands: list[str | int]
    classes: list[str]
    palette: list[list[int]]
    options: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    how: str = ""
    root: Path | None = None


# ---------------------------------------------------------------------------------- a folder
def inspect_folder(root: Path) -> LabelledImages:
    """Find images, masks, classes and a split in a folder.

    ``images/`` holds GeoTIFFs, ``masks/`` class indexes or one vector file whose features are the
    second class, ``classes.txt`` a ``name`` or ``name #rrggbb`` per line, ``splits/`` the lists
    ``train.txt``, ``val.txt`` and ``test.txt``; the last two may be absent.

    Args:
        root: The folder.

    Raises:
        DataError: The folder is not laid out so, or its files contradict it.
    """
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise DataError(
                f"{root / name} does not exist",
                expected=f"GeoTIFFs in {root / 'images'} and their masks in {root / 'masks'}",
                found=_listing(root),
                remedy="arrange the files so, or correct --data (make demo DATA=<folder>)",
            )
    images = _files(root / "images", RASTER_SUFFIXES)
    masks = _files(root / "masks", RASTER_SUFFIXES + VECTOR_SUFFIXES)
    names, colours = _read_classes_file(root / "classes.txt")
    where = root / "classes.txt"
    if is_vector_file(masks[0]):
        classes, options = _one_class_of_features(masks, names, where)
    else:
        masks = [path for path in masks if not is_vector_file(path)]
        classes, options = _classes_of_masks(masks, names, where)
    palette = _colours(classes, colours, masks, options)
    found = LabelledImages(images, masks, bands_of(images[0]), classes, palette, options, root=root)
    _split_folder(found)
    return found


def _listing(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    names = sorted(p.name for p in root.iterdir())
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "an empty folder"


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise DataError(
            f"{folder} holds no file that can be used",
            expected="files ending in " + ", ".join(suffixes),
            found=_listing(folder),
            remedy="put the files there, or convert them to GeoTIFF",
        )
    return found


def _read_classes_file(path: Path) -> tuple[list[str] | None, list]:
    if not path.is_file():
        return None, []
    names, colours = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text",
            expected="UTF-8",
            found=str(error),
            remedy="save it as UTF-8",
        ) from error
    for line in filter(None, map(str.strip, lines)):
        name, mark, code = line.rpartition(" #")
        if mark and len(code) == 6 and all(c in _HEX for c in code):
            names.append(name.strip())
            colours.append(_rgb(f"#{code}", str(path)))
        else:
            names.append(line)
            colours.append(None)
    heads = [name.partition(" ")[0].strip(":,;") for name in names]
    if heads == [str(k) for k in range(len(names))]:  # "0 background", "1 building"
        names = [name.partition(" ")[2].strip() or name for name in names]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"{path} does not name the classes",
            expected="two or more different names, one per line",
            found=", ".join(names) or "no name",
            remedy="correct the file",
        )
    return names, colours


def _split_folder(found: LabelledImages) -> None:
    """Divide a folder into train, val and test, so that neighbours stay together."""
    parts = ("train", "val", "test")
    lists = {part: found.root / "splits" / f"{part}.txt" for part in parts}
    present = [part for part, path in lists.items() if path.is_file()]
    if present:
        if len(present) < 3:
            raise DataError(
                f"{found.root / 'splits'} is not complete",
                expected="train.txt, val.txt and test.txt",
                found=", ".join(f"{part}.txt" for part in present),
                remedy="add the missing lists, or remove the folder to split by place",
            )
        found.splits = {part: dict(split=str(path)) for part, path in lists.items()}
        found.how = "lists of the folder"
        return
    count = len(found.images)
    if count >= 3:
        n_test = max(1, round(0.25 * count))
        n_val = max(1, round(0.15 * count))
        order = [
            path.relative_to(found.root / "images").as_posix()
            for path in by_place(found.images, found.masks)
        ]
        cuts = (0, count - n_val - n_test, count - n_test, count)
        named = {part: order[cuts[k] : cuts[k + 1]] for k, part in enumerate(parts)}
        found.splits = {part: dict(split=names) for part, names in named.items()}
        counts = ", ".join(f"{len(names)} {part}" for part, names in named.items())
        found.how = f"by place: {counts} images"
        return
    by_size = sorted(found.images, key=lambda path: -_pixels(path))
    box, crs = _bounds(by_size[0], found.masks)
    shares = (0.58, 0.70, 1.0) if count == 1 else (0.85, 1.0)
    only = dict(images=[str(by_size[0])])
    strips = _strips(box, crs, _longer_side(by_size[0]), shares)
    found.splits = {part: dict(only, split=s) for part, s in zip(parts, strips, strict=False)}
    if count == 2:
        found.splits["test"] = dict(images=[str(by_size[1])], split=None)
    found.how = f"by area: strips of {by_size[0].name}"


# ---------------------------------------------------------------------------------- files
def inspect_files(
    images: PathLike | Sequence[PathLike],
    labels: PathLike | Sequence[PathLike],
    *,
    label: str | None = None,
    classes: Sequence[str] | Mapping[Any, str] | None = None,
    palette: Sequence[Colour] | Mapping[str, Colour] | None = None,
    background: str | None = None,
) -> LabelledImages:
    """Read bands, classes and colours of images and labels; see :func:`hook.apis.train`.

    Args:
        images: Folder(s) or file(s).
        labels: Folder(s) or file(s): rasters of one band, or vector files.
        label: Attribute of the vector files that holds the class.
        classes: Names in the order of the labels, or a name for each value.
        palette: Colours in the order of the classes, or by their names.
        background: Class where nothing is labelled.

    Returns:
        Everything but the division into parts.

    Raises:
        ConfigError: The options contradict each other or the labels.
        DataError: A file is missing or not what it should be.
    """
    paths = [Path(p) for p in list_files(images, "", None, RASTER_SUFFIXES, "images")]
    masks = [
        Path(p) for p in list_files(labels, "", None, RASTER_SUFFIXES + VECTOR_SUFFIXES, "labels")
    ]
    kinds = {is_vector_file(path) for path in masks}
    if len(kinds) > 1:
        raise ConfigError(
            "labels: raster and vector files side by side",
            expected="one kind",
            found=some(masks),
            remedy="name the files of one kind",
        )
    if kinds == {True}:
        names, options = _classes_of_features(masks, label, classes, background)
    else:
        if label is not None:
            raise ConfigError(
                f"label={label!r} is an attribute of polygons, but the labels are rasters",
                expected="label=None",
                found=some(masks),
                remedy="leave label out; classes={value: name} names the values of a raster",
            )
        names, options = _classes_of_rasters(masks, classes, background)
    colours = _palette_of(palette, names)
    return LabelledImages(
        paths,
        masks,
        bands_of(paths[0]),
        names,
        _colours(names, colours, masks, options),
        options,
    )


def _palette_of(palette, names: list[str]) -> list:
    """Put colours into the order of the classes."""
    if palette is None:
        return []
    if isinstance(palette, Mapping):
        unknown = [name for name in palette if name not in names]
        if unknown:
            raise ConfigError(
                f"palette: no class {unknown[0]!r}",
                expected=f"names among {', '.join(names)}",
                found=some(palette),
                remedy="correct palette or classes",
            )
        return [_rgb(palette[name], "palette") if name in palette else None for name in names]
    if isinstance(palette, str) or len(palette) != len(names):
        raise ConfigError(
            "palette has another number of colours than there are classes",
            expected=f"{len(names)}: {', '.join(names)}",
            found=palette if isinstance(palette, str) else len(palette),
            remedy="give a colour for each class, or palette={name: colour} for some",
        )
    return [_rgb(colour, "palette") for colour in palette]


def _rgb(colour: Colour, where: str) -> list[int]:
    code = colour.lstrip("#") if isinstance(colour, str) else ""
    if len(code) == 6 and all(c in _HEX for c in code):
        return [int(code[k : k + 2], 16) for k in (0, 2, 4)]
    values = [] if isinstance(colour, str) else list(colour)
    if len(values) == 3 and all(float(v).is_integer() and 0 <= v <= 255 for v in values):
        return [int(v) for v in values]
    raise ConfigError(
        f"{where}: {colour!r} is no colour",
        expected="(red, green, blue) from 0 to 255, or '#rrggbb'",
        found=colour,
        remedy=f"correct {where}",
    )


def _colours(names: list[str], given: list, masks: list[Path], options: dict) -> list[list[int]]:
    """Complete colours: those given, else the mask's own, else distinct ones."""
    colours = list(given) or [None] * len(names)
    if not any(colours) and not is_vector_file(masks[0]):
        table = _colour_table(masks[0])
        values = options.get("label_map") or {k: k for k in range(len(names))}
        for value, index in values.items():
            if value in table and index != "ignore":
                colours[index] = colours[index] or list(table[value][:3])
    spare = distinct_palette(len(names))
    return [list(colour or spare[k]) for k, colour in enumerate(colours)]


def open_image(path: Path) -> rasterio.DatasetReader:
    """Open a raster, whether georeferenced or not.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except rasterio.errors.RasterioError as error:
        raise DataError(
            f"{path} cannot be read",
            expected="a GeoTIFF",
            found=" ".join(str(error).split()),
            remedy="restore the file, or take it out of the folder",
        ) from error


def bands_of(path: Path) -> list[str | int]:
    """Name an image's bands but alpha: by their descriptions where all have one, else by number."""
    with open_image(path) as src:
        alpha = rasterio.enums.ColorInterp.alpha
        kept = [k for k in range(src.count) if src.colorinterp[k] != alpha]
        names = [src.descriptions[k] for k in kept]
    if all(names) and len({n.casefold() for n in names}) == len(names):
        return names
    return [k + 1 for k in kept]


# ---------------------------------------------------------------------------------- rasters
def _classes_of_masks(
    masks: list[Path], names: list[str] | None, where: PathLike
) -> tuple[list[str], dict[str, Any]]:
    """Tell the classes of masks whose values are class indexes, named or not."""
    values = _mask_values(masks)
    if names is None:
        names = _names_in_mask(masks[0])
    if set(values) <= {0, 255} and 255 in values and (names is None or len(names) == 2):
        # The habit of binary masks: 255 is the object, not "no label".
        return names or ["background", "object"], dict(label_map={0: 0, 255: 1}, mask_nodata=None)
    found = sorted(value for value in values if value != IGNORE)
    if names is None:
        if not 1 < len(found) <= _MOST_CLASSES:
            raise DataError(
                f"{masks[0].parent}: the masks' values are no class indexes",
                expected=f"2 to {_MOST_CLASSES} different values, {IGNORE} for no label",
                found=f"{len(found)}: {some(found, 12)}",
                remedy=f"relabel the masks, or name the classes in {where}",
            )
        names = [f"class {value}" for value in found]
        if found == list(range(len(found))):
            return names, {}
        return names, dict(label_map={value: k for k, value in enumerate(found)} | _ignored(values))
    wrong = [value for value in found if not 0 <= value < len(names)]
    if wrong:
        raise DataError(
            f"{values[wrong[0]]}: label outside the range",
            expected=f"0 to {len(names) - 1} ({', '.join(names)}), or {IGNORE} for no label",
            found=wrong[0],
            remedy=f"correct the mask, or name all classes in {where}",
        )
    return list(names), {}


def _classes_of_rasters(masks, classes, background) -> tuple[list[str], dict[str, Any]]:
    """Tell the classes of masks by what a caller says of them."""
    if background is None and not isinstance(classes, Mapping):
        names = None if classes is None else _checked_names(classes)
        return _classes_of_masks(masks, names, "classes")
    values = _mask_values(masks, nodata_too=background is not None)
    if isinstance(classes, Mapping):
        given = {_whole_number(value): str(name) for value, name in classes.items()}
    else:
        names, options = _classes_of_masks(masks, classes and _checked_names(classes), "classes")
        pairs = options.get("label_map") or {k: k for k in range(len(names))}
        given = {value: names[k] for value, k in pairs.items() if k != "ignore"}
    names = list(dict.fromkeys(given.values()))
    rest: int | str = "ignore"
    if background is not None:
        names = names if background in names else [background, *names]
        rest = names.index(background)
    label_map = {value: names.index(name) for value, name in given.items()}
    label_map |= {value: rest for value in values if value not in given}
    if not set(given) & set(values):
        raise DataError(
            f"{masks[0]}: none of the values in classes occurs",
            expected=some(given),
            found=some(sorted(values), 12),
            remedy="correct classes: {value in the mask: name}",
        )
    options: dict[str, Any] = dict(label_map=label_map)
    if background is not None:
        options.update(mask_nodata=None, missing_masks="error")
    return _checked_names(names), options


def _ignored(values: Mapping[int, Path]) -> dict[int, str]:
    return {IGNORE: "ignore"} if IGNORE in values else {}


def _whole_number(value: Any) -> int:
    try:
        if float(value) == int(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        f"classes: {value!r} is no value of a raster",
        expected="{whole number: name}",
        found=value,
        remedy="correct classes",
    )


def _checked_names(classes: Sequence[str]) -> list[str]:
    names = [classes] if isinstance(classes, str) else [str(name) for name in classes]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            "classes names fewer than two classes, or one twice",
            expected="two or more different names",
            found=", ".join(names) or "none",
            remedy="correct classes, or name what lies between the objects with background=",
        )
    return names


def _mask_values(masks: list[Path], nodata_too: bool = False) -> dict[int, Path]:
    """Find which labels occur, and a file for each."""
    values: dict[int, Path] = {}
    for path in progress_bar(masks, desc="masks", unit="file", leave=False, delay=2):
        with open_image(path) as src:
            if np.dtype(src.dtypes[0]).kind not in "iu" or src.count != 1:
                raise DataError(
                    f"{path} is no mask",
                    expected="one band of integers",
                    found=f"{src.count} bands of {src.dtypes[0]}",
                    remedy="convert it, or take it out of masks/",
                )
            try:
                for _, window in src.block_windows(1):
                    for value in np.unique(src.read(1, window=window)).tolist():
                        if nodata_too or value != src.nodata or value == 255:
                            values.setdefault(value, path)
            except rasterio.errors.RasterioError as error:
                raise DataError(
                    f"{path} is cut off or damaged",
                    expected="a complete GeoTIFF",
                    found=" ".join(str(error).split()),
                    remedy="copy or download the file again",
                ) from error
    return values


def _names_in_mask(path: Path) -> list[str] | None:
    names = read_category_names(path)
    if not names:
        with open_image(path) as src:
            tag = next((v for k, v in src.tags().items() if k.lower() == "classes"), "")
        names = [n.strip() for n in tag.split(",") if n.strip()]
    return list(names) if len(names or ()) >= 2 else None


def _colour_table(path: Path) -> dict[int, tuple[int, ...]]:
    with open_image(path) as src:
        try:
            return src.colormap(1)
        except ValueError:
            return {}


# ---------------------------------------------------------------------------------- features
def _one_class_of_features(masks, names, where) -> tuple[list[str], dict[str, Any]]:
    """Tell inside and outside of features."""
    if names is not None and len(names) != 2:
        raise DataError(
            f"{masks[0]}: vector masks tell two classes apart",
            expected="two names in classes.txt: outside and inside of the features",
            found=", ".join(names),
            remedy=f"correct {where}, or rasterise the classes into GeoTIFF masks",
        )
    read_features(masks[0])
    return names or ["background", "object"], {}


def read_features(path: PathLike) -> geopandas.GeoDataFrame:
    """Read a vector file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        if Path(path).suffix.lower() == ".parquet":
            return geopandas.read_parquet(path)
        return geopandas.read_file(path)
    except Exception as error:  # GDAL, pyogrio and pyarrow have exceptions of their own
        raise unreadable(str(path), error, "a vector file") from error


def _classes_of_features(masks, label, classes, background) -> tuple[list[str], dict[str, Any]]:
    """Tell the classes of polygons: from an attribute, or one class and what lies between."""
    if label is None:
        return _classes_without_attribute(masks, classes, background)
    values: list[Any] = []
    for path in masks:
        table = read_features(path)
        if label not in table.columns:
            raise ConfigError(
                f"{path} has no attribute {label!r}",
                expected=", ".join(str(name) for name in table.columns if name != "geometry"),
                found=label,
                remedy="correct label",
            )
        column = table[label]
        if column.isna().any():
            raise DataError(
                f"{path}: features without {label}",
                expected="a class for each feature",
                found=f"{int(column.isna().sum())} of {len(table)} without one",
                remedy="complete the attribute, or leave these features out",
            )
        values += [_plain(value) for value in column.unique()]
    values = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(values) > _MOST_CLASSES:
        raise ConfigError(
            f"label={label!r} has {len(values)} different values",
            expected=f"an attribute with the class, at most {_MOST_CLASSES}",
            found=some(values),
            remedy="name another attribute, or give classes={value: name} for those that count",
        )
    given = _names_of_values(values, label, classes)
    names = list(dict.fromkeys(given.values()))
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        names = [str(name) for name in classes]  # in the caller's order, absent ones too
    if background is None and len(names) == 1:
        background = "background"
    if background is not None and background not in names:
        names = [background, *names]
    label_map = {value: names.index(name) for value, name in given.items()}
    label_map |= {value: "ignore" for value in values if value not in given}
    options = dict(
        label_field=label,
        label_map=label_map,
        background="ignore" if background is None else names.index(background),
    )
    return _checked_names(names), options


def _classes_without_attribute(masks, classes, background) -> tuple[list[str], dict[str, Any]]:
    for path in masks:
        read_features(path)
    names = ["object"] if classes is None else [classes] if isinstance(classes, str) else classes
    names = [str(name) for name in (names.values() if isinstance(names, Mapping) else names)]
    if len(names) == 1:
        names = [background or "background", *names]
    if len(names) != 2 or (background is not None and background not in names):
        raise ConfigError(
            "polygons without a class tell two classes apart: inside and outside",
            expected="label= (the attribute with the class), or two names in classes",
            found=", ".join(names),
            remedy="name the attribute: label='...'",
        )
    outside = names.index(background) if background is not None else 0
    return _checked_names(names), dict(label=1 - outside, background=outside)


def _names_of_values(values: list[Any], label: str, classes) -> dict[Any, str]:
    """Name the values of an attribute."""
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
                f"classes: none of its values occurs in {label!r}",
                expected=some(values),
                found=some(classes),
                remedy="correct classes: {value of the attribute: name}",
            )
        return given
    names = [classes] if isinstance(classes, str) else [str(name) for name in classes]
    folded = {name.casefold(): name for name in names}
    if all(str(value).casefold() in folded for value in values):
        return {value: folded[str(value).casefold()] for value in values}
    if all(isinstance(value, int) and 0 <= value < len(names) for value in values):
        return {value: names[value] for value in values}
    raise ConfigError(
        f"classes does not name the values of {label!r}",
        expected=some(values, 16),
        found=", ".join(names),
        remedy="give a name for each value: classes={value: name}; values left out are ignored",
    )


def _plain(value: Any) -> Any:
    """A value as a config can hold it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) else str(value)


# ---------------------------------------------------------------------------------- parts
def hold_out(found: LabelledImages, fraction: float, val: Any, work_dir: Path) -> None:
    """Divide images into a part to train on and one held out; fills ``splits`` and ``how``.

    Args:
        found: Images and labels.
        fraction: Share held out, where ``val`` is None: whole images at one end of the region
            where there are several, an area at one end of a single one.
        val: What is held out: names of images or a file with a list of them, or an area: a vector
            file, a table of polygons, or ``dict(bounds=..., crs=...)``.
        work_dir: Folder for the areas.

    Raises:
        ConfigError: ``val`` is not understood, or leaves nothing to train on.
        DataError: A file cannot be read, or the images are not georeferenced.
    """
    names = [str(path) for path in found.images]
    if val is not None and not _is_area(val):
        if isinstance(val, str | Path):
            from hook.datasets.splits import choose_files

            held = choose_files(names, str(val), "")
        elif not isinstance(val, Iterable):
            raise refused("val", val, "names of images, a file with a list of them, or an area")
        else:
            held = match_names([str(name) for name in val], names, "val")
        rest = [name for name in names if name not in held]
        if not rest:
            raise ConfigError(
                "val holds out every image",
                expected="images left to train on",
                found=f"{len(held)} of {len(names)}",
                remedy="name fewer images, or an area",
            )
        found.splits = dict(train=dict(images=rest), val=dict(images=held))
        found.how = f"as asked: {len(rest)} train, {len(held)} val images"
        return
    if val is not None:
        polygons = _area_of(val)
        found.splits = _areas(found, polygons, work_dir)
        found.how = "by the area asked for"
        return
    check_share("val_fraction", fraction)
    if len(names) > 1:
        order = [str(path) for path in by_place(found.images, found.masks)]
        count = min(max(1, round(fraction * len(order))), len(order) - 1)
        found.splits = dict(train=dict(images=order[:-count]), val=dict(images=order[-count:]))
        found.how = f"by place: {len(order) - count} train, {count} val images"
        return
    found.splits = _cut(found, fraction)
    found.how = f"by area: {100 * fraction:g} % of {found.images[0].name}"


def check_share(name: str, value: Any) -> float:
    """Take the share of the images that is held out.

    Raises:
        ConfigError: It is no number above 0 and below 1.
    """
    remedy = f"correct {name}: a model needs a part it never saw to be judged on"
    return number(name, value, above=0, below=1, remedy=remedy)


def _is_area(val: Any) -> bool:
    if isinstance(val, Mapping | geopandas.GeoDataFrame | geopandas.GeoSeries):
        return True
    return isinstance(val, str | Path) and is_vector_file(val)


def _area_of(val: Any) -> geopandas.GeoSeries:
    """Read an area held out as polygons with a CRS."""
    if isinstance(val, Mapping):
        try:
            box = shapely.box(*(float(value) for value in val["bounds"]))
            shapes = geopandas.GeoSeries([box], crs=val["crs"])
        except Exception as error:  # pyproj's and shapely's own
            raise ConfigError(
                "val is no area",
                expected="dict(bounds=(minx, miny, maxx, maxy), crs='EPSG:...')",
                found=f"{dict(val)} ({error})",
                remedy="correct val",
            ) from None
    else:
        shapes = (val if not isinstance(val, str | Path) else read_features(val)).geometry
    shapes = shapes[~(shapes.isna() | shapes.is_empty)]
    if shapes.crs is None or not len(shapes) or not (shapes.area > 0).all():
        raise DataError(
            "val is no area",
            expected="polygons with a CRS",
            found=f"{len(shapes)} shapes, CRS {shapes.crs}",
            remedy="give polygons, and set their CRS with set_crs",
        )
    return shapes


def _areas(found: LabelledImages, held: geopandas.GeoSeries, work_dir: Path) -> dict[str, Any]:
    """Write the area to train on and the one held out as polygons, for the data set to read."""
    box, crs = _bounds(found.images[0], found.masks)
    held = held.to_crs(crs).union_all()
    footprints = []
    for path in found.images:
        own, own_crs = _bounds(path, found.masks)
        footprints.append(geopandas.GeoSeries([shapely.box(*own)], crs=own_crs).to_crs(crs)[0])
    whole = shapely.union_all(footprints)
    parts = dict(train=whole.difference(held), val=whole.intersection(held))
    for part, area in parts.items():
        if area.area == 0:
            raise ConfigError(
                "val holds out everything" if part == "train" else "val lies outside the images",
                expected="an area that covers a part of the images",
                found=f"{100 * parts['val'].area / whole.area:.0f} % of them covered",
                remedy="correct val, or its CRS",
            )
    file = work_dir / "split.gpkg"
    table = geopandas.GeoDataFrame(dict(split=list(parts)), geometry=list(parts.values()), crs=crs)
    table.to_file(file)
    return {part: dict(split=dict(file=str(file), attribute="split", value=part)) for part in parts}


def _cut(found: LabelledImages, fraction: float) -> dict[str, Any]:
    """Hold out one end of a single image, or of the labelled part of it."""
    path = found.images[0]
    box, crs = _bounds(path, found.masks)
    share = 1 - fraction
    wide = _longer_side(path)
    if found.options.get("background") == "ignore" and is_vector_file(found.masks[0]):
        # Polygons here and there: a share of what is labelled, not of the ground.
        tables = [read_features(mask).to_crs(crs) for mask in found.masks]
        shapes = [shape for t in tables for shape in t.geometry if shape is not None]
        inside = [shape for shape in shapes if shape.intersects(shapely.box(*box))]
        if len(inside) < 2:
            raise DataError(
                f"{path}: too few polygons to hold some out",
                expected="two or more polygons on the image",
                found=f"{len(inside)} of {len(shapes)}",
                remedy="draw more, correct the CRS of the labels, or give val",
            )
        low, high = (
            np.array([shape.bounds for shape in inside]).reshape(-1, 2, 2).transpose(1, 0, 2)
        )
        box = (*np.maximum(low.min(0), box[:2]), *np.minimum(high.max(0), box[2:]))
        wide = box[2] - box[0] >= box[3] - box[1]
        places = np.array([[s.centroid.x, s.centroid.y] for s in inside])[:, 0 if wide else 1]
        along = (
            (places - box[0]) / (box[2] - box[0])
            if wide
            else ((box[3] - places) / (box[3] - box[1]))
        )
        order = np.argsort(along)
        areas = np.cumsum([inside[k].area for k in order])
        last = min(int(np.searchsorted(areas, share * areas[-1])), len(order) - 2)
        share = float(along[order[last : last + 2]].mean())
    train, val = _strips(box, crs, wide, (share, 1.0))
    return dict(train=dict(split=train), val=dict(split=val))


def by_place(images: Sequence[Path], masks: Sequence[Path]) -> list[Path]:
    """Order images along the longer axis of the region they lie in, so that neighbours follow."""
    centres = np.array([_centre(path, masks) for path in images])
    axis = int(np.ptp(centres, axis=0).argmax())
    return [images[k] for k in np.lexsort((centres[:, 1 - axis], centres[:, axis]))]


def _bounds(path: Path, masks: Sequence[Path]) -> tuple[tuple[float, float, float, float], str]:
    """Bounds and CRS (WKT) of an image, or of its mask where only that is georeferenced."""
    name = pair_name(str(path))
    partners = (m for m in masks if not is_vector_file(m) and pair_name(str(m)) == name)
    for source in (path, *partners):
        with open_image(source) as src:
            if src.crs is not None:
                left, bottom, right, top = src.bounds
                # Rows may run to the north.
                return (left, min(bottom, top), right, max(bottom, top)), src.crs.to_wkt()
    raise DataError(
        f"{path} is not georeferenced",
        expected="a CRS and a transform, there or in the mask of its name",
        found="no CRS",
        remedy="write them with `rio edit-info --crs ... --transform ...`",
    )


def _centre(path: Path, masks: Sequence[Path]) -> tuple[float, float]:
    bounds, crs = _bounds(path, masks)
    west, south, east, north = transform_bounds(crs, "EPSG:4326", *bounds)
    return (west + east) / 2 * np.cos(np.radians((south + north) / 2)), (south + north) / 2


def _pixels(path: Path) -> int:
    with open_image(path) as src:
        return src.width * src.height


def _longer_side(path: Path) -> bool:
    """Tell whether an image is at least as wide as high."""
    with open_image(path) as src:
        return src.width >= src.height


def _strips(
    box: tuple[float, float, float, float], crs: str, wide: bool, upto: Sequence[float]
) -> list[dict[str, Any]]:
    """Cut a box along its longer side at shares of it."""
    left, bottom, right, top = map(float, box)
    strips, start = [], 0.0
    for end in upto:
        if wide:
            part = (left + start * (right - left), bottom, left + end * (right - left), top)
        else:
            part = (left, top - end * (top - bottom), right, top - start * (top - bottom))
        strips.append(dict(bounds=part, crs=crs))
        start = end
    return strips
