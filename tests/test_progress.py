import io

import pytest

from hook import progress
from hook.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "notebook", "show", "seen"),
    [
        (Terminal, False, True, True),
        (io.StringIO, False, True, False),
        (io.StringIO, True, True, True),  # a notebook's streams are no terminals
        (Terminal, True, False, False),
        (Terminal, False, False, False),
    ],
)
def test_a_bar_is_seen_where_somebody_looks(monkeypatch, stream, notebook, show, seen):
    monkeypatch.setattr(progress, "in_notebook", lambda: notebook)
    file = stream()
    assert list(progress_bar(range(3), show=show, file=file)) == [0, 1, 2]
    assert bool(file.getvalue()) is seen


def test_tests_run_in_no_notebook():
    assert not progress.in_notebook()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_listeners_are_told_whether_or_not_a_bar_is_seen(monkeypatch, stream):
    told = []
    monkeypatch.setattr(progress, "listeners", [lambda *given: told.append(given)])
    assert list(progress_bar("ab", desc="reading", file=stream())) == ["a", "b"]
    with progress_bar(total=4, initial=1, file=stream()) as bar:
        bar.update(2)
        bar.update(2)  # more than there is
    assert told == [("reading", 0.5), ("reading", 1), ("", 0.75), ("", 1)]
    list(progress_bar(iter("a"), file=stream()))
    assert told[-1][1] == 0  # of an unknown total
