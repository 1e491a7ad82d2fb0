"""``hook map``: a georeferenced scene of any size to a map."""

import argparse
import sys

from hook.cli.options import (
    add_model_arguments,
    add_run_options,
    add_scene_arguments,
    add_scene_options,
    add_worker_options,
    key_value,
    kinds_of_scores,
    model_of,
    not_negative,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "map",
        help="map a whole scene",
        description="Map a georeferenced scene of any size: a segmentation gives every pixel its "
        "class, a classification every cell of one window's step. OUTPUT is a Cloud-Optimised "
        "GeoTIFF of classes with colour table, class names and nodata.",
    )
    add_model_arguments(parser)
    add_scene_arguments(parser)
    parser.add_argument("output", metavar="OUTPUT", help="map to write, .tif")
    add_scene_options(parser, default_overlap=0.25)
    parser.add_argument(
        "--blend",
        choices=("hann", "crop", "mean"),
        default="hann",
        help="what counts where windows overlap: their mean, weighted towards the middle (hann, "
        "the default) or not (mean), or the nearest window alone (crop)",
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
    add_worker_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: print windows, memory, disk and time that the map would take",
    )
    add_run_options(parser, batch_size=4, unit="windows")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.mapping import SceneMapper

    mapper = SceneMapper(
        model_of(args),
        device=args.device,
        num_tokens=args.num_tokens,
        tta=args.tta,
        precision=args.precision,
        compile=args.compile,
        threads=args.threads,
    )
    report = mapper.map(
        args.input,
        args.output,
        window=args.window,
        overlap=args.overlap,
        blend=args.blend,
        batch_size=args.batch_size,
        bidx=args.bidx,
        nodata=args.nodata,
        aoi=args.aoi,
        scores=args.scores,
        vectors=args.vectors,
        min_area=args.min_area,
        simplify=args.simplify,
        taken=args.taken,
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
