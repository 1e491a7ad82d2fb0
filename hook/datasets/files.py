"""Finding and opening files, with errors that name them."""

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from hook.errors import DataError

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".img", ".jp2")
VECTOR_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb", ".parquet")
# Endings that say "image" or "mask"; without them the names of a pair are equal.
ROLE_ENDINGS = ("_image", "_img", "_sat", "_mask", "_masks", "_label", "_labels", "_gt", "_seg")


def some(items: Iterable[Any], limit: int = 8) -> str:
    """Join the first items for a message, and count the rest."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def names_of(paths: Iterable[str]) -> str:
    """Join the first file names for a message, and count the rest."""
    return some(Path(path).name for path in paths)


def unreadable(path: str, error: Exception, what: str = "a raster file") -> DataError:
    """Make the error for a file that a library refused."""
    return DataError(
        f"{path} cannot be read",
        expected=f"{what} that GDAL can open",
        found=" ".join(str(error.__cause__ or error).split()) or type(error).__name__,
        remedy="restore the file, or leave it out of the folder or the split",
    )


def list_files(
    paths: str | Path | Sequence[str | Path],
    data_root: str,
    glob: str | Sequence[str] | None,
    suffixes: Sequence[str],
    option: str,
) -> list[str]:
    """List the files of an option: folders (searched through and through), files, or both.

    Args:
        paths: One or more folders or files; relative ones are looked for below ``data_root``.
        data_root: Folder for relative paths.
        glob: One or more patterns for names inside folders; None for every file with one of
            ``suffixes``.
        suffixes: Lower-case endings.
        option: Name of the option, for messages.

    Returns:
        Sorted paths without repetition.

    Raises:
        DataError: If a path does not exist or nothing matches.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    globs = [glob] if isinstance(glob, str) else list(glob or ())
    files: set[str] = set()
    for item in given:
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
            f"{option} names no file",
            expected="at least one folder or file",
            found=paths,
            remedy=f"correct {option}",
        )
    return sorted(files)


def is_vector_file(path: str | Path) -> bool:
    """Tell by its ending whether a file holds features rather than pixels."""
    return Path(path).suffix.lower() in (*VECTOR_SUFFIXES, ".json")


def pair_name(path: str) -> str:
    """Reduce a file name to what an image and its mask share."""
    stem = Path(path).stem.casefold()
    for ending in ROLE_ENDINGS:
        if stem.endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return stem


def match_names(names: list[str], files: list[str], origin: str) -> list[str]:
    """Find the files that a list names, by any tail of their path, with or without suffix."""
    tails: dict[str, set[str]] = {}
    for path in files:
        parts = Path(path).parts
        for start in range(len(parts)):
            tail = Path(*parts[start:])
            for key in (tail.as_posix(), tail.with_suffix("").as_posix()):
                tails.setdefault(key, set()).add(path)
    chosen, missing, ambiguous = [], [], []
    for name in names:
        key = name.replace("\\", "/")
        matches = tails.get(key) or tails.get(Path(key).with_suffix("").as_posix(), set())
        if not matches:
            missing.append(name)
        elif len(matches) > 1:
            ambiguous.append(name)
        else:
            chosen += matches
    if missing or ambiguous or not names:
        raise DataError(
            f"{origin}: names that are not exactly one image",
            expected=f"names of files among {some(Path(path).name for path in files)}",
            found=f"missing: {some(missing) or 'none'}; ambiguous: {some(ambiguous) or 'none'}"
            if names
            else "no name at all",
            remedy="correct the list or images; give names with their folder where two are alike",
        )
    if len(set(chosen)) < len(chosen):
        twice = sorted({path for path in chosen if chosen.count(path) > 1})
        raise DataError(
            f"{origin}: an image is named twice",
            expected="each image once",
            found=some(twice),
            remedy="remove the repetition: it would count twice",
        )
    return sorted(chosen)


@contextmanager
def open_raster(path: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster and close it again.

    Args:
        path: The file.

    Yields:
        The open dataset.

    Raises:
        DataError: In place of any error of GDAL's while it is open.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            src = rasterio.open(path)
        with src:
            yield src
    except RasterioError as error:
        raise unreadable(path, error) from error


def check_complete(src: rasterio.DatasetReader) -> None:
    """Check that a file is not cut off, for a TIFF without reading its pixels.

    Args:
        src: Open raster.

    Raises:
        DataError: If a block of the full resolution lies beyond the end of the file.
        RasterioIOError: If the last pixel of another format cannot be read.
    """
    path = Path(src.name)
    if src.driver != "GTiff" or not path.is_file():
        src.read(src.count, window=Window(src.width - 1, src.height - 1, 1, 1))
        return
    size = path.stat().st_size
    rows, cols = src.block_shapes[0]
    pixelwise = src.interleaving is not None and src.interleaving.name == "pixel"
    end = 0
    for band in (1,) if pixelwise else src.indexes:
        for y in range(math.ceil(src.height / rows)):
            for x in range(math.ceil(src.width / cols)):
                start = src.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band)
                length = src.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=band)
                if start is not None and length is not None:
                    end = max(end, int(start) + int(length))
    if end > size:
        raise DataError(
            f"{path} is cut off",
            expected=f"at least {end} bytes",
            found=f"{size} bytes",
            remedy="copy or download the file again",
        )
