"""``hook style``: write class names and colours of a map."""

import argparse
import sys


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "style",
        help="write class names and colours of a map",
        description="Write names and colours of classes next to a map: MAP.aux.xml for GDAL and a "
        ".qml for QGIS. The map itself is not changed.",
    )
    parser.add_argument("map", metavar="MAP", help="class map: one band of class indexes")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help=".json or .csv of value, name, colour (#rrggbb); default: as in the map, or generated",
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
