"""Whether a question is asked again, by a clock of the test's own."""

import pytest

from cnnray.client.retry import DoneBefore, Passing, Retry, Steady
from cnnray.errors import ServiceError


def passing(retry_after=0.0, harmless=False):
    error = Passing("not now")
    error.retry_after, error.harmless = retry_after, harmless
    return error


def test_delays_double_up_to_two_seconds_and_end_with_the_patience():
    retry, now, delays = Retry(10.0, 100.0), 100.0, []
    with pytest.raises(Passing):
        while True:
            delays.append(retry.delay(passing(), now))
            now += delays[-1]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])
    assert now <= 110


def test_the_last_attempt_may_begin_at_the_very_end_of_the_patience():
    assert Retry(3.0, 0.0).delay(passing(3.0), 0.0) == 3.0
    with pytest.raises(Passing):
        Retry(3.0, 0.0).delay(passing(3.0), 0.01)
    with pytest.raises(Passing):
        Retry(0.0, 0.0).delay(passing(), 0.0)


def test_retry_after_is_waited_for_and_leaves_the_own_delay_growing():
    retry = Retry(30.0, 0.0)
    assert [retry.delay(passing(seconds), 0.0) for seconds in (5.0, 0.0, 0.1)] == pytest.approx([5.0, 0.2, 0.4])


def test_other_faults_are_final():
    error = ServiceError("no", code="gone")
    with pytest.raises(ServiceError) as caught:
        Retry(9.0, 0.0, done=("gone",)).delay(error, 0.0)
    assert caught.value is error


@pytest.mark.parametrize(("harmless", "code", "kind"), [
    (False, "gone", DoneBefore), (True, "gone", ServiceError), (False, "other", ServiceError),
])  # fmt: skip
def test_done_before_needs_a_lost_answer_and_the_code_for_it(harmless, code, kind):
    retry, error = Retry(9.0, 0.0, done=("gone",)), ServiceError("no", code=code, status=404)
    retry.delay(passing(harmless=harmless), 0.0)
    retry.delay(passing(harmless=True), 0.0)
    with pytest.raises(ServiceError) as caught:
        retry.delay(error, 1.0)
    assert type(caught.value) is kind and (caught.value.code, caught.value.status) == (code, 404)
    assert kind is ServiceError or caught.value.error is error


def test_a_steady_one_tries_after_every_fault_until_its_end():
    retry, error = Steady(1.0, 0.0), ServiceError("any")
    assert [retry.delay(error, now) for now in (0.0, 0.5, 0.99)] == [0.1] * 3
    with pytest.raises(ServiceError) as caught:
        retry.delay(error, 1.0)
    assert caught.value is error
