"""Files that appear under their names only when all of them are complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hook.errors import SceneError


class StagedFiles:
    """Writes a set of files in hidden folders beside their places and moves them at the end.

    Use as a context manager; leaving it removes whatever was not moved, whatever happened.

    Args:
        overwrite: Replace files that exist.
        folder: Name of the hidden folders, so that a later run clears what a killed one left;
            None chooses one that does not exist.
    """

    def __init__(self, overwrite: bool = False, folder: str | None = None) -> None:
        self.overwrite = overwrite
        self._folder = folder
        self._folders: dict[Path, Path] = {}
        self._moves: dict[Path, Path] = {}
        self._stale: list[Path] = []

    def add(self, final: str | Path) -> Path:
        """Say that a file will be made, and get the name to write it under.

        Raises:
            SceneError: It exists and must not be overwritten, its folder is missing or read-only,
                or two outputs have one name.
        """
        final = Path(final)
        if final in self._moves:
            raise SceneError(f"{final}: named twice", remedy="give each output its own name")
        if final.is_dir():
            raise SceneError(
                f"{final}: is a folder",
                expected="a file name",
                remedy="name a file in that folder",
            )
        if final.exists() and not self.overwrite:
            raise SceneError(
                f"{final}: exists already", remedy="choose another name, or allow overwriting"
            )
        parent = final.parent
        if parent not in self._folders:
            try:
                self._folders[parent] = self._make_folder(parent)
            except OSError as error:
                raise SceneError(
                    f"{final}: cannot be written",
                    expected=f"an existing, writable folder {parent}",
                    found=error.strerror,
                    remedy="create the folder or choose another one",
                ) from error
        self._moves[final] = self._folders[parent] / final.name
        return self._moves[final]

    def _make_folder(self, parent: Path) -> Path:
        if self._folder is None:
            return Path(tempfile.mkdtemp(prefix=".hook-", dir=parent))
        folder = parent / self._folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def supersede(self, stale: str | Path) -> None:
        """Name a side file of an overwritten one that would be wrong beside the new one."""
        self._stale.append(Path(stale))

    def commit(self) -> None:
        """Move all files to their places, in the order they were added.

        Raises:
            SceneError: A file cannot be moved.
        """
        try:
            for stale in self._stale:
                stale.unlink(missing_ok=True)
            for final, staged in self._moves.items():
                os.replace(staged, final)
        except OSError as error:
            raise SceneError(
                f"{error.filename2 or error.filename}: cannot be written",
                found=error.strerror,
                remedy="check the free space of the disk and the folder's permissions",
            ) from error

    def __enter__(self) -> "StagedFiles":
        return self

    def __exit__(self, *exception) -> None:
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file so that it appears complete or not at all.

    Args:
        path: The file; its folder is made where it is missing.

    Yields:
        A name beside it to write to. What is written there takes the file's place at the end of
        the block, and is removed where the block fails.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_png(
    path: str | os.PathLike,
    picture: np.ndarray,
    palette: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write a picture; the file appears complete or not at all.

    Args:
        path: File to write; its folder is made where it is missing.
        picture: (H, W, 3) uint8, or (H, W) uint8.
        palette: For (H, W): the colour (r, g, b) of each value, 256 at most.
    """
    from PIL import Image

    image = Image.fromarray(picture)
    if palette is not None:
        image.putpalette(np.asarray(palette, np.uint8).tobytes())
    with atomic_write(path) as partial:
        image.save(partial, format="PNG")
