"""Where others' measurements are, and small made-up ones in the same formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from triptych.spec.yaml import dump_yaml

DATA = Path(__file__).parents[2].parent / "shared/data"
published = pytest.mark.skipif(not DATA.is_dir(), reason="needs the published data in ../shared/data")

LLAMA = {"hidden": 4096, "queries": 4096, "keys": 1024, "intermediate": 14336, "vocab": 128256}
PEAK, BANDWIDTH = 503.8e12, 1.792e12
"""FLOP/s and bytes/s of an RTX PRO 6000."""


def write_csv(path: Path, columns: dict[str, Any]) -> Path:
    """A CSV file of columns of equal length; a scalar counts for all rows."""
    rows = max(len(values) for values in columns.values() if isinstance(values, list))
    full = [values if isinstance(values, list) else [values] * rows for values in columns.values()]
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*full, strict=True))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def edit(path: Path, row: int, column: str, value: object) -> None:
    """Writes another value into one field of a CSV file; rows count from 0."""
    header, *rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
    rows[row][header.index(column)] = str(value)
    path.write_text("\n".join(",".join(each) for each in (header, *rows)) + "\n", encoding="utf-8")


def scale(path: Path, column: str, factor: float) -> None:
    """Multiplies a column of a CSV file."""
    header, *rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
    place = header.index(column)
    for each in rows:
        each[place] = str(float(each[place]) * factor)
    path.write_text("\n".join(",".join(each) for each in (header, *rows)) + "\n", encoding="utf-8")


def vllm_folder(path: Path) -> Path:
    """A layer profile of Llama-3.1-8B on an RTX PRO 6000, at half of what the data sheet can do."""
    meta = {
        "vllm_version": "0.19.0",
        "hardware": "RTXPRO6000",
        "profiled_at": "2026-04-24T12:44:06+00:00",
        "model": "meta-llama/Llama-3.1-8B",
        "variant": "bf16",
        "tp_degrees": [1],
        "engine_effective": {
            "hf_overrides": {
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "intermediate_size": 14336,
                "vocab_size": 128256,
            }
        },
        "measurement_iterations": 3,
    }
    path.mkdir(parents=True)
    (path / "meta.yaml").write_text(dump_yaml(meta), encoding="utf-8")
    weights = {
        "layernorm": 0,
        "qkv_proj": 4096 * (4096 + 2048),
        "gate_up_proj": 2 * 4096 * 14336,
    }
    tokens = [1, 1024, 2048]
    dense: dict[str, list[Any]] = {"layer": [], "tokens": [], "time_us": []}
    for layer, elements in weights.items():
        dense["layer"] += [layer] * len(tokens)
        dense["tokens"] += tokens
        dense["time_us"] += [2e6 * 2 * elements * count / PEAK + 3 for count in tokens]
    write_csv(path / "tp1/dense.csv", dense)
    head = 2e6 * 2 * LLAMA["vocab"] * LLAMA["hidden"] / BANDWIDTH
    per_sequence = {"layer": ["lm_head", "lm_head", "sampler"], "sequences": [1, 8, 8]}
    write_csv(path / "tp1/per_sequence.csv", {**per_sequence, "time_us": [head, head, 20.0]})
    attention = {
        "prefill_chunk": [2048, 2048, 0, 64],
        "kv_prefill": [0, 512, 0, 128],
        "n_decode": [0, 0, 4, 4],
        "kv_decode": [0, 0, 1024, 1024],
        "time_us": [172.6, 234.6, 30.0, 40.0],
    }
    write_csv(path / "tp1/attention.csv", attention)
    return path


def vidur_folder(path: Path) -> Path:
    """Llama-2-7B on an A100, at half of what the data sheet can do; the folder says the device."""
    folder = path / "a100"
    names = {
        "emb": 0,
        "input_layernorm": 0,
        "post_attention_layernorm": 0,
        "attn_pre_proj": 3 * 4096**2,
        "attn_rope": 0,
        "attn_post_proj": 4096**2,
        "mlp_up_proj": 2 * 4096 * 11008,
        "mlp_act": 0,
        "mlp_down_proj": 4096 * 11008,
        "add": 0,
    }
    tokens = [1, 4096]
    mlp: dict[str, Any] = {}
    for name, elements in names.items():
        mlp[f"time_stats.{name}.mean"] = [2e3 * 2 * elements * count / 312e12 + 0.01 for count in tokens]
        mlp[f"time_stats.{name}.median"] = [0.01, 0.01]
        mlp[f"time_stats.{name}.std"] = [0.001, 0.001]
    mlp["time_stats.post_attention_layernorm.mean"] = [0.03, 0.03]
    shape = {"n_embd": 4096, "n_kv_head": 32, "num_tensor_parallel_workers": 1}
    more = {"n_head": 32, "n_expanded_embd": 11008, "vocab_size": 32768, "num_tokens": tokens}
    write_csv(folder / "mlp.csv", {**mlp, **shape, **more})
    attention = {
        "time_stats.attn_kv_cache_save.mean": [0.042, 0.004],
        "time_stats.attn_kv_cache_save.std": [0.003, 0.0],
        "time_stats.attn_prefill.mean": [0.013, 0.0],
        "time_stats.attn_prefill.std": [0.004, 0.0],
        "time_stats.attn_decode.mean": [0.0, 0.08],
        **shape,
        "n_q_head": 32,
        "batch_size": [1, 43],
        "prefill_chunk_size": [64, 0],
        "kv_cache_size": [128, 96],
        "is_prefill": ["True", "False"],
    }
    write_csv(folder / "attention.csv", attention)
    reduce = {
        "time_stats.all_reduce.mean": [0.43, 8.4],
        "num_workers": [2, 4],
        "size": 67108864,
        "collective": "all_reduce",
        "devices_per_node": 2,
    }
    write_csv(folder / "all_reduce.csv", reduce)
    return folder


def aic_folder(path: Path) -> Path:
    """Kernels of an H100."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir(parents=True, exist_ok=True)
    about = {"framework": "VLLM", "version": "0.19.0", "device": "NVIDIA H100 80GB HBM3"}
    heads = {"num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "attn_dtype": "bfloat16"}
    experts = {
        "moe_dtype": "bfloat16",
        "num_tokens": 8,
        "hidden_size": 2048,
        "inter_size": 768,
        "topk": 8,
        "num_experts": 128,
        "moe_tp_size": [1, 2, 1],
        "moe_ep_size": [1, 1, 8],
        "distribution": ["balanced", "balanced", "power_law_1.2"],
        "latency": [0.1, 0.06, 0.04],
    }
    tables: dict[str, dict[str, Any]] = {
        "gemm": {
            "gemm_dtype": ["bfloat16", "fp8_block"],
            "m": 8192,
            "n": 4096,
            "k": 4096,
            "latency": [0.4, 0.3],
        },
        "context_attention": {
            "batch_size": [1, 4],
            "isl": 4096,
            "step": 0,
            **heads,
            "kv_cache_dtype": "bfloat16",
            "window_size": 0,
            "latency": [0.3, 1.1],
        },
        "generation_attention": {
            "batch_size": [64],
            "isl": 1,
            "step": 1023,
            **heads,
            "kv_cache_dtype": "fp8",
            "latency": [0.05],
        },
        "moe": experts,
        "custom_allreduce": {
            "op_name": "all_reduce",
            "allreduce_dtype": "bfloat16",
            "num_gpus": 2,
            "message_size": 1024,
            "backend": ["vllm_graph", "vllm_eager"],
            "latency": [0.005, 0.02],
        },
        "nccl": {
            "op_name": ["all_reduce", "all_reduce", "all_gather"],
            "nccl_dtype": "half",
            "num_gpus": [2, 8, 8],
            "message_size": 1024,
            "latency": [0.008, 0.02, 0.01],
        },
    }
    for name, columns in tables.items():
        rows = max(len(values) for values in columns.values() if isinstance(values, list))
        full = {
            key: values if isinstance(values, list) else [values] * rows
            for key, values in {**about, **columns}.items()
        }
        pq.write_table(pa.table(full), path / f"{name}_perf.parquet")
    return path


def set_parquet(path: Path, column: str, values: list[Any]) -> None:
    """Replaces or, with no values, removes a column of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index(column)
    table = table.remove_column(place)
    pq.write_table(table.append_column(column, pa.array(values)) if values else table, path)
