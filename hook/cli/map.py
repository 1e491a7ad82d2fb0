"""``hook map``: map a georeferenced scene of any size."""

import argparse

from hook.cli.options import (
    add_creation_options,
    add_old_spelling,
    add_scene_command,
    not_negative,
    run_on_scene,
    score_kinds,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = add_scene_command(
        commands,
        "map",
        "map to write, .tif",
        default_overlap=0.25,
        help="map a whole scene",
        description="Map a georeferenced scene of any size: a segmentation classifies pixels, a "
        "classification cells of the size of the windows' step. OUTPUT is a Cloud-Optimised "
        "GeoTIFF of classes with colour table, class names and nodata.",
    )
    parser.add_argument(
        "--blend",
        choices=("hann", "crop", "mean"),
        default="hann",
        help="blending of overlapping windows: mean weighted by a Hann window (hann, default), "
        "plain mean (mean), or only the nearest window (crop)",
    )
    add_creation_options(parser)
    parser.add_argument(
        "--scores",
        type=score_kinds,
        default=(),
        metavar="KIND",
        help="also write scores to <OUTPUT>.scores.tif: probs (of each class), entropy or margin, "
        "or several: probs,entropy",
    )
    parser.add_argument(
        "--vectors",
        metavar="FILE.gpkg",
        help="also write the regions as polygons (or .parquet, .fgb, .geojson)",
    )
    parser.add_argument(
        "--min-area",
        type=not_negative,
        default=0,
        metavar="M2",
        help="dissolve polygons of fewer square metres into their largest neighbour",
    )
    parser.add_argument(
        "--simplify",
        type=not_negative,
        default=0,
        metavar="TOLERANCE",
        help="smooth the polygons' common edges, tolerance in units of the scene's CRS",
    )
    parser.add_argument(
        "--datetime",
        metavar="TIME",
        help="acquisition time of the scene, for the map's STAC Item: 2024-05-31, "
        "2024-05-31T10:20:30Z or first/last (default: from the scene's tags)",
    )
    add_old_spelling(parser, "--taken", "--datetime")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the model (default fp32)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the model")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: estimate windows, memory, disk and time of the map",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.mapping import SceneMapper
    from hook.scenes.request import MapRequest

    run_on_scene(args, SceneMapper, MapRequest)
