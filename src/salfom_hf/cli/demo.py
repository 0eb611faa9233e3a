"""`salfom demo`: the page for the browser, on this machine."""

import argparse
import signal
from functools import partial

from ..models.names import KNOWN
from .common import UsageError, add_model_options, load_predictor, whole_number


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "demo",
        help="a page in the browser",
        description="Serve a page that shows where people look in a video or a picture. It runs on this machine.",
    )
    command.add_argument("--model", default="salfom", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    add_model_options(command)
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in, default: %(default)s")
    command.add_argument("--port", type=whole_number, default=7860, help="default: %(default)s")
    command.set_defaults(run=demo)


def demo(args: argparse.Namespace) -> int:
    try:
        from ..demo import build, launch
        from ..demo.page import available_models
    except ImportError as error:
        if error.name:  # Not our own sentence.
            raise
        raise UsageError(str(error)) from error

    names = dict.fromkeys([args.model, *available_models()])
    # Ended by a service manager, the page deletes what was uploaded, just as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    page = build({name: partial(load_predictor, name, args) for name in names}, args.stride)
    try:
        launch(page, server_name=args.host, server_port=args.port)
    except OSError as error:
        raise UsageError(f"Cannot serve at {args.host}, port {args.port}; choose another --port or --host.") from error
    return 0
