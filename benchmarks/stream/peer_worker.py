"""One baseline of `egolive bench peers` in a process of its own, so that memory and threads are its own.

It reads on standard input which hop of the stream to answer next, and writes on standard output what it said
and how long that took; `Worker` is the other end. Every process makes the same hops of the same pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from egolive.assistant.backends.remote.remote_engine import RemoteEngine
from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.prompt_tokens import lay_out
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.benchmarks.stream.baseline_runner import Hop, hops_of, load_images
from egolive.benchmarks.stream.baselines import (
    Answers,
    Baseline,
    Cost,
    EngineBaseline,
    Said,
    ServerBaseline,
    TransformersBaseline,
)
from egolive.benchmarks.stream.stages import EngineStages, Stages, measure_cases, memory_of
from egolive.streaming.errors import EngineError
from egolive.streaming.metrics import peak_rss_bytes

__all__ = ["Plan", "Worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What answers how; sent to the process as JSON."""

    name: str
    kind: Literal["egolive", "transformers", "onnx", "server", "llama"]
    model: str
    """What `load_engine` takes."""
    source: str
    setting: str = ""
    """Of transformers; for onnx "prefix kept" or "one by one"; the address of a server."""
    server_model: str | None = None
    """Its name at the server, where that serves several."""
    llama: tuple[str, str, str] | None = None
    """llama.cpp's server, the model and its mmproj file."""
    device: str = "cpu"
    threads: int | None = None
    slices: int = 8
    hops: int = 24
    """Of the stream, those that fill its first window included."""
    max_tokens: int = 24


class Worker:
    """A baseline in its process; the process ends when it is closed.

    Raises:
        EngineError: The baseline cannot answer here; the message says why.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        command = [sys.executable, "-m", "egolive.benchmarks.stream.peer_worker", json.dumps(asdict(plan))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        ready = self._take()
        self.load_s: float = ready["load_s"]
        self.precision: str = ready["precision"]

    def answer(self, kind: str, hop: int) -> Answers:
        """Answer a set of questions at a hop.

        Raises:
            EngineError: It failed.
        """
        found = self._put({"kind": kind, "hop": hop})
        said = [Said(tuple(one["tokens"]), tuple(one["margins"])) for one in found["said"]]
        costs = {name: Cost(**found[name]) for name in ("cost", "encoding")}
        return Answers(**found | costs | {"said": said, "texts": tuple(found["texts"])})

    def peak_mb(self) -> float | None:
        """Most memory that the process has held so far; None where another one holds the model."""
        found: float = self._put({"kind": "memory"})["peak_mb"]
        return None if self.plan.kind in ("server", "llama") else found

    def memory(self) -> dict[str, float] | None:
        """Anonymous and mapped memory that the model's process holds now, MB; None where it is not known."""
        found: dict[str, float] | None = self._put({"kind": "memory"})["now"]
        return None if self.plan.kind == "server" else found

    def stages(self, number: int) -> dict[str, Stages]:
        """A round of `egolive.benchmarks.stream.stages.measure_cases`, by its number from 0 on.

        Raises:
            EngineError: It failed.
        """
        return {
            name: Stages(**found)
            for name, found in self._put({"kind": "stages", "round": number})["cases"].items()
        }

    def close(self) -> None:
        """End the process."""
        # Closes its pipes, upon which it ends, and waits for it.
        with self._process:
            pass

    def _put(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._take()

    def _take(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "its process ended without a word"}
        if "error" in found:
            self.close()
            raise EngineError(found["error"])
        return found


def make_baseline(plan: Plan, hops: Sequence[Hop], engine: Any) -> Baseline:
    """The baseline of a plan over a loaded engine."""
    if plan.kind == "egolive":
        return EngineBaseline(engine)
    if plan.kind == "llama":
        # Only here: nobody else needs what it needs.
        from egolive.benchmarks.stream.peer_llama import LlamaBaseline, LlamaServer

        assert plan.llama is not None
        # Its questions are made; what made them does not stay in memory beside it.
        profile = engine.profile
        engine.close()
        binary, gguf, mmproj = map(Path, plan.llama)
        return LlamaBaseline(LlamaServer(binary, gguf, mmproj, threads=plan.threads), profile)
    if plan.kind == "server":
        return ServerBaseline(RemoteEngine(plan.setting, engine.profile, model=plan.server_model))
    asked = [hop.sets["window"] for hop in (hops[-1], max(hops, key=lambda hop: hop.length))]
    prompts = [lay_out(request.prompt, engine.tokenizer) for requests in asked for request in requests]
    longest = max(map(len, prompts)) + plan.max_tokens
    if plan.kind == "onnx":
        # Only here: onnxruntime need not be installed.
        from egolive.benchmarks.stream.peer_onnx import OnnxBaseline

        prefix = plan.setting == "prefix kept"
        return OnnxBaseline(Path(plan.model), engine, threads=plan.threads, longest=longest, prefix=prefix)
    assert isinstance(engine, TorchEngine)
    return TransformersBaseline(engine, plan.setting, longest)


def _serve(plan: Plan, send: Any) -> None:
    begun = time.perf_counter()
    # The engine's own dtype where it has one; fp32 for checkpoints on a CPU, as `load_engine` chooses.
    with (
        torch_threads(plan.threads),  # of the baselines that are not sessions of this engine, too
        closing(load_engine(plan.model, device=plan.device, threads=plan.threads)) as engine,
    ):
        images = load_images(Path(plan.source), 2 * plan.hops)
        hops = list(hops_of(engine, images, slices=plan.slices, max_tokens=plan.max_tokens))
        baseline: Any = make_baseline(plan, hops, engine)
        send({"load_s": round(time.perf_counter() - begun, 2), "precision": engine.info.precision})
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["kind"] == "memory":
                pid = baseline.server.pid if plan.kind == "llama" else None
                send({"peak_mb": round(peak_rss_bytes() / 1e6), "now": memory_of(pid)})
            elif asked["kind"] == "stages":
                if plan.kind == "llama":
                    cases = measure_cases(baseline, hops, plan.slices, asked["round"])
                else:
                    with closing(EngineStages(engine)) as side:
                        cases = measure_cases(side, hops, plan.slices, asked["round"])
                send({"cases": {name: asdict(found) for name, found in cases.items()}})
            else:
                send(asdict(baseline.answer(asked["kind"], hops[asked["hop"]].sets[asked["kind"]])))
        baseline.close()


def main() -> None:
    """Read hops and answer them until standard input ends."""
    # Libraries may print; replies have a descriptor of their own.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(found: dict[str, Any]) -> None:
        replies.write(json.dumps(found) + "\n")
        replies.flush()

    try:
        _serve(Plan(**json.loads(sys.argv[1])), send)
    except Exception as error:  # whatever it is, the other end gets it instead of waiting
        send({"error": " ".join(str(error).split())[:300] or type(error).__name__})


if __name__ == "__main__":
    main()
