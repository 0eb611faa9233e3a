"""The page of the demo: what stands on it, and what its buttons do."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from ..errors import CutOffError
from ..files import temporary_folder
from ..inference.predictor import SaliencyPredictor
from ..models.names import EXAMPLE, KNOWN, holds_model, resolve
from ..video.drawing import COLORMAPS
from ..video.reading import read_frames
from . import runs
from .attention import in_words
from .serving import Page, in_one_sentence, refusal, serve

HERE = Path(__file__).parent
EXAMPLE_IMAGE_AT = 3.0  # seconds into it

ABOUT = """# Where do people look?

Show a video or a picture to many people, and their eyes go to the same few places: faces, text, whatever moves. This
page predicts those places. **Warm colours: many would look here. No colour: hardly anybody would.**
"""
HELP = f"""
- **What you see.** For every frame a *saliency map*: how likely each place is to draw the eye of somebody who just
  watches. *Overlay* puts it over your video, *heat map* shows it alone, *side by side* has the original at the left.
- **The red line.** The small pictures show what most would look at, with the numbers of the list. Below, the red line
  goes from one to the next over one frame of your video; at its right the height over time, beneath it left to right.
  It is not the recorded gaze of anybody; a jump is where most eyes would jump, as after a cut.
- **How sure.** "Most eyes agree" where the map is narrow; "eyes differ much" where it is wide.
- **Maps (NPZ)**, for NumPy: `maps`, float16 of (frames, height, width) in 0…1, and `timestamps` in seconds.
  Compare the values of one frame by them, not those of two.
  **Table (CSV)**: for each frame its number from 0 and its time; the place where most look (`peak`) and the centre of
  mass in pixels of your video; the `spread` (1 is the frame's diagonal) and the `entropy` in bits (the more, the less
  the eyes agree); and the share of the attention in each cell of a 3×3 grid.
- **What it is not.** It is a guess about people in general, who watch without a task, and it hears nothing. It
  measures neither you nor anybody in the picture: do not judge people by it.
- **Limits.** Files up to {runs.MAX_BYTES >> 20} MB, pictures up to {runs.MAX_PIXELS // 10**6} megapixels and videos
  up to {runs.MAX_FRAME_PIXELS // 10**6}; at a time up to {runs.MAX_SECONDS} seconds, {runs.MAX_FRAMES} frames, and
  {runs.MAX_TIME // 60} minutes of computing. For more, install `salfom-hf` and run `salfom predict`.
- **Your files.** They go to the machine that serves this page, nowhere else. They and the results have addresses that
  nobody can guess, and are deleted after about an hour.
"""
CARD = "Model card: what it was trained on, how well it does, its limits"
WEIGHTS = {
    "salfom": "**salfom**, the small weights of the `salfom-hf` project: *not* the weights of the SalFoM paper",
    "salfom-large": "**salfom-large**, the SalFoM paper's model with weights that its authors published",
}
OTHER_WEIGHTS = (
    "**{}**, a model of the people who run this page: not the SalFoM paper's weights, unless its card says so"
)
COLOURS = {
    "turbo": "Rainbow (turbo)",
    "inferno": "Fire (inferno)",
    "viridis": "Blue to yellow (viridis)",
    "jet": "Old rainbow (jet)",
    "gray": "Black to white (gray)",
}

# Tab of a result → what screen readers say of it.
RESULTS = {
    "Overlay": "Your {} with colours where people probably look; the text below says where that is",
    "Heat map": "Heat map of where people probably look; the text below says where that is",
    "Side by side": "Your {} at the left, at the right the same with colours where people probably look",
}
PATH = (
    "What most would look at, one picture for each place, and the path from one to the next; the text says it in words"
)
LIST = "\n\n"  # Markdown's lists begin after an empty line.
RED_LINE = "\n\nThe red line is where most look: over the picture and, at its right and below it, over time."
UNPLAYABLE = '<span class="unplayable">Your browser cannot show this video, but this page can read it. </span>'
SPEED = (
    "1 looks at every frame. With 4, say, it looks at one frame in 4 and fills in what lies between: several times as "
    "fast, and a little less exact."
)
PROGRESS = gr.Progress()  # As a default it tells Gradio to show how far a run has come.
# More would only be slower to send and to read.
CAMERA = gr.WebcamOptions(
    constraints={"video": {"width": {"ideal": 640}, "height": {"ideal": 480}, "frameRate": {"ideal": 25}}}
)


def available_models() -> dict[str, Callable[[], SaliencyPredictor]]:
    """The known models that this machine has, by name, as functions that load them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        name: partial(SaliencyPredictor.from_pretrained, name, device)
        for name, folder in KNOWN.items()
        if holds_model(folder)
    }


def card(model: str) -> str:
    """A model's card, as Markdown without the Hub's metadata and its pictures; for a model on the Hub a link to it."""
    folder = Path(resolve(model) or model)
    if not folder.is_dir():
        return f"[{model} on the Hugging Face Hub](https://huggingface.co/{model})"
    file = folder / "README.md"
    if not file.is_file():
        return f"The folder {shown(model)} has no card (README.md)."
    text = re.sub(r"\A---\n.*?\n---\n", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    # They lie next to it, where no browser reaches them.
    return re.sub(r"!\[[^]]*\]\((?!https?://)[^)]*\)", "", text)


def shown(model: str) -> str:
    """What a model is called on the page: a folder by its name, not by its place on this machine."""
    return Path(model).name if Path(model).is_dir() else model


def explanation(maps: runs.Maps, part: str = "") -> str:
    """Where the eyes go, what part of a video that is about, and which weights say so."""
    model = maps.part.model
    weights = WEIGHTS.get(model) or OTHER_WEIGHTS.format(shown(model))
    return (
        f"{part}**Where the eyes go:**{' ' if maps.still else LIST}{in_words(maps.stays)}"
        f"{'' if maps.still else RED_LINE}\n\nMade with {weights}. "
        "[Its card](#model-card) says what it was trained on and where it fails."
    )


def number(seconds: float) -> str:
    return f"{seconds:.1f}".removesuffix(".0")


def part_of(maps: runs.Maps, ended: CutOffError | None) -> tuple[str, float | None]:
    """
    Which part of a video this is, in words; and where the rest begins, in seconds, if there is any: there is none if
    the video `ended` early.
    """
    start, end, duration, rest = maps.part.start, maps.end, maps.info.duration, None
    if ended is not None:
        reason = str(ended).replace(str(maps.info.path), maps.info.path.name)
        words = f"⚠️ {reason}\n\n{number(start)} to {number(end)} s"
    elif duration is None or duration - end < 0.1:
        words = f"{'All' if start == 0 else f'From {number(start)} s on, the last'} {number(end - start)} s"
    else:
        first = f"The first {number(end)}" if start == 0 else f"{number(start)} to {number(end)}"
        words, rest = f"**{first} of {number(duration)} s**", end
    return f"{words}, {len(maps.timestamps)} frames.\n\n", rest


def legend(colormap: str, of: str) -> str:
    """What the colours mean, as HTML, in each frame of a video or in a picture."""
    colors = ", ".join(f"#{color}" for color in COLORMAPS[colormap].split())
    return (
        '<div class="legend" role="img" aria-label="Colours, from where hardly anybody looks to where most look">'
        f'<div class="bar" style="background: linear-gradient(to right, {colors})"></div>'
        "<div><span>hardly anybody looks</span><span>half as many</span><span>where most look</span></div>"
        "</div>"
        f"<small>Each {of} has all colours: the last one is where most would look in that {of}.</small>"
    )


def element_of(tab: str) -> str:
    return f"video-{tab.lower().replace(' ', '-')}"


def build(models: Mapping[str, Callable[[], SaliencyPredictor]] | None = None, stride: int = 1) -> Page:
    """
    The page, ready for [`launch`], which begins with this stride. Models are loaded by the functions that their names
    lead to, the first at once; by default they are those on this machine.
    """
    demo = runs.Demo(models or available_models())
    first = next(iter(demo.models))
    demo.load(first)

    @contextmanager
    def results(
        part: runs.Part, colormap: str, opacity: float, progress: gr.Progress
    ) -> Iterator[tuple[runs.Maps, list[str], CutOffError | None]]:
        """
        Maps, files, and how the source breaks off, if it does; the page has its own copies of the files when the
        context ends and they go.
        """

        def report(done: int, total: int | None, what: str) -> None:
            progress((done, total), desc=what, unit="frames")

        try:
            with in_one_sentence(part.path), temporary_folder() as folder:
                bounds = runs.Bounds(part.path, stop_if_alone=page.stop_if_alone(), progress=report)
                if part.length is None:
                    runs.check_picture(part.path, bounds)  # Or else it may be read as a video.
                maps = demo.maps(part, bounds)
                files, ended = runs.write_files(maps, folder, colormap, opacity, bounds)
                yield maps, [*map(str, files)], ended
        finally:
            runs.give_back_memory()

    def predict_video(
        video: str | None,
        model: str,
        start: float,
        length: float,
        stride: float,
        colormap: str,
        opacity: float,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[tuple]:
        """Predict where people look in a video."""
        if video is None:
            raise refusal("Choose a video first, or try the example.")
        if runs.is_photo(video):
            for drawn in predict_image(video, model, colormap, opacity, progress):
                yield *drawn, None, gr.update(visible=False), 0.0
            return
        part, button = runs.Part(model, video, start, length, int(stride)), gr.update(visible=False)
        with results(part, colormap, opacity, progress) as (maps, (*files, path), ended):
            words, rest = part_of(maps, ended)
            if rest is not None and maps.info.duration:
                until = min(rest + runs.MAX_SECONDS, rest + runs.MAX_FRAMES / maps.info.frame_rate, maps.info.duration)
                button = gr.update(visible=True, value=f"Go on: {number(rest)} to {number(until)} s")
            yield *files, explanation(maps, words), path, button, rest

    def predict_image(
        image: str | None, model: str, colormap: str, opacity: float, progress: gr.Progress = PROGRESS
    ) -> Iterator[tuple]:
        """Predict where people look in a picture."""
        if image is None:
            raise refusal("Choose a picture first, or try the example.")
        with results(runs.Part(model, image), colormap, opacity, progress) as (maps, files, _):
            yield *files, explanation(maps)

    def look_at(upload: dict[str, Any] | None, length: float | None = None) -> tuple:
        """What is said of a new upload at once, and what becomes of it: a broken one goes. Pictures have no length."""
        if upload is None:
            return gr.skip(), gr.skip()
        path = upload["path"]
        try:
            with in_one_sentence(path):
                bounds = runs.Bounds(path, stop_if_alone=page.stop_if_alone())
                if length is None:
                    runs.check_picture(path, bounds)
                info = runs.checked(path, bounds)
        except gr.Error as error:
            return f"⚠️ {error.message}", None
        if length is None or info.duration is None or info.duration <= length:
            hint = "Press the button."
        else:
            taken = f"the first {number(length)} of {number(info.duration)} s"
            hint = f"The button takes {taken}; change that in the settings."
        return hint if length is None else UNPLAYABLE + hint, gr.skip()

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def tab(kind: str, predict: Callable[..., Iterator[tuple]], example: Callable[[], Any]) -> None:
        """A tab for videos or pictures: what stands on it, and its events."""
        of_videos = kind == "video"
        meant = "frame" if of_videos else kind
        drawn: dict[str, Any] = {"type": "filepath", "interactive": False, "buttons": ["fullscreen"]}
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                asked: dict[str, Any] = {"label": f"Your {kind}", "elem_id": f"{kind}-input", "buttons": []}
                source: gr.Video | gr.Image
                if of_videos:
                    source = gr.Video(sources=["upload", "webcam"], webcam_options=CAMERA, **asked)
                else:  # The upload itself: of a copy in another mode Gradio keeps no account.
                    asked |= {"type": "filepath", "image_mode": None, "height": 300, "alt_text": asked["label"]}
                    source = gr.Image(sources=["upload", "webcam", "clipboard"], **asked)
                choose = f"Choose a {kind} or take one with the camera, then press the button."
                hint = gr.Markdown(choose, elem_classes="words")
                try_example = gr.Button("Try the example")
                run = gr.Button("Where do people look?", variant="primary")
                with gr.Accordion("Settings", open=False):
                    part: list[gr.Number | gr.Slider] = []
                    if of_videos:
                        with gr.Row():
                            start = gr.Number(0, label="Start (s)", minimum=0, min_width=140, elem_id="start")
                            length = gr.Slider(0.5, runs.MAX_SECONDS, 10, step=0.5, label="Length (s)", min_width=140)
                        part = [start, length, gr.Slider(1, 16, stride, step=1, label="Speed", info=SPEED)]
                    with gr.Row():
                        choices = [(COLOURS[name], name) for name in COLORMAPS]
                        colormap = gr.Dropdown(choices, value="turbo", label="Colours", min_width=140)
                        opacity = gr.Slider(0, 1, 0.7, step=0.05, label="Opacity", min_width=140)
                    model = gr.Dropdown([(shown(name), name) for name in demo.models], value=first, label="Model")
            with gr.Column(scale=3, min_width=320):
                views: list[gr.Video | gr.Image] = []
                for name, text in RESULTS.items():
                    with gr.Tab(name):
                        plays: dict[str, Any] = dict.fromkeys(("autoplay", "loop"), name == "Overlay")
                        views.append(
                            gr.Video(label=name, elem_id=element_of(name), interactive=False, **plays)
                            if of_videos
                            else gr.Image(label=name, alt_text=text.format(kind), **drawn)
                        )
                bar = gr.HTML(legend("turbo", meant))
        with gr.Row(visible=False, elem_classes="result") as more:
            with gr.Column(scale=3, min_width=320):
                words = gr.Markdown(label="In words", elem_classes="words")
                rest, rest_start = gr.Button("Go on", visible=False), gr.State()
                with gr.Row():
                    labels = ("Overlay (MP4)", "Maps (NPZ)") if of_videos else ("Overlay (PNG)", "Map (NPZ)")
                    download, *files = (
                        gr.DownloadButton(label, min_width=80, size="sm", elem_classes="download")
                        for label in (*labels, "Table (CSV)")
                    )
            with gr.Column(scale=2, min_width=320):
                path = gr.Image(label="Where most look", alt_text=PATH, show_label=False, visible=of_videos, **drawn)

        inputs = [source, model, *part, colormap, opacity]
        outputs = [*views, *files, words, *([path, rest, rest_start] if of_videos else [])]
        # One prediction at a time, whichever button was pressed. Progress over the words would hide them.
        alone: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network", "show_progress_on": views[0]}
        hidden: dict[str, Any] = {**alone, "api_visibility": "private"}

        def redraw(source: str | None, model: str, *settings: Any) -> Iterator[tuple | dict]:
            if source is None or runs.Part(model, source, *settings[:-2]) not in demo.recent:
                yield gr.skip()
            else:
                yield from predict(source, model, *settings)

        # First, for a click's events wait for one another. The example's hint goes when its result is there.
        followed: dict[str, Any] = {**private, "js": "(file, hint) => file ? '' : hint"}
        gr.on([run.click, views[0].change], None, [source, hint], hint, **followed)
        run.click(predict, inputs, outputs, api_name=predict.__name__, **alone)
        try_example.click(example, None, source, queue=False, **private).then(predict, inputs, outputs, **hidden)
        # While one drawing is made, the last of further changes waits; none is dropped.
        changes = [colormap.change, opacity.release]
        gr.on(changes, redraw, inputs, outputs, trigger_mode="always_last", **hidden)
        views[0].change(
            lambda file: (file, gr.update(visible=True)), views[0], [download, more], queue=False, **private
        )
        colormap.change(partial(legend, of=meant), colormap, bar, queue=False, **private)
        model.change(card, model, the_card, queue=False, **private)
        # Gradio's preprocessing would fail at what is no picture, before anything can be said below it.
        checking: dict[str, Any] = {**private, "preprocess": False, "concurrency_id": "check", "concurrency_limit": 2}
        source.change(look_at, [source, *part[1:2]], [hint, source], **checking)
        if of_videos:
            rest.click(
                lambda begin: (begin, runs.MAX_SECONDS), rest_start, part[:2], queue=False, api_visibility="private"
            ).then(predict, inputs, outputs, **hidden)

    with Page("Where do people look?") as page:
        gr.Markdown(ABOUT)
        the_card = gr.Markdown(card(first), render=False)
        with gr.Tab("Video"):
            tab("video", predict_video, lambda: str(EXAMPLE))
        with gr.Tab("Picture", elem_id="picture"):
            tab("picture", predict_image, lambda: next(read_frames(EXAMPLE, EXAMPLE_IMAGE_AT)).image)
        with gr.Accordion("What am I looking at?", open=False):
            gr.Markdown(HELP)
        with gr.Accordion(CARD, open=False, elem_id="model-card"):
            the_card.render()
    return page


def launch(page: Page, **options: Any) -> Any:
    """[`serve`] what [`build`] has made."""
    videos = {element_of(name): text.format("video") for name, text in RESULTS.items()} | {"video-input": "Your video"}
    script = (HERE / "page.js").read_text(encoding="utf-8").replace("VIDEOS", json.dumps(videos))
    # In the head it runs before anything is shown; as Gradio's `js` it would come too late for a quick first upload.
    head = f"<script>({script.strip()})()</script>"
    return serve(page, css_paths=HERE / "page.css", head=head, allowed_paths=[str(EXAMPLE)], **options)
