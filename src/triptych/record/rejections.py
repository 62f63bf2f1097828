"""Why requests were rejected, from what they asked for and what there was."""

from __future__ import annotations

import numpy as np

from triptych.record.run import REJECTED, Run

CONTEXT = "longer than the model's context"
KV = "larger than the KV cache of an instance"
IMAGES = "with more image tokens than an embedding cache holds"
OTHER = "for another reason"


def rejections(run: Run) -> dict[str, int]:
    """How many were rejected for which reason, without reasons that there were not.

    Where it is not known how far the model's context reaches, or which memory there was, what they do not
    explain is `OTHER`: the server tells its client why, and the client's record has the server's words.
    """
    requests = run.requests
    rejected = (requests["status"] == REJECTED) & ~np.isnan(requests["arrival"])
    longest = (requests["prompt_tokens"] + requests["output_tokens"] - 1)[rejected]
    has_images = (requests["images"] > 0)[rejected]
    reach = run.meta.get("model_context")
    holds = [info.kv_blocks * info.block_size for info in run.instances if set(info.phases) != {"encode"}]
    too_long = longest > reach if reach is not None else np.zeros(len(longest), bool)
    too_large = ~too_long & (longest > min(holds)) if holds else np.zeros(len(longest), bool)
    images = ~too_long & ~too_large & has_images & (len(run.instances) > 0)
    counted = {
        CONTEXT: int(too_long.sum()),
        KV: int(too_large.sum()),
        IMAGES: int(images.sum()),
        OTHER: int((~too_long & ~too_large & ~images).sum()),
    }
    return {why: times for why, times in counted.items() if times}
