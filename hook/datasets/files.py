"""Finding files and pairing them, with errors that name them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hook.errors import DataError

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
