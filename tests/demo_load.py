"""
The page under load: its memory over many requests and at the largest ones, and many users at once.

    python tests/demo_load.py [--requests 200] [--users 50] [--model salfom]

Linux only: memory is what /proc says is resident.
"""

import argparse
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

from demo_server import serving
from salfom_hf.video.writing import VideoWriter


def write_video(path: Path, width: int, height: int, frames: int) -> Path:
    shades = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
    with VideoWriter(path, width, height, Fraction(25)) as writer:
        for number in range(frames):
            writer.write(np.roll(shades, 8 * number, axis=1), Fraction(number, 25))
    return path


def write_picture(path: Path, width: int, height: int) -> Path:
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path)
    return path


def mixed(folder: Path, large: bool = True) -> list[dict]:
    """Requests of all kinds, each a call of the page's programming interface; `large` ones, too."""
    broken, nameless = folder / "broken.mp4", folder / ".png"
    broken.write_bytes(write_video(folder / "short.mp4", 320, 180, 10).read_bytes()[:700])
    nameless.write_bytes(write_picture(folder / "small.png", 640, 480).read_bytes())
    videos, images = [{"video": folder / "short.mp4"}], [folder / "small.png", nameless]
    if large:
        videos.append({"video": write_video(folder / "hd.mp4", 1280, 720, 25), "stride": 4})
        images.append(write_picture(folder / "photo.jpg", 4000, 3000))
    bad = [{"video": broken}, {"video": folder / "short.mp4", "length": "long"}]
    return [*videos, *({"image": image} for image in images), *bad]


def largest(folder: Path) -> list[dict]:
    """The largest requests within the bounds, and pictures that only look small."""
    Image.new("1", (16, 3_000_000)).save(folder / "long.png")
    return [
        {"image": folder / "long.png"},
        {"image": write_picture(folder / "square.png", 7000, 7000)},
        {"video": write_video(folder / "large.mp4", 4096, 2304, 80), "stride": 16},
        {"video": write_video(folder / "many.mp4", 480, 480, 1100), "length": 30, "stride": 16},
    ]


def ask(url: str, folder: Path, request: dict) -> str:
    """What comes of a request: "served", or the sentence that says why not."""
    kind = "video" if "video" in request else "image"
    try:
        client = Client(url, verbose=False, download_files=folder)
        client.predict(**request | {kind: handle_file(request[kind])}, api_name=f"/predict_{kind}")
    except Exception as error:  # Also those of the connection are counted.
        return f"{type(error).__name__}: {error}"
    return "served"


def resident(process: int) -> float:
    """GB of memory that a process has."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 2**20


class Peak(threading.Thread):
    """The most memory that a process has while the context lasts, in GB."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.most, self.going = process, resident(process), True

    def run(self) -> None:
        while self.going:
            self.most = max(self.most, resident(self.process))
            time.sleep(0.01)

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going = False
        self.join()


def levels(server, folder: Path, requests: int, begin: int = 10, large: bool = True) -> tuple[float, float]:
    """GB after the first requests, `begin` of them, and after all; mixed ones, each when the one before has ended."""
    kinds = mixed(folder, large)
    first = 0.0
    for number in range(requests):
        ask(server.url, folder, kinds[number % len(kinds)])
        if number == begin - 1:
            first = resident(server.process.pid)
    return first, resident(server.process.pid)


def crowd(server, folder: Path, users: int) -> list[str]:
    """What comes of the requests of many users at once."""
    request = {"video": write_video(folder / "crowd.mp4", 320, 180, 10)}
    with ThreadPoolExecutor(users) as pool:
        return [*pool.map(lambda _: ask(server.url, folder, request), range(users))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--model", default="salfom", help="default: %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name), "--model", args.model) as server:
        folder = Path(name)
        print(f"at the start {resident(server.process.pid):.2f} GB", flush=True)
        first, last = levels(server, folder, args.requests)
        print(f"after 10 requests {first:.2f} GB, after {args.requests} {last:.2f} GB: {last / first:.2f} times")
        for request in largest(folder):
            start = resident(server.process.pid)
            with Peak(server.process.pid) as peak:
                told = ask(server.url, folder, request)
            print(f"{Path(next(iter(request.values()))).name}: {peak.most - start:.2f} GB more; {told}", flush=True)
        begin = time.monotonic()
        told = crowd(server, folder, args.users)
        served = told.count("served")
        print(f"{args.users} users at once: {served} served in {time.monotonic() - begin:.0f} s")
        for sentence in sorted(set(told) - {"served"}):
            print(f"{told.count(sentence)} × {sentence}")
        print(f"at the end {resident(server.process.pid):.2f} GB")


if __name__ == "__main__":
    main()
