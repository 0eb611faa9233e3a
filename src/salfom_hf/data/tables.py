"""Tables of where people looked, as text: read row by row, and what is wrong in them."""

import codecs
import csv
import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

from ..errors import check_file, reason_of
from .features import DataError
from .report import amount, listed_names

LONGEST_LINE = 1 << 20  # characters
MISSING = ("", ".", "-", "na", "n/a", "nan", "null", "none")
UNKNOWN = -1  # observer

# Units of time that the names of columns end in, in seconds.
UNITS = {
    **{"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3},
    **{"us": 1e-6, "µs": 1e-6, "μs": 1e-6, "microseconds": 1e-6, "ns": 1e-9, "nanoseconds": 1e-9},
}
# Columns by the names that they may have, here without spaces, signs, units and capitals: as documented, as in
# EyeLink's reports of fixations, and as Tobii exports them. Of several in a table the first one here is taken.
NAMES = {
    "video": ["video", "videoname", "moviename", "presentedstimulusname", "presentedmedianame", "medianame"],
    "frame": ["frame"],
    "time": ["time", "timestamp", "recordingtimestamp"],
    "start": ["start", "onset", "currentfixstart", "time", "timestamp", "recordingtimestamp"],
    "duration": ["duration", "currentfixduration", "gazeeventduration"],
    "end": ["end", "offset", "currentfixend"],
    "x": ["x", "currentfixx", "fixationpointx", "gazepointx"],
    "y": ["y", "currentfixy", "fixationpointy", "gazepointy"],
    "observer": ["observer", "recordingsessionlabel", "participantname", "participant"],
    "event": ["eyemovementtype", "gazeeventtype"],
}
# Of pixels of the picture; those of the screen (DACS) are no places in it.
PICTURE_UNITS = {"px", "pixels", "mcs", "mcspx"}
# These trackers count milliseconds where the name of a column does not tell.
IN_MILLISECONDS = {"currentfixstart", "currentfixduration", "currentfixend", "gazeeventduration", "recordingtimestamp"}


@contextmanager
def opened_table(path: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """
    The names in line 1 of a table, and its rows that are not empty, each with the number of its line. It is in UTF-8,
    or UTF-16 if it begins so, and separated by what line 1 has most of: commas, semicolons or tabs.

    Raises:
        DataError: the file cannot be read; on opening it or on reading the rows.
    """
    try:
        check_file(path)
        with open(path, "rb") as file:
            wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with open(path, encoding="utf-16" if wide else "utf-8-sig", newline="") as text:
            # Spreadsheets write semicolons where the comma is the decimal sign, and eye trackers write tabs.
            separator = max(",;\t", key=text.readline(LONGEST_LINE).count)
            text.seek(0)
            lines = iter(lambda: text.readline(LONGEST_LINE), "")
            reader = csv.reader(map(_line, lines), delimiter=separator, skipinitialspace=True)
            header = [name.strip() for name in next(reader, [])]
            yield header, ((reader.line_num, [cell.strip() for cell in row]) for row in reader if row)
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"Cannot read {path} ({reason_of(error)}); give a CSV file in UTF-8.") from error


def _line(text: str) -> str:
    if len(text) == LONGEST_LINE:
        raise csv.Error("it has a line of a million characters")
    return text


def _number(cell: str) -> float:
    """The number in a cell, NaN where it says that there is none; a `ValueError` if it is something else."""
    return math.nan if cell.lower() in MISSING else float(cell)


def shown(cell: str) -> str:
    """A cell or name as a message shows it, however long it is."""
    return repr(cell if len(cell) <= 40 else f"{cell[:40]}…")


def _listed(header: list[str]) -> str:
    return ", ".join(name[:40] for name in header[:30]) or "is empty"


def fixation_faults(
    x: np.ndarray, y: np.ndarray, size: tuple[int, int], lines: Sequence[int] = (), tests: Sequence[tuple] = ()
) -> list[str]:
    """
    What is wrong with places, float64 `(fixations,)` each, in a picture of a size (width, height), in words; lines are
    those of a table, and other tests say which fixations fail, bool `(fixations,)`, and why.
    """
    known = np.isfinite(x) & np.isfinite(y)
    outside = known & ((x < 0) | (x > size[0]) | (y < 0) | (y > size[1]))
    nowhere = f"outside of its {size[0]}×{size[1]} pixels"
    faults = []
    for wrong, text in (*tests, (~known, "whose x or y is no number"), (outside, nowhere)):
        if found := np.flatnonzero(wrong).tolist():
            first = found[0]
            places = in_lines([lines[n] for n in found]) if lines else f"({x[first]:g}, {y[first]:g})"
            faults.append(f"{amount(len(found), 'fixation')} {text}, such as {places}")
    return faults


def in_lines(lines: Sequence[int]) -> str:
    return f"line{'s' * (len(lines) > 1)} {listed_names(map(str, lines))}"


def read_columns(
    path: Path, numbers: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], list[int], list[str]]:
    """
    Columns of a table by their names: numbers as float64 `(rows,)`, NaN where there is none; texts, with those that
    are optional if they are there; the line of each row; and what is wrong with the table, in words.

    Raises:
        DataError: the file cannot be read.
    """
    lines: list[int] = []
    odd: list[int] = []
    with opened_table(path) as (header, rows):
        texts = [*texts, *(name for name in optional if name in header)]
        for name in (*numbers, *texts):
            if header.count(name) != 1:
                number = "two columns" if name in header else "no column"
                return {}, {}, [], [f"has {number} {name}, but {_listed(header)}"]
        columns = {name: array("d") for name in numbers}
        words: dict[str, list[str]] = {name: [] for name in texts}
        for line, row in rows:
            if len(row) != len(header):
                odd.append(line)
                continue
            lines.append(line)
            cells = dict(zip(header, row, strict=True))
            for name, column in columns.items():
                try:
                    column.append(_number(cells[name]))
                except ValueError:
                    column.append(math.nan)
            for name, said in words.items():
                said.append(cells[name])
    faults = [f"{amount(len(odd), 'row')} with more or fewer cells than line 1: {in_lines(odd)}"] if odd else []
    if not (lines or odd):
        faults.append("has no rows")
    return {name: np.array(column) for name, column in columns.items()}, words, lines, faults


class GazeTable(NamedTuple):
    """Where people looked in some videos."""

    # Of each video that has some gaze, float64 `(rows, 5)`: begin, end, x, y, observer.
    rows: dict[Path, np.ndarray]
    unknown: list[str]  # names that are of no video
    by_frame: bool  # `begin` is the number of a frame, from 0; otherwise seconds, and `end` the same for a moment
    clock: str  # what `begin` was in the table, in words
    observers: list[str]  # whose numbers, from 0, the rows hold; empty if unknown
    incomplete: int  # number of rows left out because a number is missing


def _columns_of(
    header: list[str], given: Mapping[str, str], time_unit: str | None
) -> tuple[dict[str, list[int]], list[str | None]]:
    """
    Where in a row the columns of `NAMES` are, some given by other names; several places where a name is there more
    than once. For every place the unit, of `UNITS`, if it is a time; None where nothing tells.
    """
    found, units = defaultdict(list), []
    for place, name in enumerate(header):
        words = re.findall(r"[^\W_]+", name.lower())
        told = words.pop() if len(words) > 1 and words[-1] in UNITS else time_unit
        while len(words) > 1 and words[-1] in PICTURE_UNITS:
            words.pop()
        known = "".join(words)
        units.append(told or ("ms" if known in IN_MILLISECONDS else None))
        for key in {known, f"given: {name}"}:
            found[key].append(place)
    wanted = {ours: [f"given: {given[ours]}"] if ours in given else names for ours, names in NAMES.items()}
    places = {ours: next((found[name] for name in names if name in found), []) for ours, names in wanted.items()}
    return {ours: same for ours, same in places.items() if same}, units


def read_gaze_table(
    path: Path, videos: Sequence[Path], columns: Mapping[str, str], time_unit: str | None, from_first_row: bool
) -> GazeTable:
    """Read a table as for [`make_gazefolder`], of which 40 bytes per row are kept; a `DataError` if it is unfit."""
    with opened_table(path) as (header, rows):
        found, units_of = _columns_of(header, columns, time_unit)
        if "frame" in found and "time" in found:
            raise DataError(f"{path} has the columns time and frame; leave one of them.")
        by_frame = "frame" in found
        length = "end" if "end" in columns or ("end" in found and "duration" not in found) else "duration"
        lasting = not by_frame and "start" in found and (length in found or "time" not in found)
        clocks = ["frame"] if by_frame else ["start", length] if lasting else ["time"]
        spoken = {"time": "time or start (seconds) or frame (from 0)", "duration": "duration or end (seconds)"}
        optional = {"observer"} if len(videos) > 1 else {"observer", "video"}
        for ours in dict.fromkeys((*columns, "video", "x", "y", *clocks, "observer")):
            if ours not in found and ours not in optional - columns.keys():
                asked = columns.get(ours) or spoken.get(ours, ours)
                advice = "name it in line 1, or by --columns"
                if ours == "video":
                    advice = "add a column video with the name of each row's file, or name it by --columns"
                raise DataError(f"{path} has no column {asked}, but {_listed(header)}; {advice}.")
            if len(found.get(ours, [])) > 1:
                raise DataError(f"{path} has two columns {ours}; remove or rename one of them.")
        told = [units_of[found[ours][0]] for ours in clocks]
        # Where one of start and duration tells its unit, it is the other's, too.
        units = [1.0 if by_frame else UNITS[unit or next(filter(None, told), "s")] for unit in told] + [1.0, 1.0]
        numbers = [found[ours][0] for ours in (*clocks, "x", "y")]
        texts = {ours: found[ours][0] for ours in ("video", "observer", "event") if ours in found}
        table: dict[str, array] = defaultdict(lambda: array("d"))  # `begin, end, x, y, observer, begin, end, …`
        observers: dict[str, int] = {}
        began: dict[tuple[str, str], float] = {}
        latest: dict[tuple[str, str], list[float]] = {}
        incomplete = 0
        for line, row in rows:
            if len(row) != len(header):
                raise DataError(f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}.")
            values = []
            for place, unit in zip(numbers, units, strict=True):
                cell = row[place]
                try:
                    values.append(_number(cell) * unit)
                except ValueError as error:
                    advice = "write decimals with a point" if "," in cell else "leave it empty if it is unknown"
                    where = f"{path}, line {line}, column {header[place].lower()}"
                    raise DataError(f"{where}: {shown(cell)} is not a number; {advice}.") from error
            if "end" in clocks:
                values[1] -= values[0]
            begin, *duration, x, y = values
            about = {ours: row[place] for ours, place in texts.items()}
            of = video_name, name = about.get("video", videos[0].name), about.get("observer", "")
            if from_first_row and math.isfinite(begin):
                begin -= began.setdefault(of, begin)
            if lasting and about.get("event", "").lower() not in ("fixation", ""):
                continue  # A saccade or a blink.
            if not (video_name and all(map(math.isfinite, values)) and min(duration, default=0) >= 0):
                incomplete += 1
                continue
            if by_frame and not begin.is_integer():
                raise DataError(
                    f"{path}, line {line}, column frame: {begin} is not a whole number; call the column time if it "
                    "holds seconds."
                )
            if lasting:
                before = latest.get(of)
                if before and before[1:] == values[1:] and before[0] <= begin < before[0] + before[1]:
                    continue  # Exports of samples repeat a fixation for each of them.
                latest[of] = [begin, *values[1:]]
            number = observers.setdefault(name, len(observers)) if name else UNKNOWN
            table[video_name].extend((begin, sum(duration, begin), x, y, number))
    named = {video.stem: video for video in videos} | {video.name: video for video in videos}
    parts, unknown = defaultdict(list), []
    for name, numbers_of in table.items():
        # Trackers may name the file as it lay on their computer.
        if video := named.get(name) or named.get(PureWindowsPath(name).name):
            parts[video].append(np.frombuffer(numbers_of).reshape(-1, 5))
        else:
            unknown.append(name)
    assigned = {video: np.concatenate(parts[video]) for video in videos if video in parts}
    clock = "frames count from 0"
    if not by_frame:
        spelled = {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}[units[0]]
        clock = f"times, here read as {spelled}, count from the video's beginning"
    return GazeTable(assigned, unknown, by_frame, clock, list(observers), incomplete)
