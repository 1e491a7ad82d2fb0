"""``hook regions``: the token regions of a scene as polygons with embeddings."""

import argparse
import functools

from hook.cli.options import add_old_spelling, add_scene_command, option_type, run_on_scene


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = add_scene_command(
        commands,
        "regions",
        "file to write, .parquet or .gpkg",
        default_overlap=0,
        tta=False,
        help="turn a scene's tokens into polygons with embeddings",
        description="Write the regions of the tokens of a scene of any size as polygons that "
        "cover it once, with class, score, area, perimeter, mean and standard deviation of each "
        "band, and the token's embedding. Where windows overlap, only the middle of each counts. "
        "OUTPUT is GeoParquet (.parquet) or GeoPackage (.gpkg).",
    )
    parser.add_argument(
        "--explode",
        action="store_true",
        help="a polygon for each connected part of a token, not a multipolygon for the token",
    )
    parser.add_argument(
        "--min-region-pixels",
        type=int,
        default=0,
        metavar="PIXELS",
        help="smallest connected part of a token; a smaller one goes to the neighbour it looks "
        "most like (default: keep all)",
    )
    add_old_spelling(parser, "--min-region", "--min-region-pixels")
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
        type=option_type(float, lambda cosine: -1 <= cosine <= 1, "a number from -1 to 1"),
        default=argparse.SUPPRESS,
        metavar="T",
        help="cosine of embeddings above which --merge joins them (default 0.9)",
    )
    parser.add_argument(
        "--layer", default="regions", metavar="NAME", help="name of the layer (default: regions)"
    )
    parser.set_defaults(run=functools.partial(run, parser))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.regions import RegionExtractor
    from hook.regions.plan import RegionRequest

    if "merge_threshold" in args and not args.merge:
        parser.error("--merge-threshold says when --merge joins regions; give --merge too")
    run_on_scene(args, RegionExtractor, RegionRequest)
