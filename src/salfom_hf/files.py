"""Outputs that take their place only when complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .video import VideoError, reported


@contextmanager
def atomic_output(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write a file or folder at, which takes its final place only on success.

    Missing parent folders are made. After any exception the temporary output is gone and what was there before is
    untouched. An empty folder counts as free.

    Raises:
        VideoError: the place is taken and `overwrite` is false, or is a folder that holds other kinds of file than the
            new output, or cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite)
    advice = "choose a place you may write to"
    with ExitStack() as stack:
        with reported(f"Cannot write {path}", advice):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A folder rather than a file of its own, so that the output keeps its name, permissions and kind.
            folder = Path(tempfile.mkdtemp(prefix=".salfom-", dir=path.parent))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        temporary = folder / path.name
        yield temporary
        check_free(path, overwrite)
        with reported(f"Cannot write {path}", advice):
            _make_readable(temporary)
            _flush(temporary)
            if path.is_dir():
                if not temporary.is_dir() or _suffixes(path) - _suffixes(temporary):
                    raise VideoError(f"{path} is a folder that holds other files; choose another output.")
                path.rename(folder / "replaced")
            os.replace(temporary, path)


def is_taken(path: Path) -> bool:
    """Whether something is there; an empty folder is nothing."""
    with reported(f"Cannot write {path}"):
        return os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))


def check_free(path: Path, overwrite: bool) -> None:
    if is_taken(path) and not overwrite:
        raise VideoError(f"{path} exists already; choose another output or pass --overwrite.")


def _make_readable(path: Path) -> None:
    """Let those read the files who may read any new file: safetensors makes some for their owner alone."""
    new = path.with_name(".new")
    new.touch()
    mode = new.stat().st_mode & 0o666
    new.unlink()
    for file in (path, *path.rglob("*")):
        if file.is_file():
            file.chmod(file.stat().st_mode | mode)


def _flush(path: Path) -> None:
    """Have a file, or the files of a folder, on the disk before their name is: a power cut leaves no empty ones."""
    for file in (path, *path.rglob("*")):
        if file.is_file():
            # Windows flushes only what may be written.
            descriptor = os.open(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _suffixes(folder: Path) -> set[str]:
    return {file.suffix.lower() for file in folder.rglob("*") if not file.is_dir()}
