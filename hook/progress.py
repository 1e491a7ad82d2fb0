"""Progress bars on a terminal and in a notebook, not in a log."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

with warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm falls back to text, with a warning.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

listeners: list[Callable[[str, float], None]] = []
"""Functions called by all bars of this process with what is done and its share, from 0 to 1."""


class _Bar(tqdm):
    """A bar that tells the listeners, even if it is not shown."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._what = options.get("desc") or ""  # tqdm forgets it if the bar is not shown

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if self.disable:  # tqdm does not count then
            self.n += n or 0
        for tell in listeners:
            done = min(self.n / self.total, 1.0) if self.total else 0.0
            tell(self._what, done)
        return shown

    def __iter__(self) -> Iterator:
        if not listeners:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()
        self.close()


def progress_bar(iterable: Iterable | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """Return a progress bar that is shown on a terminal and in a notebook only.

    Args:
        iterable: Iterable to wrap; None for a bar that is advanced with ``update``.
        show: False hides the bar.
        **options: Options of :class:`tqdm.tqdm`.
    """
    # With None tqdm shows a bar on terminals only, and a notebook's stream is not one.
    return _Bar(iterable, disable=not show or (False if in_notebook() else None), **options)


def in_notebook() -> bool:
    """Return whether the process is a notebook kernel."""
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return type(instance).__name__ == "ZMQInteractiveShell"
