"""``hook map``: a georeferenced scene of any size to a map."""

import argparse
import sys

from hook.cli.options import (
    add_model_arguments,
    add_run_options,
    band_indexes,
    key_value,
    kinds_of_scores,
    nodata,
    not_negative,
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
    parser.add_argument(
        "input",
        metavar="INPUT",
        nargs="+",
        help="scene: any raster GDAL opens (GeoTIFF, COG, JPEG 2000, VRT, /vsicurl/...), or "
        "several of one area, the first in front where they overlap",
    )
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
        "--blend",
        choices=("hann", "crop", "mean"),
        default="hann",
        help="what counts where windows overlap: their mean, weighted towards the middle (hann, "
        "the default) or not (mean), or the nearest window alone (crop)",
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
        "--aoi",
        metavar="FILE",
        help="map only what lies in the polygons of this vector file",
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
        "--scores",
        type=kinds_of_scores,
        default=(),
        metavar="KIND",
        help="also write how sure the map is, to <OUTPUT>.scores.tif: probs (of each class), "
        "entropy or margin, or several: probs,entropy",
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
        help="smooth the polygons' edges by this much in units of the scene's CRS; common edges "
        "stay common",
    )
    parser.add_argument(
        "--taken",
        metavar="TIME",
        help="when the scene was taken, for the map's STAC Item: 2024-05-31, 2024-05-31T10:20:30Z "
        "or first/last (default: as the scene's tags tell)",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the model (default fp32)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the model")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="CPU threads of each process"
    )
    parser.add_argument(
        "--cluster",
        metavar="local|ADDRESS",
        help="share the scene among processes: start some here, or join the workers of the Dask "
        "scheduler at this address",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=2,
        metavar="N",
        help="number of processes of '--cluster local' (default 2)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what an interrupted run left"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: print windows, memory, disk and time that the map would take",
    )
    add_run_options(parser, batch_size=4, unit="windows")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.mapping import map_scene

    report = map_scene(
        args.config,
        args.checkpoint,
        args.input,
        args.output,
        device=args.device,
        window=args.window,
        overlap=args.overlap,
        blend=args.blend,
        batch_size=args.batch_size,
        bidx=args.bidx,
        nodata=args.nodata,
        aoi=args.aoi,
        tta=args.tta,
        num_tokens=args.num_tokens,
        scores=args.scores,
        vectors=args.vectors,
        min_area=args.min_area,
        simplify=args.simplify,
        taken=args.taken,
        precision=args.precision,
        compile=args.compile,
        threads=args.threads,
        cluster=args.cluster,
        workers=args.workers,
        creation_options=dict(args.co) or None,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
        dry_run=args.dry_run,
    )
    if args.dry_run:
        print(report)
        return
    if not args.quiet:
        print(
            f"{args.output}: {report.pixels} pixels, {report.windows} windows "
            f"({report.empty_windows} empty), {report.seconds:.1f} s",
            file=sys.stderr,
        )
