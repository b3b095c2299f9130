"""From pixels to the windows that a model sees; knows nothing of models."""

from egolive.streaming.board import Board, Showing
from egolive.streaming.clock import Clock, MonotonicClock, VirtualClock
from egolive.streaming.frames import Box, Frame, Image, Interval, Slice, Window
from egolive.streaming.mailbox import Mailbox
from egolive.streaming.metrics import Metrics
from egolive.streaming.opening import open_source
from egolive.streaming.pipeline import run
from egolive.streaming.reconnect import Reconnecting
from egolive.streaming.report import Report
from egolive.streaming.results import Result
from egolive.streaming.sampling import Sampler
from egolive.streaming.scheduler import Rule, Scheduler, Work
from egolive.streaming.source import Source
from egolive.streaming.windows import Slicer, Windows
from egolive.streaming.writer import VideoWriter

__all__ = [
    "Board",
    "Box",
    "Clock",
    "Frame",
    "Image",
    "Interval",
    "Mailbox",
    "Metrics",
    "MonotonicClock",
    "Reconnecting",
    "Report",
    "Result",
    "Rule",
    "Sampler",
    "Scheduler",
    "Showing",
    "Slice",
    "Slicer",
    "Source",
    "VideoWriter",
    "VirtualClock",
    "Window",
    "Windows",
    "Work",
    "open_source",
    "run",
]
