"""What an unfinished map has so far, in a folder beside it, so that a later run can go on."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hook.errors import SceneError

_FINGERPRINT = "fingerprint.json"
_HEADER_BYTES = 1 << 16


def fingerprint_of_file(path: str | Path) -> dict[str, Any]:
    """Tell a file from a changed one without reading all of it: size, time, checksum of its head.

    A name that is no file of this machine (``/vsicurl/...``) is told by its name alone.
    """
    name, path = str(path), Path(path)
    if not path.is_file():
        return {"name": name}
    status = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEADER_BYTES)).hexdigest()
    return {"name": path.name, "bytes": status.st_size, "time": status.st_mtime_ns, "head": head}


class Journal:
    """Folder of finished pieces of a map, tied to a fingerprint of all that decides its bytes.

    A piece is there when a file has its name: it is written under another one and renamed. So
    the process may be killed at any moment, and several processes may write the same piece.

    Args:
        output: The map; the folder ``.<name>.unfinished`` lies beside it.
        fingerprint: What decides the map's bytes, as JSON can hold it.
        resume: Go on with what an interrupted run left.
        overwrite: Throw it away.

    Attributes:
        owned: This process opened the folder; others that join it do no more than their blocks.

    Raises:
        SceneError: There is an unfinished map and neither was asked for, or the fingerprint has
            changed; or the folder cannot be made.
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
        # A run killed between its last steps left both the map and the folder.
        left = self.folder.exists() or self._removed.exists()
        self._check_target(overwrite or (resume and left))
        if self.folder.exists() and not resume:
            if not overwrite and any(self.folder.glob("*.done")):
                raise SceneError(
                    f"{self.output}: an interrupted run left part of this map",
                    found=self.folder,
                    remedy="go on with it (--resume), or throw it away (--overwrite)",
                )
            self.remove()
        found = self._read()
        if found is not None:
            self._compare(json.loads(text), found)
        else:
            self.remove()  # pieces of which nobody knows what they are of
            try:
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                raise SceneError(
                    f"{self.output}: cannot be written",
                    expected=f"an existing, writable folder {self.output.parent}",
                    found=error.strerror,
                    remedy="create the folder or choose another one",
                ) from error
            self.write_text(_FINGERPRINT, text)
        for stale in self.folder.glob("*.partial*"):
            stale.unlink(missing_ok=True)

    def _check_target(self, overwrite: bool) -> None:
        if self.output.is_dir():
            raise SceneError(
                f"{self.output}: is a folder",
                expected="a file name",
                remedy="name a file in that folder",
            )
        if self.output.exists() and not overwrite:
            raise SceneError(
                f"{self.output}: exists already",
                remedy="choose another name, or allow overwriting (--overwrite)",
            )

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / _FINGERPRINT).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SceneError(
                f"{self.folder}: cannot be read",
                found=error,
                remedy="throw it away (--overwrite)",
            ) from error

    def _compare(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        keys = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if keys:
            raise SceneError(
                f"{self.output}: the interrupted run was another one; what differs: "
                f"{', '.join(keys)}",
                expected={key: found.get(key) for key in keys},
                found={key: wanted.get(key) for key in keys},
                remedy="run it as it was, or throw away what it left (--overwrite without "
                "--resume)",
            )

    @classmethod
    def join(cls, folder: Path) -> "Journal":
        """Work on a folder that another process has opened."""
        journal = cls.__new__(cls)
        journal.folder, journal.owned = Path(folder), False
        return journal

    def path(self, name: str) -> Path:
        """Name a piece."""
        return self.folder / name

    def has(self, name: str) -> bool:
        """Tell whether a piece is there."""
        return self.path(name).exists()

    def partial(self, name: str) -> Path:
        """Name the file to write a piece to."""
        return self.folder / f"{name}.partial{os.getpid()}"

    def commit(self, names: Sequence[str]) -> None:
        """Give written pieces their names, in the order given."""
        for name in names:
            os.replace(self.partial(name), self.path(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a small piece at once."""
        self.partial(name).write_text(text)
        self.commit([name])

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a piece of :meth:`write_text`."""
        return json.loads(self.path(name).read_text())

    def drop(self, names: Sequence[str]) -> None:
        """Remove pieces that are not needed any more."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, and what a process that was killed on the way left of one.

        It loses its name first: a folder from which files are missing must not be gone on with.
        """
        shutil.rmtree(self._removed, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.replace(self.folder, self._removed)
        shutil.rmtree(self._removed, ignore_errors=True)

    @property
    def _removed(self) -> Path:
        return self.folder.with_suffix(".removed")
