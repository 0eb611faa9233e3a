"""What went wrong, by kind, and in words that say what to do."""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import av

Item = TypeVar("Item")

_ADVICE = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "your share of the disk is used up: free some space, or choose another place",
    errno.EFBIG: "files there may not be so large: choose another place",
    errno.EROFS: "nothing can be written there: choose another place",
    errno.EACCES: "check the permissions, or choose another place",
    errno.EPERM: "check the permissions, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.ELOOP: "its links lead in a circle: check the path",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n`",
    errno.ENFILE: "too many files are open: close other programs",
    errno.EIO: "the disk or the connection to it fails: check it",
}

# No file can grow: what only a writer meets.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# PyTorch's CPU allocator (Linux, Windows), CUDA, ROCm and Apple's GPUs, cuBLAS and cuDNN, C++, onnxruntime.
_OUT_OF_MEMORY = re.compile(
    r"\bout of memory|can(no|')t allocate memory|not enough memory|_ALLOC_FAILED|bad[_ ]alloc"
    r"|failed to allocate memory|available memory of .* is smaller than requested",
    re.IGNORECASE,
)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, what caused that, and so on."""
    seen = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def reason_of(error: BaseException) -> str:
    """What an error says, without its number and the file."""
    if isinstance(error, KeyError):  # Which gives the key alone.
        return f"{error} is missing"
    reason = str(getattr(error, "strerror", None) or error) or "no reason is given"
    return "the file is cut off" if "image file is truncated" in reason else reason  # As Pillow says it.


def described(error: BaseException) -> str:
    """What an error says in one line of at most 300 characters, without its type, which is for programmers."""
    text = " ".join(reason_of(error).split())
    return text[:300] + "…" * (len(text) > 300)


def errno_of(error: BaseException) -> int | None:
    """The system's number of what went wrong, also where a library (FFmpeg, Rust, Arrow) has put it into words."""
    for cause in causes(error):
        named = (number for number in _ADVICE if os.strerror(number) in str(cause))
        if number := getattr(cause, "errno", None) or next(named, None):
            return number
    return None


def advice_for(error: BaseException, otherwise: str) -> str:
    """What to do about an error of the file system: about a full disk, to free space; `otherwise` for all others."""
    return _ADVICE.get(errno_of(error) or 0, otherwise)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of its GPU, ran out; other errors may also speak of memory."""
    # PyTorch has no class of its own for a CPU that runs out of memory, nor has onnxruntime.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or getattr(error, "errno", None) == errno.ENOMEM
        or (not isinstance(error, OSError) and bool(_OUT_OF_MEMORY.search(str(error))))
    )


def is_sentence(error: BaseException) -> bool:
    """Whether an error is of a class of this package: those have messages that tell users what to do."""
    return type(error).__module__.partition(".")[0] == __package__


def needs_extra(what: str, extra: str) -> str:
    """The sentence about what needs packages that are not installed: those of an extra of this package."""
    return (
        f"{what} needs more packages: in a clone of this package's repository, "
        f'run pip install -c constraints.txt ".[{extra}]"'
    )


@contextmanager
def needing(what: str, extra: str, program: bool = False) -> Iterator[None]:
    """Say inside, where packages of an extra are imported, that they are missing; a program ends with that."""
    try:
        yield
    except ImportError as error:
        if program:
            sys.exit(f"salfom: {needs_extra(what, extra)}")
        raise ImportError(needs_extra(what, extra)) from error


class VideoError(Exception):
    """A file cannot be read or written; the message names it and says what to do."""


class LoadError(Exception):
    """A model cannot be loaded; the message is one sentence that says why and what to do."""


class MapError(ValueError):
    """A model gives a map that is none; the message names both and says what to do."""


class CutOffError(VideoError):
    """A video breaks off early; what it holds has been read."""


def until_cut_off(items: Iterable[Item], ended: list[CutOffError]) -> Iterator[Item]:
    """The items; what cuts them off is put into `ended`."""
    try:
        yield from items
    except CutOffError as error:
        ended.append(error)


@contextmanager
def reported(message: str, advice: str = "check the path and its permissions") -> Iterator[None]:
    """Turn errors of FFmpeg and of the file system into a `VideoError`; `advice` is for those that say too little."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as error:
        if is_sentence(error):
            raise
        raise VideoError(f"{message} ({reason_of(error)}); {advice_for(error, advice)}.") from error


def check_file(path: str | os.PathLike[str]) -> None:
    """
    Refuse, before it is opened, what may be waited for for ever and cannot be read twice.

    Raises:
        OSError: there is nothing, or a pipe, a socket or a device.
    """
    if kind := _kind_of_special(path):
        raise OSError(errno.EINVAL, f"it is {kind} and not a file", str(path))


def refuse_pipe(path: Path) -> None:
    """As `check_file`, of videos and images: a `VideoError` whose advice is `salfom live`."""
    with reported(f"Cannot read {path}"):
        kind = _kind_of_special(path)
    if kind:
        raise VideoError(
            f"{path} is {kind} and not a file; show what comes from it by `salfom live -`, or save it as a file first."
        )


def _kind_of_special(path: str | os.PathLike[str]) -> str | None:
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def listed(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))
