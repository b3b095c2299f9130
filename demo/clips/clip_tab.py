"""The Clip tab: bring a clip, see it watched, ask about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from html import escape
from pathlib import PurePath
from typing import Literal

import gradio as gr

from egolive.assistant.generation.domain import advice
from egolive.assistant.hands.hand_choice import HandSettings
from egolive.assistant.live.answer_text import in_words
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.demo.clips.clip_jobs import (
    ClipSession,
    ClipSessions,
    Watched,
    find_when,
    find_where,
    watch_clip,
    write_evidence,
)
from egolive.demo.clips.isolated import clip_seconds
from egolive.demo.clips.timeline import rows_of, timeline
from egolive.demo.clips.uploads import Uploads
from egolive.demo.security.names import client_network
from egolive.demo.static_text import static_text
from egolive.streaming.errors import EgoliveError, UsageError

__all__ = ["ClipPage", "clip_tab"]

MOST_SECONDS = 300.0
"""Of a clip that are watched."""
_NO_CLIP = "Bring a clip first: upload one, or take the bundled one."
_NOT_WATCHED = "Watch a clip first; then ask about it."
_BUSY = "Your clip is being looked at; wait until what is under way has ended, or stop it."


class ClipPage:
    """What the tab's buttons do; each visitor has a session in `clips`.

    What comes from a page is of any kind: the functions take nothing but text from it.
    """

    def __init__(
        self,
        engine: SharedEngine,
        clips: ClipSessions,
        uploads: Uploads,
        hands: HandSettings | None = None,
    ) -> None:
        """Work with an engine and the visitors' clips.

        Args:
            engine: What answers.
            clips: Of all visitors.
            uploads: What was sent and not taken yet.
            hands: Who is asked about hands.
        """
        self._uploads = uploads
        self._engine = engine
        self._clips = clips
        self._hands = hands or HandSettings()

    def take_upload(self, token: object, request: gr.Request) -> str:
        """Take what was uploaded under a token; returns the status line."""
        upload = self._uploads.claim(token) if isinstance(token, str) else None
        if upload is None:
            return status("The upload is not there any more; upload it again.")

        def take(session: ClipSession) -> str:
            with session.emptied():
                suffix = PurePath(upload.name).suffix
                clip = session.folder / f"clip{suffix if suffix[1:].isalnum() else ''}"[:16]
                shutil.move(upload.path, clip)
                try:
                    seconds = clip_seconds(clip)
                except EgoliveError as error:
                    clip.unlink()
                    raise UsageError(str(error).replace(clip.name, upload.name, 1)) from error
                session.clip, session.seconds = clip, seconds
            return _ready(upload.name, seconds)

        try:
            return self._reply(request, take)
        finally:
            # Where it was not taken, it is not kept either.
            upload.path.unlink(missing_ok=True)

    def take_bundled(self, request: gr.Request) -> str:
        """Take the clip that comes with the package; returns the status line."""

        def take(session: ClipSession) -> str:
            clip = bundled_clip()
            seconds = clip_seconds(clip)
            with session.emptied():
                session.clip, session.seconds = clip, seconds
            return _ready(clip.name, seconds)

        return self._reply(request, take)

    def watch(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # how Gradio hands it in
    ) -> tuple[str, str, str, str]:
        """Watch the visitor's clip; returns the status line, the video, the timeline and no answer yet."""
        session = self._session(request)
        if session is None:
            return status(_NO_CLIP), "", "", ""
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
            return status(_NO_CLIP), "", "", ""
        whole = min(session.seconds, MOST_SECONDS)
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
                hands=self._hands,
            )
            write_evidence(self._engine, watched)
        except EgoliveError as error:
            # Where the server keeps it is nobody's business.
            return status(str(error).replace(f"{session.folder}/", "")), "", "", ""
        session.watched = watched
        cut = f" Only the first {watched.seconds:.0f} s were watched." if watched.cut else ""
        guesses = sum(answer.guess for answer in watched.answers)
        told = f" {guesses} of them are guesses: {advice(self._engine.profile)}" if guesses else ""
        said = status(f"{len(watched.answers)} answers about {watched.seconds:.1f} s.{cut}{told}")
        return said, _result(session), _strip(watched), ""

    def stop(self, request: gr.Request) -> None:
        """End watching; what has been watched by then is shown."""
        session = self._clips.find(request.session_hash or "", uses=False)
        if session is not None:
            session.stop.set()

    def when(self, words: object, request: gr.Request) -> tuple[str, str]:
        """Answer when something happened; returns the answer and the timeline."""

        def look(_: ClipSession, watched: Watched) -> str:
            answer = find_when(self._engine, watched, _text(words))
            return f"<p>{escape(answer.question.phrase)}: <strong>{escape(in_words(answer))}</strong></p>"

        return self._asked(request, look)

    def where(self, words: object, request: gr.Request) -> tuple[str, str]:
        """Answer where something is; returns the answer and the timeline."""

        def look(session: ClipSession, watched: Watched) -> str:
            answer, frame = find_where(self._engine, watched, _text(words), self._hands)
            word, name = session.word, escape(answer.question.phrase)
            if not answer.boxes:
                if answer.unknown:
                    return f"<p>{name}: <strong>{escape(in_words(answer))}</strong></p>"
                return f"<p>{name}: <strong>not seen</strong> in the pictures that were looked at</p>"
            # The number keeps a browser from showing the picture of an earlier question.
            address = f"clip/{word}/where.jpg?{len(watched.asked)}"
            seen = "not sure, perhaps seen" if answer.unsure else "a guess: seen" if answer.guess else "seen"
            return (
                f"<p>{name}: <strong>{seen} at {frame.time:.1f} s</strong></p>"
                f'<img src="{address}" alt="{name} in its box, at {frame.time:.1f} s">'
            )

        return self._asked(request, look)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        if request.session_hash:
            self._clips.leave(request.session_hash)

    def _asked(self, request: gr.Request, look: Callable[[ClipSession, Watched], str]) -> tuple[str, str]:
        session = self._session(request)
        if session is None:
            return status(_NOT_WATCHED), ""
        if not session.at_work.acquire(blocking=False):
            return status(_BUSY), "" if session.watched is None else _strip(session.watched)
        try:
            watched = session.watched
            if watched is None:
                return status(_NOT_WATCHED), ""
            try:
                found = f'<div class="ego-found">{look(session, watched)}</div>'
                write_evidence(self._engine, watched)
            except EgoliveError as error:
                found = status(str(error))
            return found, _strip(watched)
        finally:
            session.at_work.release()

    def _reply(self, request: gr.Request, act: Callable[[ClipSession], str]) -> str:
        try:
            client = getattr(request, "client", None)
            address = client_network(client.host if client else "127.0.0.1")
            return status(act(self._clips.begin(request.session_hash or "", address)))
        except EgoliveError as error:
            return status(str(error))

    def _session(self, request: gr.Request) -> ClipSession | None:
        return self._clips.find(request.session_hash or "")


def clip_tab(page: ClipPage, *, upload_mb: int) -> None:
    """Place the Clip tab in the blocks that are being built."""
    gr.Markdown(
        f"A video of at most {upload_mb} MB; its first {MOST_SECONDS / 60:.0f} minutes are watched. "
        "It stays on this server and is deleted when you close the page."
    )
    with gr.Row():
        upload = gr.HTML(
            "",
            html_template=static_text("upload.html"),
            js_on_load=static_text("upload.js"),
            elem_id="clip-upload",
        )
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
    upload.upload(page.take_upload, upload, said, api_visibility=hidden)
    bundled.click(page.take_bundled, None, said, api_visibility=hidden)
    # One clip is watched at a time; Gradio tells the others their place in the queue.
    shown = [said, result, strip, found]
    watch.click(None, None, said, js=f"() => `{status('')}`", api_visibility=hidden).then(
        page.watch, None, shown, concurrency_limit=1, show_progress_on=said, api_visibility=hidden
    )
    # Never waits in the queue.
    stop.click(page.stop, None, None, concurrency_limit=None, api_visibility=hidden)
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


def _text(words: object) -> str:
    return words if isinstance(words, str) else ""


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
