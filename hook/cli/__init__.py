"""The ``hook`` command, based on :mod:`hook.apis`."""

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from hook import __version__
from hook.cli.options import CommandParser
from hook.errors import reports_errors

_PACKAGE = Path(__file__).parents[1]
_COMMANDS = (
    "predict tokens map regions similar label explore encode decode export vectorize stats style "
    "models"
).split()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``hook`` with all its subcommands."""
    parser = argparse.ArgumentParser(
        prog="hook", description="Homogeneous visual tokenizer for remote-sensing images."
    )
    parser.add_argument("--version", action="version", version=f"hook {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for name in _COMMANDS:
        importlib.import_module(f"hook.cli.{name}").add_parser(commands)
    return parser


@reports_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: Arguments after ``hook``; by default those of the process.

    Exit status: 0 if all output was written, 1 for bad input or a full disk, 2 for a bad option,
    130 after Ctrl-C, 143 after SIGTERM.
    """
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_once()
        args.run(args)


def _show_once() -> Callable[..., None]:
    """Return a ``showwarning`` that prints each warning of HOOK once, in one line."""
    default, shown = warnings.showwarning, set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if category is not UserWarning or not Path(filename).is_relative_to(_PACKAGE):
            default(message, category, filename, lineno, file, line)
        elif str(message) not in shown:
            shown.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    return show
