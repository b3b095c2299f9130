"""An engine somewhere else: a server that speaks the OpenAI-compatible API, such as vLLM or SGLang.

Pictures go to the address that was given and nowhere else; nothing is sent before an engine of this kind is
made. Each slice of a window goes as one picture, its newer frame: the API has no form for pairs of frames.
What is kept from one question to the next is the server's business, and so are grammars: answers are free.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import queue
import re
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from PIL import Image as PillowImage

from egolive.assistant.schema.engine import Delta, EngineInfo, Prompt, Request, Vision
from egolive.assistant.schema.profiles import Profile
from egolive.assistant.schema.reuse import FULL_REUSE, Reuse
from egolive.streaming.errors import ConfigError, EngineError
from egolive.streaming.frames import Image

__all__ = ["RemoteEngine", "RemoteSession", "messages_of"]

_SECONDS = 60.0
"""A server that says nothing for so long is gone."""
_MARKS = re.compile(r"<\|im_start\|>(\w+)\n|<\|im_end\|>\n?|<\|vision_start\|>|<\|vision_end\|>")


class RemoteEngine:
    """A model that a server holds; an `Engine`.

    Args:
        address: As the server tells it, such as http://localhost:8000/v1.
        profile: How its model is asked and read.
        model: Its name there; the only one that is served, without it.

    Raises:
        ConfigError: That is no address.
        EngineError: The server cannot be reached, or serves no such model.
    """

    def __init__(self, address: str, profile: Profile, *, model: str | None = None) -> None:
        self.server = _Server(_parsed(address))
        self.profile = profile
        self.tokenizer = None
        self.model = model or self._only_model()
        self.info = EngineInfo(self.model, "server", "unknown", address, profile.name, 0)

    def session(self, reuse: Reuse = FULL_REUSE) -> RemoteSession:
        """A fresh stream state; the server decides what it uses again."""
        return RemoteSession(self)

    def close(self) -> None:
        """Nothing to free."""

    def _only_model(self) -> str:
        listed = self.server.get("models").get("data")
        names = [str(entry.get("id")) for entry in listed] if isinstance(listed, list) else []
        if len(names) != 1:
            told = ", ".join(names[:5]) or "none"
            raise EngineError(f"{self.server.name} serves {told}: name the model that shall answer")
        return names[0]


class RemoteSession:
    """One stream's questions to a server, several at a time; an `EngineSession`."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine
        self._usage: list[Counter[str]] = []
        self._stop = threading.Event()

    def see(self, vision: Vision) -> None:
        """Nothing is sent ahead of a question."""

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        """Answer all requests; see `EngineSession`.

        A delta is what the server sends at once, mostly a token. Its logprob is 0 where none is told.

        Raises:
            EngineError: The server cannot be reached, refuses, or breaks off.
        """
        self._stop.set()
        self._stop = stop = threading.Event()
        self._usage = [Counter() for _ in requests]
        found: queue.Queue[Delta | EngineError] = queue.Queue()
        for number, request in enumerate(requests):
            args = (number, request, found, stop)
            threading.Thread(target=self._answer, args=args, name="egolive-server", daemon=True).start()
        left = len(requests)
        try:
            while left:
                delta = found.get()
                if isinstance(delta, EngineError):
                    raise delta
                left -= bool(delta.finished)
                yield delta
        finally:
            stop.set()

    def usage(self, request: int | None = None) -> dict[str, int]:
        """Counts that the server told; see `EngineSession`."""
        counts = self._usage if request is None else [self._usage[request]]
        return {name: sum(c[name] for c in counts) for name in ("prompt_tokens", "completion_tokens")}

    def forget(self) -> None:
        """End what is under way; nothing else is held here."""
        self._stop.set()

    def close(self) -> None:
        """End what is under way."""
        self._stop.set()

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(
        self, number: int, request: Request, found: queue.Queue[Delta | EngineError], stop: threading.Event
    ) -> None:
        asked = {
            "model": self._engine.model,
            "messages": messages_of(request.prompt),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stream": True,
        }
        ended, counts = "stop", self._usage[number]
        try:
            with closing(self._engine.server.stream("chat/completions", asked, stop)) as events:
                for event in events:
                    if isinstance(usage := event.get("usage"), dict):
                        counts.update({k: v for k, v in usage.items() if isinstance(v, int)})
                    for choice in event.get("choices") or ():
                        ended = choice.get("finish_reason") or ended
                        for text, logprob in _pieces(choice):
                            found.put(Delta(number, 0, text, logprob))
            found.put(Delta(number, 0, "", 0.0, "length" if ended == "length" else "stop"))
        except EngineError as error:
            found.put(error)


@dataclass(frozen=True, slots=True)
class _Server:
    """Where a server is; each call has a connection of its own."""

    address: SplitResult

    @property
    def name(self) -> str:
        """Its address without a password."""
        return f"{self.address.scheme}://{self.address.hostname}:{self.address.port or ''}".rstrip(":")

    def get(self, what: str) -> dict[str, Any]:
        """One JSON object."""
        with self._answer("GET", what, None) as response:
            return self._parsed(response.read())

    def stream(self, what: str, asked: dict[str, Any], stop: threading.Event) -> Generator[dict[str, Any]]:
        """The events that a request is answered by, until it ends or is stopped."""
        with self._answer("POST", what, json.dumps(asked).encode()) as response:
            while not stop.is_set():
                try:
                    line = response.readline().strip()
                except (OSError, http.client.HTTPException) as error:
                    raise EngineError(f"{self.name} broke off in the middle of an answer: {error}") from error
                if not line and response.isclosed():
                    return
                if line == b"data: [DONE]":
                    return
                if line.startswith(b"data:"):
                    event = self._parsed(line[5:])
                    if "error" in event:
                        raise EngineError(f"{self.name} failed: {_one_line(event['error'])}")
                    yield event

    @contextmanager
    def _answer(self, method: str, what: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        """The answer to one call; the connection is closed behind it."""
        kind = http.client.HTTPSConnection if self.address.scheme == "https" else http.client.HTTPConnection
        assert self.address.hostname is not None
        headers = {"Content-Type": "application/json", "Connection": "close"}
        with ExitStack() as stack:
            connection = kind(self.address.hostname, self.address.port, timeout=_SECONDS)
            stack.callback(connection.close)
            try:
                connection.request(method, f"{self.address.path.rstrip('/')}/{what}", body, headers)
                response = stack.enter_context(connection.getresponse())
                told = "" if response.status == 200 else response.read(2000).decode("utf-8", "replace")
            except (OSError, http.client.HTTPException) as error:
                raise EngineError(
                    f"{self.name} cannot be reached: {error}; is the server running?"
                ) from error
            if response.status != 200:
                raise EngineError(f"{self.name} refused with status {response.status}: {_one_line(told)}")
            yield response

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise EngineError(f"{self.name} does not answer as an OpenAI-compatible server: is it one?")
        return found


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt as messages of the API; pictures as PNG in data URLs, of the size that the model sees.

    The turn that the model is to write is left out.
    """
    messages: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []

    def say(text: str) -> None:
        if text:
            content.append({"type": "text", "text": text})

    for part in prompt.parts:
        if isinstance(part, Vision):
            step = 1 if part.kind == "image" else 2
            for image in part.frames[step - 1 :: step]:
                content.append({"type": "image_url", "image_url": {"url": _data_url(image, part)}})
            continue
        at = 0
        for mark in _MARKS.finditer(part):
            say(part[at : mark.start()])
            at = mark.end()
            if mark[1]:
                content = []
                messages.append({"role": mark[1], "content": content})
        say(part[at:])
    return [message for message in messages if message["content"]]


def _data_url(image: Image, vision: Vision) -> str:
    picture = PillowImage.fromarray(image)
    if picture.size != (vision.width, vision.height):
        picture = picture.resize((vision.width, vision.height), PillowImage.Resampling.BICUBIC)
    made = io.BytesIO()
    picture.save(made, "PNG")
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


def _pieces(choice: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Text of one event, token by token where the server tells them."""
    told = (choice.get("logprobs") or {}).get("content")
    if told:
        yield from ((str(token["token"]), float(token["logprob"])) for token in told)
    elif text := (choice.get("delta") or {}).get("content"):
        yield str(text), 0.0


def _parsed(address: str) -> SplitResult:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{address!r} is no address of a server; give one such as http://localhost:8000/v1")
    return parts


def _one_line(told: object) -> str:
    return " ".join(str(told).split())[:300]
