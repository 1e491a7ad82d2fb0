"""Prepare the Dubai land cover: 52 satellite images of six scenes with masks of five classes.

    git clone https://github.com/Kaarti22/satellite-imagery
    git -C satellite-imagery checkout 4943c52893442a9547e0f36fc69c354bd3244e95
    python tools/dataset_tools/prepare_dubai_landcover.py satellite-imagery data/dubai_landcover

reads ``Tile <N>/images/image_part_00<P>.jpg`` and ``Tile <N>/masks/image_part_00<P>.png``, of the
clone or of the Kaggle download "Semantic segmentation of aerial imagery", and writes
``images/tile<N>_part<P>.jpg`` (unchanged), ``masks/tile<N>_part<P>.png`` (indexes with a colour
table: 0 building, 1 unpaved land, 2 road, 3 vegetation, 4 water, 255 unlabelled),
``splits/{train,val,test}.txt`` (18, 17 and 17 images; lists from
``configs/_base_/splits/dubai_landcover``) and ``windows_256.csv``: 990, 108 and 216 windows of 256
x 256 pixels with the number of pixels of each class, for ``split=dict(file=..., size=256)`` of
``hook.GeoTIFFFolder``.

The parts of a scene touch, and some scenes show the same place. Therefore the splits are by scene
(7 and 8 to train, 2 and 3 to validate, 1 and 6 to test), and scenes 4 and 5, part 1 of scene 1 and
part 9 of scene 3 are left out. On the overlaps two annotators agree on 81 to 89 % of the pixels.

Humans in the Loop, with the Mohammed Bin Rashid Space Centre; annotated by trainees of the Roia
Foundation. CC0 1.0.
"""

import csv
import math
from pathlib import Path

import numpy as np
from preparing import SPLITS_DIR, download_parser, opened_source, place, progress, write_list
from tiling import colours_to_indexes, read_colours, write_image

from hook.errors import DataError, reports_errors
from hook.geo.staging import atomic_write

CLASSES = {
    "building": (60, 16, 152),
    "land_unpaved": (132, 41, 246),
    "road": (110, 193, 228),
    "vegetation": (254, 221, 58),
    "water": (226, 169, 41),
}
UNLABELLED, UNLABELLED_INDEX = (155, 155, 155), 255
INDEX_OF = {colour: index for index, colour in enumerate(CLASSES.values())} | dict.fromkeys(
    (UNLABELLED, (0, 0, 0)), UNLABELLED_INDEX
)
PALETTE = [value for colour in CLASSES.values() for value in colour]
PALETTE += [0] * (3 * UNLABELLED_INDEX - len(PALETTE)) + [*UNLABELLED]
SPLITS = ("train", "val", "test")
SIDE = 256


def window_starts(length: int, side: int) -> list[int]:
    """Return the starts of windows that are spread evenly over a side of an image.

    Adjacent windows overlap by at most a quarter; less than a quarter of a window may remain
    between them.
    """
    last = max(math.ceil(length / side - 0.25), 1) - 1
    return [round(number * (length - side) / last) if last else 0 for number in range(last + 1)]


def prepare_dubai_landcover(source: str | Path, out: str | Path) -> dict[str, int]:
    """Write images, masks and lists; return the number of windows per split.

    Args:
        source: Clone of the public repository, or folder or zip archive of the Kaggle download.
        out: Data root to write.

    Raises:
        DataError: If the source lacks a file, or a mask has another size or colour.
    """
    out = Path(out)
    lists = {
        split: (SPLITS_DIR / "dubai_landcover" / f"{split}.txt").read_text().split()
        for split in SPLITS
    }
    split_of = {name: split for split, names in lists.items() for name in names}
    rows: list[dict[str, str | int]] = []
    with opened_source(source) as folder:
        files = _find_files(folder, sorted(split_of))
        for name, (image, mask) in progress(list(files.items()), "writing masks"):
            colours = read_colours(mask)
            labels = colours_to_indexes(colours.transpose(2, 0, 1), INDEX_OF, mask)
            if read_colours(image).shape != colours.shape:
                raise DataError(
                    f"{mask} does not fit {image}",
                    expected="masks of the size of their images",
                    found="another size",
                    remedy="download the pair again",
                )
            place(image, out / "images" / f"{name}.jpg")
            write_image(out / "masks" / f"{name}.png", labels, palette=PALETTE, optimize=True)
            rows += _windows(split_of[name], name, labels)
    for split in SPLITS:
        write_list(out / "splits" / f"{split}.txt", lists[split])
    with (
        atomic_write(out / f"windows_{SIDE}.csv") as scratch,
        open(scratch, "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return {split: sum(row["split"] == split for row in rows) for split in SPLITS}


def _find_files(folder: Path, names: list[str]) -> dict[str, tuple[Path, Path]]:
    """Return the image and mask of each name; raise DataError if one is missing."""
    roots = [path.parent for path in sorted(folder.rglob("Tile 1")) if path.is_dir()]
    files = {}
    for name in names if roots else ():
        scene, part = name.removeprefix("tile").split("_part")
        files[name] = tuple(
            roots[0] / f"Tile {scene}" / kind / f"image_part_{int(part):03d}{suffix}"
            for kind, suffix in (("images", ".jpg"), ("masks", ".png"))
        )
    absent = [path for pair in files.values() for path in pair if not path.is_file()]
    if absent or not roots:
        raise DataError(
            f"{folder} is not the complete Dubai land cover",
            expected="Tile <N>/images/image_part_00<P>.jpg and Tile <N>/masks/image_part_00<P>.png",
            found=f"{len(absent)} files missing, the first {absent[0]}" if absent else "no Tile 1",
            remedy="pass a clone of the repository in --help, or the Kaggle download",
        )
    return files


def _windows(split: str, name: str, labels: np.ndarray) -> list[dict[str, str | int]]:
    """Return the row of each window of an image in the list of windows."""
    rows = []
    for y in window_starts(labels.shape[0], SIDE):
        for x in window_starts(labels.shape[1], SIDE):
            counts = np.bincount(labels[y : y + SIDE, x : x + SIDE].ravel(), minlength=256)
            pixels = {f"px_{kind}": int(counts[index]) for index, kind in enumerate(CLASSES)}
            rows.append(
                dict(split=split, stem=name, x=x, y=y)
                | pixels
                | dict(px_ignore=int(counts[UNLABELLED_INDEX]))
            )
    return rows


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    args = download_parser(
        __doc__, "data/dubai_landcover", "clone of the repository, or the Kaggle download"
    ).parse_args(arguments)
    counts = prepare_dubai_landcover(args.source, args.out)
    print(f"{args.out}: windows, " + ", ".join(f"{n} {split}" for split, n in counts.items()))


if __name__ == "__main__":
    main()
