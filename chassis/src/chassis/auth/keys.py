"""`KeySet`: the public keys of the issuer, fetched in the background."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from random import uniform
from typing import Any, Self

import structlog
from joserfc.jwk import ECKey, OKPKey, RSAKey
from prometheus_client import CollectorRegistry, Counter, Gauge
from structlog.typing import FilteringBoundLogger

from .errors import KeysUnavailableError
from .fetching import FetchError, KeyFetcher
from .settings import AuthSettings

log: FilteringBoundLogger = structlog.get_logger()

PublicKey = RSAKey | ECKey | OKPKey

FIRST_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
REMIND_SECONDS = 300.0
MAX_KEYS = 100
MAX_WAITING = 64
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}
MEMBERS: dict[str, tuple[str, ...]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class KeySet:
    """The public keys of the issuer, by their ids. A resource: add it to the app, which starts and stops it.

    Keys are fetched at the start, and again after `auth_keys_seconds`. After a failure, the last keys stay in use
    without a limit of time, and the next attempt follows soon, with exponential backoff. An unknown key id causes a
    fetch as well, but not more than one in `auth_keys_cooldown_seconds`.
    """

    def __init__(self, settings: AuthSettings, *, registry: CollectorRegistry | None = None) -> None:
        """`registry` gets the metrics; without one, they are not exposed."""
        self._fetcher = KeyFetcher(settings)
        self._refresh_seconds = settings.auth_keys_seconds
        self._cooldown_seconds = settings.auth_keys_cooldown_seconds
        self._keys: dict[str | None, list[PublicKey]] = {}
        self._thumbprints: frozenset[str] = frozenset()
        self._listeners: list[Callable[[], None]] = []
        self._is_fixed = False
        self._refreshing: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[bool] | None = None
        self._waiting = 0
        self._asked_at = -float("inf")
        self._fetched_at = 0.0
        self._failures = 0
        self._reminded_at = -float("inf")
        self._metrics = _Metrics(self, registry) if registry is not None else None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the issuer (OpenID Connect Discovery, RFC 8414); empty until it was fetched."""
        return self._fetcher.metadata

    @property
    def thumbprints(self) -> frozenset[str]:
        """The thumbprints (RFC 7638) of the keys that are valid now."""
        return self._thumbprints

    @property
    def age_seconds(self) -> float:
        """The time since the keys were fetched; 0 before that."""
        return time.monotonic() - self._fetched_at if self._fetched_at else 0.0

    @property
    def count(self) -> int:
        """The number of keys."""
        return sum(map(len, self._keys.values()))

    def use(self, keys: Mapping[str, Any]) -> None:
        """Use these keys, a JWK set (RFC 7517), and fetch none. For tests. Raises `ValueError` without a usable key."""
        self._is_fixed = True
        self._replace(keys)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a key is gone."""
        self._listeners.append(listener)

    async def __aenter__(self) -> Self:
        if not self._is_fixed:
            self._refreshing = asyncio.create_task(self._refresh(), name="authentication keys")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._refreshing, self._fetching):
            if task is not None:
                task.cancel("the service is stopping")
                await asyncio.wait({task})
        self._refreshing = self._fetching = None
        await self._fetcher.close()

    async def check(self) -> None:
        """Raise `KeysUnavailableError` while there are no keys; for readiness."""
        if not self._keys:
            raise KeysUnavailableError("the keys of the issuer were not fetched yet; see the log line about them")

    def find(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        """The key of this id that fits the algorithm. Without an id: the key that fits, if there is exactly one.

        Raises `KeysUnavailableError` while there are no keys.
        """
        if not self._keys:
            raise KeysUnavailableError("the keys of the issuer are not known yet")
        if key_id is None:
            fitting = [key for keys in self._keys.values() for key in keys if _fits(key, algorithm)]
            return fitting[0] if len(fitting) == 1 else None
        return next((key for key in self._keys.get(key_id, ()) if _fits(key, algorithm)), None)

    async def fetch_unknown(self) -> bool:
        """Fetch the keys because of an unknown id, unless that was done a short time ago. Returns whether it was done.

        Callers that come meanwhile wait for the same fetch. Raises `KeysUnavailableError` if too many wait already.
        """
        if self._is_fixed:
            return False
        if self._fetching is None:
            if time.monotonic() - self._asked_at < self._cooldown_seconds:
                return False
            self._asked_at = time.monotonic()
            self._begin()
        if self._waiting >= MAX_WAITING:
            raise KeysUnavailableError("too many requests wait for new keys of the issuer")
        self._waiting += 1
        try:
            return await self._result()
        finally:
            self._waiting -= 1

    def _begin(self) -> None:
        """Begin to fetch, unless a fetch is in progress."""
        if self._fetching is None:
            # In a context of its own: the fetch is for all requests, so it must not carry the ids of one of them.
            self._fetching = asyncio.create_task(self._fetch(), name="fetch authentication keys", context=Context())
            self._fetching.add_done_callback(self._ended)

    def _ended(self, _: "asyncio.Task[bool]") -> None:
        self._fetching = None

    async def _result(self) -> bool:
        """Wait for the fetch in progress, which others wait for as well. Returns whether it succeeded."""
        fetching = self._fetching
        if fetching is None:
            return False
        await asyncio.wait({fetching})
        return not fetching.cancelled() and fetching.result()

    async def _refresh(self) -> None:
        """Fetch the keys again and again."""
        while True:
            self._begin()
            has_succeeded = await self._result()
            await asyncio.sleep(self._pause(has_succeeded))

    def _pause(self, has_succeeded: bool) -> float:
        if has_succeeded:
            seconds = self._refresh_seconds
        else:
            longest = min(MAX_RETRY_SECONDS, self._refresh_seconds)
            seconds = min(FIRST_RETRY_SECONDS * 2.0 ** min(max(0, self._failures - 1), 30), longest)
        return seconds * uniform(0.8, 1.0)  # noqa: S311 - jitter

    async def _fetch(self) -> bool:
        """Fetch the keys once. Returns whether it succeeded; a failure is logged and counted."""
        try:
            self._replace(await self._fetcher.fetch())
        except (FetchError, ValueError) as error:
            self._note_failure(str(error))
            return False
        except Exception as error:
            # A bug must not end the task: then keys would never be fetched again.
            log.exception("authentication keys not fetched", exc_info=error)
            self._note_failure(type(error).__qualname__)
            return False
        if self._failures:
            log.info("authentication keys fetched again", failures=self._failures, keys=self.count)
        self._failures = 0
        self._reminded_at = -float("inf")
        if self._metrics is not None:
            self._metrics.fetched("success")
        return True

    def _note_failure(self, reason: str) -> None:
        self._failures += 1
        if self._metrics is not None:
            self._metrics.fetched("failure")
        now = time.monotonic()
        if now - self._reminded_at < REMIND_SECONDS:
            return
        self._reminded_at = now
        facts = {"issuer": self._fetcher.issuer, "reason": reason, "failures": self._failures}
        if self._keys:
            age = round(self.age_seconds)
            log.warning("authentication keys not fetched; the last ones stay in use", age_seconds=age, **facts)
        else:
            log.error("authentication keys not fetched; the service has none and is not ready", **facts)

    def _replace(self, document: Mapping[str, Any]) -> None:
        keys, ignored = usable_keys(document)
        if not keys:
            raise ValueError(f"the key set has no usable key, of {len(ignored)}: {'; '.join(ignored[:5]) or 'empty'}")
        by_id: dict[str | None, list[PublicKey]] = {}
        for key in keys:
            by_id.setdefault(key.kid, []).append(key)
        thumbprints = frozenset(key.thumbprint() for key in keys)
        are_gone = self._thumbprints - thumbprints
        if thumbprints != self._thumbprints:
            log.info("authentication keys changed", keys=len(keys), gone=len(are_gone), ignored=ignored)
        self._keys, self._thumbprints, self._fetched_at = by_id, thumbprints, time.monotonic()
        if are_gone:
            for listener in self._listeners:
                listener()


class _Metrics:
    """The metrics of a key set."""

    def __init__(self, keys: KeySet, registry: CollectorRegistry) -> None:
        age = Gauge("auth_keys_age_seconds", "Time since the keys of the issuer were fetched.", registry=registry)
        age.set_function(lambda: keys.age_seconds)
        count = Gauge("auth_keys", "Usable public keys of the issuer.", registry=registry)
        count.set_function(lambda: keys.count)
        fetches = Counter("auth_keys_fetches", "Fetches of the keys of the issuer.", ["outcome"], registry=registry)
        self._by_outcome = {outcome: fetches.labels(outcome) for outcome in ("success", "failure")}

    def fetched(self, outcome: str) -> None:
        """Count a fetch."""
        self._by_outcome[outcome].inc()


def usable_keys(document: Mapping[str, Any]) -> tuple[list[PublicKey], list[str]]:
    """The keys of a JWK set that can verify signatures, and for each other one the reason why it is ignored."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("the key set has no list of keys")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"the key set has {len(entries)} keys; {MAX_KEYS} are allowed")
    keys: list[PublicKey] = []
    ignored: list[str] = []
    for index, entry in enumerate(entries):
        try:
            keys.append(_import(entry))
        except Exception as error:  # noqa: BLE001 - joserfc and cryptography raise many classes for odd keys
            ignored.append(f"key {index}: {error}" if isinstance(error, _UnusableError) else f"key {index}: malformed")
    return keys, ignored


class _UnusableError(Exception):
    """A key that cannot verify signatures."""


def _import(entry: Any) -> PublicKey:
    kind = entry.get("kty")
    if not isinstance(kind, str) or kind not in MEMBERS:
        raise _UnusableError("its type is not RSA, EC or OKP")
    if entry.get("use", "sig") != "sig":
        raise _UnusableError("it is not for signatures (use)")
    if "verify" not in entry.get("key_ops", ["verify"]):
        raise _UnusableError("it is not for signatures (key_ops)")
    names = ("kty", "kid", "alg", *MEMBERS[kind])  # the public members alone
    public = {name: entry[name] for name in names if name in entry}
    if kind == "RSA":
        return _rsa(public)
    if public["crv"] not in CURVES.values():
        raise _UnusableError("its curve is not P-256, P-384, P-521 or Ed25519")
    key: PublicKey = ECKey.import_key(public) if kind == "EC" else OKPKey.import_key(public)
    key.public_key  # noqa: B018 - raises for a point that is not on the curve
    return key


def _rsa(public: dict[str, Any]) -> PublicKey:
    # Estimated before joserfc converts it: that warns of a weak key, and a huge one takes long.
    bits = len(public["n"].lstrip("A")) * 6
    if not MIN_RSA_BITS - 8 <= bits <= MAX_RSA_BITS + 8:
        raise _UnusableError(f"its size is not from {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    key = RSAKey.import_key(public)
    if key.public_key.key_size < MIN_RSA_BITS:
        raise _UnusableError(f"its size is not from {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    return key


def _fits(key: PublicKey, algorithm: str) -> bool:
    if key.alg is not None and key.alg != algorithm:
        return False
    curve = CURVES.get(algorithm)
    return isinstance(key, RSAKey) if curve is None else not isinstance(key, RSAKey) and key.curve_name == curve
