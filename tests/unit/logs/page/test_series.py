from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilot.job.history import UsagePoint
from pilot.logs.page.prmon import read_table
from pilot.logs.page.series import column, counter, rates, thinned


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=500), st.integers(1, 20))
def test_thinning_keeps_the_ends_and_the_highest_and_lowest(values: list[float], buckets: int) -> None:
    points = [(float(at_s), value) for at_s, value in enumerate(values)]
    kept = thinned(points, buckets)
    assert len(kept) <= 2 * buckets + 2
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert max(v for _, v in kept) == max(values) and min(v for _, v in kept) == min(values)
    assert [t for t, _ in kept] == sorted({t for t, _ in kept})
    assert set(kept) <= set(points)


def test_each_of_a_hundred_peaks_is_kept_at_its_moment() -> None:
    points = [(float(s), 100.0 if s % 400 == 200 else 1.0) for s in range(40_000)]
    kept = thinned(points)
    assert [point for point in kept if point[1] == 100.0] == [point for point in points if point[1] == 100.0]


def test_points_that_all_fall_on_one_moment_are_thinned_too() -> None:
    assert len(thinned([(5.0, float(n)) for n in range(5000)], 10)) <= 22


def test_a_counter_becomes_a_rate_and_a_fall_is_rest() -> None:
    assert rates([(0, 0), (2, 10), (2, 11), (4, 5)]) == [(2, 5.0), (4, 0.0)]
    points = (UsagePoint(2.0, 1, cpu_s=3.0), UsagePoint(4.0, 1, cpu_s=4.0))
    assert counter(points, "cpu_s") == [(2.0, 1.5), (4.0, 0.5)]


def test_what_was_not_measured_is_no_point() -> None:
    assert column([UsagePoint(1.0, 5, disk_bytes=None), UsagePoint(2.0, 5, disk_bytes=7)], "disk_bytes") == [(2.0, 7.0)]


HEAD = "Time\twtime\tutime\tstime\tnprocs\tnthreads\tvmem\tpss\trss\tswap\trchar\twchar\tread_bytes\twrite_bytes\n"


def test_a_monitors_table_is_read() -> None:
    table = HEAD + "1795744854\t10\t7\t1\t3\t9\t900\t20\t30\t0\t500\t600\t50\t60\n"
    assert read_table(table) == (
        UsagePoint(
            elapsed_s=10.0,
            memory_bytes=20 << 10,
            rss_bytes=30 << 10,
            vmem_bytes=900 << 10,
            cpu_s=8.0,
            system_s=1.0,
            read_bytes=500,
            written_bytes=600,
            disk_read_bytes=50,
            disk_written_bytes=60,
            processes=3,
            threads=9,
        ),
    )


def test_lines_that_make_no_sense_are_passed_over() -> None:
    good = "1\t{}\t7\t1\t3\t9\t900\t20\t30\t0\t500\t600\t50\t60\n"
    lines = [
        good.format(5),
        "torn\n",
        good.format("nan"),
        good.format("-1"),
        good.format("1e300"),
        good.format(3),
        good.format(6),
    ]
    assert [point.elapsed_s for point in read_table(HEAD + "".join(lines))] == [5.0, 6.0]


@given(st.text(max_size=300))
def test_no_text_breaks_the_reading_of_a_table(text: str) -> None:
    read_table(text)
    read_table(HEAD + text)
