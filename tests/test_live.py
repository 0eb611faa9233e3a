"""Live video: the rule by which frames are dropped, and the command on sources that play at their own speed."""

import http.client
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import noise, run_command, tiny_model, write_clip, write_tone
from demo_server import PATIENCE
from numbered_video import number_of, numbered
from salfom_hf import EfficientNetLiteConfig, SalFoMVideoProcessor, SaliencyPredictor, VideoError, cli
from salfom_hf.inference import live, predictor
from salfom_hf.inference.live import LiveFrame, PictureServer, Reader, Slot, predict_live
from salfom_hf.inference.live.source import address_of, on_one_clock
from test_docs import run_commands, run_python, small  # noqa: F401

HEIGHT, WIDTH, RATE = 64, 96, 25
NUMBERS = 1024  # of pictures that differ
VIDEO = noise(11)


def frame_at(time):
    return LiveFrame(None, Fraction(time).limit_denominator(1000), 0.0)


def times(slot):
    """What is left in a closed slot."""
    return [float(frame.timestamp) for frame in iter(slot.take, None)]


# The slot.


def test_what_came_before_the_beginning_is_neither_shown_nor_counted():
    slot = Slot(2)
    for index in range(9):
        slot.put(frame_at(index))
    slot.begin()
    slot.put(frame_at(9))
    assert (slot.take().timestamp, slot.dropped) == (8, 0)
    slot.put(frame_at(12))
    slot.close()
    assert (times(slot), slot.dropped) == ([12], 1)


@pytest.mark.parametrize(("latency", "frames_per_step"), [(0.1, 1), (0.1, 2), (0.1, 40), (0, 5)])
def test_a_slow_taker_is_behind_by_the_latency_at_most_and_gets_the_last_frame(latency, frames_per_step):
    """As many frames come while one is processed; nothing here depends on a clock."""
    slot, lags, shown = Slot(latency), [], []
    slot.begin()
    for index in range(400):
        slot.put(frame_at(index / 25))
        if index % frames_per_step == 0:
            shown.append(slot.take().timestamp)
            lags.append(Fraction(index, 25) - shown[-1])
    slot.close()
    shown += [frame.timestamp for frame in iter(slot.take, None)]
    assert max(lags) <= latency
    assert shown == sorted(set(shown))
    assert shown[-1] == Fraction(399, 25)
    assert slot.dropped == 400 - len(shown)
    assert (slot.dropped > 0) == (frames_per_step > 1)


def test_taking_waits_for_a_frame_the_end_or_a_stop():
    slot = Slot(0.1)
    threading.Timer(0.2, slot.put, [frame_at(3)]).start()
    assert slot.take().timestamp == 3
    asked = []
    assert slot.take(lambda: asked.append(1) or len(asked) >= 3) is None
    slot.put(frame_at(4))
    assert slot.take(lambda: True) is None
    assert slot.take().timestamp == 4
    threading.Timer(0.2, slot.close).start()
    assert slot.take() is None


# Times.


def clocked(*readings, jump=10):
    frames = [(None, None if time is None else Fraction(time), arrived) for time, arrived in readings]
    return [float(frame.timestamp) for frame in on_one_clock(frames, jump)]


def test_a_sources_clock_is_kept_however_its_frames_arrive_and_ours_where_it_fails():
    # From 1.4 s, as MPEG-TS begins, at a varying rate, in bursts; and a recording's long gap.
    seconds = ["1.4", "1.44", "1.45", "2.4", "6.4"]
    assert clocked(*zip(seconds, [50, 50, 50, 90, 90], strict=True)) == pytest.approx([0, 0.04, 0.05, 1.0, 5.0])
    assert clocked(("0", 0), ("500", 0.1), jump=float("inf")) == [0, 500]
    # No time, the same, an earlier one, and one far in the future; then it goes on from there.
    for bad, after in ((None, None), ("5", "5.25"), ("2", "2.25"), ("9000", "9000.25")):
        found = clocked(("4", 10.0), ("5", 11.0), (bad, 11.5), (after, 11.75))
        assert found == pytest.approx([0, 1, 1.5, 1.75])
    at_once = clocked(*[("3", 1.0)] * 5)
    assert at_once == sorted(set(at_once))


def test_a_recording_plays_at_its_own_speed(clip):
    slot = Slot(100)
    reader = Reader(str(clip), slot)
    first = reader.wait()
    assert (first.timestamp, reader.frame_rate) == (0, 25)
    time.sleep(0.1)
    begin = time.monotonic()  # The model is loaded, and only now is the video to start.
    reader.start()
    frames = list(iter(slot.take, None))
    assert [frame.timestamp for frame in frames] == [Fraction(index, 25) for index in range(6)]
    for frame in frames:
        assert frame.arrived >= begin + float(frame.timestamp) - 0.01
    assert reader.error is None


# Sources.


@pytest.mark.parametrize(
    ("platform", "source", "url", "kind"),
    [
        ("linux", "0", "/dev/video0", "v4l2"),
        ("linux", "/dev/video2", "/dev/video2", "v4l2"),
        ("darwin", "1", "1:none", "avfoundation"),
        ("win32", "1", "video=Second", "dshow"),
        ("win32", "video=Any", "video=Any", "dshow"),
        ("linux", "rtsp://a/b", "rtsp://a/b", None),
        ("linux", "walk: 1.mp4", "file:walk: 1.mp4", None),
    ],
)
def test_what_a_source_means(monkeypatch, platform, source, url, kind):
    device = type("Device", (), {"media_types": ["video"]})
    devices = [device(), device()]
    devices[0].description, devices[1].description = "First", "Second"
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "enumerate_input_devices", lambda kind: devices, raising=False)
    address = address_of(source)
    assert (address.url, address.format) == (url, kind)


# Windows and figures.


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_are_of_the_frames_that_were_processed(framewise_model, processor, stride):
    processed = [0, 1, 4, 5, 9, 10]
    frames = [
        LiveFrame(av.VideoFrame.from_ndarray(VIDEO[index]), Fraction(index, 30), float(index)) for index in processed
    ]
    predictor = SaliencyPredictor(framewise_model, processor, stride, batch_size=1)
    expected = predictor.predict(VIDEO[processed])
    found = list(predict_live(predictor, frames, VIDEO.shape[1:3]))
    assert [(frame.timestamp, arrived) for frame, arrived in found] == [(Fraction(i, 30), i) for i in processed]
    np.testing.assert_array_equal([frame.image for frame, _ in found], VIDEO[processed])
    np.testing.assert_allclose([frame.saliency for frame, _ in found], expected, atol=1e-5)


def test_each_map_comes_before_the_next_frame_is_asked_for(framewise_model, processor):
    asked = []

    def endless():
        for index in itertools.count():
            asked.append(index)
            yield LiveFrame(av.VideoFrame.from_ndarray(VIDEO[index % 11]), Fraction(index), 0.0)

    found = predict_live(SaliencyPredictor(framewise_model, processor, batch_size=1), endless(), VIDEO.shape[1:3])
    ahead = []
    for frame, _ in itertools.islice(found, 8):
        ahead.append(asked[-1] - frame.timestamp)
    assert ahead == [1, *[0] * 7]


def test_a_line_on_a_terminal_tells_of_the_last_second(monkeypatch, capsys):
    now = itertools.count(0, 0.5)
    monkeypatch.setattr(cli.live.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    slot = Slot(0)
    status = cli.live.Status(slot)
    assert status.told() == "no frames"
    for shown in (0, 0.5, 1, 1.5, 2, 2.5):
        slot.dropped += 2
        status.shown(shown - 0.02 * (1 + shown))
    status.finish(" -> out.mp4")
    first, second, last = capsys.readouterr().err.replace("\033[K", "").lstrip("\r").split("\r")
    assert first == "2.0 frames/s, latency 30 ms (median) to 40 ms (maximum), 6 dropped"
    assert second == "2.0 frames/s, latency 60 ms (median) to 70 ms (maximum), 12 dropped"
    assert last == (
        "6 frames in 2.5 s, 12 dropped; 2.0 frames/s, latency 40 ms (median) to 70 ms (maximum) -> out.mp4\n"
    )


# The page.


def read_jpegs(address):
    """Number and time of each picture that a page shows, as it comes."""
    connection = http.client.HTTPConnection(*address.removeprefix("http://").split(":"), timeout=PATIENCE)
    connection.request("GET", "/live.mjpg")
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=picture"
    assert response.readline() == b"--picture\r\n"
    while response.readline() == b"Content-Type: image/jpeg\r\n":
        length = int(response.readline().removeprefix(b"Content-Length: "))
        assert response.readline() == b"\r\n"
        picture = np.asarray(Image.open(BytesIO(response.read(length))))
        arrived = time.monotonic()
        # The next boundary comes at once: a browser shows the picture only then.
        assert response.readline() + response.readline() == b"\r\n--picture\r\n"
        yield number_of(picture), arrived


def test_a_page_shows_the_newest_picture_and_the_last_one():
    with PictureServer(port=0) as server:
        server.write(numbered(1), Fraction(0))
        server.write(numbered(2), Fraction(1))
        pictures = read_jpegs(server.address)
        assert next(pictures)[0] == 2
        server.write(numbered(3), Fraction(2))
        assert next(pictures)[0] == 3
        server.write(numbered(4), Fraction(3))
    assert [number for number, _ in pictures] == [4]
    with pytest.raises(ConnectionRefusedError):
        next(read_jpegs(server.address))


def test_a_page_answers_only_to_this_machine_under_its_own_names():
    with PictureServer(port=0) as server:
        for name, path, status in (("127.0.0.1", "/", 200), ("localhost", "/none", 404), ("evil.example", "/", 403)):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            connection.request("GET", path, headers={"Host": f"{name}:{server.port}"})
            response = connection.getresponse()
            assert (response.status, b"live.mjpg" in response.read()) == (status, status == 200)
        # Another address of this machine, as the network sees it.
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", server.port))
        with pytest.raises(VideoError, match="choose another --serve PORT"):
            PictureServer(port=server.port)


# The command.


class Player(threading.Thread):
    """
    Plays numbered pictures at their own speed into a file or socket, until asked to finish.

    Attributes:
        sent: when each picture was sent, in seconds.
    """

    def __init__(self, file, rate=RATE, kind="mpegts"):
        super().__init__(daemon=True)
        self.file, self.rate, self.kind, self.sent, self.finish = file, rate, kind, [], threading.Event()
        self.start()

    def run(self):
        with suppress(ConnectionError, av.FFmpegError), self.file, av.open(self.file, "w", format=self.kind) as output:
            options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "5"}
            stream = output.add_stream("libx264", rate=self.rate, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.gop_size = 10
            begin = time.monotonic()
            while not self.finish.is_set():
                time.sleep(max(0, begin + len(self.sent) / self.rate - time.monotonic()))
                picture = numbered(len(self.sent) % NUMBERS, WIDTH, HEIGHT)
                self.sent.append(time.monotonic())
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            output.mux(stream.encode(None))


@contextmanager
def sending(**options):
    """The address of a source, and a list that holds its player once somebody has connected."""
    players = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with suppress(OSError):
                players.append(Player(server.accept()[0].makefile("wb", buffering=0), **options))

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}", players
        for player in players:
            player.finish.set()


@pytest.fixture(scope="module")
def flat_folder(tmp_path_factory):
    """A model whose maps are constant, so that the overlay is the picture itself."""
    encoder = EfficientNetLiteConfig(stem_channels=8, stage_channels=(8,) * 7, stage_depths=(1,) * 7)
    model = tiny_model(encoder, decoder_hidden_size=8, output_stride=4)
    with torch.no_grad():
        model.fusion.convolutions[-1].weight.zero_()
    folder = tmp_path_factory.mktemp("flat") / "model"
    model.save_pretrained(folder)
    SalFoMVideoProcessor(size={"height": HEIGHT, "width": WIDTH}, num_frames=4).save_pretrained(folder)
    return folder


@contextmanager
def running(folder, *arguments):
    """The command as a process, whose messages go to a file next to it."""
    command = [sys.executable, "-m", "salfom_hf.cli", "live", *map(str, arguments), "--device", "cpu"]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def pictures_in(file, **options):
    """(timestamp, number) of each picture of a video."""
    with av.open(file, **options) as container:
        stream = container.streams.video[0]
        return [(frame.pts * frame.time_base, number_of(frame.to_ndarray(format="rgb24"))) for frame in
                container.decode(stream)]  # fmt: skip


def assert_true_times(pictures):
    """Pictures are as far apart in time as they were when they were sent."""
    assert len(pictures) > 1
    for (before, first), (after, second) in itertools.pairwise(pictures):
        assert round((after - before) * RATE) % NUMBERS == (second - first) % NUMBERS
        assert abs(float(after - before) * RATE - round((after - before) * RATE)) < 0.1


def test_a_slow_model_stays_close_behind_its_source(tmp_path, salfom_live, flat_folder, monkeypatch):
    seen, original = [], predictor.saliency_maps

    def slow(*arguments, **options):
        for saliency in original(*arguments, **options):
            time.sleep(0.1)
            yield saliency

    def watched(*arguments):
        server = PictureServer(*arguments)
        watcher.append(threading.Thread(target=watch, args=[server.address]))
        watcher[0].start()
        return server

    def watch(address):
        for number, arrived in read_jpegs(address):
            # What is shown now was sent less than half a round of numbers ago.
            sent = players[0].sent
            index = len(sent) - 1 - (len(sent) - 1 - number) % NUMBERS
            seen.append((index, arrived - sent[index], arrived))
            if len(sent) > seen[0][0] + 3 * RATE:
                players[0].finish.set()

    watcher = []
    monkeypatch.setattr(predictor, "saliency_maps", slow)
    monkeypatch.setattr(live, "PictureServer", watched)
    with sending() as (url, players):
        code, said = salfom_live(url, "--serve", 0, "-o", tmp_path / "out.mkv", model=flat_folder)
    assert code == 0, said
    watcher[0].join(PATIENCE)
    indices, lags, arrivals = zip(*seen, strict=True)
    longest = max(b - a for a, b in itertools.pairwise(arrivals))
    # Ten frames a second of 25: without dropping, the last of them would be three seconds late.
    assert max(lags) < 0.1 + 4 * longest + 1
    assert list(indices) == sorted(set(indices))
    assert indices[-1] == len(players[0].sent) - 1
    written = pictures_in(str(tmp_path / "out.mkv"))
    assert written[0][0] == 0
    assert written[-1][1] == indices[-1] % NUMBERS
    assert_true_times(written)
    shown, dropped = len(written), round(float(written[-1][0]) * RATE) + 1 - len(written)
    assert dropped > shown
    assert said.splitlines()[-1].startswith(f"{shown} frames in ")
    assert f", {dropped} dropped; " in said


def test_a_model_that_keeps_up_drops_nothing(tmp_path, flat_folder):
    """With ten seconds of patience, any machine keeps up with 5 frames per second."""
    with running(tmp_path, "-", "--model", flat_folder, "-o", "-", "--latency", 10) as process:
        player = Player(process.stdin, rate=5, kind="matroska")
        first = process.stdout.read(188)
        threading.Timer(3, player.finish.set).start()
        written = pictures_in(BytesIO(first + process.stdout.read()), format="mpegts")
        assert process.wait(PATIENCE) == 0
    numbers = [number for _, number in written]
    assert len(numbers) > 3
    assert numbers == [index % NUMBERS for index in range(len(player.sent) - len(numbers), len(player.sent))]
    assert [float(time - written[0][0]) for time, _ in written] == pytest.approx(
        [index / 5 for index in range(len(numbers))], abs=0.002
    )
    assert f"{len(numbers)} frames in " in (tmp_path / "log.txt").read_text()
    assert ", 0 dropped; " in (tmp_path / "log.txt").read_text()


@pytest.fixture
def salfom_live(model_folder, capfd):
    def run(*arguments, model=model_folder):
        code, said = run_command(capfd, "live", *arguments, "--model", model, "--device", "cpu")
        return code, said.err

    return run


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "out.mp4"), (signal.SIGTERM, "out.mkv")])
def test_a_signal_leaves_a_complete_file(tmp_path, salfom_live, flat_folder, monkeypatch, number, name):
    shown = cli.live.Status.shown

    def interrupting(self, arrived):
        shown(self, arrived)
        if len(self.times) == 5:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(cli.live.Status, "shown", interrupting)
    with sending() as (url, _):
        assert salfom_live(url, "-o", tmp_path / name, model=flat_folder)[0] == 0
    written = pictures_in(str(tmp_path / name))
    assert len(written) >= 5
    assert_true_times(written)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("silent", [False, True])
def test_a_stream_that_breaks_leaves_a_complete_file(tmp_path, salfom_live, monkeypatch, silent):
    if silent:
        monkeypatch.setattr(live.source, "SILENCE", 3)
    with sending() as (url, players):
        monkeypatch.setattr(live, "warm_up", lambda *_: threading.Timer(0.5, stop).start())

        def stop():
            """Go away without a word, or stay and say nothing."""
            if silent:
                monkeypatch.setattr(players[0], "sent", PlayedOut(players[0].sent))
            else:
                players[0].finish.set()

        code, said = salfom_live(url, "-o", tmp_path / "out.mkv")
    assert code == (2 if silent else 0)
    assert f"-> {tmp_path / 'out.mkv'}" in said
    assert ("nothing came for 3 s" in said.splitlines()[-1]) == silent
    assert len(pictures_in(str(tmp_path / "out.mkv"))) > 1


class PlayedOut(list):
    """Makes a player wait for ever before its next picture."""

    def append(self, _):
        threading.Event().wait()


def test_what_is_sent_on_arrives_as_long_as_asked_for(salfom_live, clip):
    received = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def receive():
            with server.accept()[0].makefile("rb") as file:
                received.append(file.read())

        thread = threading.Thread(target=receive)
        thread.start()
        options = ["--duration", "0.16", "-o", f"tcp://127.0.0.1:{server.getsockname()[1]}"]
        code, said = salfom_live(clip, "--latency", 100, *options)
        assert code == 0, said
        thread.join(PATIENCE)
    with av.open(BytesIO(received[0]), format="mpegts") as container:
        stamps = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert [float(stamp - stamps[0]) for stamp in stamps] == pytest.approx([i / 25 for i in range(4)], abs=0.001)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/dev/video99"], "Cannot open the camera /dev/video99"),
        (["tcp://me:secret@127.0.0.1:9"], "Cannot open tcp://127.0.0.1:9"),
        (["nonsense://there"], "Cannot open nonsense://there"),
        (["none.mp4"], "Cannot open none.mp4"),
        (["text.mp4"], "Cannot open text.mp4"),
        (["tone.mp4"], "no video"),
        (["small.mp4"], "16x16"),
        (["clip.mp4", "-o", "out.avi"], ".mkv"),
        (["clip.mp4", "-o", "taken.mp4"], "--overwrite"),
        (["clip.mp4", "-o", "nonsense://there"], "Cannot write to nonsense://there"),
        (["clip.mp4", "-o", "tcp://127.0.0.1:9"], "Cannot write to tcp://127.0.0.1:9"),
        (["clip.mp4", "--serve", "0", "--host", "256.0.0.1"], "--host"),
        (["clip.mp4", "--latency", "-1"], "--latency"),
        (["clip.mp4", "--batch-size", "4"], "--batch-size"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(tmp_path, salfom_live, clip, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "clip.mp4")
    (tmp_path / "taken.mp4").write_text("precious")
    (tmp_path / "text.mp4").write_text("This is no video.\n" * 50)
    write_tone("tone.mp4")
    write_clip("small.mp4", frames=2, height=8, width=8, sound=False)
    before = sorted(os.listdir())
    output = [] if len(arguments) > 1 else ["-o", "out.mp4"]
    code, said = salfom_live(*arguments, *output)
    assert code == 2
    assert words in said
    assert "secret" not in said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("salfom")
    assert sorted(os.listdir()) == before
    assert (tmp_path / "taken.mp4").read_text() == "precious"


def test_the_page_of_the_documentation(small):  # noqa: F811
    shutil.copy("talk.mp4", "walk.mp4")
    run_commands("live.md", {"salfom live 0": "salfom live walk.mp4 --serve 0"})
    assert set(os.listdir()) == {"talk.mp4", "walk.mp4", "shown.mkv", "shown.mp4"}
    assert run_python("live.md")["frame"].saliency.shape == (64, 96)
