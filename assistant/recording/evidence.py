"""Evidence bundles: a folder for each answer, from which the same weights give the same answer again.

`bundle.json` holds the question, the model, the settings and the prompt as the model read it (so that a later
profile or wording does not change it), the PNG files are its frames, `answer.json` is the answer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from egolive.assistant.generation.generate import GenerationRequest, Sampling, generate_answers
from egolive.assistant.load import is_address
from egolive.assistant.model.checkpoint import BUNDLED, model_folder, resolve_model
from egolive.assistant.model.engine_folder import ENGINE_FILE, hash_checkpoint, is_engine_folder
from egolive.assistant.prompts.grammar import matchers_of
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine, EngineInfo, Prompt, Request, Vision
from egolive.assistant.schema.profiles import Profile, profile_from_dict, profile_to_dict
from egolive.streaming.clock import VirtualClock
from egolive.streaming.durable_files import sync_later
from egolive.streaming.errors import DataError, EngineError, SinkError
from egolive.streaming.frames import Image, Interval
from egolive.streaming.json_files import (
    MOST_BYTES,
    AtLeastOne,
    JsonModel,
    Seconds,
    json_bytes,
    parse_json,
    read_at_most,
)
from egolive.streaming.paths import brief
from egolive.streaming.recording.pictures import png_size, read_png, write_png
from egolive.streaming.sources.addresses import without_password
from egolive.streaming.sources.limits import check_pixels

__all__ = [
    "Bundle",
    "EvidenceWriter",
    "is_bundle",
    "local_hash",
    "named_model",
    "read_bundle",
    "reproduce",
    "weights_hash",
]

_BUNDLE, _ANSWER = "bundle.json", "answer.json"
_FORMAT = 2
_MOST_FILE = 128 * 1024**2
"""Bytes of one picture; one of 24 million pixels without any redundance has 72 MB."""
_MOST_PIXELS = 256 * 1024**2
"""Of all pictures of a bundle together: 32 frames of 4K."""
_MOST_TOKENS = 128 * 1024
"""Visual tokens, 28 x 28 pixels of what the model sees; more than any model holds."""
_MOST_TEXT = 128 * 1024
"""Characters of a prompt or a question: about as many as 32768 tokens have, and read in 2 s."""
_TOKEN = 28
_REMEDY = "copy the bundle again, or write it again with egolive run --evidence"


class _Engine(JsonModel):
    model: str
    name: str
    backend: str
    precision: str
    sha256: Annotated[str, Field(min_length=1)]


class _Settings(JsonModel, extra="forbid"):
    max_tokens: AtLeastOne
    temperature: float
    top_p: float
    top_k: int
    seed: int
    grammar: bool
    source_size: tuple[AtLeastOne, AtLeastOne]
    window: tuple[Seconds, Seconds] | None
    time: Seconds

    @field_validator("window")
    @classmethod
    def _ends_after_its_start(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None:
            Interval(*window)
        return window


_PictureName = Annotated[str, Field(pattern=r"^frame-[0-9]{3,6}\.png$")]
"""Of a file in the bundle's folder itself."""


class _Vision(JsonModel):
    kind: Literal["image", "video"]
    height: AtLeastOne
    width: AtLeastOne
    frames: Annotated[tuple[_PictureName, ...], Field(min_length=1)]


class _BundleFile(JsonModel):
    """`bundle.json`."""

    format: Literal[2]
    engine: _Engine
    question: Question
    settings: _Settings
    profile: dict[str, Any]
    prompt: tuple[str | _Vision, ...]
    frames: dict[_PictureName, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    """SHA-256 of each PNG file, by name."""

    @field_validator("question")
    @classmethod
    def _is_a_question(cls, question: Question) -> Question:
        if len(question.phrase) > _MOST_TEXT:
            raise ValueError(f"a question of more than {_MOST_TEXT} characters")
        return question

    @field_validator("prompt")
    @classmethod
    def _can_be_read(cls, prompt: tuple[str | _Vision, ...]) -> tuple[str | _Vision, ...]:
        pictures = [part for part in prompt if isinstance(part, _Vision)]
        if sum(len(part) for part in prompt if isinstance(part, str)) > _MOST_TEXT:
            raise ValueError(f"a prompt of more than {_MOST_TEXT} characters")
        cells = (one.height * one.width * len(one.frames) for one in pictures)
        if sum(cells) > _MOST_TOKENS * _TOKEN**2:
            raise ValueError(f"pictures of more than {_MOST_TOKENS} visual tokens")
        if not pictures:
            raise ValueError("no picture, so there is no evidence of what was seen")
        return prompt

    @model_validator(mode="after")
    def _frames_are_those_of_the_prompt(self) -> Self:
        shown = {name for part in self.prompt if isinstance(part, _Vision) for name in part.frames}
        if odd := sorted(shown ^ self.frames.keys()):
            known = "is not in the prompt" if odd[0] in self.frames else "has no hash among its frames"
            raise ValueError(f"{odd[0]} {known}")
        return self


class _AnswerFile(JsonModel):
    """`answer.json`: compared as bytes; that it is a JSON object is all that is checked."""


class EvidenceWriter:
    """Writes a bundle for every answer into a folder of its own."""

    def __init__(self, folder: Path, *, model: str, info: EngineInfo, sha256: str, profile: Profile) -> None:
        """Write nothing yet.

        Args:
            folder: Where the bundles' folders go.
            model: As it was named on the command line.
            info: What is loaded.
            sha256: Of its weights, see `weights_hash`.
            profile: With which answers are read.
        """
        self.bundles: list[Path] = []
        """Those that were written, in order."""
        self._folder = folder
        about = {"name": info.name, "backend": info.backend, "precision": info.precision}
        self._engine = {"model": model, **about, "sha256": sha256}
        self._profile = profile

    def keep(
        self, generation: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]
    ) -> None:
        """Write one bundle.

        Raises:
            SinkError: It cannot be written.
        """
        words = re.sub(r"\W+", "-", f"{generation.question.task} {generation.question.phrase}".strip())[:60]
        folder = self._folder / f"{len(self.bundles):06d}-{generation.time:.2f}s-{words}"
        partial = folder.with_name(f"{folder.name}.part")
        try:
            if folder.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            values = {
                "format": _FORMAT,
                "engine": self._engine,
                "question": asdict(generation.question),
                "settings": _settings(generation, request),
                "profile": profile_to_dict(self._profile),
                "prompt": _write_prompt(request.prompt, partial),
            }
            values["frames"] = {path.name: _hash(path.read_bytes()) for path in sorted(partial.glob("*.png"))}
            (partial / _BUNDLE).write_bytes(json_bytes(values))
            (partial / _ANSWER).write_bytes(_answer_bytes(answer, tokens))
            # It has its name once it is whole.
            partial.rename(folder)
            sync_later(folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise SinkError(
                f"{folder}: cannot be written ({error.strerror or error}); choose another folder"
            ) from error
        self.bundles.append(folder)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle, read back."""

    folder: Path
    engine: dict[str, str]
    """model, name, backend, precision, sha256."""
    generation: GenerationRequest
    sampling: Sampling
    grammar: bool
    profile: Profile
    answer: bytes
    """What `answer.json` holds."""
    files: Mapping[str, bytes]
    """The other files by name, as they were checked."""


def is_bundle(folder: Path) -> bool:
    """Whether a folder says of itself that it is one."""
    return (folder / _BUNDLE).is_file()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle.

    Raises:
        DataError: It is none, or something in it is missing or damaged.
        SourceError: One of its pictures has more pixels than are decoded.
        ConfigError: Its profile has a mistake.
    """
    files = {_BUNDLE: _read(folder / _BUNDLE, "bundle", MOST_BYTES)}
    file = parse_json(_BundleFile, files[_BUNDLE], where=_told(folder / _BUNDLE, "bundle"), remedy=_REMEDY)
    answer = _read(folder / _ANSWER, "answer", MOST_BYTES)
    parse_json(_AnswerFile, answer, where=_told(folder / _ANSWER, "answer"), remedy=_REMEDY)
    pixels = 0
    for name, expected in file.frames.items():
        files[name] = data = _read(folder / name, "picture", _MOST_FILE)
        if _hash(data) != expected:
            raise DataError(f"{folder / name}: is not the picture that was answered about; {_REMEDY}")
        width, height = png_size(data) or (0, 0)
        check_pixels(str(folder / name), width, height)
        pixels += width * height
        if pixels > _MOST_PIXELS:
            raise DataError(f"{folder}: its pictures have more than {_MOST_PIXELS} pixels; {_REMEDY}")
    images = {name: _decoded(folder / name, files[name]) for name in file.frames}
    parts: list[str | Vision] = []
    for part in file.prompt:
        if isinstance(part, str):
            parts.append(part)
        else:
            frames = tuple(images[name] for name in part.frames)
            parts.append(Vision(frames, part.height, part.width, part.kind))
    settings = file.settings
    generation = GenerationRequest(
        question=file.question,
        prompt=Prompt(tuple(parts)),
        source_size=settings.source_size,
        window=Interval(*settings.window) if settings.window else None,
        time=settings.time,
    )
    sampling = {field.name: getattr(settings, field.name) for field in fields(Sampling)}
    return Bundle(
        folder,
        engine=file.engine.model_dump(),
        generation=generation,
        sampling=Sampling(**sampling),
        grammar=settings.grammar,
        profile=profile_from_dict(file.profile, where=str(folder)),
        answer=answer,
        files=files,
    )


def reproduce(bundle: Bundle, engine: Engine, folder: Path | None = None) -> bytes:
    """Give the answer of a bundle again.

    Args:
        bundle: What is asked.
        engine: What answers; the caller has seen to it that it is the same.
        folder: Where the bundle is written anew, with this answer.

    Returns:
        What `answer.json` holds now.

    Raises:
        EngineError: The engine failed.
        SinkError: The folder cannot be written.
    """
    said: list[bytes] = []

    class _Catch:
        def keep(
            self, generation: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]
        ) -> None:
            said.append(_answer_bytes(answer, tokens))

    matchers = matchers_of(engine, bundle.profile) if bundle.grammar else None
    with engine.session() as session:
        answers = generate_answers(
            session,
            [bundle.generation],
            bundle.profile,
            bundle.sampling,
            VirtualClock(),
            matchers=matchers,
            observer=_Catch(),
        )
        list(answers)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # What was checked, not what stands in the bundle's folder by now, and nothing else that is there.
            for name, data in (*bundle.files.items(), (_ANSWER, said[0])):
                _write(folder / name, data)
        except OSError as error:
            raise SinkError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return said[0]


def weights_hash(model: str) -> str:
    """One hash over a model's weights and configuration; reads all of them once.

    Args:
        model: As on the command line.

    Raises:
        EngineError: There is no such model.
    """
    folder = resolve_model(model)
    if is_engine_folder(folder):
        # It lists the hashes of all files beside it, which loading has compared.
        return hashlib.sha256((folder / ENGINE_FILE).read_bytes()).hexdigest()
    return hash_checkpoint(folder)


def local_hash(model: str) -> str:
    """As `weights_hash`, of a model in a local folder; empty for a server's address and a hub id."""
    local = not is_address(model) and model_folder(model) is not None
    return weights_hash(model) if local else ""


def named_model(model: str, sha256: str, *, where: Path) -> str:
    """The model that a recording or bundle names, where the user need not name it.

    Whoever wrote the folder may be somebody else. So it decides neither to whom pictures are sent nor what is
    downloaded: what answers is the bundled model, or a local folder with the very weights that answered then.

    Args:
        model: As it is named in the folder.
        sha256: Of its weights, see `weights_hash`; empty where the folder does not tell.
        where: The folder, for the error.

    Raises:
        EngineError: It is a server, a hub id, no model, or has other weights.
    """
    remedy = "name the model that is to answer with --model"
    if is_address(model) or model.startswith(("//", "\\\\")):
        raise EngineError(
            f"{where}: names the server {brief(without_password(model))}, to which nothing is sent because a "
            f"folder says so; {remedy}"
        )
    if model_folder(model) is None:
        raise EngineError(
            f"{where}: names {brief(model)}, a model of the hub, which is not loaded because a folder says "
            f"so; {remedy}"
        )
    if not sha256 and model == BUNDLED:
        return model
    if not sha256:
        raise EngineError(f"{where}: does not tell the hash of the weights of {brief(model)}; {remedy}")
    if weights_hash(model) != sha256:
        raise EngineError(
            f"{where}: was answered by weights with the hash {brief(sha256)[:12]}…, "
            f"{brief(model)} has others; {remedy}"
        )
    return model


def _settings(generation: GenerationRequest, request: Request) -> dict[str, Any]:
    return {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "seed": request.seed,
        "grammar": request.matcher is not None,
        "source_size": list(generation.source_size),
        "window": [generation.window.start, generation.window.end] if generation.window else None,
        "time": generation.time,
    }


def _answer_bytes(answer: Answer, tokens: Sequence[int]) -> bytes:
    values = {
        "status": answer.status,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "absent": answer.absent,
        # A probability's last digits depend on which sums were shared with other questions.
        "boxes": [
            {
                "x1": box.x1,
                "y1": box.y1,
                "x2": box.x2,
                "y2": box.y2,
                "label": box.label,
                "score": None if box.score is None else round(box.score, 2),
            }
            for box in answer.boxes
        ],
        "intervals": [[span.start, span.end] for span in answer.intervals],
        "tokens": list(tokens),
    }
    return json_bytes(values)


def _write_prompt(prompt: Prompt, folder: Path) -> list[object]:
    """The prompt as JSON, its pictures as files; a picture that stands in it twice is written once."""
    names: dict[int, str] = {}
    parts: list[object] = []
    for part in prompt.parts:
        if isinstance(part, str):
            parts.append(part)
            continue
        for image in part.frames:
            if id(image) not in names:
                names[id(image)] = f"frame-{len(names):03d}.png"
                write_png(folder / names[id(image)], image)
        frames = [names[id(image)] for image in part.frames]
        parts.append({"kind": part.kind, "height": part.height, "width": part.width, "frames": frames})
    return parts


def _read(path: Path, kind: str, most: int) -> bytes:
    return read_at_most(path, most, where=_told(path, kind), remedy=_REMEDY, links=False)


def _told(path: Path, kind: str) -> str:
    return f"{path}: no {kind} that can be read"


def _write(path: Path, data: bytes) -> None:
    """Write a file in place of what stands there; a symbolic link is replaced, not followed."""
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:
        file.write(data)
    partial.replace(path)


def _decoded(path: Path, data: bytes) -> Image:
    image = read_png(data)
    if image is None:
        raise DataError(f"{path}: no picture that can be read; {_REMEDY}")
    return image


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
