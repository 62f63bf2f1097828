"""What an engineer sees at a glance."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.record import build

from triptych.record.metrics import summarise
from triptych.record.summary import Overload, PhaseQueue, SloResult, Summary, Verdict
from triptych.report.table import print_summary


@pytest.fixture
def summary() -> Summary:
    return summarise(build.split_run())


def printed(summary: Summary, width: int = 80) -> str:
    file = io.StringIO()
    print_summary(summary, Console(file=file, width=width))
    return file.getvalue()


def line_of(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_the_headline(summary: Summary) -> None:
    text = printed(summary)
    assert "2 of 2 requests finished in 10.0 s" in text
    assert "0.200 requests/s, 0.700 output tokens/s, 20.7 tokens/s" in text
    assert "0.100 requests/s within the SLO (50%)" in text
    assert "$10.80/h, $4,286 per million output tokens" in text
    assert "460 J, 65.7 J per output token" in text


def test_latencies_have_their_percentiles(summary: Summary) -> None:
    text = printed(summary)
    assert line_of(text, "latency") == ["latency", "mean", "P50", "P90", "P95", "P99", "P99.9"]
    assert line_of(text, "E2E ")[:5] == ["E2E", "5.50", "s", "5.50", "s"]


def test_a_run_without_latencies_has_no_table_of_them(summary: Summary) -> None:
    empty = replace(summary, latency={name: replace(one, count=0) for name, one in summary.latency.items()})
    assert "latency" not in printed(empty)


def test_phases_that_there_are_not_take_no_line(summary: Summary) -> None:
    assert "encode queue" not in printed(summary)
    assert "prefill queue" in printed(summary)


def test_pools(summary: Summary) -> None:
    text = printed(summary)
    decode = ["decode", "30%", "1.67", "1.67", "70%/80%", "6.7%", "53%", "260", "J", "7.20"]
    assert line_of(text, "decode  ") == decode
    assert "1 x 2 toy" in text


def test_bounds_are_met_or_missed(summary: Summary) -> None:
    text = printed(summary)
    assert line_of(text, "SLO") == ["SLO", "value", "bound", "verdict", "within"]
    assert line_of(text, "TTFT P99") == ["TTFT", "P99", "2.00", "s", "<=", "2.50", "s", "met", "100%"]
    assert "MISSED" in line_of(text, "TPOT mean")


def test_a_predicted_bound_has_its_interval(summary: Summary) -> None:
    """One end each of what is sure, open, without a limit above, and without one at all."""
    ends = [(1.0, 2.4), (1.0, 3.0), (1.0, None), (None, None)]
    verdicts: list[Verdict] = ["met", "uncertain", "uncertain", "missed"]
    (ttft, _) = summary.slo
    slo = tuple(
        replace(ttft, interval=end, verdict=verdict) for end, verdict in zip(ends, verdicts, strict=True)
    )
    lines = [line for line in printed(replace(summary, slo=slo)).splitlines() if line.startswith("TTFT P99")]
    assert [" ".join(line.split()) for line in lines] == [
        "TTFT P99 2.00 s 1.00 s to 2.40 s <= 2.50 s met 100%",
        "TTFT P99 2.00 s 1.00 s to 3.00 s <= 2.50 s uncertain 100%",
        "TTFT P99 2.00 s 1.00 s or more <= 2.50 s uncertain 100%",
        "TTFT P99 2.00 s no limit <= 2.50 s MISSED 100%",
    ]


def test_in_a_narrow_window_the_verdict_stays(summary: Summary) -> None:
    slo = tuple(replace(one, interval=(1.0, 2.0)) for one in summary.slo)
    text = printed(replace(summary, slo=slo), 45)
    assert line_of(text, "SLO") == ["SLO", "value", "bound", "verdict"]
    assert "Left out for want of width: 90% interval, within." in " ".join(text.split())


def test_what_went_wrong_is_said(summary: Summary) -> None:
    assert "preemption" not in printed(summary)
    causes = {"longer than the model's context": 2}
    counts = replace(summary.counts, timed_out=3, rejected=2, preemptions=14, rejected_as=causes)
    text = printed(replace(summary, counts=counts, interrupted=True), width=100)
    assert "3 timed out, 2 rejected, interrupted" in text
    assert "rejected: 2 longer than the model's context" in text
    assert "14 preemptions" in text
    assert "note: pool d was never used" in printed(
        replace(summary, meta={"notes": ["pool d was never used"]})
    )


def test_overload_comes_first_and_latencies_are_marked(summary: Summary) -> None:
    overload = Overload(
        12.4, 9.8, 0.9995, 83.2, (PhaseQueue("prefill", 2.6, 700),), ("e2e", "prefill_queue", "ttft")
    )
    slo = tuple(replace(bound, grows=bound.metric in overload.metrics) for bound in summary.slo)
    text = printed(replace(summary, overload=overload, slo=slo))
    first, *rest = text.split()
    assert first == "OVERLOADED"
    banner = " ".join(rest)
    assert "12.4 requests/s come, 9.80/s can be served (more than 99.9% sure):" in banner
    assert "the prefill queue grows by 2.60 requests/s" in banner
    assert "takes 83.2 s" in banner
    assert "what grows is as long as the trace lets it become" in banner
    rows = [line.split() for line in text.splitlines()]
    for label in (["TTFT"], ["E2E"], ["prefill", "queue"]):
        cells = next(row[len(label) :] for row in rows if row[: len(label)] == label)
        assert set(cells) == {"grows"}, label
    tpot = next(row for row in rows if row[:1] == ["TPOT"])
    assert "grows" not in tpot
    bound = next(row for row in rows if "TTFT" in row and "<=" in row)
    assert bound[bound.index("<=") - 1] == "grows"


def test_requests_that_gave_up_are_not_called_served(summary: Summary) -> None:
    overload = Overload(12.4, 9.8, 0.9995, 83.2, (PhaseQueue("prefill", 2.6, 700),), ("ttft",))
    counts = replace(summary.counts, timed_out=1)
    text = " ".join(printed(replace(summary, overload=overload, counts=counts)).split())
    assert "9.80/s are served or give up" in text
    assert "can be served" not in text


def test_a_batch_that_grows_is_overload_in_other_words(summary: Summary) -> None:
    overload = Overload(7.0, 4.6, 0.992, 83.2, (PhaseQueue("system", 2.4, 700),), ("tpot", "itl"))
    text = printed(replace(summary, overload=overload, settled=False))
    assert "the requests under way grow by 2.40 requests/s" in " ".join(text.split())
    assert set(line_of(text, "TPOT")[1:]) == set(line_of(text, "ITL")[1:]) == {"grows"}
    assert "grows" not in line_of(text, "TTFT")
    assert "settled" not in text, "overload says so already"


def test_what_may_be_overload_is_a_warning_and_leaves_the_figures(summary: Summary) -> None:
    overload = Overload(7.0, 6.6, 0.963, 9.0, (PhaseQueue("prefill", 0.4, 70),), ("ttft",))
    text = printed(replace(summary, overload=overload, settled=False))
    assert text.split("\n")[1].startswith(
        "PERHAPS OVERLOADED  7.00 requests/s come, 6.60/s can be served (96% sure)"
    )
    assert "grows" not in line_of(text, "TTFT")
    assert "Latencies had not settled" in text


def test_latencies_that_had_not_settled_are_marked(summary: Summary) -> None:
    assert "settled" not in printed(replace(summary, settled=True))
    assert "Latencies had not settled" in printed(replace(summary, settled=False))


def test_a_bound_without_a_value_says_why(summary: Summary) -> None:
    late = SloResult("ttft", "p99", 1.0, None, 0.5, grows=False, interval=None, verdict="missed")
    none = SloResult("tpot", "p50", 1.0, None, None, grows=False, interval=None, verdict="no request")
    mean = SloResult("e2e", "mean", 1.0, None, 0.5, grows=False, interval=None, verdict="missed")
    unseen = SloResult("itl", "p50", 1.0, None, 0.0, grows=False, interval=None, verdict="uncertain")
    text = printed(replace(summary, slo=(late, none, unseen)))
    assert line_of(text, "TTFT P99")[2:] == ["never", "<=", "1.00", "s", "MISSED", "50%"]
    assert line_of(text, "TPOT P50")[2:] == ["no", "request", "<=", "1.00", "s", "-", "-"]
    assert line_of(text, "ITL P50")[2:] == ["unknown", "<=", "1.00", "s", "uncertain", "0%"]
    assert "bound a percentile" not in text
    assert "A mean has no value where a request failed" in " ".join(
        printed(replace(summary, slo=(mean,))).split()
    )


@pytest.mark.parametrize("width", [45, 60])
def test_in_a_narrow_window_columns_are_left_out_whole(summary: Summary, width: int) -> None:
    text = printed(summary, width)
    assert "…" not in text
    assert "Left out for want of width: " in text
    assert "P99.9" in text.split("Left out")[1].split("\n\n")[0]
    assert line_of(text, "prefill queue")[:2] == ["prefill", "queue"]
    assert {"P50", "P99"} <= set(line_of(text, "latency"))
    assert {"busy", "batch"} <= set(line_of(text, "pool"))


def test_a_pool_that_runs_all_phases_says_so_in_a_line(summary: Summary) -> None:
    pool = replace(summary.pools[0], pool="all", phases=("encode", "prefill", "decode"))
    lines = [line.strip() for line in printed(replace(summary, pools=(pool,))).splitlines()]
    after = lines[next(number for number, line in enumerate(lines) if line.startswith("all ")) :]
    assert after[1:3] == ["all phases", "1 x toy"]


def test_in_a_file_no_line_ends_in_blanks(summary: Summary) -> None:
    assert [line for line in printed(summary).splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("width", [80, 100])
def test_in_a_file_it_is_plain_and_narrow(summary: Summary, width: int) -> None:
    pool = summary.pools[0]
    usage = replace(pool.usage, energy_joules=1.23e7, dollars_per_hour=1234.5, kv_peak_share=0.9991)
    wide = replace(pool, pool="text", phases=("prefill", "decode"), device="RTX-PRO-6000", usage=usage)
    text = printed(replace(summary, pools=(wide, *summary.pools)), width)
    assert "\x1b" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
