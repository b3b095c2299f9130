"""Serialises the visual tokens of a picture to bytes, and loads them into a session's vision cache."""

from __future__ import annotations

import json

import torch

from egolive.assistant.model.prompt_tokens import slices_of
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.schema.engine import Engine, EngineSession, Vision
from egolive.streaming.errors import DataError
from egolive.streaming.json_files import json_value

__all__ = ["encoding_of", "give_encoding", "maker_of"]


def encoding_of(session: EngineSession, vision: Vision, made_by: str) -> bytes | None:
    """The visual tokens of a picture, where the session still has them; None from a remote engine.

    Args:
        session: What has just been asked about the picture.
        vision: The picture.
        made_by: The engine by its name, see `give_encoding`.
    """
    if not isinstance(session, Session):
        return None
    pieces = slices_of(vision)
    tokens = session.slices.get(pieces[0].name) if len(pieces) == 1 else None
    if tokens is None:
        return None
    head = json.dumps([made_by, str(tokens.dtype).removeprefix("torch."), list(tokens.shape)]).encode()
    data = tokens.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return head + b"\n" + data


def give_encoding(
    session: EngineSession, vision: Vision, encoding: bytes, made_by: str, device: torch.device | str
) -> bool:
    """Let a session take a picture's visual tokens from bytes in place of encoding it.

    Args:
        session: What will be asked about the picture.
        vision: The picture, with a key of its own.
        encoding: From `encoding_of`.
        made_by: The engine by its name; tokens of another one mean nothing to it.
        device: Of the engine.

    Returns:
        Whether it took them; a remote engine takes none.

    Raises:
        DataError: The bytes are damaged.
    """
    if not isinstance(session, Session):
        return False
    head, _, data = encoding.partition(b"\n")
    try:
        maker, name, shape = json_value(head, where="an encoding", remedy="forget it")
        if maker != made_by:
            return False
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(getattr(torch, name))
        tokens = flat.reshape(shape).to(device)
    except (DataError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError("a remembered picture's encoding is damaged; forget it") from error
    session.slices.put(slices_of(vision)[0].name, tokens)
    return True


def maker_of(engine: Engine) -> str:
    """What an encoding is marked with: engines of one name and precision share them."""
    info = engine.info
    made_by = f"{info.name} {info.backend} {info.precision}"
    # Beside quantised layers, torch computes in another type on a GPU than on a processor.
    few_bits = info.backend == "torch" and info.precision not in ("fp32", "bf16")
    return f"{made_by} {info.device.partition(':')[0]}" if few_bits else made_by
