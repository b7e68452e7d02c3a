"""The bounded cache."""

from chassis.cache import BoundedCache


def test_cache_returns_and_keeps_an_added_value() -> None:
    cache: BoundedCache[str, int] = BoundedCache()
    assert cache.add("a", 1) == 1
    assert cache.get("a") == 1


def test_full_cache_is_emptied_before_it_takes_another_entry() -> None:
    cache: BoundedCache[int, int] = BoundedCache(3)
    for number in range(4):
        cache.add(number, number)
    assert cache == {3: 3}


def test_large_entry_is_returned_and_not_kept() -> None:
    cache: BoundedCache[str, str] = BoundedCache(max_entry_bytes=10)
    assert cache.add("a", "x" * 11, size_bytes=11) == "x" * 11
    assert cache == {}
