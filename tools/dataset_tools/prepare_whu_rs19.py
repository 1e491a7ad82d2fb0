"""Prepare WHU-RS19 as the paper uses it.

    python tools/dataset_tools/prepare_whu_rs19.py WHU-RS19.zip data/whu_rs19

copies the class folders of the download (a folder or a zip archive) to
``data/whu_rs19/WHU-RS19`` and draws the lists
``data/whu_rs19/splits/whu_rs19_{train,test}_hook_seed0.txt``
(half of each class). The configs prefer the lists of the paper's authors
(``train0.5.csv`` and ``test0.5.csv``) in the same folder.
"""

from preparing import class_folders_command

from hook.datasets.named import WHURS19

main = class_folders_command(
    __doc__,
    "whu_rs19",
    directory="WHU-RS19",
    class_names=WHURS19.class_names,
    train=0.5,
)

if __name__ == "__main__":
    main()
