"""Pages of Gradio for strangers: uploads within bounds, no addresses fetched, nothing kept, errors in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.exceptions import ComponentProcessingError
from gradio_client.utils import traverse
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import VideoError, is_out_of_memory
from .runs import KEPT, MAX_BYTES, Bounds, BoundsError, ModelError, check_picture

MAX_QUEUE = 16
MARGIN = 2**20  # bytes of a request beyond the file in it
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


def _refuse_address(file: dict) -> None:
    # What stands in a "data:" address has passed no bound of uploads either.
    if "://" in str(file["path"]) or str(file.get("url")).startswith("data:"):
        raise gr.Error("This page fetches no addresses; upload the file itself.", print_exception=False)


@contextmanager
def in_one_sentence(path: str) -> Iterator[None]:
    """Turn what may go wrong with an upload into what a page shows; places on this machine are nobody's business."""
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


class RequestFilter:
    """
    Keeps a server (ASGI) from what Gradio does for anybody who asks: fetching what `file=https://…` names, the
    `SERVICES`, and taking requests of much more than `max_bytes`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.most = max_bytes + MARGIN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, received = scope["path"], 0

        async def within_bounds() -> Message:
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


def serve(page: Page, max_bytes: int = MAX_BYTES, **options: Any) -> Any:
    """`gradio.Blocks.launch`, with its options, for strangers: an upload has at most `max_bytes`."""
    return page.queue(max_size=MAX_QUEUE).launch(
        theme=gr.themes.Soft(),
        max_file_size=max_bytes,
        app_kwargs={"middleware": [Middleware(RequestFilter, max_bytes=max_bytes)]},
        ssr_mode=False,
        run_history=False,
        **options,
    )
