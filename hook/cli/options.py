"""Options shared by several subcommands, and the types of their values."""

import argparse
import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hook.errors import ConfigError

LAYER_HELP = "a layer of several: 'FILE|layername=NAME', as QGIS writes it"


class CommandParser(argparse.ArgumentParser):
    """A parser that drops the arguments CONFIG and CHECKPOINT if ``--model`` is given."""

    def parse_known_args(self, args=None, namespace=None):
        """Parse arguments, without CONFIG and CHECKPOINT if ``--model`` is given."""
        given = list(args or ())
        options = given[: given.index("--")] if "--" in given else given
        if any(option.partition("=")[0] == "--model" for option in options):
            replaced = ("config", "checkpoint")
            for action in self._actions:
                if action.dest == "chip":  # takes CONFIG and CHECKPOINT too
                    action.nargs, action.metavar = 1, "FILE"
            self.set_defaults(**dict.fromkeys(replaced))
            for group in (self, *self._action_groups):
                actions = group._actions if group is self else group._group_actions
                actions[:] = [action for action in actions if action.dest not in replaced]
        return super().parse_known_args(args, namespace)

    def error(self, message):
        """Exit with the message; for ``--chip`` add that a model's name is enough."""
        chip = next((action for action in self._actions if action.dest == "chip"), None)
        # Too few values, or so few that REGIONS and OUTPUT were taken for them.
        of_chip = message.startswith("argument --chip") or "are required" in message
        if chip is not None and chip.nargs == 3 and of_chip:
            message += (
                "\n  remedy: pass the model of the regions: --chip FILE --model NAME, or "
                "--chip FILE CONFIG CHECKPOINT"
            )
        super().error(message)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and CHECKPOINT, and ``--model`` as the alternative."""
    parser.add_argument("config", metavar="CONFIG", help="config the model was trained with")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="its checkpoint")
    add_model_option(parser)


def add_model_option(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add ``--model``, with a prefix of its help."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"{prefix} instead of CONFIG and CHECKPOINT: a model from 'hook models list', or a "
        "published .safetensors file".strip(),
    )


def model_of(args: argparse.Namespace) -> str | tuple[str, str]:
    """Return the model argument of :func:`hook.apis.load_model`: a name, or a pair."""
    return (args.config, args.checkpoint) if args.model is None else args.model


def entropy_of(args: argparse.Namespace) -> Any:
    """Return ``--entropy``, with ``--entropy-checkpoint`` as a pair.

    Raises:
        ConfigError: The checkpoint has no config.
    """
    if args.entropy_checkpoint is None:
        return args.entropy
    if args.entropy in (True, False, None):
        raise ConfigError(
            "--entropy-checkpoint: no config of the generator",
            expected="--entropy CONFIG",
            found="no CONFIG",
            remedy="pass the config that the generator was trained with",
        )
    return args.entropy, args.entropy_checkpoint


def add_scene_command(
    commands,
    name: str,
    output: str,
    *,
    default_overlap: float | None,
    tta: bool = True,
    **texts: str,
) -> argparse.ArgumentParser:
    """Add a subcommand for whole scenes, with the common options, and return its parser.

    Args:
        commands: Subparsers of ``hook``.
        name: Name of the subcommand.
        output: Help of OUTPUT.
        default_overlap: Default of ``--overlap``; None: that of the request, 0 or a quarter.
        tta: Add ``--tta``.
        **texts: ``help`` and ``description`` of the subcommand.
    """
    parser = commands.add_parser(name, **texts)
    add_model_arguments(parser)
    add_scene_arguments(parser, output)
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="PIXELS",
        help="side of the model's window (default: the model's input size)",
    )
    parser.add_argument(
        "--overlap",
        type=overlap,
        default=default_overlap,
        metavar="FRACTION",
        help="overlap of windows: a fraction, or pixels from 1 (default "
        + ("%(default)s)" if default_overlap is not None else "0; for regions of the scene 0.25)"),
    )
    add_bidx(parser, "scene")
    add_nodata(parser)
    parser.add_argument(
        "--aoi",
        metavar="FILE",
        help=f"restrict to the polygons of this vector file; {LAYER_HELP}",
    )
    add_sharing_options(parser)
    add_run_options(parser, batch_size=4, unit="windows", tta=tta)
    return parser


def add_scene_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Add INPUT, a scene, and OUTPUT with its help."""
    parser.add_argument(
        "input",
        metavar="INPUT",
        nargs="+",
        help="scene: any raster that GDAL opens (GeoTIFF, COG, JPEG 2000, VRT, /vsicurl/...), or "
        "several of one area; where they overlap, the first one counts",
    )
    parser.add_argument("output", metavar="OUTPUT", help=output)


def add_nodata(parser: argparse.ArgumentParser) -> None:
    """Add ``--nodata``, the nodata value of a scene."""
    parser.add_argument(
        "--nodata",
        type=nodata,
        metavar="VALUE",
        help="overrides the scene's nodata value: a number or nan",
    )


def add_sharing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of processes, and ``--resume``."""
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads of each process (default: the cores, divided by the local workers)",
    )
    parser.add_argument(
        "--cluster",
        metavar="local|ADDRESS",
        help="distribute the scene: start local processes, or use the workers of the Dask "
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
        "--resume",
        action="store_true",
        help="resume an interrupted run; one that has finished is left as it is",
    )


def add_coding_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that coding and decoding a scene have in common."""
    parser.add_argument(
        "--bounds",
        type=float,
        nargs=4,
        metavar=("LEFT", "BOTTOM", "RIGHT", "TOP"),
        help="only this part of the scene, in its CRS: what the whole scene has there",
    )
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="PIXELS",
        help="side of the blocks of the scene (default 512)",
    )
    add_creation_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: estimate windows, memory, disk and time",
    )
    add_sharing_options(parser)
    add_run_options(parser, batch_size=1, unit="blocks", tta=False, tokens=False)


class _Pairs(argparse.Action):
    """Collects the pairs of an option in a dict."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, getattr(namespace, self.dest) | dict([values]))


def add_creation_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--co``, whose values become a dict."""
    parser.add_argument(
        "--co",
        dest="creation_options",
        type=key_value,
        action=_Pairs,
        default={},
        metavar="KEY=VALUE",
        help="creation option of GDAL's COG driver; may be repeated",
    )


def add_bidx(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--bidx``, the bands of a scene or an image."""
    parser.add_argument(
        "--bidx",
        type=band_indexes,
        metavar="BANDS",
        help=f"1-based bands of the {what} in the model's order: 4,3,2 or 1..3 (default: as in "
        "training)",
    )


def run_on_scene(args: argparse.Namespace, kind: Callable, request: Callable) -> None:
    """Run a class of :mod:`hook.apis` on a scene with the options of its request, and report."""
    scene_request = request(**arguments_of(args, request), progress=not args.quiet)
    print_report(args, kind(model_of(args), **arguments_of(args, kind)).run(scene_request))


def print_report(args: argparse.Namespace, report: Any) -> None:
    """Print an estimate, or unless quiet the report of a scene."""
    if getattr(args, "dry_run", False):
        print(report)
    elif not args.quiet or report.finished_before:
        print(f"{args.output}: {report}", file=sys.stderr)


def arguments_of(
    args: argparse.Namespace, function: Callable, given: Sequence[str] = ("model", "checkpoint")
) -> dict[str, Any]:
    """Return the options that are arguments of a function, except those already given."""
    names = set(inspect.signature(function).parameters) - set(given)
    return {name: value for name, value in vars(args).items() if name in names}


def add_run_options(
    parser: argparse.ArgumentParser,
    batch_size: int,
    unit: str,
    tta: bool = True,
    tokens: bool = True,
) -> None:
    """Add the options of commands that run a model and write files."""
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--batch",
        "--batch-size",
        dest="batch_size",
        type=positive_int,
        default=batch_size,
        metavar="N",
        help=f"{unit} per batch (default {batch_size})",
    )
    if tta:
        parser.add_argument(
            "--tta",
            choices=("flip", "d4"),
            help=f"average over flips, or flips and 90-degree rotations (d4), of the {unit}",
        )
    if tokens:
        parser.add_argument(
            "--num-tokens",
            type=positive_int,
            metavar="N",
            help="tokens per image or window, for a HOOK model (default: the config's)",
        )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar, no summary")


def add_old_spelling(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Accept a deprecated spelling of an option, with a warning."""
    option = parser._option_string_actions[new]

    class OldSpelling(argparse.Action):
        def __call__(self, parser, namespace, values, option_string=None):
            print(f"warning: {old} is deprecated: use {new}", file=sys.stderr)
            setattr(namespace, self.dest, values)

    parser.add_argument(
        old,
        dest=option.dest,
        type=option.type,
        action=OldSpelling,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def option_type(
    kind: Callable[[str], Any], accepts: Callable[[Any], bool], expected: str
) -> Callable[[str], Any]:
    """Return the type of an option.

    Args:
        kind: Parses the text; may raise a ValueError.
        accepts: Returns whether a value is valid.
        expected: Description of valid texts, for the message.
    """

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if accepts(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")

    return read


positive_int = option_type(int, lambda value: value >= 1, "an integer from 1")
row_number = option_type(int, lambda value: value >= 0, "an integer from 0")
not_negative = option_type(float, lambda value: 0 <= value < math.inf, "a number from 0")
positive = option_type(float, lambda value: 0 < value < math.inf, "a number above 0")


def overlap(text: str) -> float | int:
    """Parse an overlap: a fraction below 1, or an integer number of pixels."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (value >= 1 and value != int(value)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a fraction from 0 to below 1 nor a number of pixels"
        )
    return int(value) if value >= 1 else value


def band_indexes(text: str) -> list[int]:
    """Parse bands as rasterio's ``--bidx`` does: ``4,3,2``, ``1..3``, ``5``."""
    indexes: list[int] = []
    try:
        for part in text.split(","):
            first, dots, last = part.partition("..")
            indexes += range(int(first), int(last) + 1) if dots else [int(first)]
        if not indexes or min(indexes) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of 1-based bands such as 4,3,2 or 1..3"
        ) from None
    return indexes


def nodata(text: str) -> float | str:
    """Parse a nodata value: a number or ``nan``."""
    if text.lower() == "nan":
        return "nan"
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor nan") from None
    return int(value) if value.is_integer() else value


def key_value(text: str) -> tuple[str, str]:
    """Parse a creation option ``KEY=VALUE``."""
    key, sign, value = text.partition("=")
    if not sign or not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


SCORES = ("probs", "entropy", "margin")
score_kinds = option_type(
    lambda text: tuple(text.split(",")),
    lambda kinds: set(kinds) <= set(SCORES) and len(set(kinds)) == len(kinds),
    f"one or more of {', '.join(SCORES)}",
)
