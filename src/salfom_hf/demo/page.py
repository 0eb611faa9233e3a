"""The page of the demo."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
import pandas as pd
import torch
from gradio.exceptions import ComponentProcessingError
from gradio_client.utils import traverse
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from ..errors import VideoError, is_out_of_memory
from ..inference.predictor import SaliencyPredictor
from ..models.names import KNOWN, holds_model, resolve
from ..video.drawing import COLORMAPS
from ..video.reading import read_frames
from .attention import path_in_words, place
from .runs import (
    KEPT,
    MAX_BYTES,
    MAX_FRAMES,
    MAX_PIXELS,
    MAX_SECONDS,
    MAX_TIME,
    Bounds,
    BoundsError,
    Demo,
    Maps,
    ModelError,
    check_picture,
    write_files,
)

EXAMPLE = Path(__file__).parents[1] / "assets" / "example.mp4"
EXAMPLE_IMAGE_AT = 3.0  # seconds into it
MAX_QUEUE = 16
# Bytes of a request beyond the file in it.
MARGIN = 2**20
# What Gradio's server does for anybody, outside of the queue, and no page here has a use for.
SERVICES = r"/gradio_api/(component_server|deep_link|process_recording)/?$"

ABOUT = """# Where do people look?

Show a video or a picture to many people, and their eyes go to the same few places: faces, text, whatever moves. This
page predicts those places. **Warm colours: many would look here. No colour: hardly anybody would.**
"""
HELP = f"""
- **What you see.** For every frame a *saliency map*: how likely each place is to draw the eye of somebody who just
  watches. *Overlay* puts it over your video, *heat map* shows it alone, *side by side* has the original at the left.
- **Path of the peak.** The place of the highest value, frame by frame: one line for left–right, one for up–down. It is
  no recorded gaze of anybody; a jump is where most eyes would jump, as after a cut.
- **Maps (NPZ)**, for NumPy: `maps`, float16 of (frames, height, width) in 0…1, and `timestamps` in seconds.
  **Table (CSV)**: for each frame the place of the peak (`peak_x`, `peak_y`: 0…1 from the left and from the top), the
  `spread` (1 is the frame's diagonal) and the `entropy` in bits (more: the eyes are less agreed).
- **What it is not.** It is a guess about people in general, who watch without a task, and it hears nothing. It
  measures neither you nor anybody in the picture: do not judge people by it.
- **Bounds.** Files up to {MAX_BYTES >> 20} MB and {MAX_PIXELS // 10**6} megapixels; at a time up to {MAX_SECONDS}
  seconds, {MAX_FRAMES} frames, and {MAX_TIME // 60} minutes of computing. For more, install `salfom-hf` and run
  `salfom predict`.
- **Your files.** They go to the machine that serves this page, nowhere else. They and the results have addresses that
  nobody can guess, and are deleted after about an hour.
"""
WEIGHTS = {
    "salfom": "**salfom**, the small weights of the `salfom-hf` project: *not* the weights of the SalFoM paper",
    "salfom-large": "**salfom-large**, the SalFoM paper's model with weights that its authors published",
}
OTHER_WEIGHTS = "**{}**, a model of whoever runs this page: not the SalFoM paper's weights, unless its card says so"
LEFT_RIGHT, DOWN_UP = "left → right", "bottom → top"

# Tabs, and what screen readers say of each picture.
PICTURES = {
    "Overlay": "Your picture with colours where people probably look; the text below says where that is most",
    "Heat map": "Heat map of where people probably look; the text below says where that is most",
    "Side by side": "Your picture at the left, at the right the same with colours where people probably look",
}
# What screen readers say of each player; Gradio has no alternative text for videos.
VIDEOS = {
    "video-input": "Your video",
    "video-overlay": "Your video with colours where people probably look; the text below says where that is",
    "video-heatmap": "Heat map of where people probably look; the text below says where that is",
    "video-both": "Your video at the left, at the right the same with colours where people probably look",
}
PLOT = "Plot of the path of the peak over time; the text above says in words where it goes"
SCRIPT = """() => {
    const labels = LABELS;
    const apply = () => {
        document.querySelectorAll("#path-of-peak .vega-embed").forEach((plot) => {
            plot.setAttribute("role", "img");
            plot.setAttribute("aria-label", "PLOT");
        });
        for (const [id, label] of Object.entries(labels))
            document.querySelectorAll(`#${id} video`).forEach((video) => video.setAttribute("aria-label", label));
        document.querySelectorAll(".words").forEach((words) => words.setAttribute("aria-live", "polite"));
    };
    new MutationObserver(apply).observe(document.body, {childList: true, subtree: true});
    apply();
    document.addEventListener("click", (event) => {
        const card = event.target.closest('a[href="#model-card"]') && document.querySelector("#model-card");
        if (!card) return;
        event.preventDefault();
        const button = card.querySelector("button");
        if (!button.classList.contains("open")) button.click();
        button.focus();
        card.scrollIntoView();
    });
}"""
# More would only be slower to send and to read.
CAMERA = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}, "frameRate": {"ideal": 25}}}
STYLE = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
/* Room for the buttons below it. */
#video-input video { max-height: 240px; }
/* Large enough for fingers. */
.source-selection button { min-width: 32px; min-height: 32px; }
.label-wrap { text-align: left; }
/* Nothing in a card makes a phone's page wider. */
#model-card { contain: inline-size; }
#model-card pre * { white-space: pre-wrap !important; overflow-wrap: anywhere; }
#model-card table { display: block; overflow-x: auto; border: none; }
#model-card :is(th, td) { padding: .4em; word-break: normal; overflow-wrap: normal; }
.legend { display: flex; align-items: center; gap: .75em; font-size: .9em; }
.legend .bar { flex: 1; height: .8em; border-radius: .4em; }
"""


class Page(gr.Blocks):
    """
    A page that deletes its files after `KEPT`, and that refuses what Gradio takes from programs: addresses in place of
    files, which it would fetch whatever their size, and settings without a value.

    Args:
        title: of the browser's window.
        max_pixels: of a picture, by default `MAX_PIXELS`.
    """

    def __init__(self, title: str, max_pixels: int | None = None):
        super().__init__(title=title, analytics_enabled=False, delete_cache=(600, KEPT))
        self.max_pixels = max_pixels

    async def preprocess_data(self, block_fn, inputs, *args, **kwargs):
        traverse(inputs, refuse_address, lambda value: isinstance(value, dict) and "path" in value)
        for block, value in zip(block_fn.inputs, inputs, strict=False):
            if value is None and isinstance(block, (gr.Dropdown, gr.Number, gr.Slider)):
                raise gr.Error(f"Give a value for {block.label}.", print_exception=False)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except ComponentProcessingError:
            # It was at the first picture that Pillow cannot open, and has found out that it may be read.
            for block, value in zip(block_fn.inputs, inputs, strict=False):
                if isinstance(block, gr.Image) and value:
                    with in_one_sentence(value["path"]):
                        check_picture(value["path"], Bounds(value["path"], self.max_pixels))
            raise


def refuse_address(file: dict) -> None:
    # What stands in a "data:" address has passed no bound of uploads either.
    if "://" in str(file["path"]) or str(file.get("url")).startswith("data:"):
        raise gr.Error("This page fetches no addresses; upload the file itself.", print_exception=False)


class RequestFilter:
    """
    Keeps a server (ASGI) from what Gradio does for anybody who asks: fetching what `file=https://…` names, the
    `SERVICES`, and taking requests of any size.

    Args:
        max_bytes: of a file; a request has little more.
    """

    def __init__(self, app, max_bytes: int):
        self.app = app
        self.most = max_bytes + MARGIN

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, received = scope["path"], 0

        async def within_bounds():
            """The next part of the request. Only after this error does Gradio delete what it has of an upload."""
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most:
                raise MultiPartException(f"A request has a maximum allowed size of {self.most} bytes.")
            if message["type"] == "http.disconnect" and path.endswith("/upload"):
                raise MultiPartException("The upload broke off.")
            return message

        answer = self.app
        if re.search("/file[=/]https?://", path):
            answer = PlainTextResponse("This page fetches no addresses.", 403)
        elif re.search(SERVICES, path):
            answer = PlainTextResponse("This page has no such service.", 403)
        elif int(Headers(scope=scope).get("content-length", 0)) > self.most:
            answer = PlainTextResponse("The request is too large; upload smaller files, one at a time.", 413)
        await answer(scope, within_bounds, send)


def available_models(device: str | None = None) -> dict[str, Callable[[], SaliencyPredictor]]:
    """The known models that this machine has, by name, as functions that load them."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {
        name: partial(SaliencyPredictor.from_pretrained, name, device)
        for name, folder in KNOWN.items()
        if holds_model(folder)
    }


def card(model: str) -> str:
    """A model's card, as Markdown without the Hub's metadata and its pictures; for a model on the Hub a link to it."""
    folder = Path(resolve(model))
    if not folder.is_dir():
        return f"[{model} on the Hugging Face Hub](https://huggingface.co/{model})"
    file = folder / "README.md"
    if not file.is_file():
        return f"The folder {shown(model)} has no card (README.md)."
    text = re.sub(r"\A---\n.*?\n---\n", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    # They lie beside it, where no browser reaches them.
    return re.sub(r"!\[[^]]*\]\((?!https?://)[^)]*\)", "", text)


def shown(model: str) -> str:
    """What a model is called on the page: a folder by its name, not by its place on this machine."""
    return Path(model).name if Path(model).is_dir() else model


def made_with(model: str) -> str:
    weights = WEIGHTS.get(model) or OTHER_WEIGHTS.format(shown(model))
    return f"Made with {weights}. [Its card](#model-card) says what it was trained on and where it fails."


def legend(colormap: str) -> str:
    colors = ", ".join(f"#{color}" for color in COLORMAPS[colormap].split())
    return (
        '<div class="legend" role="img" aria-label="Colours, from what hardly anybody looks at to what most look at">'
        f'<span>least</span><span class="bar" style="background: linear-gradient(to right, {colors})"></span>'
        "<span>most looked at</span></div>"
    )


def path_of_peak(maps: Maps) -> pd.DataFrame:
    """Two lines over time, in percent of the frame."""
    seconds = [float(timestamp) for timestamp in maps.timestamps]
    lines = {
        LEFT_RIGHT: [100 * frame.peak_x for frame in maps.numbers],
        DOWN_UP: [100 * (1 - frame.peak_y) for frame in maps.numbers],
    }
    columns = [pd.DataFrame({"seconds": seconds, "percent": line, "peak": name}) for name, line in lines.items()]
    return pd.concat(columns, ignore_index=True)


def video_in_words(maps: Maps, model: str) -> str:
    seconds = [float(timestamp) for timestamp in maps.timestamps]
    words = path_in_words(seconds, maps.numbers)
    first = " (the most that this page takes)" if len(seconds) == MAX_FRAMES else ""
    return f"**Where the eyes go:** {words}.\n\n{len(seconds)} frames{first}. {made_with(model)}"


def image_in_words(maps: Maps, model: str) -> str:
    return f"**Where the eyes go:** {place(maps.numbers[0])}.\n\n{made_with(model)}"


@contextmanager
def in_one_sentence(path: str) -> Iterator[None]:
    """Turn what may go wrong into what the page shows; places on this machine are nobody's business."""
    try:
        yield
    except (VideoError, BoundsError, ValueError) as error:
        raise gr.Error(str(error).replace(str(path), Path(path).name), print_exception=False) from error
    except ModelError as error:
        # The reason, which names places on this machine, is printed where the page runs.
        raise gr.Error("Cannot load this model; choose another.") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise gr.Error("Out of memory; choose a shorter length or a lighter model.", print_exception=False) from error


def reporter(progress: gr.Progress) -> Callable[[int, int | None, str], None]:
    """What tells the page how far one prediction has come."""
    return lambda done, total, what: progress((done, total), desc=what, unit="frames")


def build(models: Mapping[str, Callable[[], SaliencyPredictor]] | None = None, stride: int = 1) -> Page:
    """
    The page, ready for [`launch`].

    Args:
        models: name → function that loads it; the first is loaded at once. By default those on this machine.
        stride: that the page begins with.
    """
    demo = Demo(models or available_models())
    first = next(iter(demo.models))
    demo.load(first)

    def predict_video(video, model, start, length, stride, colormap, opacity, progress=gr.Progress()):  # noqa: B008
        """Predict where people look in a video."""
        if video is None:
            raise gr.Error("Choose a video first, or try the example.", print_exception=False)
        with in_one_sentence(video), tempfile.TemporaryDirectory() as folder:
            run = Bounds(video), reporter(progress)
            maps = demo.maps(model, video, start, length, int(stride), *run)
            files = write_files(maps, Path(folder), start, length, colormap, opacity, *run)
            # The page has its own copies when this is resumed, and the folder goes.
            yield *map(str, files), video_in_words(maps, model), path_of_peak(maps)

    def predict_image(image, model, colormap, opacity, progress=gr.Progress()):  # noqa: B008
        """Predict where people look in a picture."""
        if image is None:
            raise gr.Error("Choose a picture first, or try the example.", print_exception=False)
        with in_one_sentence(image), tempfile.TemporaryDirectory() as folder:
            run = Bounds(image), reporter(progress)
            check_picture(image, run[0])  # Or else it may be read as a video.
            maps = demo.maps(model, image, 0.0, None, 1, *run)
            files = write_files(maps, Path(folder), 0.0, None, colormap, opacity, *run)
            yield *map(str, files), image_in_words(maps, model)

    def redraw_video(video, model, start, length, stride, *colors):
        if video is None or not demo.is_recent(model, video, start, length, stride):
            yield gr.skip()
        else:
            yield from predict_video(video, model, start, length, stride, *colors)

    def redraw_image(image, model, *colors):
        if image is None or not demo.is_recent(model, image, 0.0, None, 1):
            yield gr.skip()
        else:
            yield from predict_image(image, model, *colors)

    def example_image():
        return next(read_frames(EXAMPLE, EXAMPLE_IMAGE_AT)).image

    def model_choice() -> gr.Dropdown:
        return gr.Dropdown([(shown(name), name) for name in demo.models], value=first, label="Model")

    def color_choices() -> tuple[gr.Dropdown, gr.Slider]:
        with gr.Row():
            colormap = gr.Dropdown(list(COLORMAPS), value="turbo", label="Colours", min_width=140)
            opacity = gr.Slider(0, 1, 0.7, step=0.05, label="Opacity of the overlay", min_width=140)
        return colormap, opacity

    # One prediction at a time, whichever button was pressed.
    alone = {"concurrency_limit": 1, "concurrency_id": "network"}
    private = {"api_visibility": "private", "show_progress": "hidden"}

    with Page("Where do people look?") as page:
        gr.Markdown(ABOUT)
        with gr.Tab("Video"), gr.Row():
            with gr.Column(min_width=320):
                video = gr.Video(
                    label="Your video",
                    sources=["upload", "webcam"],
                    webcam_options=gr.WebcamOptions(constraints=CAMERA),
                    height=300,
                    elem_id="video-input",
                    buttons=[],
                )
                example = gr.Button("Try the example")
                run = gr.Button("Where do people look?", variant="primary")
                with gr.Accordion("Settings", open=False):
                    with gr.Row():
                        start = gr.Number(0, label="Start (seconds)", minimum=0, min_width=140)
                        length = gr.Slider(0.5, MAX_SECONDS, 10, step=0.5, label="Length (seconds)", min_width=140)
                    pace = gr.Slider(
                        1,
                        16,
                        stride,
                        step=1,
                        label="Stride",
                        info="Predict every k-th frame, interpolate between: faster, less exact.",
                    )
                    colormap, opacity = color_choices()
                    model = model_choice()
            with gr.Column(min_width=320):
                with gr.Tab("Overlay"):
                    overlay = gr.Video(
                        label="Overlay",
                        height=300,
                        elem_id="video-overlay",
                        interactive=False,
                        autoplay=True,
                        loop=True,
                    )
                with gr.Tab("Heat map"):
                    heat = gr.Video(label="Heat map", height=300, elem_id="video-heatmap", interactive=False)
                with gr.Tab("Side by side"):
                    both = gr.Video(label="Side by side", height=300, elem_id="video-both", interactive=False)
                bar = gr.HTML(legend("turbo"))
                words = gr.Markdown("Choose a video, then press the button.", label="In words", elem_classes="words")
                with gr.Column(visible=False) as more:
                    plot = gr.LinePlot(
                        elem_id="path-of-peak",
                        x="seconds",
                        y="percent",
                        color="peak",
                        y_lim=[0, 100],
                        label="Path of the peak: where most would look, over time",
                        x_title="seconds",
                        y_title="percent of the frame",
                        color_title=" ",
                        color_map={LEFT_RIGHT: "#2563eb", DOWN_UP: "#ea580c"},
                    )
                    with gr.Row():
                        download = gr.DownloadButton("Overlay (MP4)", min_width=80, size="sm")
                        maps_file = gr.DownloadButton("Maps (NPZ)", min_width=80, size="sm")
                        table = gr.DownloadButton("Table (CSV)", min_width=80, size="sm")
        with gr.Tab("Picture"), gr.Row():
            with gr.Column(min_width=320):
                image = gr.Image(
                    label="Your picture",
                    type="filepath",
                    image_mode=None,  # The upload itself: of a copy in another mode Gradio keeps no account.
                    sources=["upload", "webcam", "clipboard"],
                    height=300,
                    buttons=[],
                    alt_text="Your picture",
                )
                image_example = gr.Button("Try the example")
                image_run = gr.Button("Where do people look?", variant="primary")
                with gr.Accordion("Settings", open=False):
                    image_colormap, image_opacity = color_choices()
                    image_model = model_choice()
            with gr.Column(min_width=320):
                pictures = []
                for name, alt in PICTURES.items():
                    with gr.Tab(name):
                        options = {"label": name, "alt_text": alt, "height": 300, "buttons": ["fullscreen"]}
                        pictures.append(gr.Image(type="filepath", interactive=False, **options))
                image_bar = gr.HTML(legend("turbo"))
                image_words = gr.Markdown(
                    "Choose a picture, then press the button.", label="In words", elem_classes="words"
                )
                with gr.Row(visible=False) as image_more:
                    image_download = gr.DownloadButton("Overlay (PNG)", min_width=80, size="sm")
                    image_maps = gr.DownloadButton("Map (NPZ)", min_width=80, size="sm")
                    image_table = gr.DownloadButton("Table (CSV)", min_width=80, size="sm")
        with gr.Accordion("What am I looking at?", open=False):
            gr.Markdown(HELP)
        with gr.Accordion(
            "Model card: what it was trained on, how well it does, its limits", open=False, elem_id="model-card"
        ):
            the_card = gr.Markdown(card(first))

        def connect(predict, redraw, inputs, outputs, run, example, load_example, bar, download, more):
            """A tab's events; `inputs` are source, model, …, colormap and opacity; the first output is the overlay."""
            source, model, *_, colormap, opacity = inputs
            shown = {"show_progress_on": outputs[0]}  # Over the words it would hide what it covers.
            run.click(predict, inputs, outputs, api_name=predict.__name__, **alone, **shown)
            example.click(load_example, None, source, queue=False, **private).then(
                predict, inputs, outputs, **alone, **shown, api_visibility="private"
            )
            # While one drawing is made, the last of further changes waits; none is dropped.
            redrawing = {**alone, **shown, "trigger_mode": "always_last", "api_visibility": "private"}
            gr.on([colormap.change, opacity.release], redraw, inputs, outputs, **redrawing)
            outputs[0].change(
                lambda file: (file, gr.update(visible=True)), outputs[0], [download, more], queue=False, **private
            )
            colormap.change(legend, colormap, bar, queue=False, **private)
            model.change(card, model, the_card, queue=False, **private)

        connect(
            predict_video,
            redraw_video,
            [video, model, start, length, pace, colormap, opacity],
            [overlay, heat, both, maps_file, table, words, plot],
            *(run, example, lambda: str(EXAMPLE), bar, download, more),
        )
        connect(
            predict_image,
            redraw_image,
            [image, image_model, image_colormap, image_opacity],
            [*pictures, image_maps, image_table, image_words],
            *(image_run, image_example, example_image, image_bar, image_download, image_more),
        )
    return page


def serve(page: Page, max_bytes: int = MAX_BYTES, **options):
    """
    Serve a page to strangers.

    Args:
        max_bytes: of an upload.
        options: of `gradio.Blocks.launch`, such as `server_port`.
    """
    return page.queue(max_size=MAX_QUEUE).launch(
        theme=gr.themes.Soft(),
        max_file_size=max_bytes,
        app_kwargs={"middleware": [Middleware(RequestFilter, max_bytes=max_bytes)]},
        ssr_mode=False,
        run_history=False,
        **options,
    )


def launch(page: Page, **options):
    """[`serve`] what [`build`] has made."""
    script = SCRIPT.replace("LABELS", json.dumps(VIDEOS)).replace("PLOT", PLOT)
    return serve(page, css=STYLE, js=script, allowed_paths=[str(EXAMPLE)], **options)


__all__ = ["Page", "available_models", "build", "launch", "serve"]
