"""``hook regions``: extract token regions as polygons with embeddings."""

import argparse
import functools

from hook.cli.options import (
    add_old_spelling,
    add_scene_command,
    option_type,
    positive,
    run_on_scene,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = add_scene_command(
        commands,
        "regions",
        "file to write, .parquet or .gpkg",
        default_overlap=None,
        tta=False,
        help="extract token regions as polygons with embeddings",
        description="Write the token regions of a scene of any size as polygons without gaps or "
        "overlaps, with class, score, area, perimeter, mean and standard deviation of each band, "
        "and embedding. Where windows overlap, only the centre of each is used. OUTPUT is "
        "GeoParquet (.parquet) or GeoPackage (.gpkg). Models with preset 'objects' also have "
        "regions of the whole scene, cut by no window: --scale, --regions-per-km2.",
    )
    parser.add_argument(
        "--scale",
        type=positive,
        metavar="COST",
        help="regions of the whole scene: merge neighbours up to this cost; more gives larger "
        "regions",
    )
    parser.add_argument(
        "--regions-per-km2",
        type=positive,
        metavar="N",
        help="regions of the whole scene, as many as this per square kilometre with data",
    )
    parser.add_argument(
        "--explode",
        action="store_true",
        help="write a polygon per connected part of a token, not a multipolygon per token",
    )
    parser.add_argument(
        "--min-region-pixels",
        type=int,
        default=0,
        metavar="PIXELS",
        help="merge smaller connected parts of a token into the most similar neighbour (default: "
        "keep all)",
    )
    add_old_spelling(parser, "--min-region", "--min-region-pixels")
    parser.add_argument(
        "--refine",
        action="store_true",
        help="give pixels at the borders of regions to the neighbour of like colour, instead of "
        "edges along seeds of 4 x 4 pixels",
    )
    parser.add_argument(
        "--embedding",
        choices=("tokens", "seeds"),
        help="tokens (default), or means and standard deviations of the seeds (4 x 4 pixels), "
        "better for classes that the model was not trained on (default of regions of the whole "
        "scene)",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="merge touching regions of neighbouring windows with similar embeddings; best with "
        "--explode if tokens have many parts",
    )
    parser.add_argument(
        "--merge-threshold",
        type=option_type(float, lambda cosine: -1 <= cosine <= 1, "a number from -1 to 1"),
        default=argparse.SUPPRESS,
        metavar="T",
        help="cosine of embeddings above which --merge merges regions (default 0.9)",
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
        parser.error("--merge-threshold needs --merge")
    run_on_scene(args, RegionExtractor, RegionRequest)
