"""Finished pieces of an unfinished map in a folder, from which a later run can resume."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hook.errors import SceneError
from hook.geo.raster import reading
from hook.geo.side_files import identity
from hook.geo.staging import exists, writing

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_FINGERPRINT = "fingerprint.json"
_HEADER_BYTES = 1 << 16
_RECORD = "user.hook.run"  # extended attribute of an output
_LONGEST_VALUE = 40  # of a record, which may not exceed 4 KiB in some file systems


def fingerprint_of_file(path: str | Path) -> dict[str, Any]:
    """Return size, time and checksum of the first bytes of a file, to detect changes.

    For other dataset names (``/vsicurl/...``), the name only.
    """
    name, path = str(path), Path(path)
    if not path.is_file():
        return {"name": name}
    status = path.stat()
    with reading(path, SceneError), path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEADER_BYTES)).hexdigest()
    return {"name": path.name, "bytes": status.st_size, "time": status.st_mtime_ns, "head": head}


@contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Let no other run write an output meanwhile; killed runs do not count.

    Raises:
        SceneError: A different run writes it, or its folder cannot be written to.
    """
    path = _lock(output)
    while True:
        with writing(output):
            file = path.open("ab")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise SceneError(
                f"{output}: a different run is writing it",
                found=path,
                remedy="wait for that run, or choose a different name",
            ) from None
        except OSError:  # a file system without locks
            break
        status = os.fstat(file.fileno())
        if identity(path) == (status.st_dev, status.st_ino):
            break
        file.close()  # the other run ended and deleted the file
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def finished(output: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a finished run, see :meth:`Journal.finish`.

    Args:
        output: Its output.
        settings: The fingerprint and the further options of the run.

    Returns:
        None unless the run had these settings and its files are unchanged.
    """
    record = None if exists(_folder(output)) else _read_record(output)
    if record is None or _changes(output, settings, record):
        return None
    if exists(_removed(output)) or exists(_lock(output)):  # it was killed when clearing up
        with exclusive(output):
            shutil.rmtree(_removed(output), ignore_errors=True)
    return record["report"]


def interrupted(output: Path) -> bool:
    """Whether an interrupted run of an output has left its folder."""
    return exists(_folder(output)) or exists(_removed(output))


def staging_folder(output: Path) -> str:
    """Return the name of the hidden folders of the finished files of a run."""
    return f".{output.name}.finished"


def _folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.unfinished")


def _removed(output: Path) -> Path:
    return output.with_name(f".{output.name}.removed")


def _lock(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")


def _record_file(output: Path) -> Path:
    """Return the file for the record where files have no extended attributes."""
    return output.with_name(f".{output.name}.run")


def _read_record(output: Path) -> dict[str, Any] | None:
    sources = (lambda: os.getxattr(output, _RECORD), _record_file(output).read_bytes)
    for read in sources if output.is_file() else ():
        with suppress(OSError, AttributeError, ValueError, zlib.error):
            return json.loads(zlib.decompress(read()))
    return None


def _changes(output: Path, settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Say what differs between a finished run and the settings and files of now."""
    found, wanted = record["settings"], _brief(settings)
    changes = [
        f"{key} ({found.get(key)}, now {wanted.get(key)})"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    for name, state in record["files"].items():
        if (now := _state(output.parent / name)) != state:
            changes.append(f"{name} ({'missing' if now is None else 'changed since'})")
    return changes


def _state(path: Path) -> list[int] | None:
    """Return size and time of a file, None without one."""
    with suppress(OSError):
        status = path.stat()
        return [status.st_size, status.st_mtime_ns]
    return None


def _brief(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as short texts: long values as the start of their checksum."""
    texts = {
        key: json.dumps(value, sort_keys=True, default=str)
        for key, value in _flat(settings).items()
    }
    return {
        key: text
        if len(text) <= _LONGEST_VALUE
        else f"checksum {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        for key, text in texts.items()
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested settings by the joined names: ``"model weights"``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key} ") if nested else {f"{prefix}{key}": value}
    return flat


class Journal:
    """Folder of finished pieces of a map, with a fingerprint of all that determines its bytes.

    Pieces are written under a temporary name and renamed, so the process may be killed at any
    time, and several processes may write the same piece.

    Args:
        output: The map; the folder is ``.<name>.unfinished`` in the same folder.
        fingerprint: Determines the bytes of the map; serialisable as JSON.
        resume: Continue an interrupted run.
        overwrite: Discard it.
        further: Further options of the run, which may differ when it is resumed.

    Attributes:
        owned: This process opened the folder; processes that join it only process their blocks.
        continued: An interrupted run is resumed, whose files may be replaced.

    Raises:
        SceneError: There is an unfinished map and neither option is set, the fingerprint has
            changed, or the folder cannot be created.
    """

    def __init__(
        self,
        output: Path,
        fingerprint: Mapping[str, Any],
        resume: bool = False,
        overwrite: bool = False,
        further: Mapping[str, Any] | None = None,
    ) -> None:
        self.output, self.owned = Path(output), True
        self.folder = _folder(self.output)
        self._settings = {**fingerprint, **(further or {})}
        exists(self.partial("block000000.bottom.seam"))  # whether its path is too long
        text = json.dumps(fingerprint, indent=1, sort_keys=True, default=str)
        # A run killed in its last steps leaves both the map and the folder.
        left = interrupted(self.output)
        self.continued = resume and left
        self._check_target(overwrite or self.continued)
        if self.folder.exists() and not resume:
            if not overwrite and any(self.folder.glob("*.done")):
                raise SceneError(
                    f"{self.output}: an interrupted run left part of this map",
                    found=self.folder,
                    remedy="continue it (--resume), or discard it (--overwrite)",
                )
            self.remove()
        found = self._read()
        if found is not None:
            self._compare(json.loads(text), found)
        else:
            self.remove()  # pieces without a fingerprint
            with writing(self.output):
                self.folder.mkdir(exist_ok=True)
            try:
                self.write_text(_FINGERPRINT, text)
            except SceneError:
                self.remove()
                raise
        for stale in self.folder.glob("*.partial*"):
            stale.unlink(missing_ok=True)

    def _check_target(self, overwrite: bool) -> None:
        if self.output.is_dir():
            what = f"{self.output}: is a folder"
            raise SceneError(what, expected="a file name", remedy="name a file in that folder")
        if self.output.exists() and not overwrite:
            record = _read_record(self.output)
            changes = [] if record is None else _changes(self.output, self._settings, record)
            raise SceneError(
                f"{self.output}: exists already",
                found="a finished run; what differs: " + "; ".join(changes) if changes else None,
                remedy="choose a different name or allow overwriting (--overwrite)",
            )

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / _FINGERPRINT).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SceneError(
                f"{self.folder}: cannot be read", found=error, remedy="discard it (--overwrite)"
            ) from error

    def _compare(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        wanted, found = _flat(wanted), _flat(found)
        keys = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if keys:
            raise SceneError(
                f"{self.output}: the interrupted run had different settings; what differs: "
                f"{', '.join(keys)}",
                expected={key: found.get(key) for key in keys},
                found={key: wanted.get(key) for key in keys},
                remedy="use the same settings, or discard it (--overwrite without --resume)",
            )

    def finish(self, files: Iterable[Path], report: Mapping[str, Any]) -> None:
        """Keep a record of the finished run with its output, for :func:`finished`.

        It is an extended attribute, which leaves the bytes of the output as they are, and which
        programs that convert the output do not copy; else a hidden file.

        Args:
            files: All files of the run.
            report: Its report, serialisable as JSON.
        """
        names = (os.path.relpath(path, self.output.parent) for path in files)
        record = {
            "settings": _brief(self._settings),
            "files": {name: _state(self.output.parent / name) for name in names},
            "report": report,
        }
        text = json.dumps(record, default=lambda array: array.tolist())
        content, path = zlib.compress(text.encode(), 9), _record_file(self.output)
        path.unlink(missing_ok=True)
        try:
            os.setxattr(self.output, _RECORD, content)
        except (OSError, AttributeError):
            try:
                path.write_bytes(content)
            except OSError:  # the output is complete without it
                path.unlink(missing_ok=True)

    @classmethod
    def join(cls, folder: Path) -> "Journal":
        """Join a folder that a different process has opened."""
        journal = cls.__new__(cls)
        journal.folder, journal.owned = Path(folder), False
        return journal

    def path(self, name: str) -> Path:
        """Return the path of a piece."""
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether a piece exists."""
        return self.path(name).exists()

    def partial(self, name: str) -> Path:
        """Return the temporary path to write a piece to."""
        return self.folder / f"{name}.partial{os.getpid()}"

    def commit(self, names: Sequence[str]) -> None:
        """Rename written pieces to their final names, in the given order."""
        for name in names:
            with writing(self.path(name)):
                os.replace(self.partial(name), self.path(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        with writing(self.path(name)):
            self.partial(name).write_text(text)
        self.commit([name])

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file."""
        return json.loads(self.path(name).read_text())

    def drop(self, names: Sequence[str]) -> None:
        """Delete pieces."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder, renaming it first, so that no run resumes from an incomplete one."""
        removed = _removed(self.output)
        shutil.rmtree(removed, ignore_errors=True)
        with suppress(OSError):
            os.replace(self.folder, removed)
        shutil.rmtree(removed, ignore_errors=True)
