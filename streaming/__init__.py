"""Video sources, windowing, scheduling, metrics and recordings; imports nothing of models."""

from egolive.streaming.clock import Clock, MonotonicClock, VirtualClock
from egolive.streaming.frames import Box, Frame, Image, Interval, Slice, Window
from egolive.streaming.hands import Hand, HandDetector, HandWatch, Look
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.latest_results import LatestResults, Showing
from egolive.streaming.pipeline.mailbox import Mailbox
from egolive.streaming.pipeline.pipeline import run
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.pipeline.scheduler import Scheduler, TaskRule, Work
from egolive.streaming.pipeline.windowing import FrameSampler, Slicer, Windows
from egolive.streaming.sources.live.reconnect import Reconnecting
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.source import Source
from egolive.streaming.video_writer import VideoWriter

__all__ = [
    "Box",
    "Clock",
    "Frame",
    "FrameSampler",
    "Hand",
    "HandDetector",
    "HandWatch",
    "Image",
    "Interval",
    "LatestResults",
    "Look",
    "Mailbox",
    "Metrics",
    "MonotonicClock",
    "Reconnecting",
    "Report",
    "Result",
    "Scheduler",
    "Showing",
    "Slice",
    "Slicer",
    "Source",
    "TaskRule",
    "VideoWriter",
    "VirtualClock",
    "Window",
    "Windows",
    "Work",
    "open_source",
    "run",
]
