"""Whether a question is asked again: no clock and no sleep, the connections have those."""

from collections.abc import Collection

from cnnray.errors import ServiceError

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0


class DoneBefore(ServiceError):
    """The service refuses what an earlier attempt of the same call may have done; `error` is how it says so."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(str(error), **vars(error))
        self.error = error


class Passing(ServiceError):
    """A fault that another attempt may not meet; `harmless` where the service surely has not begun the request."""

    retry_after = 0.0
    harmless = False


class Retry:
    """Judges the attempts of one call: after "not now" (429, 502, 503, 504) and broken connections it is tried again,
    with delays that grow, for a bounded time.

    Args:
        patience: seconds within which the last attempt begins; 0 tries once.
        now: when the first attempt begins, seconds of any clock.
        done: codes with which the service refuses what was done already.
    """

    def __init__(self, patience: float, now: float, done: Collection[str] = ()) -> None:
        self._deadline, self._done = now + patience, done
        self._delay, self._maybe_done = _FIRST_DELAY, False

    def delay(self, error: ServiceError, now: float) -> float:
        """Seconds to wait before the next attempt, after one that failed.

        Raises:
            DoneBefore: the service says so after an attempt that may have done it, and whose answer was lost.
            ServiceError: `error`, where it is final.
        """
        if not isinstance(error, Passing):
            if self._maybe_done and error.code in self._done:
                raise DoneBefore(error) from error
            raise error
        wait = max(self._delay, error.retry_after)
        if now + wait > self._deadline:
            raise error
        self._maybe_done = self._maybe_done or not error.harmless
        self._delay = min(2 * self._delay, _LONGEST_DELAY)
        return wait


class Steady(Retry):
    """Tries again after every fault, at one pace: of what only waits for a service to be there."""

    def delay(self, error: ServiceError, now: float) -> float:
        """As of `Retry`."""
        if now >= self._deadline:
            raise error
        return _FIRST_DELAY
