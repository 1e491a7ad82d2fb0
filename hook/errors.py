"""Exceptions of HOOK, and how a command reports them.

A message has up to four parts: what is wrong (file or option), what was expected, what was found,
and the remedy.
"""

import contextlib
import errno
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator


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
    """Decorate a command's ``main`` so that failures end it with a clear message, not a traceback.

    Messages go to standard error. Exit status: 1 for a :class:`HookError`, and for an error of the
    operating system such as a full disk or too little memory; 130 after Ctrl-C (SIGINT), 143 after
    SIGTERM, with the exception's notes, which say what is kept; 141 if the reader of standard
    output has closed it. Other exceptions are defects of HOOK and keep their traceback.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            with _standard_streams(), _sigterm_as_exception():
                result = main(*args, **kwargs)
                sys.stdout.flush()
                return result
        except (Exception, KeyboardInterrupt) as error:
            if interrupted := interruption(error):
                notes = getattr(interrupted, "__notes__", ())
                message = "; ".join([str(interrupted) or "interrupted", *notes])
                status = 143 if isinstance(interrupted, Terminated) else 130
            elif isinstance(error, BrokenPipeError):
                # What is still buffered would raise again when Python exits.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(141)
            elif known := error if isinstance(error, HookError) else of_system(error):
                message, status = f"error: {known}", 1
            else:
                raise
        print(message, file=sys.stderr)
        sys.exit(status)

    return wrapped


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; cleaned up after as Ctrl-C is."""


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the Ctrl-C or SIGTERM that led to an exception, or None for others.

    Libraries with a bare ``except:`` raise another exception while they handle the interruption.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def of_system(error: BaseException) -> HookError | None:
    """Return the message of an error that the operating system caused, or None for others.

    Others are defects of HOOK, such as a missing file of the package.
    """
    if isinstance(error, MemoryError) or re.search(
        "not enough memory|out of memory|Cannot allocate memory", str(error)
    ):
        return HookError(
            "not enough memory",
            found=str(error).strip().partition("\n")[0] or None,
            remedy="use smaller windows or batches (--window, --batch), or fewer processes",
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    name = error.filename2 or error.filename
    # Of a wrong name or descriptor in the code; names that users gave are not in the package.
    package = os.path.dirname(__file__)
    if error.errno in _OF_NAMES and (name is None or str(name).startswith(package)):
        return None
    return cannot_write(name or "a file", error, HookError, "cannot be read or written")


_OF_NAMES = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.EBADF, errno.EINVAL),
}


def cannot_write(
    path: object,
    problem: BaseException,
    error: type[HookError] = SceneError,
    what: str = "cannot be written",
) -> HookError:
    """Return the error for a file that cannot be written, in the words of the operating system."""
    number = getattr(problem, "errno", None)
    if number == errno.ENAMETOOLONG:
        remedy = "use a shorter name; the files next to it have longer ones (.aux.xml)"
    elif number in (errno.ENOENT, errno.ENOTDIR):
        remedy = "create the folder or choose a different one"
    else:
        remedy = "check the free disk space and the permissions of the folder"
    found = getattr(problem, "strerror", None) or " ".join(str(problem).split())
    return error(f"{path}: {what}", found=found, remedy=remedy)


@contextlib.contextmanager
def _standard_streams() -> Iterator[None]:
    """Let text be printed that a stream cannot encode, and streams be closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell (>&-)
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    yield


@contextlib.contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM in this process, not in those forked from it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def terminate(number, frame):
        if os.getpid() == process:
            raise Terminated("terminated")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
