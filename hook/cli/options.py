"""Options that several subcommands share, and the types of their values."""

import argparse
import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """A parser whose arguments CONFIG and CHECKPOINT give way to ``--model``."""

    def parse_known_args(self, args=None, namespace=None):
        """Parse; where ``--model`` is given, nothing stands for CONFIG and CHECKPOINT."""
        given = list(args or ())
        own = given[: given.index("--")] if "--" in given else given
        if any(word.partition("=")[0] == "--model" for word in own):
            replaced = ("config", "checkpoint")
            for action in self._actions:
                if action.dest == "chip":  # an option that is followed by the two
                    action.nargs, action.metavar = 1, "FILE"
            self.set_defaults(**dict.fromkeys(replaced))
            for group in (self, *self._action_groups):
                actions = group._actions if group is self else group._group_actions
                actions[:] = [action for action in actions if action.dest not in replaced]
        return super().parse_known_args(args, namespace)

    def error(self, message):
        """End with the message; of ``--chip`` say that a model's name is enough."""
        chip = next((action for action in self._actions if action.dest == "chip"), None)
        # Too few words after it, or so few that it took REGIONS and OUTPUT for its own.
        of_chip = message.startswith("argument --chip") or "are required" in message
        if chip is not None and chip.nargs == 3 and of_chip:
            message += (
                "\n  remedy: name the model that made the regions: --chip FILE --model NAME, or "
                "--chip FILE CONFIG CHECKPOINT"
            )
        super().error(message)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and CHECKPOINT, and ``--model`` in their place."""
    parser.add_argument("config", metavar="CONFIG", help="config the model was trained with")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="its checkpoint")
    add_model_option(parser)


def add_model_option(parser: argparse.ArgumentParser, whose: str = "") -> None:
    """Add ``--model``."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"{whose} in place of CONFIG and CHECKPOINT: a model that 'hook models list' shows, "
        "or a published .safetensors file".strip(),
    )


def model_of(args: argparse.Namespace) -> str | tuple[str, str]:
    """Give what :func:`hook.apis.load_model` takes: a name, or a config and its checkpoint."""
    return (args.config, args.checkpoint) if args.model is None else args.model


def add_scene_command(
    commands, name: str, output: str, *, default_overlap: float, tta: bool = True, **texts: str
) -> argparse.ArgumentParser:
    """Add a subcommand that makes something from a whole scene, with the options all of them have.

    Args:
        commands: Subparsers of ``hook``.
        name: Name of the subcommand.
        output: Help of OUTPUT.
        default_overlap: Default of ``--overlap``.
        tta: Whether there is ``--tta``.
        **texts: ``help`` and ``description`` of the subcommand.

    Returns:
        Its parser.
    """
    parser = commands.add_parser(name, **texts)
    add_model_arguments(parser)
    parser.add_argument(
        "input",
        metavar="INPUT",
        nargs="+",
        help="scene: any raster GDAL opens (GeoTIFF, COG, JPEG 2000, VRT, /vsicurl/...), or "
        "several of one area, the first in front where they overlap",
    )
    parser.add_argument("output", metavar="OUTPUT", help=output)
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="PIXELS",
        help="side of the model's window (default: the size the model was made for)",
    )
    parser.add_argument(
        "--overlap",
        type=overlap,
        default=default_overlap,
        metavar="SHARE",
        help="of neighbouring windows: a fraction, or whole pixels (default %(default)s)",
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
        "--aoi", metavar="FILE", help="only what lies in the polygons of this vector file"
    )
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
    add_run_options(parser, batch_size=4, unit="windows", tta=tta)
    return parser


def run_on_scene(args: argparse.Namespace, kind: Callable, request: Callable) -> None:
    """Make what a subcommand makes from a scene, and print what was done.

    Args:
        args: Options, whose names are those of the arguments of ``kind`` and ``request``.
        kind: Class of :mod:`hook.apis` made of a model.
        request: Class of what is asked of it.
    """
    asked = request(**arguments_of(args, request), progress=not args.quiet)
    report = kind(model_of(args), **arguments_of(args, kind)).run(asked)
    if getattr(args, "dry_run", False):
        print(report)
    elif not args.quiet:
        print(f"{args.output}: {report}", file=sys.stderr)


def arguments_of(
    args: argparse.Namespace, function: Callable, given: Sequence[str] = ("model", "checkpoint")
) -> dict[str, Any]:
    """Take the arguments of a function that have the names of options, but for those given."""
    names = set(inspect.signature(function).parameters) - set(given)
    return {name: value for name, value in vars(args).items() if name in names}


def add_run_options(
    parser: argparse.ArgumentParser, batch_size: int, unit: str, tta: bool = True
) -> None:
    """Add the options of every command that runs a model and writes files."""
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--batch",
        "--batch-size",
        dest="batch_size",
        type=positive_int,
        default=batch_size,
        metavar="N",
        help=f"{unit} per pass of the model (default {batch_size})",
    )
    if tta:
        parser.add_argument(
            "--tta",
            choices=("flip", "d4"),
            help=f"average over flips, or flips and quarter turns (d4), of the {unit}",
        )
    parser.add_argument(
        "--num-tokens",
        type=positive_int,
        metavar="N",
        help="tokens per image or window, for a HOOK model (default: the config's)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar, no summary")


def option_type(
    kind: Callable[[str], Any], accepts: Callable[[Any], bool], words: str
) -> Callable[[str], Any]:
    """Make the type of an option.

    Args:
        kind: Reads the text; may raise a ValueError.
        accepts: Tells whether a value can be used.
        words: What the text should be, for the message.
    """

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if accepts(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")

    return read


positive_int = option_type(int, lambda value: value >= 1, "a whole number from 1")
row_number = option_type(int, lambda value: value >= 0, "a whole number from 0")
not_negative = option_type(float, lambda value: 0 <= value < math.inf, "a number from 0")
positive = option_type(float, lambda value: 0 < value < math.inf, "a number above 0")


def overlap(text: str) -> float | int:
    """Read an overlap: a fraction below 1, or whole pixels."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (value >= 1 and value != int(value)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a fraction from 0 to below 1 nor whole pixels"
        )
    return int(value) if value >= 1 else value


def band_indexes(text: str) -> list[int]:
    """Read bands as rasterio's ``--bidx`` does: ``4,3,2``, ``1..3``, ``5``."""
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
    """Read a nodata value: a number or ``nan``."""
    if text.lower() == "nan":
        return "nan"
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor nan") from None
    return int(value) if value.is_integer() else value


def key_value(text: str) -> tuple[str, str]:
    """Read a creation option ``KEY=VALUE``."""
    key, sign, value = text.partition("=")
    if not sign or not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


SCORES = ("probs", "entropy", "margin")
kinds_of_scores = option_type(
    lambda text: tuple(text.split(",")),
    lambda kinds: set(kinds) <= set(SCORES) and len(set(kinds)) == len(kinds),
    f"one or more of {', '.join(SCORES)}",
)
