"""`docs/serving.md` tells of all that there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from triptych import cli
from triptych.engine.server import protocol
from triptych.engine.server.metrics import Metrics
from triptych.engine.server.unsupported import Unsupported
from triptych.plan import plan_pools
from triptych.spec.deployment import Deployment

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "src/triptych/engine/server").glob("*.py"))


def test_the_deployment_that_is_shown_can_be_planned(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", DOC, re.DOTALL | re.MULTILINE)
    file = tmp_path / "deployment.yaml"
    file.write_text(text, encoding="utf-8")
    assert plan_pools(Deployment.load(file), file)


def test_every_option_is_in_the_reference() -> None:
    names = set(inspect.signature(cli.serve).parameters) - {"deployment", "override"}
    options = [f"--{name.replace('_', '-')}" for name in names]
    assert [option for option in options if f"`{option}`" not in DOC] == []


def test_every_metric_is_in_the_reference() -> None:
    families = text_string_to_metric_families(Metrics().text().decode())
    named = [
        family for family in families if not family.name.endswith("_created")
    ]  # the client library's own
    names = [family.name + ("_total" if family.type == "counter" else "") for family in named]
    assert len(names) > 15
    assert [name for name in names if not re.search(rf"`{name}[`{{]", DOC)] == []


def test_every_error_code_is_in_the_reference() -> None:
    codes = {
        code for file in SOURCES for code in re.findall(r'code="(\w+)"', file.read_text(encoding="utf-8"))
    }
    assert len(codes) > 5
    assert [code for code in sorted(codes) if f"`{code}`" not in DOC] == []


@pytest.mark.parametrize("kind", [protocol.ChatRequest, protocol.CompletionRequest])
def test_every_field_of_a_request_is_in_the_reference(kind: type[protocol.Options]) -> None:
    refused = set(Unsupported.__struct_fields__)
    served = [name for name in kind.__struct_fields__ if name not in refused]
    assert [name for name in served if f"`{name}`" not in DOC and f"`{name}." not in DOC] == []
