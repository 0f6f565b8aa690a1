import pytest

from benchmarks import measure


def test_runs_alternate_and_warm_up_is_not_counted():
    called = []
    runs = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    seconds = measure.alternate(runs, rounds=3, warm_up=1)
    assert called == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {k: len(v) for k, v in seconds.items()} == {"a": 3, "b": 3}
    assert all(taken >= 0 for each in seconds.values() for taken in each)


def test_seconds_are_the_clocks():
    ticks = iter([0.0, 1.0, 10.0, 13.0])
    seconds = measure.alternate({"a": list}, 2, warm_up=0, clock=lambda: next(ticks))
    assert seconds == {"a": [1.0, 3.0]}


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="rounds"):
        measure.alternate({}, 0)


def test_ratios_are_taken_within_a_round():
    # The machine was ten times as slow in the second round: the ratio does not see it.
    assert measure.ratios([2.0, 20.0, 4.0], [1.0, 10.0, 1.0]) == (2.0, 2.0, 4.0)
    assert measure.rates(6.0, [2.0, 3.0]) == (3.0, 2.0)


def test_the_fastest_has_the_least_median():
    assert measure.fastest({"a": [1.0, 9.0, 9.0], "b": [2.0, 2.0, 8.0]}) == "b"
