"""Tests of outputs that take their place only when complete."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest

from salfom_hf import files
from salfom_hf.errors import VideoError
from salfom_hf.files import Inputs, atomic_output, check_free, locked, may_be_folder, remove_unfinished


def make_folder(path, names, overwrite):
    with atomic_output(path, overwrite) as temporary:
        temporary.mkdir()
        for name in names:
            (temporary / name).write_text("new")


def test_what_is_in_place_is_on_the_disk(tmp_path, monkeypatch):
    flushed = []
    real = os.fsync

    def fsync(descriptor):
        real(descriptor)
        flushed.append((os.fstat(descriptor).st_ino, (tmp_path / "maps").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_output(tmp_path / "maps", overwrite=False) as temporary:
        (temporary / "a").mkdir(parents=True)
        for name in ("1.png", "a/2.png"):
            (temporary / name).write_bytes(b"png")
    files = [tmp_path / "maps" / name for name in ("1.png", "a/2.png")]
    assert sorted(flushed) == sorted((file.stat().st_ino, False) for file in files)


def test_atomic_output_replaces_a_folder_only_of_the_same_kind(tmp_path):
    target = tmp_path / "maps"
    target.mkdir()
    make_folder(target, ["1.png", "2.png"], overwrite=False)  # An empty folder is free.
    with pytest.raises(VideoError, match="--overwrite"):
        make_folder(target, ["1.png"], overwrite=False)
    make_folder(target, ["1.png"], overwrite=True)
    assert os.listdir(target) == ["1.png"]
    (target / "thesis.doc").write_text("precious")
    with pytest.raises(VideoError, match="other files"):
        make_folder(target, ["1.png"], overwrite=True)
    with pytest.raises(VideoError, match="other files"), atomic_output(target, True) as temporary:
        temporary.write_text("a file")
    assert sorted(os.listdir(target)) == ["1.png", "thesis.doc"]
    assert os.listdir(tmp_path) == ["maps"]


@pytest.fixture(params=[True, False], ids=["exchange", "rename"])
def exchange(request, monkeypatch):
    """Systems that can exchange two folders at once, and those that cannot."""
    if not request.param:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    elif sys.platform not in ("linux", "darwin"):
        pytest.skip("This system cannot.")
    return request.param


@pytest.fixture
def handlers():
    """Those of signals, which may stay changed where one comes in the middle of changing them."""
    before = {number: signal.getsignal(number) for number in files.ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_the_old_folder_or_the_new_one_is_there(tmp_path, exchange):
    """Ctrl-C at any line."""
    for line in range(1000):
        target = tmp_path / str(line) / "maps"  # Beside nothing that others have left.
        make_folder(target, ["old.png"], overwrite=True)
        left = [line]

        def trace(frame, event, _, left=left):
            if frame.f_code.co_filename != files.__file__:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            make_folder(target, ["new.png"], overwrite=True)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert os.listdir(target) in (["old.png"], ["new.png"])
        if left[0] > 0:
            break
    assert 50 < line < 999


@pytest.mark.parametrize(("failing", "kept"), [(1, "old.png"), (2, "old.png"), (3, "new.png")])
def test_a_folder_that_cannot_be_renamed(tmp_path, monkeypatch, failing, kept):
    make_folder(tmp_path / "maps", ["old.png"], overwrite=False)
    rename, left = os.rename, [failing]

    def fail(*paths):
        left[0] -= 1
        if left[0] == 0:
            raise OSError("no")
        rename(*paths)

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(VideoError, match="Cannot write") if kept == "old.png" else nullcontext():
        make_folder(tmp_path / "maps", ["new.png"], overwrite=True)
    assert os.listdir(tmp_path) == ["maps"]
    assert os.listdir(tmp_path / "maps") == [kept]


WRITER = """
import os, sys
from pathlib import Path
from salfom_hf import files
files._exchange = lambda *_: False
rename, count = os.rename, 0
def killed(*paths):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    rename(*paths)
os.rename = killed
with files.atomic_output(sys.argv[1], True) as folder:
    folder.mkdir()
    (folder / "new.png").write_text("new")
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows kills otherwise.")
@pytest.mark.parametrize(("killed", "kept"), [(1, "old.png"), (2, "old.png"), (3, "new.png"), (4, "new.png")])
def test_what_a_killed_process_leaves(tmp_path, killed, kept):
    """While it lives, nobody removes what it writes; killed between two steps, it leaves the old folder or the new."""
    make_folder(tmp_path / "maps", ["old.png"], overwrite=False)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "maps"), str(killed)], **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        remove_unfinished(tmp_path)
        assert [path.name for path in tmp_path.glob(".salfom-*/*/maps/*")] == ["new.png"]
        process.communicate("\n", timeout=60)
    make_folder(tmp_path / "other", ["1.png"], overwrite=False)
    assert sorted(os.listdir(tmp_path)) == ["maps", "other"]
    assert os.listdir(tmp_path / "maps") == [kept]


def test_who_removes_a_folder_has_it_locked(tmp_path, monkeypatch):
    """Else another process that has just made it could take it, and would lose what it writes."""
    rmtree, took = shutil.rmtree, []

    def take(folder, **options):
        with locked(folder / "lock") as held:
            took.append(held)
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", take)
    (tmp_path / ".salfom-left").mkdir()
    remove_unfinished(tmp_path)
    assert took[0] is False
    assert os.listdir(tmp_path) == []


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a program in the foreground has it: in the background it is ignored, and so it is after some tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals.")
@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_as_soon_as_the_temporary_folder_is_there_leaves_nothing(tmp_path, monkeypatch):
    make = os.mkdir

    def stopped(path, *options):
        make(path, *options)
        if ".salfom-" in str(path):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "mkdir", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path / "maps", ["1.png"], overwrite=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals.")
@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_while_the_temporary_folder_is_removed_comes_afterwards(tmp_path, monkeypatch):
    remove = shutil.rmtree

    def stopped(path, **options):
        signal.raise_signal(signal.SIGINT)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path / "maps", ["1.png"], overwrite=False)
    assert os.listdir(tmp_path) == ["maps"]


def test_what_killed_processes_left_in_folders_below(tmp_path):
    for folder in (tmp_path, tmp_path / "a" / "b"):
        (folder / ".salfom-left" / "new").mkdir(parents=True)
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a" / "b") == [".salfom-left"]
    remove_unfinished(tmp_path, below=True)
    assert os.listdir(tmp_path / "a" / "b") == []


def test_what_cannot_be_put_back_is_not_in_the_way_of_others(tmp_path, monkeypatch):
    left = tmp_path / ".salfom-left" / "old" / "maps"
    left.mkdir(parents=True)

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "rename", fail)
    make_folder(tmp_path / "other", ["1.png"], overwrite=False)
    assert left.is_dir()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path, exchange, there):
    """Also one that leads to nothing yet; a file has the suffix of the link while it is written."""
    for link, target in (("maps", "disk/maps"), ("maps.npz", "disk/content")):
        (tmp_path / link).symlink_to(target)
    if there:
        make_folder(tmp_path / "disk" / "maps", ["old.png"], overwrite=False)
        (tmp_path / "disk" / "content").write_text("old")
        with pytest.raises(VideoError, match="--overwrite"):
            make_folder(tmp_path / "maps", ["new.png"], overwrite=False)
    assert may_be_folder(tmp_path / "maps")
    make_folder(tmp_path / "maps", ["new.png"], overwrite=there)
    with atomic_output(tmp_path / "maps.npz", overwrite=there) as temporary:
        temporary.write_text("new")
        assert temporary.name == "maps.npz"
    assert all((tmp_path / link).is_symlink() for link in ("maps", "maps.npz"))
    assert os.listdir(tmp_path / "disk" / "maps") == ["new.png"]
    assert (tmp_path / "disk" / "content").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["disk", "maps", "maps.npz"]
    assert sorted(os.listdir(tmp_path / "disk")) == ["content", "maps"]


@pytest.mark.parametrize("name", ["old", "new", "lock", "maps.raw"])
def test_an_output_may_have_any_name(tmp_path, name):
    for overwrite in (False, True):
        make_folder(tmp_path / name, ["1.png"], overwrite)
    with atomic_output(tmp_path / "a" / name) as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path / name) == ["1.png"]
    assert (tmp_path / "a" / name).read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == sorted(["a", name])


def test_an_input_is_known_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video, frames = tmp_path / "videos" / "talk.mp4", tmp_path / "frames"
    for folder in (video.parent, frames, tmp_path / "other"):
        folder.mkdir()
    for file in (video, frames / "1.png", tmp_path / "other" / "2.png", tmp_path / "free.mp4"):
        file.write_text("precious")
    os.link(video, "hard.mp4")
    os.symlink(video, "soft.mp4")
    os.symlink("videos", "linked")
    os.symlink(tmp_path / "other" / "2.png", frames / "2.png")
    os.symlink("nothing", "dangling.mp4")
    inputs = Inputs(video, frames, "missing.mp4")
    lost = [video, "videos/../videos/talk.mp4", "hard.mp4", "soft.mp4", "linked/talk.mp4", "videos", "linked", "other"]
    for output in (*lost, ".", tmp_path, frames, "frames/1.png"):
        with pytest.raises(VideoError, match="choose another output, for"):
            check_free(output, True, inputs)
    for output in ("free.mp4", "missing.mp4", "frames/new.png", "dangling.mp4"):
        check_free(output, True, inputs)
    with pytest.raises(VideoError, match="--overwrite"):
        check_free("free.mp4", False, inputs)
