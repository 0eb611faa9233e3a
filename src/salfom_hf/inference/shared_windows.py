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
[`StreamingDecoder`] lays out one window as a graph, in which places that apply one layer to the same inputs, only
shifted in time, are one pattern. Each pattern is computed at most once for each frame, and kept as long as a later
window may ask for it.
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
    SalFoMModel,
    TemporalSwinBlock,
    TemporalWindowAttention,
    upsample,
)
from .cpu import PackedConvolution, folded, pytorch_threads
from .cuts import unseen_share
from .encoder_graph import can_be_a_graph, encoder_session
from .profiling import stage
from .sliding_window import Map, batched, encoded, interpolated, key_frames
from .threads import in_background

# What one place of a layer reads: tensors (1, channels, rows, columns), the oldest first.
PlaceInputs = Sequence[torch.Tensor]


class Place(NamedTuple):
    """A place in the window: one part of what a layer gives for a pattern, `lag` frames before the window's last."""

    layer: "Layer"
    pattern: int
    part: int
    lag: int

    def key(self, time: int) -> tuple[int, int]:
        # Frames before 0 are copies of frame 0, so that their values are those at time 0.
        return self.pattern, max(time - self.lag, 0)

    def value(self, time: int) -> torch.Tensor:
        """What is there in the window whose last frame is `time`: `(1, channels, rows, columns)`."""
        return self.layer.values[self.key(time)][self.part : self.part + 1]


class Layer:
    """
    One operation of the network, and its outputs that are still needed.

    Args:
        operation: the inputs of some places to the output of each, `(parts, channels, rows, columns)`.
    """

    def __init__(self, operation: Callable[[list[PlaceInputs]], Iterable[torch.Tensor]] | None = None):
        self.operation = operation
        # What its places read, with lag 0 for the newest input; places some frames apart are one pattern.
        self.patterns: dict[tuple[Place, ...], int] = {}
        # Of each pattern, how many frames before a window's last its outputs may be needed.
        self.reach: dict[int, int] = {}
        # (pattern, frame of its newest input) to output.
        self.values: dict[tuple[int, int], torch.Tensor] = {}

    def place(self, inputs: Sequence[Place], parts: int = 1) -> list[Place]:
        """The outputs at the place of the window that reads these inputs."""
        lag = min(place.lag for place in inputs)
        pattern = tuple(place._replace(lag=place.lag - lag) for place in inputs)
        index = self.patterns.setdefault(pattern, len(self.patterns))
        return [Place(self, index, part, lag) for part in range(parts)]

    def over(self, row: Sequence[Place], length: int = 1) -> list[Place]:
        """The outputs over a row of places, read in groups of a length."""
        return [self.place(row[start : start + length])[0] for start in range(0, len(row), length)]

    def compute(self, keys: Sequence[tuple[int, int]]) -> None:
        """Make sure that `values` holds these (pattern, frame); what is missing is computed in one call."""
        missing = [key for key in dict.fromkeys(keys) if key not in self.values]
        if self.operation is None or not missing:
            return
        patterns = list(self.patterns)
        read = [(place, time) for pattern, time in missing for place in patterns[pattern]]
        for layer in dict.fromkeys(place.layer for place, _ in read):
            layer.compute([place.key(time) for place, time in read if place.layer is layer])
        inputs: list[PlaceInputs] = [[place.value(time) for place in patterns[pattern]] for pattern, time in missing]
        self.values.update(zip(missing, self.operation(inputs), strict=True))

    def forget(self, newest: int) -> None:
        """Drop what no window after that of frame `newest` reads."""
        for pattern, time in list(self.values):
            if time <= newest - self.reach.get(pattern, 0):
                del self.values[pattern, time]


def record_reach(place: Place, before: int = 0) -> Iterator[Layer]:
    """Record how long all layers below a place, needed `before` frames before the window's last, keep outputs."""
    layer, before = place.layer, before + place.lag
    if before > layer.reach.get(place.pattern, -1):
        layer.reach[place.pattern] = before
        for pattern, index in layer.patterns.items():
            if index == place.pattern:
                for read in pattern:
                    yield from record_reach(read, before)
    yield layer


def batch_of(places: list[PlaceInputs]) -> torch.Tensor:
    """The inputs of each place as channels, `(places, inputs · channels, rows, columns)`, with one copy at most."""
    first = places[0][0]
    if len(places) == len(places[0]) == 1:
        return first
    _, channels, *size = first.shape
    shape = (len(places), len(places[0]) * channels, *size)
    batch = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)
    for index, inputs in enumerate(places):
        torch.cat(list(inputs), 1, out=batch[index : index + 1])
    return batch


class Convolution:
    """
    A convolution, weight `(outputs, channels, taps, height, width)`, with as many inputs as it has taps in time. It
    runs over space alone, with the inputs stacked as channels: so it is faster. `scale` up-samples the output.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = True, scale: int = 1):
        if weight.ndim == 5:
            weight = weight.transpose(1, 2).flatten(1, 2)
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        self.packed = PackedConvolution(weight, bias, padding=padding, activation="relu" if relu else None)
        self.scale = scale

    def __call__(self, places: list[PlaceInputs]) -> torch.Tensor:
        return upsample(self.packed(batch_of(places)), self.scale).unsqueeze(1)


class WindowAttention:
    """A block of TCFE, whose inputs are the tokens of one window."""

    def __init__(self, block: TemporalSwinBlock, steps: int):
        self.block, self.steps = block, steps
        bias = block.attention.relative_position_bias
        step = torch.arange(steps, device=bias.device)
        self.bias = bias[step[:, None] - step[None, :] + block.window - 1][:, :, None, None]
        if steps == 1:
            # A token that sees nothing but itself gets its own value: two linear layers in a row, which are one.
            qkv, output = block.attention.qkv, block.attention.output
            value = slice(2 * qkv.in_features, None)
            self.own_weight = output.weight @ qkv.weight[value]
            self.own_bias = output.weight @ qkv.bias[value] + output.bias

    def attend(self, attention: TemporalWindowAttention, tokens: torch.Tensor) -> torch.Tensor:
        """`(windows, steps, rows, columns, channels)` to the same."""
        if self.steps == 1:
            return F.linear(tokens, self.own_weight, self.own_bias)
        query, key, value = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).unbind(-3)
        # (windows, query, key, rows, columns, heads); products by element are faster than many tiny matrix products.
        scores = ((query * attention.scaling).unsqueeze(2) * key.unsqueeze(1)).sum(-1) + self.bias
        attended = (scores.softmax(2).unsqueeze(-1) * value.unsqueeze(1)).sum(2)
        return attention.output(attended.flatten(-2))

    def __call__(self, places: list[PlaceInputs]) -> torch.Tensor:
        tokens = batch_of([[token] for window in places for token in window]).permute(0, 2, 3, 1)
        tokens = tokens.unflatten(0, (-1, self.steps))
        tokens = tokens + self.attend(self.block.attention, self.block.norm1(tokens))
        tokens = tokens + self.block.fc2(F.gelu(self.block.fc1(self.block.norm2(tokens))))
        return tokens.movedim(-1, 2)


def added(places: list[PlaceInputs]) -> list[torch.Tensor]:
    return [first + second for first, second in places]


def upsampled(scale: int, places: list[PlaceInputs]) -> torch.Tensor:
    return upsample(batch_of(places), scale).unsqueeze(1)


def magnitude(places: list[PlaceInputs]) -> list[torch.Tensor]:
    """Mean absolute value of a volume, or of the change from one to the next: `(1,)` each."""
    volumes = [inputs[0] if len(inputs) == 1 else inputs[1] - inputs[0] for inputs in places]
    return [volume.abs().mean(dtype=torch.float32).view(1) for volume in volumes]


def relative_change(places: list[PlaceInputs]) -> list[torch.Tensor]:
    """Mean change between neighbours relative to the mean magnitude, `(1,)` each; the inputs are first the changes."""
    changes = len(places[0]) // 2
    values = [torch.cat(list(inputs)) for inputs in places]
    return [value[:changes].mean().view(1) / value[changes:].mean().clamp_min(1e-6) for value in values]


def attended(block: TemporalSwinBlock, row: list[Place]) -> list[Place]:
    # The network masks what wraps round when it shifts; here the windows at both ends are simply shorter.
    shift = block.shift if len(row) > block.window else 0
    bounds = sorted({0, *range(shift, len(row), block.window), len(row)})
    windows = [row[start:end] for start, end in pairwise(bounds)]
    layers = {steps: Layer(WindowAttention(block, steps)) for steps in {len(window) for window in windows}}
    return [place for window in windows for place in layers[len(window)].place(window, parts=len(window))]


def parts(modules: nn.ModuleList) -> list[Any]:
    """The modules of a list; PyTorch's annotations do not say of which kind they are."""
    return list(modules)


def tcfe_rows(tcfe: TCFE, row: list[Place]) -> list[list[Place]]:
    """See [`TCFE`]. The last embedding, of 1×1 kernels, runs before its input is up-sampled: with equal results."""
    rows = []
    for level, before, after in zip(parts(tcfe.stages), (1, 1, 4), (1, 4, tcfe.last_scale), strict=True):
        embedding = level.patch_embedding
        embed = Layer(Convolution(embedding.weight, embedding.bias, relu=False, scale=before))
        row = embed.over(row, embedding.kernel_size[0])
        for block in level.blocks:
            row = attended(block, row)
        rows.append(Layer(partial(upsampled, after)).over(row))
    return rows


def dfd_rows(dfd: DFD, row: list[Place], transformer: list[list[Place]]) -> list[list[Place]]:
    """See [`DFD`]."""
    rows = []
    for index, (step, scale) in enumerate(zip(parts(dfd.steps), dfd.scales, strict=True)):
        row = Layer(Convolution(step.weight, scale=scale)).over(row, step.kernel_size[0])
        if transformer and index in DFD_ADDS_AFTER:
            both = Layer(added)
            row = [both.place(pair)[0] for pair in zip(row, transformer[DFD_ADDS_AFTER.index(index)], strict=True)]
        rows.append(row)
    return [rows[1], rows[3], row]


def collapsed_padded(convolutions: nn.ModuleList, row: list[Place]) -> list[Place]:
    """Convolutions that pad time with zeros, as [`SFD`] has them above what DFD gives."""
    for convolution in parts(convolutions):
        first = Layer(Convolution(convolution.weight[:, :, 1:], convolution.bias))
        others = Layer(Convolution(convolution.weight, convolution.bias))
        row = first.place(row[:2]) + [others.place(row[i - 1 : i + 2])[0] for i in range(2, len(row), 2)]
    return row


def sfd_row(sfd: SFD, row: list[Place], dynamic: list[list[Place]]) -> list[Place]:
    """See [`SFD`]."""
    for convolution in parts(sfd.temporal):
        row = Layer(Convolution(convolution.weight)).over(row, 2)
    for index, (convolution, scale) in enumerate(zip(parts(sfd.spatial), sfd.scales, strict=True)):
        row = Layer(Convolution(convolution.weight, scale=scale)).over(row)
        if dynamic and index in SFD_ADDS_AFTER:
            number = SFD_ADDS_AFTER.index(index)
            convolutions = (sfd.from_dynamic_2, sfd.from_dynamic_4)[number]
            row = Layer(added).place(row + collapsed_padded(convolutions, dynamic[number]))
    return row


class StreamingDecoder:
    """
    The network above a frame-wise encoder for one stream: the maps that it gives window by window, at less cost.

    Args:
        model: in evaluation mode; its weights are taken as they are now.
        size: (height, width) of the frames in pixels.
        after_cut: the stream is a shot after a cut; see [`unseen_share`][salfom_hf.inference.cuts.unseen_share].
    """

    def __init__(self, model: SalFoMForVideoSaliencyPrediction, size: tuple[int, int], after_cut: bool = False):
        self.size, self.prior, self.after_cut = size, model.center_prior, after_cut
        self.frames = Layer()
        self.num_frames = 0
        self.window = model.config.num_frames
        window = [Place(self.frames, 0, 0, lag) for lag in reversed(range(self.window))]

        network, transformer, dynamic, branches = model.salfom, [], [], []
        if network.tcfe is not None:
            *transformer, branch = tcfe_rows(network.tcfe, window)
            branches += branch
        if network.dfd is not None:
            *dynamic, branch = dfd_rows(network.dfd, window, transformer)
            branches += branch
        if network.sfd is not None:
            branches = sfd_row(network.sfd, window, dynamic) + branches
        self.branches = branches
        first, second, last = (convolution.weight for convolution in parts(model.fusion.convolutions))
        row = Layer(Convolution(second)).over(Layer(Convolution(first)).place(branches))
        (self.logits,) = Layer(Convolution(last, relu=False)).over(row)

        self.change = None
        outputs = [self.logits]
        if self.prior is not None:
            self.still, self.moving = self.prior.log_densities(size)
            if len(window) > 1:
                change = Layer(magnitude)
                changes = [change.place(pair)[0] for pair in pairwise(window)]
                (self.change,) = Layer(relative_change).place(changes + Layer(magnitude).over(window))
                outputs.append(self.change)
        self.layers = dict.fromkeys(layer for place in outputs for layer in record_reach(place))

    def add_frame(self, features: torch.Tensor) -> None:
        """The next frame's features `(channels, rows, columns)`."""
        self.frames.values[0, self.num_frames] = features.unsqueeze(0)
        self.num_frames += 1

    def maps(self, times: Sequence[int]) -> torch.Tensor:
        """
        The maps of some frames, ascending, that have been added since the last call: float32 `(maps, height, width)`,
        values in 0…1.
        """
        with stage("branches"):
            for place in self.branches:
                self.at(place, times)
        with stage("fusion"):
            return self.fused(times)

    def fused(self, times: Sequence[int]) -> torch.Tensor:
        logits = torch.cat(self.at(self.logits, times))
        if logits.shape[-2:] != self.size:
            logits = F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False)
        # In place: at this size, memory costs more than arithmetic.
        if self.prior is not None:
            logits += self.still
            if self.change is not None:
                motion = self.prior.motion(torch.cat(self.at(self.change, times)).to(logits.dtype))
                if self.after_cut:
                    motion += (1 - motion) * motion.new_tensor([unseen_share(time, self.window) for time in times])
                motion = motion.view(-1, 1, 1, 1)
                logits.addcmul_(motion, self.moving)
                if self.prior.sharpness != 1:
                    logits *= 1 + (self.prior.sharpness - 1) * motion
        for layer in self.layers:
            layer.forget(times[-1])
        return logits.squeeze(1).sigmoid_().float()

    @staticmethod
    def at(place: Place, times: Sequence[int]) -> list[torch.Tensor]:
        place.layer.compute([place.key(time) for time in times])
        return [place.value(time) for time in times]


class FrameEncoder:
    """
    The frame-wise encoder of a network in evaluation mode, ready to run; its weights are taken as they are now.

    Args:
        threads: on which it computes; by default as many as PyTorch has now.
    """

    def __init__(self, network: SalFoMModel, threads: int | None = None):
        self.threads = threads or torch.get_num_threads()
        self.session = encoder_session(network, self.threads) if can_be_a_graph(network) else None
        if self.session is not None:
            return
        self.adapter, self.encoder = network.adapter, folded(network.encoder)
        self.projection = None
        if network.projection is not None:
            weight, bias = network.projection.weight, network.projection.bias
            self.projection = PackedConvolution(weight, bias, activation="relu")

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(frames, 3, height, width)` to `(frames, channels, rows, columns)`."""
        with stage("encoder"):
            if self.session is not None:
                (features,) = self.session.run(None, {"pixels": pixel_values.contiguous().numpy()})
                return torch.from_numpy(features).contiguous(memory_format=torch.channels_last)
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
            features = self.adapter.features(self.encoder, pixel_values)[0]
            if self.projection is None:
                return features
            return self.projection(features.contiguous(memory_format=torch.channels_last))


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


def encoder_threads(batch_size: int) -> int:
    """
    On how many of PyTorch's threads frames are encoded. Where there are several, encoder and decoder run side by
    side, each on half: two networks wait less for each other than one on all threads.
    """
    threads = torch.get_num_threads()
    return threads // 2 if threads > 1 and batch_size > 1 else threads


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
    frames, (height, width) = chain([first], frames), first.shape[-2:]
    threads = torch.get_num_threads()
    beside = encode.threads < threads
    decoder = StreamingDecoder(model, (height, width), after_cut)

    def encode_one(frame: torch.Tensor) -> torch.Tensor:
        with pytorch_threads(encode.threads):
            return encode(frame.unsqueeze(0))[0]

    def maps() -> Iterator[Map]:
        for batch in batched(key_frames(features, stride, decoder.add_frame), batch_size):
            yield from zip(batch, decoder.maps(batch), strict=True)

    # One by one: what a CPU computes of a frame stays in its caches.
    features = in_background(encode_one, frames, batch_size) if beside else encoded(encode, frames, batch_size)
    with closing(features):
        yield from on_threads(interpolated(maps()), threads - encode.threads if beside else threads)


def on_threads(maps: Iterator[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """The same maps, each computed on `count` threads of PyTorch; between them the caller has its own number."""
    while True:
        with pytorch_threads(count):
            saliency = next(maps, None)
        if saliency is None:
            return
        yield saliency
