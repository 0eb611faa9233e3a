"""The video processor: every form of input, its resizing and normalisation, and maps back to the source's size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.image_utils import SizeDict
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.video_utils import VideoMetadata

from conftest import noise
from salfom_hf import SalFoMVideoProcessor
from salfom_hf.models.modeling_salfom import SalFoMOutput
from salfom_hf.models.video_processing_salfom import to_tensor
from salfom_hf.video.reading import read_frames

VIDEO = noise(4)


def values(processor, video, **options):
    return processor(video, return_tensors="pt", **options)["pixel_values_videos"]


@pytest.mark.parametrize(
    "video",
    [
        [Image.fromarray(frame) for frame in VIDEO],
        [Image.fromarray(frame).convert("RGBA") for frame in VIDEO],
        list(VIDEO),
        tuple(VIDEO),
        VIDEO.transpose(0, 3, 1, 2),
        np.ascontiguousarray(VIDEO[..., ::-1])[..., ::-1],
        np.concatenate([VIDEO, np.full_like(VIDEO[..., :1], 255)], axis=-1),
        torch.from_numpy(VIDEO),
        list(torch.from_numpy(VIDEO).permute(0, 3, 1, 2)),
        VIDEO.astype(np.float64),
        [VIDEO],
        [[Image.fromarray(frame) for frame in VIDEO]],
    ],
    ids=["pil", "rgba", "list", "tuple", "channels-first", "reversed", "alpha", "torch", "torch-list", "float",
         "batch", "batch-pil"],
)  # fmt: skip
def test_every_form_of_a_video_gives_the_same_values(processor, video):
    expected = (VIDEO / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    found = values(processor, video)
    assert (found.shape, found.dtype) == ((1, 4, 3, 64, 96), torch.float32)
    np.testing.assert_allclose(found[0].numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.float16, torch.bfloat16, torch.int16, torch.float64])
def test_every_dtype_gives_the_same_values(processor, kind):
    video = torch.from_numpy(VIDEO).to(kind) if isinstance(kind, torch.dtype) else VIDEO.astype(kind)
    torch.testing.assert_close(values(processor, video), values(processor, VIDEO))
    white = np.ones((4, 64, 96, 1), bool)
    torch.testing.assert_close(values(processor, white), values(processor, np.full_like(VIDEO, 255)))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (VIDEO / 255, "0…1, not in 0…255"),
        ((VIDEO / 255).astype(np.float16), "0…1, not in 0…255"),
        ([torch.from_numpy(frame).bfloat16() / 255 for frame in VIDEO], "0…1, not in 0…255"),
        (Image.fromarray(VIDEO[0, ..., 0] / np.float32(255)), "floats in .* not in 0…255"),
        # Bicubic resizing goes a little beyond.
        (VIDEO / 255 * 1.01, "0…1, not in 0…255"),
        ((VIDEO > 128).astype(np.int64), "0…1; scale"),
        (VIDEO.astype(np.uint16) * 257, "uint16"),
        (VIDEO.astype(np.int32) * 257, "0…65535"),
        (VIDEO.astype(np.int64) - 128, "-128…127"),
        (VIDEO / 64.0 - 2, "-2…1.98"),
        (np.where(VIDEO == 0, np.nan, VIDEO), "not a number"),
        ([VIDEO[0], VIDEO[1] / 255], "one size and dtype"),
    ],
)
def test_values_of_doubtful_meaning_are_refused(processor, video, message):
    with pytest.raises(ValueError, match=message):
        processor(video, return_tensors="pt")


def test_what_is_rescaled_already_is_taken_so(processor):
    expected = values(processor, VIDEO)
    torch.testing.assert_close(values(processor, VIDEO / 255, do_rescale=False), expected)
    torch.testing.assert_close(values(processor, VIDEO / 255, rescale_factor=1.0), expected)
    for dark in (np.zeros((4, 64, 96, 3)), (VIDEO % 3).astype(float)):
        torch.testing.assert_close(values(processor, dark), values(processor, dark.astype(np.uint8)))
    opaque = np.concatenate([VIDEO, np.full_like(VIDEO[..., :1], 255)], axis=-1)
    torch.testing.assert_close(values(processor, opaque / 255, do_rescale=False), expected)


RGBA = np.concatenate([VIDEO[0], VIDEO[1, ..., :1]], axis=-1)
TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.fromarray(RGBA), {}),
        (Image.fromarray(RGBA[..., 2:]), {}),
        (Image.fromarray(VIDEO[0]), {"transparency": (0, 0, 0)}),
        (Image.fromarray(VIDEO[0]).quantize(16), {"transparency": 3}),
        (Image.fromarray(VIDEO[0]).quantize(16), {}),
        (Image.fromarray(VIDEO[0, ..., 0].astype(np.uint16) * 257), {}),
        (Image.fromarray(VIDEO[0, ..., 0] > 128), {}),
        (Image.fromarray(RGBA), {"exif": TURNED}),
        (Image.fromarray(VIDEO[0]), {"exif": TURNED}),
        (Image.fromarray(VIDEO[0]).convert("CMYK"), {"suffix": ".tif"}),
        (Image.fromarray(VIDEO[0, ..., 0].astype(np.int32) * 257), {"suffix": ".tif"}),
        (Image.fromarray((VIDEO[0, ..., 0] // 2).astype(np.int32)), {"suffix": ".tif"}),
        (Image.fromarray(VIDEO[0, ..., 0].astype(np.float32)), {"suffix": ".tif"}),
    ],
    ids=[
        *("rgba", "la", "rgb-key", "palette-key", "palette", "16", "1", "turned-rgba", "turned", "cmyk"),
        *("32", "32-of-8", "float"),
    ],
)
def test_an_image_gives_the_same_by_path_and_as_pil(processor, image, options, tmp_path):
    file = tmp_path / f"image{options.pop('suffix', '.png')}"
    image.save(file, **options)
    by_path = values(processor, file)
    torch.testing.assert_close(values(processor, Image.open(file)), by_path)
    torch.testing.assert_close(values(processor, [Image.open(file)]), by_path)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda rgba: [rgba], lambda rgba: rgba.astype(float)])
def test_transparency_is_put_over_black(processor, kind):
    expected = values(processor, Image.fromarray(RGBA))
    torch.testing.assert_close(values(processor, kind(RGBA)), expected, atol=0.02, rtol=0)
    over_black = np.round(RGBA[..., :3] * (RGBA[..., 3:] / 255)).astype(np.uint8)
    torch.testing.assert_close(expected, values(processor, over_black), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(VIDEO[1]), VIDEO[1], VIDEO[1].transpose(2, 0, 1), torch.from_numpy(VIDEO[1]), VIDEO[1:2]],
    ids=["pil", "last", "first", "torch", "video"],
)
def test_one_image_is_a_still(processor, image):
    torch.testing.assert_close(values(processor, image), values(processor, VIDEO[[1, 1, 1, 1]])[:, :1])


@pytest.mark.parametrize(
    "grey", [VIDEO[1, ..., 0], [VIDEO[1, ..., 0]], Image.fromarray(VIDEO[1, ..., 0]), VIDEO[1:2, ..., :1]]
)
def test_grey_becomes_three_equal_channels(processor, grey):
    expected = np.repeat(VIDEO[1:2, ..., :1], 3, axis=-1)
    torch.testing.assert_close(values(processor, grey), values(processor, expected))


def test_several_videos_are_a_batch(processor):
    other = noise(7, seed=1)
    found = values(processor, [VIDEO, other])
    torch.testing.assert_close(found, torch.cat([values(processor, VIDEO), values(processor, other)]))
    torch.testing.assert_close(values(processor, [[list(VIDEO)], [other[None]]]), found)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_gives_what_its_decoded_frames_give(processor, clip, kind):
    decoded = np.stack([frame.image for frame in read_frames(clip)])
    expected = values(processor, decoded)
    torch.testing.assert_close(values(processor, kind(clip)), expected)
    torch.testing.assert_close(values(processor, [kind(clip), kind(clip)]), torch.cat([expected, expected]))
    assert values(processor, kind(clip), do_sample_frames=False).shape[1] == 6


@pytest.mark.parametrize("size", [(37, 53), (64, 96), (120, 200), (224, 224)])
def test_resizing_is_that_of_pil(size):
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 130, 3), dtype=np.uint8)
    processor = SalFoMVideoProcessor(
        size={"height": size[0], "width": size[1]}, num_frames=2, do_rescale=False, do_normalize=False
    )
    found = values(processor, frames)[0].permute(0, 2, 3, 1).numpy()
    bilinear = Image.Resampling.BILINEAR
    expected = np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], bilinear)) for frame in frames])
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(found, found.round())


def test_steps_can_be_switched_off_and_changed(processor):
    expected = VIDEO.transpose(0, 3, 1, 2).astype(np.float32)
    plain = values(processor, VIDEO, do_rescale=False, do_normalize=False)[0].numpy()
    np.testing.assert_array_equal(plain, expected)
    scaled = values(processor, VIDEO, rescale_factor=1 / 128, image_mean=[1.0] * 3, image_std=[2.0] * 3)[0].numpy()
    np.testing.assert_allclose(scaled, (expected / 128 - 1) / 2, atol=1e-6)
    assert values(processor, VIDEO, size={"height": 32, "width": 48}).shape == (1, 4, 3, 32, 48)


def test_short_clips_are_padded_in_front_and_long_ones_end_at_their_last_frame(processor):
    long = noise(9, seed=2)
    torch.testing.assert_close(values(processor, long), values(processor, long[5:]))
    torch.testing.assert_close(values(processor, long[:2]), values(processor, long[[0, 0, 0, 1]]))
    torch.testing.assert_close(values(processor, long, num_frames=6), values(processor, long[3:], num_frames=6))
    assert values(processor, long, do_sample_frames=False).shape[1] == 9


def test_frames_are_sampled_as_transformers_asks_for_it(processor):
    long = noise(8, seed=2)
    metadata = VideoMetadata(total_num_frames=8, fps=4, duration=2.0)
    assert processor.sample_frames(metadata).tolist() == [4, 5, 6, 7]
    assert processor.sample_frames(metadata, num_frames=10).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert processor.sample_frames(metadata=metadata, fps=2).tolist() == [1, 3, 5, 7]
    assert processor.sample_frames(metadata=metadata, fps=2, num_frames=5).tolist() == [1, 1, 3, 5, 7]
    # Rates that are no whole numbers: every frame, and every second one.
    for rate in (29.97, 23.976, 30000 / 1001):
        found = processor.sample_frames(VideoMetadata(30, fps=rate), fps=rate)
        assert found.tolist() == list(range(30))
        found = processor.sample_frames(VideoMetadata(60, fps=2 * rate), fps=rate)
        assert found.tolist() == list(range(1, 60, 2))
    for rate in (3, 5):
        with pytest.raises(ValueError, match="frames per second"):
            processor.sample_frames(metadata=VideoMetadata(8, fps=None if rate == 3 else 4), fps=rate)
    assert values(processor, long, fps=3, video_metadata=[[dict(metadata)]]).shape[1] == 6
    found = processor([long, long], fps=2, num_frames=3, video_metadata=[[metadata]] * 2, return_metadata=True)
    torch.testing.assert_close(found["pixel_values_videos"][1], values(processor, long[[3, 5, 7]], num_frames=3)[0])
    assert [one.frames_indices for one in found["video_metadata"]] == [[3, 5, 7]] * 2
    assert metadata.frames_indices is None
    for options in ({"fps": 2}, {"num_frames": 3}):
        with pytest.raises(ValueError, match="leave them out"):
            processor(VIDEO, do_sample_frames=False, **options)
    for wrong in (VideoMetadata(9, fps=4), [metadata, metadata]):
        with pytest.raises(ValueError, match="video_metadata"):
            processor(long, fps=2, video_metadata=wrong)


def test_files_are_sampled_at_their_own_rate(processor, clip):
    decoded = np.stack([frame.image for frame in read_frames(clip)])
    found = processor(clip, fps=12.5, return_metadata=True, return_tensors="pt")
    torch.testing.assert_close(found["pixel_values_videos"], values(processor, decoded[1::2], num_frames=3))
    (metadata,) = found["video_metadata"]
    assert (metadata.fps, metadata.total_num_frames, metadata.frames_indices) == (25, 6, [1, 3, 5])
    processor.fps, processor.num_frames = 12.5, 2
    torch.testing.assert_close(values(processor, clip), values(processor, decoded[[3, 5]], do_sample_frames=False))


@pytest.mark.parametrize(
    "option",
    [{"do_center_crop": True}, {"crop_size": 32}, {"resample": 3}, {"do_pad": True}, {"do_convert_rgb": False},
     {"data_format": "channels_last"}, {"pad_size": {"height": 80, "width": 80}}, {"size": {"shortest_edge": 32}},
     {"size": {"height": 0, "width": 32}}, {"size": 32, "default_to_square": False}, {"num_frames": -1}, {"fps": 0},
     {"size_divisor": 0}, {"still_size": {"height": 0, "width": 8}}],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be_honoured_are_refused(processor, option, tmp_path):
    name = next(iter(option))
    for use in (lambda **option: processor(VIDEO, **option), SalFoMVideoProcessor, SalFoMVideoProcessor.from_dict):
        with pytest.raises(ValueError, match=name):
            use({}, **option) if use == SalFoMVideoProcessor.from_dict else use(**option)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "video_preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **option}))
    with pytest.raises(ValueError, match=name):
        AutoVideoProcessor.from_pretrained(tmp_path)


def test_options_that_change_nothing_are_accepted(processor):
    same = {"do_center_crop": False, "resample": 2, "do_pad": False, "do_convert_rgb": True, "device": "cpu"}
    found = values(
        SalFoMVideoProcessor(**{**processor.to_dict(), **same}), VIDEO, data_format="channels_first", **same
    )
    torch.testing.assert_close(found, values(processor, VIDEO))
    with pytest.raises(TypeError, match="do_crop"):
        processor(VIDEO, do_crop=True)


def test_the_order_of_channels_can_be_given(processor):
    narrow = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 3), dtype=np.uint8)  # 3 rows, or 3 channels?
    square = {"size": {"height": 32, "width": 32}}
    last, first = ({"input_data_format": f"channels_{order}", **square} for order in ("last", "first"))
    torch.testing.assert_close(
        values(processor, narrow, **last), values(processor, narrow.transpose(0, 3, 1, 2), **first)
    )
    assert not torch.equal(values(processor, narrow, **last), values(processor, narrow, **first))
    own = SalFoMVideoProcessor(num_frames=4, **last)
    torch.testing.assert_close(values(own, narrow), values(processor, narrow, **last))


@pytest.mark.parametrize(
    ("source", "expected"), [((90, 160), (256, 448)), ((160, 90), (448, 256)), ((100, 100), (320, 320)),
                             ((20, 900), (64, 2240)), ((288, 384), (288, 384)), ((9, 2000), (32, 4960))],
)  # fmt: skip
def test_keeping_the_aspect_ratio_gives_about_the_area_in_multiples(source, expected):
    processor = SalFoMVideoProcessor(size={"height": 288, "width": 384}, keep_aspect_ratio=True, size_divisor=32)
    scale = (288 * 384 / (source[0] * source[1])) ** 0.5
    by_hand = tuple(max(32, 32 * round(side * scale / 32)) for side in source)
    assert processor.target_size(*source) == by_hand == expected
    processor.keep_aspect_ratio = False  # It can be kept per call.
    assert processor.target_size(*source, keep_aspect_ratio=True) == expected
    assert processor.target_size(*source) == (288, 384)


def test_stills_may_have_a_size_of_their_own(processor):
    of_both = SalFoMVideoProcessor(
        size={"height": 32, "width": 64}, still_size={"height": 64, "width": 128}, keep_aspect_ratio=True
    )
    assert of_both.target_size(90, 160) == (32, 64)
    assert of_both.target_size(90, 160, still=True) == (64, 128)
    picture = torch.from_numpy(VIDEO[:1]).permute(0, 3, 1, 2)
    size = SizeDict(height=64, width=96)
    assert of_both.prepare_frames(picture).shape[-2:] == (32, 48)
    expected = of_both.prepare_frames(picture, size=size, keep_aspect_ratio=False)
    torch.testing.assert_close(of_both.prepare_frames(picture, still=True, size=size), expected)
    torch.testing.assert_close(processor.prepare_frames(picture, still=True), processor.prepare_frames(picture))
    assert values(of_both, VIDEO[0]).shape == (1, 1, 3, 80, 112)
    assert values(of_both, VIDEO).shape == (1, 16, 3, 32, 48)
    assert values(of_both, VIDEO[0], size={"height": 64, "width": 64}, keep_aspect_ratio=False).shape[-2:] == (64, 64)
    # The only frame that is taken of a video is none, and a picture is one whatever is taken of videos.
    single = SalFoMVideoProcessor(**{**of_both.to_dict(), "num_frames": 1})
    metadata = VideoMetadata(4, fps=25)
    for taken in (
        values(single, VIDEO),
        values(of_both, VIDEO, num_frames=1),
        values(of_both, VIDEO, fps=6.25, video_metadata=metadata),
        values(of_both, VIDEO[3:], do_sample_frames=False, video_metadata=metadata),
    ):
        assert taken.shape == (1, 1, 3, 32, 48)
        torch.testing.assert_close(taken, values(of_both, VIDEO)[:, -1:])
    for picture in (VIDEO[0], VIDEO[:1], Image.fromarray(VIDEO[0]), [VIDEO[:1], VIDEO[:1]], [[VIDEO[0]]] * 3):
        found = values(single, picture)
        assert found.shape[1:] == (1, 3, 80, 112)
        torch.testing.assert_close(found, values(of_both, picture))


@pytest.mark.parametrize(
    "video", [[], np.zeros((0, 8, 8, 3), np.uint8), np.zeros((4, 8, 8, 5), np.uint8), np.zeros((1, 2, 3, 4, 5, 6)),
              np.zeros((4, 8, 8), np.uint8), None, 3, iter(VIDEO),
              [np.zeros((8, 8, 3)), np.zeros((8, 9, 3))]],
)  # fmt: skip
def test_what_is_no_video_is_refused(processor, video):
    with pytest.raises((TypeError, ValueError), match=r"frames|channels|size|shape|path"):
        processor(video, return_tensors="pt")


def test_shapes_that_differ_are_refused_as_a_tensor_only(processor):
    videos = [noise(4), noise(4, 48, 96)]
    with pytest.raises(ValueError, match="one by one"):
        processor(videos, return_tensors="pt", do_resize=False)
    clips = processor(videos, do_resize=False)["pixel_values_videos"]
    assert [tuple(clip.shape) for clip in clips] == [(4, 3, 64, 96), (4, 3, 48, 96)]


def test_reading_an_array_neither_changes_nor_warns_about_it(recwarn):
    frozen = VIDEO.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(to_tensor(frozen).permute(0, 2, 3, 1).numpy(), VIDEO)
    assert not recwarn.list


def test_maps_return_at_the_size_of_the_source(processor):
    maps = torch.rand(2, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = SalFoMOutput(saliency=maps)
    small, large = processor.post_process_saliency(outputs, target_sizes=[(4, 6), (31, 47)])
    assert (small.shape, large.shape, large.dtype) == ((4, 6), (31, 47), torch.float32)
    # Halving by bilinear interpolation averages blocks of four.
    torch.testing.assert_close(small, maps[0].float().reshape(4, 2, 6, 2).mean((1, 3)))
    assert maps[1].min() - 1e-6 <= large.min() <= large.max() <= maps[1].max() + 1e-6
    torch.testing.assert_close(torch.stack(processor.post_process_saliency(outputs)), maps.float())
    with pytest.raises(ValueError, match="target_sizes"):
        processor.post_process_saliency(outputs, target_sizes=[(4, 6)])


def test_saving_keeps_every_field(tmp_path):
    changed = {
        "size": {"height": 96, "width": 128},
        "keep_aspect_ratio": True,
        "size_divisor": 8,
        "still_size": {"height": 192, "width": 256},
        "num_frames": 2,
        "do_sample_frames": False,
        "do_resize": False,
        "do_rescale": False,
        "do_normalize": False,
        "rescale_factor": 0.5,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    SalFoMVideoProcessor(**changed).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert {name: stored[name] for name in changed} == changed
    for loader in (SalFoMVideoProcessor, AutoProcessor, AutoVideoProcessor):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is SalFoMVideoProcessor
        found = {name: getattr(loaded, name) for name in changed}
        found["size"] = {"height": loaded.size.height, "width": loaded.size.width}
        found.update({name: list(found[name]) for name in ("image_mean", "image_std")})
        assert found == changed


def test_defaults_are_the_paper_s():
    stored = SalFoMVideoProcessor().to_dict()
    assert dict(stored["size"]) == {"height": 224, "width": 224}
    assert (stored["num_frames"], list(stored["image_mean"])) == (16, [0.485, 0.456, 0.406])
