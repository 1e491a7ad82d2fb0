"""Prepare NaSC-TG2 as the paper uses it.

    python tools/dataset_tools/prepare_nasc_tg2.py NaSC-TG2.zip data/nasc_tg2

copies the class folders of the download (a folder or a zip archive) to
``data/nasc_tg2/NaSC-TG2`` and draws the lists
``data/nasc_tg2/splits/nasc_tg2_{train,test}_hook_seed0.txt``
(1,000 and 19,000 images). The configs prefer the lists of the paper's authors
(``train.csv`` and ``test.csv``) in the same folder.
"""

from preparing import class_folders_command

from hook.datasets.named import NaSCTG2

main = class_folders_command(
    __doc__,
    "nasc_tg2",
    directory="NaSC-TG2",
    class_names=NaSCTG2.class_names,
    train=1000,
    aliases=NaSCTG2.aliases,
)

if __name__ == "__main__":
    main()
