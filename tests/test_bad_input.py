"""What a user may get wrong, and the one line that says so.

Each case is run through the command line: exit code 2, one line on standard error that names the file, the
field and the mend, nothing on standard output, and nothing written.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from triptych.cli import main

Data = dict[str, Any]
Changes = dict[str, Any]
"""Dotted path -> new value; `...` takes the field out."""

TEXT: Data = {
    "model": "opt-125m",
    "pools": {
        "all": {"phases": ["prefill", "decode"], "device": "A10", "scheduler": {"policy": "unified"}},
    },
}
SPLIT: Data = {
    "model": "opt-125m",
    "pools": {
        "p": {"phases": ["prefill"], "device": "A10", "scheduler": {"policy": "unified"}},
        "d": {"phases": ["decode"], "device": "A10", "scheduler": {"policy": "unified"}},
    },
}
VISION: Data = {
    "model": "Qwen2.5-VL-3B",
    "pools": {
        "e": {"phases": ["encode"], "device": "A10", "scheduler": {"policy": "encode"}},
        "pd": {"phases": ["prefill", "decode"], "device": "A10", "scheduler": {"policy": "unified"}},
    },
}
MOE: Data = {
    "model": "Qwen1.5-MoE-A2.7B",
    "pools": {"all": {**TEXT["pools"]["all"], "device": "H100"}},
}
WORKLOAD: Data = {
    "requests": 3,
    "arrivals": {"kind": "poisson", "rate": 2},
    "prompt": {"kind": "fixed", "tokens": 100},
    "output": {"kind": "fixed", "tokens": 4},
}
CONFIG: Data = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
FAMILIES = (
    "opt, llama, mistral, mixtral, qwen, qwen2, qwen2_moe, qwen3, qwen3_moe, internlm, internlm2, internlm3, "
    "phi, qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe"
)
BYTES = "B, kB, KB, MB, GB, TB, PB, KiB, MiB, GiB, TiB"
SECONDS = "s, ms, us, µs, ns, min, h, d"
KINDS = "poisson, gamma, constant, closed, at-once, trace"
POLICIES = "'static', 'orca', 'vllm', 'sarathi', 'unified' or 'encode'"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
NOON = "2023-11-16 12:00:00"


@dataclass(frozen=True)
class Case:
    what: str
    """What the user did."""
    line: str
    """What follows `triptych: `; ` ... ` stands for anything, {here} for the current folder."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    """Beside or in the place of d.yaml and w.yaml, which are right."""
    arguments: tuple[str, ...] = ("simulate", "d.yaml", "w.yaml", "--out", "run")


def changed(base: Data, changes: Changes) -> str:
    """A declaration with changes, as JSON, which is YAML (but for NaN and infinity)."""
    data = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, name = path.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is ...:
            del node[name]
        else:
            node[name] = value
    return json.dumps(data).replace("NaN", ".nan").replace("Infinity", ".inf")


def deployment(what: str, line: str, changes: Changes, base: Data = TEXT) -> Case:
    return Case(what, line, {"d.yaml": changed(base, changes)})


def workload(what: str, line: str, changes: Changes, base: Data = TEXT) -> Case:
    return Case(what, line, {"w.yaml": changed(WORKLOAD, changes), "d.yaml": changed(base, {})})


def config(what: str, line: str, content: str | bytes | Changes) -> Case:
    text = changed(CONFIG, content) if isinstance(content, dict) else content
    return Case(what, line, {"d.yaml": changed(TEXT, {"model": "m"}), "m/config.json": text})


def trace(what: str, line: str, content: str | bytes, kind: str = "azure", **rest: Any) -> Case:
    declared = {"trace": {"format": kind, "path": "t", **rest}}
    return Case(what, line, {"w.yaml": json.dumps(declared), "t": content})


def override(what: str, line: str, *overrides: str) -> Case:
    flags = [part for text in overrides for part in ("--set", text)]
    return Case(what, line, arguments=("simulate", "d.yaml", "w.yaml", "--out", "run", *flags))


def out(what: str, line: str, folder: str, files: dict[str, str | bytes] | None = None) -> Case:
    return Case(what, line, files or {}, ("simulate", "d.yaml", "w.yaml", "--out", folder))


def command(what: str, line: str, *arguments: str) -> Case:
    return Case(what, line, arguments=arguments)


ONE = "pools.all."
FILES = [
    command("no such deployment", "no.yaml: no such file", "simulate", "no.yaml", "w.yaml"),
    command("no such workload", "no.yaml: no such file", "simulate", "d.yaml", "no.yaml"),
    command("a folder", ".: cannot be read: Is a directory", "simulate", ".", "w.yaml"),
    Case("a binary file", "d.yaml: cannot be read: not a UTF-8 text file", {"d.yaml": b"\x80\x02\xff"}),
    Case("an empty file", "d.yaml: expected a mapping of fields, found nothing", {"d.yaml": ""}),
    Case("a comment alone", "w.yaml: expected a mapping of fields, found nothing", {"w.yaml": "# later\n"}),
    Case("a list", "d.yaml: expected a mapping of fields, found a list", {"d.yaml": "- model\n"}),
    Case("text", "w.yaml: expected a mapping of fields, found text", {"w.yaml": "fast\n"}),
    Case(
        "an open bracket",
        "d.yaml: line 2: not valid YAML: expected ',' or ']', but got ':'",
        {"d.yaml": "model: [opt-125m\npools: 3\n"},
    ),
    Case(
        "a tab",
        "d.yaml: line 2: not valid YAML: found character '\\t' that cannot start any token",
        {"d.yaml": "pools:\n\tall: 3\n"},
    ),
    Case(
        "two documents",
        "d.yaml: line 2: not valid YAML: expected a single document in the stream, but found another document",
        {"d.yaml": "model: a\n---\nmodel: b\n"},
    ),
    Case(
        "a control character",
        "d.yaml: line 2: not valid YAML: the character U+0007 is not allowed; remove it",
        {"d.yaml": "model: a\npools: \x07\n"},
    ),
    Case("a bracket too many", "d.yaml: not valid YAML: nested too deeply", {"d.yaml": "[" * 20_000}),
    Case(
        "a field twice",
        "d.yaml: line 2: not valid YAML: the key 'model' is given twice; remove one",
        {"d.yaml": "model: opt-125m\nmodel: opt-1.3b\n"},
    ),
    Case(
        "a field twice, within",
        "w.yaml: line 2: not valid YAML: the key 'rate' is given twice; remove one",
        {"w.yaml": "requests: 3\narrivals: {kind: poisson, rate: 1, rate: 2}\n"},
    ),
    command(
        "the files in the wrong order",
        "w.yaml: requests: no such field; remove it or mend its spelling",
        *("simulate", "w.yaml", "d.yaml", "--out", "run"),
    ),
]
FIELDS = [
    deployment("a misspelt field", "d.yaml: pool: no such field; did you mean 'pools'?", {"pool": 1}),
    deployment(
        "a misspelt required field is not reported as missing",
        "d.yaml: pools.all.devise: no such field; did you mean 'device'?",
        {ONE + "device": ..., ONE + "devise": "A10"},
    ),
    deployment(
        "a misspelt field, deep",
        "d.yaml: pools.all.scheduler.max_batchsize: no such field; did you mean 'max_batch'?",
        {ONE + "scheduler.max_batchsize": 64},
    ),
    deployment(
        "a field that resembles none",
        "d.yaml: pools.all.parallel.tp: no such field; remove it or mend its spelling",
        {ONE + "parallel.tp": 2},
    ),
    deployment(
        "the router of a misspelt phase",
        "d.yaml: routers.prefil: no such field; did you mean 'prefill'?",
        {"routers.prefil": "random"},
    ),
    deployment("no device", "d.yaml: pools.all.device: missing; give it a value", {ONE + "device": ...}),
    deployment("no pools", "d.yaml: pools: missing; give it a value", {"pools": ...}),
    deployment("pools of nothing", "d.yaml: pools: is empty; give at least one", {"pools": {}}),
    deployment("pools as a list", "d.yaml: pools: must be a mapping, not a list", {"pools": ["all"]}),
    deployment(
        "a pool as text", "d.yaml: pools.all: must be a mapping of fields, not 'x'", {"pools.all": "x"}
    ),
    deployment(
        "a pool whose name is a number",
        "d.yaml: pools.1: must be text, not 1; put it in quotes",
        {"pools": ...},
    ),
    deployment(
        "a device whose name is a number",
        "d.yaml: pools.all.device: must be text, not 4090; put it in quotes",
        {ONE + "device": 4090},
    ),
    deployment("no value", "d.yaml: model: has no value; it must be text", {"model": None}),
    deployment(
        "the scheduler's name alone",
        "d.yaml: pools.all.scheduler: must be a mapping of fields, not 'vllm'",
        {ONE + "scheduler": "vllm"},
    ),
    deployment(
        "neither true nor false",
        "d.yaml: pools.all.prefix_cache: must be true or false, not 'maybe'",
        {ONE + "prefix_cache": "maybe"},
    ),
    deployment(
        "several mistakes",
        "d.yaml: pools.all.instances: must be greater than 0, not 0 (and 2 more)",
        {ONE + "instances": 0, ONE + "block_size": 0, "seed": -1},
    ),
]
NUMBERS = [
    *(
        deployment(
            f"instances: {given}", f"d.yaml: pools.all.instances: {problem}", {ONE + "instances": given}
        )
        for given, problem in (
            (0, "must be greater than 0, not 0"),
            (-1, "must be greater than 0, not -1"),
            (1.5, "must be a whole number, not 1.5"),
            ("three", "must be a whole number, not 'three'"),
            (10**9, "must be less than or equal to 100000, not 1000000000"),
            (float("nan"), "must be a finite number, not nan"),
            (float("inf"), "must be a finite number, not inf"),
            (None, "has no value; it must be a whole number"),
        )
    ),
    *(
        deployment(
            f"embedding_cache: {given}",
            f"d.yaml: pools.all.embedding_cache: {problem}",
            {ONE + "embedding_cache": given},
        )
        for given, problem in (
            ("80 GiBB", f"'80 GiBB' is not a quantity; write a number and one of {BYTES}"),
            ("4 gb", f"'4 gb' is not a quantity; write a number and one of {BYTES}"),
            ("", f"'' is not a quantity; write a number and one of {BYTES}"),
            ("-4 GB", "must be greater than 0, not '-4 GB'"),
            (0, "must be greater than 0, not 0"),
            (True, "must be a number with a unit, not true or false"),
            ([4], "must be a number, not a list"),
        )
    ),
    deployment(
        "a percentage",
        "d.yaml: pools.all.memory_fraction: must be a number, not '90%'",
        {ONE + "memory_fraction": "90%"},
    ),
    deployment(
        "more than all memory",
        "d.yaml: pools.all.memory_fraction: must be less than or equal to 1, not 1.1",
        {ONE + "memory_fraction": 1.1},
    ),
    workload(
        "a duration in parsecs",
        f"w.yaml: duration: '3 parsecs' is not a quantity; write a number and one of {SECONDS}",
        {"duration": "3 parsecs"},
    ),
    workload(
        "longer than the universe",
        "w.yaml: duration: must be less than or equal to 10000000000, not '1e20 d'",
        {"duration": "1e20 d"},
    ),
    workload("no rate", "w.yaml: arrivals.rate: must be greater than 0, not 0", {"arrivals.rate": 0}),
    workload(
        "a rate of NaN",
        "w.yaml: arrivals.rate: must be a finite number, not nan",
        {"arrivals.rate": float("nan")},
    ),
    workload(
        "more requests than fit in memory",
        "not enough memory; declare fewer requests or instances ( ... )",
        {"requests": 10**15},
    ),
]
NAMES = [
    deployment(
        "a misspelt model",
        "d.yaml: model: 'lama-3-8b' is no known model; did you mean Llama-3-8B, ... ?",
        {"model": "lama-3-8b"},
    ),
    deployment(
        "a model unlike any",
        "d.yaml: model: 'zzzz' is no known model; use a name that `triptych models` lists, or a file",
        {"model": "zzzz"},
    ),
    deployment("a model file", "d.yaml: model: m/config.json: no such file", {"model": "m/config.json"}),
    deployment(
        "an unknown device",
        "d.yaml: pools.all.device: 'H1000' is no known device; use one of A10, ... , or a file",
        {ONE + "device": "H1000"},
    ),
    deployment(
        "a device file", "d.yaml: pools.all.device: my.yaml: no such file", {ONE + "device": "my.yaml"}
    ),
    deployment(
        "an unknown node",
        "d.yaml: pools.all.node: 'DGX' is no known node; use one of A100-PAIRS, ... , or a file",
        {ONE + "node": "DGX"},
    ),
    deployment(
        "a misspelt scheduler",
        f"d.yaml: pools.all.scheduler.policy: must be {POLICIES}, not 'vlm'; did you mean 'vllm'?",
        {ONE + "scheduler.policy": "vlm"},
    ),
    deployment(
        "an unknown router",
        "d.yaml: routers.decode: must be 'random', 'round-robin', 'least-requests', 'least-tokens' or "
        "'prefix-affinity', not 'robin'",
        {"routers.decode": "robin"},
    ),
    deployment(
        "a misspelt phase",
        "d.yaml: pools.all.phases: 'prefil' is no phase; did you mean 'prefill'?",
        {ONE + "phases": ["prefil", "decode"]},
    ),
    deployment(
        "an unknown phase",
        "d.yaml: pools.all.phases: 'train' is no phase; use encode, prefill or decode",
        {ONE + "phases": ["train"]},
    ),
    Case(
        "a device of its own, half described",
        "my.yaml: architecture: missing; give it a value (and 11 more)",
        {"d.yaml": changed(TEXT, {ONE + "device": "my.yaml"}), "my.yaml": "name: mine\n"},
    ),
]
MODELS = [
    config("no JSON", "m/config.json: line 2: not valid JSON: Expecting ':' delimiter", '{"a": 1,\n "b" 2}'),
    config("a JSON list", "m/config.json: expected a JSON object of fields, found list", "[1]"),
    config("not text", "m/config.json: cannot be read: not a UTF-8 text file", b"\xff\xfe"),
    config(
        "a family that is not read",
        f"m/config.json: model_type: 'mamba' is not read; use a model of {FAMILIES}",
        {"model_type": "mamba"},
    ),
    config(
        "no family",
        f"m/config.json: model_type: missing; use a model of {FAMILIES}",
        {"model_type": ...},
    ),
    config("no width", "m/config.json: hidden_size: missing; give it a value", {"hidden_size": ...}),
    config(
        "a width as text",
        "m/config.json: hidden_size: must be a positive integer, not '64'",
        {"hidden_size": "64"},
    ),
    config(
        "heads that do not share the width",
        "m/config.json: num_attention_heads: must divide hidden_size (64)",
        {"num_attention_heads": 5},
    ),
    Case(
        "a folder without a checkpoint",
        "m/config.json: no such file",
        {"d.yaml": changed(TEXT, {"model": "m"}), "m/weights.bin": b""},
    ),
]
PARALLELISM = [
    deployment(
        "TP that does not divide the heads",
        "d.yaml: pools.all.parallel.tensor: 5 does not divide the 12 attention heads; use 1, 2, 3, 4, 6 or 12",
        {ONE + "parallel.tensor": 5},
    ),
    deployment(
        "PP that does not divide the layers",
        "d.yaml: pools.all.parallel.pipeline: 5 does not divide the 12 layers; use 1, 2, 3, 4, 6 or 12",
        {ONE + "parallel.pipeline": 5},
    ),
    deployment(
        "DP of a dense model",
        "d.yaml: pools.all.parallel.data: 2 data ranks share experts, of which opt-125m has none; use data: 1 "
        "and raise instances, which is the same for a dense model",
        {ONE + "parallel.data": 2},
    ),
    deployment(
        "EP of a dense model",
        "d.yaml: pools.all.parallel.expert: opt-125m has no experts; use expert: 1",
        {ONE + "parallel.expert": 2},
    ),
    deployment(
        "EP that deals experts unevenly",
        "d.yaml: pools.all.parallel.expert: 7 does not divide both tensor x data = 2 and the 60 experts; "
        "use 1 or 2",
        {ONE + "parallel": {"data": 2, "expert": 7}},
        base=MOE,
    ),
    deployment(
        "DP over pipelines",
        "d.yaml: pools.all.parallel.data: 2 data ranks need pipeline: 1, not 2",
        {ONE + "parallel": {"data": 2, "pipeline": 2}},
        base=MOE,
    ),
    deployment(
        "PP of an encoder",
        "d.yaml: pools.e.parallel.pipeline: a pool that only encodes has pipeline: 1, not 2; use instances",
        {"pools.e.parallel.pipeline": 2},
        base=VISION,
    ),
    deployment(
        "a model that does not fit",
        "d.yaml: pools.all: Llama-3-70B does not fit: ... GB are missing on each A100-80GB (weights 141.11, "
        "activations ... GB usable); set parallel to tensor: 2 or pipeline: 2",
        {"model": "Llama-3-70B", ONE + "device": "A100-80GB"},
    ),
    deployment(
        "a precision that the device lacks",
        "d.yaml: pools.all.precision.compute: A10 has no fp8; use one of fp32, bf16, fp16, int8",
        {ONE + "precision.compute": "fp8"},
    ),
]
PHASES = [
    deployment(
        "nobody decodes",
        "d.yaml: pools: none runs decode; add decode to the phases of one",
        {ONE + "phases": ["prefill"]},
    ),
    deployment(
        "nobody prefills",
        "d.yaml: pools: none runs prefill; add prefill to the phases of one",
        {ONE + "phases": ["decode"]},
    ),
    deployment(
        "a pool without phases",
        "d.yaml: pools.all.phases: list the phases the pool runs: encode, prefill, decode",
        {ONE + "phases": []},
    ),
    deployment(
        "a phase twice",
        "d.yaml: pools.all.phases: a phase is listed twice; remove one",
        {ONE + "phases": ["prefill", "decode", "decode"]},
    ),
    deployment(
        "an encode pool for a text model",
        "d.yaml: pools.e: opt-125m has no vision tower to encode with; remove the pool",
        {"pools.e": VISION["pools"]["e"]},
    ),
    deployment(
        "encode in a pool of a text model",
        "d.yaml: pools.all.phases: opt-125m has no vision tower to encode with; remove encode",
        {ONE + "phases": ["encode", "prefill", "decode"]},
    ),
    deployment(
        "an encoder under a text scheduler",
        "d.yaml: pools.e: phases [encode] cannot run under the vllm scheduler; use scheduler.policy: encode",
        {"pools.e.scheduler.policy": "vllm"},
        base=VISION,
    ),
    deployment(
        "text under the encode scheduler",
        "d.yaml: pools.all: phases [prefill, decode] cannot run under the encode scheduler; use another "
        "scheduler.policy",
        {ONE + "scheduler.policy": "encode"},
    ),
    workload(
        "images for a text model",
        "w.yaml: images: opt-125m takes no images; remove them or use a vision-language model",
        {"images.sizes": [{"width": 640, "height": 480}]},
    ),
    workload(
        "images that nobody encodes",
        "d.yaml: pools: no pool runs encode, and the workload has images; add encode to the phases of one",
        {"images.sizes": [{"width": 640, "height": 480}]},
        base={**TEXT, "model": "Qwen2.5-VL-3B"},
    ),
    workload(
        "an image that the model refuses",
        "w.yaml: images: ... 64000x48 is more than 200 times as long as wide, which the model refuses; crop it",
        {"images.sizes": [{"width": 64000, "height": 48}]},
        base=VISION,
    ),
]
KNOBS = [
    deployment(
        "a token budget for orca",
        "d.yaml: pools.all.scheduler: the orca scheduler has no max_tokens; remove it",
        {ONE + "scheduler": {"policy": "orca", "max_tokens": 512}},
    ),
    deployment(
        "a watermark for unified",
        "d.yaml: pools.all.scheduler: the unified scheduler has no watermark; remove it",
        {ONE + "scheduler.watermark": 0.01},
    ),
    deployment(
        "a budget too small to decode",
        "d.yaml: pools.all.scheduler.max_tokens: 100 is less than max_batch 256, one token each; raise it to "
        "that at least",
        {ONE + "scheduler.max_tokens": 100},
    ),
    deployment(
        "patches where nothing is encoded",
        "d.yaml: pools.all: scheduler.max_patches: a pool without encode has no use for it; remove it",
        {ONE + "scheduler.max_patches": 1024},
    ),
    deployment(
        "a prefix cache where nothing is prefilled",
        "d.yaml: pools.d: prefix_cache: a pool without prefill has no use for it; remove it",
        {"pools.d.prefix_cache": True},
        base=SPLIT,
    ),
    deployment(
        "embeddings where nothing reads them",
        "d.yaml: pools.d: embedding_cache: a pool without encode and prefill has no use for it; remove it",
        {"pools.d.embedding_cache": "1 GB"},
        base=SPLIT,
    ),
    deployment(
        "KV blocks of an encoder",
        "d.yaml: pools.e: kv_blocks: a pool without prefill and decode has no use for it; remove it",
        {"pools.e.kv_blocks": 100},
        base=VISION,
    ),
    deployment(
        "prefix caches of different blocks",
        "d.yaml: pools: pools p and q have prefix caches of different block_size; give them the same",
        {
            "pools.p.prefix_cache": True,
            "pools.q": {**SPLIT["pools"]["p"], "prefix_cache": True, "block_size": 32},
        },
        base=SPLIT,
    ),
]
LINK = {"from": "p", "to": "d", "bandwidth": "25 GB/s"}
LINKS = [
    deployment(what, f"d.yaml: {line}", {"links": links}, base=SPLIT)
    for what, line, links in (
        ("a way to nowhere", "links: 'q' is no pool; use one of p, d", [{**LINK, "to": "q"}]),
        ("a way twice", "links: p -> d is given twice; remove one", [LINK, LINK]),
        ("one way, no list", "links: must be a list, not a mapping", LINK),
        ("no bandwidth", "links.0.bandwidth: missing; give it a value", [{"from": "p", "to": "d"}]),
        (
            "bytes that are not per second",
            "links.0.bandwidth: '25 GB' is not a quantity; write a number and one of B/s, kB/s, KB/s, MB/s, "
            "GB/s, TB/s, PB/s, KiB/s, MiB/s, GiB/s, TiB/s",
            [{**LINK, "bandwidth": "25 GB"}],
        ),
        (
            "a way into the past",
            "links.0.latency: must be greater than or equal to 0, not '-1 ms'",
            [{**LINK, "latency": "-1 ms"}],
        ),
    )
]
WORKLOADS = [
    workload(
        "no kind of arrivals", f"w.yaml: arrivals: give it a kind: one of {KINDS}", {"arrivals.kind": ...}
    ),
    workload(
        "an unknown kind of arrivals",
        f"w.yaml: arrivals: give it a kind: one of {KINDS}",
        {"arrivals.kind": "poison"},
    ),
    workload(
        "a length as a number",
        "w.yaml: prompt: write it as {kind: ...} with one of fixed, uniform, log-normal, quantiles, trace",
        {"prompt": 100},
    ),
    workload(
        "a field of another kind",
        "w.yaml: prompt.low: no such field; remove it or mend its spelling",
        {"prompt.low": 3},
    ),
    workload(
        "prompts of nothing", "w.yaml: prompt.tokens: must be greater than 0, not 0", {"prompt.tokens": 0}
    ),
    workload(
        "an upside-down range",
        "w.yaml: output: low (9) is above high (3); swap them",
        {"output": {"kind": "uniform", "low": 9, "high": 3}},
    ),
    workload(
        "traffic without an end",
        "w.yaml: requests: nothing ends the workload; give requests or duration",
        {"requests": ...},
    ),
    workload(
        "too short for a request",
        "w.yaml: duration: no request comes within it; make it longer",
        {"duration": "1 us"},
    ),
    workload(
        "a closed loop with a clock",
        "w.yaml: duration: closed arrivals have no times to bound; use requests",
        {"arrivals": {"kind": "closed", "concurrency": 4}, "duration": "1 min"},
    ),
    workload(
        "images as text",
        "w.yaml: images.sizes.0: must be a mapping of fields, not '640x480'",
        {"images.sizes": ["640x480"]},
    ),
    workload(
        "an objective without a statistic",
        "w.yaml: slo.ttft: give a statistic and its bound, such as {p99: 2 s}",
        {"slo.ttft": "2 s"},
    ),
    workload("a misspelt metric", "w.yaml: slo.tfft: no such field; did you mean 'ttft'?", {"slo.tfft": {}}),
    workload(
        "a trace without one",
        "w.yaml: arrivals: kind trace needs a trace; add trace: {format, path} or use another kind",
        {"arrivals": {"kind": "trace"}},
    ),
]
TRACES = [
    workload(
        "no such trace",
        "w.yaml: trace.path: no such file: t.csv; mend the path",
        {"trace": {"format": "azure", "path": "t.csv"}, "arrivals": ...},
    ),
    workload(
        "a trace that is not used",
        "w.yaml: trace: nothing is taken from it; remove it, or use kind: trace for arrivals, prompt or output",
        {"trace": {"format": "azure", "path": "w.yaml"}},
    ),
    trace(
        "no format known",
        "w.yaml: trace.format: must be 'azure', 'mooncake' or 'parquet', not 'xml'",
        "",
        "xml",
    ),
    trace(
        "another header",
        "{here}/t: line 1: the header must be TIMESTAMP,ContextTokens,GeneratedTokens, not a,b",
        "a,b\n1,2\n",
    ),
    trace("a header alone", "{here}/t: line 2: no request follows the header; use another trace", AZURE),
    trace(
        "a column too few",
        "{here}/t: line 2: 2 columns instead of 3; mend or remove the line",
        f"{AZURE}{NOON},3\n",
    ),
    trace(
        "a number in words",
        "{here}/t: line 3, ContextTokens: must be a whole number of tokens, not 'six'; mend or remove the line",
        f"{AZURE}{NOON},3,4\n{NOON},six,4\n",
    ),
    trace(
        "a negative length",
        "{here}/t: line 2, GeneratedTokens: must be at least 1, not -4; mend or remove the row",
        f"{AZURE}{NOON},3,-4\n",
    ),
    trace(
        "times that run backwards",
        "{here}/t: line 3, TIMESTAMP: comes before the row above it; sort the rows by time",
        f"{AZURE}{NOON},3,4\n2023-11-16 11:59:59,3,4\n",
    ),
    trace(
        "no time",
        "{here}/t: line 2, TIMESTAMP: must be a time such as 2023-11-16 18:15:46.68, not 'noon'; mend or remove "
        "the line",
        f"{AZURE}noon,3,4\n",
    ),
    trace(
        "a slice beyond the end",
        "w.yaml: trace: no request comes between start and stop; the trace runs from 0 s to 0 s",
        f"{AZURE}{NOON},3,4\n",
        start="1 h",
    ),
    trace("not JSON", "{here}/t: line 1: not JSON ( ... ); mend or remove the line", "{\n", "mooncake"),
    trace(
        "no length",
        "{here}/t: line 1, input_length: missing; mend or remove the line",
        '{"timestamp": 1}\n',
        "mooncake",
    ),
    trace("no line", "{here}/t: no request in the file; use another trace", "", "mooncake"),
    trace(
        "not Parquet",
        "{here}/t: cannot be read as Parquet: ... ",
        "PAR1 or so, but not quite",
        "parquet",
    ),
]
OVERRIDES = [
    override("no equals sign", "--set seed: write it as path.to.field=value", "seed"),
    override("no path", "--set =3: write it as path.to.field=value", "=3"),
    override(
        "through a plain value",
        "--set model.name=x: model is a plain value and has no field 'name'",
        "model.name=x",
    ),
    override(
        "beyond a list",
        "--set pools.all.phases.7=decode: pools.all.phases is a list of 2; count from 0",
        "pools.all.phases.7=decode",
    ),
    override("a broken value", "--set seed=[1: the value is not valid YAML", "seed=[1"),
    override("no value", "d.yaml: seed: has no value; it must be a whole number", "seed="),
    override(
        "an unknown field",
        "d.yaml: pools.all.instance: no such field; did you mean 'instances'?",
        "pools.all.instance=3",
    ),
    override("an unknown root", "d.yaml: pool: no such field; did you mean 'pools'?", "pool.all.instances=3"),
    override(
        "the last one counts",
        "d.yaml: pools.all.instances: must be greater than 0, not 0",
        *("pools.all.instances=2", "pools.all.instances=0"),
    ),
    override("in the workload", "w.yaml: requests: must be greater than 0, not 0", "workload.requests=0"),
    override("a line break", "d.yaml: a\\nb: no such field; remove it or mend its spelling", "a\nb=3"),
]
FOLDERS = [
    out("a file", "w.yaml: is a file; name a folder for the run", "w.yaml"),
    out(
        "a folder of something else",
        "papers: holds something that is no run and will not be overwritten; name another folder",
        "papers",
        {"papers/thesis.tex": "years of work"},
    ),
    out("within a file", "w.yaml/run: cannot be written: Not a directory; name another place", "w.yaml/run"),
    out("a name too long", " ... xxx: cannot be written: File name too long; name another place", "x" * 300),
    command(
        "a trace into no folder",
        "--trace: there is no folder for trace.json; add --out",
        *("simulate", "d.yaml", "w.yaml", "--trace"),
    ),
]
COMMANDS = [
    command(
        "no workload", "Missing argument 'workload' ... ; see triptych simulate --help", "simulate", "d.yaml"
    ),
    command("an unknown verb", "No such command 'simulat' ... ; see triptych --help", "simulat"),
    command(
        "an unknown option",
        "No such option: --otu ... ; see triptych simulate --help",
        *("simulate", "d.yaml", "w.yaml", "--otu", "run"),
    ),
    command(
        "an unknown choice",
        "Invalid value for '--batches': ... 'some' is not one of 'all', 'sample', 'off'; see triptych simulate "
        "--help",
        *("simulate", "d.yaml", "w.yaml", "--batches", "some"),
    ),
    command(
        "an argument too many",
        "Got unexpected extra argument ... ; see triptych models --help",
        "models",
        "x",
    ),
]
GROUPS = {
    "files": FILES,
    "fields": FIELDS,
    "numbers": NUMBERS,
    "names": NAMES,
    "models": MODELS,
    "parallelism": PARALLELISM,
    "phases": PHASES,
    "knobs": KNOBS,
    "links": LINKS,
    "workloads": WORKLOADS,
    "traces": TRACES,
    "overrides": OVERRIDES,
    "folders": FOLDERS,
    "commands": COMMANDS,
}
CASES = [pytest.param(case, id=f"{group}: {case.what}") for group, cases in GROUPS.items() for case in cases]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a deployment and a workload that are right."""
    monkeypatch.chdir(tmp_path)
    Path("d.yaml").write_text(changed(TEXT, {}))
    Path("w.yaml").write_text(changed(WORKLOAD, {}))
    return tmp_path


def assert_says(printed: str, line: str, here: Path) -> None:
    """That `line` and nothing else was printed."""
    assert printed.endswith("\n")
    assert len(printed.splitlines()) == 1, printed
    parts = f" {line.replace('{here}', str(here))} ".split(" ... ")
    pattern = ".*".join(re.escape(part) for part in parts).removeprefix("\\ ").removesuffix("\\ ")
    assert re.fullmatch(f"triptych: {pattern}", printed.rstrip("\n")), f"{printed}is not\ntriptych: {line}"


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line(
    case: Case, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, content in case.files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    before = sorted(here.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["triptych", *case.arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    printed = capfd.readouterr()
    assert exit_.value.code == 2
    assert_says(printed.err, case.line, here)
    assert printed.out == ""
    assert sorted(here.rglob("*")) == before


def test_what_is_right_is_not_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for base in (TEXT, SPLIT, VISION, MOE):
        Path("d.yaml").write_text(changed(base, {}))
        monkeypatch.setattr(sys, "argv", ["triptych", "simulate", "d.yaml", "w.yaml"])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code in (None, 0)


@pytest.mark.parametrize(
    "case", [FILES[0], NUMBERS[0], TRACES[0], COMMANDS[0]], ids=lambda case: str(case.what)
)
def test_it_is_the_same_in_a_process_of_its_own(case: Case, here: Path) -> None:
    for name, content in case.files.items():
        Path(name).write_text(str(content))
    done = subprocess.run(
        [sys.executable, "-c", "from triptych.cli import main; main()", *case.arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert_says(done.stderr, case.line, here)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write anything"
)
class TestPermissions:
    def test_a_file_that_may_not_be_read(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        Path("d.yaml").chmod(0)
        self.refused("d.yaml: cannot be read: Permission denied", here, monkeypatch, capfd)

    def test_a_folder_that_may_not_be_written(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        here.chmod(0o500)
        line = "run: cannot be written: Permission denied; name another place"
        self.refused(line, here, monkeypatch, capfd)
        here.chmod(0o700)

    def refused(
        self, line: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["triptych", "simulate", "d.yaml", "w.yaml", "--out", "run"])
        with pytest.raises(SystemExit):
            main()
        assert_says(capfd.readouterr().err, line, here)


def test_requests_that_fit_nowhere_are_a_result_and_no_mistake(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("d.yaml").write_text(changed(TEXT, {"pools.all.kv_blocks": 2}))
    monkeypatch.setattr(sys, "argv", ["triptych", "simulate", "d.yaml", "w.yaml"])
    with pytest.raises(SystemExit) as exit_:
        main()
    printed = capfd.readouterr()
    assert exit_.value.code in (None, 0)
    assert "0 of 3 requests finished" in printed.out
    assert "3 rejected" in printed.out
    assert printed.err == ""
