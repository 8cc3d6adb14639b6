"""Which targets a monitor asks for, and what keeps one from being made."""

from __future__ import annotations

from pipelines.jobs.channels import is_target, made, waiting, wanted
from pipelines.monitor import MonitorSpec
from pipelines.records import SeriesRow, SeriesSpec

HEALTH = MonitorSpec("health", {}, channels=("ccu", "crashes"), group_by=("realm",))


def rows(*keys: tuple[str, dict[str, str]]) -> list[SeriesRow]:
    return [SeriesRow(n, SeriesSpec(metric, labels, 60), 0, 600) for n, (metric, labels) in enumerate(keys)]


KR, EU = {"realm": "kr"}, {"realm": "eu"}
WHOLE = rows(("crashes", KR), ("ccu", KR), ("ccu", EU), ("crashes", EU), ("logins", EU), ("ccu", {}))


def test_every_realm_is_a_target_of_the_channels_in_their_order() -> None:
    assert made(wanted(HEALTH, WHOLE)) == [
        ("ccu,crashes{realm=eu}", (2, 3)),
        ("ccu,crashes{realm=kr}", (1, 0)),
    ]


def test_without_channels_every_series_is_a_target() -> None:
    spec = MonitorSpec("players", {"metric": ["ccu"], "realm": ["eu", "kr"]})
    assert made(wanted(spec, WHOLE)) == [("ccu{realm=kr}", (1,)), ("ccu{realm=eu}", (2,))]


def test_without_labels_to_group_by_all_channels_are_one_target() -> None:
    spec = MonitorSpec("health", {"realm": ["eu"]}, channels=("logins", "ccu"))
    assert made(wanted(spec, WHOLE)) == [("logins,ccu", (4, 2))]


def test_several_labels_tell_targets_apart_by_name() -> None:
    labels = {"realm": "a,b", "platform": "pc", "host": "1"}
    spec = MonitorSpec("health", {}, channels=("ccu", "logins"), group_by=("realm", "platform"))
    ((key, _),) = made(wanted(spec, rows(("ccu", labels), ("logins", labels))))
    assert key == "ccu,logins{platform=pc,realm=a\\,b}"


def test_a_channel_that_is_missing_is_named() -> None:
    (each,) = wanted(HEALTH, rows(("ccu", KR), ("logins", KR)))
    assert each.why == "no series of metric crashes"
    assert made([each]) == []


def test_a_channel_that_more_than_one_series_could_be_is_named_with_them() -> None:
    found = rows(("ccu", KR), *(("crashes", KR | {"host": str(n)}) for n in range(5)))
    (each,) = wanted(HEALTH, found)
    assert each.why == (
        "5 series of metric crashes: crashes{host=0,realm=kr}, crashes{host=1,realm=kr}, "
        "crashes{host=2,realm=kr} and 2 more; tell them apart with `group_by` or leave some out with `series`"
    )


def test_everything_that_keeps_a_target_is_named_at_once() -> None:
    spec = MonitorSpec("health", {}, channels=("ccu", "logins", "crashes", "errors"), group_by=("realm",))
    twice = [("ccu", KR), ("ccu", KR | {"host": "2"}), ("crashes", KR), ("crashes", KR | {"host": "2"})]
    (each,) = wanted(spec, rows(*twice))
    assert each.why == (
        "no series of metric logins, errors; 2 series of metric ccu, 2 series of metric crashes: "
        "ccu{realm=kr}, ccu{host=2,realm=kr}; tell them apart with `group_by` or leave some out with `series`"
    )


def test_what_waits_is_told_with_its_reason() -> None:
    found = rows(("ccu", KR), ("ccu", EU), ("crashes", EU))
    assert waiting(HEALTH, wanted(HEALTH, found), {}) == {
        "ccu,crashes{realm=kr}": "no series of metric crashes"
    }


def test_a_target_that_stands_goes_on_with_its_series() -> None:
    found = rows(("ccu", KR), ("crashes", KR), ("crashes", KR | {"host": "2"}))
    stored = {"ccu,crashes{realm=kr}": found[:2]}
    assert wanted(HEALTH, found)[0].why
    assert waiting(HEALTH, wanted(HEALTH, found), stored) == {}


def test_a_target_whose_series_are_not_taken_any_more_says_what_to_do() -> None:
    found = rows(("ccu", KR | {"host": "1"}), ("crashes", KR), ("ccu", KR | {"host": "2"}))
    narrowed = MonitorSpec("health", {"host": ["2"]}, channels=("ccu", "crashes"), group_by=("realm",))
    stored = {"ccu,crashes{realm=kr}": found[:2]}
    (why,) = waiting(narrowed, wanted(narrowed, found), stored).values()
    assert why.startswith("it was made of ccu{host=1,realm=kr}, crashes{realm=kr}, not all of which")
    assert "another name" in why


def test_only_targets_that_the_monitor_asks_for_are_its_own() -> None:
    pair = [WHOLE[1], WHOLE[0]]
    key = "ccu,crashes{realm=kr}"
    single = MonitorSpec("players", {})
    assert is_target(HEALTH, key, pair)
    assert not is_target(HEALTH, "ccu,crashes", pair)
    assert not is_target(HEALTH, "ccu{realm=kr}", pair[:1])
    assert not is_target(single, key, pair)
    assert is_target(single, "ccu{realm=kr}", pair[:1])
