"""The list of models: those in the package, and those to download."""

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hook.arguments import bad_argument, check_path
from hook.errors import CheckpointError, ConfigError, SceneError
from hook.geo.staging import atomic_write
from hook.progress import progress_bar
from hook.zoo.published import SUFFIX, Provenance

FOLDER = Path(__file__).parent
LISTING = FOLDER / "models.json"
_CHUNK = 1 << 16
_TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True, kw_only=True)
class Entry(Provenance):
    """A model in the list.

    Attributes:
        sha256: Checksum of its file.
        size: Size of its file in bytes.
        file: File next to the list, for a model in the package.
        url: URL, for a model to download.
        classes: Class names.
        bands: Names or numbers of bands, in the model's order.
        resolution: Metres per pixel, if the model was trained at one resolution.
    """

    sha256: str
    size: int
    file: str | None = None
    url: str | None = None
    classes: list[str] = field(default_factory=list)
    bands: list[str | int] = field(default_factory=list)
    resolution: float | None = None

    @property
    def place(self) -> Path:
        """Path of its file, also before the download."""
        return FOLDER / self.file if self.file else cache_folder() / f"{self.name}{SUFFIX}"


def cache_folder() -> Path:
    """Return the folder of downloaded models: ``$HOOK_HOME/models`` or in the user's cache."""
    home = os.environ.get("HOOK_HOME")
    if home is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "hook")
    return Path(home).expanduser() / "models"


@cache
def _read_listing(path: Path) -> tuple[Entry, ...]:
    return tuple(Entry(**entry) for entry in json.loads(path.read_text())["models"])


def list_models() -> list[Entry]:
    """Return all listed models."""
    return list(_read_listing(LISTING))


def find_entry(name: str) -> Entry:
    """Return a model of the list by name.

    Raises:
        ConfigError: There is no such model.
    """
    if not isinstance(name, str):
        raise bad_argument(
            "name", name, "the name of a model", "`hook models list` shows the names"
        )
    models = {entry.name: entry for entry in list_models()}
    if name in models:
        return models[name]
    close = difflib.get_close_matches(name, models, n=3, cutoff=0.4)
    raise ConfigError(
        f"there is no model {name!r}",
        expected="a name from `hook models list`, or a .safetensors file of a model",
        found="no such name" + (f"; similar: {', '.join(close)}" if close else ""),
        remedy="correct the name or the path",
    )


def find_model(name_or_file: str | os.PathLike, progress: bool = True) -> Path:
    """Return the file of a model, given by name or as a ``.safetensors`` file.

    See :func:`download_model` for names.
    """
    check_path("model", name_or_file, "the name of a model, or a .safetensors file")
    if str(name_or_file).endswith(SUFFIX):
        return Path(name_or_file).expanduser()
    return download_model(str(name_or_file), progress=progress)


def download_model(
    name: str, to: str | os.PathLike | None = None, *, progress: bool = True
) -> Path:
    """Download a model's file, unless it is there, and verify its checksum.

    Args:
        name: Name of a model.
        to: Folder for the file; None: the package's own file, or the cache.
        progress: Show a progress bar on a terminal.

    Returns:
        The file.

    Raises:
        ConfigError: There is no such model, the folder cannot be written to, or ``to`` has a
            different file of this name.
        CheckpointError: The model cannot be downloaded, or its checksum differs.
    """
    entry = find_entry(name)
    if to is not None:
        to = check_path("to", to, "the name of a folder")
    target = entry.place if to is None else to.expanduser() / f"{name}{SUFFIX}"
    if target.is_file() and (found := checksum(target)) == entry.sha256:
        return target
    if entry.file and to is None:
        raise CheckpointError(
            f"the file of model {name} differs from the published one",
            expected=f"{entry.place} with SHA-256 {entry.sha256}",
            found=f"SHA-256 {found}" if target.is_file() else "no file",
            remedy="install hook-rs again",
        )
    if to is not None and target.exists():
        raise ConfigError(
            f"{target} exists already and is not the published file",
            expected=f"SHA-256 {entry.sha256}",
            found=f"SHA-256 {found}" if target.is_file() else "a folder",
            remedy="choose a different folder (--to), or delete it",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _verified_write(target, entry) as part:
            if entry.file:
                shutil.copyfile(entry.place, part)
            else:
                _fetch(entry, part, progress)
    except (OSError, SceneError) as error:
        raise ConfigError(
            f"{target} cannot be written",
            expected="a folder to write to",
            found=getattr(error, "found", error),
            remedy="choose a different folder (--to)",
        ) from None
    return target


@contextmanager
def _verified_write(target: Path, entry: Entry) -> Iterator[Path]:
    """Write a file to a temporary name, and rename it if its checksum is correct."""
    with atomic_write(target) as part:
        yield part
        if (found := checksum(part)) != entry.sha256:
            raise CheckpointError(
                f"model {entry.name} has a wrong checksum after the download",
                expected=f"SHA-256 {entry.sha256}, {entry.size} bytes",
                found=f"SHA-256 {found}, {part.stat().st_size} bytes",
                remedy="try again; if it fails again, the file was changed: do not use it",
            )


def _fetch(entry: Entry, part: Path, progress: bool) -> None:
    import requests

    try:
        with requests.get(entry.url, stream=True, timeout=_TIMEOUT) as answer:
            answer.raise_for_status()
            bar = progress_bar(
                total=entry.size, unit="B", unit_scale=True, desc=entry.name, show=progress
            )
            with bar, part.open("wb") as file:
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if file.tell() > entry.size:  # not the listed file
                        break
    except requests.RequestException as error:
        raise CheckpointError(
            f"model {entry.name} cannot be downloaded",
            expected=f"an answer from {entry.url}",
            found=_first_cause(error),
            remedy="connect to the Internet, or get the file by other means and pass its path "
            f"instead of the name; saved as {entry.place} it is found by name",
        ) from None


def _first_cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return " ".join(str(error).split()) or type(error).__name__


def checksum(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_dict(entry: Entry) -> dict[str, Any]:
    """Return an entry as a dict, without empty values."""
    return {key: value for key, value in vars(entry).items() if value not in (None, "", [], {})}


def add_entry(entry: Entry, listing: Path | None = None) -> None:
    """Add an entry to a list (default: the package's), replacing one of the same name."""
    listing = listing or LISTING
    models = json.loads(listing.read_text())["models"] if listing.is_file() else []
    kept = [model for model in models if model["name"] != entry.name]
    models = sorted([*kept, as_dict(entry)], key=lambda model: model["name"])
    with atomic_write(listing) as part:
        part.write_text(json.dumps({"models": models}, indent=2, ensure_ascii=False) + "\n")
    _read_listing.cache_clear()
