"""
Damaged files of every kind that the package reads: only the documented error may leave a reader.

    python tests/fuzz_readers.py [--files 10000] [--seed 1] [--jobs 2] [--only 17 4711]

Each file is a small valid one with some bits flipped, cut, put in, repeated, swapped with another file's, or sizes
changed; its number and the seed make it again. Child processes read them, so that a crash of a decoder is found, a
reader that hangs is ended, and memory is measured (Linux).
"""

import argparse
import gc
import multiprocessing
import os
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

import gaze_data
from numbered_video import make_video, numbered
from salfom_hf.data.features import DataError
from salfom_hf.data.recordings import make_gazefolder
from salfom_hf.data.samples import read_map
from salfom_hf.data.stills import Stills
from salfom_hf.evaluation.methods import EvaluationError
from salfom_hf.evaluation.predictions import Predictions
from salfom_hf.video import VideoError, load_image, probe, read_frames, read_frames_at
from salfom_hf.video.writing import VideoWriter

LIMIT = 60  # seconds for one file, of which a healthy one takes less than a tenth
MEMORY = 1.0  # GB that reading one file may take
GROWTH = 0.3  # GB that a process may keep after all its files; what libraries keep for good is less
MOST_FRAMES = 200  # that are read of a file: damage may make its frames as many as it likes

# Suffix, codec, its pixels, sound and options of each video.
VIDEOS = [
    (".mp4", "libx264", "yuv420p", "aac"),
    (".mp4", "libx265", "yuv420p10le", "mp3"),
    (".mp4", "libsvtav1", "yuv420p", "libopus"),
    (".mov", "prores_ks", "yuv422p10le", "pcm_s16le"),
    (".3gp", "mpeg4", "yuv420p", "aac"),
    (".mkv", "libx264", "yuv420p", "flac"),
    (".mkv", "ffv1", "yuv420p", "ac3"),
    (".webm", "libvpx", "yuva420p", "libopus"),
    (".webm", "libvpx-vp9", "yuv420p", "libopus"),
    (".avi", "mpeg4", "yuv420p", "libmp3lame"),
    (".avi", "libx264", "yuv420p", "pcm_s16le"),
    (".avi", "msmpeg4", "yuv420p", "adpcm_ms"),
    (".ts", "libx264", "yuv420p", "mp2"),
    (".m2ts", "mpeg2video", "yuv420p", "ac3"),
    (".mpg", "mpeg1video", "yuv420p", "mp2"),
    (".vob", "mpeg2video", "yuv420p", "ac3"),
    (".flv", "flv", "yuv420p", "libmp3lame"),
    (".wmv", "wmv2", "yuv420p", "wmav2"),
    (".ogv", "libvpx", "yuv420p", "libopus"),
    (".nut", "huffyuv", "yuv422p", "pcm_s16le"),
    (".mxf", "mpeg2video", "yuv420p", "pcm_s16le"),
    (".rm", "rv10", "yuv420p", "ac3"),
    (".wtv", "mpeg2video", "yuv420p", "mp2"),
    (".mjpeg", "mjpeg", "yuvj420p", None),
    (".h264", "libx264", "yuv420p", None),
    (".hevc", "libx265", "yuv420p", None),
    (".ivf", "libvpx-vp9", "yuv420p", None),
    (".y4m", "wrapped_avframe", "yuv420p", None),
    (".gif", "gif", "rgb8", None),
    (".apng", "apng", "rgba", None),
]
# Sizes that codecs ask for.
SIZES = {"rv10": (176, 144), "mxf": (64, 48)}
RATES = {"mpeg1video": 25, "mpeg2video": 25}
STILLS = [".png", ".jpg", ".webp", ".tif", ".bmp", ".avif", ".heic", ".jp2", ".ppm", ".tga"]
WORDS = [b"nan", b"inf", b"-1", b"1e400", b"1e30", b"", b'"', b"\xff", b"9" * 400, b"\0", b"\n", b",,", b"0x1F"]


class Seed(NamedTuple):
    """A valid file: its kind, which says what reads it, its suffix and what it holds."""

    kind: str
    suffix: str
    content: bytes


def make_seeds(folder: Path) -> list[Seed]:
    """Small valid files of every kind."""
    mute()
    seeds = []
    for number, (suffix, codec, pixels, tone) in enumerate(VIDEOS):
        file, (width, height) = folder / f"{number}{suffix}", SIZES.get(codec, (64, 48))
        pictures = [numbered(frame, width, height) for frame in range(12)]
        rate = RATES.get(codec, 30)
        options = {"preset": "8"} if codec == "libsvtav1" else {"g": "6", "bf": "1"} if codec == "libx264" else {}
        with suppress(av.FFmpegError, ValueError):  # What this build of FFmpeg cannot write.
            make_video(file, range(12), rate, None, pictures, codec, pixels, tone, options)
            seeds.append(Seed("video", suffix, file.read_bytes()))
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((64, 48))
    pages = {"save_all": True, "append_images": [picture.rotate(90 * turn) for turn in (1, 2)], "duration": 100}
    for suffix in STILLS:
        for options in ({}, pages) if suffix in (".png", ".webp", ".tif", ".avif") else ({},):
            with suppress(OSError, ValueError, KeyError):  # What this build of Pillow cannot write.
                picture.save(folder / f"picture{suffix}", **options)
                seeds.append(Seed("picture", suffix, (folder / f"picture{suffix}").read_bytes()))
    for mode in ("I;16", "LA", "P", "1", "L"):
        picture.convert("L" if mode == "I;16" else mode).convert(mode).save(folder / "mode.png")
        seeds.append(Seed("picture", ".png", (folder / "mode.png").read_bytes()))
    maps = rng.random((4, 12, 16)).astype(np.float16)
    for name, save in (("maps", np.savez), ("packed", np.savez_compressed)):
        save(folder / f"{name}.npz", maps=maps)
        seeds.append(Seed("maps", ".npz", (folder / f"{name}.npz").read_bytes()))
    np.save(folder / "map.npy", maps[0])
    seeds.append(Seed("map", ".npy", (folder / "map.npy").read_bytes()))
    table = "video,time,x,y,observer\n" + "".join(f"a.mp4,{n / 10},{5 * n},{3 * n},o{n % 3}\n" for n in range(12))
    seeds.append(Seed("gaze", ".csv", table.encode()))
    frames = re.sub(r"\.mp4,0\.|\.mp4,1\.", ".mp4,", table).replace("time", "frame").replace(",", ";")
    seeds.append(Seed("gaze", ".csv", frames.encode("utf-8-sig")))
    folder_of_stills = gaze_data.write_stills(folder / "stills", "folder", {"train": 2})
    seeds.append(Seed("fixations", ".csv", (folder_of_stills / "train" / "fixations.csv").read_bytes()))
    table_of_stills = gaze_data.write_stills(folder / "table", splits={"train": 2})
    seeds.append(Seed("table", ".parquet", (table_of_stills / "train.parquet").read_bytes()))
    return seeds


# How files are damaged: each takes a file's bytes, chance, and all valid files, and returns other bytes.


def flip(data: bytearray, chance: random.Random, _: list[Seed]) -> bytearray:
    for _ in range(chance.choice((1, 3, 30))):
        data[place_in(data, chance)] ^= 1 << chance.randrange(8)
    return data


def cut(data: bytearray, chance: random.Random, _: list[Seed]) -> bytearray:
    first, last = sorted((place_in(data, chance), chance.randrange(len(data))))
    return chance.choice((data[:last], data[first:], data[:first] + data[last:]))


def put_in(data: bytearray, chance: random.Random, _: list[Seed]) -> bytearray:
    at = place_in(data, chance)
    return data[:at] + chance.randbytes(chance.choice((1, 4, 100, 5000))) + data[at:]


def repeat(data: bytearray, chance: random.Random, _: list[Seed]) -> bytearray:
    first, at = place_in(data, chance), place_in(data, chance)
    block = data[first : first + chance.choice((8, 188, 2000))]
    return data[:at] + block * chance.choice((1, 2, 50)) + data[at:]


def swap(data: bytearray, chance: random.Random, seeds: list[Seed]) -> bytearray:
    other = chance.choice(seeds).content
    length = chance.choice((8, 64, len(data) // 2))
    return bytearray(other[:length]) + data[length:]


def resize(data: bytearray, chance: random.Random, _: list[Seed]) -> bytearray:
    for _ in range(chance.choice((1, 2, 5))):
        value = chance.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data)))
        size = chance.choice(("B", "<H", ">H", "<I", ">I", ">Q"))
        at, bytes_of = place_in(data, chance), struct.calcsize(size)
        data[at : at + bytes_of] = struct.pack(size, value & (1 << 8 * bytes_of) - 1)
    return data


def reword(data: bytearray, chance: random.Random, _: list[Seed]) -> bytearray:
    words = [*re.finditer(rb"[\w.+-]+", data)]
    if words:
        found = chance.choice(words)
        data[found.start() : found.end()] = chance.choice(WORDS)
    return data


def place_in(data: bytearray, chance: random.Random) -> int:
    """A place in a file: where headers are, at the end, or anywhere."""
    near = min(len(data), chance.choice((64, 512, len(data))))
    return chance.choice((chance.randrange(near), len(data) - 1 - chance.randrange(near)))


def damaged(seed: int, number: int, seeds: list[Seed]) -> Seed:
    """The file of this number."""
    chance = random.Random(f"{seed} {number}")
    valid = seeds[number % len(seeds)]
    ways = [flip, cut, put_in, repeat, swap, resize] + [reword] * 9 * (valid.suffix == ".csv")
    data = bytearray(valid.content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        data = chance.choice(ways)(data, chance, seeds) if data else data
    suffix = valid.suffix
    if valid.kind in ("video", "picture") and chance.random() < 0.05:
        suffix = chance.choice([other.suffix for other in seeds if other.kind in ("video", "picture")])
    return valid._replace(suffix=suffix, content=bytes(data))


# What reads each kind, in a folder that is emptied afterwards, and the errors that may leave it.


def videos(file: Path, content: bytes) -> Iterator[Callable]:
    yield lambda: probe(file)
    yield lambda: [*islice(read_frames(file), MOST_FRAMES)]
    yield lambda: [*islice(read_frames(file, 0.2, 0.1), MOST_FRAMES)]
    yield lambda: [*read_frames_at(file, [0, 4, 5, 11])]
    yield lambda: [*read_frames_at(content, [3])]
    yield lambda: copy_sound(file, ".mp4", 0.0)
    yield lambda: copy_sound(file, (".webm", ".mkv", ".mov")[len(content) % 3], 0.1)


def copy_sound(file: Path, suffix: str, start: float) -> None:
    with VideoWriter(
        file.parent / f"sound{suffix}", 16, 16, Fraction(25), audio_from=file, start=start, overwrite=True
    ) as writer:
        for number in range(3):
            writer.write(np.zeros((16, 16, 3), np.uint8), Fraction(start) + Fraction(number, 25))


def pictures(file: Path, content: bytes) -> Iterator[Callable]:
    yield lambda: probe(file)
    yield lambda: [*islice(read_frames(file), MOST_FRAMES)]
    yield lambda: load_image(content, "picture")
    yield lambda: read_map(content, "picture", allow_colour=True)


def maps(file: Path, _: bytes) -> Iterator[Callable]:
    names = [f"{number:04d}.png" for number in range(1, 5)]
    video = SimpleNamespace(id="file", file_name="file.mp4", num_frames=4, frame_names=names, size=(12, 16))
    yield lambda: [*Predictions(file.parent).maps(video, [0, 2, 3])]


def one_map(file: Path, _: bytes) -> Iterator[Callable]:
    video = SimpleNamespace(id=".", file_name="a.mp4", num_frames=1, frame_names=["file.png"], size=(12, 16))
    yield lambda: [*Predictions(file.parent).maps(video, [0])]


def gaze(file: Path, _: bytes) -> Iterator[Callable]:
    make_video(file.parent / "a.mp4", range(12), codec="mpeg4", pictures=[numbered(n) for n in range(12)])
    yield lambda: make_gazefolder(file.parent / "a.mp4", file, file.parent / "gaze")


def fixations(file: Path, content: bytes) -> Iterator[Callable]:
    split = file.parent / "stills" / "train"
    (split / "images").mkdir(parents=True)
    for index in (1, 2):
        Image.new("L", (96, 64)).save(split / "images" / f"train_{index}.{'png' if index == 1 else 'jpg'}")
    (split / "fixations.csv").write_bytes(content)
    yield lambda: Stills.check(split.parent)


def table(file: Path, content: bytes) -> Iterator[Callable]:
    folder = file.parent / "table"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(content)
    yield lambda: Stills.check(folder)


READERS = {
    "video": (videos, (VideoError,)),
    "picture": (pictures, (VideoError, DataError)),
    "maps": (maps, (EvaluationError,)),
    "map": (one_map, (EvaluationError,)),
    "gaze": (gaze, (DataError,)),
    "fixations": (fixations, (DataError,)),
    "table": (table, (DataError,)),
}


def read(file: Seed, folder: Path) -> tuple[str, str]:
    """What comes of a file: "read" if all its readers are content, "refused", or "error"; and what is wrong."""
    path = folder / f"file{file.suffix}"
    path.write_bytes(file.content)
    make, documented = READERS[file.kind]
    outcome = "read"
    try:
        for reader in make(path, file.content):
            try:
                reader()
            except documented:
                outcome = "refused"
        left = [name for name in os.listdir(folder) if name.startswith(".salfom-")]
        return ("error", f"left {left}") if left else (outcome, "")
    except Exception:
        return "error", traceback.format_exc()
    finally:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def mute() -> None:
    """Of what they encode, encoders speak, and of sound that is left out writers."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def memory(name: str) -> float:
    """GB of this process: resident now (`VmRSS`), or at most since `forget_peak` (`VmHWM`)."""
    with open("/proc/self/status") as status:
        return int(re.search(rf"{name}:\s+(\d+)", status.read())[1]) / 2**20


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def work(numbers: list[int], seed: int, seeds: list[Seed], told: multiprocessing.connection.Connection) -> None:
    """Read files one after the other, and send what comes of each."""
    mute()
    warnings.simplefilter("ignore")
    # A reader that asks for all memory gets an error instead.
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    measured = sys.platform == "linux"
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number in numbers:
            before = memory("VmRSS") if measured else 0.0
            if measured:
                forget_peak()
            outcome, why = read(damaged(seed, number, seeds), Path(folder))
            if measured and (taken := memory("VmHWM") - before) > MEMORY:
                outcome, why = "memory", f"{taken:.1f} GB; {outcome} {why}"
            gc.collect()  # Of what this file has made alone: see `main`.
            told.send((number, outcome, why, memory("VmRSS") if measured else 0.0))
    told.close()


class Worker:
    """A child process and the files that are left for it."""

    def __init__(self, numbers: list[int], seed: int, seeds: list[Seed]) -> None:
        self.left, self.levels = numbers, []
        self.heard, told = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")  # All is imported, and this process decodes nothing.
        self.process = context.Process(target=work, args=(numbers, seed, seeds, told), daemon=True)
        self.process.start()
        told.close()
        self.since = time.monotonic()


def fuzz(files: list[int], seed: int, jobs: int, say: Callable = print) -> Counter:
    """How many of the files of these numbers came to what; each that is a fault is said."""
    context, counts = multiprocessing.get_context("fork"), Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        with context.Pool(1) as pool:
            seeds = pool.apply(make_seeds, (Path(folder),))

        def fault(number: int, outcome: str, why: str) -> None:
            counts[outcome] += 1
            valid = seeds[number % len(seeds)]
            say(f"--seed {seed} --only {number} ({valid.kind}, {valid.suffix}): {outcome} {why}")

        workers = [Worker(files[part::jobs], seed, seeds) for part in range(min(jobs, len(files)))]
        while workers:
            ready = wait([worker.heard for worker in workers], timeout=1)
            for worker in list(workers):
                if worker.heard in ready:
                    try:
                        number, outcome, why, level = worker.heard.recv()
                    except EOFError:
                        worker.process.join()
                        workers.remove(worker)
                        if worker.left:
                            number = worker.left[0]
                            code = worker.process.exitcode
                            fault(number, "crash", f"exit code {code}")
                            if worker.left[1:]:
                                workers.append(Worker(worker.left[1:], seed, seeds))
                        continue
                    worker.left, worker.since = worker.left[1:], time.monotonic()
                    worker.levels.append(level)
                    if outcome in ("read", "refused"):
                        counts[outcome] += 1
                    else:
                        fault(number, outcome, why)
                    # After each kind of file has come twice.
                    warm = 2 * len(seeds)
                    if not worker.left and len(worker.levels) > 2 * warm:
                        grown = worker.levels[-1] - max(worker.levels[:warm])
                        if grown > GROWTH:
                            fault(number, "growth", f"{grown:.2f} GB in {len(worker.levels)} files")
                elif time.monotonic() - worker.since > LIMIT:
                    number, rest = worker.left[0], worker.left[1:]
                    worker.process.kill()
                    worker.process.join()
                    workers.remove(worker)
                    fault(number, "hang", f"after {LIMIT} s")
                    if rest:
                        workers.append(Worker(rest, seed, seeds))
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes, default: one for each core")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="read these files alone")
    args = parser.parse_args()
    gc.freeze()
    begin = time.monotonic()
    numbers = args.only or list(range(args.files))
    counts = fuzz(numbers, args.seed, args.jobs)
    faults = counts.total() - counts["read"] - counts["refused"]
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    print(f"{len(numbers)} files in {time.monotonic() - begin:.0f} s: {told}; {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
