"""The drawings of a call's page: in the right place, and small however long the stream was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthien.debug.call.timeline import Entry, Lanes
from luthien.debug.call.waterfall import Bar, Waterfall
from luthien.debug.showing.drawing import MAX_COLUMNS, MAX_LINKS, MAX_ROWS, draw_lanes, draw_waterfall, told


def entry(number: int, came: float, went: float | None, **more: object) -> Entry:
    plain = Entry(number, 1, came, 100, went, 100 if went is not None else 0)
    return replace(plain, **more)  # type: ignore[arg-type]


def lanes(*entries: Entry) -> Lanes:
    return Lanes(sum(each.frames for each in entries), 1, entries)


def test_frames_stand_where_they_came_and_went() -> None:
    drawing = draw_lanes(
        lanes(
            entry(0, 100.0, 110.0),
            entry(1, 200.0, None, dropped=1),
            entry(2, 300.0, 400.0, held_ms=100.0, held_by="redact", rewritten=1, rewritten_by="redact"),
        )
    )
    assert [mark.x for mark in drawing.provider] == [25.0, 50.0, 75.0]
    assert [mark.x for mark in drawing.client] == [27.5, 100.0]
    assert [mark.x for mark in drawing.dropped] == [50.0]
    assert drawing.links == [(25.0, 27.5), (75.0, 100.0)]
    [lane] = drawing.policies
    assert [(mark.x, mark.width) for mark in lane.holds] == [(75.0, 25.0)]
    assert [mark.x for mark in lane.rewrites] == [100.0]
    assert drawing.first_provider is not None
    assert drawing.first_provider.title == "The first from the provider: 100.0 ms after the call began"
    assert drawing.first_client is not None
    assert drawing.first_client.x == 27.5
    assert not drawing.is_bucketed


def test_a_hold_stands_before_the_moment_at_which_its_frame_was_given() -> None:
    [lane] = draw_lanes(lanes(entry(0, 0.0, 100.0, held_ms=20.0, held_by="p"))).policies
    assert [(mark.x, mark.width) for mark in lane.holds] == [(80.0, 20.0)]


def test_a_long_stream_is_drawn_in_a_bounded_number_of_marks() -> None:
    many = [
        entry(number, number * 878.0, number * 878.0 + 5, held_ms=5.0, held_by="p", rewritten=1, rewritten_by="p")
        for number in range(4096)
    ]
    drawing = draw_lanes(Lanes(100_000, 32, many))
    assert drawing.is_bucketed
    [lane] = drawing.policies
    for marks in (drawing.provider, drawing.client, lane.holds, lane.rewrites):
        assert 0 < len(marks) <= MAX_COLUMNS
    assert not drawing.links
    assert len(drawing.rows) == MAX_ROWS
    assert drawing.entries == 4096
    assert drawing.ticks[1].label == "15 min"
    assert all(0 <= mark.x <= 100 for mark in drawing.provider)


def test_the_table_of_a_long_stream_has_what_happened_to_it() -> None:
    many = [entry(number, number, number) for number in range(500)]
    many[321] = replace(many[321], dropped=1)
    assert [row.first_frame for row in draw_lanes(lanes(*many)).rows] == [321]
    assert not draw_lanes(lanes(*many)).links
    assert MAX_LINKS < 500


def test_a_stream_without_frames_can_be_drawn() -> None:
    drawing = draw_lanes(Lanes(0, 1, []))
    assert (drawing.first_provider, drawing.first_client, len(drawing.rows)) == (None, None, 0)


@pytest.mark.parametrize(
    ("total_ms", "labels"),
    [
        (0.0, ["0"]),
        (0.5, ["0", "100 µs", "200 µs", "300 µs", "400 µs", "500 µs"]),
        (7.0, ["0", "2 ms", "4 ms", "6 ms"]),
        (1234.0, ["0", "0.5 s", "1 s"]),
        (90_000.0, ["0", "20 s", "40 s", "60 s", "80 s"]),
        (3_600_000.0, ["0", "15 min", "30 min", "45 min", "60 min"]),
        (86_400_000.0, ["0", "5 h", "10 h", "15 h", "20 h"]),
    ],
)
def test_times_on_the_axis_are_round(total_ms: float, labels: list[str]) -> None:
    ticks = draw_waterfall(Waterfall(0, total_ms, True, [])).ticks
    assert [tick.label for tick in ticks] == labels


def test_a_bar_without_a_time_has_no_place() -> None:
    [drawn] = draw_waterfall(Waterfall(0, 10.0, True, [Bar("provider", "Provider", note="not recorded")])).bars
    assert drawn.x is None


def test_names_in_titles_are_strangers_words() -> None:
    said = told([entry(3, 1.0, None, held_ms=2.0, held_by="a\u202eb", dropped=1)])
    assert said == (
        "Frame 3: 100 B from the provider at 1.0 ms; nothing of it to the client; "
        "held for 2.0 ms by a\u27e8U+202E\u27e9b; dropped"
    )
