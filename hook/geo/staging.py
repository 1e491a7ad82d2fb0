"""Output files that appear only when all of them are complete."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hook.errors import SceneError


def check_output(output: str | os.PathLike, inputs: Iterable[object]) -> None:
    """Refuse an output that is one of the inputs; inputs that are not paths are skipped.

    Raises:
        SceneError: The output is an input.
    """
    paths = [Path(path) for path in inputs if isinstance(path, str | os.PathLike)]
    if Path(output).exists() and any(p.exists() and p.samefile(output) for p in paths):
        raise SceneError(f"{output}: is an input", remedy="use a different output name")


class StagedFiles:
    """Writes a set of files in hidden folders and moves them to their final names at the end.

    Use as a context manager; on exit, files that were not moved are removed.

    Args:
        overwrite: Replace existing files.
        folder: Name of the hidden folders, so that a later run removes the files of a killed one;
            None for a new name.
    """

    def __init__(self, overwrite: bool = False, folder: str | None = None) -> None:
        self.overwrite = overwrite
        self._folder = folder
        self._folders: dict[Path, Path] = {}
        self._moves: dict[Path, Path] = {}
        self._stale: list[Path] = []

    def add(self, final: str | Path) -> Path:
        """Add a file; return the temporary name to write it to.

        Raises:
            SceneError: It exists and must not be overwritten, its folder is missing or read-only,
                or two outputs have the same name.
        """
        final = Path(final)
        if final in self._moves:
            raise SceneError(f"{final}: named twice", remedy="use a unique name for each output")
        if final.is_dir():
            raise SceneError(
                f"{final}: is a folder", expected="a file name", remedy="name a file in that folder"
            )
        if final.exists() and not self.overwrite:
            raise SceneError(
                f"{final}: exists already", remedy="choose a different name or allow overwriting"
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
                    remedy="create the folder or choose a different one",
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
        """Add a side file of an overwritten file that has to be deleted."""
        self._stale.append(Path(stale))

    def commit(self) -> None:
        """Move all files to their final names, in the order they were added.

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
                remedy="check the free disk space and the permissions of the folder",
            ) from error

    def __enter__(self) -> "StagedFiles":
        return self

    def __exit__(self, *exception) -> None:
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file atomically, creating its folder if missing.

    Yields:
        Temporary name to write to; renamed at the end of the block, removed if the block fails.
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
    """Write a picture atomically, creating its folder if missing.

    Args:
        path: File to write.
        picture: (H, W, 3) uint8, or (H, W) uint8.
        palette: For (H, W): the colour (r, g, b) of each value, at most 256.
    """
    from PIL import Image

    image = Image.fromarray(picture)
    if palette is not None:
        image.putpalette(np.asarray(palette, np.uint8).tobytes())
    with atomic_write(path) as partial:
        image.save(partial, format="PNG")
