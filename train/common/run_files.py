"""Files of a training run that a full disk, a kill or a crash must not spoil: its checkpoints and its model.

A checkpoint counts once it is complete. A model is written beside the one that is there, and takes its place
file by file once all of it is on the disk.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from egolive.streaming.durable_files import sync_folder, sync_tree
from egolive.streaming.errors import SinkError

__all__ = ["last_checkpoint", "partial_of", "put_in_place", "writing_into"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def writing_into(out: Path) -> Iterator[None]:
    """Tell in one line where a disk is full or fails; what was complete in the folder stays so.

    Args:
        out: folder of the run.

    Raises:
        SinkError: it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _disk_trouble(error)
        if reason is None:
            raise
        raise SinkError(
            f"{out}: the run cannot be written ({reason}), its last complete checkpoint is whole; make room "
            "and start it again with the same command"
        ) from error


def last_checkpoint(out: Path) -> str | None:
    """The newest complete checkpoint in `out`.

    The Trainer writes its state last; of one that a full disk cut off, the state lacks its end.
    """
    found = sorted(
        out.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}"),
        key=lambda path: int(path.parent.name.rpartition("-")[2]),
        reverse=True,
    )
    return next((str(path.parent) for path in found if _is_json(path)), None)


def partial_of(folder: Path) -> Path:
    """Where a model is written before `put_in_place`."""
    return folder.with_name(f"{folder.name}.part")


def put_in_place(folder: Path) -> None:
    """Let a model that was written to `partial_of(folder)` take the place of what is in the folder.

    Its weights come last, each file in one step. Weights of an earlier model that it does not replace go.

    Raises:
        OSError: The disk failed; before that nothing in the folder was changed.
    """
    partial = partial_of(folder)
    sync_tree(partial)
    folder.mkdir(exist_ok=True)
    new = sorted(partial.iterdir(), key=lambda path: (path.suffix == ".safetensors", path.name))
    for path in new:
        path.replace(folder / path.name)
    partial.rmdir()
    for path in folder.glob("*.safetensors"):
        if path.name not in {written.name for written in new}:
            path.unlink()
    sync_folder(folder)


def _disk_trouble(error: BaseException) -> str | None:
    """What is wrong with the disk; None where the error is about something else."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in _DISK_ERRORS else None
    told = str(error)
    if isinstance(error, SafetensorError):
        return told.rpartition("I/O error: ")[2] if "I/O error" in told else None
    # torch.save writes from C++, which does not tell why it failed.
    return "no room, or the disk fails" if "PytorchStreamWriter" in told or "unexpected pos" in told else None


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
