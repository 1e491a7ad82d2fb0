"""``hook label``: classify all regions from labels of a few."""

import argparse
import sys

from hook.cli.options import LAYER_HELP, arguments_of, positive


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "label",
        help="classify all regions from labels of a few",
        description="Fit a small classifier to the labelled regions and write class_id, class_name "
        "and score of every region. LABELS are points or polygons in any CRS, or a .csv of "
        "region_id (the row of REGIONS, from 0) and class. A polygon labels the regions it covers "
        "by more than half, else the one it covers most. OUTPUT is GeoPackage (.gpkg), GeoParquet "
        "(.parquet), FlatGeobuf (.fgb) or GeoJSON (.geojson, .json; in WGS 84).",
    )
    parser.add_argument(
        "regions", metavar="REGIONS", help="file that 'hook regions' wrote, .parquet or .gpkg"
    )
    parser.add_argument("labels", metavar="LABELS", help=f"vector file or .csv; {LAYER_HELP}")
    parser.add_argument("output", metavar="OUTPUT", help="vector file to write")
    parser.add_argument(
        "--field", default="class", metavar="NAME", help="class field of LABELS (default: class)"
    )
    parser.add_argument(
        "--method",
        choices=("linear", "mean"),
        default="linear",
        help="logistic regression (default), or nearest class mean by cosine",
    )
    parser.add_argument(
        "--features",
        choices=("embedding", "bands"),
        default="embedding",
        help="embeddings (default), or means and standard deviations of bands",
    )
    parser.add_argument(
        "--strength",
        type=positive,
        default=1.0,
        metavar="S",
        help="inverse strength of the penalty of '--method linear' (default 1: scikit-learn's C of "
        "6 / number of features)",
    )
    parser.add_argument(
        "--layer", default="regions", metavar="NAME", help="name of the layer (default: regions)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", "-q", action="store_true", help="no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.search import classify_regions

    found = classify_regions(**arguments_of(args, classify_regions))
    if not args.quiet:
        counts = found.class_name.value_counts().sort_index()
        classes = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(f"{args.output}: {len(found)} regions ({classes})", file=sys.stderr)
