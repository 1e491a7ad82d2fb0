"""Classes and labels of a session, kept on disk change by change."""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hook.errors import ConfigError, DataError, SceneError
from hook.geo.vector import table_text

FILE = "labels.sqlite"
"""Name of the journal in the folder of a session."""
LONGEST_NAME = 80
MAX_CLASSES = 255

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS classes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, color TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS labels (
    region INTEGER PRIMARY KEY,
    class_id INTEGER NOT NULL REFERENCES classes(id) ON DELETE CASCADE);
CREATE TABLE IF NOT EXISTS changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, step INTEGER NOT NULL, region INTEGER NOT NULL,
    before INTEGER REFERENCES classes(id) ON DELETE SET NULL);
CREATE TABLE IF NOT EXISTS points (
    id INTEGER PRIMARY KEY AUTOINCREMENT, x REAL NOT NULL, y REAL NOT NULL);
"""
# A "region" of labels and changes is the id of a region, or minus the id of a point: the class of a
# point is set, undone and deleted as that of a region.
_COLOUR = re.compile("#[0-9a-f]{6}")


class LabelClass(NamedTuple):
    """A class, in the order in which it was added."""

    id: int
    name: str
    color: str
    """``#rrggbb``."""


class LabelPoint(NamedTuple):
    """A place with a class, in the order in which they were set."""

    id: int
    x: float
    """Column in the scene, from its left edge."""
    y: float
    """Row in the scene, from its upper edge."""
    class_id: int


class Settled(NamedTuple):
    """What became of the points when the regions were there."""

    points: int
    """Points in regions."""
    regions: int
    """Regions that they label."""
    overruled: int
    """Points with a class other than that of a later point in the same region."""


class LabelJournal:
    """Classes and labels in SQLite: what a method has returned from is on disk.

    Before there are regions, points have labels; :meth:`settle` makes them those of regions.
    Several threads, and several pages, may use it: a label changes one region or point only.

    Args:
        path: The file, made if missing.
        facts: What the labels are of, such as the digest of the scene. They are kept with a new
            file, and compared with those of an existing one.

    Attributes:
        revision: Grows with each change of classes or labels.

    Raises:
        DataError: The file has other facts, or is not a journal.
        SceneError: It cannot be written.
    """

    def __init__(self, path: Path, facts: Mapping[str, str]) -> None:
        self._path, self._lock = path, threading.RLock()
        with self._translated():
            self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # Each commit is in the file and the file on the disk before it returns.
            for setting in ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON"):
                self._file.execute(f"PRAGMA {setting}")
            self._file.executescript(_SCHEMA)
        try:
            with self._changing(by=0):
                self._keep({"revision": "0"})
                # A first start that was refused later leaves a file that is of nothing yet.
                if self.revision == 0 and "regions" not in self._facts():
                    self._file.execute("DELETE FROM facts WHERE name != 'revision'")
                self.compare(facts)
                self._keep(facts)
        except DataError:
            self.close()
            raise

    def compare(self, facts: Mapping[str, str]) -> None:
        """Compare facts with those that are kept, as far as they are.

        Raises:
            DataError: One differs.
        """
        known = self._facts()
        for name, value in facts.items():
            if known.get(name, value) != value:
                raise DataError(
                    f"{self._path}: labels of other data: {name}",
                    expected=known[name],
                    found=value,
                    remedy="explore the scene and regions the session was begun with, or begin "
                    "another one (--out)",
                )

    def keep(self, facts: Mapping[str, str]) -> None:
        """Keep facts that were not known when the journal was opened.

        Raises:
            DataError: One differs from that which is kept; nothing is changed.
        """
        with self._changing(by=0):
            self.compare(facts)
            self._keep(facts)

    def _keep(self, facts: Mapping[str, str]) -> None:
        self._file.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts.items())

    def _facts(self) -> dict[str, str]:
        with self._translated():
            return dict(self._file.execute("SELECT name, value FROM facts"))

    # ------------------------------------------------------------------------------ reading
    @property
    def revision(self) -> int:
        """Number of changes so far."""
        return int(self._facts()["revision"])

    def read(self) -> tuple[int, list[LabelClass], dict[int, int]]:
        """Return the revision, the classes, and the class of each labelled region."""
        with self._lock, self._translated():
            classes = self._file.execute("SELECT id, name, color FROM classes ORDER BY id")
            labels = self._file.execute(
                "SELECT region, class_id FROM labels WHERE region >= 0 ORDER BY region"
            )
            return self.revision, [LabelClass(*row) for row in classes], dict(labels)

    def read_points(self) -> list[LabelPoint]:
        """Return the points with a class, in the order in which they were set."""
        query = "SELECT id, x, y, class_id FROM points JOIN labels ON region = -id ORDER BY id"
        with self._lock, self._translated():
            return [LabelPoint(*row) for row in self._file.execute(query)]

    # ------------------------------------------------------------------------------ changing
    def add_class(self, name: str, color: str) -> LabelClass:
        """Add a class.

        Raises:
            ConfigError: The name is empty, too long or taken, the colour is not ``#rrggbb``, or
                there are too many classes.
        """
        name, color = _check_name(name), _check_colour(color)
        with self._changing():
            (count,) = self._file.execute("SELECT COUNT(*) FROM classes").fetchone()
            if count >= MAX_CLASSES:
                raise ConfigError(
                    "too many classes",
                    expected=f"at most {MAX_CLASSES}",
                    found=count + 1,
                    remedy="delete a class first",
                )
            self._check_free(name)
            row = self._file.execute(
                "INSERT INTO classes (name, color) VALUES (?, ?)", (name, color)
            )
            return LabelClass(row.lastrowid, name, color)

    def change_class(self, number: int, name: str | None, color: str | None) -> LabelClass:
        """Rename or recolour a class; None keeps.

        Raises:
            ConfigError: There is no such class, or see :meth:`add_class`.
        """
        with self._changing():
            old = self._class(number)
            new = LabelClass(
                number,
                old.name if name is None else _check_name(name),
                old.color if color is None else _check_colour(color),
            )
            if new.name != old.name:
                self._check_free(new.name)
            self._file.execute(
                "UPDATE classes SET name = ?, color = ? WHERE id = ?", (*new[1:], number)
            )
            return new

    def delete_class(self, number: int) -> None:
        """Delete a class with its labels, which :meth:`undo` does not bring back.

        Raises:
            ConfigError: There is no such class.
        """
        with self._changing():
            self._class(number)
            self._file.execute("DELETE FROM classes WHERE id = ?", (number,))

    def set_labels(self, labels: Mapping[int, int | None]) -> None:
        """Set the class of each region, or remove its label with None, as one step of undo.

        Raises:
            ConfigError: There is no such class.
        """
        with self._changing():
            self._set(labels)

    def add_point(self, x: float, y: float, number: int, replaced: int | None = None) -> int:
        """Set a point of a class; return its id.

        Args:
            x: Column in the scene, from its left edge.
            y: Row in the scene, from its upper edge.
            number: Id of the class.
            replaced: Id of a point that is removed in the same step of undo.

        Raises:
            ConfigError: There is no such class or point.
        """
        with self._changing():
            query = "INSERT INTO points (x, y) VALUES (?, ?)"
            point = self._file.execute(query, (x, y)).lastrowid
            labels = {-point: number}
            if replaced is not None:
                labels[self._point(replaced)] = None
            self._set(labels)
            return point

    def remove_point(self, point: int) -> None:
        """Remove a point, as one step of undo.

        Raises:
            ConfigError: There is no such point.
        """
        with self._changing():
            self._set({self._point(point): None})

    def _point(self, point: int) -> int:
        """Return what a point is among the regions of labels."""
        if not self._file.execute("SELECT 1 FROM labels WHERE region = ?", (-point,)).fetchone():
            raise ConfigError(
                "no such point",
                expected="a point that is on the map",
                found=point,
                remedy="load the page again: it was removed, or is the label of a region now",
            )
        return -point

    def _set(self, labels: Mapping[int, int | None]) -> None:
        for number in set(labels.values()) - {None}:
            self._class(number)
        (last,) = self._file.execute("SELECT COALESCE(MAX(step), 0) FROM changes").fetchone()
        for region in labels:
            self._file.execute(
                "INSERT INTO changes (step, region, before) VALUES "
                "(?, ?, (SELECT class_id FROM labels WHERE region = ?))",
                (last + 1, region, region),
            )
        self._write(labels.items())

    def undo(self) -> dict[int, int | None]:
        """Undo the last change of labels; return what it changed back, with the class.

        The keys are ids of regions, or minus ids of points.
        """
        with self._changing():
            where = "WHERE step = (SELECT MAX(step) FROM changes)"
            rows = self._file.execute(f"SELECT region, before FROM changes {where}").fetchall()
            self._write(rows)
            self._file.execute(f"DELETE FROM changes {where}")
            return dict(rows)

    def settle(
        self, facts: Mapping[str, str], locate: Callable[[np.ndarray], np.ndarray]
    ) -> Settled:
        """Make points the labels of the regions that contain them, and keep facts of the regions.

        Of several points in a region the last counts; points in no region stay points. Steps of
        undo become those of the regions.

        Args:
            facts: Facts that were not known when the journal was opened.
            locate: Returns the region, or -1, of each of (P, 2) positions of points.

        Raises:
            DataError: The journal is of other regions; nothing is changed.
        """
        with self._changing(by=0):
            self.compare(facts)
            self._keep(facts)
            points = self._file.execute("SELECT id, x, y FROM points ORDER BY id").fetchall()
            places = np.array([place for _, *place in points], float).reshape(-1, 2)
            found = locate(places).tolist() if points else []
            home = {-point: row for (point, *_), row in zip(points, found, strict=True) if row >= 0}
            labels = dict(self._file.execute("SELECT region, class_id FROM labels"))
            inside = {key: labels[key] for key in home if key in labels}
            new = {home[key]: number for key, number in inside.items()}  # the last counts
            if home:
                self._rewrite_changes(home, labels)
                self._write([*dict.fromkeys(home).items(), *new.items()])
                self._file.executemany("DELETE FROM points WHERE id = ?", [(-key,) for key in home])
                self._count(1)
            overruled = sum(new[home[key]] != number for key, number in inside.items())
            return Settled(len(inside), len(new), overruled)

    def _rewrite_changes(self, home: Mapping[int, int], labels: Mapping[int, int]) -> None:
        """Make each step change what it changed of the points in their regions.

        Args:
            home: Region of each point that is in one, earlier points first.
            labels: The present labels.
        """
        members: dict[int, list[int]] = {}
        for key, region in home.items():
            members.setdefault(region, []).insert(0, key)
        now: dict[int, int | None] = dict(labels)

        def shown(region: int) -> int | None:
            """The class of a region: of its last point, else its own."""
            keys = [*members.get(region, ()), region]
            return next((now[key] for key in keys if now.get(key) is not None), None)

        query = "SELECT step, region, before FROM changes ORDER BY id DESC"
        new = []
        for step, rows in groupby(self._file.execute(query).fetchall(), lambda row: row[0]):
            before = {key: number for _, key, number in rows}
            after = {region: shown(region) for region in {home.get(key, key) for key in before}}
            now.update(before)
            new += [(step, one, shown(one)) for one in after if shown(one) != after[one]]
        self._file.execute("DELETE FROM changes")
        query = "INSERT INTO changes (step, region, before) VALUES (?, ?, ?)"
        self._file.executemany(query, reversed(new))

    def _write(self, labels: Iterable[tuple[int, int | None]]) -> None:
        for region, number in labels:
            if number is None:
                self._file.execute("DELETE FROM labels WHERE region = ?", (region,))
            else:
                self._file.execute("INSERT OR REPLACE INTO labels VALUES (?, ?)", (region, number))

    def _class(self, number: int) -> LabelClass:
        query = "SELECT id, name, color FROM classes WHERE id = ?"
        row = self._file.execute(query, (number,)).fetchone()
        if row is None:
            known = [str(one) for (one,) in self._file.execute("SELECT id FROM classes")]
            raise ConfigError(
                "no such class",
                expected=", ".join(known) or "a class that was added",
                found=number,
                remedy="load the page again: another page may have deleted it",
            )
        return LabelClass(*row)

    def _check_free(self, name: str) -> None:
        if self._file.execute("SELECT 1 FROM classes WHERE name = ?", (name,)).fetchone():
            raise ConfigError(
                f"class {name!r}: there is one of this name",
                expected="a name for each class",
                found=name,
                remedy="choose a different name",
            )

    @contextmanager
    def _changing(self, by: int = 1) -> Iterator[None]:
        """Make the statements of the block one change: all of it on disk, or none."""
        with self._lock, self._translated():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._count(by)
                self._file.execute("COMMIT")
            except BaseException:
                self._file.execute("ROLLBACK")
                raise

    def _count(self, by: int) -> None:
        query = "UPDATE facts SET value = value + ? WHERE name = 'revision'"
        self._file.execute(query, (by,))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise SceneError(
                    f"{self._path}: cannot be read or written",
                    found=error,
                    remedy="check the free disk space and the permissions of the folder",
                ) from error
            raise DataError(
                f"{self._path}: is not a journal of labels",
                expected="a file that 'hook explore' wrote",
                found=error,
                remedy="move it elsewhere, or choose another folder (--out)",
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def _check_name(name: str) -> str:
    """Return the name of a class as tables of labels have it."""
    found = table_text(" ".join(name.split()))
    if not 1 <= len(found) <= LONGEST_NAME or found == "<NA>" or not found.isprintable():
        raise ConfigError(
            "name of a class",
            expected=f"1 to {LONGEST_NAME} characters",
            found=name,
            remedy="choose a different name",
        )
    return found


def _check_colour(color: str) -> str:
    if not _COLOUR.fullmatch(color.lower()):
        raise ConfigError(
            "colour of a class", expected="#rrggbb", found=color, remedy="choose a colour"
        )
    return color.lower()
