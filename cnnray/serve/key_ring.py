"""The keys of a folder as a service in operation knows them: who shows one, what it is good for, and how often."""

import asyncio
import hmac
import logging
import re
import time

from cnnray.errors import StorageError
from cnnray.serve.keys import Key, digest_of, read_keys
from cnnray.serve.problems import Refusal

logger = logging.getLogger("ray.serve")

REFRESH_SECONDS = 2.0
_FORM = re.compile(r"cnnray_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")


class KeyRing:
    """Checks keys; looks into their folder again every REFRESH_SECONDS while it is asked.

    Args:
        folder: see `create_key`.
        shares: services that share the callers; each grants this part of a key's limit.

    A file in it that is no key is logged, and the others are good.

    Raises:
        StorageError: the folder cannot be read.
    """

    def __init__(self, folder: str, shares: int = 1) -> None:
        self._folder, self._shares = folder, shares
        self._keys: dict[str, Key] = {}
        self._faults: list[str] = []
        self._buckets: dict[str, _Bucket] = {}
        self._read_at, self._reading = -REFRESH_SECONDS, asyncio.Lock()
        self._refresh()

    async def check(self, authorization: str, scope: str) -> Key:
        """The key that a request shows.

        Args:
            authorization: its header of that name.
            scope: that it needs; "" is content with any key.

        Raises:
            Refusal: 401 `unauthenticated`, 403 `insufficient_scope`, 429 `rate_limited`.
        """
        await self._refresh_now_and_then()
        key = self._find(authorization)
        if not key.allows(scope):
            detail = f"this needs a key of scope {scope}; the key {key.name!r} is for {', '.join(key.scopes)}"
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            raise Refusal(403, "insufficient_scope", detail, {"www-authenticate": challenge})
        if key.per_minute:
            wait = self._bucket(key).take()
            if wait:
                detail = f"the key {key.name!r} is good for {key.per_minute} requests a minute"
                raise Refusal(429, "rate_limited", detail, {"retry-after": str(int(wait) + 1)})
        return key

    def _find(self, authorization: str) -> Key:
        kind, _, shown = authorization.partition(" ")
        parts = _FORM.fullmatch(shown.strip()) if kind.lower() == "bearer" else None
        key = self._keys.get(parts[1]) if parts else None
        # an unknown id takes as long as a wrong secret
        right = hmac.compare_digest(digest_of(parts[2] if parts else ""), key.digest if key else digest_of("-"))
        if key and right and not key.has_expired():
            return key
        detail = "expected the header Authorization: Bearer KEY with a key of this service"
        if authorization:
            detail += "; the one that came is unknown, revoked or expired"
        raise Refusal(401, "unauthenticated", detail, {"www-authenticate": "Bearer"})

    def _bucket(self, key: Key) -> "_Bucket":
        bucket = self._buckets.get(key.id)
        if bucket is None:
            bucket = self._buckets[key.id] = _Bucket(key.per_minute / self._shares)
        return bucket

    async def _refresh_now_and_then(self) -> None:
        if time.monotonic() - self._read_at < REFRESH_SECONDS:
            return
        async with self._reading:
            if time.monotonic() - self._read_at < REFRESH_SECONDS:
                return
            try:
                await asyncio.to_thread(self._refresh)
            except StorageError as error:
                # those that are known stay good: a disk that is away for a moment must not end the service
                logger.error("the keys could not be read again: %s", error)
                self._read_at = time.monotonic()

    def _refresh(self) -> None:
        keys, faults = read_keys(self._folder)
        self._keys = {key.id: key for key in keys}
        if (found := [str(fault) for fault in faults]) != self._faults:
            for fault in found:
                logger.error("keys: %s", fault)
            self._faults = found
        self._read_at = time.monotonic()


class _Bucket:
    """Grants so many requests a minute, all of a minute's at once to who has waited."""

    def __init__(self, per_minute: float) -> None:
        self._most, self._per_second = max(1.0, per_minute), per_minute / 60
        self._left, self._at = self._most, time.monotonic()

    def take(self) -> float:
        """0 where one is granted, else the seconds until the next."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._per_second
        self._left -= 1
        return 0.0
