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
