"""Saliency of live video: cameras, network streams and pipes, always close behind what they show now.

    source --reader thread--> Slot --predict_live--> drawing and writing, in a thread of their own

The reader decodes whatever comes. [`Slot`] keeps the last moments of it, and the network takes the oldest frame that
is left: every frame while it keeps up, and as many as it can when it does not. Frames that are left out are part of no
window, so a window spans more time the more are dropped. Behind the slot no stage holds more than one frame, which
bounds how far the picture lags behind. Recordings (files, and addresses that tell their length) are played at their
own speed.

Unlike in `salfom predict`, there is no sound, the network gets one window at a time, the size is that of the first
frame, and frames may be left out.
"""

from .loop import predict_live, show, taken, warm_up
from .outputs import PictureServer, StreamWriter
from .source import LiveFrame, Reader, Slot

__all__ = ["LiveFrame", "PictureServer", "Reader", "Slot", "StreamWriter", "predict_live", "show", "taken", "warm_up"]
