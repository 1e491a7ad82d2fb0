"""Find, pair and read files, with errors that name them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import geopandas

from hook.errors import ConfigError, DataError
from hook.geo.vector import read_vectors

IGNORE_INDEX = 255
"""Label of ignored pixels, unless the dataset meta sets a different one."""
# Name endings of images and masks, ignored when pairing by name.
ROLE_ENDINGS = ("_image", "_img", "_sat", "_mask", "_masks", "_label", "_labels", "_gt", "_seg")


def some(items: Iterable[Any], limit: int = 8) -> str:
    """Join the first items for a message and count the remaining ones."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def names_of(paths: Iterable[str]) -> str:
    """Join the first file names for a message and count the remaining ones."""
    return some(Path(path).name for path in paths)


def list_files(
    paths: str | Path | Sequence[str | Path],
    data_root: str,
    glob: str | Sequence[str] | None,
    suffixes: Sequence[str],
    option: str,
) -> list[str]:
    """List the files of an option: folders (searched recursively), files, or both.

    Args:
        paths: One or more folders or files.
        data_root: Folder for relative paths.
        glob: One or more patterns for names inside folders; None matches ``suffixes``.
        suffixes: Lower-case endings.
        option: Name of the option in messages.

    Returns:
        Sorted unique paths.

    Raises:
        DataError: If a path does not exist or nothing matches.
    """
    items = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    globs = [glob] if isinstance(glob, str) else list(glob or ())
    files: set[str] = set()
    for item in items:
        path = Path(data_root or "", item)
        if path.is_dir():
            if globs:
                matches = {match for pattern in globs for match in path.rglob(pattern)}
            else:
                matches = {match for match in path.rglob("*") if match.suffix.lower() in suffixes}
            found = {str(match) for match in matches if match.is_file()}
            if not found:
                raise DataError(
                    f"{option}: no file in {path} matches",
                    expected=", ".join(globs or [f"*{suffix}" for suffix in suffixes]),
                    found=some([match.name for match in sorted(path.iterdir())]) or "nothing",
                    remedy=f"correct {option} or its glob",
                )
            files |= found
        elif path.is_file():
            files.add(str(path))
        else:
            raise DataError(
                f"{option}: {path} does not exist",
                expected="a folder or a file",
                found="nothing",
                remedy=f"correct {option} or data_root",
            )
    if not files:
        raise DataError(
            f"{option} is empty",
            expected="at least one folder or file",
            found=paths,
            remedy=f"correct {option}",
        )
    return sorted(files)


def pair_name(path: str) -> str:
    """Return the part of a file name that an image and its mask share."""
    stem = Path(path).stem.casefold()
    for ending in ROLE_ENDINGS:
        if stem.endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return stem


def read_features(
    path: str | Path, layer: str | int | None = None, attribute: str | None = None, option: str = ""
) -> geopandas.GeoDataFrame:
    """Read the features of a vector file that have a geometry.

    Args:
        path: The file.
        layer: Layer name or index; None for the first.
        attribute: Required attribute.
        option: Option that names the attribute in messages.

    Raises:
        ConfigError: If the attribute is missing.
        DataError: If the file cannot be read or has no CRS.
    """
    table = read_vectors(path, layer=layer)
    if attribute is not None and attribute not in table.columns:
        raise ConfigError(
            f"{path} has no attribute {attribute!r}",
            expected=f"{option} to be one of: "
            + ", ".join(str(name) for name in table.columns if name != table.geometry.name),
            found=attribute,
            remedy=f"correct {option}",
        )
    table = table[~(table.geometry.isna() | table.geometry.is_empty)]
    if len(table) and table.crs is None:
        raise DataError(
            f"{path} has no CRS",
            expected="a coordinate reference system",
            found="none",
            remedy="add it (a .prj file for a shapefile)",
        )
    return table
