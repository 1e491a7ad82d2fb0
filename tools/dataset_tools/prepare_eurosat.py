"""Prepare EuroSAT: the small RGB lots of configs/_base_/datasets/eurosat_2k.py, or all bands.

    python tools/dataset_tools/prepare_eurosat.py EuroSAT_RGB.zip data
    python tools/dataset_tools/prepare_eurosat.py EuroSATallBands.zip data

The first form takes the public RGB download of 27,000 JPEGs (folder or zip archive), or any part of
it, and writes ``data/eurosat_rgb`` (1,200 images to train, 400 to choose on, 400 to test) and
``data/eurosat_rgb_15k`` (12,000 to train, 3,000 to test), exactly the images that the lists in
``configs/_base_/splits/eurosat`` name. A lot of which images are missing is left out, and said.

The second form takes the 13-band GeoTIFFs and, beside them, the lists ``eurosat-train.txt``,
``eurosat-val.txt`` and ``eurosat-test.txt`` of TorchGeo's mirror, and writes ``data/eurosat`` as
``torchgeo.datasets.EuroSAT`` reads it.
"""

from pathlib import Path

from preparing import SPLITS_DIR, download_parser, opened_source, place, progress, write_list

from hook.errors import DataError, reports_errors

LOTS = {"eurosat_rgb": ("train", "val", "test"), "eurosat_rgb_15k": ("train", "test")}
ALL_BANDS_DIR = Path("ds/images/remote_sensing/otherDatasets/sentinel_2/tif")
ALL_BANDS_LISTS = ("eurosat-train.txt", "eurosat-val.txt", "eurosat-test.txt")


def read_compact_list(path: str | Path) -> list[str]:
    """Read a committed list: a line ``Class: 3 52 57`` stands for ``Class/Class_3.jpg`` and so on.

    Args:
        path: The list file.

    Returns:
        The names, in the order of the file.
    """
    names = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        class_name, _, numbers = line.partition(":")
        names += [f"{class_name}/{class_name}_{number}.jpg" for number in numbers.split()]
    return names


def prepare_rgb(source: str | Path, out: str | Path) -> dict[str, dict[str, int]]:
    """Write the lots that the source has all images of.

    Args:
        source: Folder or zip archive with the class folders, or folders above them.
        out: Folder to write the lots in.

    Returns:
        Number of images per lot and split, for the lots that were written.

    Raises:
        DataError: If the source has not all images of any lot.
    """
    written, missing = {}, {}
    with opened_source(source) as folder:
        images = {f"{path.parent.name}/{path.name}": path for path in folder.rglob("*_*.jpg")}
        for lot, splits in LOTS.items():
            lists = {
                split: read_compact_list(SPLITS_DIR / "eurosat" / f"{lot}_{split}.txt")
                for split in splits
            }
            names = [name for split in splits for name in lists[split]]
            absent = [name for name in names if name not in images]
            if absent:
                missing[lot] = absent
                continue
            for name in progress(names, f"copying {lot}"):
                if not (Path(out) / lot / name).exists():
                    place(images[name], Path(out) / lot / name)
            classes = sorted({name.split("/")[0] for name in names})
            write_list(Path(out) / lot / "classes.txt", classes)
            for split in splits:
                write_list(Path(out) / lot / "splits" / f"{split}.txt", lists[split])
            written[lot] = {split: len(lists[split]) for split in splits}
    if not written:
        raise DataError(
            f"{source} is not EuroSAT RGB",
            expected="<Class>/<Class>_<n>.jpg, all images of a lot",
            found="; ".join(
                f"{lot}: {len(names)} images missing, the first {names[0]}"
                for lot, names in missing.items()
            ),
            remedy="give the whole EuroSAT_RGB download",
        )
    for lot, names in missing.items():
        print(f"{lot} left out: {len(names)} of its images are not in {source}")
    return written


def prepare_all_bands(source: str | Path, out: str | Path) -> int:
    """Lay out the 13-band GeoTIFFs as TorchGeo reads them.

    Args:
        source: Folder or zip archive with the GeoTIFFs; the lists in it or beside it.
        out: Folder to write ``eurosat`` in.

    Returns:
        Number of GeoTIFFs.

    Raises:
        DataError: If a list is missing, or GeoTIFFs that the lists name.
    """
    root = Path(out) / "eurosat"
    with opened_source(source) as folder:
        images = {path.name: path for path in sorted(folder.rglob("*_*.tif"))}
        lists = {}
        for name in ALL_BANDS_LISTS:
            found = [*folder.rglob(name), Path(source).parent / name, root / name]
            lists[name] = next((path for path in found if path.is_file()), None)
        absent = [name for name, path in lists.items() if path is None]
        if absent:
            raise DataError(
                f"{', '.join(absent)} missing",
                expected=f"the three lists of TorchGeo's mirror beside {source}",
                found="no file",
                remedy="download them with the images (torchgeo.datasets.EuroSAT names the place)",
            )
        texts = {name: path.read_text().split() for name, path in lists.items()}
        named = {Path(line).with_suffix(".tif").name for lines in texts.values() for line in lines}
        absent = sorted(named - set(images))
        if absent:
            raise DataError(
                f"{source} is not EuroSAT with all bands",
                expected=f"{len(named)} GeoTIFFs",
                found=f"{len(absent)} missing, the first {absent[0]}",
                remedy="give the whole EuroSATallBands download",
            )
        for name, path in progress(list(images.items()), "copying eurosat"):
            target = root / ALL_BANDS_DIR / name.rsplit("_", 1)[0] / name
            if not target.exists():
                place(path, target)
        for name, lines in texts.items():
            write_list(root / name, lines)
    return len(images)


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = download_parser(__doc__, "data")
    parser.add_argument(
        "--all-bands", action="store_true", help="the source holds the 13-band GeoTIFFs"
    )
    args = parser.parse_args(arguments)
    if args.all_bands or "allbands" in Path(args.source).name.lower():
        print(f"{prepare_all_bands(args.source, args.out)} GeoTIFFs in {args.out}/eurosat")
        return
    for lot, sizes in prepare_rgb(args.source, args.out).items():
        text = ", ".join(f"{size} {split}" for split, size in sizes.items())
        print(f"{args.out}/{lot}: {text}")


if __name__ == "__main__":
    main()
