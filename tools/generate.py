r"""Generate images: of a class as PNGs, or for a map of classes as GeoTIFFs of its grid.

They are inventions of a model, which is said in the tags and the names of all files:

    python tools/generate.py CONFIG OUT --checkpoint FILE --class Forest -n 16 --seed 0
    python tools/generate.py CONFIG OUT --checkpoint FILE --mask map.tif

For masks larger than a tile, the differences of adjacent pixels at the seams of windows and
elsewhere are printed.
"""

import argparse

from hook.apis import generate
from hook.cli.options import arguments_of, positive_int, row_number
from hook.errors import reports_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        help="generator: a name from 'hook models list', a published .safetensors file, or a "
        "config with --checkpoint",
    )
    parser.add_argument("output", metavar="out", help="folder of the files")
    parser.add_argument("--checkpoint", metavar="FILE", help="checkpoint of a config")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--class", dest="class_name", metavar="NAME", help="class of the tiles")
    what.add_argument(
        "--mask",
        metavar="FILE",
        help="raster of classes with a CRS; pixels without data have an unknown class",
    )
    parser.add_argument(
        "-n", dest="count", type=positive_int, default=1, help="number of images (default 1)"
    )
    parser.add_argument("--seed", type=row_number, default=0, help="seed of the draws (default 0)")
    for name, kind in (("guidance", float), ("temperature", float), ("top-p", float)):
        parser.add_argument(
            f"--{name}", type=kind, default=argparse.SUPPRESS, help=f"{name} of the sampling"
        )
    parser.add_argument(
        "--top-k", type=int, default=argparse.SUPPRESS, help="only the K most likely codes"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--batch",
        dest="batch_size",
        type=positive_int,
        default=16,
        help="tiles, or windows of a mask, per batch (default 16)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    model = args.model if args.checkpoint is None else (args.model, args.checkpoint)
    options = arguments_of(args, generate, ("model", "output"))
    names = ("guidance", "temperature", "top_p", "top_k")
    options |= {name: value for name, value in vars(args).items() if name in names}
    for image in generate(model, args.output, **options):
        print(image)


if __name__ == "__main__":
    main()
