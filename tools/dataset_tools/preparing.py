"""Helpers of the scripts in this folder: unpack, copy files, draw and write lists."""

import argparse
import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hook.errors import ConfigError, DataError, reports_errors
from hook.geo.staging import atomic_write

SPLITS_DIR = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "splits"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


def download_parser(
    description: str, out: str, source: str = "the download: a folder or a zip archive"
) -> argparse.ArgumentParser:
    """Return a parser with the common arguments ``source`` and ``out`` and their defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=source)
    parser.add_argument("out", nargs="?", default=out, help=f"folder to write ({out})")
    return parser


@contextmanager
def opened_source(source: str | Path) -> Iterator[Path]:
    """Yield a folder as it is, or a zip archive unpacked to a temporary folder.

    Raises:
        DataError: If the source is missing, or neither a folder nor a readable zip archive.
    """
    source = Path(source)
    if source.is_dir():
        yield source
        return
    if not source.exists():
        raise DataError(
            f"{source} does not exist",
            expected="the downloaded folder or zip archive",
            found="nothing",
            remedy="pass the path of your download",
        )
    if not zipfile.is_zipfile(source):
        raise DataError(
            f"{source} is not a zip archive",
            expected="a folder or an undamaged .zip",
            found=f"{source.suffix or 'unknown'} file of {source.stat().st_size} bytes",
            remedy="unpack .rar and .7z archives yourself and pass the folder",
        )
    with tempfile.TemporaryDirectory(prefix="hook_prepare_") as scratch:
        try:
            with zipfile.ZipFile(source) as archive:
                for member in progress(archive.infolist(), f"unpacking {source.name}"):
                    archive.extract(member, scratch)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise DataError(
                f"{source} cannot be unpacked",
                expected="an undamaged zip archive",
                found=error,
                remedy="download it again",
            ) from error
        yield Path(scratch)


def progress(items: Iterable, description: str) -> tqdm:
    """Show a progress bar on a terminal."""
    return tqdm(items, desc=description, disable=None, leave=False)


def place(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with atomic_write(target) as scratch:
        shutil.copyfile(source, scratch)


def write_list(path: Path, names: Sequence[str]) -> None:
    """Write one name per line, atomically."""
    with atomic_write(path) as scratch:
        scratch.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def rank(names: Iterable[str], seed: int) -> list[str]:
    """Shuffle names by a hash of seed and name, so that the order is reproducible anywhere."""
    return sorted(
        names, key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).digest(), name)
    )


def draw_split(
    names_by_class: Mapping[str, Sequence[str]],
    train: int | float,
    test: int | float | None = None,
    seed: int = 0,
) -> tuple[list[str], list[str]]:
    """Draw a stratified train and test split.

    Args:
        names_by_class: Names of each class.
        train: Number of training names over all classes, or share of each class (below 1).
        test: The same for testing; None takes the remaining names.
        seed: Seed of the draw.

    Returns:
        Training and test names, each sorted.

    Raises:
        ConfigError: If there are fewer names than requested.
    """
    shuffled = {name: rank(names, seed) for name, names in sorted(names_by_class.items())}
    sizes = {name: len(names) for name, names in shuffled.items()}
    train_sizes = _shares(sizes, train, "train")
    left = {name: sizes[name] - train_sizes[name] for name in sizes}
    if test is None:
        test_sizes = left
    elif isinstance(test, float) and test < 1:
        test_sizes = {name: round(test * size) for name, size in sizes.items()}
    else:
        test_sizes = _shares(left, test, "test")
    train_names, test_names = [], []
    for name, ranked in shuffled.items():
        if train_sizes[name] + test_sizes[name] > len(ranked):
            raise ConfigError(
                f"class {name} is too small for this split",
                expected=f"{train_sizes[name]} + {test_sizes[name]} names",
                found=len(ranked),
                remedy="request fewer",
            )
        train_names += ranked[: train_sizes[name]]
        test_names += ranked[train_sizes[name] : train_sizes[name] + test_sizes[name]]
    return sorted(train_names), sorted(test_names)


def _shares(sizes: Mapping[str, int], wanted: int | float, what: str) -> dict[str, int]:
    """Divide ``wanted`` over the classes in proportion to their sizes (largest remainder)."""
    total = sum(sizes.values())
    if isinstance(wanted, float) and wanted < 1:
        return {name: round(wanted * size) for name, size in sizes.items()}
    if not 0 <= wanted <= total:
        raise ConfigError(
            f"{what}={wanted} cannot be drawn",
            expected=f"0 to {total}, the number of names, or a share below 1",
            found=wanted,
            remedy="complete the download, or request fewer",
        )
    exact = {name: wanted * size / max(total, 1) for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    ranked = sorted(sizes, key=lambda name: (shares[name] - exact[name], name))
    for name in ranked[: int(wanted) - sum(shares.values())]:
        shares[name] += 1
    return shares


def images_by_class(folder: Path) -> dict[str, list[str]]:
    """List the images of class folders as ``Class/file.jpg``, sorted, by class.

    Raises:
        DataError: If there is no image.
    """
    names = {
        path.name: [
            f"{path.name}/{file.name}"
            for file in sorted(path.iterdir())
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    names = {name: files for name, files in names.items() if files}
    if not names:
        raise DataError(
            f"{folder} has no class folders",
            expected="<Class>/<image> in it",
            found=", ".join(path.name for path in sorted(folder.iterdir())[:5]) or "nothing",
            remedy="pass the parent of the class folders",
        )
    return names


def spellings(class_names: Sequence[str], aliases: Mapping[str, str] | None = None) -> dict:
    """Map the normalised names and aliases of class folders to class names."""
    from hook.datasets.torchgeo_sources import normalise_name

    known = {normalise_name(key): value for key, value in (aliases or {}).items()}
    return known | {normalise_name(name): name for name in class_names}


def find_class_folders(
    source: Path, class_names: Sequence[str], what: str, aliases: Mapping[str, str] | None = None
) -> Path:
    """Find the folder, at most three levels down, that has a folder for every class.

    Args:
        source: Folder to search.
        class_names: Names of the classes.
        what: Name of the dataset, for messages.
        aliases: Alternative names of class folders.

    Raises:
        DataError: If there is none.
    """
    from hook.datasets.torchgeo_sources import normalise_name

    known = spellings(class_names, aliases)
    level, best = [source], set()
    for _ in range(4):
        for folder in level:
            names = {normalise_name(path.name) for path in folder.iterdir() if path.is_dir()}
            found = {known[name] for name in names if name in known}
            if len(found) == len(class_names):
                return folder
            best = max(best, found, key=len)
        level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
    raise DataError(
        f"no class folders of {what} in {source}",
        expected=", ".join(class_names),
        found=f"missing: {', '.join(name for name in class_names if name not in best)}",
        remedy="pass the folder or zip archive of the complete download",
    )


def prepare_class_folders(
    source: str | Path,
    out: str | Path,
    *,
    directory: str,
    name: str,
    class_names: Sequence[str],
    train: int | float,
    test: int | float | None = None,
    aliases: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[int, int]:
    """Copy class folders, draw the split lists, and return the numbers of images in them.

    Args:
        source: Downloaded folder or zip archive.
        out: Data root to write.
        directory: Folder in it for the class folders.
        name: Name of the dataset in the list files.
        class_names: Names of the classes.
        train: As in :func:`draw_split`.
        test: As in :func:`draw_split`.
        aliases: Alternative names of class folders.
        seed: Seed of the draw.

    Raises:
        DataError: If the download is incomplete.
    """
    from hook.datasets.torchgeo_sources import normalise_name

    out = Path(out)
    target = out / directory
    known = spellings(class_names, aliases)
    with opened_source(source) as opened:
        folder = find_class_folders(opened, class_names, name, aliases)
        found = images_by_class(folder)
        for images in progress(list(found.values()), f"copying {name}"):
            for image in images:
                class_folder, file = image.split("/")
                if normalise_name(class_folder) in known:
                    placed = target / known[normalise_name(class_folder)] / file
                    if not placed.exists():
                        place(folder / image, placed)
    drawn = draw_split(images_by_class(target), train, test, seed)
    for split, names in zip(("train", "test"), drawn, strict=True):
        write_list(out / "splits" / f"{name}_{split}_hook_seed{seed}.txt", names)
    return len(drawn[0]), len(drawn[1])


def class_folders_command(description: str, name: str, **options: Any) -> Callable[..., None]:
    """Return the command that prepares ``data/<name>``; options as in `prepare_class_folders`."""

    @reports_errors
    def main(arguments: list[str] | None = None) -> None:
        parser = download_parser(description, f"data/{name}")
        parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
        args = parser.parse_args(arguments)
        sizes = prepare_class_folders(args.source, args.out, name=name, seed=args.seed, **options)
        print(f"{args.out}: {sizes[0]} images to train, {sizes[1]} to test")

    return main
