"""Draw reproducible train and test lists of a dataset in class folders.

    python tools/dataset_tools/make_splits.py data/nwpu_resisc45/NWPU-RESISC45 \
        --name nwpu_resisc45 --train 6300 --out-dir data/nwpu_resisc45/splits

writes ``nwpu_resisc45_train_hook_seed0.txt`` and ``nwpu_resisc45_test_hook_seed0.txt``; the name
marks the draw as this project's, not that of the paper's authors. The draw is stratified and
depends on a hash of the seed and the file names.
"""

import argparse
from pathlib import Path

from preparing import draw_split, images_by_class, write_list

from hook.errors import ConfigError, DataError, reports_errors


def amount(text: str) -> int | float:
    """Parse a number of files (``6300``) as int or a share of them (``0.5``) as float in (0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 < value < 1:
        return value
    if value >= 1 and value == int(value):
        return int(value)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number of files nor a share below 1")


def make_splits(
    folder: str | Path,
    name: str,
    train: int | float,
    test: int | float | None = None,
    seed: int = 0,
    out_dir: str | Path | None = None,
) -> list[Path]:
    """Draw a stratified split, write its lists and return their paths.

    Args:
        folder: Folder with one folder per class.
        name: Prefix of the list names.
        train: Number or share of the training files.
        test: Number or share of the test files; None takes the remaining files.
        seed: Seed of the draw.
        out_dir: Folder for the lists; default ``splits`` next to ``folder``.

    Raises:
        DataError: If the folder is missing or has no class folders.
        ConfigError: If there are fewer files than requested.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist",
            expected="a folder with one folder per class",
            found="nothing",
            remedy="pass the parent of the class folders",
        )
    if not name or "/" in name:
        raise ConfigError(
            f"--name {name!r} is not a valid prefix of a file name",
            expected="a name such as nwpu_resisc45",
            found=name,
            remedy="correct --name",
        )
    out_dir = folder.parent / "splits" if out_dir is None else Path(out_dir)
    paths = []
    drawn = draw_split(images_by_class(folder), train, test, seed)
    for split, names in zip(("train", "test"), drawn, strict=True):
        paths.append(out_dir / f"{name}_{split}_hook_seed{seed}.txt")
        write_list(paths[-1], names)
        print(f"{paths[-1]}: {len(names)} files")
    return paths


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder with one folder per class")
    parser.add_argument("--name", required=True, help="name of the dataset, prefix of the lists")
    parser.add_argument("--train", type=amount, required=True, help="number, or share below 1")
    parser.add_argument(
        "--test", type=amount, help="number, or share below 1 (the remaining files)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    parser.add_argument("--out-dir", help="folder for the lists (splits next to the folder)")
    args = parser.parse_args(arguments)
    make_splits(args.folder, args.name, args.train, args.test, args.seed, args.out_dir)


if __name__ == "__main__":
    main()
