"""Exceptions of HOOK, and how a command reports them.

A message has up to four parts: what is wrong (file or option), what was expected, what was found,
and the remedy.
"""

import functools
import sys
from collections.abc import Callable


class HookError(Exception):
    """Base class of errors that a user can fix.

    Args:
        what: The file or option and what is wrong with it.
        expected: Expected value.
        found: Actual value.
        remedy: How to fix it.
    """

    def __init__(
        self, what: str, *, expected: object = None, found: object = None, remedy: str | None = None
    ) -> None:
        self.what, self.expected, self.found, self.remedy = what, expected, found, remedy
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        for label, value in (
            ("expected", self.expected),
            ("found", self.found),
            ("remedy", self.remedy),
        ):
            if value is not None:
                lines.append(f"  {label}: {value}")
        return "\n".join(lines)

    def __reduce__(self):
        # Data-loader workers pickle exceptions, and pickle passes no keyword arguments.
        return _rebuild, (type(self), self.what, self.expected, self.found, self.remedy)


def _rebuild(cls: type[HookError], what, expected, found, remedy) -> HookError:
    return cls(what, expected=expected, found=found, remedy=remedy)


class ConfigError(HookError):
    """A config file, argument or command-line option is invalid."""


class DataError(HookError):
    """A data file is missing, unreadable, or does not match the config."""


class CheckpointError(HookError):
    """A checkpoint is missing, truncated, unsafe, or does not fit the model."""


class SceneError(HookError):
    """A scene cannot be mapped completely."""


def reports_errors(main: Callable) -> Callable:
    """Decorate a command's ``main`` so that a :class:`HookError` ends it with a clear message.

    The message goes to standard error and the exit status is 1. Other exceptions are defects of
    HOOK and keep their traceback.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except HookError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped
