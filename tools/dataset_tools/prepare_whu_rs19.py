"""Prepare WHU-RS19 as the paper uses it.

    python tools/dataset_tools/prepare_whu_rs19.py WHU-RS19.zip data/whu_rs19

copies the class folders of the download (a folder or a zip archive) to
``data/whu_rs19/WHU-RS19`` and draws the lists
``data/whu_rs19/splits/whu_rs19_{train,test}_hook_seed0.txt``
(half of each class each). Put the paper authors' lists (``train0.5.csv`` and
``test0.5.csv``) beside them where you have them: the configs prefer those.
"""

import argparse

from preparing import prepare_class_folders

from hook.datasets.named import WHURS19
from hook.errors import reports_errors


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the download: a folder or a zip archive")
    parser.add_argument("out", nargs="?", default="data/whu_rs19", help="data root to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    args = parser.parse_args(arguments)
    sizes = prepare_class_folders(
        args.source,
        args.out,
        directory="WHU-RS19",
        name="whu_rs19",
        class_names=WHURS19.class_names,
        train=0.5,
        seed=args.seed,
    )
    print(f"{args.out}: {sizes[0]} images to train, {sizes[1]} to test")


if __name__ == "__main__":
    main()
