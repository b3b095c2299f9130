"""Turn a part of an overlay video into the animated picture of the README.

make run
.venv/bin/python docs/animate.py out/overlay.mp4 docs/images/overlay.webp
"""

import argparse
from pathlib import Path

import av


def animate(video: Path, out: Path, *, start: float, seconds: float, fps: float) -> int:
    """Write frames of a video as an animated WebP that repeats.

    Args:
        video: A video file.
        out: The file to write.
        start: First second of the video that is shown.
        seconds: How much of it is shown.
        fps: Frames a second of the animation.

    Returns:
        Size of the file in bytes.
    """
    frames = []
    with av.open(video) as container:
        for frame in container.decode(video=0):
            if len(frames) >= seconds * fps:
                break
            if frame.time is not None and frame.time >= start + len(frames) / fps:
                frames.append(frame.to_image())
    out.parent.mkdir(parents=True, exist_ok=True)
    milliseconds = round(1000 / fps)
    frames[0].save(
        out, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, quality=70, method=6
    )
    return out.stat().st_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Turn a part of a video into an animated WebP.")
    parser.add_argument("video", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=9.0)
    parser.add_argument("--fps", type=float, default=5.0)
    given = vars(parser.parse_args())
    print(f"{given['out']}: {animate(**given):,} bytes")
