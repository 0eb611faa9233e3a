"""Tests of outputs that take their place only when complete."""

import os

import pytest

from salfom_hf.files import atomic_output
from salfom_hf.video import VideoError


def test_atomic_output_puts_files_and_folders_in_place(tmp_path):
    with atomic_output(tmp_path / "a" / "maps.txt", overwrite=False) as temporary:
        temporary.write_text("new")
    with atomic_output(tmp_path / "a" / "maps", overwrite=False) as temporary:
        temporary.mkdir()
        (temporary / "1.png").write_text("new")
    assert (tmp_path / "a" / "maps.txt").read_text() == "new"
    assert (tmp_path / "a" / "maps" / "1.png").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "a")) == ["maps", "maps.txt"]


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
