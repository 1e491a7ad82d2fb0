"""``hook regions``: the token regions of a scene as polygons with embeddings."""

import argparse
import functools
import sys

from hook.cli.options import (
    add_model_arguments,
    add_run_options,
    add_scene_arguments,
    add_scene_options,
    add_worker_options,
    model_of,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "regions",
        help="turn a scene's tokens into polygons with embeddings",
        description="Write the regions of the tokens of a scene of any size as polygons that "
        "cover it once, with class, score, area, perimeter, mean and standard deviation of each "
        "band, and the token's embedding. Where windows overlap, only the middle of each counts. "
        "OUTPUT is GeoParquet (.parquet) or GeoPackage (.gpkg).",
    )
    add_model_arguments(parser)
    add_scene_arguments(parser)
    parser.add_argument("output", metavar="OUTPUT", help="file to write, .parquet or .gpkg")
    add_scene_options(parser, default_overlap=0)
    parser.add_argument(
        "--explode",
        action="store_true",
        help="a polygon for each connected part of a token, not a multipolygon for the token",
    )
    parser.add_argument(
        "--min-region",
        type=int,
        default=0,
        metavar="PIXELS",
        help="smallest connected part of a token; a smaller one goes to the neighbour it looks "
        "most like (default: keep all)",
    )
    parser.add_argument(
        "--embedding",
        choices=("tokens", "seeds"),
        default="tokens",
        help="what tells regions apart: their tokens (default), or means and standard deviations "
        "of their seeds of 4 x 4 pixels, better for what the model was not trained on",
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
    add_worker_options(parser)
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
    from hook.apis.regions import MERGE_THRESHOLD, RegionExtractor

    if args.merge_threshold is not None and not args.merge:
        parser.error("--merge-threshold says when --merge joins regions; give --merge too")
    extractor = RegionExtractor(
        model_of(args),
        device=args.device,
        num_tokens=args.num_tokens,
        threads=args.threads,
        min_region=args.min_region,
        embedding=args.embedding,
    )
    report = extractor.extract(
        args.input,
        args.output,
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
