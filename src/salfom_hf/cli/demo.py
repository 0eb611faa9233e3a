"""`salfom demo`: the page for the browser, on this machine."""

import argparse
import os
import socket
from contextlib import suppress
from functools import partial

from ..files import temporary_folder
from .common import MODEL, UsageError, add_model_options, load_predictor, port_number


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "demo",
        description="Serve a page that shows where people look in a video or a picture. It runs on this machine, and "
        "its results are downloaded as MP4, PNG, NPZ (arrays for NumPy) and CSV (a table).",
        example="salfom demo",
    )
    command.add_argument("--model", default="salfom", help=f"{MODEL}; the page offers it first")
    add_model_options(command)
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    command.add_argument("--port", type=port_number, help="default: 7860, or the next one that is free")
    command.set_defaults(run=demo, stopped="the page is closed")


def demo(args: argparse.Namespace) -> int:
    with temporary_folder() as folder:
        # Of uploads and results, read when Gradio is imported: if this process is killed, the next one removes it.
        os.environ.setdefault("GRADIO_TEMP_DIR", str(folder / "gradio"))
        try:
            from ..demo import build, launch
            from ..demo.page import available_models
        except ImportError as error:
            if error.name:  # Not our own sentence.
                raise
            raise UsageError(str(error)) from error
        names = dict.fromkeys([args.model, *available_models()])
        try:
            # At a host that is not this machine's, Gradio would try all ports, for minutes.
            family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
            socket.create_server((args.host.strip("[]"), 0), family=family).close()
            page = build({name: partial(load_predictor, name, args, keep_memory=False) for name in names}, args.stride)
            with suppress(KeyboardInterrupt):
                launch(page, server_name=args.host, server_port=args.port or None)
        except OSError as error:
            where = f"{args.host}, port {args.port}" if args.port else args.host
            raise UsageError(f"Cannot serve at {where}; choose another --port or --host.") from error
    return 0
