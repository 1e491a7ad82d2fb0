"""Classes and labels on disk."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import numpy as np
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


def region_of(places):
    """Regions of 10 columns, none left of column 0 or below row 10."""
    x, y = places.T
    return np.where((x < 0) | (y > 10), -1, x // 10).astype(int)


@pytest.fixture
def kinds(journal):
    """Ids of two classes."""
    return journal.add_class("a", "#000000").id, journal.add_class("b", "#ffffff").id


def test_points_are_kept_undone_and_removed(journal, path, kinds):
    a, b = kinds
    one, two = journal.add_point(1.5, 2.25, a), journal.add_point(11, 3, b)
    three = journal.add_point(11, 3, a, replaced=two)
    assert journal.read_points() == [(one, 1.5, 2.25, a), (three, 11, 3, a)]
    assert journal.read()[2] == {}
    journal.remove_point(one)
    with pytest.raises(ConfigError, match="no such point"):
        journal.remove_point(one)
    with pytest.raises(ConfigError, match="no such point"):
        journal.add_point(5, 5, a, replaced=one)
    other = LabelJournal(path, FACTS)
    assert [point.id for point in other.read_points()] == [three]
    other.close()
    assert journal.undo() == {-one: a}
    journal.undo()
    assert [point.id for point in journal.read_points()] == [one, two]
    journal.delete_class(a)
    assert [point.id for point in journal.read_points()] == [two]
    with pytest.raises(ConfigError, match="no such class"):
        journal.add_point(5, 5, a)


def test_points_become_labels_in_one_change(journal, kinds):
    a, b = kinds
    for x, number in ((1, a), (2, b), (11, a), (12, a), (31, b), (-5, a)):
        outside = journal.add_point(x, 5, number)
    before = journal.revision
    found = journal.settle({"regions": "digest", "model": "m"}, region_of)
    assert found == (5, 3, 1)
    revision, _, labels = journal.read()
    assert labels == {0: b, 1: a, 3: b} and revision == before + 1
    assert journal.read_points() == [(outside, -5, 5, a)]
    assert journal.settle({"regions": "digest", "model": "m"}, region_of) == (0, 0, 0)
    assert journal.revision == revision
    with pytest.raises(DataError, match="model"):
        journal.compare({"model": "other"})


def test_steps_of_points_are_undone_in_their_regions(journal, kinds):
    """What is undone after points became labels is what they were before."""
    a, b = kinds
    rng = np.random.default_rng(0)

    def shown():
        last = {}
        for _, x, y, number in journal.read_points():
            last[int(region_of(np.array([[x, y]]))[0])] = number
        last.pop(-1, None)
        return last

    history = [shown()]
    for _ in range(60):
        points = journal.read_points()
        if points and rng.random() < 0.3:
            journal.remove_point(points[rng.integers(len(points))].id)
        else:
            replaced = (
                points[rng.integers(len(points))].id if points and rng.random() < 0.2 else None
            )
            x, y = rng.uniform(-5, 60), rng.uniform(0, 11)
            journal.add_point(x, y, [a, b][rng.integers(2)], replaced)
        history.append(shown())
    assert len(journal.read_points()) > 15
    journal.settle({}, region_of)
    assert journal.read()[2] == history[-1]
    seen = [history[-1]]
    while journal.undo():
        labels = journal.read()[2]
        if labels != seen[-1]:
            seen.append(labels)
    changes = [labels for k, labels in enumerate(history) if not k or labels != history[k - 1]]
    assert seen == changes[::-1] and seen[-1] == {} and len(seen) > 20
    assert journal.read_points() == []


def test_points_of_other_regions_stay_points(journal, kinds):
    journal.settle({"regions": "digest"}, region_of)
    journal.add_point(5, 5, kinds[0])
    before = journal.read(), journal.read_points()
    with pytest.raises(DataError, match="regions"):
        journal.settle({"regions": "another"}, region_of)

    def fail(places):
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        journal.settle({"model": "m"}, fail)
    assert (journal.read(), journal.read_points()) == before
    journal.compare({"model": "any"})


def test_a_journal_without_points_goes_on(path):
    """As written before there were points."""
    file = sqlite3.connect(path, isolation_level=None)
    file.executescript(
        """
        CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
        CREATE TABLE classes (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, color TEXT NOT NULL);
        CREATE TABLE labels (
            region INTEGER PRIMARY KEY,
            class_id INTEGER NOT NULL REFERENCES classes(id) ON DELETE CASCADE);
        CREATE TABLE changes (
            id INTEGER PRIMARY KEY AUTOINCREMENT, step INTEGER NOT NULL, region INTEGER NOT NULL,
            before INTEGER REFERENCES classes(id) ON DELETE SET NULL);
        INSERT INTO facts VALUES ('scene', 's'), ('regions', 'digest'), ('revision', '3');
        INSERT INTO classes VALUES (1, 'a', '#000000'), (2, 'b', '#ffffff');
        INSERT INTO labels VALUES (0, 1), (4, 2);
        INSERT INTO changes VALUES (1, 1, 0, NULL), (2, 2, 4, NULL);
        """
    )
    file.close()
    with pytest.raises(DataError, match="scene"):
        LabelJournal(path, {"scene": "another"})
    journal = LabelJournal(path, {"scene": "s"})
    assert journal.read() == (3, [(1, "a", "#000000"), (2, "b", "#ffffff")], {0: 1, 4: 2})
    journal.add_point(5, 5, 2)
    assert journal.settle({"regions": "digest"}, region_of) == (1, 1, 0)
    assert journal.read()[2] == {0: 2, 4: 2}
    assert [journal.undo() for _ in range(3)] == [{0: 1}, {4: None}, {0: None}]
    journal.close()


def test_a_file_of_nothing_yet_becomes_that_of_another_scene(tmp_path):
    path = tmp_path / "labels.sqlite"
    LabelJournal(path, {"scene": "a"}).close()  # its first start was refused later
    journal = LabelJournal(path, {"scene": "b"})
    journal.add_class("water", "#0000ff")
    journal.close()
    with pytest.raises(DataError, match="labels of other data: scene"):
        LabelJournal(path, {"scene": "a"})
