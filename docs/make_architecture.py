"""Make docs/architecture.svg: the three branches of the decoder, with the sizes that a real network gives.

    python docs/make_architecture.py [--model salfom] [-o FILE.svg]

Without a model it is the paper's, of which only shapes are computed: no weights, no memory, a few seconds.
"""

import argparse
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

import torch

from salfom_hf import SalFoMConfig, SalFoMForVideoSaliencyPrediction

OUTPUT = Path(__file__).with_name("architecture.svg")
NAMES = {"umt": "UMT", "efficientnet_lite": "EfficientNet-Lite"}
COLUMNS = ("TCFE", "DFD", "SFD")
# Background and outline of each column's boxes; dark text on them is easy to read.
COLORS = {"TCFE": ("#efe7fb", "#7c4fc4"), "DFD": ("#fdecd8", "#c8680a"), "SFD": ("#dff3e4", "#2d8a4e")}
NEUTRAL = ("#eef1f5", "#5b6675")
INK, SOFT = "#16202c", "#4a5563"

# In units of the drawing, which is 960 wide: on a telephone 360 pixels wide, the smallest type has 9 pixels. Words fit
# into their boxes also in DejaVu Sans, the widest of the usual fonts.
WIDTH, MARGIN, GAP = 960, 4, 52
BOX, ROW = 84, 116
LARGE, SMALL, PLUS = 29, 24, 15
COLUMN_WIDTH = (WIDTH - 2 * MARGIN - 2 * GAP) / 3


class Step(NamedTuple):
    """A box of the drawing: what is done, and the shape of what comes out, without the batch."""

    column: str
    row: int
    operation: str
    shape: tuple[int, ...]


def run_on_shapes(config: SalFoMConfig) -> tuple[SalFoMForVideoSaliencyPrediction, dict[str, tuple[int, ...]]]:
    """The network, and what each of its modules gives for one clip: name to shape without the batch."""
    with torch.device("meta"):
        model = SalFoMForVideoSaliencyPrediction(config).eval()
        clip = torch.empty(1, config.num_frames, 3, *config.image_height_width)
    shapes = {}

    def remember(name: str):
        def hook(module, inputs, output):
            # Branches give several volumes; the last one is their own.
            output = output[-1] if isinstance(output, tuple) else output
            if isinstance(output, torch.Tensor):
                shapes[name] = tuple(output.shape[1:])

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(remember(name))
    with torch.no_grad():
        branches = model.salfom(clip)
        shapes["volume"] = tuple(branches.last_hidden_state.shape[1:])
        shapes["map"] = tuple(model(clip).saliency.shape[1:])
    return model, shapes


def larger(shape: tuple[int, ...], scale: int) -> tuple[int, ...]:
    """A shape after up-sampling; a single time step is left out."""
    *front, rows, columns = shape
    if len(front) == 2 and front[1] == 1:
        front = front[:1]
    return (*front, scale * rows, scale * columns)


def upsampled(operation: str, scale: int) -> str:
    return f"{operation}, ↑{scale}" if scale > 1 else operation


def steps_of(model: SalFoMForVideoSaliencyPrediction, shapes: dict[str, tuple[int, ...]]) -> Iterator[Step]:
    """The boxes of the three branches, those that are added to one another in one row."""
    tcfe, dfd, sfd = model.salfom.tcfe, model.salfom.dfd, model.salfom.sfd
    for index, (stage, scale) in enumerate(zip(tcfe.stages, (1, 4, tcfe.last_scale), strict=True)):
        blocks = f"{len(stage.blocks)} block{'s' if len(stage.blocks) != 1 else ''}"
        operation = upsampled(f"time ÷{stage.patch_embedding.stride[0]}, {blocks}", scale)
        yield Step("TCFE", 2 * index + 1, operation, larger(shapes[f"salfom.tcfe.stages.{index}"], scale))
    volume = shapes["volume"]
    for index, (step, scale) in enumerate(zip(dfd.steps, dfd.scales, strict=True)):
        operation = upsampled(f"conv {'×'.join(map(str, step.kernel_size))}", scale)
        # Where one time step is left, the layer's weights are used without calling it.
        channels, time, *size = shapes.get(f"salfom.dfd.steps.{index}", (step.out_channels, *volume[1:]))
        volume = (channels, time, *(scale * side for side in size))
        yield Step("DFD", index, operation, larger(volume, 1))
    temporal = len(sfd.temporal)
    collapsed = shapes[f"salfom.sfd.temporal.{temporal - 1}"] if temporal else shapes["volume"]
    yield Step("SFD", 0, f"{temporal} convs: time → 1", larger(collapsed, 1))
    for row, last in ((1, 2), (3, 5), (5, 8)):
        scale = 1
        for factor in sfd.scales[last - 2 : last + 1]:
            scale *= factor
        shape = larger(shapes[f"salfom.sfd.spatial.{last}"], sfd.scales[last])
        yield Step("SFD", row, upsampled("3 convs 3×3", scale), shape)


def millions(module: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f} M"


def text(x: float, y: float, words: str, size: int = LARGE, color: str = INK, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}"{weight}>{escape(words)}</text>'


def box(x: float, y: float, width: float, colors: tuple[str, str], upper: str, lower: str) -> list[str]:
    fill, stroke = colors
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX}" rx="12" fill="{fill}" stroke="{stroke}" '
        'stroke-width="3"/>',
        text(x + width / 2, y + 33, upper, SMALL, SOFT),
        text(x + width / 2, y + 68, lower, bold=True),
    ]


def arrow(*points: tuple[float, float]) -> str:
    path = " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{INK}" stroke-width="4" marker-end="url(#head)"/>'


def plus(x: float, y: float) -> list[str]:
    return [
        f'<circle cx="{x:g}" cy="{y:g}" r="{PLUS}" fill="white" stroke="{INK}" stroke-width="3"/>',
        f'<path d="M{x - 8:g} {y:g} h16 M{x:g} {y - 8:g} v16" stroke="{INK}" stroke-width="4"/>',
    ]


def sized(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def draw(config: SalFoMConfig) -> str:
    """
    The drawing of a network with all three branches, as SVG.

    Raises:
        ValueError: it lacks one of them.
    """
    if not (config.use_tcfe and config.use_dfd and config.use_sfd):
        raise ValueError("The drawing is of models with all three branches; set use_tcfe, use_dfd and use_sfd.")
    model, shapes = run_on_shapes(config)
    lefts = {name: MARGIN + index * (COLUMN_WIDTH + GAP) for index, name in enumerate(COLUMNS)}
    middles = {name: left + COLUMN_WIDTH / 2 for name, left in lefts.items()}
    wide, center = WIDTH - 2 * MARGIN, WIDTH / 2
    parts: list[str] = []

    # From the clip to the feature volume.
    height, width = config.image_height_width
    clip_y, encoder_y = 8, 8 + ROW
    encoder = config.encoder_config.model_type
    words = f"encoder {NAMES.get(encoder, encoder)} {millions(model.salfom.encoder)}"
    if model.salfom.adapter.framewise:
        words += ", frame by frame"
    if model.salfom.projection is not None:
        words += "; 1×1 conv"
    parts += box(MARGIN, clip_y, wide, NEUTRAL, "clip", sized((3, config.num_frames, height, width)))
    parts.append(arrow((center, clip_y + BOX), (center, encoder_y - 4)))
    parts += box(MARGIN, encoder_y, wide, NEUTRAL, words, sized(shapes["volume"]))

    # The branches.
    titles_y = encoder_y + BOX + 84
    top = titles_y + 60
    for name in COLUMNS:
        branch = getattr(model.salfom, name.lower())
        parts.append(arrow((middles[name], encoder_y + BOX), (middles[name], titles_y - 36)))
        parts.append(text(middles[name], titles_y, f"{name} {millions(branch)}", LARGE, COLORS[name][1], bold=True))
    subtitles = {"TCFE": "attention along time", "DFD": "3-D convolutions", "SFD": "2-D convolutions"}
    parts += [text(middles[name], titles_y + 34, words, SMALL, SOFT) for name, words in subtitles.items()]

    rows = {}
    for step in steps_of(model, shapes):
        rows.setdefault(step.column, []).append(step)
    for name, steps in rows.items():
        for above, step in zip([None, *steps], steps, strict=False):
            y = top + step.row * ROW
            # The first step of a branch that begins lower down is reached from its title.
            begin = titles_y + 46 if above is None else top + above.row * ROW + BOX
            if above is not None or step.row:
                parts.append(arrow((middles[name], begin), (middles[name], y - 4)))
            parts += box(lefts[name], y, COLUMN_WIDTH, COLORS[name], step.operation, sized(step.shape))
    for row in (1, 3):
        for name, into in (("TCFE", "DFD"), ("DFD", "SFD")):
            y = top + row * ROW + BOX / 2
            parts.append(arrow((lefts[name] + COLUMN_WIDTH, y), (lefts[into] - 2 * PLUS - 3, y)))
            parts += plus(lefts[into] - PLUS, y)

    # From the branches to the map.
    last_y = top + 5 * ROW + BOX
    fusion_y = last_y + ROW - BOX
    parts += [arrow((middles[name], last_y), (middles[name], fusion_y - 4)) for name in COLUMNS]
    words = f"fusion: the three stacked, {len(model.fusion.convolutions)} convs 3×3"
    fused = sized(shapes[f"fusion.convolutions.{len(model.fusion.convolutions) - 1}"])
    parts += box(MARGIN, fusion_y, wide, NEUTRAL, words, fused)
    map_y = fusion_y + ROW
    parts.append(arrow((center, fusion_y + BOX), (center, map_y - 4)))
    words = "sigmoid: where people look in the last frame"
    if shapes["map"] != shapes[f"fusion.convolutions.{len(model.fusion.convolutions) - 1}"][1:]:
        words = f"up-sampled{', centre prior' if config.center_prior else ''}, sigmoid: the last frame's map"
    parts += box(MARGIN, map_y, wide, NEUTRAL, words, sized(shapes["map"]))
    legend_y = map_y + BOX + 40
    parts.append(text(center, legend_y, "channels × time × rows × columns; M: million parameters", SMALL, SOFT))

    total = legend_y + 16
    described = (
        f"Network of {millions(model)} parameters: an encoder turns {config.num_frames} frames into a feature volume, "
        "three branches decode it from top to bottom, TCFE adds to DFD and DFD to SFD twice each, and their fusion is "
        "the saliency map of the last frame."
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total:g}" width="{WIDTH}" height="{total:g}" '
        'role="img" font-family="Helvetica, Arial, \'Liberation Sans\', sans-serif" text-anchor="middle">'
    )
    marker = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="16" markerHeight="16" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>'
    )
    background = f'<rect width="{WIDTH}" height="{total:g}" rx="16" fill="white"/>'
    return "\n".join([head, f"<title>{escape(described)}</title>", marker, background, *parts, "</svg>", ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the network.")
    parser.add_argument("--model", help="name or folder of a model; default: the paper's")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    args = parser.parse_args(arguments)
    config = SalFoMConfig.from_pretrained(args.model) if args.model else SalFoMConfig()
    args.output.write_text(draw(config), encoding="utf-8")


if __name__ == "__main__":
    main()
