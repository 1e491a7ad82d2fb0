"""``hook regions``: the token regions of a scene as polygons with embeddings."""

import argparse
import functools
import sys

from hook.cli.options import (
    add_model_arguments,
    add_run_options,
    band_indexes,
    nodata,
    overlap,
    positive_int,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "regions",
        help="turn a scene's tokens into polygons with embeddings",
        description="Write the regions of the tokens of a scene of any size as polygons that "
        "cover it once, with class, score, area, perimeter, mean and standard deviation of each "
        "band, and the token's embedding. OUTPUT is GeoParquet (.parquet) or GeoPackage (.gpkg).",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "input",
        metavar="INPUT",
        nargs="+",
        help="scene: any raster GDAL opens (GeoTIFF, COG, JPEG 2000, VRT, /vsicurl/...), or "
        "several of one area, the first in front where they overlap",
    )
    parser.add_argument("output", metavar="OUTPUT", help="file to write, .parquet or .gpkg")
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="PIXELS",
        help="side of the model's window (default: the size the model was made for)",
    )
    parser.add_argument(
        "--overlap",
        type=overlap,
        default=0,
        metavar="SHARE",
        help="of neighbouring windows, of which then only the middle counts: a fraction, or whole "
        "pixels (default 0)",
    )
    parser.add_argument(
        "--bidx",
        type=band_indexes,
        metavar="BANDS",
        help="bands of the scene in the model's order, 1-based: 4,3,2 or 1..3 (default: those "
        "the config names)",
    )
    parser.add_argument(
        "--nodata", type=nodata, metavar="VALUE", help="replaces the scene's own: a number or nan"
    )
    parser.add_argument(
        "--aoi", metavar="FILE", help="only what lies in the polygons of this vector file"
    )
    parser.add_argument(
        "--explode",
        action="store_true",
        help="a polygon for each connected part of a token, not a multipolygon for the token",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="join regions of neighbouring windows that touch and whose embeddings agree; best "
        "with --explode where tokens have many parts",
    )
    parser.add_argument(
        "--merge-threshold",
        type=_cosine,
        metavar="T",
        help="cosine of embeddings above which --merge joins them (default 0.9)",
    )
    parser.add_argument(
        "--layer", default="regions", metavar="NAME", help="name of the layer (default: regions)"
    )
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="CPU threads of each process"
    )
    parser.add_argument(
        "--cluster",
        metavar="local|ADDRESS",
        help="share the scene among processes: start some here, or join the workers of the Dask "
        "scheduler at this address",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=2,
        metavar="N",
        help="number of processes of '--cluster local' (default 2)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what an interrupted run left"
    )
    add_run_options(parser, batch_size=4, unit="windows", tta=False)
    parser.set_defaults(run=functools.partial(run, parser))


def _cosine(text: str) -> float:
    """Read a cosine."""
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from -1 to 1")
    return value


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.regions import MERGE_THRESHOLD, extract_regions

    if args.merge_threshold is not None and not args.merge:
        parser.error("--merge-threshold says when --merge joins regions; give --merge too")
    report = extract_regions(
        args.config,
        args.checkpoint,
        args.input,
        args.output,
        device=args.device,
        num_tokens=args.num_tokens,
        window=args.window,
        overlap=args.overlap,
        batch_size=args.batch_size,
        bidx=args.bidx,
        nodata=args.nodata,
        aoi=args.aoi,
        explode=args.explode,
        merge=args.merge,
        merge_threshold=MERGE_THRESHOLD if args.merge_threshold is None else args.merge_threshold,
        layer=args.layer,
        threads=args.threads,
        cluster=args.cluster,
        workers=args.workers,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if not args.quiet:
        print(
            f"{args.output}: {report.regions} regions, {report.pixels} pixels, "
            f"{report.windows} windows ({report.empty_windows} empty), {report.seconds:.1f} s",
            file=sys.stderr,
        )
