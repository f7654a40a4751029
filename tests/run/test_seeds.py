from robolearn.run.seeds import Stream, stream


def test_a_stream_is_reproducible_and_its_own() -> None:
    draws = {
        (seed, who, key): stream(seed, who, key).integers(2**62).item()
        for seed in (0, 1)
        for who in Stream
        for key in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)
    assert all(stream(*key).integers(2**62).item() == value for key, value in draws.items())
