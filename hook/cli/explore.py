"""``hook explore``: label regions in the browser and get a map."""

import argparse
import functools

from hook.cli.options import (
    add_bidx,
    add_model_option,
    add_nodata,
    arguments_of,
    option_type,
    positive,
    positive_int,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "explore",
        help="label regions in the browser and get a map",
        description="Open a page in the browser that shows a scene and its token regions: find "
        "similar regions, label a few, and get a map of all. The page is served on this machine "
        "only. Labels are kept in a folder, and another run goes on where the last one stopped. "
        "Needs the extra hook-rs[explore].",
    )
    parser.add_argument(
        "files",
        metavar="[CONFIG CHECKPOINT] SCENE",
        nargs="+",
        help="scene: any raster that GDAL opens; before it config and checkpoint of a model that "
        "makes the regions",
    )
    parser.add_argument(
        "--regions", metavar="FILE", help="file that 'hook regions' wrote, .parquet or .gpkg"
    )
    add_model_option(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the session (default: <scene>_explore next to the scene)",
    )
    parser.add_argument(
        "--scale",
        type=positive,
        metavar="COST",
        help="see 'hook regions': regions of the whole scene up to this cost",
    )
    parser.add_argument(
        "--regions-per-km2",
        type=positive,
        metavar="N",
        help="see 'hook regions': regions of the whole scene, as many per square kilometre",
    )
    parser.add_argument(
        "--embedding",
        choices=("tokens", "seeds"),
        help="see 'hook regions': what regions are compared and classified by",
    )
    add_bidx(parser, "scene")
    add_nodata(parser)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="CPU threads of the model (default: all)"
    )
    parser.add_argument(
        "--port",
        type=option_type(int, lambda port: 0 <= port < 65536, "a port from 0 to 65535"),
        default=0,
        metavar="N",
        help="port of the page (default: any that is free)",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.set_defaults(run=functools.partial(run, parser))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    if len(args.files) not in (1, 3):
        parser.error("expected SCENE, or CONFIG CHECKPOINT SCENE")
    *pair, scene = args.files
    if pair and args.model is not None:
        parser.error("--model is instead of CONFIG and CHECKPOINT")
    if (pair or args.model) and args.regions is not None:
        parser.error("--regions are instead of a model")
    from hook.explore.opening import explore

    quiet = {"opened": None} if args.no_browser else {}
    explore(
        scene,
        model=tuple(pair) or args.model,
        **arguments_of(args, explore, ("scene", "model", "opened")),
        **quiet,
    )
