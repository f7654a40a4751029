"""Videos: frames go in, the same frames come out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from robolearn.core.errors import RobolearnError, SpecError
from robolearn.run.video import VideoWriter, with_caption, write_video


def read(path: Path, width: int, height: int) -> list[np.ndarray]:
    """All frames of a video, through the ffmpeg that wrote it."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(path),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    data = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return list(np.frombuffer(data, np.uint8).reshape(-1, height, width, 3))


def test_frames_come_out_as_they_went_in(tmp_path: Path) -> None:
    shades = (30, 120, 210)
    pictures = [np.full((64, 96, 3), shade, np.uint8) for shade in shades]
    path = write_video(tmp_path / "new" / "film.mp4", pictures, fps=10.0)
    assert [float(frame.mean()) for frame in read(path, 96, 64)] == pytest.approx(shades, abs=3)
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]


def test_a_frame_can_be_held(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "film.mp4", fps=10.0, size=(64, 48)) as video:
        video.add(np.zeros((48, 64, 3), np.uint8), caption="success", repeat=5)
        assert video.frames == 5
    assert len(read(tmp_path / "film.mp4", 64, 48)) == 5


def test_a_caption_is_drawn_at_the_lower_edge_of_a_copy() -> None:
    frame = np.full((120, 160, 3), 100, np.uint8)
    captioned = with_caption(frame, "episode 1")
    assert (frame == 100).all()
    assert (captioned[:60] == 100).all()
    assert captioned[-20:].max() > 200
    assert captioned[-20:].min() < 60


def test_a_video_that_fails_leaves_nothing(tmp_path: Path) -> None:
    pictures = [np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64, 4), np.uint8)]
    with pytest.raises(SpecError, match=r"expected uint8 \(48, 64, 3\)"):
        write_video(tmp_path / "film.mp4", pictures, fps=10.0)
    VideoWriter(tmp_path / "empty.mp4", fps=10.0, size=(64, 48)).close()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RobolearnError, match=r"ends in \.mp4"):
        VideoWriter(tmp_path / "film.avi", fps=10.0, size=(64, 48))
    with pytest.raises(SpecError, match="even size"):
        VideoWriter(tmp_path / "film.mp4", fps=10.0, size=(63, 48))
    with pytest.raises(RobolearnError, match="no frames"):
        write_video(tmp_path / "film.mp4", [], fps=10.0)
