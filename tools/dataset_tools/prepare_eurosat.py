"""Prepare EuroSAT: the RGB subsets of configs/_base_/datasets/eurosat_2k.py, or all bands.

    python tools/dataset_tools/prepare_eurosat.py EuroSAT_RGB.zip data
    python tools/dataset_tools/prepare_eurosat.py EuroSATallBands.zip data
    python tools/dataset_tools/prepare_eurosat.py EuroSATallBands.zip data --small

The first form reads the public RGB download of 27,000 JPEGs (folder or zip archive), or a part of
it, and writes ``data/eurosat_rgb`` (1,200 training, 400 validation and 400 test images) and
``data/eurosat_rgb_15k`` (12,000 training and 3,000 test images) with the images listed in
``configs/_base_/splits/eurosat``. The 400 validation images are among the 12,000, whose list
``splits/train_without_val.txt`` leaves them out. Subsets with missing images are skipped with a
message.

The second form reads the 13-band GeoTIFFs and the lists ``eurosat-train.txt``, ``eurosat-val.txt``
and ``eurosat-test.txt`` of TorchGeo's mirror next to them, and writes ``data/eurosat`` in the
layout of ``torchgeo.datasets.EuroSAT``. With ``--small`` it writes ``data/eurosat_ms`` in that
layout, with the 86 training, 29 validation and 35 test images of ``configs/_base_/splits/eurosat``.
"""

from pathlib import Path

from preparing import SPLITS_DIR, download_parser, opened_source, place, progress, write_list

from hook.errors import DataError, reports_errors

SUBSETS = {"eurosat_rgb": ("train", "val", "test"), "eurosat_rgb_15k": ("train", "test")}
ALL_BANDS_DIR = Path("ds/images/remote_sensing/otherDatasets/sentinel_2/tif")
ALL_BANDS_LISTS = ("eurosat-train.txt", "eurosat-val.txt", "eurosat-test.txt")


def read_compact_list(path: str | Path, suffix: str = ".jpg") -> list[str]:
    """Read the names of a list with lines ``Class: 3 52``, short for ``Class/Class_3.jpg`` etc."""
    names = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        class_name, _, numbers = line.partition(":")
        names += [f"{class_name}/{class_name}_{number}{suffix}" for number in numbers.split()]
    return names


def read_split(subset: str, split: str) -> list[str]:
    """Read the names of a split of a subset, as it is committed."""
    return read_compact_list(SPLITS_DIR / "eurosat" / f"{subset}_{split}.txt")


def prepare_rgb(source: str | Path, out: str | Path) -> dict[str, dict[str, int]]:
    """Write the subsets that are complete in the source.

    Args:
        source: Folder or zip archive with class folders at any depth.
        out: Folder to write the subsets in.

    Returns:
        Number of images by subset and split, for the subsets written.

    Raises:
        DataError: If no subset is complete.
    """
    written, missing = {}, {}
    with opened_source(source) as folder:
        images = {f"{path.parent.name}/{path.name}": path for path in folder.rglob("*_*.jpg")}
        for subset, splits in SUBSETS.items():
            lists = {split: read_split(subset, split) for split in splits}
            names = [name for split in splits for name in lists[split]]
            absent = [name for name in names if name not in images]
            if absent:
                missing[subset] = absent
                continue
            root = Path(out) / subset
            for name in progress(names, f"copying {subset}"):
                if not (root / name).exists():
                    place(images[name], root / name)
            write_list(root / "classes.txt", sorted({name.split("/")[0] for name in names}))
            if subset != "eurosat_rgb":
                seen = set(read_split("eurosat_rgb", "val"))
                lists["train_without_val"] = [one for one in lists["train"] if one not in seen]
            for split, listed in lists.items():
                write_list(root / "splits" / f"{split}.txt", listed)
            written[subset] = {split: len(listed) for split, listed in lists.items()}
    if not written:
        found = (f"{k}: {len(v)} images missing, the first {v[0]}" for k, v in missing.items())
        raise DataError(
            f"{source} is not EuroSAT RGB",
            expected="<Class>/<Class>_<n>.jpg, all images of a subset",
            found="; ".join(found),
            remedy="pass the complete EuroSAT_RGB download",
        )
    for subset, names in missing.items():
        print(f"{subset} skipped: {len(names)} of its images are not in {source}")
    return written


def prepare_all_bands(source: str | Path, out: str | Path, small: bool = False) -> Path:
    """Copy the 13-band GeoTIFFs to TorchGeo's layout and return its folder.

    Args:
        source: Folder or zip archive with the GeoTIFFs; the lists in it or next to it.
        out: Folder to write ``eurosat`` in.
        small: Write ``eurosat_ms`` with the images of HOOK's lists instead.

    Raises:
        DataError: If a list or a listed GeoTIFF is missing.
    """
    root = Path(out) / ("eurosat_ms" if small else "eurosat")
    with opened_source(source) as folder:
        images = {path.name: path for path in sorted(folder.rglob("*_*.tif"))}
        lists = {}
        for name in ALL_BANDS_LISTS:
            found = [*folder.rglob(name), Path(source).parent / name, root / name]
            if small:
                found = [SPLITS_DIR / "eurosat" / name.replace("eurosat-", "eurosat_ms_")]
            lists[name] = next((path for path in found if path.is_file()), None)
        absent = [name for name, path in lists.items() if path is None]
        if absent:
            raise DataError(
                f"{', '.join(absent)} missing",
                expected=f"the three lists of TorchGeo's mirror next to {source}",
                found="no file",
                remedy="download them with the images (see torchgeo.datasets.EuroSAT)",
            )
        if small:
            texts = {name: read_compact_list(path, ".tif") for name, path in lists.items()}
        else:
            texts = {name: path.read_text().split() for name, path in lists.items()}
        named = {Path(line).with_suffix(".tif").name for lines in texts.values() for line in lines}
        absent = sorted(named - set(images))
        if absent:
            raise DataError(
                f"{source} is not EuroSAT with all bands",
                expected=f"{len(named)} GeoTIFFs",
                found=f"{len(absent)} missing, the first {absent[0]}",
                remedy="pass the complete EuroSATallBands download",
            )
        chosen = named if small else images
        for name, path in progress([(n, images[n]) for n in sorted(chosen)], "copying eurosat"):
            target = root / ALL_BANDS_DIR / name.rsplit("_", 1)[0] / name
            if not target.exists():
                place(path, target)
        for name, lines in texts.items():
            write_list(root / name, [Path(line).name for line in lines] if small else lines)
    return root


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = download_parser(__doc__, "data")
    parser.add_argument(
        "--all-bands", action="store_true", help="the source has the 13-band GeoTIFFs"
    )
    parser.add_argument(
        "--small", action="store_true", help="of these, the 150 of HOOK's lists only"
    )
    args = parser.parse_args(arguments)
    if args.all_bands or args.small or "allbands" in Path(args.source).name.lower():
        root = prepare_all_bands(args.source, args.out, args.small)
        print(f"{sum(1 for _ in root.rglob('*_*.tif'))} GeoTIFFs in {root}")
        return
    for subset, sizes in prepare_rgb(args.source, args.out).items():
        text = ", ".join(f"{size} {split}" for split, size in sizes.items())
        print(f"{args.out}/{subset}: {text}")


if __name__ == "__main__":
    main()
