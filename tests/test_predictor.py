"""The sliding window and the predictor against windows built by hand, and the pictures made of maps."""

import copy
import itertools
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import noise, write_clip
from salfom_hf import SalFoMVideoProcessor, SaliencyPredictor, VideoError
from salfom_hf.inference import encoder_graph
from salfom_hf.inference.encoder_graph import FrameEncoder
from salfom_hf.inference.sliding_window import sees_single_frames
from salfom_hf.models.losses import gaussian_blur
from salfom_hf.models.video_processing_salfom import STILL_BLUR
from salfom_hf.video import drawing
from salfom_hf.video.drawing import COLORMAPS, color_table, heatmap, overlay, png_of, side_by_side, to_gray
from salfom_hf.video.reading import Frame, read_frames

VIDEO = noise(11)


@pytest.fixture(params=["framewise", "umt"])
def model(request, framewise_model, umt_model):
    return {"framewise": framewise_model, "umt": umt_model}[request.param]


@pytest.fixture
def predictor(framewise_model, processor):
    return SaliencyPredictor(framewise_model, processor)


def by_hand(model, processor, video):
    """Each frame's map from its own clip: the last four frames, with copies of the first before the beginning."""
    maps = []
    with torch.inference_mode():
        for last in range(len(video)):
            clip = video[[max(0, last - back) for back in (3, 2, 1, 0)]]
            maps.append(model(**processor(clip, return_tensors="pt")).saliency[0])
    return torch.stack(maps).numpy()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_maps_are_those_of_the_model_on_each_window(model, processor, batch_size):
    expected = by_hand(model, processor, VIDEO)
    found = SaliencyPredictor(model, processor, batch_size=batch_size).predict(VIDEO)
    assert (found.shape, found.dtype) == (VIDEO.shape[:3], np.float32)
    # The test would be blind if all windows had the same map.
    assert np.abs(expected[1:] - expected[:-1]).max(axis=(1, 2)).min() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_maps_have_the_size_of_the_source(framewise_model):
    processor = SalFoMVideoProcessor(size={"height": 32, "width": 64}, num_frames=4)
    video = noise(3, 45, 91)
    small = torch.from_numpy(by_hand(framewise_model, processor, video))
    expected = torch.nn.functional.interpolate(small[:, None], size=(45, 91), mode="bilinear")[:, 0]
    assert small.shape == (3, 32, 64)
    np.testing.assert_allclose(SaliencyPredictor(framewise_model, processor).predict(video), expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("by_onnxruntime", "calls"), [(True, [1] * 11), (False, [4, 4, 3])])
def test_each_frame_is_encoded_once(
    framewise_model, processor, set_threads, encoded, monkeypatch, threads, by_onnxruntime, calls
):
    set_threads(threads)
    if not by_onnxruntime:  # As in bfloat16.
        monkeypatch.setattr(encoder_graph, "can_be_a_graph", lambda _: False)
    SaliencyPredictor(framewise_model, processor, batch_size=4).predict(VIDEO)
    assert encoded == calls


@pytest.mark.parametrize(("stride", "batch_size"), [(2, 1), (5, 2), (20, 1)])
def test_a_stride_keeps_key_frames_and_interpolates_between(model, processor, stride, batch_size):
    every = SaliencyPredictor(model, processor).predict(VIDEO)
    found = SaliencyPredictor(model, processor, stride, batch_size).predict(VIDEO)
    keys = sorted({*range(0, len(VIDEO), stride), len(VIDEO) - 1})
    np.testing.assert_allclose(found[keys], every[keys], atol=1e-5)
    for left, right in itertools.pairwise(keys):
        for index in range(left + 1, right):
            weight = (index - left) / (right - left)
            expected = (1 - weight) * every[left] + weight * every[right]
            np.testing.assert_allclose(found[index], expected, atol=1e-5)


def test_one_frame_is_enough(model, processor):
    found = SaliencyPredictor(model, processor, stride=4).predict(VIDEO[:1])
    expected = by_hand(model, processor, VIDEO[:1])
    if sees_single_frames(model):  # Where that costs little, the mirror image has its say.
        expected = (expected + by_hand(model, processor, VIDEO[:1, :, ::-1].copy())[:, :, ::-1]) / 2
        expected = gaussian_blur(torch.from_numpy(expected), STILL_BLUR * expected.shape[-1], "reflect").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(SaliencyPredictor(model, processor).predict(Image.fromarray(VIDEO[0])), found)


def test_a_still_is_predicted_at_its_own_size(framewise_model):
    small, large = {"height": 64, "width": 64}, {"height": 96, "width": 128}
    both = SalFoMVideoProcessor(size=small, still_size=large, num_frames=4)
    of = {name: SaliencyPredictor(framewise_model, SalFoMVideoProcessor(size=size, num_frames=4))
          for name, size in (("small", small), ("large", large))}  # fmt: skip
    predictor = SaliencyPredictor(framewise_model, both)
    np.testing.assert_array_equal(predictor.predict(VIDEO[:1]), of["large"].predict(VIDEO[:1]))
    np.testing.assert_allclose(predictor.predict(VIDEO[:2]), of["small"].predict(VIDEO[:2]), atol=1e-6)


def test_a_compiled_network_sees_batches_of_one_size(umt_model, processor, monkeypatch):
    model, batches, asked = copy.deepcopy(umt_model), [], []

    def compiled(*arguments, **options):
        batches.append(len(arguments[0]))
        return model._call_impl(*arguments, **options)

    def compile_model(module, **options):
        asked.append(options)
        module._compiled_call_impl = compiled

    monkeypatch.setattr(torch.nn.Module, "compile", compile_model)
    found = SaliencyPredictor(model, processor, batch_size=4, compile=True).predict(VIDEO)
    assert (asked, batches) == ([{"dynamic": False}], [4, 4, 4])
    np.testing.assert_allclose(found, SaliencyPredictor(umt_model, processor).predict(VIDEO), atol=1e-6)


def test_compiling_by_dynamo(umt_model, processor):
    model = copy.deepcopy(umt_model)
    predictor = SaliencyPredictor(model, processor, batch_size=4)
    model.compile(backend="eager", dynamic=False)
    found = predictor.predict(VIDEO)
    torch._dynamo.reset()
    np.testing.assert_allclose(found, SaliencyPredictor(umt_model, processor).predict(VIDEO), atol=1e-6)


def test_what_runs_by_parts_is_not_compiled(framewise_model, processor):
    with pytest.raises(ValueError, match="leave it out"):
        SaliencyPredictor(framewise_model, processor, compile=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_gpu_gives_the_same_maps(model, processor, stride, batch_size, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected = SaliencyPredictor(model, processor, stride, batch_size).predict(VIDEO)
    on_gpu = SaliencyPredictor(copy.deepcopy(model).cuda(), processor, stride, batch_size)
    np.testing.assert_allclose(on_gpu.predict(VIDEO), expected, atol=1e-4)
    alone = SaliencyPredictor(model, processor).predict(VIDEO[:1])
    np.testing.assert_allclose(on_gpu.predict(VIDEO[:1]), alone, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_compiling_on_a_gpu(umt_model, processor, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected = SaliencyPredictor(umt_model, processor, batch_size=4).predict(VIDEO)
    compiled = SaliencyPredictor(copy.deepcopy(umt_model).cuda(), processor, batch_size=4, compile=True)
    np.testing.assert_allclose(compiled.predict(VIDEO), expected, atol=1e-4)


def test_later_frames_do_not_change_earlier_maps(model, processor):
    changed = VIDEO.copy()
    changed[6] = 255 - changed[6]
    predictor = SaliencyPredictor(model, processor)
    before, after = predictor.predict(VIDEO), predictor.predict(changed)
    np.testing.assert_allclose(after[:6], before[:6], atol=1e-6)
    # Four windows see the frame.
    assert (np.abs(after - before).max(axis=(1, 2)) > 1e-4).tolist() == [6 <= index < 10 for index in range(11)]


@pytest.mark.parametrize(("stride", "batch_size"), [(1, 1), (1, 4), (3, 2)])
def test_a_stream_reads_and_holds_no_more_than_it_needs(model, processor, stride, batch_size):
    taken, alive = 0, []

    def endless():
        nonlocal taken
        while True:
            taken += 1
            picture = VIDEO[taken % 11].copy()
            alive.append(weakref.ref(picture))
            yield picture

    ahead, held = [], []
    stream = SaliencyPredictor(model, processor, stride, batch_size).stream(endless())
    assert taken == 0
    for given in range(1, 25):
        next(stream)
        ahead.append(taken - given)
        held.append(sum(reference() is not None for reference in alive))
    stream.close()
    assert max(ahead) <= (stride + 1) * batch_size
    assert max(held) <= (stride + 1) * batch_size + 2


def test_a_file_gives_what_its_decoded_frames_give(predictor, clip):
    decoded = np.stack([frame.image for frame in read_frames(clip)])
    expected = predictor.predict(decoded)
    assert expected.shape == (6, 64, 96)
    for video in (clip, str(clip), torch.from_numpy(decoded), list(decoded), [Image.fromarray(f) for f in decoded],
                  (frame for frame in decoded), decoded.transpose(0, 3, 1, 2)):  # fmt: skip
        np.testing.assert_array_equal(predictor.predict(video), expected)


def test_a_file_is_read_no_further_than_needed_and_closed(framewise_model, processor, monkeypatch):
    read, closed = [], []

    def frames(*_):
        try:
            for index in itertools.count():
                read.append(index)
                yield Frame(VIDEO[index % 11], Fraction(index, 25))
        finally:
            closed.append(True)

    monkeypatch.setattr("salfom_hf.models.video_processing_salfom.read_frames", frames)
    stream = SaliencyPredictor(framewise_model, processor, batch_size=4).stream("endless.mp4")
    assert not read
    for given, frame in enumerate(itertools.islice(stream, 20), 1):
        assert frame.timestamp == Fraction(given - 1, 25)
        assert not torch.is_inference_mode_enabled()  # The caller's code is not the predictor's.
        assert len(read) <= given + 2 * 4 + 1
    stream.close()
    assert closed == [True]


@pytest.mark.parametrize("whole", [0, 1, 9])
def test_an_error_of_decoding_reaches_the_caller_and_ends_all_threads(predictor, monkeypatch, whole):
    def read(*_):
        yield from (Frame(VIDEO[index], Fraction(index, 25)) for index in range(whole))
        raise VideoError("clip.mp4 breaks off")

    monkeypatch.setattr("salfom_hf.models.video_processing_salfom.read_frames", read)
    before = set(threading.enumerate())
    with pytest.raises(VideoError, match="breaks off"):
        list(predictor.stream("clip.mp4"))
    assert set(threading.enumerate()) <= before


def test_frames_come_with_their_pictures_and_times(predictor, tmp_path):
    path = write_clip(tmp_path / "slow.mkv", rate=10, sound=False)
    for source, rate in ((path, 10), (VIDEO[:6], 25)):
        frames = list(predictor.stream(source))
        assert [frame.timestamp for frame in frames] == [Fraction(index, rate) for index in range(6)]
        pictures = [frame.image for frame in (read_frames(path) if rate == 10 else frames)]
        np.testing.assert_array_equal([frame.image for frame in frames], pictures)
    np.testing.assert_array_equal([frame.image for frame in frames], VIDEO[:6])
    assert isinstance(frames[0].saliency, np.ndarray)


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [(0.04, None, slice(1, 6)), (0.0, 0.12, slice(0, 3)), (0.08, 0.08, slice(2, 4)), (0.05, 9, slice(1, 6))],
)
def test_a_part_of_a_video_is_predicted_by_itself(predictor, clip, start, duration, expected):
    decoded = np.stack([frame.image for frame in read_frames(clip)])
    part = predictor.predict(decoded[expected])
    np.testing.assert_array_equal(predictor.predict(decoded, start, duration), part)
    np.testing.assert_array_equal(predictor.predict(clip, start, duration), part)
    times = [frame.timestamp for frame in predictor.stream(decoded, start, duration)]
    begin = Fraction(start).limit_denominator(100)
    assert times == [max(Fraction(index, 25), begin) for index in range(6)[expected]]
    # An endless source ends with the duration.
    assert len(predictor.predict(itertools.repeat(VIDEO[0]), duration=0.2)) == 5


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    ("video", "message"),
    [
        ([], "no frames"),
        (iter([]), "no frames"),
        ([VIDEO[0], VIDEO[1][:-8]], "one size"),
        ([VIDEO[0], VIDEO[1], VIDEO[2][:, :-8]], "one size"),
        (VIDEO / 255, "uint8"),
        ([VIDEO[0].astype(np.uint16)], "uint8"),
        (np.zeros((2, 8, 8, 5), np.uint8), "channels"),
    ],
)
def test_bad_frames_are_refused(framewise_model, processor, video, message, batch_size):
    with pytest.raises(ValueError, match=message):
        SaliencyPredictor(framewise_model, processor, batch_size=batch_size).predict(video)


@pytest.mark.parametrize(("stride", "batch_size"), [(0, 1), (1, 0), (-1, 1)])
def test_bad_strides_and_batches_are_refused(model, processor, stride, batch_size):
    with pytest.raises(ValueError, match="at least 1"):
        SaliencyPredictor(model, processor, stride, batch_size).predict(VIDEO)


def test_bfloat16_computes_about_the_same(model_folder):
    exact = SaliencyPredictor.from_pretrained(model_folder).predict(VIDEO[:4])
    rounded = SaliencyPredictor.from_pretrained(str(model_folder), dtype=torch.bfloat16, batch_size=2)
    assert rounded.model.dtype == torch.bfloat16
    maps = rounded.predict(VIDEO[:4])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, exact, atol=0.05)
    assert not np.array_equal(maps, exact)


def in_a_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.parametrize("shared", [True, False], ids=["one predictor", "several"])
def test_threads_that_predict_at_once_do_not_see_each_other(
    framewise_model, processor, set_threads, monkeypatch, shared
):
    set_threads(2)
    one = SaliencyPredictor(framewise_model, processor, batch_size=4)
    expected, inside, real = one.predict(VIDEO), [], FrameEncoder.__call__

    def call(self, pixel_values):
        inside.append(in_a_new_thread(torch.get_num_threads))
        return real(self, pixel_values)

    def work(_):
        predictor = one if shared else SaliencyPredictor(copy.deepcopy(framewise_model), processor, batch_size=4)
        maps, threads = [], []
        for frame in predictor.stream(VIDEO):
            maps.append(frame.saliency)
            threads += [torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)]
        return np.stack(maps), {*threads, torch.get_num_threads()}

    monkeypatch.setattr(FrameEncoder, "__call__", call)
    with ThreadPoolExecutor(3) as pool:
        for maps, threads in pool.map(work, range(6)):
            np.testing.assert_array_equal(maps, expected)
            assert threads == {2}
    assert set(inside) == {2}
    assert (torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)) == (2, 2)


# Pictures.

ENDS = {
    "turbo": ("30123b", "7a0403"),
    "inferno": ("000004", "fcffa4"),
    "viridis": ("440154", "fde725"),
    "jet": ("000080", "800000"),
    "gray": ("000000", "ffffff"),
}


@pytest.mark.parametrize("name", COLORMAPS)
def test_color_tables_run_from_end_to_end(name):
    table = color_table(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    assert (table[0].tobytes().hex(), table[255].tobytes().hex()) == ENDS[name]
    assert np.abs(np.diff(table.astype(int), axis=0)).max() <= 12
    if name == "gray":
        assert np.abs(table - np.arange(256)[:, None]).max() <= 1


def test_grey_is_scaled_from_minimum_to_maximum(monkeypatch):
    saliency = np.linspace(0.2, 0.7, 64 * 96, dtype=np.float32).reshape(64, 96)
    expected = np.round((saliency.astype(float) - 0.2) / 0.5 * 255)
    grey = to_gray(saliency)
    assert (grey.min(), grey.max(), grey.dtype) == (0, 255, np.uint8)
    assert np.abs(grey - expected).max() <= 1
    np.testing.assert_array_equal(heatmap(saliency, "jet"), color_table("jet")[grey])
    assert not to_gray(np.full((4, 5), 0.3, np.float32)).any()
    pictures = (grey, grey[:63, :95], grey[:1, :1], VIDEO[0], VIDEO[0][:63, :95])
    for picture, limit in itertools.product(pictures, (10**8, 0)):
        monkeypatch.setattr(drawing, "MAX_PNG", limit)
        file = Image.open(BytesIO(png_of(picture)))
        assert (file.format, file.mode) == ("PNG", "L" if picture.ndim == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(file), picture)


@pytest.mark.parametrize("opacity", [0.0, 0.5, 0.7, 1.0])
def test_an_overlay_is_more_opaque_where_saliency_is_higher(opacity):
    saliency = np.random.default_rng(0).random((64, 96), dtype=np.float32)
    saliency[:10] = 0
    found = overlay(VIDEO[0], saliency, "viridis", opacity)
    grey = to_gray(saliency)
    alpha = (grey / 255 * opacity)[..., None]
    expected = (1 - alpha) * VIDEO[0] + alpha * color_table("viridis")[grey]
    assert np.abs(found - expected).max() <= 2
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[:10], VIDEO[0][:10])


def test_a_constant_map_leaves_the_frame_as_it_is_and_side_by_side_has_both():
    constant = np.full((64, 96), 0.4, np.float32)
    np.testing.assert_array_equal(overlay(VIDEO[0], constant), VIDEO[0])
    np.testing.assert_array_equal(heatmap(constant), np.broadcast_to([0x30, 0x12, 0x3B], (64, 96, 3)))
    saliency = np.random.default_rng(1).random((64, 96), dtype=np.float32)
    both = overlay(VIDEO[0], saliency, "inferno")
    np.testing.assert_array_equal(side_by_side(VIDEO[0], saliency, "inferno"), np.hstack([VIDEO[0], both]))


@pytest.mark.parametrize("device", ["toaster", "cuda"])
def test_a_device_that_is_not_there_is_one_sentence(model_folder, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(ValueError, match=f"^The device '{device}' cannot be used on this machine; give cpu"):
        SaliencyPredictor.from_pretrained(model_folder, device)
