"""The hand detector: the two networks of MediaPipe's Hand Landmarker, run by LiteRT.

`mediapipe` itself is not used: it brings an OpenCV of its own, which overwrites the headless one, and needs
libEGL and libGLESv2. What it does around the networks is in `palm_detection` and `hand_landmarks`.

Model card: https://storage.googleapis.com/mediapipe-assets/Model%20Card%20Hand%20Tracking%20(Lite_Full)%20with%20Fairness%20Oct%202021.pdf
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.assistant.hands import hand_landmarks, palm_detection
from egolive.assistant.hands.hand_landmarks import FoundHand, cut, next_region, same_hand, to_picture
from egolive.assistant.hands.model_file import read_networks
from egolive.assistant.hands.palm_detection import Region, decode, merge, region_of
from egolive.streaming.errors import ConfigError, EngineError, one_line
from egolive.streaming.frames import Box, Image
from egolive.streaming.hands import Hand, Side

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

__all__ = ["MediaPipeHands", "crops", "sides_of", "to_hands"]

Floats = NDArray[np.float32]

_THRESHOLD = 0.3
"""Least probability of a palm, and of a hand in its region."""
_FINER = 2.0
"""Pixels of the picture for one of the network's from which the picture is halved first: what is skipped in
between flickers, and fewer hands are found."""
_LEAST = 0.13
"""Least size of a hand, the longer side of its joints' box, in shorter sides of the picture: the wearer's are
near. Smaller finds were headlights, signs and faces."""
_SMALL, _LARGE = (0.13, 0.9), (0.34, 0.3)
"""Sizes, and the least probability that a hand of that size needs; in between it falls evenly."""
_AGAIN = 0.9
"""Least probability of a hand that only a part of the picture shows: enlarged, more looks like one."""
_SURE = 0.7
"""Probability from which a hand that is new in a stream is told at once; others once the next picture has
them, too. What was no hand was mostly found in one picture alone."""
_MOST = 2
"""Hands of one wearer."""
_opening = threading.Lock()
"""Held while standard error is somewhere else."""
_NOTICE = b"Created TensorFlow Lite XNNPACK delegate"
_MARGIN = 0.05
"""Of the joints' box on each side: joints lie inside the skin."""
_SQUARE = 1.25
"""Ratio of a picture's sides from which three squares cover it."""
_CORNER = 0.7
"""Side of each of four squares in the corners of other pictures, in shorter sides."""


class MediaPipeHands:
    """Implements `HandDetector`."""

    name = "MediaPipe Hand Landmarker"

    def __init__(
        self, file: Path, *, threshold: float = _THRESHOLD, again: bool = True, stream: bool = False
    ) -> None:
        """Load the networks; takes some 30 ms and 40 MB.

        Args:
            file: `hand_landmarker.task`.
            threshold: Least probability of a palm, and of a hand in its region.
            again: Look once more, in square parts of a picture in which fewer than two hands were found.
            stream: The pictures are of one stream: look first where the hands were in the picture before,
                which is cheaper, once more in one part of each, by turns, and tell a new hand that is not
                sure when the next picture has it, too.

        Raises:
            ConfigError: The file cannot be used, or LiteRT is not installed.
        """
        palms, joints = read_networks(file)
        self._palms = _Network(palms, file, (palm_detection.SIDE, ((1, 2016, 18), (1, 2016, 1))))
        self._joints = _Network(joints, file, (hand_landmarks.SIDE, ((1, 63), (1, 1), (1, 1), (1, 63))))
        self._threshold = threshold
        self._again = again
        self._stream = stream
        self._regions: list[Region] = []
        self._pictures = 0
        self._size = (0, 0)
        self._halves: list[Image] = []
        """The picture, and the halves of it that were made so far."""

    def detect(self, image: Image) -> list[Hand]:
        """Find the wearer's hands: at most one of each side, the left one first.

        Args:
            image: (H, W, 3) RGB bytes.

        Raises:
            EngineError: LiteRT failed.
        """
        height, width = image.shape[:2]
        if (height, width) != self._size:
            self.forget()
            self._size = (height, width)
        self._halves = [image]
        found: list[FoundHand] = []
        for region in self._regions:
            _add(found, self._look(image, region, self._threshold))
        followed = {id(hand) for hand in found}
        # While one hand is followed, the other one may wait for the next picture.
        if len(found) < _MOST and not (found and self._pictures % 2):
            for region in self._search(Region(width / 2, height / 2, max(width, height), 0.0)):
                _add(found, self._look(image, region, self._threshold))
        if self._again and len(found) < _MOST:
            squares = list(crops(width, height))
            # In a stream one after the other, so that no look takes long.
            for square in squares if not self._stream else [squares[self._pictures % len(squares)]]:
                for region in self._search(square):
                    _add(found, self._look(image, region, max(_AGAIN, self._threshold)))
        found = sorted(found, key=lambda hand: -hand.score)[:_MOST]
        if self._stream:
            self._pictures += 1
            self._regions = [next_region(hand.joints) for hand in found]
            found = [hand for hand in found if id(hand) in followed or hand.score >= _SURE]
        self._halves = []
        return to_hands(found, width, height)

    def forget(self) -> None:
        """Search the whole of the next picture."""
        self._regions = []
        self._pictures = 0

    def close(self) -> None:
        """Free the networks."""
        self._palms.close()
        self._joints.close()

    def _search(self, square: Region) -> list[Region]:
        """Regions of hands in a square part of the picture, the likeliest first."""
        raw, logits = self._palms(self._cut(square, palm_detection.SIDE, replicate=False))
        palms = merge(decode(raw.reshape(-1, 18), logits.reshape(-1), self._threshold))
        shift = (square.x - square.side / 2, square.y - square.side / 2)
        return [region_of(palm.moved(square.side, shift)) for palm in palms[:_MOST]]

    def _cut(self, region: Region, side: int, *, replicate: bool) -> Floats:
        """A region of the picture as a network sees it."""
        half = 0
        while region.side / 2**half > _FINER * side and min(self._halves[half].shape[:2]) > side:
            half += 1
            if half == len(self._halves):
                height, width = (max(1, pixels // 2) for pixels in self._halves[-1].shape[:2])
                smaller = cv2.resize(self._halves[-1], (width, height), interpolation=cv2.INTER_AREA)
                self._halves.append(np.asarray(smaller, np.uint8))
        scale = 0.5**half
        small = Region(region.x * scale, region.y * scale, region.side * scale, region.turn)
        return cut(self._halves[half], small, side, replicate=replicate)

    def _look(self, image: Image, region: Region, threshold: float) -> FoundHand | None:
        """The hand in a region; None where it is none."""
        if not 1 <= region.side <= 4 * max(image.shape[:2]):
            return None
        joints, flag, right, _ = self._joints(self._cut(region, hand_landmarks.SIDE, replicate=True))
        score = float(flag.reshape(-1)[0])
        # Written so that "nan" is refused too.
        if not score >= threshold:
            return None
        points = joints.reshape(hand_landmarks.JOINTS, 3)[:, :2]
        if not np.isfinite(points).all():
            return None
        hand = FoundHand(to_picture(points, region, hand_landmarks.SIDE), score, float(right.reshape(-1)[0]))
        size = _size(hand) / min(image.shape[:2])
        least = float(np.interp(size, (_SMALL[0], _LARGE[0]), (_SMALL[1], _LARGE[1])))
        return hand if size >= _LEAST and score >= least else None


def crops(width: int, height: int) -> Iterator[Region]:
    """Square parts of a picture in which its hands are larger than in the whole of it.

    Of a long picture three along it, as wide as it is; else four in the corners.
    """
    short, long = sorted((width, height))
    if long >= _SQUARE * short:
        for share in (0.0, 0.5, 1.0):
            along = short / 2 + share * (long - short)
            x, y = (along, height / 2) if width >= height else (width / 2, along)
            yield Region(x, y, short, 0.0)
        return
    side = _CORNER * short
    for y in (side / 2, height - side / 2):
        for x in (side / 2, width - side / 2):
            yield Region(x, y, side, 0.0)


def sides_of(hands: Sequence[FoundHand]) -> list[Side]:
    """Which side each hand is of: by place where there are two, by its looks where there is one.

    The detector's own word is wrong for one hand of three; of two hands of one wearer the left one is left.
    """
    if len(hands) == _MOST:
        one, other = (float(hand.joints[:, 0].mean()) for hand in hands)
        return ["left", "right"] if one <= other else ["right", "left"]
    return ["right" if hand.right >= 0.5 else "left" for hand in hands]


def to_hands(found: Sequence[FoundHand], width: int, height: int) -> list[Hand]:
    """Hands with boxes that lie inside the picture, the left one first; those outside it are left out."""
    hands = []
    for hand, side in zip(found, sides_of(found), strict=True):
        low, high = hand.joints.min(axis=0), hand.joints.max(axis=0)
        wider = _MARGIN * (high - low)
        x1, y1 = np.clip(low - wider, 0, (width, height)).tolist()
        x2, y2 = np.clip(high + wider, 0, (width, height)).tolist()
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue
        # Rounded, so that a recording that holds them is small and says what the run saw.
        x1, y1, x2, y2 = (round(value, 2) for value in (x1, y1, x2, y2))
        box = Box(x1, y1, x2, y2, f"{side} hand", max(round(hand.score, 4), 1e-4), by="detector")
        joints = tuple((round(x, 1), round(y, 1)) for x, y in hand.joints.tolist())
        hands.append(Hand(side, box, joints))
    return sorted(hands, key=lambda hand: hand.side)


def _size(hand: FoundHand) -> float:
    """The longer side of the joints' box, pixels."""
    return float((hand.joints.max(axis=0) - hand.joints.min(axis=0)).max())


def _add(found: list[FoundHand], hand: FoundHand | None) -> None:
    """Take a hand unless it was found before."""
    if hand is not None and not any(same_hand(hand.joints, other.joints) for other in found):
        found.append(hand)


@dataclass(frozen=True, slots=True)
class _Tensor:
    index: int
    shape: tuple[int, ...]


class _Network:
    """One network with one picture as its input."""

    def __init__(self, data: bytes, file: Path, form: tuple[int, tuple[tuple[int, ...], ...]]) -> None:
        side, outputs = form
        try:
            self._run: Interpreter | None = _interpreter(data)
            inputs = [_Tensor(*_about(one)) for one in self._run.get_input_details()]
            self._outputs = [_Tensor(*_about(one)) for one in self._run.get_output_details()]
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{file}: its networks cannot be loaded ({one_line(error)}); give hand_landmarker.task"
            ) from error
        shapes = tuple(tensor.shape for tensor in self._outputs)
        if [tensor.shape for tensor in inputs] != [(1, side, side, 3)] or shapes != outputs:
            raise ConfigError(f"{file}: its networks have other inputs or outputs; give hand_landmarker.task")
        self._input = inputs[0]

    def __call__(self, picture: Floats) -> list[Floats]:
        """Outputs for a picture, (1, side, side, 3) in [0, 1].

        Raises:
            EngineError: LiteRT failed, or it is closed.
        """
        if self._run is None:
            raise EngineError("the hand detector is closed; open another one")
        try:
            self._run.set_tensor(self._input.index, picture)
            self._run.invoke()
            return [np.asarray(self._run.get_tensor(one.index), np.float32) for one in self._outputs]
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"the hand detector failed: {one_line(error)}") from error

    def close(self) -> None:
        self._run = None


def _about(details: dict[str, Any]) -> tuple[int, tuple[int, ...]]:
    return int(details["index"]), tuple(int(side) for side in details["shape"])


def _interpreter(data: bytes) -> Interpreter:
    """The network in LiteRT, on one thread.

    Raises:
        ConfigError: LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ConfigError("the hand detector needs the package ai-edge-litert: pip install it") from error
    with _opening, _without_notice():
        network = Interpreter(model_content=data, num_threads=1)
        network.allocate_tensors()
    return network


@contextmanager
def _without_notice() -> Iterator[None]:
    """Keep one line off standard error that LiteRT writes there itself, and has no switch for.

    It would stand in the middle of the live view. Whatever else is written meanwhile follows afterwards.
    """
    if os.name != "posix":
        # Python 3.11 has no pipes there that never wait.
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:
        # There is no standard error.
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        with open(read, "rb") as caught:  # noqa: PTH123
            lines = caught.read().splitlines(keepends=True)
        if rest := b"".join(line for line in lines if _NOTICE not in line):
            os.write(2, rest)
