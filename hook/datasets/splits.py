"""Which part of a folder a split takes: by list, by attribute or by area."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hook.datasets.files import match_names, some
from hook.datasets.grids import Area
from hook.errors import ConfigError, DataError
from hook.geo.raster import open_raster, unreadable
from hook.geo.vector import is_vector_file


def _values(value: Any) -> set[str]:
    many = isinstance(value, Sequence | set) and not isinstance(value, str)
    return {str(each) for each in value} if many else {str(value)}


def _no_match(what: str, wanted: set[str], seen: Iterable[Any]) -> DataError:
    return DataError(
        f"{what} never has the value of the split",
        expected=some(sorted(wanted)),
        found=some(sorted({str(each) for each in seen})) or "no value",
        remedy="correct split['value']",
    )


def find_file(data_root: str, path: str | Path, option: str) -> Path:
    """Find a file that an option names, as given or below ``data_root``."""
    for candidate in (Path(path), Path(data_root, path)):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{option}: {path} does not exist",
        expected=f"a file at this path, here or below {data_root or '.'}",
        found="nothing",
        remedy=f"correct {option}",
    )


def choose_files(
    files: list[str], split: str | Path | Sequence[str] | Mapping[str, Any] | None, data_root: str
) -> list[str]:
    """Choose the images of a split; a split by area takes all.

    Args:
        files: The images.
        split: As in :class:`hook.datasets.GeoTIFFFolder`.
        data_root: Folder for relative paths.

    Returns:
        The images chosen.

    Raises:
        ConfigError: If the split is not understood.
        DataError: If it names files that are missing, or none.
    """
    if split is None:
        return files
    if not isinstance(split, Mapping):
        return _files_of_list(files, split, data_root)
    unknown = set(split) - {"attribute", "value", "file", "layer", "bounds", "crs"}
    if unknown or not ({"attribute", "bounds", "file"} & set(split)):
        raise ConfigError(
            "GeoTIFFFolder: split",
            expected="dict(attribute=..., value=...), with file=... or without, or "
            "dict(bounds=..., crs=...)",
            found=dict(split),
            remedy="correct split",
        )
    if "attribute" in split and "value" not in split:
        raise ConfigError(
            "GeoTIFFFolder: split by attribute without a value",
            expected="dict(attribute=..., value=...)",
            found=dict(split),
            remedy="add value",
        )
    if "bounds" in split:
        return files
    if "file" not in split:
        return _files_of_tag(files, split["attribute"], _values(split["value"]))
    if is_vector_file(split["file"]) or str(split["file"]).lower().endswith(".json"):
        return files
    return _files_of_table(files, split, data_root)


def _files_of_list(
    files: list[str], split: str | Path | Sequence[str], data_root: str
) -> list[str]:
    if not isinstance(split, str | os.PathLike):
        return match_names([str(name) for name in split], files, "split")
    path = find_file(data_root, split, "split")
    return match_names(read_split_list(path), files, f"split list {path}")


def _files_of_table(files: list[str], split: Mapping[str, Any], data_root: str) -> list[str]:
    path = find_file(data_root, split["file"], "split file")
    attribute = split.get("attribute")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(str(path), error, "a CSV table") from error
    if attribute not in columns or len(columns) < 2:
        raise ConfigError(
            f"{path} has no column {attribute!r}",
            expected="a CSV with a header: file names first, then attributes",
            found=", ".join(columns),
            remedy="correct split['attribute']",
        )
    wanted = _values(split["value"])
    names = [row[columns[0]] for row in rows if str(row[attribute]) in wanted]
    if not names:
        raise _no_match(f"{path}: {attribute}", wanted, {row[attribute] for row in rows})
    return match_names(names, files, str(path))


def _files_of_tag(files: list[str], attribute: str, wanted: set[str]) -> list[str]:
    chosen, seen = [], set()
    for path in files:
        with open_raster(path) as src:
            value = src.tags().get(attribute)
        seen.add(value)
        if value in wanted:
            chosen.append(path)
    if not chosen:
        raise _no_match(f"GeoTIFF tag {attribute!r} of {len(files)} images", wanted, seen)
    return chosen


def split_area(
    split: str | Path | Sequence[str] | Mapping[str, Any] | None, data_root: str, default_crs: str
) -> Area | None:
    """Take the area of a split by box or by polygons.

    Args:
        split: As in :class:`hook.datasets.GeoTIFFFolder`.
        data_root: Folder for relative paths.
        default_crs: CRS (WKT) of a box without one.

    Returns:
        The area; None where the split is not by area.

    Raises:
        ConfigError: If the box, the CRS or the attribute is wrong.
        DataError: If the file cannot be read, or no polygon has the value.
    """
    if not isinstance(split, Mapping):
        return None
    if "bounds" in split:
        try:
            minx, miny, maxx, maxy = (float(value) for value in split["bounds"])
            crs = CRS.from_user_input(split.get("crs") or default_crs).to_wkt()
        except (TypeError, ValueError, CRSError) as error:
            raise ConfigError(
                "GeoTIFFFolder: split",
                expected="dict(bounds=(minx, miny, maxx, maxy), crs='EPSG:...')",
                found=f"{dict(split)} ({error})",
                remedy="correct split",
            ) from error
        if not (minx < maxx and miny < maxy):
            raise ConfigError(
                "GeoTIFFFolder: split has an empty box",
                expected="minx < maxx and miny < maxy",
                found=split["bounds"],
                remedy="correct split['bounds']",
            )
        return Area(crs, (minx, miny, maxx, maxy))
    if "file" not in split or str(split["file"]).lower().endswith(".csv"):
        return None
    path = find_file(data_root, split["file"], "split file")
    try:
        layer = {} if split.get("layer") is None else {"layer": split["layer"]}
        table = gpd.read_file(path, **layer)
    except Exception as error:
        # pyogrio, fiona and GDAL each have exceptions of their own.
        raise unreadable(str(path), error, "a vector file") from error
    if table.crs is None:
        raise DataError(
            f"{path} has no CRS",
            expected="a coordinate reference system",
            found="none",
            remedy="add it (a .prj file for a shapefile)",
        )
    if "attribute" in split:
        attribute = split["attribute"]
        if attribute not in table.columns:
            raise ConfigError(
                f"{path} has no attribute {attribute!r}",
                expected=", ".join(str(name) for name in table.columns if name != "geometry"),
                found=attribute,
                remedy="correct split['attribute']",
            )
        wanted = _values(split["value"])
        values = table[attribute].astype(str)
        if not values.isin(wanted).any():
            raise _no_match(f"{path}: {attribute}", wanted, set(values))
        table = table[values.isin(wanted)]
    table = table[~(table.geometry.isna() | table.geometry.is_empty)]
    return Area(table.crs.to_wkt(), tuple(table.total_bounds), tuple(table.geometry))


def read_split_list(path: str | Path) -> list[str]:
    """Read the names of a split.

    Two forms are read: a text file with one relative name per line (``Class/file.jpg``), and a
    CSV file as the paper's authors give it, ``index,path,label`` below a header line.

    Args:
        path: The list file.

    Returns:
        The names, in the order of the file, with ``/`` between folders.

    Raises:
        DataError: If the file is missing, holds no name or holds a name twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"split list {path} cannot be read",
            expected="a text file with one relative name per line, or the authors' CSV",
            found=error,
            remedy="correct the name of the list, or draw one with "
            "tools/dataset_tools/make_splits.py",
        ) from error
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(text.splitlines()) if row][1:]
        short = next((row for row in rows if len(row) < 2), None)
        if short is not None:
            raise DataError(
                f"split list {path} is no list of files",
                expected="rows of index,path,label below a header",
                found=",".join(short),
                remedy="give the file names in the second column, or use a .txt list",
            )
        names = [row[1].strip() for row in rows]
    else:
        names = [line.strip() for line in text.splitlines()]
    names = [name.replace("\\", "/") for name in names if name and not name.startswith("#")]
    if not names:
        raise DataError(
            f"split list {path} is empty",
            expected="at least one name",
            found="none",
            remedy="name files in it, or draw one with tools/dataset_tools/make_splits.py",
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"split list {path} names a file twice",
            expected="each name once",
            found=twice,
            remedy="remove the repetition: it would count twice in every metric",
        )
    return names


def choose_samples(path: str | Path, images: Sequence[str], dataset: str) -> list[int]:
    """Choose the samples that a split list names, by any tail of their path that is unique.

    Args:
        path: The list, see :func:`read_split_list`.
        images: Image file of each sample.
        dataset: Name of the data set, for messages.

    Returns:
        Indexes of samples in the order of the list.

    Raises:
        DataError: If the list cannot be read, or names a file that is missing, or one twice.
    """
    names = read_split_list(path)
    by_name = _index_names(images)
    found, missing = [], []
    for name in names:
        index = by_name.get(name)
        if index is None:
            index = by_name.get(str(Path(name).with_suffix("").as_posix()))
        if index is None:
            index = by_name.get(Path(name).name, by_name.get(Path(name).stem))
        (missing if index is None else found).append(name if index is None else index)
    if missing:
        raise DataError(
            f"split list {path} names files that {dataset} does not hold",
            expected=f"{len(names)} files",
            found=f"{len(missing)} missing, the first: {', '.join(missing[:3])}",
            remedy="use the list that belongs to this download, or complete the download",
        )
    if len(set(found)) != len(found):
        raise DataError(
            f"split list {path} names a file twice",
            expected=f"{len(names)} different files",
            found=f"{len(set(found))} different files",
            remedy="give the names with their folders (Class/file.jpg)",
        )
    return found


def _index_names(paths: Iterable[str]) -> dict[str, int]:
    """Map every tail of a path (with and without suffix) that only one path has to its index."""
    index: dict[str, int] = {}
    ambiguous: set[str] = set()
    for position, path in enumerate(paths):
        parts = Path(path).parts[-3:]
        tails = {"/".join(parts[start:]) for start in range(len(parts))}
        tails |= {str(Path(tail).with_suffix("").as_posix()) for tail in tails}
        for tail in tails:
            if tail in index:
                ambiguous.add(tail)
            index[tail] = position
    for tail in ambiguous:
        del index[tail]
    return index
