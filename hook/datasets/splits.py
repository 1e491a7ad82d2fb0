"""Select the part of a folder in a split: by list, by attribute, by window or by area."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.errors import CRSError

from hook.datasets.files import read_features, some, stem_of
from hook.datasets.grids import Area
from hook.errors import ConfigError, DataError
from hook.geo.raster import open_raster, unreadable
from hook.geo.vector import is_vector_file, split_layer, table_text


def _values(value: Any) -> set[str]:
    is_sequence = isinstance(value, Sequence | set) and not isinstance(value, str)
    return {table_text(each) for each in value} if is_sequence else {table_text(value)}


def _no_match(what: str, wanted: set[str], seen: Iterable[Any]) -> DataError:
    return DataError(
        f"{what} never has the value of the split",
        expected=some(sorted(wanted)),
        found=some(sorted({str(each) for each in seen})) or "no value",
        remedy="correct split['value']",
    )


def find_file(data_root: str, path: str | Path, option: str) -> Path:
    """Find the file of an option, relative to the working directory or to ``data_root``."""
    for candidate in (Path(path), Path(data_root, path)):
        if os.path.exists(split_layer(candidate)[0]):
            return candidate
    raise DataError(
        f"{option}: {path} does not exist",
        expected=f"a file at this path, or at this path below {data_root or '.'}",
        found="nothing",
        remedy=f"correct {option}",
    )


def choose_files(
    files: list[str], split: str | Path | Sequence[str] | Mapping[str, Any] | None, data_root: str
) -> list[str]:
    """Return the images of a split, and all images of a split by area.

    Args:
        files: The images.
        split: As in :class:`hook.datasets.GeoTIFFFolder`.
        data_root: Folder for relative paths.

    Raises:
        ConfigError: If the split is invalid.
        DataError: If it names missing files, or none.
    """
    if split is None:
        return files
    if isinstance(split, str | os.PathLike):
        path = find_file(data_root, split, "split")
        return sorted(match_names(read_split_list(path), files, f"split list {path}"))
    if not isinstance(split, Mapping):
        return sorted(match_names([str(name) for name in split], files, "split"))
    unknown = set(split) - {"attribute", "value", "file", "layer", "size", "bounds", "crs"}
    if unknown or not ({"attribute", "bounds", "file"} & set(split)):
        raise ConfigError(
            "GeoTIFFFolder: split",
            expected="dict(attribute=..., value=...), optionally with file=..., or "
            "dict(bounds=..., crs=...)",
            found=dict(split),
            remedy="correct split",
        )
    if "size" in split and not (
        isinstance(split["size"], int)
        and split["size"] > 0
        and "file" in split
        and not is_vector_file(split["file"])
    ):
        raise ConfigError(
            "GeoTIFFFolder: split by windows",
            expected="the side of the windows in pixels, and a CSV with columns x and y: "
            "dict(file='windows.csv', attribute=..., value=..., size=256)",
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
    if is_vector_file(split["file"]):
        return files
    return _files_of_table(files, split, data_root)


def _files_of_table(files: list[str], split: Mapping[str, Any], data_root: str) -> list[str]:
    path, rows = _rows_of_table(split, data_root)
    names = [name for name, _ in rows]
    if "size" in split:  # one row per window
        names = list(dict.fromkeys(names))
    return sorted(match_names(names, files, str(path)))


def _rows_of_table(
    split: Mapping[str, Any], data_root: str
) -> tuple[Path, list[tuple[str, dict[str, str]]]]:
    """Return the path of the table of a split, and the image name and values of its rows."""
    path = find_file(data_root, split["file"], "split file")
    attribute = split.get("attribute")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(str(path), error, "a CSV table") from error
    if attribute not in columns or len(columns) < 2:
        raise ConfigError(
            f"{path} has no column {attribute!r}",
            expected="a CSV with a header: file names, then attributes",
            found=", ".join(columns),
            remedy="correct split['attribute']",
        )
    wanted = _values(split["value"])
    key = columns[1] if columns[0] == attribute else columns[0]
    found = [(row[key].strip(), row) for row in rows if table_text(row[attribute]) in wanted]
    if not found:
        raise _no_match(f"{path}: {attribute}", wanted, {row[attribute] for row in rows})
    return path, found


def split_windows(
    files: list[str], split: str | Path | Sequence[str] | Mapping[str, Any] | None, data_root: str
) -> dict[str, list[tuple[int, int, int, int]]] | None:
    """Return the windows (row, col, height, width) of each image of a split by windows.

    Args:
        files: The images of the split.
        split: As in :class:`hook.datasets.GeoTIFFFolder`; None is returned for other splits.
        data_root: Folder for relative paths.

    Raises:
        DataError: If the position of a window is missing, or a window is listed twice.
    """
    if not isinstance(split, Mapping) or "size" not in split:
        return None
    path, rows = _rows_of_table(split, data_root)
    names = list(dict.fromkeys(name for name, _ in rows))
    file_of = dict(zip(names, match_names(names, files, str(path)), strict=True))
    windows: dict[str, list[tuple[int, int, int, int]]] = {file: [] for file in files}
    for name, row in rows:
        try:
            corner = int(row["y"]), int(row["x"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: the position of a window of {name} is missing",
                expected="columns x and y with its first column and row in the image",
                found=row,
                remedy="complete the table, or remove size from split",
            ) from error
        window = (*corner, split["size"], split["size"])
        if window in windows[file_of[name]]:
            raise DataError(
                f"{path}: a window of {name} is listed twice",
                expected="each window once",
                found=row,
                remedy="remove the duplicate: it would count twice in all metrics",
            )
        windows[file_of[name]].append(window)
    return windows


def _files_of_tag(files: list[str], attribute: str, wanted: set[str]) -> list[str]:
    chosen, seen = [], set()
    for path in files:
        with open_raster(path) as src:
            value = src.tags().get(attribute)
        seen.add(value)
        if value is not None and table_text(value) in wanted:
            chosen.append(path)
    if not chosen:
        raise _no_match(f"GeoTIFF tag {attribute!r} of {len(files)} images", wanted, seen)
    return chosen


def split_area(
    split: str | Path | Sequence[str] | Mapping[str, Any] | None, data_root: str, default_crs: str
) -> Area | None:
    """Return the area of a split by box or polygons, None for other splits.

    Args:
        split: As in :class:`hook.datasets.GeoTIFFFolder`.
        data_root: Folder for relative paths.
        default_crs: CRS (WKT) of a box without one.

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
    if "file" not in split or not is_vector_file(split["file"]):
        return None
    path = find_file(data_root, split["file"], "split file")
    attribute = split.get("attribute")
    table = read_features(path, split.get("layer"), attribute, "split['attribute']")
    if attribute is not None:
        wanted = _values(split["value"])
        values = table[attribute].map(table_text)
        if not values.isin(wanted).any():
            raise _no_match(f"{path}: {attribute}", wanted, set(values))
        table = table[values.isin(wanted)]
    return Area(table.crs.to_wkt(), tuple(table.total_bounds), tuple(table.geometry))


def read_split_list(path: str | Path) -> list[str]:
    """Read the names of a split, in the order of the file and with ``/`` between folders.

    Args:
        path: Text file with one relative name per line (``Class/file.jpg``), or a CSV file in the
            format of the paper's authors, ``index,path,label`` below a header line.

    Raises:
        DataError: If the file is missing, is empty or has a duplicate name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"split list {path} cannot be read",
            expected="a text file with one relative name per line, or the authors' CSV",
            found=error,
            remedy="correct the path, or create a list with tools/dataset_tools/make_splits.py",
        ) from error
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(text.splitlines()) if row][1:]
        short = next((row for row in rows if len(row) < 2), None)
        if short is not None:
            raise DataError(
                f"split list {path} is not a list of files",
                expected="rows of index,path,label below a header",
                found=",".join(short),
                remedy="put the file names in the second column, or use a .txt list",
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
            remedy="add file names, or create a list with tools/dataset_tools/make_splits.py",
        )
    if len(set(names)) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"split list {path} names a file twice",
            expected="each name once",
            found=duplicate,
            remedy="remove the duplicate: it would count twice in all metrics",
        )
    return names


def match_names(
    names: Sequence[str], files: Sequence[str], origin: str, ignore_folder: bool = False
) -> list[str]:
    """Return the file of each name, matching any tail of the path, with or without suffix.

    Args:
        names: File names, with or without folders.
        files: The files.
        origin: Source of the names, for messages.
        ignore_folder: Ignore the folder of a name if no file is in such a folder.

    Raises:
        DataError: If there is no name, or one is missing, ambiguous or duplicated.
    """
    keys = [Path(name.replace("\\", "/")) for name in names]
    depth = max((len(key.parts) for key in keys), default=1)
    tails: dict[Path, set[str]] = {}
    for path in files:
        parts = Path(path).parts[-depth:]
        for start in range(len(parts)):
            tail = Path(*parts[start:])
            for key in (tail, tail.with_suffix("")):
                tails.setdefault(key, set()).add(path)
    chosen, missing, ambiguous = [], [], []
    for name, key in zip(names, keys, strict=True):
        spellings = [
            key,
            key.parent / stem_of(key),
            *([Path(key.name), Path(stem_of(key))] * ignore_folder),
        ]
        matches = next((tails[each] for each in spellings if each in tails), set())
        if not matches:
            missing.append(name)
        elif len(matches) > 1:
            ambiguous.append(name)
        else:
            chosen += matches
    if missing or ambiguous or not names:
        raise DataError(
            f"{origin}: names that do not match exactly one image",
            expected=f"names of files among {some(Path(path).name for path in files)}",
            found=f"missing: {some(missing) or 'none'}; ambiguous: {some(ambiguous) or 'none'}"
            if names
            else "no names",
            remedy="correct names of images that the data set does not contain; add the folder to "
            "ambiguous names",
        )
    if len(set(chosen)) < len(chosen):
        duplicates = sorted(path for path, count in Counter(chosen).items() if count > 1)
        raise DataError(
            f"{origin}: an image is named twice",
            expected="each image once",
            found=some(duplicates),
            remedy="remove the duplicate: it would count twice",
        )
    return chosen
