"""``hook vectorize``: convert a class map to polygons."""

import argparse
import sys

from hook.cli.options import arguments_of, not_negative


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "vectorize",
        help="convert a class map to polygons",
        description="Convert the regions of a class map to polygons without gaps or overlaps, "
        "with class, mean score, area and perimeter. OUTPUT is GeoPackage (.gpkg), GeoParquet "
        "(.parquet), FlatGeobuf (.fgb) or GeoJSON (.geojson, .json; in WGS 84).",
    )
    parser.add_argument("map", metavar="MAP", help="class map: one band of class indexes")
    parser.add_argument("output", metavar="OUTPUT", help="vector file to write")
    parser.add_argument(
        "--min-area",
        type=not_negative,
        default=0,
        metavar="M2",
        help="dissolve smaller regions (square metres) into their largest neighbour",
    )
    parser.add_argument(
        "--simplify",
        type=not_negative,
        default=0,
        metavar="TOLERANCE",
        help="smooth edges, tolerance in units of the map's CRS; holds all polygons in memory",
    )
    parser.add_argument(
        "--scores",
        metavar="FILE.tif",
        help="confidence (one band) or class probabilities, for the mean score of the polygons",
    )
    parser.add_argument(
        "--layer", default="regions", metavar="NAME", help="name of the layer (default: regions)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar, no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.layers import vectorize_map

    options = arguments_of(args, vectorize_map)
    count = vectorize_map(args.map, **options, progress=not args.quiet)
    if not args.quiet:
        print(f"{args.output}: {count} polygons", file=sys.stderr)
