"""What every test may ask for, and what no test may leave behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import process_state
import pytest
import torch
from checkpoints import TEXT, VISION, make_checkpoint
from examples import register_profiles
from PIL import Image as PillowImage
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from egolive.streaming.frames import Image
from egolive.streaming.video_writer import VideoWriter

# Taken before any test loads a model and so puts our rule in its place.
STOCK_ROPE_INDEX = Qwen2VLModel.get_rope_index


# One thread for each process of tests, and for those that it starts, unless told otherwise: as many as there
# are cores wait for each other where other programs run, and tests took many times as long.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
# As the commands that quantise set it: for all tests alike, whichever comes first.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
register_profiles()

BEFORE = process_state.snapshot()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests first: where several processes share the files, none ends long after the others."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True)
def process_state_stays() -> Iterator[None]:
    """Fails a test that leaves behind what other tests would notice, and puts it back.

    It is compared with what stood before the first test, so that fixtures of a module are found too.
    """
    yield
    changes = process_state.changes(BEFORE, process_state.snapshot())
    if changes:
        process_state.restore(BEFORE)
        pytest.fail("left changed: " + "; ".join(changes), pytrace=False)


@pytest.fixture(scope="session")
def stock_rope_index() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """The positions of the transformers that is installed, without our override."""
    rule: Callable[..., tuple[torch.Tensor, torch.Tensor]] = STOCK_ROPE_INDEX
    return rule


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL of width 64 with two layers in each half, in several shards."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), text=TEXT, vision=VISION, shard_size="300KB")


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a profile for small pictures, as the tests of training use it."""
    from tuning import with_profile

    return with_profile(tiny_checkpoint, tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def shallow_2b_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL-2B's own widths, heads and tied embeddings, with 2 of 28 text layers, 2 of 32 vision layers.

    The vocabulary is small as well, the weights are stored in bf16.
    """
    text = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {"depth": 2, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536}
    folder = tmp_path_factory.mktemp("shallow-2b")
    return make_checkpoint(folder, text=text, vision=vision, tied=True, dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def nano_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano's graphs as TensorRT reads them, in full precision, which a CPU can run, for small passes."""
    # Imported here: few tests need what exports.
    from tensorrt_graphs import SIZES

    from egolive.quantize.build import Recipe, build_onnx

    out = tmp_path_factory.mktemp("graphs") / "nano"
    build_onnx("nano", out, Recipe(head_bits=32, standard=True), sizes=SIZES, size=(56, 84))
    return out


@pytest.fixture(scope="session")
def pixels() -> Image:
    """56 x 84 of noise."""
    return np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory, pixels: Image) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a picture.png"
    PillowImage.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds, ten pictures a second; each as bright as its number times two."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with VideoWriter(path) as writer:
        for index in range(100):
            writer.write(np.full((56, 84, 3), 2 * index, np.uint8), index / 10)
    return path


@pytest.fixture
def server(picture: Path) -> Iterator[str]:
    """Serves the picture at /picture, and answers 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/picture" else 404)
            self.end_headers()
            self.wfile.write(picture.read_bytes() if self.path == "/picture" else b"")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()
