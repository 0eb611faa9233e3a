"""`salfom demo`: the page for the browser, on this machine."""

import argparse
import errno
import os
import socket
from contextlib import suppress
from functools import partial

from ..files import temporary_folder
from .common import MODEL, UsageError, add_model_options, load_predictor, port_number

PORTS = range(7860, 7880)


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
    command.add_argument("--port", type=port_number, help=f"default: {PORTS[0]}, or the next one that is free")
    command.set_defaults(run=demo, stopped="the page is closed")


def free_port(host: str) -> int:
    """The first of `PORTS` that nothing else listens at; it says when that is not the first one."""
    for port in PORTS:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As the server does.
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    print(f"Port {port} is in use; trying the next one.", flush=True)
                    continue
        return port
    raise UsageError(f"Ports {PORTS[0]} to {PORTS[-1]} are in use; choose another --port.")


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
        port = args.port or free_port(args.host)
        page = build({name: partial(load_predictor, name, args, keep_memory=False) for name in names}, args.stride)
        try:
            with suppress(KeyboardInterrupt):
                launch(page, server_name=args.host, server_port=port)
        except OSError as error:
            raise UsageError(f"Cannot serve at {args.host}, port {port}; choose another --port or --host.") from error
    return 0
