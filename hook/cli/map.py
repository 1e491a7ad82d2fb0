"""``hook map``: a georeferenced scene of any size to a map."""

import argparse
import sys

from hook.cli.options import (
    add_model_arguments,
    add_run_options,
    band_indexes,
    key_value,
    nodata,
    overlap,
    positive_int,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "map",
        help="map a whole scene",
        description="Map a georeferenced scene of any size with a segmentation model. OUTPUT is a "
        "Cloud-Optimised GeoTIFF of classes with colour table, class names and nodata.",
    )
    add_model_arguments(parser)
    parser.add_argument("input", metavar="INPUT", help="scene: any raster GDAL opens")
    parser.add_argument("output", metavar="OUTPUT", help="map to write, .tif")
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="PIXELS",
        help="side of the model's window (default: the size the model was made for)",
    )
    parser.add_argument(
        "--overlap",
        type=overlap,
        default=0.25,
        metavar="SHARE",
        help="of neighbouring windows: a fraction, or whole pixels (default 0.25)",
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
        "--co",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="creation option of GDAL's COG driver; may be repeated",
    )
    parser.add_argument(
        "--probabilities", metavar="FILE.tif", help="also write the class probabilities"
    )
    parser.add_argument(
        "--vectors", metavar="FILE.gpkg", help="also write the regions as polygons (or .parquet)"
    )
    add_run_options(parser, batch_size=4, unit="windows")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.inference import load_model
    from hook.apis.mapping import map_scene

    model = load_model(args.config, args.checkpoint, args.device)
    report = map_scene(
        model,
        None,
        args.input,
        args.output,
        window=args.window,
        overlap=args.overlap,
        batch_size=args.batch_size,
        bidx=args.bidx,
        nodata=args.nodata,
        tta=args.tta,
        num_tokens=args.num_tokens,
        probabilities=args.probabilities,
        vectors=args.vectors,
        creation_options=dict(args.co) or None,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if not args.quiet:
        print(
            f"{args.output}: {report.pixels} pixels, {report.windows} windows "
            f"({report.empty_windows} empty), {report.seconds:.1f} s",
            file=sys.stderr,
        )
