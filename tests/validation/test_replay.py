"""What is simulated are the requests that the server got, when it got them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.record.build import NEVER, run

from triptych import catalog, summarise
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.validation.replay import as_sent, predict
from triptych.workload import Requests, generate

MODEL = catalog.model("qwen2.5-vl-7b")
SIZE = (280, 224)
TOKENS = 10 * 8
"""Of such an image: 28 pixels a side each (Qwen2.5-VL: patches of 14, merged two by two)."""
SPEC = WorkloadSpec.parse(
    {
        "requests": 4,
        "arrivals": {"kind": "constant", "rate": 1},
        "prompt": {"kind": "fixed", "tokens": 50},
        "output": {"kind": "fixed", "tokens": 8},
        "images": {"sizes": [{"width": SIZE[0], "height": SIZE[1]}]},
        "slo": {"ttft": {"mean": "1 s"}},
    }
)
REQUESTS = generate(SPEC)
DEPLOYMENT = Deployment.parse(
    {
        "model": MODEL.name,
        "pools": {
            "all": {
                "phases": ["encode", "prefill", "decode"],
                "device": "H100",
                "scheduler": {"policy": "unified", "max_batch": 8},
            }
        },
    }
)


def answered(arrival: float, **more: Any) -> dict[str, Any]:
    """A request as a bench records it, which the server counted with a template of seven tokens."""
    usual = {
        "prompt_tokens": 50 + 7 + TOKENS,
        "image_tokens": TOKENS + 2,  # the marks around an image are counted with it
        "images": 1,
        "output_tokens": 8,
        "generated_tokens": 8,
        "first_token": arrival + 0.5,
        "end": arrival + 1,
    }
    return {"arrival": arrival, **usual, **more}


REJECTED = {"status": "rejected", "first_token": NEVER, "prompt_tokens": 50, "generated_tokens": 0}


def sent(*rows: dict[str, Any], requests: Requests = REQUESTS) -> tuple[list[int], Requests]:
    order, taken = as_sent(requests, run(rows), MODEL)
    return order.tolist(), taken


def test_the_model_counts_images_as_the_test_does() -> None:
    assert MODEL.vision is not None
    assert MODEL.vision.tokens(*SIZE) == TOKENS


def test_they_come_when_they_were_sent_not_when_they_were_due() -> None:
    order, taken = sent(*(answered(time) for time in (0.01, 1.2, 2.0, 3.3)))
    assert order == [0, 1, 2, 3]
    assert taken.arrival.tolist() == [0.01, 1.2, 2.0, 3.3]


def test_the_order_is_that_of_sending() -> None:
    rows = [answered(time, generated_tokens=number + 1) for number, time in enumerate((1.0, 0.5, 0.7, 3.0))]
    order, taken = sent(*rows)
    assert order == [1, 2, 0, 3]
    assert taken.arrival.tolist() == [0.5, 0.7, 1.0, 3.0]
    assert taken.output_tokens.tolist() == [2, 3, 1, 4]
    assert taken.image_content.tolist() == REQUESTS.image_content[order].tolist()


def test_prompts_are_as_long_as_the_server_counted() -> None:
    _, taken = sent(*(answered(time) for time in range(4)))
    assert taken.text_tokens.tolist() == [57] * 4
    assert taken.image_width.tolist() == [SIZE[0]] * 4


def test_where_the_server_does_not_count_the_plan_holds() -> None:
    rows = [answered(time, prompt_tokens=50, image_tokens=0) for time in range(4)]
    assert sent(*rows)[1].text_tokens.tolist() == [50] * 4


def test_outputs_are_those_that_were_made() -> None:
    """A stop token ended the first; the client of the second went away, and would have wanted eight."""
    early = answered(0, generated_tokens=3)
    gone = answered(1, status="aborted", generated_tokens=2)
    _, taken = sent(early, gone, answered(2), answered(3))
    assert taken.output_tokens.tolist() == [3, 8, 8, 8]


def test_what_the_server_did_not_take_is_left_out() -> None:
    never = answered(NEVER, status="waiting")
    order, taken = sent(answered(0), answered(1, **REJECTED), answered(2), never)
    assert order == [0, 2]
    assert taken.arrival.tolist() == [0, 2]


def test_a_closed_loop_stays_one() -> None:
    """When a request comes there is an outcome, and no input."""
    closed = replace(REQUESTS, arrival=np.zeros(4), concurrency=2)
    order, taken = sent(*(answered(time) for time in (0.0, 0.01, 5, 6)), requests=closed)
    assert order == [0, 1, 2, 3]
    assert taken.concurrency == 2
    assert not taken.arrival.any()


class TestPredicted:
    measured = run(
        [answered(0.5), answered(0.2, **REJECTED), answered(0.1, generated_tokens=5), answered(3.0)]
    )

    @pytest.fixture
    def predicted(self, tmp_path: Path) -> Any:
        return predict(DEPLOYMENT, SPEC, REQUESTS, self.measured, tmp_path / "sent.parquet", None)

    def test_it_has_the_rows_of_what_was_measured(self, predicted: Any) -> None:
        assert len(predicted) == 4
        assert predicted.column("status").tolist() == ["finished", "waiting", "finished", "finished"]
        assert predicted.requests["arrival"].tolist() == pytest.approx([0.5, NEVER, 0.1, 3.0], nan_ok=True)
        assert predicted.requests["generated_tokens"].tolist() == [8, 0, 5, 8]
        assert predicted.requests["prompt_tokens"].tolist() == [57 + TOKENS, 0, 57 + TOKENS, 57 + TOKENS]

    def test_it_is_a_run_like_any_other(self, predicted: Any) -> None:
        summary = summarise(predicted)
        assert (summary.counts.finished, summary.counts.never_came) == (3, 1)
        assert summary.latency["itl"].count == 7 + 4 + 7
        assert [result.metric for result in summary.slo] == ["ttft"]

    def test_each_gap_between_tokens_is_of_its_request(self, predicted: Any) -> None:
        """Stays in the decode set are numbered as the requests are."""
        tpot, longest = predicted.column("tpot"), predicted.column("itl_max")
        assert np.isnan(longest).tolist() == [False, True, False, False]
        assert (longest[[0, 2, 3]] >= tpot[[0, 2, 3]] * (1 - 1e-9)).all()
