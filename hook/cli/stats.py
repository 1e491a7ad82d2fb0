"""``hook stats``: measure the area of each class."""

import argparse
import sys

from hook.cli.options import LAYER_HELP, arguments_of


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "stats",
        help="measure the area of each class",
        description="Measure the area of each class of a map, in total or by zone: CSV of class, "
        "pixels, square metres, hectares and share of the valid area. Areas are those on the "
        "ground in any CRS.",
    )
    parser.add_argument("map", metavar="MAP", help="class map: one band of class indexes")
    parser.add_argument(
        "--zones",
        metavar="FILE",
        help=f"polygons in any vector format and CRS: one row per zone and class; {LAYER_HELP}",
    )
    parser.add_argument(
        "--zone-field", metavar="NAME", help="name field of the zones (default: feature id)"
    )
    parser.add_argument(
        "--out", "-o", metavar="FILE.csv", help="file to write (default: standard output)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar, no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.layers import class_statistics, format_statistics

    options = arguments_of(args, class_statistics)
    table = class_statistics(args.map, args.out, **options, progress=not args.quiet)
    if args.out is None:
        sys.stdout.write(format_statistics(table))
    elif not args.quiet:
        print(f"{args.out}: {len(table)} rows", file=sys.stderr)
