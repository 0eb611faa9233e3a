"""How many maps a second this machine computes."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import cycle, islice

import torch
from tqdm import tqdm

from ..models.configuration_salfom import SalFoMConfig
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.names import EXAMPLE
from ..video.reading import read_frames
from .predictor import SaliencyPredictor

# Frames of the example that are predicted again and again.
FRAMES = 32

# Seconds that each predictor's turn lasts at least.
TURN = 0.5


def random_model(name: str, device: str | torch.device = "cpu") -> SalFoMForVideoSaliencyPrediction:
    """
    A network with random weights, the same each time.

    Args:
        name: `"salfom-large"`, which need not be installed, or any model whose configuration can be loaded.
        device: where to make it.
    """
    config = SalFoMConfig() if name == "salfom-large" else SalFoMConfig.from_pretrained(name)
    with torch.random.fork_rng([]), torch.device(device):
        torch.manual_seed(0)
        return SalFoMForVideoSaliencyPrediction(config).eval()


def maps_per_second(predictors: Sequence[SaliencyPredictor], rounds: int) -> list[float]:
    """
    The speed of predictors on a video: preparing frames, the network, and maps of the frames' size; not decoding and
    drawing. They take turns, so that whatever else the machine does slows all of them.

    Args:
        rounds: turns of each, whose median counts.
    """
    images = [frame.image for frame in islice(read_frames(EXAMPLE), FRAMES)]
    found: list[list[float]] = [[] for _ in predictors]
    with ExitStack() as stack, tqdm(total=rounds * len(found), unit="turn", disable=None, leave=False) as bar:
        streams = [stack.enter_context(closing(predictor.stream(cycle(images)))) for predictor in predictors]
        for _ in range(rounds):
            for predictor, stream, rates in zip(predictors, streams, found, strict=True):
                # The first maps of a turn may have been computed ahead.
                list(islice(stream, predictor.batch_size))
                begin, count, passed = time.perf_counter(), 0, 0.0
                while passed < TURN:
                    count += len(list(islice(stream, predictor.batch_size)))
                    passed = time.perf_counter() - begin
                rates.append(count / passed)
                bar.update()
    return [statistics.median(rates) for rates in found]
