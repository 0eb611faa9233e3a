"""The demo: its numbers, its bounds, its files, the page over its public API, the Space."""

import csv
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import av
import numpy as np
import pytest
from huggingface_hub import SpaceCard
from PIL import Image

from conftest import noise, write_clip
from demo_server import serving
from salfom_hf import SaliencyPredictor, VideoError, cli
from salfom_hf.inference.table import COLUMNS, Attention
from salfom_hf.video import reading
from salfom_hf.video.drawing import heatmap, overlay
from salfom_hf.video.reading import frames_there, probe, read_frames

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "spaces" / "salfom-demo"

gradio = pytest.importorskip("gradio")

import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

import demo_load  # noqa: E402
from salfom_hf.demo import attention, build, launch, page, runs  # noqa: E402
from salfom_hf.demo import serving as pages  # noqa: E402


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), "--model", str(model_folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """24 frames of 160×120 at 25 per second, with sound."""
    return write_clip(tmp_path_factory.mktemp("long") / "Mein Clip.mp4", frames=24, height=120, width=160)


@contextmanager
def shown(models, folder):
    """A page of this process, its address, and somebody who looks at it."""
    made = build(models)
    try:
        _, url, _ = launch(made, prevent_thread_lock=True, server_name="127.0.0.1")
        yield made, url, Client(url, verbose=False, download_files=folder / "downloads")
    finally:
        made.close()


def wait_until(true):
    until = time.monotonic() + 60
    while not true() and time.monotonic() < until:
        time.sleep(0.05)
    assert true()


def pictures(path):
    return np.stack([frame.image for frame in read_frames(path)]).astype(int)


# Words.


def peaks(*places, spread=0.1):
    return [Attention(x, y, 0, 0, spread, 0, ()) for x, y in places]


def stays_of(frames, rate=10):
    """Stays, as begin, end and words, of frames that come ten times a second."""
    found = attention.stays([index / rate for index in range(len(frames))], len(frames) / rate, frames)
    return [(round(stay.begin, 6), round(stay.end, 6), stay.in_words()) for stay in found]


def test_where_the_eyes_stay():
    # Half a second at each of three places, with a flicker of one frame in the second stay.
    frames = peaks(*[(0.5, 0.5)] * 5, *[(0.9, 0.1)] * 2, (0.1, 0.5), *[(0.9, 0.1)] * 4, *[(0.5, 0.9)] * 6)
    assert stays_of(frames) == [
        (0, 0.8, "the middle; most eyes agree"),
        (0.8, 1.2, "the top, far right; most eyes agree"),
        (1.2, 1.8, "the bottom; most eyes agree"),
    ]
    # What stands still on the edge between two words is one place, and so is what is only ever left for a moment.
    assert len(stays_of(peaks(*[(0.59, 0.39), (0.61, 0.41)] * 20))) == 1
    assert len(stays_of(peaks(*[(0.1, 0.5), (0.9, 0.5)] * 20))) == 1
    assert stays_of(peaks((0.1, 0.1), *[(0.5, 0.5)] * 9)) == [(0, 1, "the middle; most eyes agree")]
    moving = peaks(*[(0.1 + 0.02 * number, 0.5) for number in range(40)], spread=0.2)
    assert stays_of(moving) == [(0, 4, "far left → far right; eyes differ much")]
    turns = peaks(*([(0.1, 0.5)] * 5 + [(0.9, 0.5)] * 5) * 6)
    lines = attention.in_words(attention.stays([index / 10 for index in range(60)], 6.0, turns)).splitlines()
    assert lines[1] == "2. 0.5–1.0 s: far right; most eyes agree"
    assert lines[-1] == "and 4 more places."
    still = attention.stays([0.0], 0.0, peaks((0, 1), spread=0.15))
    assert attention.in_words(still) == "the bottom, far left; many agree"


def test_the_path_is_drawn_against_the_picture():
    frames = peaks(*[(0.25, 0.5)] * 10, *[(0.75, 0.5)] * 10)
    seconds = [index / 10 for index in range(20)]
    grey = np.full((90, 160, 3), 128, np.uint8)
    found = attention.stays(seconds, 2.0, frames)
    picture = np.asarray(attention.path_picture([grey, grey], seconds, frames, found)).astype(int)
    red = (picture[..., 0] > 200) & (picture[..., 1] < 60)
    # Under the picture time runs down: first a quarter from the left, then three quarters.
    below = red[-attention.TIME_SIDE - 28 : -28, : attention.WIDEST]
    assert set(np.nonzero(below[10])[0]) <= set(range(118, 123))
    assert below[10].any()
    assert set(np.nonzero(below[-10])[0]) <= set(range(358, 363))
    assert below[-10].any()


# Bounds.


def playlist(path, clip):
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n")


def concatenation(path, clip):
    shutil.copy(clip, path.parent / "other.mp4")
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


def broken(path, clip):
    path.write_bytes(clip.read_bytes()[:700])


def text(path, clip):
    path.write_text("This is no video.\n" * 50)


def truncated(path, clip):
    Image.fromarray(noise(1, 256, 256)[0, ..., 0]).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-1000])


def bomb(path, clip):
    Image.new("1", (16_384, 16_384)).save(path, "PNG")


def large(path, clip):
    Image.new("1", (8192, 8192)).save(path, "PNG")


def long_picture(path, clip):
    Image.new("1", (16, 100_000)).save(path, "PNG")


def pages_of(path, clip):
    Image.new("L", (32, 32)).save(path, "TIFF", save_all=True, append_images=[Image.new("1", (20_000, 20_000))])


def postscript(path, clip):
    """Pillow takes it for a picture, and has another program draw it."""
    Image.fromarray(noise(1)[0]).save(path, "EPS")


def checked(path):
    return runs.checked(path, runs.Bounds(path))


def test_a_folder_is_refused(tmp_path):
    # It would be read as a video of everybody's images.
    Image.fromarray(noise(1)[0]).save(tmp_path / "somebodys.png")
    with pytest.raises(VideoError, match="not a file"):
        checked(tmp_path)


@pytest.mark.parametrize(
    ("bound", "value", "words"),
    [
        ("MAX_BYTES", 1 << 10, "MB"),
        ("MAX_FRAME_PIXELS", 6143, "96×64"),
        ("MAX_SIDE", 95, "96×64"),
        ("MAX_ASPECT", 1.4, "no side is more than"),
    ],
)
def test_large_files_are_refused(clip, monkeypatch, bound, value, words):
    assert checked(clip).width == 96
    monkeypatch.setattr(runs, bound, value)
    with pytest.raises(runs.BoundsError, match=words):
        checked(clip)


def test_pictures_are_measured_before_they_are_decoded(tmp_path, monkeypatch):
    large(tmp_path / "large.png", None)
    monkeypatch.setattr(Image.Image, "convert", lambda *arguments: pytest.fail("It is decoded."))
    with pytest.raises(runs.BoundsError, match=r"large\.png has 8192×8192 pixels"):
        checked(tmp_path / "large.png")


def test_every_frame_is_measured(demo, tmp_path, monkeypatch):
    # FFmpeg looks at the first five seconds by itself.
    small = write_clip(tmp_path / "small.ts", frames=200, sound=False).read_bytes()
    large = write_clip(tmp_path / "large.ts", frames=6, height=128, width=192, sound=False).read_bytes()
    grows = tmp_path / "grows.ts"
    grows.write_bytes(small + large)
    monkeypatch.setattr(runs, "MAX_FRAME_PIXELS", 96 * 64)
    assert checked(grows).width == 96
    original, converted = reading.image_of, []

    def image_of(frame, size):
        converted.append((frame.width, frame.height))
        return original(frame, size)

    monkeypatch.setattr(reading, "image_of", image_of)
    with pytest.raises(runs.BoundsError, match=r"grows\.ts has 192×128 pixels"):
        demo.maps(part(grows, 7.5), runs.Bounds(grows))
    assert set(converted) == {(96, 64)}


@pytest.fixture
def demo(model_folder):
    return runs.Demo({"tiny": lambda: SaliencyPredictor.from_pretrained(model_folder)})


def part(path, start=0.0, length=10.0, stride=1):
    return runs.Part("tiny", str(path), start, length, stride)


def test_time_and_frames_are_bounded(demo, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MAX_FRAMES", 4)
    seen = []
    maps = demo.maps(part(clip), runs.Bounds(clip, progress=lambda *progress: seen.append(progress[:2])))
    assert len(maps.saliency) == len(maps.timestamps) == len(maps.numbers) == 4
    assert seen == [(number, 4) for number in (1, 2, 3, 4)]
    # One clock for both: what the network leaves is for drawing.
    now, seen = [0.0], []
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def report(*progress):
        now[0] += runs.MAX_TIME / 5.5
        seen.append(progress[-1])

    bounds = runs.Bounds(clip, progress=report)
    maps = demo.maps(part(clip, 0.04), bounds)
    with pytest.raises(runs.BoundsError, match="a shorter length"):
        runs.write_files(maps, tmp_path, "turbo", 0.7, bounds)
    assert seen == ["Looking at frame"] * 4 + ["Drawing frame"] * 2


@pytest.mark.parametrize("frame", [0, 3])
def test_time_is_bounded_before_the_start_too(demo, clip, tmp_path, monkeypatch, frame):
    """What comes before the part that was asked for has to be decoded, in one file for hours."""
    maps = demo.maps(part(clip, 0.2), runs.Bounds(clip))
    now, decoded = [0.0], count()
    original = reading._decoded

    def slowly(*arguments, **options):
        for image in original(*arguments, **options):
            if next(decoded) == frame:
                now[0] += 2 * runs.MAX_TIME
            yield image

    monkeypatch.setattr(reading, "_decoded", slowly)
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    demo.recent.clear()
    converted = []
    monkeypatch.setattr(reading, "image_of", lambda *frame: converted.append(frame))
    with pytest.raises(runs.BoundsError, match="an earlier start"):
        demo.maps(part(clip, 0.2), runs.Bounds(clip))
    decoded = count()
    with pytest.raises(runs.BoundsError, match="an earlier start"):
        runs.write_files(maps, tmp_path, "turbo", 0.7, runs.Bounds(clip))
    assert not converted


def test_other_colours_need_no_network_and_few_runs_are_kept(demo, clip, monkeypatch):
    maps = demo.maps(part(clip, stride=2), runs.Bounds(clip))
    monkeypatch.setattr(demo, "predicted", lambda *arguments: pytest.fail("It is predicted again."))
    assert demo.maps(part(clip, stride=2), runs.Bounds(clip)) is maps
    assert part(clip) not in demo.recent
    monkeypatch.undo()
    for number in range(1, runs.KEPT_RUNS + 1):
        demo.maps(part(clip, 0.0, 10.0 + number, 2), runs.Bounds(clip))
    assert [part(clip, 0.0, 10.0 + number, 2) in demo.recent for number in range(2)] == [False, True]


def test_runs_are_forgotten_when_their_files_go(demo, clip, monkeypatch):
    assert pages.KEPT == runs.KEPT == 3600
    monkeypatch.setattr(runs, "KEPT", 0.1)
    demo.maps(part(clip), runs.Bounds(clip))
    wait_until(lambda: not demo.recent)


def test_the_network_alone_asks_for_a_gpu(monkeypatch, model_folder, clip):
    """On ZeroGPU, whose package decorates what needs one."""
    asked = []

    def decorator(duration):
        def decorate(function):
            asked.append((function.__name__, duration))
            return function

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=decorator))
    specification = importlib.util.spec_from_file_location("salfom_hf.demo.with_spaces", runs.__file__)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made = module.Demo({"tiny": lambda: SaliencyPredictor.from_pretrained(model_folder)})
    assert len(made.maps(module.Part("tiny", str(clip), 0.0, 10.0), module.Bounds(clip)).saliency) == 6
    assert asked == [("small_maps", module.GPU_TIME)]


def test_zerogpu_comes_before_pytorch(tmp_path):
    (tmp_path / "spaces.py").write_text(
        "import sys\nassert 'torch' not in sys.modules\ndef GPU(duration): return lambda function: function\n"
    )
    code = "import salfom_hf.demo, spaces, sys; print(spaces.__file__, 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.split() == [str(tmp_path / "spaces.py"), "True"], result.stderr


# The page, over its public API.


def call_api(server, api, *data):
    """What a program gets that makes the request by itself."""
    address = f"{server.url}/gradio_api/call/{api}"
    event = httpx.post(address, json={"data": data}).json()["event_id"]
    return httpx.get(f"{address}/{event}", timeout=300).text


def predict(client, video, **options):
    return client.predict(video=handle_file(video), api_name="/predict_video", **options)


def test_a_video(client, model_folder, long_clip, tmp_path, monkeypatch):
    over, heat, both, maps, table, words, path = predict(client, long_clip, opacity=0.5, colormap="inferno")
    expected = list(SaliencyPredictor.from_pretrained(model_folder).stream(long_clip))
    for file, width, draw in (
        (over, 160, lambda frame: overlay(frame.image, frame.saliency, "inferno", 0.5)),
        (heat, 160, lambda frame: heatmap(frame.saliency, "inferno")),
        (
            both,
            320,
            lambda frame: np.concatenate([frame.image, overlay(frame.image, frame.saliency, "inferno", 0.5)], axis=1),
        ),
    ):
        info, found = probe(file), pictures(file)
        assert (info.width, info.height, info.frame_rate, info.has_audio) == (width, 120, 25, True)
        drawn = np.stack([draw(frame) for frame in expected])
        assert found.shape == drawn.shape == (24, 120, width, 3)
        # Only compression, and colour at half resolution, comes between.
        assert np.abs(found - drawn).mean() < 12
    with np.load(maps, allow_pickle=False) as data:
        assert data["maps"].dtype == np.float16
        np.testing.assert_allclose(data["maps"], np.stack([frame.saliency for frame in expected]), atol=1e-3)
        np.testing.assert_allclose(data["timestamps"], np.arange(24) / 25)
    # The table is the one that the command writes.
    assert Path(table).name == "Mein Clip_table.csv"
    monkeypatch.chdir(tmp_path)
    part = ["--duration", "10", "--format", "csv", "--model", str(model_folder), "--device", "cpu"]
    assert cli.main(["predict", str(long_clip), *part, "-o", "table.csv"]) == 0
    rows, told = (list(csv.DictReader(Path(file).read_text().splitlines())) for file in (table, "table.csv"))
    assert tuple(rows[0]) == COLUMNS
    for row, same in zip(rows, told, strict=True):
        assert [float(row[name]) for name in COLUMNS] == pytest.approx(
            [float(same[name]) for name in COLUMNS], abs=1e-3
        )
    assert "All 1 s, 24 frames" in words
    assert "The red line is where most look" in words
    assert f"Made with **{model_folder.name}**" in words
    assert "not the SalFoM paper's weights" in words
    assert Image.open(path).width == attention.WIDEST + 8 + attention.TIME_SIDE


def test_a_part_of_a_video(client, model_folder, long_clip):
    results = predict(client, long_clip, start=0.4, length=0.5, stride=3)
    assert results[5].startswith("From 0.4 s on, the last 0.5 s, 13 frames.")
    # 0.4, 0.44 … 0.88 s
    assert len(pictures(results[0])) == 13
    with np.load(results[3]) as data:
        predictor = SaliencyPredictor.from_pretrained(model_folder, stride=3)
        np.testing.assert_allclose(data["maps"], predictor.predict(long_clip, 0.4, 0.5), atol=1e-3)


def test_of_a_video_that_breaks_off_all_that_is_there_is_shown(client, server, tmp_path):
    data = write_clip(tmp_path / "whole.mkv", frames=100, sound=False).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) // 2])
    there = list(frames_there(cut))
    assert 30 < len(there) < 70
    over, *_, words, path = predict(client, cut, stride=4)
    assert len(pictures(over)) == len(there)
    assert re.match(r"⚠️ cut\.mkv breaks off after [12]\.\d\d s; [^\n]*\n\n0 to [12](\.\d)? s, \d\d frames\.\n", words)
    assert Path(path).is_file()
    # What ends before is whole; what begins afterwards is not there.
    assert "breaks off" not in predict(client, cut, length=0.5)[5]
    with pytest.raises(AppError, match=r"^cut\.mkv breaks off after .* s; "):
        predict(client, cut, start=3.5)
    assert "Traceback" not in server.log.read_text()


def test_the_model_is_chosen(client, clip):
    """One next to that of the command: the weights of the package."""
    *_, maps, _, words, _ = predict(client, clip, model="salfom")
    expected = SaliencyPredictor.from_pretrained("salfom").predict(clip)
    np.testing.assert_allclose(np.load(maps)["maps"], expected, atol=2e-3)
    assert "Made with **salfom**" in words


def test_a_large_video_is_shown_smaller(client, tmp_path):
    clip = write_clip(tmp_path / "large.mp4", frames=2, height=602, width=1204, sound=False)
    over, _, both, maps, *_ = predict(client, clip)
    assert (probe(over).width, probe(over).height, probe(both).width) == (960, 480, 1920)
    with np.load(maps) as data:
        assert data["maps"].shape == (2, 192, 384)


def test_a_picture(client, model_folder, tmp_path):
    image = noise(1, 60, 80)[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    *shown, maps, table, words = client.predict(
        image=handle_file(tmp_path / "a.png"), colormap="gray", api_name="/predict_image"
    )
    sizes = [(80, 60), (80, 60), (160, 60)]
    assert [Image.open(path).size for path in shown] == sizes
    saliency = SaliencyPredictor.from_pretrained(model_folder).predict(image[None])[0]
    shown_map = np.array(Image.open(shown[1]).convert("L")).astype(int)
    assert np.abs(shown_map - heatmap(saliency, "gray")[..., 0]).max() <= 1
    assert np.load(maps)["maps"].shape == (1, 60, 80)
    assert len(Path(table).read_text().splitlines()) == 2
    assert "Where the eyes go" in words
    assert "red line" not in words
    assert "frame" not in page.legend("turbo", "picture")


@pytest.mark.parametrize("make", [playlist, concatenation, broken, text, long_picture])
def test_broken_uploads_get_one_sentence(client, server, tmp_path, clip, make):
    make(tmp_path / "bad.mp4", clip)
    with pytest.raises(AppError) as error:
        predict(client, tmp_path / "bad.mp4")
    assert re.fullmatch(r"[^\n]*bad\.mp4[^\n]*[.]", str(error.value))
    assert str(server.temporary) not in str(error.value)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (text, "bad.png", "holds no picture"),
        (truncated, "bad.jpg", "cut off"),
        (bomb, "bad.png", "too many pixels"),
        (long_picture, "bad.png", "16×100000 pixels"),
        (pages_of, "bad.tif", "several pages"),
        (truncated, ".jpg", "such as photo.jpg"),
        (postscript, "bad.png", "holds no picture"),
        (text, "bad.svg", "JPEG or PNG"),
        (text, "bad.HEIC", "convert it to JPEG"),
    ],
)
def test_bad_pictures_get_one_sentence(client, server, tmp_path, make, name, words):
    make(tmp_path / name, None)
    with pytest.raises(AppError) as error:
        client.predict(image=handle_file(tmp_path / name), api_name="/predict_image")
    assert re.fullmatch(rf"[^\n]*{re.escape(name)}[^\n]*[.]", str(error.value))
    assert re.search(words, str(error.value))
    assert str(server.temporary) not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 31}, "30"),
        ({"start": 99}, "choose another range"),
        ({"start": -1}, "0"),
        ({"start": None}, "Give a value for Start"),
        ({"stride": "fast"}, "Give a number for Speed"),
        ({"length": [5]}, "Give a number for Length"),
        ({"start": True}, "Give a number for Start"),
        ({"colormap": 5}, "Give text for Colours"),
        ({"colormap": None}, "Give a value for Colours"),
        ({"colormap": "pink"}, "pink"),
        ({"model": "/etc"}, "/etc"),
    ],
)
def test_bad_options_get_one_sentence(client, clip, options, words):
    with pytest.raises(AppError, match=words):
        predict(client, clip, **options)


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("api", ["predict_video", "predict_image"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "values: Your "),
        ([FILE], "values: Your "),
        ([{"path": "/etc/passwd"}, *"123456"], "such as `handle_file` makes"),
        ([{"path": 5}, *"123456"], "such as `handle_file` makes"),
        (["/etc/passwd", *"123456"], "such as `handle_file` makes"),
    ],
)
def test_wrong_requests_get_one_sentence(server, api, data, words):
    assert words in call_api(server, api, *data)


def test_large_uploads_are_refused(server):
    answer = httpx.post(
        f"{server.url}/gradio_api/upload", files={"files": ("big.mp4", bytes(runs.MAX_BYTES + 1))}, timeout=300
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["upload", "call/predict_video", "queue/join"])
def test_large_requests_are_refused(server, path):
    """Of many files, or of anything else."""
    address = httpx.URL(f"{server.url}/gradio_api/{path}")
    with socket.create_connection((address.host, address.port), timeout=300) as connection:
        head = f"POST {address.path} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: {runs.MAX_BYTES + 2**20 + 1}"
        connection.sendall(f"{head}\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"413"


def test_a_request_may_not_hide_its_size(server):
    def parts():
        for number in range(3):
            name = f'Content-Disposition: form-data; name="files"; filename="{number}.mp4"'
            yield f"--part\r\n{name}\r\n\r\n".encode()
            yield bytes(40 * 2**20) + b"\r\n"
        yield b"--part--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=part"}
    answer = httpx.post(f"{server.url}/gradio_api/upload", content=parts(), headers=headers, timeout=300)
    assert answer.status_code == 413
    assert not [path for path in server.uploads.iterdir() if path.is_file()]


def test_an_upload_that_breaks_off_leaves_nothing(server):
    address = httpx.URL(f"{server.url}/gradio_api/upload")
    head = f"POST {address.path} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 50000000\r\n"
    head += "Content-Type: multipart/form-data; boundary=part\r\n\r\n"
    name = 'Content-Disposition: form-data; name="files"; filename="a.mp4"'

    def written():
        return [path for path in server.uploads.iterdir() if path.is_file()]

    with socket.create_connection((address.host, address.port), timeout=300) as connection:
        connection.sendall(f"{head}--part\r\n{name}\r\n\r\n".encode() + bytes(2**20))
        wait_until(lambda: len(written()) == 1)
    wait_until(lambda: not written())


@pytest.mark.parametrize("service", ["process_recording", "component_server", "component_server/", "deep_link"])
def test_services_that_the_page_does_not_need_are_refused(server, service):
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{server.url}/gradio_api/{service}?session_hash=a")
        assert (answer.status_code, answer.text) == (403, "This page has no such service.")


def test_other_files_cannot_be_reached(client, server, clip, model_folder):
    def named(path):
        """As if it had been uploaded."""
        return call_api(server, "predict_video", FILE | {"path": str(path)}, str(model_folder), 0, 1, 1, "turbo", 0.7)

    predict(client, clip, length=0.5)
    cache = server.uploads
    # Nothing else has been left on the disk.
    assert list(server.temporary.glob("**/lock")) == [cache.parent / "lock"]
    assert {path.name for path in cache.parent.iterdir()} == {"gradio", "lock"}
    known = next(cache.rglob("clip.mp4"))
    assert "event: complete" in named(known)
    for path in ("/etc/passwd", model_folder / "config.json", server.log, cache, known.parent):
        assert httpx.get(f"{server.url}/gradio_api/file={path}").status_code == 403
        assert "upload" in named(path)
    # Its address is as good as a password: a hash of what is in the file.
    assert re.fullmatch(r"[0-9a-f]{64}", known.parent.name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM.")
def test_uploads_go_when_the_page_ends_and_those_of_a_killed_one_when_the_next_one_starts(
    model_folder, clip, tmp_path
):
    """What a kill leaves is in tests/test_files.py."""
    left = tmp_path / "temporary" / ".salfom-left" / "gradio"
    left.mkdir(parents=True)
    with serving(tmp_path, "--model", str(model_folder)) as running:
        assert not left.parent.exists()
        predict(Client(running.url, verbose=False, download_files=tmp_path), clip)
        assert any(path.is_file() for path in running.uploads.rglob("*"))
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)
        assert not list(running.temporary.glob(".salfom-*"))


def test_files_go_when_they_are_old_and_when_the_page_stops(model_folder, clip, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))

    def fails():
        raise MemoryError

    def files():
        return {path.suffix for path in cache.rglob("*") if path.is_file()}

    # Half of it transparent: what is beneath is not looked at.
    pixels = np.dstack([noise(1)[0], np.repeat(np.uint8([[0, 255]]), 48, axis=1).repeat(64, axis=0)])
    clear = tmp_path / "transparent.png"
    Image.fromarray(pixels).save(clear)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.jpg")
    models = {"tiny": lambda: SaliencyPredictor.from_pretrained(model_folder), "bad": fails}
    with shown(models, tmp_path) as (made, _, visitor):
        assert made.delete_cache == (600, 3600)
        predict(visitor, clip)
        with pytest.raises(AppError, match=r"^Cannot load this model; choose another\.$"):
            predict(visitor, clip, model="bad")
        with pytest.raises(gradio.Error, match="Out of memory"), pages.in_one_sentence("a.mp4"):
            fails()
        over, *_ = visitor.predict(image=handle_file(clear), opacity=0, api_name="/predict_image")
        seen = pixels[..., :3] * (pixels[..., 3:] > 0)
        np.testing.assert_array_equal(np.array(Image.open(over).convert("RGB")), seen)
        visitor.predict(image=handle_file(tmp_path / "grey.jpg"), api_name="/predict_image")
        assert files() >= {".mp4", ".npz", ".csv", ".png", ".jpg"}
    assert not files()


def test_no_address_is_fetched(client, server, clip, model_folder):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(clip.read_bytes())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, args=(0.05,)).start()
        try:
            # Gradio itself refuses the first, for it names this machine, but not the second.
            for host in (f"127.0.0.1:{other.server_port}", "huggingface.co"):
                address = f"https://{host}/a.mp4"
                for name, source in (("video", address), ("image", f"http://{host}/a.png")):
                    with pytest.raises(AppError, match="upload the file itself"):
                        client.predict(**{name: handle_file(source)}, api_name=f"/predict_{name}")
                for path in (f"file={address}", f"file/{address}", f"file={quote(address, safe='')}"):
                    answer = httpx.get(f"{server.url}/gradio_api/{path}")
                    assert (answer.status_code, answer.text) == (403, "This page fetches no addresses.")
        finally:
            other.shutdown()
    assert not asked
    # Nor are files taken that come as part of an address: no bound of uploads holds for them.
    uploaded = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("a.png", b"no picture")}).json()[0]
    source = FILE | {"path": uploaded, "url": "data:image/png;base64,AAAA"}
    assert "upload the file itself" in call_api(server, "predict_image", source, str(model_folder), "turbo", 0.7)


def test_who_waits_sees_progress_and_a_full_queue_is_told(model_folder, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(pages, "MAX_QUEUE", 1)
    begun, go_on = threading.Event(), threading.Event()
    original = runs.Demo.maps

    def slow(*arguments):
        arguments[-1].report(1, 6, "Looking at frame")
        begun.set()
        assert go_on.wait(60)
        return original(*arguments)

    monkeypatch.setattr(runs.Demo, "maps", slow)
    with shown({"tiny": lambda: SaliencyPredictor.from_pretrained(model_folder)}, tmp_path) as (made, url, visitor):
        try:
            options = {"video": handle_file(clip), "api_name": "/predict_video"}
            jobs = [visitor.submit(**options)]
            assert begun.wait(60)
            # Meanwhile, how far it has come.
            wait_until(lambda: jobs[0].status().progress_data)
            (progress,) = jobs[0].status().progress_data
            assert (progress.index, progress.length, progress.desc) == (1, 6, "Looking at frame")
            jobs.append(visitor.submit(**options))
            wait_until(lambda: len(made._queue))
            told = httpx.post(f"{url}gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "late"})
            assert told.status_code == 429
            assert told.json()["detail"] == "1 people are waiting already; come back in about 1 minutes."
            assert told.headers["retry-after"] == "60"
            go_on.set()
            assert all("6 frames" in job.result(60)[5] for job in jobs)
        finally:
            go_on.set()


@pytest.mark.parametrize("stage", ["decoding", "looking"])
def test_a_run_whose_visitor_left_stops(model_folder, clip, tmp_path, monkeypatch, stage):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    begun, ended = threading.Event(), threading.Event()

    def endless(work):
        try:
            while True:
                work()
                begun.set()
                time.sleep(0.05)
        finally:
            ended.set()

    def decoding(path, start, length, check):
        """What comes before the start of the part, without end."""
        endless(lambda: check(96, 64))
        yield

    if stage == "looking":
        monkeypatch.setattr(
            runs.Demo, "maps", lambda *args: endless(lambda: args[-1].report(1, 6, "Looking at frame"))
        )
    else:
        monkeypatch.setattr(runs, "read_frames", decoding)
    with shown({"tiny": lambda: SaliencyPredictor.from_pretrained(model_folder)}, tmp_path) as (_, url, _):
        (path,) = httpx.post(f"{url}gradio_api/upload", files={"files": ("a.mp4", clip.read_bytes())}).json()
        address = f"{url}gradio_api/call/predict_video"
        options = [FILE | {"path": path}, "tiny", 0, 1, 1, "turbo", 0.7]
        event = httpx.post(address, json={"data": options}).json()["event_id"]
        with httpx.stream("GET", f"{address}/{event}", timeout=60):
            assert begun.wait(60)
            assert not ended.wait(1)
        assert ended.wait(60)


def test_memory_stays_level_and_all_of_a_crowd_are_answered(server, tmp_path):
    """At small size: `python tests/demo_load.py` makes 200 requests and the largest ones."""
    first, last = demo_load.levels(server, tmp_path, 10, begin=5, large=False)
    assert last < 1.3 * first
    assert demo_load.crowd(server, tmp_path, 4) == ["served"] * 4
    with demo_load.Peak(server.process.pid) as peak:
        picture = demo_load.write_picture(tmp_path / "square.png", 3000, 3000)
        assert demo_load.ask(server.url, tmp_path, {"image": picture}) == "served"
    assert peak.most < last + 0.4


# The command, the Space, the documents.


def test_a_busy_port_another_host_and_a_missing_model_are_one_sentence(model_folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.main(["demo", "--model", str(model_folder), "--device", "cpu", "--port", port]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"salfom: Cannot serve at 127.0.0.1, port {port}; choose another --port or --host."
    )
    assert cli.main(["demo", "--model", str(model_folder), "--device", "cpu", "--host", "192.0.2.1"]) == 2
    assert capsys.readouterr().err == "salfom: Cannot serve at 192.0.2.1; choose another --port or --host.\n"
    assert cli.main(["demo", "--model", "nowhere", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("salfom: Cannot load the model 'nowhere'")


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("salfom_hf.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    assert 'pip install -c constraints.txt ".[demo]"' in capsys.readouterr().err


def test_the_space():
    card = SpaceCard.load(SPACE / "README.md").data.to_dict()
    assert {"title", "emoji", "colorFrom", "colorTo", "python_version"} <= set(card)
    assert (card["sdk"], card["license"]) == ("gradio", "apache-2.0")
    assert f"gradio=={card['sdk_version']}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    # ZeroGPU has no other version of Python that current transformers run on.
    assert card["python_version"] == "3.12"
    # The Hub refuses longer ones.
    assert len(card["short_description"]) <= 60
    specification = importlib.util.spec_from_file_location("space_app", SPACE / card["app_file"])
    app = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(app)
    assert [fn.api_name for fn in app.demo.fns.values() if fn.api_visibility == "public"] == [
        "predict_video",
        "predict_image",
    ]


def test_the_cards_of_models(model_folder, tmp_path):
    assert page.card("salfom").lstrip().startswith("# salfom")
    # The page cannot show what lies next to a card.
    assert "failure-cases.jpg" not in page.card("salfom")
    assert "has no card" in page.card(str(model_folder))
    assert "https://huggingface.co/org/name" in page.card("org/name")
    still = runs.Maps(runs.Part("salfom", "a.png"), None, np.zeros((1, 16, 16)), [Fraction(0)], peaks((0.5, 0.5)))
    assert "*not* the weights of the SalFoM paper" in page.explanation(still)
    still = still._replace(part=runs.Part(str(model_folder), "a.png"))
    assert str(model_folder.parent) not in page.explanation(still)


def test_the_documents_example(server, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "walk.mp4")
    Image.fromarray(noise(1)[0]).save("photo.jpg")
    document = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", document, flags=re.DOTALL)[1]
    namespace = {}
    exec(code.replace('"http://127.0.0.1:7860"', f'"{server.url}", download_files="downloads"'), namespace)
    assert namespace["maps"].shape == (6, 64, 96)
    with av.open(namespace["overlay"]) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_the_documents_state_the_bounds():
    document = " ".join((ROOT / "docs" / "demo.md").read_text(encoding="utf-8").split())
    for bound in (
        f"{runs.MAX_BYTES >> 20} MB",
        f"{runs.MAX_PIXELS // 10**6} megapixels",
        f"{runs.MAX_FRAME_PIXELS // 10**6} megapixels",
        f"{runs.MAX_SIDE} pixels",
        f"{runs.MAX_ASPECT} times",
        f"{runs.MAX_SECONDS} seconds",
        f"{runs.MAX_FRAMES} frames",
        f"{runs.MAX_TIME // 60} minutes",
        f"{pages.MAX_QUEUE} people",
    ):
        assert bound in document
