"""Shots of stills, over which a camera pans, zooms, turns, shakes or rests, and cut-outs of others move or lie.

Points are (x, y), float64, in pixels of a still or a frame; 0 is the outer edge of the first pixel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..models.losses import gaussian_blur

# Of densities, see `video_density`: gaze on videos is more concentrated than gaze on stills.
BLUR_SIGMA, PRIOR_SIGMA = 0.03, 0.22

# Zoom of a camera: the share of the largest view of the still's that it shows. Resting cameras show more.
MOVING_ZOOM, RESTING_ZOOM = (0.55, 0.92), (0.8, 1.0)
# Views are drawn until one has this share of the fixations; after this many draws, the best one is taken.
SUBJECT_SHARE, VIEW_DRAWS = 0.6, 10
SHAKES = (0.0, 0.003, 0.009)  # How much a hand-held camera shakes, as a share of the frame's width.
SALIENT_OBJECTS = 0.7  # Probability that a cut-out shows what was much looked at, rather than anything.
UNSEEN_SHARE = 0.05  # A cut-out with a smaller share of its still's fixations draws gaze, if it moves, to all of it.
LARGEST_STEP = 1.25  # Cut-outs seen smaller than they are by more than this are reduced, as sampling would alias.


class Picture(NamedTuple):
    """A still, or a cut-out of one, with its fixations."""

    # `(3, height, width)`, RGB in 0…255; of a cut-out `(4, …)`, RGB times the opacity, and the opacity in 0…1.
    pixels: torch.Tensor
    points: np.ndarray  # `(n, 2)`

    @property
    def extent(self) -> np.ndarray:
        """float64 `(2,)`: width and height in pixels."""
        return np.array([self.pixels.shape[2], self.pixels.shape[1]], np.float64)

    def largest_scale(self, half: np.ndarray) -> float:
        """The scale at which a frame of half that extent shows as much as it can of the picture."""
        return float((self.extent / 2 / half).min())


@dataclass
class View:
    """A picture as it is seen in each frame: `source = anchor + scale · R(angle) · (seen - at)`."""

    picture: Picture
    anchor: np.ndarray  # `(frames, 2)`, a point of the picture
    at: np.ndarray  # `(frames, 2)`, where in the frame it is seen
    scale: np.ndarray  # `(frames,)`, pixels of the picture per pixel of the frame
    angle: np.ndarray  # `(frames,)`, in radians

    @property
    def moves(self) -> bool:
        return any(np.ptp(values, axis=0).any() for values in (self.anchor, self.at, self.scale, self.angle))

    @cached_property
    def _pixels(self) -> torch.Tensor:
        pixels, shrink = self.picture.pixels, 1 / self.scale.max()
        if shrink * LARGEST_STEP >= 1:
            return pixels
        size = [max(1, round(side * shrink)) for side in pixels.shape[1:]]
        return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]

    def _matrix(self, frame: int) -> np.ndarray:
        """`(2, 2)`, from the frame's coordinates to the picture's."""
        cos, sin = math.cos(self.angle[frame]), math.sin(self.angle[frame])
        return self.scale[frame] * np.array([[cos, -sin], [sin, cos]])

    def to_source(self, points: np.ndarray, frame: int) -> np.ndarray:
        """What is seen at points `(n, 2)` of a frame."""
        return self.anchor[frame] + (points - self.at[frame]) @ self._matrix(frame).T

    def to_frame(self, points: np.ndarray, frame: int) -> np.ndarray:
        """Where in a frame points `(n, 2)` of the picture are seen."""
        return self.at[frame] + (points - self.anchor[frame]) @ np.linalg.inv(self._matrix(frame)).T

    def sample(self, x: torch.Tensor, y: torch.Tensor, frame: int) -> torch.Tensor:
        """
        What is seen at points x, y of a frame, which broadcast to `(rows, columns)`: float32
        `(channels, rows, columns)`; outside of the picture, its outermost pixels.
        """
        # Source coordinates run from −1 to 1.
        matrix = self._matrix(frame) * (2 / self.picture.extent)[:, None]
        offset = self.anchor[frame] * 2 / self.picture.extent - 1 - matrix @ self.at[frame]
        rows = zip(matrix.tolist(), offset.tolist(), strict=True)
        grid = torch.stack([x * across + (y * down + constant) for (across, down), constant in rows], dim=-1)
        return F.grid_sample(self._pixels[None], grid[None], padding_mode="border", align_corners=False)[0]

    def paste(self, image: torch.Tensor, frame: int) -> None:
        """Put a cut-out, as seen in a frame, over an image `(3, height, width)`, in place."""
        corners = self.to_frame(np.array([(0, 0), (1, 0), (0, 1), (1, 1)]) * self.picture.extent, frame)
        limits = (image.shape[2], image.shape[1])
        left, top = np.clip(np.floor(corners.min(axis=0)), 0, limits).astype(int).tolist()
        right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, limits).astype(int).tolist()
        if left < right and top < bottom:
            pixels = self.sample(torch.arange(left, right) + 0.5, torch.arange(top, bottom)[:, None] + 0.5, frame)
            image[:, top:bottom, left:right].mul_(1 - pixels[3:]).add_(pixels[:3])


def _progress(frames: int, rng: np.random.Generator) -> np.ndarray:
    """`(frames,)`: how much of a way is done, 0…1, at constant, growing or falling speed."""
    return np.linspace(0, 1, frames) ** math.exp(rng.uniform(-0.5, 0.5))


def _wander(frames: int, rng: np.random.Generator) -> np.ndarray:
    """`(frames, 2)`: a smooth random walk of about unit speed that ends at 0, of a hand or of a bobbing object."""
    steps = rng.normal(size=(2, frames + 8))
    smooth = np.stack([np.convolve(axis, np.full(9, 1 / 3), "valid") for axis in steps], axis=1)
    return smooth - smooth[-1]


def _subject_view(
    picture: Picture, half: np.ndarray, zoom: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Centre `(2,)` and scale of a view that shows most of the fixations if one is found, and one at least."""
    middle = picture.extent / 2
    scales = picture.largest_scale(half) * rng.uniform(*zoom, VIEW_DRAWS)
    rooms = middle - half * scales[:, None]
    centres = middle + rooms * rng.uniform(-1, 1, (VIEW_DRAWS, 2))
    # One view is certain to show something.
    centres[-1] = np.clip(rng.choice(picture.points), middle - rooms[-1], middle + rooms[-1])
    distances = np.abs(picture.points - centres[:, None])
    shares = (distances < half * scales[:, None, None]).all(axis=2).mean(axis=1)
    chosen = (shares > SUBJECT_SHARE).argmax() if shares.max() > SUBJECT_SHARE else shares.argmax()
    return centres[chosen], scales[chosen]


def resting_camera(picture: Picture, half: np.ndarray, frames: int, rng: np.random.Generator) -> View:
    centre, scale = _subject_view(picture, half, RESTING_ZOOM, rng)
    anchor, at = np.tile(centre, (frames, 1)), np.tile(half, (frames, 1))
    return View(picture, anchor, at, np.full(frames, scale), np.zeros(frames))


def moving_camera(picture: Picture, half: np.ndarray, frames: int, rng: np.random.Generator) -> View:
    """A pan, often with a zoom, a turn or a shaking hand, that shows nothing beyond the picture."""
    middle = picture.extent / 2
    last, last_scale = _subject_view(picture, half, MOVING_ZOOM, rng)
    amount = rng.uniform(0.1, 1.0)  # From almost at rest to a whip pan.
    widest = picture.largest_scale(half) * rng.uniform(*MOVING_ZOOM)
    zoom = amount * (widest - last_scale) * (rng.random() < 0.6)
    first = middle + (middle - half * (last_scale + zoom)) * rng.uniform(-1, 1, 2)
    before = 1 - _progress(frames, rng)
    angle = before * rng.normal() * 0.03 * (rng.random() < 0.3)
    # A turned frame needs more of the picture: half of the width and height that it shows, at a scale of 1.
    cos, sin = np.abs(np.cos(angle))[:, None], np.abs(np.sin(angle))[:, None]
    shown = half * cos + half[::-1] * sin
    scale = np.minimum(last_scale + before * zoom, (middle / shown).min(axis=1))
    shake = _wander(frames, rng) * rng.choice(SHAKES) * 2 * half[0] * last_scale
    room = middle - shown * scale[:, None]
    centre = np.clip(last + before[:, None] * amount * (first - last) + shake, middle - room, middle + room)
    return View(picture, centre, np.tile(half, (frames, 1)), scale, angle)


def moving_object(
    picture: Picture, centre: np.ndarray, scale: float, camera: View, half: np.ndarray, rng: np.random.Generator
) -> View:
    """The way of an object, seen by its centre, over the frame to anywhere; now and then the camera follows it."""
    frames, width = len(camera.scale), 2 * half[0]
    panned = np.linalg.norm(camera.anchor[0] - camera.anchor[-1]) / camera.scale[-1] > 0.05 * width
    followed = panned and rng.random() < 0.3
    distance = 0.0 if followed else width * rng.choice([0.08, 0.2, 0.5]) * rng.uniform(0.6, 1.4)
    direction = rng.uniform(0, 2 * math.pi)
    way = distance * np.array([math.cos(direction), 0.6 * math.sin(direction)])
    bobbing = _wander(frames, rng) * width * 0.004 * rng.random()
    at = _object_end(half, rng) - (1 - _progress(frames, rng))[:, None] * way + bobbing
    growth = np.linspace(1 + rng.normal() * 0.15, 1, frames).clip(0.7, 1.4)
    angle = np.linspace(rng.normal() * 0.15, 0, frames)
    return View(picture, np.tile(centre, (frames, 1)), at, scale * growth, angle)


def lying_object(
    picture: Picture, centre: np.ndarray, scale: float, camera: View, half: np.ndarray, rng: np.random.Generator
) -> View:
    """An object at rest in the scene, seen by the camera as the scene is."""
    spot = camera.to_source(_object_end(half, rng), -1)
    at = np.stack([camera.to_frame(spot, frame) for frame in range(len(camera.scale))])
    anchor = np.tile(centre, (len(at), 1))
    return View(picture, anchor, at, scale * camera.scale / camera.scale[-1], camera.angle)


def _object_end(half: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`(2,)`: where an object is seen in the last frame."""
    return 2 * half * rng.normal(0.5, 0.17, 2).clip(0.12, 0.88)


def cut_out(still: Picture, rng: np.random.Generator) -> tuple[Picture, np.ndarray]:
    """A blob of a still, its fixations, and its centre `(2,)`, all in pixels of the blob's picture."""
    radius = min(still.extent) * rng.uniform(0.08, 0.22)
    if rng.random() < SALIENT_OBJECTS:  # The middle of a group of fixations.
        near = np.linalg.norm(still.points[:, None] - still.points, axis=2) < radius
        crowded = np.argsort(-near.sum(axis=1), kind="stable")[: max(1, len(near) // 4)]
        centre = still.points[near[rng.choice(crowded)]].mean(axis=0)
    else:
        centre = still.extent * rng.uniform(0.2, 0.8, 2)
    centre = np.clip(centre, radius, still.extent - radius)
    stretch = rng.uniform((0.75, 0.75), (1.4, 1.2))
    waves = rng.normal(size=4) * 0.25 / np.arange(2, 6)
    phases, softness = rng.uniform(0, 2 * math.pi, 4), rng.uniform(0.5, 2.0)

    reach = (radius * (1 + np.abs(waves).sum()) + 6 * softness) / stretch
    left, top = np.maximum(centre - reach, 0).astype(int).tolist()
    right, bottom = np.minimum(centre + reach + 1, still.extent).astype(int).tolist()
    x = (torch.arange(left, right) + 0.5 - centre[0]) * stretch[0]
    y = (torch.arange(top, bottom) + 0.5 - centre[1])[:, None] * stretch[1]
    theta, outline = torch.atan2(y, x), 1.0
    for k, wave, phase in zip(range(2, 6), waves.tolist(), phases.tolist(), strict=True):
        outline = outline + wave * torch.cos(k * theta + phase)
    opacity = torch.sigmoid((radius * outline - torch.hypot(x, y)) / softness)

    points = still.points - (left, top)
    points = points[((points >= 0) & (points < (right - left, bottom - top))).all(axis=1)]
    columns, rows = points.astype(np.int64).T
    points = points[(opacity[rows, columns] > 0.5).numpy()]
    centre = centre - (left, top)
    if len(points) < UNSEEN_SHARE * len(still.points):
        points = rng.normal(centre, radius / 4, (30, 2))
    pixels = torch.cat([still.pixels[:, top:bottom, left:right] * opacity, opacity[None]])
    # Nothing is seen beyond the edge, where sampling repeats the outermost pixels.
    return Picture(F.pad(pixels, (1, 1, 1, 1)), points + 1), centre + 1


class Shot:
    """What a camera sees of a picture with float pixels, and objects over it, in frames of `size` (height, width)."""

    def __init__(self, camera: View, size: tuple[int, int]):
        self.camera, self.size = camera, size
        self.objects: list[View] = []
        # `(n, 2)`, the fixations that are seen in the last frame, and `(n,)`, how much each adds to the density.
        self.points = self._seen(camera)
        self.weights = np.full(len(self.points), 1 / max(1, len(self.points)))

    def _seen(self, view: View) -> np.ndarray:
        points = view.to_frame(view.picture.points, -1)
        return points[((points >= 0) & (points < self.size[::-1])).all(axis=1)]

    def add(self, view: View, share: float) -> None:
        """Put a cut-out in front; it draws that share of the gaze, and nobody sees what is behind."""
        self.objects.append(view)
        own = self._seen(view)
        x, y = torch.from_numpy(self.points.astype(np.float32)).T[:, None]
        visible = ~(view.sample(x, y, -1)[3, 0] > 0.5).numpy()
        weights = self.weights[visible]
        weights = weights / max(weights.sum(), 1e-9) * (1 - share)
        self.points = np.concatenate([self.points[visible], own])
        self.weights = np.concatenate([weights, np.full(len(own), share / max(1, len(own)))])

    def frames(self, first: int, stop: int) -> Iterator[torch.Tensor]:
        """The frames `first` to `stop - 1`, float32 `(3, height, width)` each, about 0…255."""
        x, y = torch.arange(self.size[1]) + 0.5, torch.arange(self.size[0])[:, None] + 0.5
        scene = None
        for frame in range(first, stop):
            if scene is None or self.camera.moves:
                scene = self.camera.sample(x, y, frame)
            image = scene.clone()
            for view in self.objects:
                view.paste(image, frame)
            yield image

    def labels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the last frame: the density of gaze, float32 in 0…1, its maximum 1, and the fixated pixels, bool."""
        weights, fixations = torch.zeros(self.size), torch.zeros(self.size, dtype=torch.bool)
        x, y = torch.from_numpy(self.points.astype(np.int64)).T
        weights.index_put_((y, x), torch.from_numpy(self.weights).float(), accumulate=True)
        fixations[y, x] = True
        return video_density(weights, BLUR_SIGMA, PRIOR_SIGMA), fixations


def video_density(looked_at: torch.Tensor, blur: float, prior: float) -> torch.Tensor:
    """
    The density of gaze on a frame of video, its maximum 1, from what is looked at, float32 `(height, width)` each:
    blurred by a share of the width, and, since gaze on video keeps closer to the centre than gaze on stills,
    multiplied by a Gaussian in the middle with a share of height and width as its standard deviations.
    """
    density = gaussian_blur(looked_at, blur * looked_at.shape[1])
    y, x = ((torch.arange(side) + 0.5) / side - 0.5 for side in looked_at.shape)
    density = density * torch.exp(-0.5 * (y[:, None] ** 2 + x**2) / prior**2)
    return density / density.max()
