"""
Train the weights that ship in the package: EfficientNet-Lite0 on every frame and a SalFoM decoder of reduced width.

    python -m salfom_hf.train_default --gaze train.parquet --clips DIR --teacher center.tflite --output runs/default

Gaze on still images is what there is to learn from, so video is made of it. Stage A trains everything on stills, each
standing for all frames of a clip. Stage B freezes the encoder and trains the decoder on a mixture: stills, clips with
camera and object motion synthesised from stills, and real clips whose maps an image model has drawn (pseudo-labels).

The parquet file has the columns `image, width, height, fixation_x, fixation_y`; `--clips` is a folder of videos. Needs
the extra `salfom-hf[train]`, and for `--teacher` the package `ai-edge-litert`.
"""

import argparse
import io
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from salfom_hf import EfficientNetLiteConfig, SalFoMConfig, SalFoMForVideoSaliencyPrediction
from salfom_hf.efficientnet_lite import load_imagenet_weights
from salfom_hf.losses import correlation, saliency_loss
from salfom_hf.modeling_salfom import SalFoMModelOutput

FRAMES = 16
# Input sizes (height, width) of about the same area, and how often each is used. Multiples of 32.
SIZES, SIZE_SHARES = ((288, 384), (256, 448), (384, 288)), (0.60, 0.33, 0.07)
# Blur of the fixations, as a share of the width. Gaze on video is more concentrated, and its data sets blur it less.
STILL_SIGMA, VIDEO_SIGMA = 24 / 512, 0.03
# Gaze on video keeps closer to the centre than gaze on stills: targets of moving clips are multiplied by a Gaussian
# with this share of the frame as its standard deviation.
VIDEO_PRIOR_SIGMA = 0.3
# The image model's maps are too peaked: on the training stills its square root agrees far better with human gaze
# (KL 0.6 in place of 1.9). Gaze on video is more concentrated, hence a little more than that.
TEACHER_POWER, TEACHER_SIGMA = 0.6, 0.02
LABEL_STRIDE = 2  # labels are drawn at half the input's resolution


# --- Densities and geometry. Points are (x, y) in pixels, with (0, 0) the outer corner of the first pixel. ---


def blur(density: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of one map, zeros outside."""
    vertical, horizontal = (
        torch.exp(-0.5 * ((torch.arange(n)[:, None] - torch.arange(n)[None]) / sigma) ** 2) for n in density.shape
    )
    return vertical @ density @ horizontal


def draw_density(points: torch.Tensor, size: tuple[int, int], sigma: float) -> torch.Tensor:
    """Fixations `(n, 2)` in pixels of a frame of that size to a density that sums to 1, at half the resolution."""
    rows, columns = size[0] // LABEL_STRIDE, size[1] // LABEL_STRIDE
    inside = (points >= 0).all(1) & (points[:, 0] < size[1]) & (points[:, 1] < size[0])
    x, y = (points[inside] / LABEL_STRIDE).long().T
    density = torch.zeros(rows, columns)
    density.index_put_((y, x), torch.ones(len(x)), accumulate=True)
    density = blur(density, sigma * columns)
    return density / density.sum().clamp_min(1e-9)


def apply_video_prior(density: torch.Tensor) -> torch.Tensor:
    y, x = ((torch.arange(n) + 0.5) / n - 0.5 for n in density.shape)
    density = density * torch.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2) / VIDEO_PRIOR_SIGMA**2)
    return density / density.sum().clamp_min(1e-9)


@dataclass
class Path2D:
    """A similarity per frame from output to source pixels: `source = anchor + scale · R(angle) · (output - at)`."""

    anchor: torch.Tensor  # (frames, 2), source pixels
    at: torch.Tensor  # (frames, 2), output pixels where the anchor is seen
    scale: torch.Tensor  # (frames,), source pixels per output pixel
    angle: torch.Tensor  # (frames,), radians

    def matrices(self) -> torch.Tensor:
        cos, sin = self.angle.cos() * self.scale, self.angle.sin() * self.scale
        return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)

    def to_output(self, points: torch.Tensor, frame: int = -1) -> torch.Tensor:
        """Where source points `(n, 2)` are seen in a frame."""
        return (points - self.anchor[frame]) @ torch.linalg.inv(self.matrices()[frame]).T + self.at[frame]


def render(image: torch.Tensor, path: Path2D, size: tuple[int, int]) -> torch.Tensor:
    """Look at an image `(channels, height, width)` along a path: `(frames, channels, *size)`, zeros outside."""
    height, width = image.shape[1:]
    shrink = min(1.0, 1 / path.scale.max().item())  # a view that shows much of the image must not alias
    if shrink < 0.95:
        target = (round(height * shrink), round(width * shrink))
        image = F.interpolate(image[None], target, mode="bilinear", antialias=True)[0]
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    grid = torch.stack([x, y], -1).flatten(0, 1)
    source = (grid[None] - path.at[:, None]) @ path.matrices().transpose(1, 2) + path.anchor[:, None]
    source = source / torch.tensor([width, height]) * 2 - 1
    source = source.unflatten(1, size)
    return F.grid_sample(image.expand(len(source), -1, -1, -1), source, align_corners=False)


# --- Still images with fixations, and clips made of them ---


class Stills:
    """Images as uint8 `(3, height, width)` and their fixations `(n, 2)`, all in memory."""

    def __init__(self, rows: list[dict]):
        self.images, self.points = [], []
        for row in rows:
            image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            self.images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous())
            points = torch.tensor([row["fixation_x"], row["fixation_y"]], dtype=torch.float32).T
            limits = torch.tensor([image.width, image.height]) - 0.5
            self.points.append(torch.minimum(points.clamp_min(0), limits))

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, rng: np.random.Generator, index: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """A float image 0…255 and its fixations, flipped half of the time."""
        index = int(rng.integers(len(self))) if index is None else index
        image, points = self.images[index].float(), self.points[index].clone()
        if rng.random() < 0.5:
            image = image.flip(2)
            points[:, 0] = image.shape[2] - points[:, 0]
        return image, points


def still_view(image, points, size, rng, zoom=(0.8, 1.0)):
    """A random crop of a still that fills the frame: image `(3, *size)`, fixations in its pixels."""
    height, width = image.shape[1:]
    scale = min(width / size[1], height / size[0]) * rng.uniform(*zoom)
    crop_h, crop_w = min(height, round(size[0] * scale)), min(width, round(size[1] * scale))
    top, left = int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1))
    crop = image[:, top : top + crop_h, left : left + crop_w]
    view = F.interpolate(crop[None], size, mode="bilinear", antialias=True)[0]
    points = (points - torch.tensor([left, top])) * torch.tensor([size[1] / crop_w, size[0] / crop_h])
    return view, points


def wander(rng, strength: float) -> torch.Tensor:
    """Smooth random motion `(frames, 2)` that ends at (0, 0), of a hand-held camera or a bobbing object."""
    noise = torch.from_numpy(rng.normal(size=(2, 1, FRAMES + 8))).float()
    smooth = F.conv1d(noise, torch.ones(1, 1, 9) / 3)[:, 0].T
    return (smooth - smooth[-1]) * strength


def progress(rng) -> torch.Tensor:
    """Time of each frame, 0…1, at constant, growing or falling speed."""
    return torch.linspace(0, 1, FRAMES) ** float(np.exp(rng.uniform(-0.5, 0.5)))


def camera_path(image, points, size, rng) -> Path2D:
    """A pan and zoom over the image that stays inside it and ends where most of the fixations are in view."""
    bounds = torch.tensor([image.shape[2], image.shape[1]])
    widest = min(image.shape[2] / size[1], image.shape[1] / size[0])
    half = torch.tensor([size[1], size[0]]) / 2

    def view(scale):
        room = bounds / 2 - half * scale
        return bounds / 2 + room * torch.from_numpy(rng.uniform(-1, 1, 2)).float()

    for _ in range(10):  # try until the subject is in view
        last_scale = widest * rng.uniform(0.55, 0.92)
        last = view(last_scale)
        offset = (points - last).abs()
        if (offset < half * last_scale).all(1).float().mean() > 0.6:
            break
    amount = rng.uniform(0.1, 1.0)  # from almost still to a whip pan
    first_scale = last_scale + amount * (widest * rng.uniform(0.55, 0.92) - last_scale) * (rng.random() < 0.6)
    first = last + amount * (view(first_scale) - last)
    t = progress(rng)
    scale = first_scale + (last_scale - first_scale) * t
    centre = first + (last - first) * t[:, None] + wander(rng, rng.choice([0.0, 1.5, 4.0]))
    angle = (1 - t) * rng.normal() * 0.03 * (rng.random() < 0.3)
    room = bounds / 2 - half * scale[:, None]
    centre = torch.minimum(torch.maximum(centre, bounds / 2 - room), bounds / 2 + room)
    return Path2D(centre, half.expand(FRAMES, 2), scale, angle.float())


def resting_path(image, size, rng) -> Path2D:
    """The image fills the frame and does not move."""
    scale = min(image.shape[2] / size[1], image.shape[1] / size[0]) * rng.uniform(0.8, 1.0)
    centre = torch.tensor([image.shape[2] / 2, image.shape[1] / 2])
    at = torch.tensor([size[1] / 2, size[0] / 2])
    steady = torch.ones(FRAMES)
    return Path2D(centre.expand(FRAMES, 2), at.expand(FRAMES, 2), steady * scale, steady * 0)


def cut_out(image, points, rng):
    """A blob around a much-fixated spot (or any spot): the image with an alpha channel, its centre, its fixations."""
    height, width = image.shape[1:]
    radius = width * rng.uniform(0.06, 0.17)
    if rng.random() < 0.7:
        near = (torch.cdist(points, points) < radius).float().sum(1)
        top = near.topk(min(len(near), 40)).indices
        centre = points[top[int(rng.integers(len(top)))]]
        centre = points[(points - centre).norm(dim=1) < radius].mean(0)
    else:
        centre = torch.tensor([width, height]) * torch.from_numpy(rng.uniform(0.2, 0.8, 2)).float()
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = (x - centre[0]) * rng.uniform(0.75, 1.4), (y - centre[1]) * rng.uniform(0.75, 1.2)
    theta, outline = torch.atan2(y, x), torch.full((height, width), radius)
    for k in (2, 3, 4, 5):
        outline = outline + radius * rng.normal() * 0.25 / k * torch.cos(k * theta + rng.uniform(0, 2 * math.pi))
    alpha = torch.sigmoid((outline - (x**2 + y**2).sqrt()) / rng.uniform(0.5, 2.0))
    inside = alpha[points[:, 1].long().clamp_max(height - 1), points[:, 0].long().clamp_max(width - 1)] > 0.5
    fixations = points[inside]
    if len(fixations) < 8:  # an object nobody looked at while it was part of a still draws gaze when it moves
        fixations = centre + torch.from_numpy(rng.normal(size=(30, 2))).float() * radius / 3
    return torch.cat([image, 255 * alpha[None]]), centre, fixations


def object_path(centre, size, rng, camera: Path2D, moving: bool) -> Path2D:
    """Where an object is seen: moving over the frame, held in view by the camera, or at rest in the scene."""
    extent = torch.tensor([size[1], size[0]])
    end = extent * torch.from_numpy(rng.normal(0.5, 0.17, 2).clip(0.12, 0.88)).float()
    scale = torch.full((FRAMES,), camera.scale[-1].item() * rng.uniform(0.7, 1.4))
    if moving:
        direction = rng.uniform(0, 2 * math.pi)
        velocity = torch.tensor([math.cos(direction), 0.6 * math.sin(direction)])
        followed = rng.random() < 0.3 and camera.anchor.std(0).sum() > 3  # at rest on the screen, before a pan
        distance = 0.0 if followed else size[1] * rng.choice([0.08, 0.2, 0.5]) * rng.uniform(0.6, 1.4)
        at = end - (1 - progress(rng))[:, None] * velocity * distance + wander(rng, size[1] * 0.004 * rng.random())
        scale = scale * torch.linspace(1 + rng.normal() * 0.15, 1, FRAMES).clamp(0.7, 1.4)
    else:
        spot = camera.anchor[-1] + camera.matrices()[-1] @ (end - camera.at[-1])
        at = torch.stack([camera.to_output(spot[None], t)[0] for t in range(FRAMES)])
        scale = scale * camera.scale / camera.scale[-1]
    angle = torch.linspace(rng.normal() * 0.15 * moving, 0, FRAMES)
    return Path2D(centre.expand(FRAMES, 2), at, scale, angle)


def synthesise(stills: Stills, size, rng, kind: str | None = None):
    """A clip `(frames, 3, *size)`, 0…255, and the density of its last frame."""
    kind = kind or rng.choice(["camera", "object", "cut", "flicker"], p=[0.3, 0.45, 0.13, 0.12])
    image, points = stills.draw(rng)
    if kind == "flicker":  # nothing moves: a still, whatever the noise
        view, points = still_view(image, points, size, rng)
        return view.expand(FRAMES, -1, -1, -1), draw_density(points, size, STILL_SIGMA)
    if kind == "cut":  # only what follows the cut counts
        before, _ = synthesise(stills, size, rng, rng.choice(["camera", "object", "flicker"]))
        after, density = synthesise(stills, size, rng, rng.choice(["camera", "object"]))
        cut = int(rng.integers(2, FRAMES - 2))
        return torch.cat([before[:cut], after[cut:]]), density
    at_rest = kind == "object" and rng.random() < 0.4
    camera = resting_path(image, size, rng) if at_rest else camera_path(image, points, size, rng)
    clip = render(image, camera, size)
    seen = camera.to_output(points)
    if kind == "camera":
        return clip, apply_video_prior(draw_density(seen, size, VIDEO_SIGMA))
    # An object at rest in the scene is pasted half of the time, so that pasting alone tells nothing; then the mover.
    density = draw_density(seen, size, VIDEO_SIGMA)
    for moving in (False, True) if rng.random() < 0.5 else (True,):
        pasted, centre, fixations = cut_out(*stills.draw(rng), rng)
        path = object_path(centre, size, rng, camera, moving)
        pasted = render(pasted, path, size)
        alpha = pasted[:, 3:] / 255
        clip = clip * (1 - alpha) + pasted[:, :3] * alpha
        visible = 1 - F.interpolate(alpha[-1:], density.shape, mode="bilinear", antialias=True)[0, 0]
        density = density * visible  # nobody sees what is behind
        share = rng.uniform(0.6, 0.9) if moving else rng.uniform(0.1, 0.3)
        own = draw_density(path.to_output(fixations), size, VIDEO_SIGMA)
        density = (1 - share) * density / density.sum().clamp_min(1e-9) + share * own
    return clip, apply_video_prior(density)


# --- Real clips with the maps of an image model ---


def read_clip(path: Path, longest: int = 448, limit: int = 400) -> np.ndarray:
    """The first frames of a video, reduced, as uint8 `(frames, height, width, 3)`."""
    import av

    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            factor = longest / max(frame.width, frame.height)
            size = (round(frame.width * factor), round(frame.height * factor))
            frames.append(np.asarray(frame.to_image().resize(size, Image.Resampling.BILINEAR, reducing_gap=3)))
            if len(frames) == limit:
                break
    return np.stack(frames)


def label_clips(clips: dict[str, np.ndarray], teacher: Path, every: int = 5) -> dict[str, np.ndarray]:
    """Maps of Google's attention-center model for every fifth frame: float16 `(frames / 5, 120, 160)`."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        str(teacher),
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=True,
        num_threads=torch.get_num_threads(),
    )
    interpreter.allocate_tensors()
    image_input = next(d["index"] for d in interpreter.get_input_details() if d["name"].startswith("image"))
    labels = {}
    for name, frames in clips.items():
        maps = []
        for frame in frames[::every]:
            resized = np.asarray(Image.fromarray(frame).resize((640, 480), Image.Resampling.BILINEAR), np.float32)
            interpreter.set_tensor(image_input, resized[None])
            interpreter.invoke()
            saliency = torch.from_numpy(interpreter.get_tensor(1583).copy())[None]  # tensor 1583: the saliency map
            saliency = F.interpolate(saliency, (120, 160), mode="bilinear", antialias=True)[0, 0]
            maps.append((saliency / saliency.max()).half().numpy())
        labels[name] = np.stack(maps)
        print(f"labelled {len(maps)} frames of {name}", flush=True)
    return labels


class RealClips:
    """Videos in memory, and for every fifth frame a pseudo-label."""

    def __init__(self, folder: Path, teacher: Path, cache: Path, every: int = 5):
        suffixes = {".mp4", ".mkv", ".avi", ".mov", ".webm"}
        clips = {p.name: read_clip(p) for p in sorted(folder.iterdir()) if p.suffix.lower() in suffixes}
        if not cache.exists():
            cache.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(cache, **label_clips(clips, teacher, every))
        with np.load(cache) as labels:
            self.labels = {name: torch.from_numpy(labels[name]) for name in clips}
        self.frames = {name: torch.from_numpy(frames).permute(0, 3, 1, 2) for name, frames in clips.items()}
        self.every = every

    def draw(self, size, rng):
        """A clip `(frames, 3, *size)`, 0…255, that ends at a labelled frame, and its blurred label."""
        name = str(rng.choice(sorted(self.frames)))
        frames, labels = self.frames[name], self.labels[name]
        index = int(rng.integers(len(labels)))
        # As in use, a window that begins before the video does is filled with the first frame.
        step = int(rng.choice([1, 1, 1, 2]))
        window = torch.arange(-FRAMES + 1, 1) * step + index * self.every
        clip = frames[window.clamp_min(0)].float()
        height, width = clip.shape[2:]
        scale = min(width / size[1], height / size[0]) * rng.uniform(0.75, 1.0)
        crop_h, crop_w = min(height, round(size[0] * scale)), min(width, round(size[1] * scale))
        top, left = int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1))
        label_size = (size[0] // LABEL_STRIDE, size[1] // LABEL_STRIDE)
        label = F.interpolate(labels[index].float()[None, None], (height, width), mode="bilinear")[0]
        clip, label = (x[..., top : top + crop_h, left : left + crop_w] for x in (clip, label))
        clip = F.interpolate(clip, size, mode="bilinear", antialias=True)
        label = F.interpolate(label[None], label_size, mode="bilinear", antialias=True)[0, 0]
        if rng.random() < 0.5:
            clip, label = clip.flip(3), label.flip(1)
        return clip, apply_video_prior(blur(label**TEACHER_POWER, TEACHER_SIGMA * label_size[1]))


def distort(clip: torch.Tensor, rng) -> torch.Tensor:
    """Colour jitter for the whole clip, and for moving pictures also flicker, noise and coarse compression."""
    clip = clip.clamp(0, 255)
    grey = clip.mean(1, keepdim=True)
    clip = grey + (clip - grey) * (0.0 if rng.random() < 0.04 else rng.uniform(0.6, 1.4))
    mean = clip.mean()
    clip = mean * rng.uniform(0.8, 1.15) + (clip - mean) * rng.uniform(0.75, 1.25)
    clip = clip * torch.from_numpy(rng.uniform(0.94, 1.06, (1, 3, 1, 1))).float()
    if len(clip) > 1:
        if rng.random() < 0.3:
            clip = clip * torch.from_numpy(rng.normal(1, rng.uniform(0.01, 0.06), (len(clip), 1, 1, 1))).float()
        if rng.random() < 0.2:
            size, factor = clip.shape[2:], rng.uniform(0.4, 0.8)
            clip = F.interpolate(clip, scale_factor=factor, mode="bilinear", antialias=True)
            clip = F.interpolate(clip, size, mode="bilinear")
    if rng.random() < 0.3:
        seed = torch.Generator().manual_seed(int(rng.integers(2**31)))
        clip = clip + torch.randn(clip.shape, generator=seed) * rng.uniform(1, 10)
    return clip.clamp(0, 255)


class Batches(Dataset):
    """Batch `i` of a stage, the same whenever it is asked for: groups of `(uint8 pixels, labels)` of one size."""

    def __init__(self, stills: Stills, clips: RealClips | None, groups: dict[str, int], seed: int, length: int):
        self.stills, self.clips, self.groups, self.seed, self.length = stills, clips, groups, seed, length

    def __len__(self) -> int:
        return self.length

    def sample(self, kind: str, size, rng, index: int):
        if kind == "still":
            order = np.random.default_rng((self.seed, 1, index // len(self.stills))).permutation(len(self.stills))
            image, points = self.stills.draw(rng, int(order[index % len(order)]))
            view, points = still_view(image, points, size, rng)
            return view[None], draw_density(points, size, STILL_SIGMA)
        return synthesise(self.stills, size, rng) if kind == "motion" else self.clips.draw(size, rng)

    def __getitem__(self, index: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng((self.seed, 0, index))
        size = SIZES[int(rng.choice(len(SIZES), p=SIZE_SHARES))]
        batch = {}
        for kind, count in self.groups.items():
            samples = [self.sample(kind, size, rng, index * count + i) for i in range(count)]
            pixels = torch.stack([distort(clip, rng).round().byte() for clip, _ in samples])
            batch[kind] = (pixels, torch.stack([label for _, label in samples]))
        return batch


# --- The model ---


def build_model() -> SalFoMForVideoSaliencyPrediction:
    config = SalFoMConfig(
        encoder_config=EfficientNetLiteConfig(),
        num_frames=FRAMES,
        image_size=(288, 384),
        decoder_hidden_size=128,
        decoder_channels=(128, 64, 64, 32, 32, 16),
        fusion_channels=(16, 16),
        tcfe_depths=(2, 2, 2),
        tcfe_num_heads=(4, 4, 4),
        drop_path_rate=0.0,
        output_stride=4,
        center_prior=True,
    )
    model = SalFoMForVideoSaliencyPrediction(config)
    load_imagenet_weights(model.salfom.encoder)
    model.salfom.encoder.to(memory_format=torch.channels_last)
    return model


def decode_still(model, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    What `model.decode` gives for stills, at a fraction of the cost.

    When all time steps are equal, a convolution without padding in time is one in space with its taps added up, and
    attention over time returns its values. Only SFD's convolutions over DFD's volumes pad time with zeros; there the
    first step differs from the others.

    Args:
        features: `(batch, channels, rows, columns)`, of each still once.
    """

    def flat(convolution, x):
        return F.conv2d(x, convolution.weight.sum(2), convolution.bias, padding=convolution.padding[1:])

    def larger(x, scale):
        return x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)

    def collapse(x, convolutions):
        first = others = x
        for convolution in convolutions:
            before, now, after = convolution.weight[..., 0].unbind(2)
            bias = convolution.bias
            first, others = (
                (F.conv2d(first, now[..., None], bias) + F.conv2d(others, after[..., None])).relu(),
                F.conv2d(others, (before + now + after)[..., None], bias).relu(),
            )
        return first

    tcfe, dfd, sfd = model.salfom.tcfe, model.salfom.dfd, model.salfom.sfd
    transformer, x = [], features
    for stage, scale in zip(tcfe.stages, (1, 4, tcfe.last_scale), strict=True):
        x = flat(stage.patch_embedding, x)
        tokens = x.flatten(2).transpose(1, 2).unsqueeze(1)
        for block in stage.blocks:
            tokens = block(tokens)
        x = larger(tokens.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]), scale)
        transformer.append(x)
    dynamic, x = [], features
    for index, (step, scale) in enumerate(zip(dfd.steps, dfd.scales, strict=True)):
        x = larger(flat(step, x).relu(), scale)
        x = x + transformer[index // 2] if index in (1, 3) else x
        dynamic.append(x)
    static = features
    for convolution in sfd.temporal:
        static = flat(convolution, static).relu()
    for index, (convolution, scale) in enumerate(zip(sfd.spatial, sfd.scales, strict=True)):
        static = larger(convolution(static).relu(), scale)
        if index == 2:
            static = static + collapse(dynamic[1], sfd.from_dynamic_2)
        if index == 5:
            static = static + collapse(dynamic[3], sfd.from_dynamic_4)
    branches = SalFoMModelOutput(
        static_features=static, transformer_features=transformer[2], dynamic_features=dynamic[5]
    )
    return model.fuse(branches, size)


def predict(model, pixels: torch.Tensor, train_encoder: bool = False) -> torch.Tensor:
    """Logits `(batch, height, width)` of uint8 clips `(batch, frames, 3, height, width)`; one frame: a still."""
    batch, frames = pixels.shape[:2]
    pixels = ((pixels.flatten(0, 1).float() - 127) / 128).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(train_encoder and torch.is_grad_enabled()):
            adapter, encoder = model.salfom.adapter, model.salfom.encoder
            features = adapter.features(encoder, pixels)[0]
        features = model.salfom.project(features)
        if frames == 1:
            return decode_still(model, features, tuple(pixels.shape[2:]))
        volume = features.unflatten(0, (batch, frames)).transpose(1, 2)
        return model.decode(volume, tuple(pixels.shape[2:]))


# --- Watching and training ---


@torch.no_grad()
def score_stills(model, stills: Stills) -> tuple[float, float]:
    """Mean NSS and CC on stills at the default size."""
    scores = []
    for image, points in zip(stills.images, stills.points, strict=True):
        view = F.interpolate(image[None].float(), SIZES[0], mode="bilinear", antialias=True).round().clamp(0, 255)
        saliency = predict(model, view[None].byte()).float().sigmoid()
        density = draw_density(points, image.shape[1:], STILL_SIGMA)
        cc = correlation(F.interpolate(saliency[None], density.shape, mode="bilinear")[0], density[None])
        saliency = F.interpolate(saliency[None], image.shape[1:], mode="bilinear")[0, 0]
        x, y = points.long().unique(dim=0).T
        nss = (saliency[y, x].mean() - saliency.mean()) / saliency.std(correction=0)
        scores.append((nss.item(), cc.item()))
    return tuple(np.mean(scores, axis=0))


@torch.no_grad()
def score_motion(model, stills: Stills, count: int = 24) -> tuple[float, float]:
    """Mean CC on a fixed set of synthetic clips, from all frames and from the last frame alone."""
    scores = []
    for index in range(count):
        rng = np.random.default_rng((7, index))
        clip, density = synthesise(stills, SIZES[index % 2], rng)
        clip = clip.clamp(0, 255).byte()[None]
        maps = (predict(model, clip), predict(model, clip[:, -1:]))
        scores.append(
            [correlation(F.avg_pool2d(m.float().sigmoid(), LABEL_STRIDE), density[None]).item() for m in maps]
        )
    return tuple(np.mean(scores, axis=0))


@dataclass
class Stage:
    """`groups`: samples per batch and kind. Rates are the highest ones; both fall to zero along a cosine."""

    name: str
    steps: int
    groups: dict[str, int]
    decoder_lr: float
    encoder_lr: float = 0.0
    warmup: int = 30


def make_optimizer(model, stage: Stage) -> torch.optim.Optimizer:
    encoder = set(model.salfom.encoder.parameters())
    groups = []
    for is_encoder, rate in ((True, stage.encoder_lr), (False, stage.decoder_lr)):
        if rate == 0:
            continue
        parameters = [p for p in model.parameters() if (p in encoder) == is_encoder]
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1 and p.shape[0] > 1) == decays]
            groups.append({"params": chosen, "lr": rate, "top": rate, "weight_decay": 0.01 if decays else 0.0})
    return torch.optim.AdamW(groups)


def train_stage(model, ema, stage: Stage, batches: Batches, args, watch, saved: dict | None):
    optimizer = make_optimizer(model, stage)
    start = 0
    if saved is not None:
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    loader = DataLoader(
        Subset(batches, range(start, stage.steps)), batch_size=None, num_workers=args.workers, prefetch_factor=2
    )
    # Batch norms keep the statistics of ImageNet: batches are small, and a clip's frames are nearly alike.
    model.train()
    model.salfom.encoder.eval()
    total = sum(stage.groups.values())
    losses, began = [], time.time()
    for step, batch in enumerate(loader, start):
        factor = min(1, (step + 1) / stage.warmup) * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * factor
        optimizer.zero_grad(set_to_none=True)
        loss = {}
        for kind, (pixels, labels) in batch.items():
            loss[kind] = saliency_loss(predict(model, pixels, stage.encoder_lr > 0), labels)
            (loss[kind] * (len(pixels) / total)).backward()
        torch.nn.utils.clip_grad_norm_((p for p in model.parameters() if p.grad is not None), 2.0)
        optimizer.step()
        decay = min(args.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, parameter in zip(ema.parameters(), model.parameters(), strict=True):
                average.lerp_(parameter, 1 - decay)
        losses.append([value.item() for value in loss.values()])
        if (step + 1) % args.log_every == 0 or step + 1 == stage.steps:
            means = " ".join(f"{k} {v:.3f}" for k, v in zip(loss, np.mean(losses, axis=0), strict=True))
            rate = optimizer.param_groups[-1]["lr"]
            seconds = (time.time() - began) / len(losses)
            print(
                f"{stage.name} {step + 1}/{stage.steps} loss: {means} lr {rate:.1e} {seconds:.2f} s/step", flush=True
            )
            losses, began = [], time.time()
        if (step + 1) % args.save_every == 0 or step + 1 == stage.steps:
            state = {"stage": stage.name, "step": step + 1, "optimizer": optimizer.state_dict()}
            state |= {"model": model.state_dict(), "ema": ema.state_dict()}
            torch.save(state, args.output / "training.pt.new")
            (args.output / "training.pt.new").replace(args.output / "training.pt")
            ema.save_pretrained(args.output / f"stage-{stage.name}")
            watch(ema)
            began = time.time()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaze", type=Path, required=True, help="parquet file of stills with fixations")
    parser.add_argument("--dev", type=Path, help="a second one, only to watch scores on")
    parser.add_argument("--clips", type=Path, help="folder of videos without gaze")
    parser.add_argument("--teacher", type=Path, help="attention-center .tflite model that labels them")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs=2, default=(560, 800), metavar=("A", "B"), help="of the two stages")
    parser.add_argument("--lr", type=float, nargs=2, default=(1e-3, 3e-4), metavar=("A", "B"), help="of the decoder")
    parser.add_argument("--encoder-lr", type=float, default=1e-4, help="in stage A")
    parser.add_argument("--ema", type=float, default=0.99, help="decay of the averaged weights, which are the result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    args = parser.parse_args()
    if (args.clips is None) != (args.teacher is None):
        parser.error("--clips and --teacher go together.")

    import pyarrow.parquet as pq

    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = pq.read_table(args.gaze).to_pylist()
    held_out, stills = Stills(rows[::23]), Stills([row for i, row in enumerate(rows) if i % 23])
    dev = Stills(pq.read_table(args.dev).to_pylist()) if args.dev else None
    clips = RealClips(args.clips, args.teacher, args.output / "pseudo_labels.npz") if args.clips else None

    model, ema = build_model(), build_model().requires_grad_(False).eval()
    ema.load_state_dict(model.state_dict())
    mixture = {"motion": 2, "real": 2, "still": 4} if clips else {"motion": 4, "still": 4}
    stages = [
        Stage("A", args.steps[0], {"still": 16}, args.lr[0], args.encoder_lr),
        Stage("B", args.steps[1], mixture, args.lr[1]),
    ]
    saved = None
    if args.resume and (args.output / "training.pt").exists():
        saved = torch.load(args.output / "training.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        stages = stages[[stage.name for stage in stages].index(saved["stage"]) :]

    def watch(model):
        line = "  held out: NSS {:.3f} CC {:.3f}".format(*score_stills(model, held_out))
        line += "; motion, window / last frame alone: CC {:.3f} / {:.3f}".format(*score_motion(model, held_out))
        if dev is not None:
            line += "; dev: NSS {:.3f} CC {:.3f}".format(*score_stills(model, dev))
        print(line, flush=True)

    for stage in stages:
        batches = Batches(stills, clips, stage.groups, args.seed + ord(stage.name), stage.steps)
        train_stage(model, ema, stage, batches, args, watch, saved)
        model.load_state_dict(ema.state_dict())
        saved = None
    ema.save_pretrained(args.output)


if __name__ == "__main__":
    main()
