"""Prepare NWPU-RESISC45 as the paper uses it.

    python tools/dataset_tools/prepare_nwpu_resisc45.py NWPU-RESISC45.zip data/nwpu_resisc45

copies the class folders of the download (a folder or a zip archive) to
``data/nwpu_resisc45/NWPU-RESISC45`` and draws the lists
``data/nwpu_resisc45/splits/nwpu_resisc45_{train,test}_hook_seed0.txt``
(6,300 and 25,200 images). The configs prefer the lists of the paper's authors
(``train.csv`` and ``test.csv``) in the same folder.
"""

from preparing import class_folders_command

from hook.datasets.named import NWPURESISC45

main = class_folders_command(
    __doc__,
    "nwpu_resisc45",
    directory="NWPU-RESISC45",
    class_names=NWPURESISC45.class_names,
    train=6300,
)

if __name__ == "__main__":
    main()
