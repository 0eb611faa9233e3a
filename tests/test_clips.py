"""Training clips against clips cut by hand from the same files, in one process and in several."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from gaze_data import EMPTY_FRAME, gaze_stills, gaze_video, png, same
from salfom_hf import SalFoMVideoProcessor
from salfom_hf.data import (
    VIDEO_FEATURES,
    Augmentation,
    ClipDataset,
    DataError,
    MixtureDataset,
    collate_by_shape,
    load_dhf1k,
    load_hollywood2,
    load_stills,
    load_ucf_sports,
)
from salfom_hf.errors import VideoError
from salfom_hf.video.reading import read_frames

SIZE = (64, 96)
EVERYTHING = Augmentation(
    horizontal_flip=0.5,
    crop=(0.3, 0.9),
    temporal_strides=(1, 2),
    reverse=0.5,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
)


@pytest.fixture
def train(dhf1k_frames):
    return load_dhf1k(dhf1k_frames, split="train")


def row(video_id, pictures, fixations, densities):
    """A row whose files are in the table."""
    height, width = pictures.shape[1:3]
    return {
        **dict.fromkeys(VIDEO_FEATURES),
        "video_id": video_id,
        "frames": [png(picture) for picture in pictures],
        "num_frames": len(pictures),
        "fps": 30.0,
        "width": width,
        "height": height,
        "maps": [png(density) for density in densities],
        "fixations": [png(fixation.astype(np.uint8) * 255) for fixation in fixations],
    }


def videos(count, frames=6):
    """A dataset of short videos "0", "1", …"""
    rows = [row(str(number), *gaze_video(number, frames, 16, 24)) for number in range(count)]
    return Dataset.from_list(rows, features=VIDEO_FEATURES)


def prepared(processor, pictures):
    return processor.prepare_frames(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("sampling", ["random", "regular"])
@pytest.mark.parametrize(
    ("fixture", "load", "videos"),
    [
        ("dhf1k_official", load_dhf1k, 2),
        ("dhf1k_frames", load_dhf1k, 2),
        ("ucf_sports", load_ucf_sports, 3),
        ("hollywood2", load_hollywood2, 2),
        ("stills_parquet", load_stills, 4),
        ("stills_folder", load_stills, 4),
    ],
)
def test_every_dataset_gives_clips_that_fit_in_a_batch(request, processor, fixture, load, videos, sampling):
    dataset = load(request.getfixturevalue(fixture), split="train")
    clips = ClipDataset(dataset, processor, num_frames=4, sampling=sampling, augmentation=EVERYTHING)
    batch = next(iter(DataLoader(clips, batch_size=len(clips))))
    assert len(set(batch["video_id"])) == videos
    frames = 1 if load is load_stills else 4
    assert batch["pixel_values_videos"].shape == (len(clips), frames, 3, *SIZE)
    assert batch["pixel_values_videos"].dtype == batch["labels"].dtype == torch.float32
    assert batch["pixel_values_videos"].isfinite().all()
    assert batch["labels"].shape == batch["fixations"].shape == (len(clips), *SIZE)
    assert batch["fixations"].dtype == torch.bool
    assert batch["labels"].min() >= 0
    assert 0.5 < batch["labels"].max() <= 1


@pytest.mark.parametrize("spacing", [None, 3, 7])
def test_regular_clips_are_those_cut_by_hand(train, processor, spacing):
    clips = ClipDataset(train, processor, num_frames=4, sampling="regular", spacing=spacing)
    labelled = list(range(19, -1, -(spacing or 4)))[::-1]
    assert [(item["video_id"], item["frame"]) for item in map(clips.__getitem__, range(len(clips)))] == [
        (video, frame) for video in ("0001", "0002") for frame in labelled
    ]
    for index, item in enumerate(map(clips.__getitem__, range(len(clips)))):
        number = index // len(labelled) + 1
        pictures, fixations, densities = gaze_video(number, 20, empty=(EMPTY_FRAME,) if number == 1 else ())
        window = [max(0, item["frame"] - back) for back in (3, 2, 1, 0)]
        torch.testing.assert_close(item["pixel_values_videos"], prepared(processor, pictures[window]))
        torch.testing.assert_close(item["labels"].numpy(), densities[item["frame"]] / np.float32(255))
        np.testing.assert_array_equal(item["fixations"], fixations[item["frame"]])


@pytest.mark.parametrize(("stride", "backward"), [(1, False), (2, False), (3, True)])
def test_clips_of_video_files_are_those_cut_by_hand(dhf1k_official, processor, stride, backward):
    augmentation = Augmentation(temporal_strides=(stride,), reverse=float(backward))
    dataset = load_dhf1k(dhf1k_official, split="train")
    clips = ClipDataset(dataset, processor, num_frames=4, sampling="regular", spacing=1, augmentation=augmentation)
    decoded = [frame.image for frame in read_frames(dhf1k_official / "video" / "001.AVI")]
    for index in range(20):
        item = clips[index]
        assert (item["video_id"], item["frame"]) == ("0001", index)
        steps = [stride * back * (1 if backward else -1) for back in (3, 2, 1, 0)]
        wanted = [index + step for step in steps]
        first = next(frame for frame in wanted if 0 <= frame < 20)
        window = [frame if 0 <= frame < 20 else first for frame in wanted]
        torch.testing.assert_close(item["pixel_values_videos"], prepared(processor, [decoded[i] for i in window]))


def test_regular_clips_are_known_without_opening_a_file(processor):
    rows = []
    for video_id, frames in {"a": 1, "b": 16, "c": 17, "d": 40}.items():
        paths = [{"bytes": None, "path": f"/nowhere/{video_id}/{frame}.png"} for frame in range(frames)]
        empty = row(video_id, *gaze_video(0, 1))
        rows.append({**empty, "num_frames": frames, "frames": paths, "maps": paths, "fixations": paths})
    dataset = Dataset.from_list(rows, features=VIDEO_FEATURES)
    clips = ClipDataset(dataset, processor, sampling="regular")
    assert len(clips) == 1 + 1 + 2 + 3
    with pytest.raises(ValueError, match="nowhere/a"):
        clips[0]


def test_a_video_shorter_than_the_window_is_padded_in_front(hollywood2, processor):
    clips = ClipDataset(load_hollywood2(hollywood2, split="train"), processor, num_frames=8, sampling="regular")
    (item,) = (item for item in map(clips.__getitem__, range(len(clips))) if item["video_id"].endswith("1_2"))
    frames = item["pixel_values_videos"]
    assert item["frame"] == 4
    assert all(torch.equal(frames[index], frames[3]) for index in range(3))
    assert all(not torch.equal(frames[index], frames[index + 1]) for index in range(3, 7))


def test_stills_are_clips_of_one_frame(stills_parquet, processor):
    clips = ClipDataset(load_stills(stills_parquet, split="train"), processor, num_frames=4)
    rows = list(gaze_stills("train", 4))
    assert len(clips) == 4
    for item, still in zip(map(clips.__getitem__, range(4)), rows, strict=True):
        assert (item["video_id"], item["frame"]) == (still["image_id"], 0)
        frames = item["pixel_values_videos"]
        assert len(frames) == 1
        if still["image_id"].endswith("png"):
            torch.testing.assert_close(frames, prepared(processor, [still["picture"]]))
        height, width = still["picture"].shape[:2]
        points = {
            (int(y * SIZE[0] / height), int(x * SIZE[1] / width))
            for x, y in zip(np.floor(still["fixation_x"]) + 0.5, np.floor(still["fixation_y"]) + 0.5, strict=True)
        }
        assert {tuple(point) for point in item["fixations"].nonzero().tolist()} == points
        assert bool(points) == (item["labels"].max() > 0.5)


def test_random_clips_label_every_frame_that_has_fixations(train, processor):
    clips = ClipDataset(train, processor, num_frames=1)
    assert len(clips) == 2
    labelled = Counter(clips.clip(0, epoch)["frame"] for epoch in range(200))
    assert set(labelled) == set(range(20)) - {EMPTY_FRAME}
    # 10.5 on average, with a standard deviation of 3.2.
    assert max(labelled.values()) < 24


def test_clips_per_video_are_different_clips(train, processor):
    clips = ClipDataset(train, processor, num_frames=2, clips_per_video=5)
    items = [clips[index] for index in range(len(clips))]
    assert [item["video_id"] for item in items] == ["0001"] * 5 + ["0002"] * 5
    assert len({item["frame"] for item in items[:5]}) > 2


def test_a_spot_its_density_and_its_fixation_stay_in_one_place(processor):
    """Each frame has its spot elsewhere, so a frame taken for another would show, as would any slip of geometry."""
    height, width, frames, size = 48, 72, 12, (96, 128)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    pictures = rng.integers(20, 60, (frames, height, width, 3), dtype=np.uint8)
    fixations = np.zeros((frames, height, width), bool)
    densities = np.zeros((frames, height, width), np.uint8)
    for frame in range(frames):
        row_, column = rng.integers(2, height - 2), rng.integers(2, width - 2)
        pictures[frame, row_ - 1 : row_ + 2, column - 1 : column + 2] = 230
        fixations[frame, row_, column] = True
        densities[frame] = 255 * np.exp(-((rows - row_) ** 2 + (columns - column) ** 2) / 20)
    dataset = Dataset.from_list([row("spot", pictures, fixations, densities)], features=VIDEO_FEATURES)
    clips = ClipDataset(dataset, processor, num_frames=4, augmentation=EVERYTHING, size=size)
    places = set()
    for epoch in range(60):
        item = clips.clip(0, epoch)
        # The middle of the brightest pixels is the middle of the spot.
        bright = item["pixel_values_videos"][-1].mean(dim=0)
        spot = (bright > bright.max() - 0.1 * (bright.max() - bright.median())).nonzero().double().mean(dim=0)
        peak = torch.tensor(divmod(int(item["labels"].argmax()), size[1]))
        (fixated,) = item["fixations"].nonzero()
        # Up to four pixels of the clip are one of the frame; crops may cut the spot.
        assert (fixated - peak).abs().max() <= 3
        assert (fixated - spot).abs().max() <= 4
        places.add(tuple(fixated.tolist()))
    assert len(places) > 50


def test_a_cut_clip_begins_in_another_video(processor):
    # Video n shows nothing but the grey 60 n.
    pictures = [np.full((20, 16, 24, 3), 60 * number, np.uint8) for number in range(4)]
    fixated = np.zeros((20, 16, 24), bool)
    fixated[:, 8, 12] = True
    rows = [row(str(number), frames, fixated, fixated.astype(np.uint8)) for number, frames in enumerate(pictures)]
    dataset = Dataset.from_list(rows, features=VIDEO_FEATURES)
    mean, std = processor.image_mean[0], processor.image_std[0]
    begins = set()
    for seed in range(12):
        clips = ClipDataset(dataset, processor, augmentation=Augmentation(cut=1.0), size=SIZE, seed=seed)
        for index in range(4):
            shown = clips[index]["pixel_values_videos"][:, 0, 0, 0] * std + mean
            greys = (shown / processor.rescale_factor / 60).round().int().tolist()
            assert len(greys) == 16
            assert greys[-1] == index
            others = [place for place, grey in enumerate(greys) if grey != index]
            assert others == list(range(len(others)))  # One cut; the rest is the labelled video's own.
            assert len({greys[place] for place in others}) <= 1
            begins.add(len(others))
    assert len(begins) > 8


def test_a_seed_and_an_epoch_make_the_clip(train, processor):
    def clip(seed, epoch):
        clips = ClipDataset(train, processor, num_frames=4, augmentation=EVERYTHING, seed=seed)
        clips.set_epoch(epoch)
        return clips[1]

    assert same(clip(0, 0), clip(0, 0))
    assert not same(clip(0, 0), clip(1, 0))
    assert not same(clip(0, 0), clip(0, 1))
    clips = ClipDataset(train, processor, num_frames=2, augmentation=EVERYTHING)
    assert same(clips[-1], clips[1])
    with pytest.raises(IndexError):
        clips[2]


def epochs(dataset, count=3, **options):
    """The items of every epoch by index, read as in training."""
    loader = DataLoader(dataset, batch_size=2, collate_fn=collate_by_shape, **options)
    found = []
    for epoch in range(count):
        dataset.set_epoch(epoch)
        items = []
        for batches in loader:
            clips = [
                {key: value[index] for key, value in batch.items()}
                for batch in batches
                for index in range(len(batch["place"]))
            ]
            items += sorted(clips, key=lambda clip: int(clip.pop("place")))
        found.append([{**item, "frame": int(item["frame"])} for item in items])
    return found


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("mixed", [False, True])
def test_workers_give_the_same_clips_in_every_epoch(train, stills_parquet, processor, options, mixed):
    clips = ClipDataset(train, processor, num_frames=2, augmentation=EVERYTHING, clips_per_video=3)
    if mixed:
        stills = ClipDataset(load_stills(stills_parquet, split="train"), processor, augmentation=EVERYTHING)
        clips = MixtureDataset([clips, stills], [2, 1])
    expected = [[clips[index] for index in range(len(clips)) if clips.set_epoch(epoch) is None] for epoch in range(3)]
    assert not any(map(same, expected[0], expected[1]))
    for epoch, items in zip(expected, epochs(clips, **options), strict=True):
        assert len(epoch) == len(items)
        assert all(map(same, epoch, items))


def test_the_size_is_the_processors_unless_given(train):
    processor = SalFoMVideoProcessor(size={"height": 64, "width": 64}, keep_aspect_ratio=True, size_divisor=16)
    crop = Augmentation(crop=(0.2, 0.9))
    for seed in range(5):
        item = ClipDataset(train, processor, num_frames=2, augmentation=crop, seed=seed)[0]
        assert item["pixel_values_videos"].shape == (2, 3, 48, 80)
        assert item["labels"].shape == (48, 80)
    item = ClipDataset(train, processor, num_frames=2, size=(40, 50))[0]
    assert item["pixel_values_videos"].shape == (2, 3, 40, 50)
    assert item["fixations"].shape == (40, 50)


def test_clips_of_several_shapes_are_several_batches(train, stills_parquet):
    processor = SalFoMVideoProcessor(size={"height": 64, "width": 96}, keep_aspect_ratio=True, size_divisor=32)
    stills = ClipDataset(load_stills(stills_parquet, split="train"), processor)
    clips = [*stills, *ClipDataset(train, processor, num_frames=2)]
    batches = collate_by_shape(clips)
    shapes = [tuple(batch["pixel_values_videos"].shape) for batch in batches]
    assert shapes == [(2, 1, 3, 64, 96), (2, 1, 3, 96, 64), (2, 2, 3, 64, 96)]
    assert [batch["place"].tolist() for batch in batches] == [[0, 2], [1, 3], [4, 5]]
    for batch in batches:
        for index, place in enumerate(batch.pop("place").tolist()):
            found = {key: value[index] for key, value in batch.items()}
            assert same({**found, "frame": int(found["frame"])}, clips[place])


def test_no_more_of_a_row_is_read_than_a_clip_shows(processor):
    pictures, fixations, densities = gaze_video(0, 40)
    long = row("long", pictures, fixations, densities)
    for frame in long["frames"][:30]:
        frame["bytes"] = b"not an image"
    for frame in long["frames"][30:]:
        frame["bytes"] += bytes(10**6)  # What follows the end of a PNG is ignored.
    dataset = Dataset.from_list([long], features=VIDEO_FEATURES)
    clips = ClipDataset(dataset, processor, num_frames=2, sampling="regular")
    torch.testing.assert_close(clips[19]["pixel_values_videos"], prepared(processor, pictures[38:]))
    tracemalloc.start()
    clips[19]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 10**6 < peak < 5 * 10**6
    with pytest.raises(VideoError, match="long"):
        clips[0]


def test_what_gives_no_clips_is_refused(train, dhf1k_official, processor):
    odd = Dataset.from_list([{**row("odd", *gaze_video(0, 6, 16, 24)), "width": 32}], features=VIDEO_FEATURES)
    with pytest.raises(DataError, match="odd has a frame of 24×16 pixels"):
        ClipDataset(odd, processor, num_frames=4)[0]
    with pytest.raises(DataError, match="0701 has no density maps"):
        ClipDataset(load_dhf1k(dhf1k_official, split="test"), processor)[0]
    with pytest.raises(TypeError, match="load it without streaming"):
        ClipDataset(train.to_iterable_dataset(), processor)
    for name, value in (("sampling", "all"), ("num_frames", 0), ("clips_per_video", 0), ("spacing", 0)):
        with pytest.raises(ValueError, match=name):
            ClipDataset(train, processor, **{name: value})


# Mixtures.


@pytest.fixture(scope="module")
def parts():
    """Three datasets of 3, 5 and 8 clips; videos of dataset d are named by d."""
    processor = SalFoMVideoProcessor(size={"height": 16, "width": 24})
    datasets = []
    for number, count in enumerate((3, 5, 8)):
        dataset = videos(count)
        names = [f"{number}/{video}" for video in range(count)]
        dataset = dataset.remove_columns("video_id").add_column("video_id", names)
        datasets.append(ClipDataset(dataset, processor, num_frames=1))
    return datasets


def names_of(mixture, epoch):
    mixture.set_epoch(epoch)
    return [mixture[index]["video_id"] for index in range(len(mixture))]


@pytest.mark.parametrize(("weights", "length"), [((12, 1, 1), 140), ((12, 1, 1), 137), ((0.3, 0, 0.1), 91)])
def test_every_stretch_of_a_mixture_has_the_shares(parts, weights, length):
    mixture = MixtureDataset(parts, weights, length)
    orders = set()
    for epoch in range(5):
        names = [str(number) for number in mixture.plan(epoch)[:, 0]]
        orders.add("".join(names))
        for stretch in (7, 14, 28):
            shares = [stretch * weight / sum(weights) for weight in weights]
            for first in range(length - stretch + 1):
                counts = Counter(names[first : first + stretch])
                assert all(abs(counts[str(n)] - share) < 2 for n, share in enumerate(shares)), (first, counts)
    assert len(orders) > 1
    # Where the shares are whole numbers, so are those of every batch, exactly.
    if length % 14 == 0:
        assert all(sorted(names[i : i + 14]) == ["0"] * 12 + ["1", "2"] for i in range(0, length, 14))


def test_a_mixture_repeats_no_clip_before_all_were_seen(parts):
    mixture = MixtureDataset(parts, [1, 1, 2], length=8, seed=3)
    videos = [f"{number}/{video}" for number, part in enumerate(parts) for video in range(len(part))]
    counts, frames, orders = Counter(), {video: set() for video in videos}, set()
    for epoch in range(20):
        mixture.set_epoch(epoch)
        items = [mixture[index] for index in range(8)]
        for item in items:
            counts[item["video_id"]] += 1
            frames[item["video_id"]].add(item["frame"])
        for number in "012":
            mine = [counts[video] for video in videos if video[0] == number]
            assert max(mine) - min(mine) <= 1
        orders.add(tuple(item["video_id"] for item in items))
    assert sum(counts.values()) == 160
    # Another pass is in another order, and over other random clips.
    assert len(orders) == 20
    assert all(len(seen) > 2 for seen in frames.values())


def test_a_mixture_depends_on_seed_and_epoch(parts):
    mixture = MixtureDataset(parts, [1, 1, 1])
    assert len(mixture) == len(names_of(mixture, 0)) == 16
    assert names_of(mixture, 1) == names_of(MixtureDataset(parts, [2, 2, 2]), 1)
    assert names_of(mixture, 1) != names_of(mixture, 2)
    assert names_of(mixture, 1) != names_of(MixtureDataset(parts, [1, 1, 1], seed=1), 1)


@pytest.mark.parametrize(
    ("weights", "length", "message"),
    [
        ([1, 1], None, "3 datasets"),
        ([1, -1, 1], None, "not below 0"),
        ([0, 0, 0], None, "not all 0"),
        ([1, float("nan"), 1], None, "finite"),
        ([1, 1, 1], 0, "length"),
        ([2, 1, 1], None, "Dataset 2 of the mixture is empty"),
    ],
)
def test_bad_mixtures_are_refused(parts, weights, length, message):
    empty = ClipDataset(videos(1).select([]), parts[0].processor)
    with pytest.raises(ValueError, match=message):
        MixtureDataset([*parts[:2], parts[2] if length is not None or weights[0] != 2 else empty], weights, length)
