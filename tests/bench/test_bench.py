"""What is measured is what the server did, and requests come when the workload says."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from triptych.bench import Server, bench
from triptych.bench.files import write_bench
from triptych.bench.tables import print_client
from triptych.record import STATUSES, Run, read_run, read_summary, summarise
from triptych.report.table import print_summary
from triptych.spec.base import SpecError
from triptych.spec.workload import WorkloadSpec

from .fake_server import CHAT_OVERHEAD, IMAGE_TOKENS, count_tokens, serving

CLOSE = 0.008
"""Seconds by which a measured time may differ on a busy machine."""
LATE = 0.03
"""Likewise of what a busy machine begins late: the nearest other figure is 0.12 s away."""


def workload(**fields: Any) -> WorkloadSpec:
    defaults = {
        "requests": 10,
        "arrivals": {"kind": "constant", "rate": 50},
        "prompt": {"kind": "uniform", "low": 10, "high": 60},
        "output": {"kind": "fixed", "tokens": 4},
    }
    return WorkloadSpec.parse(defaults | fields)


def statuses(run: Run) -> list[str]:
    return [STATUSES[code] for code in run.requests["status"]]


class TestMetrics:
    def test_latencies_are_those_of_the_server(self) -> None:
        with serving(first=0.1, gap=0.03) as fake:
            run = bench(workload(output={"kind": "fixed", "tokens": 5}), fake.url)
        latency = summarise(run).latency
        assert latency["ttft"].p50 == pytest.approx(0.1, abs=LATE)
        assert latency["tpot"].p50 == pytest.approx(0.03, abs=CLOSE)
        assert latency["itl"].count == 10 * 4
        assert latency["itl"].p50 == pytest.approx(0.03, abs=CLOSE)
        assert latency["e2e"].p50 == pytest.approx(0.1 + 4 * 0.03, abs=LATE)
        assert latency["ttft"].mean is not None
        assert latency["ttft"].mean >= 0.1

    def test_tokens_without_text_took_their_time(self) -> None:
        """The first of 9 tokens alone has text: when the others came is not seen, when all had come is."""
        with serving(first=0.02, gap=0.02, texts=1) as fake:
            run = bench(workload(output={"kind": "fixed", "tokens": 9}), fake.url)
        latency = summarise(run).latency
        assert latency["e2e"].p50 == pytest.approx(0.02 + 8 * 0.02, abs=LATE)
        assert latency["tpot"].p50 == pytest.approx(0.02, abs=CLOSE)
        assert latency["itl"].count == 0
        assert run.meta["unknown"] == {"itl": 10}

    def test_what_cannot_be_known_is_said_to_be_unknown(self, capsys: pytest.CaptureFixture[str]) -> None:
        with serving(texts=0) as fake:
            summary = summarise(bench(workload(slo={"tpot": {"p99": "1 h"}}), fake.url))
        assert (summary.counts.finished, summary.counts.output_tokens) == (10, 40)
        assert summary.latency["e2e"].count == 10
        assert [summary.latency[name].count for name in ("ttft", "tpot", "itl")] == [0, 0, 0]
        print_summary(summary, console := Console(width=100))
        print_client(summary, console)
        shown = capsys.readouterr().out
        assert [line.split()[0] for line in shown.splitlines() if line.endswith("unknown")] == [
            "TTFT",
            "TPOT",
            "ITL",
        ]
        assert "the TPOT of 10 answers is not known: tokens came without text" in shown

    def test_the_summary_counts_what_came_and_what_was_made(self) -> None:
        with serving() as fake:
            run = bench(workload(), fake.url)
        summary = summarise(run)
        assert summary.producer == "bench"
        assert (summary.counts.requests, summary.counts.finished) == (10, 10)
        assert summary.counts.output_tokens == 40
        assert summary.counts.prompt_tokens == sum(count_tokens(body) for body in fake.asked)
        assert summary.throughput.arrival_rate == pytest.approx(50, rel=0.1)
        assert summary.pools == ()
        assert summary.cost is None

    def test_a_request_is_good_that_keeps_the_slo(self) -> None:
        with serving(first=0.05) as fake:
            run = bench(workload(slo={"ttft": {"p99": "30 ms"}}), fake.url)
            assert summarise(run).throughput.goodput == 0
            run = bench(workload(slo={"ttft": {"p99": "5 s"}}), fake.url)
            assert summarise(run).throughput.goodput_share == 1

    def test_the_record_survives_its_folder(self, tmp_path: Path) -> None:
        with serving(gap=0.01) as fake:
            run = bench(workload(), fake.url)
        write_bench(run, tmp_path / "run", summarise(run))
        assert read_summary(tmp_path / "run") == summarise(run)
        assert summarise(read_run(tmp_path / "run")).latency["itl"] == summarise(run).latency["itl"]
        assert (tmp_path / "run" / "client.parquet").is_file()


class TestArrivals:
    def test_requests_come_when_they_are_due_however_slow_the_answers(self) -> None:
        """The bounds leave a busy machine a second: were answers waited for, all would be late by two."""
        with serving(first=2.0) as fake:
            run = bench(workload(requests=30, arrivals={"kind": "poisson", "rate": 100}), fake.url)
        assert fake.most_under_way == 30
        assert run.meta["lateness"]["max"] < 1.0
        gaps = np.diff(sorted(fake.times[-30:])) - np.diff(run.requests["due"])
        assert np.median(np.abs(gaps)) < 0.02

    def test_lateness_is_the_time_from_due_to_sent(self) -> None:
        with serving() as fake:
            run = bench(workload(), fake.url)
        late = run.requests["arrival"] - run.requests["due"]
        assert (run.requests["lateness"] == late).all()
        assert (late >= 0).all()
        assert run.meta["lateness"]["max"] == late.max()

    def test_a_closed_loop_keeps_as_many_under_way_as_are_declared(self) -> None:
        with serving(first=0.02) as fake:
            run = bench(workload(requests=24, arrivals={"kind": "closed", "concurrency": 4}), fake.url)
        assert fake.most_under_way == 4
        arrival, end = np.sort(run.requests["arrival"]), np.sort(run.requests["end"])
        assert (arrival[4:] >= end[:-4]).all()
        assert (arrival[4:] - end[:-4]).max() < 0.1
        assert (run.requests["due"][:4] == 0).all()
        assert (np.sort(run.requests["due"])[4:] >= end[:-4]).all()

    def test_a_rate_with_a_limit_holds_back_what_is_too_much(self) -> None:
        spec = workload(requests=12, arrivals={"kind": "constant", "rate": 1000}, max_concurrency=3)
        with serving(first=0.05) as fake:
            run = bench(spec, fake.url)
        assert fake.most_under_way == 3
        assert run.meta["held_back"]["requests"] == 9
        assert summarise(run).latency["ttft"].p50 == pytest.approx(0.05, abs=LATE)  # from when it was sent
        with serving() as fake:
            few = bench(workload(requests=3, max_concurrency=3), fake.url)
        assert few.meta["held_back"] == {"requests": 0, "mean_seconds": 0.0}
        assert few.requests["due"].tolist() == [0.0, 0.02, 0.04]

    def test_all_come_at_once(self) -> None:
        with serving(first=0.2) as fake:
            bench(workload(requests=50, arrivals={"kind": "at-once"}), fake.url)
        assert fake.most_under_way == 50

    def test_a_trace_is_replayed_at_its_times(self, tmp_path: Path) -> None:
        rows = [
            f'{{"timestamp": {100 * i}, "input_length": {600 + i}, "output_length": {2 + i}, '
            f'"hash_ids": [1, {10 + i}]}}'
            for i in range(4)
        ]
        (tmp_path / "t.jsonl").write_text("\n".join(rows))
        (tmp_path / "w.yaml").write_text("trace: {format: mooncake, path: t.jsonl}\nrate_scale: 2\n")
        with serving() as fake:
            bench(tmp_path / "w.yaml", fake.url)
        prompts = [body["prompt"] for body in fake.asked]
        assert [len(prompt) for prompt in prompts] == [600, 601, 602, 603]
        assert [body["max_tokens"] for body in fake.asked] == [2, 3, 4, 5]
        assert [b - a for a, b in pairwise(fake.times[-4:])] == pytest.approx([0.05] * 3, abs=0.02)
        assert all(prompt[:512] == prompts[0][:512] for prompt in prompts)
        assert prompts[0][512:520] != prompts[1][512:520]


class TestRequests:
    def test_prompts_have_the_declared_lengths_and_outputs_are_held_to_theirs(self) -> None:
        with serving() as fake:
            run = bench(workload(), fake.url)
        assert [len(body["prompt"]) for body in fake.asked] == run.requests["prompt_tokens"].tolist()
        for body in fake.asked:
            assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (4, 4, True)
            assert body["stream_options"] == {"include_usage": True}
        assert run.meta["prompts_compared"] == 10
        assert run.meta["prompts_mismatched"] == 0

    def test_equal_seeds_send_equal_prompts_and_others_share_nothing(self) -> None:
        with serving() as fake:
            for seed in (1, 1, 2):
                bench(workload(requests=2, seed=seed, prompt={"kind": "fixed", "tokens": 30}), fake.url)
        prompts = [body["prompt"] for body in fake.asked]
        assert prompts[:2] == prompts[2:4]
        assert prompts[0] != prompts[1]
        assert prompts[0] != prompts[4]

    def test_prompts_of_a_group_begin_with_its_system_prompt(self) -> None:
        spec = workload(prompt={"kind": "fixed", "tokens": 30}, prefixes={"groups": 2, "tokens": 20})
        with serving() as fake:
            bench(spec, fake.url)
        heads = {tuple(body["prompt"][:20]) for body in fake.asked}
        assert len(heads) == 2
        assert len({tuple(body["prompt"][20:]) for body in fake.asked}) == 10

    def test_fields_that_openai_does_not_have_can_be_left_out(self) -> None:
        with serving() as fake:
            bench(workload(), Server(fake.url, ignore_eos=False))
        assert all("ignore_eos" not in body and "min_tokens" not in body for body in fake.asked)

    def test_chat_prompts_have_the_declared_length_with_the_template(self) -> None:
        with serving() as fake:
            run = bench(workload(), Server(fake.url, api="chat"))
        assert run.meta["prompts_mismatched"] == 0
        words = [len(body["messages"][0]["content"].split()) for body in fake.asked]
        assert words == (run.requests["prompt_tokens"] - CHAT_OVERHEAD).tolist()

    def test_words_of_several_tokens_are_counted_as_such(self) -> None:
        with serving(tokens_per_word=2) as fake:
            run = bench(workload(prompt={"kind": "fixed", "tokens": 47}), Server(fake.url, api="chat"))
        assert set(run.requests["prompt_tokens"].tolist()) == {47}

    def test_a_prompt_shorter_than_the_template_is_told(self) -> None:
        with serving() as fake:
            run = bench(workload(prompt={"kind": "fixed", "tokens": 3}), Server(fake.url, api="chat"))
        assert run.requests["prompt_tokens"].tolist() == [CHAT_OVERHEAD + 1] * 10
        assert run.meta["prompts_mismatched"] == 10
        assert run.meta["prompt_tokens_off_by"] == CHAT_OVERHEAD + 1 - 3

    def test_warm_up_requests_are_sent_and_not_counted(self) -> None:
        with serving() as fake:
            run = bench(workload(), fake.url, warmup=3)
        assert len(fake.asked) == 13
        assert len(run) == 10
        assert not {str(body) for body in fake.asked[:3]} & {str(body) for body in fake.asked[3:]}


class TestImages:
    SPEC: ClassVar[Any] = {
        "count": {"low": 1, "high": 2},
        "sizes": [{"width": 64, "height": 40}],
        "distinct": 2,
    }

    def test_images_are_jpeg_files_of_the_declared_size(self) -> None:
        with serving() as fake:
            run = bench(workload(images=self.SPEC), fake.url)
        contents = [body["messages"][0]["content"] for body in fake.asked]
        urls = [part["image_url"]["url"] for content in contents for part in content if "image_url" in part]
        assert len(urls) == run.requests["images"].sum()
        assert len(set(urls)) == 2
        for url in set(urls):
            kind, data = url.split(",")
            assert kind == "data:image/jpeg;base64"
            image = Image.open(BytesIO(b64decode(data)))
            assert (image.format, image.size) == ("JPEG", (64, 40))

    def test_image_tokens_are_what_the_server_counts_beyond_the_text(self) -> None:
        with serving() as fake:
            run = bench(workload(images=self.SPEC), fake.url)
        assert (run.requests["image_tokens"] == IMAGE_TOKENS * run.requests["images"]).all()

    def test_completions_take_no_images(self) -> None:
        with serving() as fake, pytest.raises(SpecError, match="--api: completions take no images"):
            bench(workload(images=self.SPEC), Server(fake.url, api="completions"))


class TestFailures:
    def test_a_server_that_is_not_there_is_one_line(self) -> None:
        with pytest.raises(SpecError, match=r"cannot be reached: nothing listens at 127.0.0.1:9; start"):
            bench(workload(), "http://127.0.0.1:9/v1")

    @pytest.mark.parametrize("model", [None, "fake"])
    def test_a_url_without_its_path_is_told_the_whole_one(self, model: str | None) -> None:
        with serving() as fake:
            bare = fake.url.removesuffix("/v1")
            with pytest.raises(SpecError, match=f"write it up to and with /v1: {fake.url}$"):
                bench(workload(), Server(bare, model=model))

    def test_a_host_that_there_is_not_is_named(self) -> None:
        with pytest.raises(SpecError, match=r"no host is known as nohost\.invalid; start"):
            bench(workload(), "http://nohost.invalid/v1")

    def test_a_model_that_is_not_served_is_named_with_those_that_are(self) -> None:
        with serving() as fake, pytest.raises(SpecError, match="does not serve 'fke' but fake; did you mean"):
            bench(workload(), Server(fake.url, model="fke"))

    def test_a_refusal_of_everything_is_told_in_the_servers_words(self) -> None:
        refusal = (400, {"error": {"message": "no such field: ignore_eos"}})
        with (
            serving(refuse=lambda body: refusal) as fake,
            pytest.raises(SpecError, match=r"status 400: no such field: ignore_eos.*--no-ignore-eos"),
        ):
            bench(workload(), fake.url)

    def test_refused_requests_are_recorded_and_not_sent_again(self) -> None:
        busy = (503, {"error": {"message": "the queue is full"}})
        with serving(refuse=lambda body: busy if body["max_tokens"] == 5 else None) as fake:
            run = bench(workload(output={"kind": "uniform", "low": 4, "high": 5}), fake.url)
        wanted = ["rejected" if tokens == 5 else "finished" for tokens in run.requests["output_tokens"]]
        assert statuses(run) == wanted
        refused = wanted.count("rejected")
        assert 0 < refused < 10
        assert run.meta["errors"] == {"status 503: the queue is full": refused}
        assert len(fake.asked) == 10

    def test_why_a_request_failed_is_in_the_record(self, tmp_path: Path) -> None:
        busy = (503, {"error": {"message": "the queue is full"}})
        with serving(refuse=lambda body: busy if body["max_tokens"] == 5 else None) as fake:
            run = bench(workload(output={"kind": "uniform", "low": 4, "high": 5}), fake.url)
        write_bench(run, tmp_path / "run", summarise(run))
        rows = pq.read_table(tmp_path / "run" / "client.parquet").to_pylist()
        for row, tokens in zip(rows, run.requests["output_tokens"], strict=True):
            wanted = (503, "the queue is full") if tokens == 5 else (200, "")
            assert (row["http_status"], row["error"]) == wanted

    def test_a_busy_server_is_asked_again_if_that_is_wanted(self) -> None:
        seen: list[int] = []

        def busy_at_first(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
            if body["max_tokens"] > 1:
                seen.append(1)
            return (503, {"error": {"message": "full"}}) if 0 < len(seen) <= 5 else None

        with serving(refuse=busy_at_first) as fake:
            run = bench(workload(), Server(fake.url, retries=9))
        assert statuses(run) == ["finished"] * 10
        assert len(fake.asked) == 15

    @pytest.mark.parametrize(
        ("fault", "words"),
        [("break_off", "the stream ended before the answer did"), ("fail_midway", "the worker died")],
    )
    def test_a_stream_that_breaks_is_no_finished_request(self, fault: str, words: str) -> None:
        with serving(**{fault: True}) as fake:
            run = bench(workload(), fake.url)
        assert statuses(run) == ["rejected"] * 10
        assert run.meta["errors"] == {f"status 200: {words}": 10}
        assert run.requests["generated_tokens"].tolist() == [2] * 10

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ({"finish": "abort"}, "the server ended the answer with finish_reason 'abort'"),
            ({"finish": "error"}, "the server ended the answer with finish_reason 'error'"),
            ({"left_out": 4}, "the answer has no token"),
            ({"plain": {"error": {"message": "out of memory", "code": 500}}}, "out of memory"),
            ({"plain": {"detail": "no such adapter"}}, "no such adapter"),
            (
                {"plain": {"choices": [{"text": "x"}]}},
                "the server answered with plain JSON where a stream was asked for",
            ),
        ],
    )
    def test_an_answer_that_is_none_has_no_latency_and_is_told_in_the_servers_words(
        self, fault: dict[str, Any], words: str
    ) -> None:
        with serving(**fault) as fake:
            run = bench(workload(slo={"ttft": {"p99": "1 h"}}), fake.url)
        summary = summarise(run)
        assert statuses(run) == ["rejected"] * 10
        assert run.meta["errors"] == {f"status 200: {words}": 10}
        assert [summary.latency[name].count for name in ("ttft", "tpot", "e2e")] == [0, 0, 0]
        assert (summary.throughput.goodput, summary.slo[0].value) == (0, None)

    def test_a_client_that_gives_up_closes_its_connection(self) -> None:
        with serving(gap=5) as fake:
            run = bench(workload(timeout="0.2 s"), fake.url)
            wait_until(lambda: fake.gone == 10)
        assert statuses(run) == ["timed_out"] * 10
        assert run.requests["generated_tokens"].tolist() == [1] * 10
        assert run.requests["end"] - run.requests["arrival"] == pytest.approx(0.2, abs=0.05)

    def test_a_run_that_is_cut_short_keeps_what_has_ended(self) -> None:
        with serving() as fake:
            spec = workload(requests=1000, arrivals={"kind": "constant", "rate": 100})
            run = bench(spec, fake.url, progress=lambda ended, total, seconds: ended < 20)
        summary = summarise(run)
        assert summary.interrupted
        assert 20 <= summary.counts.finished <= summary.counts.requests < 100
        assert np.isnan(run.requests["arrival"]).sum() == 1000 - summary.counts.requests

    def test_a_server_that_hangs_can_be_interrupted(self) -> None:
        with (
            serving(first=30) as fake,
            pytest.raises(SpecError, match="interrupted before a request was sent"),
        ):
            bench(workload(), fake.url, progress=lambda ended, total, seconds: False)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = monotonic() + 5
    while not true():
        assert monotonic() < deadline
        sleep(0.01)
