"""What is missing in a dataset's folder or does not fit: single problems, and the report that lists them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LISTED = 5  # names or places of one kind that are listed before the others are only counted

# Kind of problem: its heading, and what to do.
KINDS = {
    "missing annotation": ("No annotation", "unpack the annotation again, or remove the videos"),
    "missing image": ("No image", "copy the images again, or remove their fixations"),
    "missing video": ("No frames", "unpack the videos again, or remove their annotation"),
    "missing maps": ("Fewer maps than frames", "unpack them again, for every frame needs a map and a fixation image"),
    "surplus maps": ("More maps than frames", "unpack the frames again, or remove the maps without one"),
    "file for folder": ("A file where a folder is expected", "remove it, or unpack it if it is an archive"),
    "folder for file": ("A folder where a file is expected", "move the file out of it"),
    "empty folder": ("Empty folders", "unpack the images again"),
    "unreadable": ("Cannot be read", "copy or download the files again"),
    "size": ("Sizes differ", "export frames, maps and fixations at one size, and give that"),
    "duplicate": ("Two of the same number or name", "keep one of them"),
    "missing part": ("Parts are missing", "copy or download all parts of the table"),
    "gap": ("Numbers are missing", "unpack them again, for frames on both sides of a gap are taken as neighbours"),
    "split": ("Not in the official split", "move the videos to the folder of their split"),
    "unexpected": ("Ignored", "move the files elsewhere"),
    "fixations": ("Fixations", "correct the table (x and y in pixels of the picture as stored, frames from 0)"),
    "fps": ("Frame rates", "write the number of frames per second, such as 25, or remove the file"),
    "sigma": ("Blur", "write its standard deviation in pixels of a video 640 wide, such as 12.7, or remove the file"),
    "columns": ("Tables that do not fit", "correct them as documented"),
}


@dataclass(frozen=True)
class Problem:
    """
    Something in a dataset's folder that is missing or does not fit.

    Attributes:
        kind: which check found it, a key of `KINDS`; problems of one kind are listed together.
        where: the file or folder.
        text: what is wrong there.
        fatal: the video cannot be used.
    """

    kind: str
    where: Path
    text: str
    fatal: bool = True


class Found(NamedTuple):
    """What a split holds that can be used; `official` is the number of videos it should have, if that is known."""

    items: int
    frames: int
    official: int | None = None


@dataclass(frozen=True)
class Report:
    """
    The result of a check; `print` it.

    Attributes:
        title: of the dataset.
        root: its folder.
        problems: in the order in which they were found.
        found: per split.
        left_out: number of videos or images that `skip_invalid=True` leaves out; those whose damage only shows when
            every file is read are not among them.
        hidden: number of errors that only show when every file is read.
        unit: what a row is, `"videos"` or `"images"`.
    """

    title: str
    root: Path
    problems: list[Problem]
    found: dict[str, Found]
    left_out: int = 0
    hidden: int = 0
    unit: str = "videos"

    @property
    def fatal(self) -> list[Problem]:
        """The problems that keep videos from being used."""
        return [problem for problem in self.problems if problem.fatal]

    def __str__(self) -> str:
        errors = amount(len(self.fatal), "error")
        warnings = amount(len(self.problems) - len(self.fatal), "warning")
        lines = [f"{self.title} in {self.root}: {errors}, {warnings}."]
        groups = defaultdict(list)
        for problem in self.problems:
            groups[not problem.fatal, problem.kind].append(problem)
        # Errors first; Python's sorting keeps the order of all that are equal.
        for (warns, kind), group in sorted(groups.items(), key=lambda item: item[0][0]):
            heading, advice = KINDS[kind]
            lines.append(f"{'Warning' if warns else 'Error'}: {heading} ({len(group)}); {advice}:")
            for problem in group[:LISTED]:
                place = problem.where
                if place.is_relative_to(self.root) and place != self.root:
                    place = place.relative_to(self.root)
                lines.append(f"  {place}: {problem.text}")
            if len(group) > LISTED:
                lines.append(f"  … and {len(group) - LISTED} more")
        one = self.unit[:-1]
        for split, found in self.found.items():
            items = f"{found.items} of {found.official} {self.unit}" if found.official else amount(found.items, one)
            frames = f", {amount(found.frames, 'frame')}" if self.unit == "videos" else ""
            lines.append(f"Found: {split}: {items}{frames}.")
        if self.left_out:
            left_out = amount(self.left_out, one)
            lines.append(
                f"Fix the errors, or leave out {left_out} with skip_invalid=True, in commands --skip-invalid."
            )
        elif self.fatal:
            lines.append("Fix the errors.")
        if self.hidden:
            lines.append(
                f"Loading, which reads names and headers only, does not notice {self.hidden} of these errors; their "
                f"{self.unit} are counted as found."
            )
        return "\n".join(lines)


def any_fatal(problems: Iterable[Problem]) -> bool:
    return any(problem.fatal for problem in problems)


def listed_names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def amount(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
