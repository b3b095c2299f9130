"""Runs an assistant on a source and writes frames, answers and metrics to sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace

from egolive.assistant.generation.audit import AuditCounts
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.box_tracking import BoxTracker
from egolive.assistant.live.governing import choice_in_words
from egolive.assistant.live.hand_fusion import HandFusion, HandsBeside, hand_side
from egolive.assistant.live.sinks import Shown, Sink, hands_event
from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame, Interval
from egolive.streaming.hands import Hand, Look
from egolive.streaming.metrics import Metrics, Stage, rss_bytes
from egolive.streaming.pipeline import pipeline
from egolive.streaming.pipeline.choice import Choice
from egolive.streaming.pipeline.contact_trigger import ContactTrigger
from egolive.streaming.pipeline.governor import Governing
from egolive.streaming.pipeline.latest_results import Showing
from egolive.streaming.pipeline.results import Result
from egolive.streaming.recording.recording import Recorder
from egolive.streaming.sources.source import Source

__all__ = ["Runner", "metrics_event", "run_stream", "say_the_same", "totals"]

_METRICS_PERIOD = 10.0
"""Seconds of stream between two `metrics` events."""
_FIGURES_PERIOD = 1.0
"""Seconds of stream for which the line of figures stays."""


def run_stream(
    source: Source,
    assistant: Assistant,
    sinks: Sequence[Sink],
    *,
    fps: float,
    slices: int,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
    audit: AuditCounts | None = None,
    recorder: Recorder[Question, Answer] | None = None,
    timeout: float | None = None,
    governor: Governing[Question, Answer] | None = None,
    hands: HandsBeside | None = None,
) -> pipeline.Report:
    """Play a source through the assistant into sinks; closes the sinks, whatever happens.

    Args:
        source: What is seen; closed at the end.
        assistant: A new one; its questions are asked again and again, and others may be `put` meanwhile.
        sinks: Where pictures and answers go.
        fps: Frames a second that the model sees.
        slices: Slices of a full window.
        seconds: End at this time of the stream.
        stop: Ends the run when set.
        metrics: The assistant's own, so that its figures stand beside those of the stream.
        clock: What rates and live time are measured with.
        audit: What the assistant's audit finds, to be told with the figures.
        recorder: Keeps the run, so that it can be run again; closed at the end.
        timeout: Seconds without a token after which the engine counts as hung; 300 without it.
        governor: Chooses how a live source is asked about; nothing is changed without it.
        hands: A hand detector that looks beside the model; closed at the end.

    Returns:
        Counts and rates of the run.

    Raises:
        EgoliveError: The source, the engine or a sink failed; the files of the other sinks are finished.
    """
    clock = clock or MonotonicClock()
    metrics = metrics or Metrics(clock)
    if recorder is not None and governor is not None:
        governor = recorder.governor(governor)
    if recorder is not None and hands is not None:
        hands = replace(hands, watch=recorder.hands(hands.watch))
    touched = governor.touched if governor is not None and governor.on_contact and source.live else None
    player = Runner(sinks, metrics, audit, slice_seconds=2 / fps, hands=hands, on_contact=touched)
    with ExitStack() as stack:
        if recorder is not None:
            stack.callback(recorder.close)
        for sink in reversed(sinks):
            stack.callback(sink.close)
        if hands is not None:
            stack.callback(hands.watch.close)
        report = pipeline.run(
            recorder.source(source) if recorder else source,
            assistant.scheduler,
            recorder.think(assistant) if recorder else assistant,
            recorder.show(player.show) if recorder else player.show,
            fps_sampled=fps,
            slices=slices,
            seconds=seconds,
            stop=stop,
            on_gap=player.gap,
            on_choice=player.choice,
            governor=governor,
            same=say_the_same,
            metrics=metrics,
            clock=clock,
            timeout=timeout,
        )
        player.note(metrics_event(metrics, report.stream_seconds, audit) | totals(report))
        if recorder is not None:
            recorder.close(report)
    return report


class Runner:
    """Takes what is shown to the sinks, boxes carried to now, and the figures every few seconds."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        metrics: Metrics,
        audit: AuditCounts | None = None,
        *,
        steady: bool = False,
        slice_seconds: float = 1.0,
        hands: HandsBeside | None = None,
        on_contact: Callable[[float, str], None] | None = None,
    ) -> None:
        """Stand between a run and its sinks, which stay the caller's to close.

        Args:
            sinks: Where pictures and answers go.
            metrics: Of the run.
            audit: What has been checked so far, where anything is.
            steady: Leave out what differs each time, such as the memory that is used.
            slice_seconds: Length of a slice of the windows.
            hands: What looks for hands beside the model; stays the caller's to close.
            on_contact: Told when a hand touches, takes or leaves something: the time, and what it did.
        """
        self._sinks = sinks
        self._metrics = metrics
        self._audit = audit
        self._steady = steady
        self._slice_seconds = slice_seconds
        # Following boxes costs more than all else that is done with a frame that nobody draws on.
        followed = on_contact is not None or not all(getattr(sink, "only_new", False) for sink in sinks)
        self._carrier = BoxTracker() if followed else None
        self._on_contact = on_contact
        self._trigger = ContactTrigger()
        self._watch = None if hands is None else hands.watch
        self._fusion = HandFusion() if hands is None else hands.fusion()
        self._cut = False
        self._figures = ""
        self._governor = ""
        self._still_since: float | None = None
        self._figures_at = _FIGURES_PERIOD
        self._event_at = _METRICS_PERIOD

    def show(self, showing: Showing[Question, Answer]) -> None:
        """Take what is shown to every sink."""
        time = showing.frame.time
        if time >= self._figures_at:
            self._figures_at = time + _FIGURES_PERIOD
            self._figures = _in_one_line(self._metrics, self._audit, steady=self._steady)
        current = [result.value for result in showing.current]
        if self._cut and self._carrier is not None:
            self._carrier.forget()
        self._cut = False
        looks = self._look(showing.frame, showing.now)
        seen: tuple[Hand, ...] = ()
        if self._carrier is not None:
            current = self._fusion.merge(current, time)
            with self._metrics.measure("track"):
                current = self._carrier.carry(showing.frame, current)
            current = self._fusion.settle(current)
            seen = self._fusion.hands(current)
            self._tell_contact(showing.frame, current)
        new = [result.value for result in showing.new if result.status == "ok"]
        self._fusion.hear(new)
        shown = Shown(
            showing.frame,
            current,
            [self._fusion.judge(answer) for answer in new],
            looks=looks,
            hands=seen,
            late=[_late(result) for result in showing.new if result.status != "ok"],
            now=showing.now,
            figures=self._figures,
            governor=self._governor,
            still_since=self._still_since,
        )
        with self._metrics.measure("draw"):
            for sink in self._sinks:
                sink.emit(shown)
        if time >= self._event_at:
            self._event_at = time + _METRICS_PERIOD
            self.note(metrics_event(self._metrics, time, self._audit, steady=self._steady))

    def gap(self, gap: Interval) -> None:
        """Write down a gap; the frame that begins anew may never be shown."""
        self._cut = True
        self._fusion.forget()
        if self._watch is not None:
            self._watch.forget(gap.end)
        self.note({"type": "gap", "start": round(gap.start, 4), "end": round(gap.end, 4)})

    def _tell_contact(self, frame: Frame, current: Sequence[Answer]) -> None:
        """Look what the hands that are shown have done."""
        if self._on_contact is None:
            return
        hands = {
            answer.question.phrase: answer.boxes[0]
            for answer in current
            if answer.boxes and hand_side(answer.question) is not None
        }
        reason = self._trigger.push(frame, hands, watched=self._fusion.looking)
        if reason is not None:
            self._on_contact(frame.time, reason)

    def _look(self, frame: Frame, now: float) -> Sequence[Look]:
        """Hand a picture to the detector, and write down what it has found since the one before."""
        if self._watch is None:
            return ()
        looks = self._watch.see(frame)
        for look in looks:
            self._fusion.see(look)
            self.note(hands_event(look, now))
        if error := self._watch.take_error():
            text = f"no hands are looked for any more: {error}"
            self.note({"type": "warning", "t": round(frame.time, 4), "text": text})
        return looks

    def choice(self, time: float, choice: Choice) -> None:
        """Write down what the governor chose at a time of the stream."""
        self._governor = choice_in_words(choice, self._slice_seconds)
        self._still_since = choice.still_since
        self.note(choice.event(time))

    def note(self, event: Mapping[str, object]) -> None:
        """Hand an event to every sink."""
        for sink in self._sinks:
            sink.note(event)


def metrics_event(
    metrics: Metrics, time: float, audit: AuditCounts | None = None, *, steady: bool = False
) -> dict[str, object]:
    """The figures so far as one JSON object.

    Args:
        metrics: Of the stream and the assistant.
        time: Stream time in seconds.
        audit: What has been checked so far, where anything is.
        steady: Leave the memory out, which differs each time.

    Returns:
        Stages and `glass_to_overlay_ms` in milliseconds, `answer_age_s` in seconds; `behind_s`, how far
        reading is behind the camera now, null for a recording; the reuse as shares, null where there was
        nothing to reuse.
    """
    stages = metrics.stages()
    behind = metrics.newest("behind")
    stages.pop("behind", None)
    overlay, age = stages.pop("glass_to_overlay", None), stages.pop("answer_age", None)
    memory = None if steady else rss_bytes()
    return {
        "type": "metrics",
        "t": round(time, 3),
        "stages": {name: _figures(stage, 1e3) for name, stage in stages.items()},
        "glass_to_overlay_ms": None if overlay is None else _figures(overlay, 1e3),
        "answer_age_s": None if age is None else _figures(age),
        "behind_s": None if behind is None else round(behind, 3),
        "reuse": {name: _rounded(metrics.share(*counts)) for name, counts in _REUSE.items()},
        "counts": metrics.counts,
        "memory_mb": None if memory is None else round(memory / 1e6, 1),
    } | ({} if audit is None else {"audit": asdict(audit)})


_TOLD_BEHIND = 0.5
"""Seconds behind from which on people are told."""
_REUSE = {
    "slices_encoded": ("slices_encoded", "slices_used"),
    "prompt_tokens_reused": ("prompt_tokens_reused", "prompt_tokens"),
    "draft_accepted": ("draft_accepted", "draft_proposed"),
}
"""Shares of the engine's counts: the first over the second."""


def totals(report: pipeline.Report) -> dict[str, object]:
    """The whole run, for its last `metrics` event."""
    return {
        "captured": report.captured,
        "shown": report.shown,
        "answers": report.results,
        "windows": report.windows,
        "gaps": report.gaps,
        "drops": report.drops,
        "requests": report.requests,
        "seconds": round(report.seconds, 3),
        "stream_seconds": round(report.stream_seconds, 3),
        "source_per_s": round(report.source_rate, 3),
        "shown_per_s": round(report.shown_rate, 3),
        "engine_per_s": round(report.think_rate, 3),
        "answers_per_s": round(report.results / report.seconds, 3) if report.seconds else 0.0,
        "ended": report.ended,
    }


def _figures(stage: Stage, unit: float = 1.0) -> dict[str, float]:
    seconds = {"p50": stage.p50, "p95": stage.p95, "p99": stage.p99, "max": stage.max}
    return {"n": stage.count} | {name: round(value * unit, 3) for name, value in seconds.items()}


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _in_one_line(metrics: Metrics, audit: AuditCounts | None, *, steady: bool = False) -> str:
    """The figures that a person watches: how old the picture and the answers are, and what was saved."""
    overlay, age = metrics.stage("glass_to_overlay"), metrics.stage("answer_age")
    reused = metrics.share("prompt_tokens_reused", "prompt_tokens")
    memory = None if steady else rss_bytes()
    parts = [
        behind_in_words(metrics),
        f"overlay {overlay.p50 * 1e3:.0f}/{overlay.p95 * 1e3:.0f} ms" if overlay else "",
        f"answers {age.p50:.1f}/{age.p95:.1f} s old" if age else "",
        f"reused {reused:.0%}" if reused is not None else "",
        f"{memory / 1e6:.0f} MB" if memory is not None else "",
        f"audit {audit.errors} errors of {audit.checked}" if audit else "",
    ]
    return " · ".join(part for part in parts if part)


def behind_in_words(metrics: Metrics) -> str:
    """That reading is behind the camera, and by how much; "" where it keeps up."""
    behind = metrics.newest("behind")
    return f"reading is {behind:.1f} s behind" if behind is not None and behind >= _TOLD_BEHIND else ""


def _late(result: Result[Question, Answer]) -> Answer:
    """The answer as it is written down."""
    return replace(result.value, status=result.status)


def say_the_same(one: Answer, other: Answer) -> bool:
    """Whether words, places and times are equal; probabilities never are."""
    places = [[(*box, box.label) for box in answer.boxes] for answer in (one, other)]
    return places[0] == places[1] and (one.text, one.intervals) == (other.text, other.intervals)
