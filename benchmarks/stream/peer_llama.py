"""llama.cpp as a baseline of `egolive bench peers`: its server binary, on a GGUF model and its mmproj file.

Binary and files are the user's. The server runs beside its worker, on this machine alone, with as many
threads as the others get and one slot. Encoding is what its log tells of each picture; prefill is the rest of
the time that it says it took for the prompt.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from egolive.assistant.backends.remote.remote_engine import RemoteEngine, messages_of
from egolive.assistant.schema.engine import Request
from egolive.assistant.schema.profiles import Profile
from egolive.benchmarks.stream.baselines import Answers, Cost, ServerBaseline
from egolive.benchmarks.stream.stages import Stages
from egolive.streaming.errors import EngineError

__all__ = ["LlamaBaseline", "LlamaServer", "encoded_ms"]

_CONTEXT = 8192
"""Tokens of a window and its answer, with room to spare."""
_LOAD_SECONDS = 600.0
_ANSWER_SECONDS = 3600.0
_TOLD = re.compile(r"slice encoded in (\d+) ms")
"""Of one picture, in most versions."""
_STAMP = r"^(\d+)\.(\d+)\.(\d+)\.(\d+) .*"
_ENCODING = re.compile(_STAMP + r"encoding mtmd batch .*n_chunks = (\d+)")
_READING = re.compile(_STAMP + r"decoding image batch 1/")
"""Versions that encode pictures together tell when that begins, and when the decoder goes on: minutes,
seconds, milliseconds, microseconds."""


class LlamaServer:
    """llama.cpp's server in a process of its own; ends with `close`.

    Args:
        binary: `llama-server`, or a program with its options.
        gguf: The language model.
        mmproj: The vision tower.
        threads: CPU threads; llama.cpp's own choice without it.

    Raises:
        EngineError: It does not start; the message has the last line of its log.
    """

    def __init__(self, binary: Path, gguf: Path, mmproj: Path, *, threads: int | None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(binary), "-m", str(gguf), "--mmproj", str(mmproj), "--host", "127.0.0.1"]
        # Below level 4 the log does not tell what encoding takes.
        command += ["--port", str(port), "-c", str(_CONTEXT), "-np", "1", "-lv", "4"]
        command += ["-t", str(threads), "-tb", str(threads)] if threads else []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._read = 0
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        except OSError as error:
            self._log.close()
            raise EngineError(f"{binary} cannot be started ({error.strerror or error})") from error
        self.address = f"http://127.0.0.1:{port}"
        self.pid = self._process.pid
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def encoded_ms(self) -> list[float]:
        """Milliseconds of each picture that was encoded since the last call."""
        return encoded_ms(self._news())

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        try:
            spent = psutil.Process(self.pid).cpu_times()
        except psutil.Error as error:
            raise EngineError(f"llama.cpp ended: {self._last_line()}") from error
        return float(spent.user + spent.system)

    def close(self) -> None:
        """End it; twice does nothing."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        until = time.monotonic() + _LOAD_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise EngineError(f"llama.cpp does not start: {self._last_line()}")
            try:
                if httpx.get(f"{self.address}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                # It does not listen yet.
                pass
            time.sleep(0.2)
        raise EngineError(f"llama.cpp has not loaded its model within {_LOAD_SECONDS:.0f} s")

    def _news(self) -> str:
        self._log.seek(self._read)
        found = self._log.read()
        self._read += len(found)
        return found.decode(errors="replace")

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it says nothing")


class LlamaBaseline:
    """Answers by a llama.cpp server, which keeps to no grammar.

    Args:
        server: Closed with the baseline.
        profile: How the model is asked.
    """

    def __init__(self, server: LlamaServer, profile: Profile) -> None:
        self.server = server
        # It has one model, whatever name that is given.
        self._baseline = ServerBaseline(RemoteEngine(f"{server.address}/v1", profile, model="llama.cpp"))

    def answer(self, kind: str, requests: Sequence[Request]) -> Answers:
        """Ask all at once; the cost in processor time is the server's."""
        before = self.server.cpu_seconds()
        found = self._baseline.answer(kind, requests)
        return replace(found, cost=Cost(found.cost.wall, self.server.cpu_seconds() - before))

    def stages(self, request: Request, *, anew: bool) -> Stages:
        """One answer; `anew` with nothing kept from before, else with what the server keeps by itself.

        Raises:
            EngineError: It failed, or its answer tells no times.
        """
        self.server.encoded_ms()
        asked = {
            "messages": messages_of(request.prompt),
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "stream": True,
            "cache_prompt": not anew,
            "ignore_eos": True,
        }
        begun, first, timings = time.perf_counter(), 0.0, None
        try:
            with httpx.stream(
                "POST", f"{self.server.address}/v1/chat/completions", json=asked, timeout=_ANSWER_SECONDS
            ) as reply:
                if reply.status_code != 200:
                    told = reply.read().decode(errors="replace")[:200]
                    raise EngineError(f"llama.cpp refuses the question: {told}")
                for line in reply.iter_lines():
                    event = _event(line)
                    # The first piece comes with the first token, whether that has letters or not.
                    if event.get("choices"):
                        first = first or time.perf_counter() - begun
                    timings = event.get("timings") or timings
        except httpx.HTTPError as error:
            raise EngineError(f"llama.cpp broke off: {error}") from error
        if not timings or not timings.get("predicted_n"):
            raise EngineError("llama.cpp tells no timings; take a newer llama-server")
        encoded = self.server.encoded_ms()
        read, reused = int(timings["prompt_n"]), int(timings.get("cache_n", 0))
        return Stages(
            pictures=len(encoded),
            encode_ms=sum(encoded) / len(encoded) if encoded else None,
            prompt_tokens=read + reused,
            reused_tokens=reused,
            # A whole prompt has pictures: where the log tells of none, it does not tell what they took.
            prefill_ms=float(timings["prompt_ms"]) - sum(encoded) if encoded or reused else None,
            first_token_ms=first * 1e3,
            decode_ms=float(timings["predicted_ms"]) / int(timings["predicted_n"]),
            tokens=int(timings["predicted_n"]),
        )

    def pass_by(self, request: Request) -> None:
        """Nothing: the server reads no window before it is asked."""

    def close(self) -> None:
        """End the server."""
        with closing(self.server):
            self._baseline.close()


def encoded_ms(log: str) -> list[float]:
    """Milliseconds of each picture, as a stretch of llama.cpp's log tells them."""
    found: list[float] = []
    begun, pictures = 0.0, 0
    for line in log.splitlines():
        if told := _TOLD.search(line):
            found.append(float(told[1]))
        elif batch := _ENCODING.search(line):
            begun, pictures = _milliseconds(batch), int(batch[5])
        elif pictures and (reading := _READING.search(line)):
            found += [(_milliseconds(reading) - begun) / pictures] * pictures
            pictures = 0
    return found


def _milliseconds(stamp: re.Match[str]) -> float:
    minutes, seconds, thousandths, millionths = (int(stamp[place]) for place in range(1, 5))
    return (minutes * 60 + seconds) * 1e3 + thousandths + millionths / 1e3


def _event(line: str) -> dict[str, Any]:
    """The JSON of a line of the stream; nothing for other lines."""
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return {}
    try:
        found = json.loads(data)
    except ValueError as error:
        raise EngineError("llama.cpp sent what is no JSON") from error
    return found if isinstance(found, dict) else {}
