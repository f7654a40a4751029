"""What docs/buffer.md shows does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from buffer_rows import SCHEMA, episode
from buffer_sealed import sealed

GUIDE = (Path(__file__).parents[2] / "docs" / "buffer.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, re.S)


def test_writing_and_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"Path": Path, "schema": SCHEMA, "episode": episode(1, 5)}
    exec(SNIPPETS[0], known)
    batch = known["batch"]
    assert batch.action.shape == (256, *SCHEMA.action.shape)  # type: ignore[attr-defined]


def test_reading_with_zarr_and_sqlite_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sealed(tmp_path / "my-buffer", range(3))
    for snippet in SNIPPETS[1:]:
        assert "robolearn." not in snippet
        exec(snippet, {})
        assert len(capsys.readouterr().out.splitlines()) == 3


def test_every_name_of_the_package_is_there() -> None:
    import robolearn.buffer as package

    assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Write'"):
        package.Write  # noqa: B018
