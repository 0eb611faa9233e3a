"""Servers at an address of this machine, such as a Hub, for tests of what is loaded and downloaded from there."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Give the address of a server that runs inside; `answer` answers what is asked for by GET or HEAD."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()


def hub_server(answer: Callable[[str], tuple[int, str, bytes]]) -> AbstractContextManager[str]:
    """A [`server`] like the Hub; `answer` gives status, error code and content for a path."""

    def as_the_hub(handler):
        status, code, body = answer(handler.path)
        handler.send_response(status)
        headers = {"X-Error-Code": code, "X-Repo-Commit": "a" * 40, "ETag": '"b"', "Content-Length": len(body)}
        for name, value in headers.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    return server(as_the_hub)
