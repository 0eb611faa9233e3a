"""Pages of Gradio for strangers: uploads within bounds, no addresses fetched, nothing kept, errors in one sentence."""

import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.context import LocalContext
from gradio.exceptions import ComponentProcessingError, InvalidPathError
from gradio_client.utils import traverse
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import FULL, LoadError, VideoError, errno_of, is_out_of_memory
from .runs import KEPT, MAX_BYTES, Bounds, BoundsError, ModelError, check_picture

MAX_QUEUE = 64
NO_SPACE = "The machine that serves this page has no space left on its disk; come back later."
MARGIN = 2**20  # bytes of a request beyond the file in it
ASKING = r"/gradio_api/(queue/join|call/[^/]+)/?$"  # for a run
# What Gradio's server does for anybody, outside of the queue, and no page here has a use for.
SERVICES = r"/gradio_api/(component_server|deep_link|process_recording)/?$"


class Page(gr.Blocks):
    """
    A page that deletes its files after `KEPT`. It refuses pictures of more than `max_pixels`, and what Gradio takes
    from programs: addresses in place of files, which it would fetch whatever their size, and settings without a value.
    """

    def __init__(self, title: str, max_pixels: int | None = None) -> None:
        super().__init__(title=title, analytics_enabled=False, delete_cache=(600, KEPT))
        self.max_pixels = max_pixels

    async def preprocess_data(self, block_fn: BlockFunction, inputs: list, *args: Any, **kwargs: Any) -> list:
        traverse(inputs, _refuse_address, lambda value: isinstance(value, dict) and "path" in value)
        if len(inputs) < len(block_fn.inputs):
            names = ", ".join(str(getattr(block, "label", "") or "") for block in block_fn.inputs)
            raise refusal(f"Give {len(block_fn.inputs)} values: {names}.")
        given = list(zip(block_fn.inputs, inputs, strict=False))
        for block, value in given:
            check_value(block, value)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except InvalidPathError as error:
            raise refusal("This file was not uploaded here; upload it first.") from error
        except ComponentProcessingError:
            # It was at the first picture that Pillow cannot open, and has found out that it may be read.
            for block, value in given:
                if isinstance(block, gr.Image) and value:
                    with in_one_sentence(value["path"]):
                        check_picture(value["path"], Bounds(value["path"], self.max_pixels))
            raise

    def stop_if_alone(self) -> Callable[[], None]:
        """
        What ends the run that this is called from, in whichever of its threads, if nobody waits for it any more: who
        asked for it has closed the page.
        """
        event = LocalContext.event_id.get(None)

        def stop() -> None:
            if any(job._id == event and not job.alive for jobs in self._queue.active_jobs for job in jobs or ()):
                raise refusal("Stopped, as nobody waits for it.")

        return stop


def refusal(message: str) -> gr.Error:
    """What a visitor reads, and is no error of the page."""
    return gr.Error(message, print_exception=False)


def check_value(block: Any, value: Any) -> None:
    """Refuse what Gradio's preprocessing would fail at without a word that helps: programs may send anything."""
    if isinstance(block, gr.Dropdown):
        wanted, fits = "text", isinstance(value, str)
    elif isinstance(block, (gr.Number, gr.Slider)):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        wanted = "a number"
    elif isinstance(block, (gr.Image, gr.Video)) and value is not None:
        file = value if isinstance(value, dict) else {}
        fits = isinstance(file.get("path"), str) and file["path"] and file.get("meta") == {"_type": "gradio.FileData"}
        wanted = "a file, such as `handle_file` makes,"
    else:
        return
    if not fits:
        raise refusal(f"Give {'a value' if value is None else wanted} for {block.label}.")


def _refuse_address(file: dict) -> None:
    # What stands in a "data:" address has passed no bound of uploads either.
    if "://" in str(file["path"]) or str(file.get("url")).startswith("data:"):
        raise refusal("This page fetches no addresses; upload the file itself.")


@contextmanager
def in_one_sentence(path: str) -> Iterator[None]:
    """Turn what may go wrong with an upload into what a page shows; places on this machine are nobody's business."""
    try:
        yield
    except (VideoError, BoundsError, OSError, ValueError) as error:
        if errno_of(error) in FULL:
            raise gr.Error(NO_SPACE) from error
        if isinstance(error, OSError):
            raise
        raise refusal(str(error).replace(str(path), Path(path).name)) from error
    except (LoadError, ModelError) as error:
        # The reason, which names places on this machine, is printed where the page runs.
        raise gr.Error("Cannot load this model; choose another.") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise refusal("Out of memory; choose a shorter length or a lighter model.") from error


def request_filter(app: ASGIApp, max_bytes: int, page: Page) -> ASGIApp:
    """
    Keep a server from what Gradio does for anybody who asks: fetching what `file=https://…` names, the `SERVICES`,
    and taking requests of much more than `max_bytes`. When `MAX_QUEUE` people wait, it says when to come back.
    """
    most = max_bytes + MARGIN

    async def filtered(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        path, received = scope["path"], 0

        async def within_bounds() -> Message:
            """The next part of the request. Only after this error does Gradio delete what it has of an upload."""
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise MultiPartException(f"A request has a maximum allowed size of {most} bytes.")
            if message["type"] == "http.disconnect" and path.endswith("/upload"):
                raise MultiPartException("The upload broke off.")
            return message

        answer, uploads = app, Path(page.GRADIO_CACHE)
        there = next(place for place in (uploads, *uploads.parents) if place.exists())
        if re.search("/file[=/]https?://", path):
            answer = PlainTextResponse("This page fetches no addresses.", 403)
        elif re.search(SERVICES, path):
            answer = PlainTextResponse("This page has no such service.", 403)
        elif (length := int(Headers(scope=scope).get("content-length", 0))) > most:
            answer = PlainTextResponse("The request is too large; upload smaller files, one at a time.", 413)
        elif path.endswith("/upload") and (length or most) > shutil.disk_usage(there).free:
            answer = JSONResponse({"detail": NO_SPACE}, 507)  # Gradio would keep what it has of it.
        elif re.search(ASKING, path) and (waiting := len(page._queue)) >= MAX_QUEUE:
            times = [time.avg_time for time in page._queue.process_time_per_fn.values() if time.count]
            minutes = math.ceil(waiting * (sum(times) / len(times) if times else 30) / 60)
            busy = f"{waiting} people are waiting already; come back in about {minutes} minutes."
            # Gradio's own answer, 503, is shown as "busy" without the time.
            answer = JSONResponse({"detail": busy}, 429, {"Retry-After": str(60 * minutes)})
        await answer(scope, within_bounds, send)

    return filtered


def serve(page: Page, max_bytes: int = MAX_BYTES, prevent_thread_lock: bool = False, **options: Any) -> Any:
    """`gradio.Blocks.launch`, with its options, for strangers: an upload has at most `max_bytes`."""
    served = page.queue(max_size=MAX_QUEUE).launch(
        theme=gr.themes.Soft(),
        max_file_size=max_bytes,
        app_kwargs={"middleware": [Middleware(request_filter, max_bytes=max_bytes, page=page)]},
        ssr_mode=False,
        run_history=False,
        quiet=True,  # It would advise to open the page to everybody.
        prevent_thread_lock=True,
        **options,
    )
    if not prevent_thread_lock:
        print(f"Running on {page.local_url} (Ctrl-C stops it)", flush=True)
        try:
            while page.is_running:
                time.sleep(0.2)
        finally:
            page.close(verbose=False)  # Ends the connections that pages keep open; then the files are deleted.
    return served
