"""How many maps a second this machine computes."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import cycle, islice

import torch
from tqdm import trange

from ..models.configuration_salfom import SalFoMConfig
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.names import EXAMPLE
from ..video.reading import read_frames
from .predictor import SaliencyPredictor

TURN = 0.5  # seconds that each predictor's turn lasts at least


def random_model(name: str, device: str | torch.device = "cpu") -> SalFoMForVideoSaliencyPrediction:
    """The network of a model with random weights, always the same; `"salfom-large"` need not be installed for it."""
    config = SalFoMConfig() if name == "salfom-large" else SalFoMConfig.from_pretrained(name)
    with torch.random.fork_rng([]), torch.device(device):
        torch.manual_seed(0)
        return SalFoMForVideoSaliencyPrediction(config).eval()


def maps_per_second(predictors: Sequence[SaliencyPredictor], rounds: int) -> list[float]:
    """
    The speed of predictors on a video, the median of so many turns: preparing frames, the network, and maps of the
    frames' size; not decoding and drawing. They take turns, so that whatever else the machine does slows all of them.
    """
    images = [frame.image for frame in islice(read_frames(EXAMPLE), 32)]
    found: list[list[float]] = [[] for _ in predictors]
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(predictor.stream(cycle(images)))) for predictor in predictors]
        for _ in trange(rounds, unit="round", disable=None, leave=False):
            for predictor, stream, rates in zip(predictors, streams, found, strict=True):
                list(islice(stream, predictor.batch_size))  # They may have been computed ahead.
                begin, count, passed = time.perf_counter(), 0, 0.0
                while passed < TURN:
                    count += len(list(islice(stream, predictor.batch_size)))
                    passed = time.perf_counter() - begin
                rates.append(count / passed)
    return [statistics.median(rates) for rates in found]
