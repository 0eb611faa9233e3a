"""A Hub at an address of this machine, for tests of what is loaded and downloaded from there."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def hub_server(answer: Callable[[str], tuple[int, str, bytes]]) -> Iterator[str]:
    """Give the address of a server that runs inside; `answer` gives status, error code and content for a path."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            status, code, body = answer(self.path)
            self.send_response(status)
            headers = {"X-Error-Code": code, "X-Repo-Commit": "a" * 40, "ETag": '"b"', "Content-Length": len(body)}
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
