"""The Clip tab: bring a clip, see it watched, ask about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Literal

import gradio as gr

from egolive.assistant.live.answer_text import in_words
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.demo.clip_jobs import (
    ClipSession,
    ClipSessions,
    Watched,
    find_when,
    find_where,
    length_of,
    watch_clip,
    write_evidence,
)
from egolive.demo.live_tab import static_text
from egolive.demo.timeline import rows_of, timeline
from egolive.streaming.errors import EgoliveError, UsageError

__all__ = ["ClipPage", "clip_tab"]

MOST_SECONDS = 300.0
"""Of a clip that are watched."""
_BUSY = "Your clip is being looked at; wait until what is under way has ended, or stop it."


class ClipPage:
    """What the tab's buttons do; each visitor has a session in `clips`."""

    def __init__(self, engine: SharedEngine, clips: ClipSessions, uploads: Path) -> None:
        """Work with an engine and the visitors' clips.

        Args:
            engine: What answers.
            clips: Of all visitors.
            uploads: Where Gradio puts files; nothing is taken from elsewhere.
        """
        self._uploads = uploads.resolve()
        self._engine = engine
        self._clips = clips

    def take_upload(self, upload: str | None, request: gr.Request) -> tuple[None, str]:
        """Move an upload out of Gradio's folder into the visitor's; returns the status line."""
        if upload is None:
            return None, status("")
        source = Path(upload).resolve()
        if not source.is_relative_to(self._uploads) or not source.is_file():
            return None, status("The upload is not there any more; upload it again.")

        def take(session: ClipSession) -> str:
            with session.emptied():
                clip = session.folder / f"clip{source.suffix[:8]}"
                shutil.move(source, clip)
                try:
                    seconds = length_of(clip)
                except EgoliveError as error:
                    clip.unlink()
                    raise UsageError(str(error).replace(str(clip), source.name)) from error
                session.clip = clip
            return _ready(source.name, seconds)

        try:
            return None, self._reply(request, take)
        finally:
            # Where it was not taken, it is not kept either.
            source.unlink(missing_ok=True)

    def take_bundled(self, request: gr.Request) -> str:
        """Take the clip that comes with the package; returns the status line."""

        def take(session: ClipSession) -> str:
            clip = bundled_clip()
            with session.emptied():
                session.clip = clip
            return _ready(clip.name, length_of(clip))

        return self._reply(request, take)

    def watch(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # how Gradio hands it in
    ) -> tuple[str, str, str, str]:
        """Watch the visitor's clip; returns the status line, the video, the timeline and no answer yet."""
        session = self._session(request)
        # Nobody waits here: whoever does takes the place of other visitors.
        if not session.at_work.acquire(blocking=False):
            return status(_BUSY), "", "", ""
        try:
            session.stop.clear()
            found = None if session.unwanted.is_set() else self._watch(session, progress)
            if found is None or session.unwanted.is_set():
                found = status("Another clip was taken meanwhile; watch that one."), "", "", ""
            return found
        finally:
            session.at_work.release()

    def _watch(self, session: ClipSession, progress: gr.Progress) -> tuple[str, str, str, str]:
        if session.clip is None:
            return status("Bring a clip first: upload one, or take the bundled one."), "", "", ""
        whole = min(length_of(session.clip), MOST_SECONDS)
        reached = -1.0

        def report(time: float) -> None:
            nonlocal reached
            # Each call goes to the browser.
            if time - reached >= whole / 100:
                reached = time
                progress(min(time / whole, 1.0), desc=f"{time:.0f} of {whole:.0f} s watched")

        progress(0.0, desc="waiting for the model")
        try:
            watched = watch_clip(
                self._engine,
                session.clip,
                session.folder,
                most_seconds=MOST_SECONDS,
                progress=report,
                stop=session.stop,
            )
        except EgoliveError as error:
            return status(str(error)), "", "", ""
        session.watched = watched
        write_evidence(self._engine, watched)
        cut = f" Only the first {watched.seconds:.0f} s were watched." if watched.cut else ""
        said = status(f"{len(watched.answers)} answers about {watched.seconds:.1f} s.{cut}")
        return said, _result(session), _strip(watched), ""

    def stop(self, request: gr.Request) -> None:
        """End watching; what has been watched by then is shown."""
        self._session(request).stop.set()

    def when(self, words: str, request: gr.Request) -> tuple[str, str]:
        """Answer when something happened; returns the answer and the timeline."""

        def look(watched: Watched) -> str:
            answer = find_when(self._engine, watched, words)
            return f"<p>{escape(answer.question.phrase)}: <strong>{escape(in_words(answer))}</strong></p>"

        return self._asked(request, look)

    def where(self, words: str, request: gr.Request) -> tuple[str, str]:
        """Answer where something is; returns the answer and the timeline."""

        def look(watched: Watched) -> str:
            answer, frame = find_where(self._engine, watched, words)
            word, name = self._session(request).word, escape(answer.question.phrase)
            if not answer.boxes:
                return f"<p>{name}: <strong>not seen</strong> in the pictures that were looked at</p>"
            # The number keeps a browser from showing the picture of an earlier question.
            address = f"clip/{word}/where.jpg?{len(watched.asked)}"
            return (
                f"<p>{name}: <strong>seen at {frame.time:.1f} s</strong></p>"
                f'<img src="{address}" alt="{name} in its box, at {frame.time:.1f} s">'
            )

        return self._asked(request, look)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        if request.session_hash:
            self._clips.leave(request.session_hash)

    def _asked(self, request: gr.Request, look: Callable[[Watched], str]) -> tuple[str, str]:
        session = self._session(request)
        if not session.at_work.acquire(blocking=False):
            return status(_BUSY), "" if session.watched is None else _strip(session.watched)
        try:
            watched = session.watched
            if watched is None:
                return status("Watch a clip first; then ask about it."), ""
            try:
                found = f'<div class="ego-found">{look(watched)}</div>'
            except EgoliveError as error:
                found = status(str(error))
            write_evidence(self._engine, watched)
            return found, _strip(watched)
        finally:
            session.at_work.release()

    def _reply(self, request: gr.Request, act: Callable[[ClipSession], str]) -> str:
        try:
            return status(act(self._session(request)))
        except EgoliveError as error:
            return status(str(error))

    def _session(self, request: gr.Request) -> ClipSession:
        return self._clips.of(request.session_hash or "")


def clip_tab(page: ClipPage, *, upload_mb: int) -> None:
    """Place the Clip tab in the blocks that are being built."""
    gr.Markdown(
        f"A video of at most {upload_mb} MB; its first {MOST_SECONDS / 60:.0f} minutes are watched. "
        "It stays on this server and is deleted when you close the page."
    )
    with gr.Row():
        upload = gr.File(label="Your clip", file_types=["video"], type="filepath", height=140)
        with gr.Column():
            bundled = gr.Button("Take the bundled clip")
            watch = gr.Button("Watch it", variant="primary")
            stop = gr.Button("Stop")
    said = gr.HTML(status(""), elem_id="clip-status", padding=False)
    result = gr.HTML("", elem_id="clip-result", padding=False)
    strip = gr.HTML("", elem_id="clip-timeline", js_on_load=static_text("clip.js"), padding=False)
    with gr.Row():
        when, ask_when = _question("clip-when", "When did I …", "open the fridge", "Find the time")
        where, ask_where = _question("clip-where", "Where is …", "the red mug", "Find the place")
    found = gr.HTML("", elem_id="clip-found", padding=False)

    hidden: Literal["private"] = "private"
    upload.upload(page.take_upload, upload, [upload, said], api_visibility=hidden)
    bundled.click(page.take_bundled, None, said, api_visibility=hidden)
    # One clip is watched at a time; Gradio tells the others their place in the queue.
    shown = [said, result, strip, found]
    watch.click(lambda: status(""), None, said, queue=False, api_visibility=hidden).then(
        page.watch, None, shown, concurrency_limit=1, show_progress_on=said, api_visibility=hidden
    )
    stop.click(page.stop, None, None, queue=False, api_visibility=hidden)
    for field, button, look in ((when, ask_when, page.when), (where, ask_where, page.where)):
        gr.on(
            [field.submit, button.click],
            look,
            field,
            [found, strip],
            concurrency_limit=1,
            concurrency_id="questions",
            show_progress_on=found,
            api_visibility=hidden,
        )


def _question(name: str, label: str, example: str, action: str) -> tuple[gr.Textbox, gr.Button]:
    with gr.Group():
        field = gr.Textbox(label=label, placeholder=example, max_length=300, elem_id=name)
        return field, gr.Button(action)


def status(text: str) -> str:
    """One line of plain text that screen readers read out when it changes."""
    return f'<p class="ego-note" role="status">{escape(text)}</p>'


def _ready(name: str, seconds: float) -> str:
    long = f"; its first {MOST_SECONDS:.0f} s are watched" if seconds > MOST_SECONDS else ""
    return f"{name}, {seconds:.1f} s long{long}. Press Watch it."


def _result(session: ClipSession) -> str:
    address = f"clip/{session.word}"
    names = {"overlay.mp4": "Overlay video", "events.jsonl": "Events", "evidence.zip": "Evidence"}
    links = " · ".join(f'<a href="{address}/{file}" download>{name}</a>' for file, name in names.items())
    return (
        f'<video controls playsinline preload="auto" src="{address}/overlay.mp4"></video>'
        f'<p class="ego-downloads">Download: {links}</p>'
    )


def _strip(watched: Watched) -> str:
    return timeline(rows_of(watched.answers, watched.asked, watched.seconds), watched.seconds)
