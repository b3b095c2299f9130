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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from egolive.assistant.generation.generate import GenerationRequest, Sampling, generate_answers
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.engine_folder import ENGINE_FILE, hash_checkpoint, is_engine_folder
from egolive.assistant.prompts.grammar import matchers_of
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine, EngineInfo, Prompt, Request, Vision
from egolive.assistant.schema.profiles import Profile, profile_from_dict, profile_to_dict
from egolive.streaming.clock import VirtualClock
from egolive.streaming.durable_files import sync_later
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Image, Interval
from egolive.streaming.json_files import AtLeastOne, JsonModel, Seconds, json_bytes, read_json
from egolive.streaming.recording.pictures import read_png, write_png

__all__ = ["Bundle", "EvidenceWriter", "is_bundle", "read_bundle", "reproduce", "weights_hash"]

_BUNDLE, _ANSWER = "bundle.json", "answer.json"
_FORMAT = 2
_REMEDY = "copy the bundle again, or write it again with egolive run --evidence"


class _Engine(JsonModel):
    model: str
    name: str
    backend: str
    precision: str
    sha256: str


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


class _Vision(JsonModel):
    kind: Literal["image", "video"]
    height: AtLeastOne
    width: AtLeastOne
    frames: Annotated[tuple[str, ...], Field(min_length=1)]


class _BundleFile(JsonModel):
    """`bundle.json`."""

    format: Literal[2]
    engine: _Engine
    question: Question
    settings: _Settings
    profile: dict[str, Any]
    prompt: tuple[str | _Vision, ...]
    frames: dict[str, str]
    """SHA-256 of each PNG file, by name."""


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


def is_bundle(folder: Path) -> bool:
    """Whether a folder says of itself that it is one."""
    return (folder / _BUNDLE).is_file()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle.

    Raises:
        DataError: It is none, or something in it is missing or damaged.
        ConfigError: Its profile has a mistake.
    """
    file = read_json(_BundleFile, folder / _BUNDLE, kind="bundle", remedy=_REMEDY)
    read_json(_AnswerFile, folder / _ANSWER, kind="answer", remedy=_REMEDY)
    images = {name: _read_frame(folder / Path(name).name, expected) for name, expected in file.frames.items()}
    parts: list[str | Vision] = []
    for part in file.prompt:
        if isinstance(part, str):
            parts.append(part)
        elif missing := [name for name in part.frames if name not in images]:
            raise DataError(f"{folder / _BUNDLE}: {missing[0]} is not among its frames; {_REMEDY}")
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
        answer=(folder / _ANSWER).read_bytes(),
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
            if folder.resolve() != bundle.folder.resolve():
                shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
            (folder / _ANSWER).write_bytes(said[0])
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
            asdict(box) | {"score": None if box.score is None else round(box.score, 2)}
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


def _read_frame(path: Path, expected: str) -> Image:
    """A picture of a bundle; `expected` is the SHA-256 of its file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: is missing or cannot be read; {_REMEDY}") from error
    if _hash(data) != expected:
        raise DataError(f"{path}: is not the picture that was answered about; {_REMEDY}")
    image = read_png(data)
    if image is None:
        raise DataError(f"{path}: no picture that can be read; {_REMEDY}")
    return image


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
