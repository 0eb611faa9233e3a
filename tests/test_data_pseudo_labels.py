"""`salfom data pseudo-label`: what the teacher sees lands where it is in the picture, and nobody takes it for gaze.

The teacher is a small model with the real one's input and saliency map, run by the real interpreter.
"""

import itertools
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import gaze_data
from conftest import write_clip
from salfom_hf import SalFoMVideoProcessor, cli
from salfom_hf.data import ClipDataset, GazeFolder, load, open_sample, pseudo_label
from salfom_hf.data.pseudo_labels import AttentionCenter, draw_points, pseudo_density
from salfom_hf.errors import VideoError
from salfom_hf.video.reading import probe

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")

FRAMES, HEIGHT, WIDTH = 23, 72, 128


def write_teacher(path, saliency=1583, size=(480, 640)):
    """
    A TensorFlow Lite model that finds bright pixels salient: sigmoid((mean of RGB − 200) / 20).

    Args:
        saliency: index of the tensor that holds the map, which is not the model's output.
        size: (height, width) of the input and the map.
    """
    map_shape = (1, *size)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    graph.tensors, graph.operators = [], []

    def tensor(name, shape=(), kind=schema.TensorType.FLOAT32, values=None):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, np.array(shape, np.int32), kind, 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            made.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(name, inputs, output, options=None):
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
        made.opcodeIndex = len(model.operatorCodes)
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            made.builtinOptionsType, made.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        model.operatorCodes.append(code)
        graph.operators.append(made)

    image = tensor("image:0", (*map_shape, 3))
    axis = tensor("axis", (1,), schema.TensorType.INT32, np.array([3], np.int32))
    threshold, slope = (tensor(name, (1,), values=np.float32([value])) for name, value in (("t", -200), ("s", 0.05)))
    grey, above, logits = (tensor(name, map_shape) for name in ("grey", "above", "logits"))
    while len(graph.tensors) < saliency:
        tensor("unused", (1,))
    sigmoid, output = tensor("Sigmoid", map_shape), tensor("output", map_shape)
    operator("MEAN", [image, axis], grey, schema.ReducerOptionsT())
    operator("ADD", [grey, threshold], above, schema.AddOptionsT())
    operator("MUL", [above, slope], logits, schema.MulOptionsT())
    operator("LOGISTIC", [logits], sigmoid)
    operator("LOGISTIC", [sigmoid], output)
    graph.inputs, graph.outputs = np.array([image], np.int32), np.array([output], np.int32)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher") / "center.tflite")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of a bright disc that moves, a wide one and a high one, and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    gaze_data.write_avi(folder / "wide.avi", gaze_data.gaze_video(1, FRAMES, HEIGHT, WIDTH)[0], rate=24)
    gaze_data.write_avi(folder / "high.avi", gaze_data.gaze_video(2, 7, 96, 64)[0])
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def made(videos, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    assert pseudo_label(videos, out, teacher, longest=WIDTH) == {"high": 7, "wide": FRAMES}
    return out


def samples(folder):
    return {row["video_id"]: open_sample(row) for row in load("gazefolder", folder, "train")}


def centre(weights):
    """(row, column) of the centre of mass of a map."""
    rows, columns = np.indices(weights.shape)
    return np.array([(rows * weights).sum(), (columns * weights).sum()]) / weights.sum()


def test_the_teacher_sees_the_picture_and_gives_the_tensor_inside(teacher):
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    expected = 1 / (1 + np.exp((200 - image.mean(axis=2)) / 20))
    np.testing.assert_allclose(AttentionCenter(teacher)(image).numpy(), expected, atol=1e-5)
    # Another size is stretched, whatever its shape.
    image = np.zeros((48, 48, 3), np.uint8)
    image[:24, 24:] = 255
    saliency = AttentionCenter(teacher)(image).numpy()
    assert saliency.shape == (480, 640)
    assert saliency[:220, 340:].min() > 0.9
    assert max(saliency[260:].max(), saliency[:, :300].max()) < 0.01


@pytest.mark.parametrize("size", [(252, 448), (120, 90)])
def test_the_density_of_a_gaussian_is_one_that_can_be_computed(size):
    # A Gaussian to a power, blurred by one and multiplied by one remains a Gaussian.
    at, deviation = np.array([0.4, 0.65]), np.array([0.05, 0.07])
    y, x = ((np.arange(length) + 0.5) / length for length in (480, 640))
    saliency = 0.01 * np.exp(-0.5 * (((y[:, None] - at[0]) / deviation[0]) ** 2 + ((x - at[1]) / deviation[1]) ** 2))
    found = pseudo_density(torch.from_numpy(saliency).float(), size)

    # Means and variances of rows and columns, in shares of the frame.
    variance = deviation**2 / 0.6 + (0.02 * size[1] / np.array(size)) ** 2
    mean = (at / variance + 0.5 / 0.25**2) / (1 / variance + 1 / 0.25**2)
    variance = 1 / (1 / variance + 1 / 0.25**2)
    y, x = ((np.arange(length) + 0.5) / length for length in size)
    expected = np.exp(-0.5 * ((y[:, None] - mean[0]) ** 2 / variance[0] + (x - mean[1]) ** 2 / variance[1]))
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert found.max() == 1


def test_densities_peak_on_what_the_teacher_sees(made):
    for sample in samples(made).values():
        peaks = []
        for index, picture in enumerate(sample.frames()):
            density = sample.density(index)
            peaks.append(np.unravel_index(density.argmax(), density.shape))
            if index % 5 == 0:
                assert picture[peaks[-1]].mean() > 200  # the disc's brightness is 240, all else is below 100
                assert density[picture.mean(axis=2) < 150].mean() < 0.1
        assert np.ptp(peaks, axis=0).max() > 5  # The disc moves.


def test_densities_between_labelled_frames_are_interpolated(made):
    sample = samples(made)["wide"]
    keys = [0, 5, 10, 15, 20, FRAMES - 1]
    for left, right in itertools.pairwise(keys):
        for index in range(left + 1, right):
            weight = (index - left) / (right - left)
            expected = (1 - weight) * sample.density(left) + weight * sample.density(right)
            np.testing.assert_allclose(sample.density(index), expected / expected.max(), atol=0.008)
    assert np.abs(sample.density(0) - sample.density(20)).max() > 0.2


def test_frames_are_those_of_the_video_but_smaller_and_fewer(videos, teacher, tmp_path):
    assert pseudo_label(videos, tmp_path / "out", teacher, frames=9, longest=64) == {"high": 7, "wide": 9}
    found = samples(tmp_path / "out")
    assert {name: sample.size for name, sample in found.items()} == {"high": (64, 43), "wide": (36, 64)}
    assert (found["wide"].num_frames, found["wide"].fps) == (9, 24)
    pictures = gaze_data.gaze_video(1, FRAMES, HEIGHT, WIDTH)[0]
    for index, frame in enumerate(found["wide"].frames()):
        expected = Image.fromarray(pictures[index]).resize((64, 36), Image.Resampling.BILINEAR)
        assert np.abs(frame.astype(int) - np.asarray(expected)).mean() < 8  # Both codecs lose something.
    # Small videos are not enlarged.
    pseudo_label(videos, tmp_path / "large", teacher, frames=1)
    assert samples(tmp_path / "large")["wide"].size == (HEIGHT, WIDTH)


def test_points_are_drawn_in_proportion_to_the_density():
    rng = np.random.default_rng(0)
    density = np.array([[0, 1, 0], [3, 0, 0]], np.float32)
    drawn = np.mean([draw_points(density, 1, rng) for _ in range(2000)], axis=0)
    np.testing.assert_allclose(drawn, density / 4, atol=0.04)
    assert drawn[density == 0].max() == 0
    assert draw_points(np.ones((300, 300), np.float32), 20, rng).sum() in (18, 19, 20)


def test_fixations_follow_the_seed_and_the_video_alone(made, videos, teacher, tmp_path):
    def fixations(folder):
        sample = samples(folder)["wide"]
        return np.stack([sample.fixations(index) for index in range(sample.num_frames)])

    pseudo_label(videos / "wide.avi", tmp_path / "same", teacher, longest=WIDTH)
    pseudo_label(videos / "wide.avi", tmp_path / "other", teacher, longest=WIDTH, seed=1)
    first = fixations(made)
    np.testing.assert_array_equal(fixations(tmp_path / "same"), first)
    assert (fixations(tmp_path / "other") != first).any()
    np.testing.assert_array_equal(
        samples(tmp_path / "other")["wide"].density(3), samples(tmp_path / "same")["wide"].density(3)
    )
    assert (first.sum(axis=(1, 2)) <= 20).all()
    assert (first.sum(axis=(1, 2)) >= 12).all()
    assert (first[0] != first[1]).any()


def test_the_folder_is_a_dataset_to_train_on(made):
    report = GazeFolder.check(made, decode=True)
    assert report.problems == []
    processor = SalFoMVideoProcessor(size={"height": HEIGHT, "width": WIDTH})
    clips = ClipDataset(load("gazefolder", made, "train"), processor, num_frames=4, size=(HEIGHT, WIDTH))
    for clip in (clips[0], clips[1]):
        assert clip["pixel_values_videos"].shape == (4, 3, HEIGHT, WIDTH)
        disc = clip["pixel_values_videos"][-1].mean(0)
        disc = centre((disc > disc.max() - 0.4 * (disc.max() - disc.min())).numpy())
        np.testing.assert_allclose(centre(clip["labels"].numpy()), disc, atol=6)


@pytest.fixture
def salfom(tmp_path, monkeypatch, capsys, videos, teacher):
    """`salfom data pseudo-label videos out --teacher teacher.tflite`: its exit code, what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*options, source=videos, model=teacher):
        capsys.readouterr()
        code = cli.main(["data", "pseudo-label", str(source), "out", "--teacher", str(model), *options])
        return code, capsys.readouterr()

    return run


def refused(result, *words):
    """One sentence with these words, and nothing written."""
    code, said = result
    assert code == 2
    assert said.err.startswith("salfom: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err


def test_command(salfom, tmp_path):
    code, said = salfom("--every", "4", "--frames", "6", "--longest", "32", "--seed", "3")
    assert code == 0
    assert "2 videos, 12 frames" in said.out
    assert "salfom data show gazefolder out" in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert probe(tmp_path / "out" / "train" / "wide" / "images").width == 32
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Pseudo-labels, not gaze")
    for words in ("center.tflite", "Apache", "| wide | wide.avi | 6 |", "seed 3", "one frame of 4", "power of 0.6"):
        assert words in text
    refused(salfom(), "out exists already", "--overwrite")
    assert salfom("--frames", "2", "--overwrite")[0] == 0
    assert samples(tmp_path / "out")["wide"].num_frames == 2


def test_bad_videos_are_refused(salfom, teacher, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(salfom(source="empty"), "empty holds no videos")
    refused(salfom(source="nowhere"), "no file or folder nowhere")
    for option in ("every", "frames", "longest"):
        with pytest.raises(ValueError, match=option):
            pseudo_label(tmp_path, tmp_path / "out", teacher, **{option: 0})
    (tmp_path / "empty" / "broken.mp4").write_bytes(b"no video")
    write_clip(tmp_path / "empty" / "a.mp4")
    refused(salfom(source="empty"), "broken.mp4")
    assert not (tmp_path / "out").exists()


def test_bad_teachers_are_refused(salfom, tmp_path, monkeypatch):
    refused(salfom(model="none.tflite"), "no file none.tflite")
    (tmp_path / "text.tflite").write_text("no model")
    refused(salfom(model="text.tflite"), "text.tflite is not a TensorFlow Lite model")
    others = [write_teacher(tmp_path / "early.tflite", saliency=1500)]
    others.append(write_teacher(tmp_path / "small.tflite", size=(48, 64)))
    for other in others:
        refused(salfom(model=other), f"{other.name} is not the attention-center model", "1583")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    refused(salfom(), 'pip install -c constraints.txt ".[train]"')
    assert not (tmp_path / "out").exists()


def test_a_video_that_breaks_off_leaves_nothing(videos, teacher, tmp_path, monkeypatch):
    source = tmp_path / "cut.mp4"
    write_clip(source, frames=100, rate=25)
    data = source.read_bytes()
    (tmp_path / "videos").mkdir()
    gaze_data.write_avi(tmp_path / "videos" / "a.avi", gaze_data.gaze_video(1, 3)[0])
    (tmp_path / "videos" / "b.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"b\.mp4"):
        pseudo_label(tmp_path / "videos", tmp_path / "out", teacher)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "videos"]
