"""The exceptions HOOK raises on purpose, and how a command reports them.

Every message answers four questions: what is wrong (file or option), what was expected, what was
found, and what to do about it.
"""

import functools
import sys
from collections.abc import Callable


class HookError(Exception):
    """Base of all errors a user can mend.

    Args:
        what: The file or option concerned and what is wrong with it.
        expected: What HOOK needed.
        found: What it got.
        remedy: What the user can do.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
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
        # Data-loader workers send exceptions through pickle, which knows no keyword arguments.
        return _rebuild, (type(self), self.what, self.expected, self.found, self.remedy)


def _rebuild(cls: type[HookError], what, expected, found, remedy) -> HookError:
    return cls(what, expected=expected, found=found, remedy=remedy)


class ConfigError(HookError):
    """A config file or a command-line option asks for something impossible."""


class DataError(HookError):
    """A data file is missing, unreadable, or not what the config says it is."""


class CheckpointError(HookError):
    """A checkpoint is missing, truncated, unsafe, or belongs to another model."""


class SceneError(HookError):
    """A scene cannot be mapped completely."""


def reports_errors(main: Callable) -> Callable:
    """Decorate a command's ``main`` so that a :class:`HookError` ends it with a clear message.

    The message goes to standard error and the exit status is 1; any other exception keeps its
    traceback, because it is a defect of HOOK.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except HookError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped
