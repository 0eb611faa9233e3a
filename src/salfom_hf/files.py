"""Outputs that take their place only when complete, and that never replace an input."""

import ctypes
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from .errors import FULL, VideoError, advice_for, errno_of, listed, reported

# Of the folder next to an output in which it is written, and what is in it: a lock file, the folder of the new output,
# and that of the old one where a system cannot exchange the two.
PREFIX, LOCK, NEW, OLD = ".salfom-", "lock", "new", "old"

# Signals at which a program ends, with nothing half-written; `nohup` has it ignore the last, which Windows lacks.
ENDING: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    ENDING += (signal.SIGHUP,)


@contextmanager
def on_signals(handler: Callable, numbers: Collection[signal.Signals] = ENDING) -> Iterator[None]:
    """Inside, signals call this, where Python lets them: in the main thread."""
    main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handler) for number in numbers if main}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def later_signals() -> Iterator[None]:
    """Inside, signals that end the program wait until this is done."""
    came: list[int] = []
    with on_signals(lambda number, _: came.append(number)):
        yield
    for number in came:
        signal.raise_signal(number)


def stop(number: int, _: object) -> None:
    """End as with Ctrl-C, so that unfinished outputs are removed; what launchers send after that is too much."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


_Identity = tuple[int, int]  # of a file or folder, whatever it is called


class Inputs:
    """Files and folders that a command reads, known again under any name; those that do not exist are passed over."""

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        self._paths = [Path(path) for path in paths]

    @cached_property
    def _inputs(self) -> dict[_Identity, Path]:
        return {identity: path for path in self._paths if (identity := _identity(path))}

    @cached_property
    def _inputs_and_folders(self) -> dict[_Identity, Path]:
        """The inputs, and the folders that they are in: for each the input."""
        found: dict[_Identity, Path] = {}
        for path in self._paths:
            # A folder may hold links to what is read.
            links = [file for file in path.rglob("*") if file.is_symlink()] if path.is_dir() else []
            for file in (path, *links):
                found |= dict.fromkeys(_identities(file), path)
        return found

    def refuse(self, path: str | os.PathLike[str]) -> None:
        """Raise a `VideoError` if an input is gone when `path` is replaced or removed."""
        identity = _identity(Path(path))
        if identity and (lost := self._inputs_and_folders.get(identity)):
            raise VideoError(f"{path} exists already; choose another output, for the input {lost} would be lost.")

    def refuse_part(self, path: str | os.PathLike[str]) -> None:
        """Raise a `VideoError` if `path` is in an input that is a folder."""
        for identity in _identities(Path(path)):
            if folder := self._inputs.get(identity):
                raise VideoError(
                    f"{path} exists already; choose another output, for it is part of the input {folder}."
                )


def _identity(path: Path) -> _Identity | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _identities(path: Path) -> Iterator[_Identity]:
    """Those of a file or folder and of all folders that it is in: as it is called, and where links lead."""
    for place in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
        yield from filter(None, map(_identity, (place, *place.parents)))


@contextmanager
def atomic_output(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write a file or folder at, which takes its final place only on success.

    Missing parent folders are made. After any exception the temporary output is gone and what was there before is
    untouched. An empty folder counts as free; a link stays, and the output takes the place that it leads to. Whatever
    happens, the old output or the new one is there: where a system can only rename one after the other, what a process
    killed in between has left is put back before the next output in the same folder.

    Raises:
        VideoError: the place is taken and `overwrite` is false, or is a folder that holds other kinds of file than the
            new output, or cannot be written.
    """
    path, place = Path(path), Path(os.path.realpath(path))
    with suppress(VideoError):  # What cannot be put back stays where it is, and says so when it is in the way.
        remove_unfinished(place.parent)
    check_free(path, overwrite)
    advice = "choose a place you may write to"
    with ExitStack() as stack:
        with reported(f"Cannot write {path}", advice):
            place.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(temporary_folder(place.parent))
            # A folder rather than a file of its own, so that the output keeps its name, permissions and kind.
            (folder / NEW).mkdir()
        # Of a link it has the name, which may say what kind of file it is.
        temporary = folder / NEW / os.path.basename(os.path.abspath(path))
        try:
            yield temporary
        except Exception as error:
            if isinstance(error, VideoError) or errno_of(error) not in FULL:
                raise
            # Whatever library met it, and whatever it made of it.
            reason = os.strerror(errno_of(error) or 0)
            raise VideoError(f"Cannot write {path} ({reason}); {advice_for(error, advice)}.") from error
        check_free(path, overwrite)
        with reported(f"Cannot write {path}", advice):
            _finish_files(temporary, (folder / LOCK).stat().st_mode)
            if not place.is_dir():
                os.replace(temporary, place)
                return
            if not temporary.is_dir() or _suffixes(place) - _suffixes(temporary):
                raise VideoError(f"{path} is a folder that holds other files; choose another output.")
            if not _exchange(temporary, place):
                (folder / OLD).mkdir()
                os.rename(place, folder / OLD / place.name)
                os.rename(temporary, place)
                with suppress(OSError):  # The new folder is in place.
                    os.rename(folder / OLD / place.name, temporary)


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """
    Give a new folder in `parent` for what is unfinished, which goes at the end or by `remove_unfinished`; by default
    in the system's folder of temporary files, from which what killed processes have left goes first.
    """
    if parent is None:
        parent = Path(tempfile.gettempdir())
        with suppress(VideoError):
            remove_unfinished(parent)
    with ExitStack() as stack:
        for _ in range(10):
            folder = parent / f"{PREFIX}{secrets.token_hex(8)}"
            stack.callback(_remove, folder, own=True)  # First, for a signal may come as soon as it is there.
            folder.mkdir(0o700)
            if stack.enter_context(locked(folder / LOCK)) is not False:
                break  # Else another process has taken it for one that is left over.
        yield folder


def is_taken(path: Path) -> bool:
    """Whether something is there; an empty folder is nothing, nor is a link that leads to nothing."""
    with reported(f"Cannot write {path}"):
        try:
            os.lstat(os.path.realpath(path))  # Of a name that is too long, `lexists` says that nothing is there.
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not (path.is_dir() and not any(path.iterdir()))


def check_free(path: str | os.PathLike[str], overwrite: bool, inputs: Inputs | None = None) -> None:
    """Raise a `VideoError` if `path` is taken, unless `overwrite`, or if it is, holds, or is part of an input."""
    path = Path(path)
    if not is_taken(path):
        return
    if inputs is not None:
        inputs.refuse(path)
        inputs.refuse_part(path)
    if not overwrite:
        raise VideoError(f"{path} exists already; choose another output or pass --overwrite.")


def check_suffix(path: str | os.PathLike[str], suffixes: Collection[str], content: str) -> None:
    """Raise a `VideoError` if an output, such as "a video", has a name that ends in none of the suffixes."""
    if Path(path).suffix.lower() not in suffixes:
        raise VideoError(f"Cannot write: {path} is not {content}; name an output that ends in {listed(suffixes)}.")


def may_be_folder(path: str | os.PathLike[str]) -> bool:
    """
    Whether there is a folder, or nothing that is called like a file; folders may be called such as run-1.5, or, with a
    slash at the end, which only a text can have, anything.
    """
    path, slash = Path(path), os.fspath(path).endswith((os.sep, os.altsep or os.sep))
    return path.is_dir() or not (is_taken(path) or (path.suffix[1:2].isalpha() and not slash))


def remove_unfinished(folder: Path, below: bool = False) -> None:
    """
    Remove what killed processes have not finished writing in a folder, and in all `below` it; what living ones write,
    on any machine that shares the folder, stays. A `VideoError` if the output that one of them was to replace cannot
    be put back.
    """
    for left in list(folder.rglob(f"{PREFIX}*") if below else folder.glob(f"{PREFIX}*")):
        _remove(left)


def _remove(folder: Path, own: bool = False) -> None:
    """Remove a temporary folder that no process uses. What it holds goes back if nothing has taken its place."""
    with later_signals(), locked(folder / LOCK) as held:
        if not (held or (own and held is None)):
            return
        for old in folder.glob(f"{OLD}/*"):
            place = folder.parent / old.name
            if not os.path.lexists(place):
                with reported(f"Cannot put {place} back", f"it is in {old.parent}"):
                    os.rename(old, place)
        # Before the lock is free: who has just made the folder could take it, and would lose what it writes.
        shutil.rmtree(folder, ignore_errors=True)
    if sys.platform == "win32":  # It removes no file that is open, such as the lock.
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(file: Path) -> Iterator[bool | None]:
    """
    Hold a lock file, which a process loses when it ends, however it ends. Gives False if another process holds it, or
    it is gone; None where this cannot be known, as on a file system without locks.
    """
    held: bool | None
    with ExitStack() as stack:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            _locks.add(descriptor)
            stack.callback(_let_go, descriptor)
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(descriptor), os.stat(file))
        except (BlockingIOError, FileNotFoundError):
            held = False
        except OSError as error:
            held = False if sys.platform == "win32" and isinstance(error, PermissionError) else None
        yield held


_locks: set[int] = set()  # The descriptors of all that are held.


def _let_go(*descriptors: int) -> None:
    """Close these, or all."""
    for descriptor in _locks.intersection(descriptors or _locks):
        _locks.remove(descriptor)
        os.close(descriptor)


if hasattr(os, "register_at_fork"):
    # A copy of this process, such as one that reads clips, may live on after it.
    os.register_at_fork(after_in_child=_let_go)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two files or folders at once; whether the system can."""
    first, second = os.fsencode(one), os.fsencode(other)
    # RENAME_EXCHANGE and RENAME_SWAP are both 2; −100 (AT_FDCWD) is the working directory.
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None), "renameat2", None)
        return rename is not None and rename(-100, first, -100, second, 2) == 0
    if sys.platform == "darwin":
        return ctypes.CDLL(None).renamex_np(first, second, 2) == 0
    return False


def _finish_files(output: Path, mode: int) -> None:
    """
    Let those read the files who may read any new file, for safetensors makes some for their owner alone; and have them
    on the disk before their name is, so that a power cut leaves no empty ones.
    """

    def finish(file: Path) -> None:
        if file.is_file():
            file.chmod(file.stat().st_mode | (mode & 0o666))
            # Windows flushes only what may be written.
            descriptor = os.open(file, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    with ThreadPoolExecutor(32) as pool:  # A disk writes what waits at the same time at once: 16 times as fast.
        deque(pool.map(finish, (output, *output.rglob("*"))), maxlen=0)


def _suffixes(folder: Path) -> set[str]:
    return {file.suffix.lower() for file in folder.rglob("*") if not file.is_dir()}
