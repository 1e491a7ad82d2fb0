"""Prepare NWPU-RESISC45 as the paper uses it.

    python tools/dataset_tools/prepare_nwpu_resisc45.py NWPU-RESISC45.zip data/nwpu_resisc45

copies the class folders of the download (a folder or a zip archive) to
``data/nwpu_resisc45/NWPU-RESISC45`` and draws the lists
``data/nwpu_resisc45/splits/nwpu_resisc45_{train,test}_hook_seed0.txt``
(6,300 and 25,200 images). Put the paper authors' lists (``train.csv`` and
``test.csv``) beside them where you have them: the configs prefer those.
"""

import argparse

from preparing import prepare_class_folders

from hook.datasets.named import NWPURESISC45
from hook.errors import reports_errors


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the download: a folder or a zip archive")
    parser.add_argument("out", nargs="?", default="data/nwpu_resisc45", help="data root to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    args = parser.parse_args(arguments)
    sizes = prepare_class_folders(
        args.source,
        args.out,
        directory="NWPU-RESISC45",
        name="nwpu_resisc45",
        class_names=NWPURESISC45.class_names,
        train=6300,
        seed=args.seed,
    )
    print(f"{args.out}: {sizes[0]} images to train, {sizes[1]} to test")


if __name__ == "__main__":
    main()
