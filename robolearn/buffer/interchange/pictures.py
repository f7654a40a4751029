"""Images as PNG and as video frames."""

from __future__ import annotations

import io
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import Array

CRF = 18
"""Quality of exported video (H.264, smaller is better)."""


def to_png(frame: Array) -> bytes:
    """(H, W, 1 or 3) uint8 as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def from_picture(data: bytes, shape: tuple[int, ...]) -> Array:
    """Inverse of ``to_png``; takes every format that Pillow reads.

    Raises:
        CorruptDataError: it is no picture, or of another size than ``shape``.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            array = np.asarray(image if shape[-1] != 3 else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptDataError(f"not a readable picture: {error}") from error
    if array.ndim == 2:
        array = array[..., None]
    if array.shape != shape or array.dtype != np.uint8:
        raise CorruptDataError(f"expected a picture of {shape}, got {array.dtype} {array.shape}")
    return array


def write_video(path: Path, frames: Array, fps: float) -> dict[str, Any]:
    """Encode (T, H, W, 3) uint8 as H.264; returns LeRobot's description of the video.

    Raises:
        StoreError: ffmpeg failed.
    """
    height, width = frames.shape[1:3]
    pixels = "yuv444p" if height % 2 or width % 2 else "yuv420p"
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    codec = ["-c:v", "libx264", "-pix_fmt", pixels, "-crf", str(CRF), "-g", "2", "-preset", "veryfast", "-threads", "1"]
    with tempfile.TemporaryFile() as errors:
        ffmpeg = _ffmpeg([*raw, *codec, "-movflags", "+faststart", str(path)], errors, stdin=subprocess.PIPE)
        try:
            for frame in frames:
                _pipe(ffmpeg.stdin).write(np.ascontiguousarray(frame).data)
            _pipe(ffmpeg.stdin).close()
        except OSError:  # it gave up; its own words follow
            pass
        finally:
            status = _end(ffmpeg)
        if status or not path.is_file():
            raise StoreError(f"cannot write video {path}: {_said(errors)}")
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": pixels,
        "video.fps": fps,
        "video.channels": 3,
        "is_depth_map": False,
        "has_audio": False,
    }


class VideoReader:
    """Reads runs of frames from one video after another; cheap when they are read in order."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._ffmpeg: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._next = 0

    def read(self, path: Path, start: int, count: int) -> Array:
        """(count, H, W, 3) uint8: frames ``start`` and on.

        Raises:
            CorruptDataError: it cannot be decoded, or has fewer frames than that.
        """
        if path != self._path or start < self._next or self._ffmpeg is None:
            self._open(path)
        frames = []
        while self._next < start + count:
            frame = self._frame(path, start + count)
            if self._next > start:
                frames.append(frame)
        return np.stack(frames)

    def close(self) -> None:
        """Stop decoding; idempotent."""
        ffmpeg, errors, self._ffmpeg, self._errors = self._ffmpeg, self._errors, None, None
        self._path, self._next = None, 0
        if ffmpeg is not None:
            ffmpeg.kill()
            _end(ffmpeg)
        if errors is not None:
            errors.close()

    def _open(self, path: Path) -> None:
        self.close()
        if not path.is_file():
            raise CorruptDataError(f"video {path} is missing")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the reader)
        options = ["-threads", "1", "-i", str(path), "-fps_mode", "passthrough", "-pix_fmt", "rgb24"]
        self._ffmpeg = _ffmpeg([*options, "-f", "image2pipe", "-c:v", "ppm", "-"], self._errors, stdout=subprocess.PIPE)
        self._path = path

    def _frame(self, path: Path, wanted: int) -> Array:
        """The next frame, a binary PPM: ``P6``, width and height, 255, then the pixels."""
        pipe = _pipe(self._ffmpeg.stdout if self._ffmpeg else None)
        header = [pipe.readline() for _ in range(3)]
        size = [int(n) for n in header[1].split() if n.isdigit()]
        data = pipe.read(3 * size[0] * size[1]) if header[0] == b"P6\n" and len(size) == 2 else b""
        if not data or len(data) < 3 * size[0] * size[1]:
            got, why = self._next, _said(self._errors)
            self.close()
            raise CorruptDataError(
                f"video {path}: expected at least {wanted} frames, got {got}" + (f": {why}" if why else "")
            )
        self._next += 1
        return np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3)


def _ffmpeg(
    options: list[str], errors: IO[bytes], *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    import imageio_ffmpeg

    command = [str(imageio_ffmpeg.get_ffmpeg_exe()), "-y", "-v", "error", *options]
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=errors)
    except OSError as error:
        raise StoreError(f"cannot start ffmpeg: {error}") from error


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise StoreError("the video is not open")
    return pipe


def _end(ffmpeg: subprocess.Popen[bytes]) -> int:
    """Close the pipes and wait; the exit status."""
    for pipe in (ffmpeg.stdin, ffmpeg.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue  # what was buffered has nobody to read it
    return ffmpeg.wait()


def _said(errors: IO[bytes] | None) -> str:
    """The end of what ffmpeg printed."""
    if errors is None:
        return ""
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()[-200:]
