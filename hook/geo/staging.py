"""Output files that appear only when all of them are complete."""

import errno
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hook.errors import HookError, SceneError, cannot_write
from hook.geo.side_files import (
    COMPANIONS,
    identity,
    is_own_side_file,
    is_stac_item,
    side_files,
)

# Reading does not fail with these.
_OF_WRITING = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.ENAMETOOLONG,
}
_PREFIX = ".hook-"  # of hidden folders
_LONGEST_NAME = 200  # bytes of a staged name: drivers append to it, of 255 that are allowed


def check_output(
    output: str | os.PathLike | Iterable[str | os.PathLike],
    inputs: Iterable[object],
    error: type[HookError] = SceneError,
) -> None:
    """Refuse outputs that are files, or in folders, that inputs are read from, or STAC Items.

    Args:
        output: File to write, or several.
        inputs: See :func:`hook.geo.sources.local_files`.
        error: Class of the error.

    Raises:
        SceneError: An output, or a file that would be deleted with it, is or belongs to an input
            under any name, or is a STAC Item, or its name cannot be used; or ``error``.
    """
    outputs = [output] if isinstance(output, str | os.PathLike) else list(output)
    if replaced := replaced_by(outputs, error):
        _refuse(replaced, _files_of(inputs), error)
        _refuse_items(replaced, error)


def replaced_by(
    outputs: Sequence[str | os.PathLike], error: type[HookError] = SceneError
) -> list[Path]:
    """Return the existing files that outputs replace, and those deleted with them.

    Raises:
        SceneError: No file can have the name of an output, or of one staged for it; or ``error``.
    """
    found = [Path(path) for path in outputs if exists(path, error)]
    for path in map(Path, outputs):
        exists(path.parent / f"{_PREFIX}12345678" / f"{_staged_name(path)}.msk.ovr.tmp", error)
    companions = (f"{path}{end}" for path in outputs for end in COMPANIONS)
    return found + [Path(path) for path in companions if os.path.lexists(path)]


def _staged_name(final: Path) -> str:
    """Return the name of a file in a hidden folder, to which a suffix can be appended."""
    name = os.fsencode(final.name)
    if len(name) <= _LONGEST_NAME:
        return final.name
    return hashlib.sha256(name).hexdigest()[:16] + final.suffix[:16]


def _files_of(inputs: Iterable[object]) -> dict:
    from hook.geo.sources import local_files  # imports GDAL, needed where an output exists only

    return local_files(inputs)


def _refuse(replaced: Iterable[Path], read: dict, error: type[HookError]) -> None:
    for path in replaced:
        for place in (path.absolute(), *path.absolute().parents):
            found, name = read.get(identity(place), (None, None))
            if found is not None:
                of = "" if str(found) == name else f", from which {name} is read"
                raise error(
                    f"{path}: is an input",
                    expected="a file that is not read",
                    found=f"{found}{of}",
                    remedy="use a different output name",
                )


def _refuse_items(replaced: Iterable[Path], error: type[HookError]) -> None:
    for path in filter(is_stac_item, replaced):
        raise error(
            f"{path}: is a STAC Item, which describes a dataset",
            expected="a file of the same kind to replace",
            remedy="use a different output name",
        )


def exists(path: str | os.PathLike, error: type[HookError] = SceneError) -> bool:
    """Whether there is a file, link or folder of this name.

    Raises:
        SceneError: No file can have this name, for example because it is too long; or ``error``.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as problem:
        raise cannot_write(path, problem, error) from problem
    return True


@contextmanager
def writing(path: object, error: type[HookError] = SceneError) -> Iterator[None]:
    """Translate errors of the system and GDAL into errors of the file being written.

    Raises:
        SceneError: The file cannot be written; or ``error``.
    """
    try:
        yield
    except Exception as problem:
        # Known by module, because few of the files need GDAL, which takes a moment to import.
        of_gdal = type(problem).__module__ == "rasterio._err"
        if not (isinstance(problem, OSError) or of_gdal):
            raise
        raise cannot_write(path, problem.__cause__ or problem, error) from problem


class StagedFiles:
    """Writes a set of files in hidden folders and moves them to their final names at the end.

    Use as a context manager; on exit, files that were not moved are removed, and an error that only
    writing can cause, such as a full disk, is raised as :class:`SceneError`.

    What programs would read with an overwritten file under its name is deleted with it: overviews
    and masks of a raster, and the log of a GeoPackage that a program which crashed has left. Of an
    ``.aux.xml`` that holds more than statistics, names and colours, and of an attribute table
    (``.vat.dbf``), a copy, ``.bak``, is kept.

    Args:
        overwrite: Replace existing files.
        folder: Name of the hidden folders, so that a later run removes the files of a killed one;
            None for a new name.
        inputs: Names of datasets that are read: none of their files is replaced or deleted, see
            :func:`check_output`.
    """

    def __init__(
        self, overwrite: bool = False, folder: str | None = None, inputs: Iterable[object] = ()
    ) -> None:
        self.overwrite = overwrite
        self._folder, self._inputs = folder, list(inputs)
        self._read: dict | None = None
        self._folders: dict[Path, Path] = {}
        self._moves: dict[Path, Path] = {}
        self._places: set[Path] = set()
        self._kept: set[Path] = set()
        self._backups: dict[Path, Path] = {}
        self._stale: list[Path] = []

    def add(
        self,
        final: str | Path,
        ours: Callable[[Path], bool] | None = None,
        backup: bool = False,
    ) -> Path:
        """Add a file; return the temporary name to write it to.

        Args:
            final: Its name.
            ours: Whether a file of this name, which may be a user's own, was written by HOOK. One
                that was not is kept instead of the new file, with a warning.
            backup: Keep it under a different name, ``.bak``, instead.

        Raises:
            SceneError: It exists and must not be overwritten, is an input or a STAC Item, its
                folder is missing or read-only, or two outputs have the same name.
        """
        final = Path(final)
        place = Path(os.path.realpath(final.parent), final.name)
        if place in self._places:
            raise SceneError(f"{final}: named twice", remedy="use a unique name for each output")
        if os.path.isdir(final):
            raise SceneError(
                f"{final}: is a folder", expected="a file name", remedy="name a file in that folder"
            )
        replaced = self._check(final)
        if self._inputs and (existing := replaced_by([final])):
            self._read = _files_of(self._inputs) if self._read is None else self._read
            _refuse(existing, self._read, SceneError)
        if replaced and ours is None:
            _refuse_items([final], SceneError)
        companions = [Path(f"{final}{suffix}") for suffix in COMPANIONS]
        companions = [
            path for path in companions if path not in self._moves and os.path.lexists(path)
        ]
        for path in companions:
            self._check(path, f", and would be read with {final}")
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
        if replaced and ours is not None and not ours(final):
            self._keep(final, backup)
        self._places.add(place)
        self._moves[final] = self._folders[parent] / _staged_name(final)
        for path in companions if final not in self._kept else ():
            self._supersede(path)
        return self._moves[final]

    def _check(self, path: Path, which: str = "") -> bool:
        """Return whether a file exists; refuse it if it must not be replaced."""
        if not exists(path):
            return False
        if not self.overwrite:
            raise SceneError(
                f"{path}: exists already{which}",
                remedy="choose a different name or allow overwriting",
            )
        return True

    def _keep(self, path: Path, backup: bool) -> None:
        """Keep a file that HOOK did not write."""
        if not backup:
            self._kept.add(path)
            text = f"{path}: kept, because HOOK did not write it, and no new one was written"
            # The caller may be contextlib: of HOOK is only what is attributed to its files.
            warnings.warn(f"{text}; rename it to get a new one", stacklevel=2)
            return
        copy = Path(f"{path}.bak")
        if exists(copy):
            raise SceneError(
                f"{path}: HOOK did not write it, and would rename it to {copy.name}",
                found=f"{copy.name} exists already",
                remedy="move one of the two",
            )
        self._backups[path] = copy
        warnings.warn(
            f"{path}: HOOK did not write all of it, so it is kept as {copy.name}", stacklevel=2
        )

    def _supersede(self, stale: Path) -> None:
        """Delete a side file of an overwritten file at the end."""
        is_table = stale.name.endswith(".vat.dbf")
        if is_table or (stale.name.endswith(".aux.xml") and not is_own_side_file(stale)):
            self._keep(stale, backup=True)
        else:
            self._stale.append(stale)

    def _make_folder(self, parent: Path) -> Path:
        if self._folder is None:
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        folder = parent / self._folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    @property
    def finals(self) -> list[Path]:
        """Final names of the files, without those of others that are kept instead."""
        return [final for final in self._moves if final not in self._kept]

    def commit(self) -> None:
        """Move all files to their final names, in the order they were added.

        Raises:
            SceneError: A file cannot be moved, or a different process has written one meanwhile.
        """
        for final in self._moves if not self.overwrite else ():
            self._check(final, ": a different process wrote it meanwhile")
        moves = {final: self._moves[final] for final in self.finals}
        try:
            for path, copy in self._backups.items():
                os.replace(path, copy)
            for stale in self._stale:
                stale.unlink(missing_ok=True)
            for final, staged in moves.items():
                os.replace(staged, final)
        except OSError as error:
            raise cannot_write(error.filename2 or error.filename, error) from error
        for final in moves:
            _warn_of_foreign_parts(final)

    def __enter__(self) -> "StagedFiles":
        return self

    def __exit__(self, kind, error, trace) -> None:
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _OF_WRITING:
            names = {str(staged): final for final, staged in self._moves.items()}
            name = names.get(str(error.filename), next(iter(self._moves), error.filename))
            raise cannot_write(name, error) from error


def _warn_of_foreign_parts(path: Path) -> None:
    """Warn of files of others that GDAL reads as parts of a new picture, such as a world file."""
    if path.suffix.lower() in (".tif", ".tiff", ".png") and side_files(path):
        from hook.geo.raster import GDAL_ERRORS, quiet_open

        with suppress(*GDAL_ERRORS), quiet_open(path) as source:
            others = [Path(name).name for name in source.files if Path(name).name != path.name]
            foreign = sorted(set(others) - {f"{path.name}.aux.xml"})
            if foreign:
                warnings.warn(
                    f"{path}: GDAL reads {', '.join(foreign)} as a part of it; remove what does "
                    "not belong to it",
                    stacklevel=2,
                )


@contextmanager
def atomic_write(
    path: str | os.PathLike,
    inputs: Iterable[object] = (),
    ours: Callable[[Path], bool] | None = None,
) -> Iterator[Path]:
    """Write a file atomically, creating its folder if missing; it may exist.

    Args:
        path: Its final name.
        inputs: Names of datasets that are read, see :class:`StagedFiles`.
        ours: Whether HOOK wrote an existing file, see :meth:`StagedFiles.add`.

    Yields:
        Temporary name to write to, without the suffix; renamed at the end of the block, removed if
        the block fails.

    Raises:
        SceneError: The file is an input or cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with StagedFiles(overwrite=True, inputs=inputs) as files:
        staged = files.add(path, ours)
        # A search for *.tif should not find the remains of a killed process.
        partial = staged.with_name("partial")
        with writing(path):
            yield partial
            staged.touch()  # with the permissions of any new file; safetensors gives fewer
            os.chmod(partial, staged.stat().st_mode)
            os.replace(partial, staged)
        files.commit()


def save_png(
    path: str | os.PathLike,
    picture: np.ndarray,
    palette: Sequence[Sequence[int]] | None = None,
    inputs: Iterable[object] = (),
    ours: Callable[[Path], bool] | None = None,
) -> None:
    """Write a picture atomically, creating its folder if missing.

    Args:
        path: File to write.
        picture: (H, W, 3) uint8, or (H, W) uint8.
        palette: For (H, W): the colour (r, g, b) of each value, at most 256.
        inputs: Names of datasets that are read, see :class:`StagedFiles`.
        ours: Whether HOOK wrote an existing file, see :meth:`StagedFiles.add`.

    Raises:
        SceneError: See :func:`atomic_write`.
    """
    from PIL import Image

    image = Image.fromarray(picture)
    if palette is not None:
        image.putpalette(np.asarray(palette, np.uint8).tobytes())
    with atomic_write(path, inputs, ours) as partial:
        image.save(partial, format="PNG")
