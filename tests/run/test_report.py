"""The report: everything in one file, whatever is missing."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from synthetic_run import make_run

from robolearn.core.errors import ResumeError
from robolearn.run.report import _state, final_row, write_report
from robolearn.run.report_data import read_run


class Checker(HTMLParser):
    """Collects addresses, and checks that elements nest."""

    VOID = frozenset({"meta", "img", "source", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [str(values[key]) for key in ("src", "href", "srcset") if key in values]
        if tag == "img":
            self.images.append(values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a finished run with a video."""
    run = make_run(tmp_path_factory.mktemp("run"), upto=3000, video=True)
    return write_report(run.root)


def check(report: Path) -> Checker:
    """Parse a report."""
    checker = Checker()
    checker.feed(report.read_text(encoding="utf-8"))
    assert checker.open == []
    return checker


def test_it_needs_nothing_from_outside(finished: Path) -> None:
    page = check(finished)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", finished.read_text(encoding="utf-8"))
    assert sum(address.startswith("data:video/mp4") for address in page.addresses) == 1


def test_it_says_how_the_run_went(finished: Path) -> None:
    text = " ".join(" ".join(check(finished).text).split())
    for words in (
        "peg_insert:default with rlpd", "98 %", "95 %: 93 to 99 % · 100 unseen episodes", "93.0 to 99.4 %", "98 of 100",
        "blind expert", "22.0 %", "8.4 N", "7.93", "target 8", "5 min 00 s", "policy.utd", "clearance_mm",
        "robolearn train peg_insert --seed 1", "18 steps of demonstrations", "worker died",
    ):  # fmt: skip
        assert words in text, words


def test_what_a_run_wrote_is_text_not_markup(finished: Path) -> None:
    source = finished.read_text(encoding="utf-8")
    assert "<script" not in source
    assert "&lt;script&gt;alert" in source


def test_pictures_have_words_and_lie_beside_the_report(finished: Path) -> None:
    images = check(finished).images
    assert len(images) == 2
    assert "Success of the policy alone: " in str(images[0]["alt"])
    assert all(len(str(image["alt"])) > 20 for image in images)
    for name in ("learning_curve", "system"):
        with Image.open(finished.parent / "plots" / f"{name}.png") as image:
            assert image.width > 1000
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10


def test_a_run_that_goes_on_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=False, upto=1500)
    with open(run.metrics, "ab") as file:
        file.write(b'{"kind":"episode","ste')
    text = " ".join(check(write_report(tmp_path)).text)
    assert "training" in text
    assert "Results" not in text
    assert "at 1,000 steps" in text


def test_a_run_that_has_only_a_configuration_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=False, upto=100)
    for path in (run.metrics, run.events, run.status, run.environment, run.command):
        path.unlink()
    shutil.rmtree(run.buffer)
    assert "No evaluation has been made yet." in str(check(write_report(tmp_path)).images[0]["alt"])


def test_broken_files_do_not_hide_the_rest_and_a_large_video_stays_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, done=True, upto=300)
    (run.videos / "policy.mp4").write_bytes(bytes(2000))
    monkeypatch.setattr("robolearn.run.report._EMBED_BYTES", 1000)
    run.status.write_text('{"state": ')
    (run.buffer / "schema.json").write_text("{}")
    page = check(write_report(tmp_path))
    text = " ".join(page.text)
    assert "videos/policy.mp4" in page.addresses
    assert "Replay buffer" in text
    assert "Results" in text


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="is no run directory"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ResumeError, match=r"config\.yaml, line"):
        write_report(tmp_path)


def test_the_final_evaluation_counts_and_never_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=True, upto=9000)
    assert final_row(read_run(tmp_path))["episodes"] == 100
    lines = [line for line in run.metrics.read_text().splitlines() if '"final":true' not in line]
    run.metrics.write_text("\n".join(lines) + "\n")
    assert final_row(read_run(tmp_path))["steps"] == 8000


def test_a_report_written_before_the_last_status_says_done(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=True, upto=300)
    run.status.write_text('{"state": "evaluating", "steps": 300, "message": "filming the policy"}')
    assert _state(read_run(tmp_path)) == ("done", "")
    run.status.write_text('{"state": "evaluating", "steps": 400, "message": "filming the policy"}')
    assert _state(read_run(tmp_path)) == ("evaluating", "filming the policy")
    run.results.unlink()
    assert _state(read_run(tmp_path)) == ("evaluating", "filming the policy")
