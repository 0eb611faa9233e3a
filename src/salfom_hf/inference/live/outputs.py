"""Where the pictures go, each as soon as it is there: a page for browsers, and a stream that is sent on."""

import io
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler

import av
import numpy as np
from PIL import Image

from ...errors import VideoError, reason_of, reported
from ...video.writing import add_video_stream, frame_for
from .source import SILENCE, without_password

FORMATS = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp"}  # by protocol; MPEG-TS for all others
TICK = Fraction(1, 90_000)  # seconds
JPEG_QUALITY = 85

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>salfom live</title>
<style>body { margin: 0; background: #111; } img { display: block; width: 100vw; height: 100vh; object-fit: contain; }
</style></head>
<body><img src="live.mjpg" alt="Live video, with colours where people probably look"></body></html>
"""


class PictureServer(socketserver.ThreadingTCPServer):
    """
    Show the newest picture in browsers: a page at `/`, its `address`, and the pictures as an endless row of JPEGs
    (MJPEG) at `/live.mjpg`, of which a slow reader gets fewer. A context manager, which serves from the beginning; at
    port 0 it takes a free one.

    To this machine it answers only under its own names: else any web site could, by a name of its own that leads here,
    see what the camera sees.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1", port: int = 7861):
        self._picture: np.ndarray | None = None
        self._closed, self._viewers = False, 0
        self._changed = threading.Condition()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = f"{reason_of(error)}); choose another --serve PORT or --host."
            raise VideoError(f"Cannot serve at {host}, port {port} ({reason}") from error
        bound, self.port = self.socket.getsockname()[:2]
        self.names = {"localhost", bound, host} if bound.startswith("127.") else None
        self.address = f"http://{host}:{self.port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def write(self, image: np.ndarray, timestamp: Fraction) -> None:
        """Show a picture, uint8 (height, width, 3) RGB, now."""
        with self._changed:
            self._picture = image
            self._changed.notify_all()

    def jpegs(self) -> Iterator[bytes]:
        """The newest picture, again and again as it changes, until the last one."""
        seen = None
        with self._changed:
            self._viewers += 1
        try:
            while True:
                with self._changed:
                    while self._picture is None or self._picture is seen:
                        if self._closed:
                            return
                        self._changed.wait()
                    seen = self._picture
                file = io.BytesIO()
                Image.fromarray(seen).save(file, "jpeg", quality=JPEG_QUALITY)
                yield file.getvalue()
        finally:
            with self._changed:
                self._viewers -= 1
                self._changed.notify_all()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            # The last picture has to reach those who watch, but nobody may hold up the end.
            self._changed.wait_for(lambda: not self._viewers, 2)
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing: a browser that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE
    server: PictureServer

    def do_GET(self) -> None:
        names = self.server.names
        asked_for = re.sub(r":[0-9]+$", "", self.headers.get("Host", ""))
        if names is not None and asked_for not in names:
            self.send_error(403)
        elif self.path == "/":
            self._begin("text/html; charset=utf-8")
            self.wfile.write(PAGE.encode())
        elif self.path == "/live.mjpg":
            self._begin("multipart/x-mixed-replace; boundary=picture")
            self.wfile.write(b"--picture\r\n")
            for jpeg in self.server.jpegs():
                # Browsers show a picture when the next one's boundary has come, so it comes right after it.
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n--picture\r\n")
        else:
            self.send_error(404)

    def _begin(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        # Pages of other sites may not show it either.
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class StreamWriter(AbstractContextManager):
    """
    Send RGB images on as H.264: MPEG-TS, FLV for RTMP, or RTSP; to standard output where the address is `-`. There are
    about `frame_rate` images per second; timestamps need not keep to it. Raises a `VideoError` if it cannot be written
    to, by a `BrokenPipeError` if what read it has stopped.
    """

    def __init__(self, url: str, width: int, height: int, frame_rate: Fraction):
        name = "standard output" if url == "-" else without_password(url)
        self._reported = partial(reported, f"Cannot write to {name}", "check that something receives it")
        with self._reported():
            self._output = av.open(
                "pipe:1" if url == "-" else url,
                "w",
                format=FORMATS.get(url.partition("://")[0].lower(), "mpegts"),
                options={"flush_packets": "1"},
                timeout=(SILENCE, SILENCE),
            )
            # A player that comes later waits for a key frame, so there is one every second.
            options = {"preset": "veryfast", "tune": "zerolatency", "g": str(max(1, round(frame_rate)))}
            self._stream = add_video_stream(self._output, "libx264", options, width, height, frame_rate, TICK)
        self._last = -1

    def write(self, image: np.ndarray, timestamp: Fraction) -> None:
        """Send a picture, uint8 (height, width, 3) RGB, shown at `timestamp` seconds."""
        with self._reported():
            frame = frame_for(self._stream, image)
            frame.pts = self._last = max(round(timestamp / TICK), self._last + 1)
            frame.time_base = TICK
            self._output.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        with suppress(VideoError), self._reported():
            if self._last >= 0:
                self._output.mux(self._stream.encode(None))
            self._output.close()
