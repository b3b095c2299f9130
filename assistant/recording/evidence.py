"""Evidence of an answer: a folder from which anybody with the same weights can give it again.

`bundle.json` says what was asked of which model under which settings, the PNG files are the frames as they
were, `answer.json` is what was answered. The prompt is kept as the model read it, so that neither a profile
nor the wording of a later version changes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from egolive.assistant.generation.generate import GenerationRequest, Sampling, generate_answers
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.engine_folder import ENGINE_FILE, hash_checkpoint, is_engine_folder
from egolive.assistant.prompts.grammar import matchers_of
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine, EngineInfo, Prompt, Request, Vision
from egolive.assistant.schema.profiles import Profile, profile_from_dict, profile_to_dict
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import ConfigError, DataError, SinkError
from egolive.streaming.frames import Image, Interval
from egolive.streaming.plain_values import of_kind

__all__ = ["Bundle", "EvidenceWriter", "is_bundle", "read_bundle", "reproduce", "weights_hash"]

_BUNDLE, _ANSWER = "bundle.json", "answer.json"
_FORMAT = 2


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

    def keep(self, job: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]) -> None:
        """Write one bundle.

        Raises:
            SinkError: It cannot be written.
        """
        words = re.sub(r"\W+", "-", f"{job.question.task} {job.question.phrase}".strip())[:60]
        folder = self._folder / f"{len(self.bundles):06d}-{job.time:.2f}s-{words}"
        try:
            folder.mkdir(parents=True)
            values = {
                "format": _FORMAT,
                "engine": self._engine,
                "question": asdict(job.question),
                "settings": _settings(job, request),
                "profile": profile_to_dict(self._profile),
                "prompt": _write_prompt(request.prompt, folder),
            }
            values["frames"] = {path.name: _hash(path.read_bytes()) for path in sorted(folder.glob("*.png"))}
            (folder / _BUNDLE).write_bytes(_json_bytes(values))
            (folder / _ANSWER).write_bytes(_answer_bytes(answer, tokens))
        except OSError as error:
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
    job: GenerationRequest
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
    """
    try:
        values = json.loads((folder / _BUNDLE).read_bytes())
        if values["format"] != _FORMAT:
            raise DataError(f"{folder}: a bundle of format {values['format']!r}, which another egolive wrote")
        _check_frames(of_kind(values["frames"], dict), folder)
        settings = dict(values["settings"])
        grammar = settings.pop("grammar")
        window, size = settings.pop("window"), settings.pop("source_size")
        job = GenerationRequest(
            question=Question(**values["question"]),
            prompt=_read_prompt(values["prompt"], folder),
            source_size=(size[0], size[1]),
            window=Interval(*window) if window else None,
            time=settings.pop("time"),
        )
        answer = (folder / _ANSWER).read_bytes()
        if not isinstance(json.loads(answer), dict):
            raise DataError(f"{folder / _ANSWER}: no answer that can be read; copy the bundle again")
        return Bundle(
            folder,
            engine=dict(values["engine"]),
            job=job,
            sampling=Sampling(**settings),
            grammar=grammar,
            profile=profile_from_dict(values["profile"], where=str(folder)),
            answer=answer,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        raise DataError(
            f"{folder}: no bundle that can be read ({type(error).__name__}); write it again"
        ) from (error)


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
            self, job: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]
        ) -> None:
            said.append(_answer_bytes(answer, tokens))

    matchers = matchers_of(engine, bundle.profile) if bundle.grammar else None
    with engine.session() as session:
        answers = generate_answers(
            session,
            [bundle.job],
            bundle.profile,
            bundle.sampling,
            VirtualClock(),
            matchers=matchers,
            keeper=_Catch(),
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


def _settings(job: GenerationRequest, request: Request) -> dict[str, Any]:
    return {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "seed": request.seed,
        "grammar": request.matcher is not None,
        "source_size": list(job.source_size),
        "window": [job.window.start, job.window.end] if job.window else None,
        "time": job.time,
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
    return _json_bytes(values)


def _json_bytes(values: object) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


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
                _write_png(folder / names[id(image)], image)
        frames = [names[id(image)] for image in part.frames]
        parts.append({"kind": part.kind, "height": part.height, "width": part.width, "frames": frames})
    return parts


def _read_prompt(parts: Sequence[Any], folder: Path) -> Prompt:
    images: dict[str, Image] = {}
    read: list[str | Vision] = []
    for part in parts:
        if isinstance(part, str):
            read.append(part)
            continue
        for name in part["frames"]:
            if name not in images:
                images[name] = _read_png(folder / Path(name).name)
        frames = tuple(images[name] for name in part["frames"])
        read.append(Vision(frames, part["height"], part["width"], part["kind"]))
    return Prompt(tuple(read))


def _check_frames(hashes: Mapping[str, str], folder: Path) -> None:
    """Raise DataError where a picture is not the one that was answered about."""
    for name, expected in hashes.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise DataError(f"{path}: is missing; copy the bundle again")
        if _hash(path.read_bytes()) != expected:
            raise DataError(f"{path}: is not the picture that was answered about; copy the bundle again")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_png(path: Path, image: Image) -> None:
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def _read_png(path: Path) -> Image:
    # Read here: OpenCV tells what it cannot open in lines of its own.
    data = np.frombuffer(path.read_bytes() if path.is_file() else b"", np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if pixels is None:
        raise DataError(f"{path}: cannot be read; copy the bundle again")
    image: Image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype("uint8", copy=False)
    return image
