"""Finished pieces of an unfinished map in a folder, from which a later run can resume."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hook.errors import SceneError
from hook.geo.side_files import identity
from hook.geo.staging import exists, writing

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_FINGERPRINT = "fingerprint.json"
_HEADER_BYTES = 1 << 16


def fingerprint_of_file(path: str | Path) -> dict[str, Any]:
    """Return size, time and checksum of the first bytes of a file, to detect changes.

    For other dataset names (``/vsicurl/...``), the name only.
    """
    name, path = str(path), Path(path)
    if not path.is_file():
        return {"name": name}
    status = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEADER_BYTES)).hexdigest()
    return {"name": path.name, "bytes": status.st_size, "time": status.st_mtime_ns, "head": head}


@contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Let no other run write an output meanwhile; killed runs do not count.

    Raises:
        SceneError: A different run writes it, or its folder cannot be written to.
    """
    path = output.with_name(f".{output.name}.lock")
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


class Journal:
    """Folder of finished pieces of a map, with a fingerprint of all that determines its bytes.

    Pieces are written under a temporary name and renamed, so the process may be killed at any
    time, and several processes may write the same piece.

    Args:
        output: The map; the folder is ``.<name>.unfinished`` in the same folder.
        fingerprint: Determines the bytes of the map; serialisable as JSON.
        resume: Continue an interrupted run.
        overwrite: Discard it.

    Attributes:
        owned: This process opened the folder; processes that join it only process their blocks.

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
    ) -> None:
        self.output, self.owned = Path(output), True
        self.folder = self.output.parent / f".{self.output.name}.unfinished"
        text = json.dumps(fingerprint, indent=1, sort_keys=True, default=str)
        # A run killed in its last steps leaves both the map and the folder.
        left = exists(self.folder) or exists(self._removed)
        self._check_target(overwrite or (resume and left))
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
            raise SceneError(
                f"{self.output}: exists already",
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
        keys = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if keys:
            raise SceneError(
                f"{self.output}: the interrupted run had different settings; what differs: "
                f"{', '.join(keys)}",
                expected={key: found.get(key) for key in keys},
                found={key: wanted.get(key) for key in keys},
                remedy="use the same settings, or discard it (--overwrite without --resume)",
            )

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
        shutil.rmtree(self._removed, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.replace(self.folder, self._removed)
        shutil.rmtree(self._removed, ignore_errors=True)

    @property
    def _removed(self) -> Path:
        return self.folder.with_suffix(".removed")
