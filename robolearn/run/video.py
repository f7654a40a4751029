"""Frames to MP4, with captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from robolearn.core.errors import RobolearnError, SpecError
from robolearn.core.spec import Array

_QUALITY_CRF = "26"


class VideoWriter:
    """Writes uint8 RGB frames to an H.264 file that browsers play.

    The file appears under its name when it is whole (``close``); a writer that is left by an exception leaves nothing.

    Args:
        path: the .mp4 to write; its directory is made.
        fps: frames per second.
        size: (width, height), both even.
    """

    def __init__(self, path: Path, *, fps: float, size: tuple[int, int]) -> None:
        if path.suffix.lower() != ".mp4":
            raise RobolearnError(f"video {path}: expected a name that ends in .mp4")
        if size[0] % 2 or size[1] % 2 or min(size) < 16:
            raise SpecError(f"video {path}: expected an even size of at least 16 pixels, got {size[0]}x{size[1]}")
        import imageio_ffmpeg

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.size, self.frames = path, size, 0
        self._tmp = path.with_name(f".{path.name}.tmp.mp4")
        self._pipe: Any = imageio_ffmpeg.write_frames(
            str(self._tmp),
            size,
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=2,
            quality=None,
            output_params=["-crf", _QUALITY_CRF, "-preset", "veryfast", "-threads", "1", "-movflags", "+faststart"],
        )
        self._pipe.send(None)

    def add(self, frame: Array, *, caption: str = "", repeat: int = 1) -> None:
        """Append a (H, W, 3) uint8 frame ``repeat`` times, with ``caption`` in its lower left corner.

        Raises:
            SpecError: the frame has another size or type than the video.
        """
        expected = (self.size[1], self.size[0], 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise SpecError(f"frame: expected uint8 {expected}, got {frame.dtype} {frame.shape}")
        image = np.ascontiguousarray(with_caption(frame, caption) if caption else frame)
        for _ in range(repeat):
            self._send(image)

    def _send(self, image: Array) -> None:
        try:
            self._pipe.send(image)
        except (OSError, StopIteration) as error:
            raise RobolearnError(f"video {self.path}: ffmpeg stopped: {error}") from error
        self.frames += 1

    def close(self) -> None:
        """Finish the file; idempotent. Without a single frame there is no file."""
        if self._pipe is None:
            return
        self._pipe.close()
        self._pipe = None
        if self.frames:
            self._tmp.replace(self.path)
        self._tmp.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Stop writing and leave no file behind."""
        self.frames = 0
        self.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()


def write_video(path: Path, frames: Iterable[Array], *, fps: float, caption: str = "") -> Path:
    """Write frames, all of the first one's size, to an MP4.

    Raises:
        RobolearnError: there are no frames.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise RobolearnError(f"video {path}: there are no frames")
    with VideoWriter(path, fps=fps, size=(first.shape[1], first.shape[0])) as video:
        video.add(first, caption=caption)
        for frame in iterator:
            video.add(frame, caption=caption)
    return path


def with_caption(frame: Array, caption: str) -> Array:
    """A copy of a (H, W, 3) uint8 frame with white text on a dark band along its lower edge."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = frame.shape[:2]
    size = max(10, height // 24)
    band = size * 2
    image = Image.fromarray(frame).convert("RGBA")
    overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    draw.rectangle((0, height - band, width, height), fill=(12, 16, 20, 176))
    draw.text(
        (size, height - band / 2), caption, fill=(255, 255, 255, 255), font=ImageFont.load_default(size), anchor="lm"
    )
    return np.asarray(Image.alpha_composite(image, overlay).convert("RGB"))
