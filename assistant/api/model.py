"""A model that is asked about pictures, videos and streams."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast, overload

import numpy as np
from PIL import Image as PillowImage

from egolive.assistant.ask import ClipOptions, ask, ask_task, conversation_about
from egolive.assistant.generation.conversations import Conversation, fill_placeholders
from egolive.assistant.generation.domain import advice, check_question
from egolive.assistant.generation.generate import Sampling
from egolive.assistant.hands.hand_choice import HandChoice, Hands, choose_hands
from egolive.assistant.live.governing import held_by
from egolive.assistant.load import load_any_engine
from egolive.assistant.model.media import Picture, Video, given_frames, is_video
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.assistant.schema.answers import Answer, Question, Task
from egolive.assistant.schema.engine import Engine, EngineInfo
from egolive.assistant.schema.profiles import PictureSize, Profile
from egolive.stream import Stream, StreamSettings, questions_of
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Frame
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.source import Source

if TYPE_CHECKING:
    from egolive.assistant.load_local import Provider

__all__ = ["Media", "Model", "example_clip", "load_model"]

Media = Picture | Frame | Video | Sequence[Frame]
"""A picture or a video: a path, an address, base64 text, encoded bytes, a Pillow image, an RGB array (height,
width, 3) of uint8, a frame of a source; a list of these, or an array (n, height, width, 3), is a video.
OpenCV's arrays are BGR: turn them with `cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)`."""

_TASKS = ("ask", "intent", "next", "ground", "when")
_log = logging.getLogger(__name__)


def load_model(
    name: str | Path = "nano",
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    graphs: bool = True,
    provider: Provider = "auto",
    served_as: str = "egothinker-v1",
) -> Model:
    """Load a model, or reach the server that holds it.

    Args:
        name: "nano", the bundled model, which is for trying; a hub id, such as "hyf015/EgoThinker-v1"; a
            checkpoint folder; an engine folder that `egolive quantize` wrote; or the address of an
            OpenAI-compatible server, such as "http://localhost:8000/v1", to which the pictures then go.
        device: "cpu", "cuda" or "cuda:1"; "auto" takes a GPU where there is one.
        dtype: "fp32" or "bf16"; "auto" is bf16 on a GPU, and fp32 on the CPU unless only bf16 fits its
            memory. An engine folder has its own.
        threads: CPU threads of the model; None leaves them as they are.
        graphs: Decode by CUDA graphs where torch or TensorRT runs on CUDA.
        provider: What runs an engine folder of graphs: "onnx", "tensorrt", or "auto", what it was made for.
        served_as: How the model of a server is asked and read: "egothinker-v1", "qwen2-vl-instruct" or
            "nano".

    Raises:
        EngineError: It is not there, damaged, of another kind, or too large; or the server cannot be reached.
        ConfigError: A setting that cannot work.

    Example:
        >>> import egolive
        >>> with egolive.load_model("nano", device="cpu") as model:
        ...     print(model)
        Model(nano, torch fp32 on cpu)
    """
    return Model(
        load_any_engine(
            str(name),
            device=device,
            dtype=dtype,
            threads=threads,
            graphs=graphs,
            provider=provider,
            served_as=served_as,
        )
    )


def example_clip() -> Path:
    """The short first-person video that comes with the package.

    Raises:
        SourceError: The installation came without it.

    Example:
        >>> import egolive
        >>> egolive.example_clip().name
        'make_coffee.mp4'
    """
    from egolive.assistant.model.media import bundled_clip

    return bundled_clip()


class Model:
    """A loaded model; made by `load_model`. May be used from several threads, which wait for each other.

    Example:
        >>> import egolive
        >>> with egolive.load_model("nano") as model:
        ...     answer = model.ask(egolive.example_clip(), task="intent", end=4)
        >>> answer.text
        'make coffee'
    """

    def __init__(self, engine: Engine) -> None:
        """Take over an engine, which is closed with the model."""
        self._owned = engine
        self._engine: SharedEngine | None = SharedEngine(engine)
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._told = False

    @property
    def info(self) -> EngineInfo:
        """Name, backend, precision and device of what is loaded."""
        return self._owned.info

    @property
    def profile(self) -> Profile:
        """The prompts of the model, and how its answers are read."""
        return self._owned.profile

    @overload
    def ask(
        self,
        media: Media,
        question: str | None = None,
        *,
        task: Task = "ask",
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
        nframes: int | None = None,
        system: str | None = None,
        think: bool | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        paper_prompt: bool | None = None,
        grammar: bool = True,
        hands: Hands = "auto",
        hands_model: str | Path | None = None,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        media: Sequence[Mapping[str, object]],
        *,
        images: Sequence[Picture] = (),
        videos: Sequence[Video] = (),
        think: bool | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        grammar: bool = True,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        media: Sequence[Conversation],
        *,
        images: Sequence[Picture] = (),
        videos: Sequence[Video] = (),
        think: bool | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        grammar: bool = True,
    ) -> list[Answer]: ...
    def ask(
        self,
        media: Media | Conversation | Sequence[Conversation],
        question: str | None = None,
        *,
        task: Task = "ask",
        images: Sequence[Picture] = (),
        videos: Sequence[Video] = (),
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
        nframes: int | None = None,
        system: str | None = None,
        think: bool | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        paper_prompt: bool | None = None,
        grammar: bool = True,
        hands: Hands = "auto",
        hands_model: str | Path | None = None,
    ) -> Answer | list[Answer]:
        """Ask about a picture or a video, or answer messages in Hugging Face's form.

        Args:
            media: What is seen, see `Media`; or a list of messages, as on EgoThinker's model card; or a list
                of such lists, which are answered together.
            question: The question; with the task "ground" what to find, with "when" what happens. Left out
                for "intent" and "next", and where messages are given.
            task: "ask" (any question), "intent" and "next" (of a video), "ground" (boxes in a picture, or in
                the last frame of a video), "when" (intervals of a video).
            images: Beside messages, the pictures of their `{"type": "image"}` items that hold none.
            videos: The same for `{"type": "video"}`.
            start: Seconds into the video at which to begin.
            end: Seconds into the video at which to end.
            fps: Frames a second that are taken from a video, or that given frames have; the model's own rate
                without it.
            nframes: Number of frames that are taken from a video instead.
            system: System message, in place of the model's own; for the task "ask".
            think: Let the model reason before it answers, or not; the model's own habit without it.
            max_tokens: Most tokens of an answer; enough for the task without it.
            temperature: 0 takes the likeliest token, more draws among them.
            top_p: Draw among the likeliest tokens that make up this share.
            top_k: Draw among this many likeliest tokens; 0 for all.
            seed: Of the drawing.
            min_pixels: Least pixels at which the model sees a picture.
            max_pixels: Most pixels at which the model sees a picture.
            paper_prompt: Text before the pictures, as EgoThinker's last training stage had it.
            grammar: Hold boxes, intervals and reasoning to their form.
            hands: Who is asked, with the task "ground", about the left and right hand and what they hold:
                see `stream`.
            hands_model: The hand detector's model, `hand_landmarker.task`.

        Returns:
            The answer: `text`, `boxes` (pixels of the picture), `intervals` (seconds), `absent` where the
            model says that what was asked for is not there, `guess` where it is about scenes that the model
            was not trained on, which is also logged once. A list of them for a list of conversations.

        Raises:
            ConfigError: A setting, message or item that cannot be understood or would have no effect.
            SourceError: A picture or video cannot be read.
            EngineError: The engine failed, or the question is too long for it.

        Example:
            >>> import egolive
            >>> clip = str(egolive.example_clip())
            >>> model = egolive.load_model("nano")
            >>> answer = model.ask(clip, "left hand", task="ground", end=4)
            >>> [(box.label, 0 < box.x1 < box.x2 < 448) for box in answer.boxes]
            [('left hand', True)]
            >>> messages = [
            ...     {
            ...         "role": "user",
            ...         "content": [
            ...             {"type": "video", "video": clip, "nframes": 4},
            ...             {"type": "text", "text": "What is the wearer doing?"},
            ...         ],
            ...     }
            ... ]
            >>> model.ask(messages).text
            'make coffee'
            >>> len(model.ask([messages, messages]))
            2
            >>> model.close()
        """
        engine = self._open()
        profile = PictureSize(min_pixels=min_pixels, max_pixels=max_pixels).applied_to(engine.profile)
        reasons = profile.think if think is None else think
        sampling = Sampling(
            max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
        )
        clip = ClipOptions(fps=fps, nframes=nframes, start=start, end=end)
        of_media = {
            "a question beside them": question,
            "task": None if task == "ask" else task,
            "start": start,
            "end": end,
            "fps": fps,
            "nframes": nframes,
            "system": system,
            "paper_prompt": paper_prompt,
        }
        conversations = _conversations(media)
        if conversations is not None:
            if given := [name for name, value in of_media.items() if value is not None]:
                raise ConfigError(f"messages bring their own questions and settings; leave out {given[0]}")
            filled = fill_placeholders(conversations, images=images, videos=videos)
            answers = ask(filled, engine, sampling=sampling, profile=profile, think=reasons, grammar=grammar)
            self._tell(answers)
            return answers[0] if conversations is not media else answers
        if images or videos:
            raise ConfigError("images and videos fill the placeholders of messages; give messages")
        if task not in _TASKS:
            raise ConfigError(f"task is one of {', '.join(_TASKS)}, got {task!r}")
        words = _words(question, task)
        seen = _media(cast("Media", media))
        video = _as_video(seen, clip)
        if task == "ask":
            check_question(words, profile)
            turns = conversation_about([seen], words, clip, system=system, text_first=bool(paper_prompt))
            (answer,) = ask(
                [turns], engine, sampling=sampling, profile=profile, think=reasons, grammar=grammar
            )
            self._tell([answer])
            return answer
        if system is not None:
            raise ConfigError(f"system: the task {task} has the model's own words; it is for the task ask")
        question_ = Question(task, words, reasons)
        choice = HandChoice((question_,))
        if task == "ground":
            choice = choose_hands(hands, (question_,), model_file=hands_model, simulated=from_simulator(seen))
        answer = ask_task(
            question_,
            engine,
            hands=choice,
            picture=None if video is not None else cast("Picture", seen),
            video=video,
            clip=clip,
            sampling=sampling,
            profile=profile,
            paper_prompt=paper_prompt,
            grammar=grammar,
        )
        self._tell([answer])
        return answer

    def stream(
        self,
        source: Source | str | int | Path,
        tasks: str | Question | Iterable[str | Question] = ("intent", "next", "hands", "objects"),
        *,
        fps: float | None = None,
        slices: int | None = None,
        every: int | None = None,
        seconds: float | None = None,
        deadline: float | None = None,
        think: bool | None = None,
        max_tokens: int | None = None,
        grammar: bool = True,
        governed: bool = True,
        on_contact: bool = False,
        hands: Hands = "auto",
        hands_model: str | Path | None = None,
    ) -> Stream:
        """Watch a source; iterate over what comes back for one result a frame.

        Every frame of a recording comes. Of a live source the newest frame comes, however long you take.

        Args:
            source: What `open_source` gives, or what it takes; closed at the end. A live source that is lost
                is tried again only if it was opened so.
            tasks: What is asked again and again: "intent", "next", "hands", "objects" (in the hands); a text
                that ends with a question mark is a question about the last seconds, any other text a thing
                to find; or `Question` objects. A word that nearly is one of the names ("intnet") is an error;
                `Question("ground", ...)` finds a thing so named.
            fps: Frames a second that the model sees; the model's own rate without it.
            slices: Pairs of frames in a full window; the model's own number without it.
            every: Pairs of frames from one question about the window to the next; 2 without it, for a
                recording 1.
            seconds: End at this time of the stream.
            deadline: Seconds after which an answer about a live source is not current any more; 5 for boxes
                and 15 for words without it.
            think: Let the model reason before it answers, or not; the model's own habit without it.
            max_tokens: Most tokens of an answer; enough for the task without it.
            grammar: Hold boxes, intervals and reasoning to their form.
            governed: Of a live source, let what is asked when, the length of windows and the size of pictures
                follow what answers cost, the load of the machine and whether anything moves; `every` and
                `slices` that are given stay as they are.
            on_contact: Of a live source, ask when a hand has touched, taken or left something, and otherwise
                only before answers are out of date.
            hands: Who is asked about hands: "auto", the hand detector beside the model, where it is installed
                and the source is a real one; "model", the model alone; "detector", the detector alone for
                hands; "off", nothing about hands and what they hold.
            hands_model: The detector's model, `hand_landmarker.task`; "download" fetches it once from Google.

        Returns:
            An iterator of `FrameResult`, which also works as a context manager.

        Raises:
            SourceError: The source is not there or cannot be read; also while iterating.
            EngineError: The engine failed; while iterating.
            ConfigError: A setting that cannot work.

        Example:
            >>> import egolive
            >>> model = egolive.load_model("nano")
            >>> with egolive.open_source(egolive.example_clip()) as source:
            ...     for result in model.stream(source, tasks=["hands", "mug"]):
            ...         if result.boxes:
            ...             break
            >>> result.boxes[0].label
            'right hand'
            >>> model.close()
        """
        engine = self._open()
        profile = engine.profile
        questions = questions_of(tasks, think=profile.think if think is None else think)
        for question in questions:
            if question.task == "ask":
                check_question(question.phrase, profile)
        choice = choose_hands(
            hands,
            questions,
            model_file=hands_model,
            simulated=from_simulator(source if isinstance(source, str | int | Path) else source.name),
        )
        opened = open_source(source) if isinstance(source, str | int | Path) else source
        try:
            settings = StreamSettings(
                fps=profile.fps if fps is None else fps,
                slices=profile.window_slices if slices is None else slices,
                every=(2 if opened.live else 1) if every is None else every,
                seconds=seconds,
                deadline=deadline,
                max_tokens=max_tokens,
                grammar=grammar,
                governed=governed,
                held=held_by(every=every, slices=slices),
                on_contact=on_contact,
                hands=choice,
            )
        except ConfigError:
            if opened is not source:
                opened.close()
            raise
        stream = Stream(engine, opened, choice.questions, settings)
        self._streams.add(stream)
        return stream

    def close(self) -> None:
        """End the streams of this model and free its weights; closing twice does nothing.

        Example:
            >>> import egolive
            >>> model = egolive.load_model("nano")
            >>> model.close()
            >>> model.ask("photo.jpg", "left hand", task="ground")
            Traceback (most recent call last):
            egolive.streaming.errors.ConfigError: this model is closed; load it again
        """
        if self._engine is not None:
            self._engine = None
            for stream in list(self._streams):
                stream.close()
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self.info
        closed = ", closed" if self._engine is None else ""
        return f"Model({info.name}, {info.backend} {info.precision} on {info.device}{closed})"

    def _tell(self, answers: Sequence[Answer]) -> None:
        """Say once that answers are guesses, and why."""
        if not self._told and any(answer.guess for answer in answers):
            self._told = True
            _log.warning("answers are guesses: %s", advice(self.profile))

    def _open(self) -> SharedEngine:
        if self._engine is None:
            raise ConfigError("this model is closed; load it again")
        return self._engine


def _conversations(media: object) -> Sequence[Conversation] | None:
    """Messages as a list of conversations; the same list where it is one; None where it is no message."""
    if not isinstance(media, list | tuple) or not media:
        return None
    if isinstance(media[0], Mapping):
        return [media]
    first = media[0]
    if isinstance(first, list | tuple) and first and isinstance(first[0], Mapping):
        return media
    return None


def _media(media: Media) -> Picture | Video:
    """What is seen, frames as pixels and an array of frames as a list."""
    if isinstance(media, Frame):
        return media.image
    if isinstance(media, np.ndarray):
        return list(media) if media.ndim == 4 else media
    if isinstance(media, str | Path | bytes | PillowImage.Image):
        return media
    if not isinstance(media, Sequence):
        raise ConfigError(
            f"a picture or video is a path, an address, bytes, a Pillow image, an array, or a list of "
            f"pictures, got {type(media).__name__}"
        )
    if not media:
        raise ConfigError("a video of no frames was given; give at least one picture")
    items = cast("Sequence[Picture | Frame]", media)
    return [item.image if isinstance(item, Frame) else item for item in items]


def _as_video(media: Picture | Video, clip: ClipOptions) -> Video | None:
    """The media as a video; None where it is one picture.

    Raises:
        ConfigError: A setting that would have no effect.
    """
    frames = isinstance(media, list) or (isinstance(media, str) and given_frames(media) is not None)
    if frames or (isinstance(media, str | Path | bytes) and is_video(media)):
        of_files = {"nframes": clip.nframes, "start": clip.start, "end": clip.end}
        if frames and (given := [name for name, value in of_files.items() if value is not None]):
            raise ConfigError(
                f"frames that are given are all seen, so {given[0]} has no effect; leave it out"
            )
        if clip.fps is not None and clip.nframes is not None:
            raise ConfigError("give fps or nframes, not both")
        return cast("Video", media)
    of_videos = {"fps": clip.fps, "nframes": clip.nframes, "start": clip.start, "end": clip.end}
    if given := [name for name, value in of_videos.items() if value is not None]:
        raise ConfigError(f"a single picture was given, so {given[0]} has no effect; leave it out")
    return None


def _words(question: str | None, task: Task) -> str:
    if task in ("intent", "next"):
        if question is not None:
            raise ConfigError(
                f"the task {task} brings its own question; leave yours out, or take the task ask"
            )
        return ""
    if question is None or not question.strip():
        what = {"ground": "what to find", "when": "what happens"}.get(task, "the question")
        raise ConfigError(f"the task {task} needs words: {what}")
    return question
