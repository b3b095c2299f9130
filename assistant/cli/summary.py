"""What a run says when it is over, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from egolive.assistant.cli.printing import note, wrote
from egolive.assistant.generation.audit import AuditCounts
from egolive.assistant.live.sinks import Shown
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.run_report import Report

__all__ = ["GuessCount", "tell"]


class GuessCount:
    """A sink that counts answers, and those that are guesses or not sure."""

    only_new = True

    def __init__(self) -> None:
        self.answers = self.guesses = self.unsure = 0

    def emit(self, shown: Shown) -> None:
        """Count the new answers."""
        self.answers += len(shown.new)
        self.guesses += sum(answer.guess for answer in shown.new)
        self.unsure += sum(answer.unsure for answer in shown.new)

    def note(self, event: Mapping[str, object]) -> None:
        """Events are not counted."""

    def close(self) -> None:
        """Nothing to finish."""


def tell(
    report: Report,
    metrics: Metrics,
    out: Path | None,
    *,
    video: bool,
    drawn: bool,
    audit: AuditCounts | None,
    others: Sequence[Path | None] = (),
    guesses: GuessCount | None = None,
    knows: str = "",
) -> None:
    """Write a run's summary to standard error.

    Args:
        report: Of the run.
        metrics: Of the run.
        out: Folder of its files, where it has any.
        video: Whether one of them is a video.
        drawn: Whether an overlay was drawn anywhere; how late it was is left out otherwise.
        audit: What was checked, where anything was.
        others: Further folders that the run wrote.
        guesses: How many answers were guesses.
        knows: What the model knows, in one line.
    """
    answers = report.results / report.seconds if report.seconds else 0.0
    drops = ", ".join(f"{count} {reason}" for reason, count in report.drops.items()) or "none"
    lines = [
        f"picture  {report.source_rate:.1f}/s from the source, {report.shown_rate:.1f}/s shown "
        f"({report.shown} of {report.captured} pictures, {report.stream_seconds:.1f} s of stream)",
        f"engine   {report.think_rate:.2f} pictures a second answered, {answers:.2f} answers a second "
        f"({report.results} answers in {report.seconds:.1f} s)",
        f"drops    {drops}",
    ]
    if (behind := metrics.stage("behind")) and behind.p95 >= 0.5:
        lines.append(f"reading  {behind.p50:.1f} s behind the camera, 95 % within {behind.p95:.1f} s")
    if drawn and (overlay := metrics.stage("glass_to_overlay")):
        lines.append(
            f"overlay  {overlay.p50 * 1e3:.0f} ms after the capture, 95 % within {overlay.p95 * 1e3:.0f} ms"
        )
    if age := metrics.stage("answer_age"):
        late = ", ".join(f"{report.requests.get(status, 0)} {status}" for status in ("expired", "preempted"))
        lines.append(f"answers  {age.p50:.2f} s old when shown, 95 % within {age.p95:.2f} s; {late}")
    if broken := report.requests.get("broken", 0):
        lines.append(f"broken   {broken} answers that the engine broke off; they are not counted as answers")
    if audit is not None:
        lines.append(f"audit    {audit.summary}")
    if guesses is not None and guesses.unsure:
        lines.append(f"not sure {guesses.unsure} of {guesses.answers} answers, below the profile's threshold")
    if guesses is not None and guesses.guesses:
        lines.append(f"guesses  {guesses.guesses} of {guesses.answers} answers: {knows}")
    for line in lines:
        note(line)
    if out is not None:
        wrote(out / "overlay.mp4" if video and report.shown else None, out / "events.jsonl")
    wrote(*others)
