"""Benchmarks that load a model, as commands: their options and what is checked before torch is imported.

What they measure is in the module that each imports when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from egolive.assistant.cli.options import (
    MODEL,
    DeviceOption,
    JsonFile,
    ModelOption,
    PlotFile,
    ThreadsOption,
)
from egolive.assistant.cli.printing import check_folders, wrote
from egolive.assistant.load import check_model
from egolive.streaming.errors import ConfigError, SourceError, UsageError
from egolive.streaming.paths import existing_path

__all__ = [
    "contact",
    "engines",
    "estimates",
    "governor",
    "latency",
    "peers",
    "quality",
    "real",
    "recall_bench",
    "scaling",
    "stream",
]


def stream(
    *,
    model: ModelOption = "nano",
    text_layers: Annotated[int | None, Parameter(name="--layers")] = None,
    vision_layers: int | None = None,
    source: Path | None = None,
    slices: int = 8,
    hops: int | None = None,
    naive_every: int | None = None,
    gains: bool = True,
    max_tokens: int = 24,
    device: Annotated[Literal["cpu", "cuda"], Parameter(group=MODEL)] = "cpu",
    threads: ThreadsOption = None,
    graphs: bool = True,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Compare answering with reuse with what transformers does; prints a table, then one JSON line.

    Args:
        model: nano, a checkpoint folder, or "2b" or "7b": random weights in the structure of Qwen2-VL.
        text_layers: Text layers of a random model; 7 of its 28 without it.
        vision_layers: Vision layers of a random model; 8 of its 32 without it.
        source: A video; the bundled clip without it. One that is too short is played there and back.
        slices: N: windows grow from N to 2N - 1 slices of two frames.
        hops: How many slices come in while it is measured, in whole cycles of 2N; 4N without it.
        naive_every: The naive baselines answer at one hop of so many; N / 2 without it, 2N for random models.
        gains: Also measure each reuse by itself, which takes most of the time.
        max_tokens: Most tokens of an answer.
        device: Where the model runs, in fp32 on a CPU and in bf16 on a GPU.
        threads: CPU threads of the model.
        graphs: On a GPU, let our engine decode by CUDA graphs; their gain is the difference to a run without.
        json_file: Also write the JSON object here.
        plot_file: Also draw the cost of each hop into this PNG.
    """
    if slices < 2 or (hops is not None and (hops < 1 or hops % (2 * slices))):
        raise ConfigError(
            f"at least 2 slices and whole cycles of 2N hops are needed, got {slices} and {hops}"
        )
    if max_tokens < 1:
        raise ConfigError(f"max-tokens is at least 1, got {max_tokens}")
    check_folders(json_file, plot_file, kind=ConfigError)
    # Names of structures that are filled with random weights.
    if model not in ("2b", "7b"):
        check_model(model)
    _check_source(source)
    from egolive.benchmarks.stream.stream_bench import run_stream

    run_stream(
        model=model,
        text_layers=text_layers,
        vision_layers=vision_layers,
        source=source,
        slices=slices,
        hops=hops,
        naive_every=naive_every,
        gains=gains,
        max_tokens=max_tokens,
        device=device,
        threads=threads,
        graphs=graphs,
        json_file=json_file,
        plot_file=plot_file,
    )
    wrote(json_file, plot_file)


def peers(
    *,
    # Not `ModelOption`, of which --engine is another name.
    model: Annotated[str, Parameter(group=MODEL)] = "nano",
    engine: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    server: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    server_model: str | None = None,
    source: Path | None = None,
    slices: int = 8,
    every: int | None = None,
    compiled: bool = True,
    transformers: bool = True,
    llama_server: Path | None = None,
    gguf: Path | None = None,
    mmproj: Path | None = None,
    rounds: int = 5,
    cycle: bool = True,
    max_tokens: int = 24,
    device: Annotated[Literal["cpu", "cuda"], Parameter(group=MODEL)] = "cpu",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Let this project and its peers answer the same questions; prints a table of ratios, then one JSON line.

    Args:
        model: nano or a checkpoint folder, which transformers can load too.
        engine: Engine folders made of it; ONNX Runtime alone runs those in full precision as well.
        server: Address of an OpenAI-compatible server that holds the model, such as http://localhost:8000/v1;
            it gets one picture a slice, and holds answers to no grammar.
        server_model: The model's name there.
        source: A video; the bundled clip without it.
        slices: N: windows grow from N to 2N - 1 slices; one cycle of 2N hops is measured.
        every: Peers answer at one hop of so many; N / 2 without it.
        compiled: Also try the setting that compiles, which takes a minute or two.
        transformers: Let transformers answer; it needs a checkpoint, and its memory for each setting.
        llama_server: llama.cpp's server binary; the stages of single answers are then measured too, in turn.
        gguf: The model for llama.cpp, made of the same checkpoint.
        mmproj: Its vision tower for llama.cpp.
        rounds: How often stages are measured; the medians count.
        cycle: Let all answer hop by hop; without it only the stages are measured, in turn with llama.cpp.
        max_tokens: Most tokens of an answer.
        device: Where models run.
        threads: CPU threads of each.
        json_file: Also write the JSON object here.
        plot_file: Also draw the figures into this PNG.
    """
    if slices < 2 or max_tokens < 1 or rounds < 1:
        raise UsageError("--slices is 2 or more, --max-tokens and --rounds 1 or more")
    llama = None
    if llama_server is not None and gguf is not None and mmproj is not None:
        llama = (llama_server, gguf, mmproj)
    elif llama_server is not None or gguf is not None or mmproj is not None:
        raise UsageError("llama.cpp needs all of --llama-server, --gguf and --mmproj")
    for path in llama or ():
        if existing_path(path) is None:
            raise ConfigError(f"{path}: is not there; name llama-server, the model and its mmproj file")
    if not cycle and (llama is None or plot_file is not None):
        raise UsageError("--no-cycle leaves stages, which are measured beside --llama-server and not drawn")
    check_folders(json_file, plot_file)
    for name in (model, *engine):
        check_model(name)
    _check_source(source)
    from egolive.benchmarks.stream.peers import run_peers

    run_peers(
        model=model,
        engine=engine,
        server=server,
        server_model=server_model,
        source=source,
        slices=slices,
        every=every,
        compiled=compiled,
        transformers=transformers,
        llama=llama,
        rounds=rounds,
        cycle=cycle,
        max_tokens=max_tokens,
        device=device,
        threads=threads,
        json_file=json_file,
        plot_file=plot_file,
    )
    wrote(json_file, plot_file)


def scaling(
    *,
    model: ModelOption = "nano",
    hours: float = 0.2,
    slices: int = 8,
    hops: int = 8,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Measure how the cost of an answer set grows; prints a table, then one JSON line.

    Args:
        model: A checkpoint; an engine folder has one size of pictures, which then is not varied.
        hours: Length of the longest stream, every slice of which is seen.
        slices: N of the windows, where it is not varied.
        hops: Of which a cost is the mean, at most N.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads.
        json_file: Also write the JSON object here.
        plot_file: Also draw the curves into this PNG.
    """
    if not 0 < hours < float("inf") or min(slices, hops) < 2:
        raise UsageError("--hours is more than 0, --slices and --hops 2 or more")
    check_folders(json_file, plot_file)
    check_model(model)
    from egolive.benchmarks.stream.scaling import run_scaling

    run_scaling(
        model=model,
        hours=hours,
        slices=slices,
        hops=hops,
        device=device,
        threads=threads,
        json_file=json_file,
        plot_file=plot_file,
    )
    wrote(json_file, plot_file)


def recall_bench(
    *,
    model: ModelOption = "truth",
    sessions: int = 20,
    seconds: float = 180.0,
    seed: int = 0,
    json_file: JsonFile = None,
) -> None:
    """Measure how often "where did I put X" is answered rightly.

    Args:
        model: "truth" answers from what the simulator knows; nano or any other model looks.
        sessions: Sessions of several episodes each.
        seconds: Least length of a session.
        seed: Of the simulator.
        json_file: Also write the JSON object here.
    """
    if sessions < 1 or not 0 < seconds < float("inf"):
        raise UsageError("at least one session of more than 0 s is needed")
    check_folders(json_file, kind=ConfigError)
    if model != "truth":
        check_model(model)
    from egolive.benchmarks.quality.recall_accuracy import run_recall

    run_recall(
        model=model,
        sessions=sessions,
        seconds=seconds,
        seed=seed,
        json_file=json_file,
    )
    wrote(json_file)


def quality(
    *model: Annotated[str, Parameter(group=MODEL)],
    episodes: int = 200,
    slices: int = 8,
    seed: int = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
) -> None:
    """Ask engines about simulated test episodes; prints a table, then one JSON line.

    Args:
        model: Checkpoints or engine folders; nano without any.
        episodes: How many; 2,000 questions take about 110.
        slices: Slices in a window.
        seed: Of the simulator.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads.
        json_file: Also write the JSON object here.
    """
    if episodes < 1 or slices < 1:
        raise UsageError("at least one episode and one slice are needed")
    check_folders(json_file)
    for name in model:
        check_model(name)
    from egolive.benchmarks.quality.quality_bench import run_quality

    run_quality(
        model,
        episodes=episodes,
        slices=slices,
        seed=seed,
        device=device,
        threads=threads,
        json_file=json_file,
    )
    wrote(json_file)


def real(
    folder: Path,
    *,
    boxes: Path | None = None,
    hand_free: Path | None = None,
    model: Annotated[
        tuple[str, ...], Parameter(alias="--engine", consume_multiple=True, negative="", group=MODEL)
    ] = ("nano",),
    hands: Literal["auto", "model"] = "auto",
    hands_model: str | None = None,
    seconds: float = 30.0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
) -> None:
    """Measure boxes of hands and held things on real pictures and videos; a table, then one JSON line.

    Args:
        folder: Pictures and videos. Labelled pictures are measured against their labels; videos, which have
            none, by how often a hand box is shown, how old it is and how often it jumps.
        boxes: The labels, a JSON file; hand_object_boxes.json in the folder without it. A picture with an
            empty list of boxes has no hands.
        hand_free: Folder of more pictures and videos, in which there are no hands.
        model: nano, checkpoint or engine folders, hub ids or addresses; each is a source of boxes.
        hands: auto: each model with the hand detector beside it, where that is installed, and alone; model:
            alone.
        hands_model: The hand detector's model, hand_landmarker.task; `download` fetches it once from Google.
        seconds: Most of each video, which is played at its own speed.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of the model.
        json_file: Also write the JSON object here.
    """
    check_folders(json_file)
    for place in (folder, hand_free):
        if place is not None and not place.is_dir():
            raise UsageError(f"{place} is no folder; name the folder of the pictures")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds is more than 0, got {seconds:g}")
    for name in model:
        check_model(name)
    from egolive.benchmarks.quality.real_pictures import run_real

    run_real(
        folder,
        boxes=boxes,
        hand_free=hand_free,
        model=model,
        hands=hands,
        hands_model=hands_model,
        seconds=seconds,
        device=device,
        threads=threads,
        json_file=json_file,
    )
    wrote(json_file)


def latency(
    *model: Annotated[str, Parameter(group=MODEL)],
    size: Annotated[tuple[str, ...], Parameter(negative="")] = ("1280x720",),
    fps: Annotated[tuple[float, ...], Parameter(negative="")] = (30.0,),
    seconds: float = 20.0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Measure glass to overlay and the age of answers for each engine, size and rate.

    Args:
        model: Checkpoints or engine folders; nano without any.
        size: Of the camera's pictures, as 1280x720; may be given several times.
        fps: Pictures a second; may be given several times.
        seconds: How long each is measured.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of the engine.
        json_file: Also write the JSON object here.
        plot_file: Also draw the stages into this PNG.
    """
    if not 0 < seconds < float("inf") or not all(0 < rate < float("inf") for rate in fps):
        raise UsageError("--seconds and --fps are more than 0")
    check_folders(json_file, plot_file)
    for name in model:
        check_model(name)
    from egolive.benchmarks.cost.latency import run_latency

    run_latency(
        model,
        size=size,
        fps=fps,
        seconds=seconds,
        device=device,
        threads=threads,
        json_file=json_file,
        plot_file=plot_file,
    )
    wrote(json_file, plot_file)


def engines(
    *model: Annotated[str, Parameter(group=MODEL)],
    slices: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (1, 2, 4, 8, 16),
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Measure load, encoding, prefill by length, first token, decoding, memory and energy of engines.

    Args:
        model: Checkpoints or engine folders; nano without any.
        slices: Lengths of the windows whose prompts are read.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of the engine, and of what it is held against.
        json_file: Also write the JSON object here.
        plot_file: Also draw prefill and decoding into this PNG.
    """
    if not slices or min(slices) < 1:
        raise UsageError("--slices is 1 or more")
    check_folders(json_file, plot_file)
    for name in model:
        check_model(name)
    from egolive.benchmarks.cost.engines import run_engines

    run_engines(
        model,
        slices=slices,
        device=device,
        threads=threads,
        json_file=json_file,
        plot_file=plot_file,
    )
    wrote(json_file, plot_file)


def governor(
    *,
    model: ModelOption = "nano",
    slow: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative="")] = (1.0, 2.0, 5.0, 10.0),
    loops: int = 2,
    seconds: float = 60.0,
    every: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (1, 2, 4, 8),
    slices: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    still_seconds: float = 90.0,
    episodes: int = 10,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Hold the governor of live runs against fixed settings; prints a table, then one JSON line.

    Args:
        model: What answers.
        slow: By how many times the engine is slowed; one or more numbers.
        loops: Busy processes beside one run of the engine at its own speed.
        seconds: Length of each run, in real time.
        every: Fixed settings of --every; one or more.
        slices: Fixed settings of --slices; the model's own without it.
        still_seconds: Length of the runs on a picture that stands still.
        episodes: Simulated episodes in which changes of contact are looked for.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of the engine.
        json_file: Also write the JSON object here.
        plot_file: Also draw answers and ages into this PNG.
    """
    if not all(1 <= factor <= 1000 for factor in slow):
        raise UsageError("--slow is 1 to 1000")
    if not all(1 <= length <= 3600 for length in (seconds, still_seconds)):
        raise UsageError("--seconds and --still-seconds are 1 to 3600")
    if not every or min((*every, *slices, episodes)) < 1 or loops < 0:
        raise UsageError("--every, --slices and --episodes are 1 or more, --loops 0 or more")
    check_folders(json_file, plot_file)
    check_model(model)
    from egolive.benchmarks.stream.governor_bench import run_governor

    run_governor(
        model=model,
        slow=slow,
        loops=loops,
        seconds=seconds,
        every=every,
        slices=slices,
        still_seconds=still_seconds,
        episodes=episodes,
        device=device,
        threads=threads,
        json_file=json_file,
        plot_file=plot_file,
    )
    wrote(json_file, plot_file)


def contact(
    *,
    model: ModelOption = "nano",
    episodes: int = 50,
    seed: int = 0,
    engine_seconds: float = 0.25,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Hold questions asked on contact against a fixed cadence; prints a table, then one JSON line.

    Args:
        model: What answers, and finds the hands that the trigger looks at.
        episodes: Simulated episodes of the test split.
        seed: Of the simulator.
        engine_seconds: What each call of the engine takes, in stream time.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of the engine.
        json_file: Also write the JSON object here.
        plot_file: Also draw how soon changes are asked about into this PNG.
    """
    if episodes < 1:
        raise UsageError("--episodes is 1 or more")
    if not 0 < engine_seconds <= 60:
        raise UsageError("--engine-seconds is more than 0 and at most 60")
    check_folders(json_file, plot_file)
    check_model(model)
    from egolive.benchmarks.stream.contact_calls import run_contact

    run_contact(
        model=model,
        episodes=episodes,
        seed=seed,
        engine_seconds=engine_seconds,
        device=device,
        threads=threads,
        json_file=json_file,
        plot_file=plot_file,
    )


def estimates(
    *model: Annotated[str, Parameter(group=MODEL)],
    rounds: int = 5,
    slices: Annotated[tuple[int, ...], Parameter(negative="")] = (1, 4),
    cpu_time: Annotated[bool, Parameter(negative="")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
) -> None:
    """Compare what doctor estimates of a model's forms with what they then take: seconds and memory.

    Args:
        model: Checkpoints, each measured in the forms in which it is loaded as it is, or engine folders.
        rounds: Each is measured so often, one after the other, and the medians count.
        slices: Lengths of the windows whose prompts are read.
        cpu_time: Count processor time, which other programs do not lengthen; with one thread.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads.
        json_file: Also write the JSON object here.
    """
    if not model:
        raise UsageError("name the models whose estimates are checked")
    if not slices or min(slices) < 1:
        raise UsageError("--slices is 1 or more")
    if rounds < 1:
        raise UsageError("--rounds is 1 or more")
    if cpu_time and threads != 1:
        raise UsageError("--cpu-time counts one thread: give --threads 1")
    check_folders(json_file)
    for name in model:
        check_model(name)
    from egolive.benchmarks.cost.estimates import run_estimates

    run_estimates(
        model,
        rounds=rounds,
        slices=slices,
        cpu_time=cpu_time,
        device=device,
        threads=threads,
        json_file=json_file,
    )
    wrote(json_file)


def _check_source(source: Path | None) -> None:
    if source is not None and existing_path(source) is None:
        raise SourceError(f"{str(source)[:200]}: there is no such file; check the path")
