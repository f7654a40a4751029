"""Images within a budget: whatever is in memory, batches hold what was written."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_rows import IMAGES, episode, row, uuid_of
from numpy.typing import NDArray

from robolearn.buffer.index import Index
from robolearn.buffer.replay import Refresh, Replay
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.types import Batch, Kind, Source

FRAME = 4 * 5 * 3


def fill(root: Path, numbers: range, steps: int = 9, *, name: str = "actor", demo: bool = False) -> None:
    with Writer(root, IMAGES, name=name, robot="arm", task="peg", demo=demo) as w:
        for number in numbers:
            for t in episode(number, steps, schema=IMAGES):
                w.append(t)
            w.end_episode(True)


def budget(replay_rows: int, images: int) -> int:
    """Bytes for so many rows and so many images."""
    return replay_rows * IMAGES.sample.itemsize + images * FRAME


def check(batch: Batch, horizon: int = 1) -> set[tuple[int, int]]:
    """Every image belongs to the row that its numbers name."""
    seen = set()
    for observation in (batch.observation, batch.next_observation):
        for count, image, q in zip(observation["count"], observation["camera"], observation["q"], strict=True):
            number, index = divmod(int(count), 1000)
            expected = row(number, index, Kind.FIRST, schema=IMAGES).observation
            assert np.array_equal(image, expected["camera"])
            assert np.array_equal(q, expected["q"])
    for count in batch.next_observation["count"]:
        seen.add(divmod(int(count), 1000))
    return seen


def opened(root: Path, **arguments: object) -> Replay:
    replay = Replay(root, IMAGES, seed=0, **arguments)  # type: ignore[arg-type]
    replay.refresh()
    return replay


@pytest.mark.parametrize("sealed", [False, True])
def test_exact_reads_what_is_not_in_memory(tmp_path: Path, sealed: bool) -> None:
    fill(tmp_path, range(1, 11))
    if sealed:
        seal(tmp_path, min_bytes=0, everything=True)
    with opened(tmp_path, ram_bytes=budget(100, 25)) as replay:
        everything = {(n, i) for n in range(1, 11) for i in range(1, 10)}
        assert check(replay.sample(2000, demo_fraction=0.0)) == everything
        check(replay.sample(300, demo_fraction=0.0, horizon=4, gamma=0.9))
        metrics = replay.metrics()
        assert metrics["image_rows"] == 25
        assert 0.15 < metrics["image_hit_rate"] < 0.35
        assert replay.metrics()["image_hit_rate"] == 1.0  # nothing was asked for since


def test_arrays_of_batches_begin_with_a_cache_line_in_any_memory(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))

    def shifted(shape: tuple[int, ...], dtype: object) -> NDArray[Any]:
        room = np.zeros(int(np.prod(shape)) + 128, np.uint8)
        start = -room.ctypes.data % 64 + 16
        return room[start : start + int(np.prod(shape))].reshape(shape).view(dtype)

    with opened(tmp_path, allocate=shifted) as replay:
        batch, chunks = replay.sample(8, horizon=2), replay.sample_chunks(8, history=2, chunk=3)
        check(batch, horizon=2)
        for array in (batch.observation["camera"], batch.next_observation["camera"], chunks.observation["camera"]):
            assert array.ctypes.data % 64 == 0
            assert array.flags.c_contiguous


def test_without_a_budget_everything_is_in_memory(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    with opened(tmp_path) as replay:
        for log in (tmp_path / "logs").iterdir():
            log.unlink()
        check(replay.sample(200, demo_fraction=0.0))
        assert replay.metrics()["image_rows"] == 30


def test_cached_samples_what_is_in_memory_and_sees_everything_in_turn(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 21))
    with opened(tmp_path, ram_bytes=budget(200, 50), mode="cached") as replay:
        replay.metrics()
        draws = np.zeros(21)
        for _ in range(150):
            batch = replay.sample(32, demo_fraction=0.0)
            for number, _ in check(batch):
                draws[number] += 1
            assert replay._hot.tier.used <= 50
        metrics = replay.metrics()
        assert (draws[1:] > 0).all()
        assert metrics["image_hit_rate"] > 0.95
        assert metrics["uniformity_cv"] < 0.3
        assert metrics["admitted_bytes"] <= 150 * 10 * FRAME


def test_the_rate_of_exchange_is_kept(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 21))
    still = Refresh(episodes_per_batch=0.0)
    with opened(tmp_path, ram_bytes=budget(200, 50), mode="cached", exchange=still) as replay:
        replay.metrics()
        seen = {n for _ in range(20) for n, _ in check(replay.sample(64, demo_fraction=0.0))}
        assert seen == {16, 17, 18, 19, 20}  # what came last
        assert replay.metrics()["admitted_bytes"] == 0
        fill(tmp_path, range(21, 22), name="other")  # new episodes come in at once
        replay.refresh()
        assert 21 in {n for n, _ in check(replay.sample(64, demo_fraction=0.0))}
    slow = Refresh(episodes_per_batch=10.0, bytes_per_s=1.0)
    with opened(tmp_path, ram_bytes=budget(200, 50), mode="cached", exchange=slow) as replay:
        replay.metrics()
        for _ in range(50):
            replay.sample(8, demo_fraction=0.0)
        assert replay.metrics()["admitted_bytes"] <= 10 * FRAME


def test_a_view_that_is_nowhere_in_memory_is_brought(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 3), name="demo", demo=True)
    fill(tmp_path, range(3, 13))
    still = Refresh(episodes_per_batch=0.0)
    with opened(tmp_path, ram_bytes=budget(120, 30), mode="cached", exchange=still) as replay:
        batch = replay.sample(64, demo_fraction=0.5)
        assert {n for n, _ in check(batch)} & {1, 2}
        assert batch.demo[0::2].all()


def test_the_budget_holds_while_rows_come_in(tmp_path: Path) -> None:
    for mode in ("exact", "cached"):
        root = tmp_path / mode
        with opened(root, ram_bytes=budget(0, 60), mode=mode) as replay:
            for number in range(1, 5):
                fill(root, range(number, number + 1), name=f"w{number}")
                replay.refresh()
                used = replay._hot.table.end * IMAGES.sample.itemsize + replay._hot.tier.used_bytes
                assert used <= budget(0, 60) or replay._hot.tier.used == 0
                check(replay.sample(64, demo_fraction=0.0))


def test_long_episodes_come_and_go_in_blocks(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 2), steps=900)
    with opened(tmp_path, ram_bytes=budget(901, 300), mode="cached") as replay:
        seen = set()
        for _ in range(60):
            seen |= check(replay.sample(64, demo_fraction=0.0))
            assert replay._hot.tier.used <= 300
        assert {i // 256 for _, i in seen} == {0, 1, 2, 3}


@pytest.mark.parametrize("mode", ["exact", "cached"])
def test_an_episode_that_moves_is_found_again(tmp_path: Path, mode: str) -> None:
    fill(tmp_path, range(1, 11))
    with opened(tmp_path, ram_bytes=budget(100, 25), mode=mode) as replay:
        seal(tmp_path, min_bytes=0, everything=True)
        replay._hot.sources[0].files.close()  # an open log would still be readable
        seen = set()
        for _ in range(40):
            seen |= check(replay.sample(64, demo_fraction=0.0))
        assert {n for n, _ in seen} == set(range(1, 11))
        assert all(e.record.segment for e in replay._hot.episodes.values())
        assert len(replay.episode(uuid_of(3)).action) == 9


def test_what_was_dropped_and_sealed_leaves_when_it_is_missed(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 11))
    with opened(tmp_path, ram_bytes=budget(100, 0)) as replay:
        index = Index(StorePaths(tmp_path).index, writable=True)
        index.edit([uuid_of(n) for n in range(1, 9)], dropped=True)
        index.close()
        seal(tmp_path, min_bytes=0, everything=True)
        replay._hot.sources[0].files.close()
        assert {n for n, _ in check(replay.sample(64, demo_fraction=0.0))} == {9, 10}
        assert replay.online_transitions == 18


def test_damage_on_disk_is_never_sampled(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    with opened(tmp_path, ram_bytes=budget(30, 0)) as replay:
        log = next((tmp_path / "logs").iterdir())
        raw = bytearray(log.read_bytes())
        raw[len(raw) // 2] ^= 4
        log.write_bytes(raw)
        with pytest.raises(CorruptDataError, match="fails its checksum"):
            check(replay.sample(640, demo_fraction=0.0))


def test_images_that_cannot_be_read_are_not_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, range(1, 3))
    with Replay(tmp_path, IMAGES) as replay:

        def fails(*_: object) -> None:
            raise StoreError("no")

        with monkeypatch.context() as patch:
            patch.setattr("robolearn.buffer.files.EpisodeFiles.images_many", fails)
            with pytest.raises(StoreError, match="no"):
                replay.refresh()
            assert replay.rows == 0
        assert replay.refresh() == 20
        check(replay.sample(64, demo_fraction=0.0))


def test_human_steps_keep_their_images_when_their_episode_leaves(tmp_path: Path) -> None:
    with Writer(tmp_path, IMAGES, name="actor", robot="arm", task="peg") as w:
        for number in range(1, 9):
            for t in episode(number, 9, schema=IMAGES, humans=[3, 4] if number == 2 else []):
                w.append(t)
            w.end_episode(True)
    with opened(tmp_path, capacity_rows=30) as replay:
        batch = replay.sample(200)
        assert check(batch) >= {(2, 3), (2, 4)}
        assert set(batch.next_observation["count"][0::2].tolist()) == {2003, 2004}
        assert batch.demo[0::2].all()
        assert replay.composition()[Source.HUMAN] == 2


def test_one_thread_may_sample_while_another_takes_in(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    with opened(tmp_path, ram_bytes=budget(300, 20), mode="cached") as replay:
        problems: list[BaseException] = []

        def sample() -> None:
            try:
                for _ in range(60):
                    check(replay.sample(16, demo_fraction=0.0))
            except BaseException as error:  # noqa: BLE001
                problems.append(error)

        thread = threading.Thread(target=sample)
        thread.start()
        for number in range(4, 12):
            fill(tmp_path, range(number, number + 1), name="other")
            replay.refresh()
        thread.join()
        assert not problems


def test_a_mode_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="'exact' or 'cached'"):
        Replay(tmp_path, IMAGES, mode="best")  # type: ignore[arg-type]
