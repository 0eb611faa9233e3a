"""The pipeline `video-saliency-prediction`: its inputs, its results against the predictor's, downloads, saving."""

import copy
import io
import time

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from conftest import noise
from hub_server import server
from salfom_hf import SaliencyPredictor, VideoError, pipeline
from salfom_hf.inference import encoder_graph
from salfom_hf.inference import pipeline as pipeline_salfom
from salfom_hf.inference.pipeline_salfom import VideoSaliencyPipeline as PublishedPipeline

VIDEO = noise(6)


@pytest.fixture(scope="module")
def pipe(model_folder):
    return pipeline("video-saliency-prediction", model=model_folder, device="cpu")


@pytest.fixture(scope="module")
def predictor(model_folder):
    return SaliencyPredictor.from_pretrained(model_folder)


def check(result, maps, timestamps):
    assert sorted(result) == ["maps", "timestamps"]
    assert (result["maps"].dtype, result["timestamps"].dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(result["maps"], maps, atol=1e-5)
    np.testing.assert_allclose(result["timestamps"], timestamps, atol=1e-9)


def test_a_file(pipe, predictor, clip):
    for video in (clip, str(clip)):
        check(pipe(video), predictor.predict(clip), np.arange(6) / 25)
    # As any other pipeline, it takes options once for all.
    check(
        pipeline(model=predictor.model, video_processor=predictor.processor, stride=2, device="cpu")(clip),
        SaliencyPredictor(predictor.model, predictor.processor, stride=2).predict(clip),
        np.arange(6) / 25,
    )


@pytest.mark.parametrize(
    "frames",
    [VIDEO, torch.from_numpy(VIDEO), [Image.fromarray(frame) for frame in VIDEO], list(VIDEO), tuple(VIDEO)],
    ids=["array", "tensor", "pictures", "arrays", "tuple"],
)
def test_frames_are_one_video(pipe, predictor, frames):
    check(pipe(frames), predictor.predict(VIDEO), np.arange(6) / 25)


def test_a_picture(pipe, predictor, tmp_path):
    picture = Image.fromarray(VIDEO[0])
    picture.save(tmp_path / "a.png")
    for image in (picture, tmp_path / "a.png"):
        check(pipe(image), predictor.predict(VIDEO[:1]), [0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_list_gives_a_list(pipe, predictor, clip, num_workers):
    both = np.stack([VIDEO[:3], VIDEO[3:]])
    for result, video in zip(pipe(both), both, strict=True):
        check(result, predictor.predict(video), np.arange(3) / 25)
    short = noise(3, 48, 80, seed=1)
    results = pipe([clip, short, list(short), str(clip)], num_workers=num_workers)
    times = [np.arange(6) / 25, np.arange(3) / 25, np.arange(3) / 25, np.arange(6) / 25]
    for result, video, timestamps in zip(results, (clip, short, short, clip), times, strict=True):
        check(result, predictor.predict(video), timestamps)


def test_a_generator_is_streamed(pipe, predictor):
    taken = []

    def videos():
        for index in range(1000):
            taken.append(index)
            yield VIDEO[index : index + 2]

    results = iter(pipe(videos()))
    for index in range(3):
        check(next(results), predictor.predict(VIDEO[index : index + 2]), [0, 0.04])
    assert len(taken) <= 5


def test_options(pipe, predictor, clip):
    for stride, batch_size in ((1, 1), (2, 3), (4, 16)):
        expected = SaliencyPredictor(predictor.model, predictor.processor, stride).predict(clip)
        check(pipe(clip, stride=stride, windows=batch_size), expected, np.arange(6) / 25)
    # The start is part of the time, and nothing before it is seen.
    check(pipe(clip, start=0.08, duration=0.08), predictor.predict(clip, 0.08, 0.08), [0.08, 0.12])
    with pytest.raises(TypeError, match="no parameter 'strides'"):
        pipe(clip, strides=2)
    with pytest.raises(ValueError, match="at least 1"):
        pipe(clip, stride=0)


def test_published_code_resizes_frames_on_the_cpu(pipe, monkeypatch):
    def prepare(frames, still):
        raise AssertionError(f"resized on {frames.device}")

    model, processor = copy.deepcopy(pipe.model).to("meta"), copy.deepcopy(pipe.video_processor)
    elsewhere = PublishedPipeline(model=model, video_processor=processor, device="meta")
    monkeypatch.setattr(processor, "prepare_frames", prepare)
    with pytest.raises(AssertionError, match="resized on cpu"):
        elsewhere.predict(list(VIDEO), 1, 4)


def test_windows_of_one_video_are_seen_together(pipe, clip, set_threads, encoded, monkeypatch):
    set_threads(1)
    monkeypatch.setattr(encoder_graph, "can_be_a_graph", lambda _: False)  # Which encodes frames one by one.
    pipe([clip, clip], windows=4)
    assert encoded == [4, 2, 4, 2]


def test_a_batch_is_of_videos(pipe, predictor, clip):
    taken = []

    def videos():
        for video in (clip, VIDEO[:2], VIDEO[:1], clip, VIDEO):
            taken.append(video)
            yield video

    results = iter(pipe(videos(), batch_size=3))
    check(next(results), predictor.predict(clip), np.arange(6) / 25)
    assert len(taken) == 3
    for result, video in zip(results, (VIDEO[:2], VIDEO[:1], clip, VIDEO), strict=True):
        maps = predictor.predict(video)
        check(result, maps, np.arange(len(maps)) / 25)
    with pytest.raises(VideoError, match="no file"):
        pipe([clip, "missing.mp4"], batch_size=2)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing.mp4", "There is no file or folder"),
        (lambda folder: [VIDEO[0], VIDEO[1, :32]], "must have one size"),
        (lambda folder: "ftp://example.org/a.mp4", r"begins with http:// or https://"),
        (lambda folder: "file:///etc/passwd", r"begins with http:// or https://"),
    ],
)
def test_mistakes_are_one_sentence(pipe, tmp_path, make, said, num_workers):
    with pytest.raises((VideoError, ValueError), match=said) as error:
        pipe([make(tmp_path)], num_workers=num_workers)
    assert "\n" not in str(error.value)


# --- Downloads ---


def sends(content, length=True, pause=0.0, piece=2**16, promised=0):
    """Answers with these bytes, in pieces with a pause before each."""

    def answer(handler):
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", str(promised or len(content)))
        handler.end_headers()
        for begin in range(0, len(content), piece):
            time.sleep(pause)
            try:
                handler.wfile.write(content[begin : begin + piece])
            except OSError:  # Whoever asked has gone.
                return

    return answer


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize("length", [True, False])
def test_an_address(pipe, predictor, clip, temporary, length):
    picture = io.BytesIO()
    Image.fromarray(VIDEO[0]).save(picture, "png")
    with server(sends(picture.getvalue(), length)) as address:
        check(pipe(f"{address}/a.png"), predictor.predict(VIDEO[:1]), [0])
    with server(sends(clip.read_bytes(), length)) as address:
        check(pipe(f"{address}/watch.mp4?v=1"), predictor.predict(clip), np.arange(6) / 25)
        results = pipe([f"{address}/a", clip], num_workers=1)
    for result in results:
        check(result, predictor.predict(clip), np.arange(6) / 25)
    assert not list(temporary.iterdir())


def test_redirections_lead_to_http_only(pipe, predictor, clip, temporary):
    def answer(handler):
        if handler.path == "/video":
            return sends(clip.read_bytes())(handler)
        handler.send_response(302)
        handler.send_header("Location", "/video" if handler.path == "/moved" else f"file://{clip}")
        handler.end_headers()
        return None

    with server(answer) as address:
        check(pipe(f"{address}/moved"), predictor.predict(clip), np.arange(6) / 25)
        with pytest.raises(VideoError, match=f"Cannot download {address}/local"):
            pipe(f"{address}/local")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("length", [True, False])
def test_downloads_are_bounded_in_size(pipe, temporary, length):
    with (
        server(sends(bytes(3 * 2**20), length)) as address,
        pytest.raises(VideoError, match="is larger than 1 MiB; download it yourself"),
    ):
        pipe(f"{address}/big.mp4", max_download=2**20)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("piece", [1, 10**6])
def test_downloads_are_bounded_in_time(pipe, temporary, piece):
    """A server that drips, and one that is silent."""
    begin = time.monotonic()
    with (
        server(sends(bytes(40), pause=0.1 if piece == 1 else 3.0, piece=piece)) as address,
        pytest.raises(VideoError, match=r"did not arrive within|timed out"),
    ):
        pipe(f"{address}/slow.mp4", download_time=0.5)
    assert time.monotonic() - begin < 2.9
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda handler: handler.send_error(404), "Cannot download .*404|Cannot download .*Not Found"),
        (sends(b"half", promised=8), "received 4 bytes, expected 8"),
        (sends(b"<html>no video</html>"), r"Cannot read http://.*/a\.mp4 as a video"),
        (lambda handler: handler.wfile.write(b"gibberish\r\n\r\n"), "Cannot download"),
    ],
)
def test_failed_downloads_are_one_sentence(pipe, temporary, answer, said):
    with server(answer) as address, pytest.raises(VideoError, match=said) as error:
        pipe(f"{address}/a.mp4")
    assert "\n" not in str(error.value)
    assert str(temporary) not in str(error.value)
    assert not list(temporary.iterdir())
    with pytest.raises(VideoError, match=f"Cannot download {address}/a.mp4"):
        pipe(f"{address}/a.mp4")  # Where nobody answers any more.


# --- Saving ---


def test_a_saved_pipeline_loads_again(pipe, clip, tmp_path):
    expected = pipe(clip)
    folder = tmp_path / "saved"
    pipe.save_pretrained(folder)
    for loaded in (
        pipeline(model=folder, device="cpu"),
        transformers.pipeline("video-saliency-prediction", model=folder, device="cpu"),
    ):
        assert isinstance(loaded, pipeline_salfom.VideoSaliencyPipeline)
        check(loaded(clip), expected["maps"], expected["timestamps"])
