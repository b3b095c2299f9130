"""A remote engine: a server with the OpenAI-compatible API, such as vLLM or SGLang.

Pictures go to the address that was given and nowhere else; nothing is sent before an engine of this kind is
made. Each slice of a window goes as one picture, its newer frame: the API has no form for pairs of frames.
Prefix caching is left to the server. Grammars are not sent: the form of answers is not constrained.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import queue
import ssl
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, cast

import httpx
from PIL import Image as PillowImage

from egolive.assistant.schema.engine import FULL_REUSE, Delta, EngineInfo, Prompt, Request, Reuse, Vision
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.errors import ConfigError, DataError, EngineError, one_line
from egolive.streaming.frames import Image
from egolive.streaming.json_files import json_object
from egolive.streaming.paths import brief

__all__ = ["RemoteEngine", "RemoteSession", "messages_of"]

_SECONDS = 60.0
"""A server that takes no connection, or no more of a question, for so long is gone."""
_SILENT_SECONDS = 300.0
"""A server that says nothing for so long hangs. One on a CPU reads for minutes before its first word."""
_CLOSING_SECONDS = 1.0
"""Closing a session waits so long for the end of each answer; a server that hangs is left behind."""
_COMPLETE = frozenset(["stop", "eos", "eos_token", "stop_sequence", "end_turn"])
"""Reasons that servers give for the end of a whole answer."""
_CUT = frozenset(["length", "max_tokens"])
"""Reasons for the end of an answer that reached the limit of tokens."""
_KEPT_SECONDS = 4.0
"""A connection that is idle for longer is not used again; servers often close theirs after 5 seconds."""


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
        try:
            self.model = model or self._only_model()
        except BaseException:
            self.server.close()
            raise
        self.info = EngineInfo(self.model, "server", "unknown", self.server.address, profile.name, 0)

    def session(self, reuse: Reuse = FULL_REUSE) -> RemoteSession:
        """A fresh stream state; the server decides what it uses again."""
        return RemoteSession(self)

    def close(self) -> None:
        """Close the connections."""
        self.server.close()

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
        self._threads: list[threading.Thread] = []

    def see(self, vision: Vision) -> None:
        """Nothing is sent ahead of a question."""

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        """Answer all requests; see `EngineSession`.

        A delta is what the server sends at once, mostly a token. Its logprob is None where none is told.

        An answer is complete where the server told why it ended, and its message ended as HTTP says or by the
        API's [DONE]; an answer that has begun and ends otherwise is broken.

        Raises:
            EngineError: The server cannot be reached, refuses, or breaks off before an answer has begun.
        """
        self._stop.set()
        self._stop = stop = threading.Event()
        self._usage = [Counter() for _ in requests]
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        found: queue.Queue[Delta | EngineError] = queue.Queue()
        for number, request in enumerate(requests):
            args = (number, request, found, stop)
            thread = threading.Thread(target=self._answer, args=args, name="egolive-server", daemon=True)
            self._threads.append(thread)
            thread.start()
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
        """Counts that the server told, and no others; see `EngineSession`."""
        counts = self._usage if request is None else [self._usage[request]]
        names = ("prompt_tokens", "completion_tokens")
        return {name: sum(c[name] for c in counts) for name in names if any(name in c for c in counts)}

    def forget(self) -> None:
        """End what is under way; nothing else is held here."""
        self._stop.set()

    def close(self) -> None:
        """End what is under way; connections that are read to their end are kept for the next session."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_CLOSING_SECONDS)

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(
        self, number: int, request: Request, found: queue.Queue[Delta | EngineError], stop: threading.Event
    ) -> None:
        begun, finished, ended, counts = False, False, "", self._usage[number]

        def break_off(error: EngineError) -> None:
            # What breaks behind a whole answer does not take it back.
            if not finished:
                found.put(_broken(number, str(error)) if begun else error)

        try:
            asked = {
                "model": self._engine.model,
                "messages": messages_of(request.prompt),
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.seed,
                "stream": True,
            }
            with closing(self._engine.server.stream("chat/completions", asked, stop)) as events:
                for event in events:
                    if event is None:
                        # Told before the rest is read, which frees the connection for the next question.
                        found.put(self._last(number, ended))
                        finished = True
                        continue
                    if isinstance(usage := event.get("usage"), dict):
                        counts.update({k: v for k, v in usage.items() if isinstance(v, int)})
                    for choice in event.get("choices") or ():
                        ended = str(choice.get("finish_reason") or ended)
                        for text, logprob in _pieces(choice):
                            begun = True
                            found.put(Delta(number, 0, text, logprob))
            if ended and not finished and not stop.is_set():
                # `transformers serve` tells why it ends, and its message ends whole, without [DONE].
                found.put(self._last(number, ended))
            else:
                break_off(EngineError(self._engine.server.broke_off("its end is missing")))
        except (AttributeError, KeyError, TypeError, ValueError):
            break_off(EngineError(self._engine.server.stranger()))
        except EngineError as error:
            break_off(error)

    def _last(self, number: int, ended: str) -> Delta:
        """The end of an answer, by the reason that the server gave for it."""
        if ended in _COMPLETE:
            return Delta(number, 0, "", None, "stop")
        if ended in _CUT:
            return Delta(number, 0, "", None, "length")
        why = f"the reason that it gives is {brief(ended)}" if ended else "it gives no reason for the end"
        return _broken(number, self._engine.server.broke_off(why))


def _broken(number: int, error: str) -> Delta:
    return Delta(number, 0, "", None, "broken", error=error)


class _Server:
    """A server's address, and the connections to it: they are used again, and no proxy stands between."""

    def __init__(self, address: httpx.URL) -> None:
        self.name = f"{address.scheme}://{address.netloc.decode()}"
        """Scheme, host and port."""
        self.address = self.name + address.path
        """As it was given, without a password."""
        # Apart from the address, which httpx logs.
        login = httpx.BasicAuth(address.username, address.password) if address.userinfo else None
        self._client = httpx.Client(
            base_url=address.copy_with(username=None, password=None, query=None, fragment=None),
            auth=login,
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(_SECONDS, read=_SILENT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEPT_SECONDS),
            follow_redirects=False,
            # Nothing is taken from the environment; certificates are those that the system trusts.
            trust_env=False,
            verify=ssl.create_default_context(),
        )

    def get(self, what: str) -> dict[str, Any]:
        """One JSON object."""
        with self._answer("GET", what, None) as response:
            return self._parsed(b"".join(self._chunks(response)))

    def stream(
        self, what: str, asked: dict[str, Any], stop: threading.Event
    ) -> Generator[dict[str, Any] | None]:
        """The events that a request is answered by, until it ends or is stopped; None where it is whole."""
        with self._answer("POST", what, json.dumps(asked).encode()) as response:
            for line in self._lines(response):
                if stop.is_set():
                    return
                if line == b"data: [DONE]":
                    yield None
                elif line.startswith(b"data:"):
                    event = self._parsed(line[5:])
                    if "error" in event:
                        raise EngineError(f"{self.name} failed: {one_line(event['error'])}")
                    yield event

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def broke_off(self, why: str) -> str:
        """The message for an answer that the server does not bring to its end."""
        return f"{self.name} broke off in the middle of an answer: {why}; ask again, or look at its log"

    def stranger(self) -> str:
        """The message for an answer that is not the API's."""
        return f"{self.name} does not answer as an OpenAI-compatible server: is it one?"

    @contextmanager
    def _answer(self, method: str, what: str, body: bytes | None) -> Iterator[httpx.Response]:
        """The answer to one call, before its body is read."""
        try:
            response = self._client.send(self._client.build_request(method, what, content=body), stream=True)
        except httpx.ReadTimeout as error:
            raise EngineError(
                f"{self.name} has said nothing for {_SILENT_SECONDS:.0f} s: it is overloaded or hangs; look "
                "at its log, or ask about fewer or smaller pictures"
            ) from error
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the engine was closed
            raise EngineError(
                f"{self.name} cannot be reached: {one_line(error)}; is the server running?"
            ) from error
        with closing(response):
            if response.status_code != 200:
                told = next(self._chunks(response), b"")[:2000].decode("utf-8", "replace")
                raise EngineError(
                    f"{self.name} refused with status {response.status_code}: {' '.join(told.split())[:300]}"
                )
            yield response

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise EngineError(self.broke_off(one_line(error))) from error

    def _lines(self, response: httpx.Response) -> Iterator[bytes]:
        """The lines of a body. httpx's own end at U+2028 too, which may stand inside of JSON."""
        rest = b""
        for chunk in self._chunks(response):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(bytes.strip, lines)
        yield rest.strip()

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            return json_object(text, where=self.name, remedy="")
        except DataError:
            raise EngineError(self.stranger()) from None


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt's messages as the API takes them; pictures are PNG in data URLs, of the size that is seen.

    Raises:
        EngineError: The prompt is no conversation.
    """
    if not prompt.messages:
        raise EngineError("a server takes messages, and this prompt is text alone; ask it by a conversation")
    messages = ({"role": turn.role, "content": _content(turn.parts)} for turn in prompt.messages)
    return [message for message in messages if message["content"]]


def _content(parts: Sequence[str | Vision]) -> list[dict[str, Any]]:
    """Texts and pictures of one turn. Neighbouring texts become one: servers put line breaks between."""
    content: list[dict[str, Any]] = []
    for text, group in itertools.groupby(parts, key=lambda part: isinstance(part, str)):
        if text:
            if said := "".join(map(str, group)):
                content.append({"type": "text", "text": said})
            continue
        for vision in cast(Iterator[Vision], group):
            step = 1 if vision.kind == "image" else 2
            content += [
                {"type": "image_url", "image_url": {"url": _data_url(image, vision)}}
                for image in vision.frames[step - 1 :: step]
            ]
    return content


def _data_url(image: Image, vision: Vision) -> str:
    picture = PillowImage.fromarray(image)
    if picture.size != (vision.width, vision.height):
        picture = picture.resize((vision.width, vision.height), PillowImage.Resampling.BICUBIC)
    made = io.BytesIO()
    picture.save(made, "PNG")
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


def _pieces(choice: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Text of one event, token by token where the server tells them, and logprobs, None where it does not.

    The text is the event's own where the tokens are written otherwise, as pieces of characters are.
    """
    said = str((choice.get("delta") or {}).get("content") or "")
    told = (choice.get("logprobs") or {}).get("content") or ()
    tokens = [(str(token["token"]), _logprob(token.get("logprob"))) for token in told]
    if "".join(text for text, _ in tokens) == said:
        yield from tokens
    elif said:
        yield said, None


def _logprob(told: object) -> float | None:
    """A finite number, or None: a missing one, and one that JSON cannot write, are unknown."""
    number = isinstance(told, int | float) and not isinstance(told, bool)
    return float(told) if number and math.isfinite(told) else None  # type: ignore[arg-type]


def _parsed(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except (ValueError, httpx.InvalidURL):
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or (url.port or 1) > 65_535:
        raise ConfigError(f"{address!r} is no address of a server; give one such as http://localhost:8000/v1")
    return url
