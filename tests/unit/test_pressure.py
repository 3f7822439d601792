"""The number of requests that are let in follows how those before them ended."""

from cnnray.serve.pressure import LEAST, Pressure


def enter_all(pressure, kind, count):
    return sum(pressure.enter(kind) for _ in range(count))


def test_nothing_is_bounded_below_the_most_until_something_is_refused():
    pressure = Pressure(50)
    assert enter_all(pressure, "a", 60) == 50
    for _ in range(50):
        pressure.leave("a", refused=False)
    assert enter_all(pressure, "a", 60) == 50


def test_refusals_let_fewer_in_and_answers_more_again(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("cnnray.serve.pressure.time.monotonic", lambda: now[0])
    pressure = Pressure(100)
    assert enter_all(pressure, "a", 100) == 100
    pressure.leave("a", refused=True)  # of 100 that are inside
    pressure.leave("a", refused=True)  # in the same moment: no second step
    assert not pressure.enter("a")
    for _ in range(98):
        pressure.leave("a", refused=False)
    assert 90 <= enter_all(pressure, "a", 200) <= 92
    for _ in range(90):
        now[0] += 1
        pressure.leave("a", refused=True)
    for _ in range(3):
        pressure.leave("a", refused=False) if pressure._lines["a"].inside else None
    assert LEAST <= enter_all(pressure, "a", 200) <= LEAST + 3


def test_kinds_do_not_know_of_each_other_and_are_forgotten():
    pressure = Pressure(40)
    enter_all(pressure, "slow", 40)
    pressure.leave("slow", refused=True)
    assert enter_all(pressure, "fast", 60) == 40
    for number in range(1000):
        assert pressure.enter(f"/made/up/{number}")
        pressure.leave(f"/made/up/{number}", refused=False)
    assert set(pressure._lines) == {"slow", "fast"}
