"""Find, pair and read files, with errors that name them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import geopandas

from hook.errors import ConfigError, DataError
from hook.geo.raster import PICTURE_SUFFIXES, RASTER_SUFFIXES
from hook.geo.vector import VECTOR_SUFFIXES, is_vector_file, read_vectors, split_layer

IGNORE_INDEX = 255
"""Label of ignored pixels, unless the dataset meta sets a different one."""
# Name endings of images and masks, ignored when pairing by name.
ROLE_ENDINGS = ("_image", "_img", "_sat", "_mask", "_masks", "_label", "_labels", "_gt", "_seg")

# Endings of files that a name in a list may have or lack.
NAME_SUFFIXES = (
    *(*RASTER_SUFFIXES, *VECTOR_SUFFIXES, *PICTURE_SUFFIXES, ".bmp", ".gif", ".webp"),
    *(".npy", ".npz", ".nc", ".hdf", ".h5", ".csv", ".json"),
)


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
        paths: One or more folders, whose links to folders are followed, or files; of vector files
            also ``FILE|layername=NAME``.
        data_root: Folder for relative paths.
        glob: One or more patterns for names inside folders; None matches ``suffixes``, and
            pictures (PNG, JPEG) in a folder without them.
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
        if is_vector_file(path) and os.path.exists(split_layer(path)[0]):
            files.add(str(path))
        elif path.is_dir():
            matches = search_folder(path, globs or ["*"])
            for kinds in (suffixes, PICTURE_SUFFIXES):
                found = {str(m) for m in matches if globs or m.suffix.lower() in kinds}
                if found:
                    break
            else:
                raise DataError(
                    f"{option}: no file in {path} matches",
                    expected=", ".join(
                        globs or [f"*{end}" for end in (*suffixes, *PICTURE_SUFFIXES)]
                    ),
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


def search_folder(folder: Path, patterns: Iterable[str]) -> set[Path]:
    """Find files below a folder; links to folders are followed, each folder once.

    Args:
        folder: The folder.
        patterns: Patterns of names, as of :meth:`pathlib.Path.rglob`.
    """
    patterns = list(patterns)
    found = {match for pattern in patterns for match in folder.rglob(pattern)}
    seen: set[str] = set()
    roots = [str(folder)]
    for root in roots:  # grows by the links found
        if os.path.realpath(root) in seen:
            continue
        for path, names, files in os.walk(root):
            seen.add(os.path.realpath(path))
            if root != roots[0]:
                reached = (Path(path, name) for name in files)
                found |= {one for one in reached if any(map(one.match, patterns))}
            names.sort()
            roots += [link for name in names if os.path.islink(link := os.path.join(path, name))]
            names[:] = [n for n in names if os.path.realpath(os.path.join(path, n)) not in seen]
    return {match for match in found if match.is_file()}


def stem_of(name: str | Path) -> str:
    """Return a file name without the ending of an image or mask: ``scene.v2`` has none."""
    path = Path(name)
    return path.stem if path.suffix.lower() in NAME_SUFFIXES else path.name


def by_name(pairs: Iterable[tuple[str, Any]], where: object) -> dict[str, Any]:
    """Return files by name.

    Args:
        pairs: Names and files.
        where: What the files are, or their folder, for the message.

    Raises:
        DataError: Two files have one name.
    """
    found: dict[str, Any] = {}
    for name, file in pairs:
        if found.setdefault(name, file) != file:
            raise DataError(
                f"{where}: two files are named {name}",
                expected="one file of each name",
                found=f"{found[name]}, {file}",
                remedy="rename or remove one of them",
            )
    return found


def pair_name(path: str) -> str:
    """Return the part of a file name that an image and its mask share."""
    stem = Path(split_layer(path)[0]).stem.casefold()
    for ending in ROLE_ENDINGS:
        if stem.endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return stem


def read_features(
    path: str | Path, layer: str | int | None = None, attribute: str | None = None, option: str = ""
) -> geopandas.GeoDataFrame:
    """Read the features of a vector file that have a geometry.

    Args:
        path: The file, or ``FILE|layername=NAME``.
        layer: Layer name or index; see :func:`hook.geo.vector.choose_layer`.
        attribute: Required attribute.
        option: Option that names the attribute in messages.

    Raises:
        ConfigError: If the attribute is missing.
        DataError: If the file cannot be read or has no CRS.
    """
    table = read_vectors(path, layer=layer, geometries=("Polygon",))
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
