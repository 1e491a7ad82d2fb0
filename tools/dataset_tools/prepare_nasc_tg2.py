"""Prepare NaSC-TG2 as the paper uses it.

    python tools/dataset_tools/prepare_nasc_tg2.py NaSC-TG2.zip data/nasc_tg2

copies the class folders of the download (a folder or a zip archive) to
``data/nasc_tg2/NaSC-TG2`` and draws the lists
``data/nasc_tg2/splits/nasc_tg2_{train,test}_hook_seed0.txt``
(1,000 and 19,000 images). Put the paper authors' lists (``train.csv`` and
``test.csv``) beside them where you have them: the configs prefer those.
"""

import argparse

from preparing import prepare_class_folders

from hook.datasets.named import NaSCTG2
from hook.errors import reports_errors


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the download: a folder or a zip archive")
    parser.add_argument("out", nargs="?", default="data/nasc_tg2", help="data root to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    args = parser.parse_args(arguments)
    sizes = prepare_class_folders(
        args.source,
        args.out,
        directory="NaSC-TG2",
        name="nasc_tg2",
        class_names=NaSCTG2.class_names,
        train=1000,
        aliases=NaSCTG2.aliases,
        seed=args.seed,
    )
    print(f"{args.out}: {sizes[0]} images to train, {sizes[1]} to test")


if __name__ == "__main__":
    main()
