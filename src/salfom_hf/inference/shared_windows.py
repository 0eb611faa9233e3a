"""The decoder over a stream of frames: whatever two windows share is computed once.

When the window moves on by one frame, most of what the decoder computes has been computed before. A convolution of
temporal kernel 2 and stride 2 pairs the frames (0, 1), (2, 3), … of the window; two windows later the same pairs come
again, one place further to the left. So only the newest output is new, and the others were the newest ones 2, 4, 6, …
frames ago. The next such layer pairs these pairs, 2 frames apart, the one after it 4 frames apart: a tree, dilated
over the stream, of which each frame adds one output to every layer.

    frames         … t−7  t−6  t−5  t−4  t−3  t−2  t−1   t
    first layer         a(t−6)    a(t−4)    a(t−2)     a(t)     a(t) of frames t−1 and t
    second layer             b(t−4)               b(t)          b(t) of a(t−2) and a(t)
    third layer                        c(t)                     c(t) of b(t−4) and b(t)

Attention in shifted windows, and convolutions that pad time, treat the ends of the window otherwise than its middle;
what lies in the middle is shared all the same. Nothing of that is written down here layer by layer:
[`StreamingDecoder`] lays out one window as a graph, in which places that apply one operation to the same inputs, only
shifted in time, are one node. Each node is computed at most once for each frame, and kept as long as a later window
may ask for it.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ..models.modeling_salfom import (
    DFD,
    DFD_ADDS_AFTER,
    SFD,
    SFD_ADDS_AFTER,
    TCFE,
    SalFoMForVideoSaliencyPrediction,
    TemporalSwinBlock,
    upsample,
)
from .cpu import pytorch_threads
from .cuts import unseen_share
from .encoder_graph import FrameEncoder
from .profiling import stage, within
from .sliding_window import Map, batched, encoded, interpolated, key_frames
from .threads import ahead

# What one node reads: tensors (1, channels, rows, columns), the oldest first.
Inputs = Sequence[torch.Tensor]

# From the inputs of a node at some times to its value at each of them, (parts, channels, rows, columns).
Operation = Callable[[list[Inputs]], Iterable[torch.Tensor]]


class Place(NamedTuple):
    """A place in the window: one part of a node's value, as it was `lag` frames before the window's last."""

    node: "Node"
    part: int
    lag: int

    def time(self, last: int) -> int:
        # Frames before 0 are copies of frame 0, so that their values are those at time 0.
        return max(last - self.lag, 0)

    def value(self, last: int) -> torch.Tensor:
        """What is there in the window whose last frame is `last`: `(1, channels, rows, columns)`."""
        return self.node.values[self.time(last)][self.part : self.part + 1]


class Node:
    """An operation on some places, of which the newest has lag 0, and its values that are still needed, by time."""

    def __init__(self, operation: Operation | None = None, reads: tuple[Place, ...] = ()):
        self.operation, self.reads = operation, reads
        self.reach = 0  # Of how many frames before a window's last, at most, a value is needed.
        self.values: dict[int, torch.Tensor] = {}

    def compute(self, times: Iterable[int]) -> None:
        """Make sure that `values` holds these times; what is missing is computed in one call."""
        missing = [time for time in dict.fromkeys(times) if time not in self.values]
        if self.operation is None or not missing:
            return
        for place in self.reads:
            place.node.compute(map(place.time, missing))
        inputs: list[Inputs] = [[place.value(time) for place in self.reads] for time in missing]
        self.values.update(zip(missing, self.operation(inputs), strict=True))


def parts(modules: nn.ModuleList) -> list[Any]:
    """The modules of a list; PyTorch's annotations do not say of which kind they are."""
    return list(modules)


def batch_of(nodes: list[Inputs]) -> torch.Tensor:
    """The inputs at each time as channels, `(times, inputs · channels, rows, columns)`, with one copy at most."""
    first = nodes[0][0]
    if len(nodes) == len(nodes[0]) == 1:
        return first
    _, channels, *size = first.shape
    shape = (len(nodes), len(nodes[0]) * channels, *size)
    batch = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)
    for index, inputs in enumerate(nodes):
        torch.cat(list(inputs), 1, out=batch[index : index + 1])
    return batch


def convolution(
    weight: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = True, scale: int = 1
) -> Operation:
    """
    A convolution, weight `(outputs, channels, taps, height, width)`, with as many inputs as it has taps in time. It
    runs over space alone, with the inputs stacked as channels: so it is faster. `scale` up-samples the output.
    """
    if weight.ndim == 5:
        weight = weight.transpose(1, 2).flatten(1, 2)
    weight = weight.contiguous(memory_format=torch.channels_last)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)

    def convolve(places: list[Inputs]) -> torch.Tensor:
        features = F.conv2d(batch_of(places), weight, bias, padding=padding)
        return upsample(features.relu_() if relu else features, scale).unsqueeze(1)

    return convolve


def window_attention(block: TemporalSwinBlock, steps: int) -> Operation:
    """A block of TCFE, whose inputs are the tokens of one window."""
    attention = block.attention
    step = torch.arange(steps, device=attention.relative_position_bias.device)
    bias = attention.relative_position_bias[step[:, None] - step[None, :] + block.window - 1][:, :, None, None]
    # A token that sees nothing but itself gets its own value: two linear layers in a row, which are one.
    qkv, output, value_rows = attention.qkv, attention.output, slice(2 * attention.qkv.in_features, None)
    own = output.weight @ qkv.weight[value_rows], output.weight @ qkv.bias[value_rows] + output.bias

    def attend(tokens: torch.Tensor) -> torch.Tensor:
        """`(windows, steps, rows, columns, channels)` to the same."""
        if steps == 1:
            return F.linear(tokens, *own)
        query, key, value = qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).unbind(-3)
        # (windows, query, key, rows, columns, heads); products by element are faster than many tiny matrix products.
        scores = ((query * attention.scaling).unsqueeze(2) * key.unsqueeze(1)).sum(-1) + bias
        attended = (scores.softmax(2).unsqueeze(-1) * value.unsqueeze(1)).sum(2)
        return output(attended.flatten(-2))

    def transform(windows: list[Inputs]) -> torch.Tensor:
        tokens = batch_of([[token] for window in windows for token in window]).permute(0, 2, 3, 1)
        tokens = tokens.unflatten(0, (-1, steps))
        tokens = tokens + attend(block.norm1(tokens))
        tokens = tokens + block.fc2(F.gelu(block.fc1(block.norm2(tokens))))
        return tokens.movedim(-1, 2)

    return transform


def added(places: list[Inputs]) -> list[torch.Tensor]:
    return [first + second for first, second in places]


def upsampled(scale: int, places: list[Inputs]) -> torch.Tensor:
    return upsample(batch_of(places), scale).unsqueeze(1)


def magnitude(places: list[Inputs]) -> list[torch.Tensor]:
    """Mean absolute value of a volume, or of the change from one to the next: `(1,)` each."""
    volumes = [inputs[0] if len(inputs) == 1 else inputs[1] - inputs[0] for inputs in places]
    return [volume.abs().mean(dtype=torch.float32).view(1) for volume in volumes]


def relative_change(places: list[Inputs]) -> list[torch.Tensor]:
    """Mean change between neighbours relative to the mean magnitude, `(1,)` each; the inputs are first the changes."""
    changes = len(places[0]) // 2
    values = [torch.cat(list(inputs)) for inputs in places]
    return [value[:changes].mean().view(1) / value[changes:].mean().clamp_min(1e-6) for value in values]


class StreamingDecoder:
    """
    The network above a frame-wise encoder for one stream of frames `size` (height, width) pixels large: the maps that
    it gives window by window, at less cost, in evaluation mode, by its weights as they are now. `after_cut` as
    `window_maps`.
    """

    def __init__(self, model: SalFoMForVideoSaliencyPrediction, size: tuple[int, int], after_cut: bool = False):
        self.size, self.prior, self.after_cut = size, model.center_prior, after_cut
        self.num_frames = 0
        self.window = model.config.num_frames
        self.frames = Node()
        # All of them, each after what it reads.
        self.nodes: dict[tuple[Operation | None, tuple[Place, ...]], Node] = {(None, ()): self.frames}
        window = [Place(self.frames, 0, lag) for lag in reversed(range(self.window))]

        network, transformer, dynamic, branches = model.salfom, [], [], []
        if network.tcfe is not None:
            *transformer, branch = self.tcfe_rows(network.tcfe, window)
            branches += branch
        if network.dfd is not None:
            *dynamic, branch = self.dfd_rows(network.dfd, window, transformer)
            branches += branch
        if network.sfd is not None:
            branches = self.sfd_row(network.sfd, window, dynamic) + branches
        self.branches = branches
        first, second, last = (part.weight for part in parts(model.fusion.convolutions))
        row = self.over(convolution(first), branches, len(branches))
        (self.logits,) = self.over(convolution(last, relu=False), self.over(convolution(second), row))

        self.change = None
        if self.prior is not None:
            self.still, self.moving = self.prior.log_densities(size)
            if len(window) > 1:
                changes = [self.places(magnitude, pair)[0] for pair in pairwise(window)]
                (self.change,) = self.places(relative_change, changes + self.over(magnitude, window))
        for node in reversed(self.nodes.values()):
            for read in node.reads:
                read.node.reach = max(read.node.reach, node.reach + read.lag)

    def places(self, operation: Operation, reads: Sequence[Place], count: int = 1) -> list[Place]:
        """Where the window holds what an operation makes of these places."""
        lag = min(place.lag for place in reads)
        key = operation, tuple(place._replace(lag=place.lag - lag) for place in reads)
        node = self.nodes.setdefault(key, Node(*key))
        return [Place(node, part, lag) for part in range(count)]

    def over(self, operation: Operation, row: Sequence[Place], length: int = 1) -> list[Place]:
        """What an operation makes of a row of places, read in groups of a length."""
        return [self.places(operation, row[start : start + length])[0] for start in range(0, len(row), length)]

    def attended(self, block: TemporalSwinBlock, row: list[Place]) -> list[Place]:
        # The network masks what wraps round when it shifts; here the windows at both ends are simply shorter.
        shift = block.shift if len(row) > block.window else 0
        bounds = sorted({0, *range(shift, len(row), block.window), len(row)})
        windows = [row[start:end] for start, end in pairwise(bounds)]
        operations = {steps: window_attention(block, steps) for steps in {len(window) for window in windows}}
        return [place for window in windows for place in self.places(operations[len(window)], window, len(window))]

    def tcfe_rows(self, tcfe: TCFE, row: list[Place]) -> list[list[Place]]:
        """See [`TCFE`]. The last embedding, of 1×1 kernels, runs before its input is up-sampled: the same."""
        rows = []
        for level, before, after in zip(parts(tcfe.stages), (1, 1, 4), (1, 4, tcfe.last_scale), strict=True):
            embedding = level.patch_embedding
            embed = convolution(embedding.weight, embedding.bias, relu=False, scale=before)
            row = self.over(embed, row, embedding.kernel_size[0])
            for block in level.blocks:
                row = self.attended(block, row)
            rows.append(self.over(partial(upsampled, after), row))
        return rows

    def dfd_rows(self, dfd: DFD, row: list[Place], transformer: list[list[Place]]) -> list[list[Place]]:
        """See [`DFD`]."""
        rows = []
        for index, (step, scale) in enumerate(zip(parts(dfd.steps), dfd.scales, strict=True)):
            row = self.over(convolution(step.weight, scale=scale), row, step.kernel_size[0])
            if transformer and index in DFD_ADDS_AFTER:
                pairs = zip(row, transformer[DFD_ADDS_AFTER.index(index)], strict=True)
                row = [self.places(added, pair)[0] for pair in pairs]
            rows.append(row)
        return [rows[1], rows[3], row]

    def collapsed_padded(self, convolutions: nn.ModuleList, row: list[Place]) -> list[Place]:
        """Convolutions that pad time with zeros, as [`SFD`] has them above what DFD gives."""
        for part in parts(convolutions):
            first, others = convolution(part.weight[:, :, 1:], part.bias), convolution(part.weight, part.bias)
            triples = [row[index - 1 : index + 2] for index in range(2, len(row), 2)]
            row = self.places(first, row[:2]) + [self.places(others, triple)[0] for triple in triples]
        return row

    def sfd_row(self, sfd: SFD, row: list[Place], dynamic: list[list[Place]]) -> list[Place]:
        """See [`SFD`]."""
        for part in parts(sfd.temporal):
            row = self.over(convolution(part.weight), row, 2)
        for index, (part, scale) in enumerate(zip(parts(sfd.spatial), sfd.scales, strict=True)):
            row = self.over(convolution(part.weight, scale=scale), row)
            if dynamic and index in SFD_ADDS_AFTER:
                number = SFD_ADDS_AFTER.index(index)
                convolutions = (sfd.from_dynamic_2, sfd.from_dynamic_4)[number]
                row = self.places(added, row + self.collapsed_padded(convolutions, dynamic[number]))
        return row

    def add_frame(self, features: torch.Tensor) -> None:
        """The next frame's features `(channels, rows, columns)`."""
        self.frames.values[self.num_frames] = features.unsqueeze(0)
        self.num_frames += 1

    @staticmethod
    def at(place: Place, times: Sequence[int]) -> list[torch.Tensor]:
        place.node.compute(map(place.time, times))
        return [place.value(time) for time in times]

    def maps(self, times: Sequence[int]) -> torch.Tensor:
        """
        The maps of some frames, ascending, that have been added since the last call: float32 `(maps, height, width)`,
        values in 0…1.
        """
        with stage("branches"):
            for place in self.branches:
                self.at(place, times)
        with stage("fusion"):
            logits = torch.cat(self.at(self.logits, times))
            if logits.shape[-2:] != self.size:
                logits = F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False)
            # In place: at this size, memory costs more than arithmetic.
            if self.prior is not None:
                logits += self.still
            if self.prior is not None and self.change is not None:
                motion = self.prior.motion(torch.cat(self.at(self.change, times)).to(logits.dtype))
                if self.after_cut:
                    motion += (1 - motion) * motion.new_tensor([unseen_share(time, self.window) for time in times])
                motion = motion.view(-1, 1, 1, 1)
                logits.addcmul_(motion, self.moving)
                if self.prior.sharpness != 1:
                    logits *= 1 + (self.prior.sharpness - 1) * motion
            for node in self.nodes.values():
                for time in [time for time in node.values if time <= times[-1] - node.reach]:
                    del node.values[time]
            return logits.squeeze(1).sigmoid_().float()


def can_share_windows(model: SalFoMForVideoSaliencyPrediction) -> bool:
    """
    Whether the encoder sees single frames and no module, such as one of PEFT, changes what the weights compute; and
    the model is on a CPU: a GPU computes whole windows by the dozen sooner than it starts so many small layers.
    """
    if not isinstance(model, nn.Module) or model.device.type != "cpu":  # One that was exported is no module.
        return False
    # Code that came with a model is this package's, but transformers may load it twice, under two names.
    known = ("torch.nn.", "transformers.", "transformers_modules.", "salfom_hf.")
    return model.salfom.adapter.framewise and all(type(part).__module__.startswith(known) for part in model.modules())


def encoder_threads(still: bool = False) -> int:
    """
    On how many of PyTorch's threads frames are encoded. Where there are several, encoder and decoder run side by
    side, each on half: two networks wait less for each other than one on all threads. A still has them to itself.
    """
    threads = torch.get_num_threads()
    return threads if still else max(1, threads // 2)


@torch.inference_mode()
def shared_maps(
    model: SalFoMForVideoSaliencyPrediction,
    frames: Iterator[torch.Tensor],
    stride: int,
    batch_size: int,
    encode: FrameEncoder,
    after_cut: bool = False,
) -> Generator[torch.Tensor]:
    """What [`window_maps`][salfom_hf.inference.sliding_window.window_maps] gives, of a model that can stream."""
    first = next(frames, None)
    if first is None:
        return
    threads = torch.get_num_threads()
    decoder = StreamingDecoder(model, (first.shape[-2], first.shape[-1]), after_cut)

    def maps() -> Iterator[Map]:
        for batch in batched(key_frames(features, stride, decoder.add_frame), batch_size):
            yield from zip(batch, decoder.maps(batch), strict=True)

    # One by one, onnxruntime is faster, as what it computes of a frame stays in the caches; PyTorch is in batches.
    features = encoded(encode, chain([first], frames), batch_size if encode.session is None else 1)
    if encode.threads < threads:
        features = ahead(within(partial(pytorch_threads, encode.threads), features), batch_size)
    own_threads = partial(pytorch_threads, max(1, threads - encode.threads))
    with closing(features):
        yield from within(own_threads, interpolated(maps()))  # Between maps, the caller has its own number of them.
