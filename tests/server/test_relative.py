"""What a deployment names beside itself is served from any folder, and the record names it in full."""

from __future__ import annotations

from pathlib import Path

from tests.engine import tiny

from triptych.engine.tokenizer import load_tokenizer
from triptych.spec.deployment import Deployment
from triptych.spec.yaml import dump_yaml, parse_yaml

from .command import declare, served


def test_a_checkpoint_beside_the_deployment(tmp_path: Path) -> None:
    config = tiny.config_file("llama", tmp_path)
    tiny.build("llama", tmp_path, device="cpu").model.save_pretrained(tmp_path / "weights")
    load_tokenizer(f"random:{config}").save_pretrained(tmp_path / "weights")
    file = declare(config, tmp_path)
    declared = {**parse_yaml(file.read_text(encoding="utf-8")), "model": "weights"}
    file.write_text(dump_yaml(declared), encoding="utf-8")
    with served(file, "--port", "0", "--record", str(tmp_path / "record")) as server:
        (model,) = server.client.models.list().data
        assert model.id == "weights"
        answer = server.client.completions.create(model="weights", prompt="what is this", max_tokens=3)
        assert answer.usage is not None and answer.usage.completion_tokens > 0
        assert server.stop() == 0
    assert Deployment.load(tmp_path / "record/deployment.yaml").model == str(tmp_path / "weights")
