"""Small gaze datasets on disk, in the layouts that people have: a bright disc moves, and fixations lie on it."""

import csv
import io
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

HEIGHT, WIDTH = 64, 96
DHF1K_FIRST = {"train": 1, "val": 601, "test": 701}
EMPTY_FRAME = 3  # of the first video of each split: nobody looks anywhere


def gaze_video(seed, frames=20, height=HEIGHT, width=WIDTH, empty=()):
    """
    A textured background with a bright disc that moves, and where people look.

    Returns:
        uint8 `(frames, height, width, 3)`; bool fixations `(frames, height, width)`; uint8 densities of the same
        shape, each with a maximum of 255, or 0 where `empty` lists the frame.
    """
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 100, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    rows, columns = np.mgrid[:height, :width]
    phase = rng.uniform(0, 2 * np.pi, 2)
    pictures, fixations, densities = [], [], []
    for frame in range(frames):
        y = height * (0.5 + 0.3 * np.sin(0.2 * frame + phase[0]))
        x = width * (0.5 + 0.3 * np.cos(0.15 * frame + phase[1]))
        disc = (rows - y) ** 2 + (columns - x) ** 2 < (height / 8) ** 2
        pictures.append(np.where(disc[..., None], np.uint8(240), texture))
        fixation, density = np.zeros((height, width), bool), np.zeros((height, width))
        if frame not in empty:
            for at_y, at_x in rng.normal((y, x), height / 20, (5, 2)):
                row, column = int(np.clip(at_y, 0, height - 1)), int(np.clip(at_x, 0, width - 1))
                fixation[row, column] = True
                density += np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (height / 12) ** 2))
            density *= 255 / density.max()
        fixations.append(fixation)
        densities.append(density.round().astype(np.uint8))
    return np.stack(pictures), np.stack(fixations), np.stack(densities)


def png(image):
    """An image as a row of a dataset holds it."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def same(one, other):
    """Whether two clips are the same."""
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if torch.is_tensor(one[key]) else one[key] == other[key] for key in one
    )


def write_avi(path, pictures, rate=30, codec="mpeg4"):
    """A video file with a key frame every 12 frames, so that seeking is put to the test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, options={"g": "12"})
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        output.mux(stream.encode(None))


def write_images(folder, images, names):
    """uint8 or bool images as files of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image.astype(np.uint8) * 255 if image.dtype == bool else image).save(folder / name)


def write_annotation(folder, fixations, densities, names):
    """`maps` and `fixation`, with the Matlab files that the published folders hold next to the images."""
    write_images(folder / "maps", densities, names)
    write_images(folder / "fixation", fixations, names)
    (folder / "fixation" / "maps").mkdir()
    for name in names:
        (folder / "fixation" / "maps" / name).with_suffix(".mat").write_bytes(b"MATLAB 5.0 MAT-file")


def write_dhf1k(folder, layout="official", videos=None, frames=20):
    """
    A DHF1K of a few videos; those of the test split have no labels.

    Args:
        layout: `"official"` (`video/001.AVI`, `annotation/0001/…`) or `"frames"` (`train/0001/images/…`).
        videos: number of videos per split, `{"train": 2, "val": 2, "test": 1}` by default.
        frames: length of every video; video n is made by `gaze_video(n, …)`.
    """
    folder = Path(folder)
    for split, count in (videos or {"train": 2, "val": 2, "test": 1}).items():
        first = DHF1K_FIRST[split]
        for number in range(first, first + count):
            empty = (EMPTY_FRAME,) if number == first else ()
            pictures, fixations, densities = gaze_video(number, frames, empty=empty)
            names = [f"{frame:04d}.png" for frame in range(1, frames + 1)]
            if layout == "official":
                write_avi(folder / "video" / f"{number:03d}.AVI", pictures)
                annotation = folder / "annotation" / f"{number:04d}"
            else:
                annotation = folder / split / f"{number:04d}"
                write_images(annotation / "images", pictures, names)
            if split != "test":
                write_annotation(annotation, fixations, densities, names)
    return folder


def write_clips(folder, clips):
    """
    Clips as Hollywood-2 and UCF-Sports are published: `training/CLIP/images/…`, names that do not begin at 1.

    Args:
        clips: `{"training/CLIP": (number of frames, height, width)}`; the n-th is made by `gaze_video(n, …)`.
    """
    folder = Path(folder)
    for seed, (clip, (frames, height, width)) in enumerate(clips.items()):
        empty = (EMPTY_FRAME,) if seed == 0 else ()
        pictures, fixations, densities = gaze_video(seed, frames, height, width, empty)
        # Two digits and three: sorting by characters would put frame 100 before frame 98.
        names = [f"{Path(clip).name}_{number}.png" for number in range(98, 98 + frames)]
        write_annotation(folder / clip, fixations, densities, names)
        # One frame of another kind than its map, as in the published UCF-Sports.
        write_images(folder / clip / "images", pictures, [*names[:1], names[1].replace(".png", ".jpg"), *names[2:]])
    return folder


def write_ucf_sports(folder, frames=20):
    """Three training clips and one for testing, of two sizes."""
    return write_clips(
        folder,
        {
            "training/Diving-Side-002": (frames, HEIGHT, WIDTH),
            "training/Golf-Swing-Back-001": (frames, HEIGHT, WIDTH),
            "training/Lifting-003": (frames, 80, 60),
            "testing/Diving-Side-001": (frames, HEIGHT, WIDTH),
        },
    )


def write_hollywood2(folder, frames=20):
    """Two training shots, one of them of 5 frames, and one for testing."""
    return write_clips(
        folder,
        {
            "training/actioncliptrain00001_1": (frames, HEIGHT, WIDTH),
            "training/actioncliptrain00001_2": (5, HEIGHT, WIDTH),
            "testing/actioncliptest00001_1": (frames, 48, 112),
        },
    )


def gaze_stills(split, count):
    """Rows of a table of stills: landscape and portrait, three observers of four fixations, the last without any."""
    for index in range(count):
        seed = index + {"train": 0, "dev": 100, "scene_train": 200}[split]
        height, width = (HEIGHT, WIDTH) if index % 2 == 0 else (WIDTH, HEIGHT)
        picture = gaze_video(seed, 1, height, width)[0][0]
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(0, width, 12), rng.uniform(0, height, 12)
        observers = np.repeat(np.arange(3), 4)
        seen = slice(0, 0 if index == count - 1 else None)
        yield {
            "image_id": f"{split}_{index + 1}.{'png' if index % 2 == 0 else 'jpg'}",
            "picture": picture,
            "fixation_x": x[seen].round(2).tolist(),
            "fixation_y": y[seen].round(2).tolist(),
            "observer": observers[seen].tolist(),
        }


def write_stills(folder, layout="parquet", splits=None):
    """
    Images with lists of fixations.

    Args:
        layout: `"parquet"` (`train.parquet`, `dev.parquet`) or `"folder"` (`train/images/…`, `train/fixations.csv`).
        splits: number of stills per split, `{"train": 4, "dev": 2}` by default.
    """
    folder = Path(folder)
    for split, count in (splits or {"train": 4, "dev": 2}).items():
        rows = list(gaze_stills(split, count))
        if layout == "folder":
            (folder / split).mkdir(parents=True, exist_ok=True)
            pictures, names = [row["picture"] for row in rows], [row["image_id"] for row in rows]
            write_images(folder / split / "images", pictures, names)
            with open(folder / split / "fixations.csv", "w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["image", "x", "y", "observer"])
                for row in rows:
                    points = zip(row["fixation_x"], row["fixation_y"], row["observer"], strict=True)
                    table.writerows([row["image_id"], *point] for point in points)
            continue
        for row in rows:
            picture = row.pop("picture")
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "PNG" if row["image_id"].endswith("png") else "JPEG")
            row.update(dataset="discs", height=picture.shape[0], width=picture.shape[1])
            row["image"] = {"bytes": data.getvalue(), "path": row["image_id"]}
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder
