"""``hook style``: names and colours of a class map."""

import argparse
import sys


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "style",
        help="give a class map names and colours",
        description="Write names and colours of classes beside a map: MAP.aux.xml for GDAL and a "
        ".qml for QGIS. The map itself stays as it is.",
    )
    parser.add_argument("map", metavar="MAP", help="class map: one band of class indexes")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help=".json or .csv of value, name, colour (#rrggbb) (default: the map's own, or defaults)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace names and colours")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar, no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.layers import style_map

    written = style_map(args.map, args.classes, overwrite=args.overwrite, progress=not args.quiet)
    if not args.quiet:
        print(", ".join(map(str, written)), file=sys.stderr)
