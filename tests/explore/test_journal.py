"""Classes and labels on disk."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from hook.errors import ConfigError, DataError
from hook.explore.journal import LabelJournal

FACTS = {"regions": "digest"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.sqlite"


@pytest.fixture
def journal(path):
    journal = LabelJournal(path, FACTS)
    yield journal
    journal.close()


def test_what_was_set_is_read_again(journal, path):
    water, wood = journal.add_class("water", "#0000FF"), journal.add_class("wood", "#00ff00")
    assert (water.color, wood.name) == ("#0000ff", "wood")
    journal.set_labels({4: water.id, 2: wood.id, 9: water.id})
    journal.set_labels({9: None, 2: water.id})
    journal.change_class(wood.id, "forest", None)
    revision, classes, labels = journal.read()
    assert labels == {2: water.id, 4: water.id}
    assert [one.name for one in classes] == ["water", "forest"]
    other = LabelJournal(path, FACTS)
    assert other.read() == (revision, classes, labels)
    other.close()


def test_undo_goes_back_step_by_step(journal):
    one, two = journal.add_class("a", "#000000").id, journal.add_class("b", "#ffffff").id
    journal.set_labels({1: one, 2: one})
    journal.set_labels({2: two, 3: two})
    journal.set_labels({1: None})
    assert journal.undo() == {1: one}
    assert journal.undo() == {2: one, 3: None}
    assert journal.read()[2] == {1: one, 2: one}
    journal.set_labels({5: two})
    assert journal.undo() == {5: None}
    assert journal.undo() == {1: None, 2: None}
    assert journal.undo() == {}
    assert journal.read()[2] == {}


def test_a_deleted_class_takes_its_labels_and_does_not_come_back(journal):
    one, two = journal.add_class("a", "#000000").id, journal.add_class("b", "#ffffff").id
    journal.set_labels({1: one, 2: one, 3: two})
    journal.set_labels({1: two})
    journal.delete_class(one)
    assert journal.read()[2] == {1: two, 3: two}
    assert journal.undo() == {1: None}
    assert journal.add_class("a", "#000000").id not in (one, two)


def test_each_change_counts(journal):
    before = journal.revision
    number = journal.add_class("a", "#000000").id
    journal.set_labels({1: number})
    journal.undo()
    assert journal.revision == before + 3
    with pytest.raises(ConfigError):
        journal.set_labels({1: number, 2: 99})
    assert journal.revision == before + 3 and journal.read()[2] == {}


@pytest.mark.parametrize("name", ["", "  ", "a" * 81, "a\0b", "<NA>", "water"])
def test_names_are_checked(journal, name):
    journal.add_class("water", "#0000ff")
    with pytest.raises(ConfigError):
        journal.add_class(name, "#0000ff")
    assert len(journal.read()[1]) == 1


@pytest.mark.parametrize("color", ["red", "#12345", "#1234567", "#12345g", "url(x)"])
def test_colours_are_checked(journal, color):
    with pytest.raises(ConfigError, match="colour"):
        journal.add_class("water", color)


def test_names_are_kept_as_labels_have_them(journal):
    assert journal.add_class("  two\twords ", "#000000").name == "two words"
    assert journal.add_class("3.0", "#000000").name == "3"


def test_the_number_of_classes_is_bounded(journal, monkeypatch):
    monkeypatch.setattr("hook.explore.journal.MAX_CLASSES", 3)
    for number in range(3):
        journal.add_class(f"c{number}", "#000000")
    with pytest.raises(ConfigError, match="too many"):
        journal.add_class("more", "#000000")


def test_labels_of_other_data_are_refused(journal, path):
    with pytest.raises(DataError, match="regions") as refused:
        LabelJournal(path, {"regions": "another"})
    assert (refused.value.expected, refused.value.found) == ("digest", "another")


def test_a_file_of_others_is_refused_and_kept(path):
    path.write_bytes(b"not a database, but long enough to be read as one" * 9)
    with pytest.raises(DataError, match="not a journal"):
        LabelJournal(path, FACTS)
    assert path.read_bytes().startswith(b"not a database")


def test_threads_lose_nothing(journal, path):
    """Two journals of a file, as of two servers, with two threads each."""
    number = journal.add_class("a", "#000000").id
    other = LabelJournal(path, FACTS)

    def work(used, first):
        for region in range(first, first + 20):
            used.set_labels({region: number})

    parts = [(journal, 0), (journal, 100), (other, 200), (other, 300)]
    threads = [threading.Thread(target=work, args=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(journal.read()[2]) == [a + b for a in (0, 100, 200, 300) for b in range(20)]


WRITER = """
import sys
from pathlib import Path
from hook.explore.journal import LabelJournal
journal = LabelJournal(Path(sys.argv[1]), {"regions": "digest"})
number = journal.add_class(sys.argv[2], "#000000").id
for region in range(int(sys.argv[2]), 10**9):
    journal.set_labels({region: number})
    print(region, flush=True)
"""


def test_a_killed_process_loses_no_label_it_told_of(path):
    told = set()
    for start in (0, 1_000_000, 2_000_000):
        command = [sys.executable, "-c", WRITER, path, str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _, line in zip(range(7), process.stdout, strict=False):
                told.add(int(line))
            os.kill(process.pid, signal.SIGKILL)
            told |= {int(line) for line in process.stdout if line.endswith("\n")}
    assert len(told) >= 21
    journal = LabelJournal(path, FACTS)
    assert told <= set(journal.read()[2])
    journal.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
