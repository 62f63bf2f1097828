"""What the fields of a Hugging Face configuration mean, family by family.

Field names, and the values that hold where a field is absent, are those of the configuration
classes of Hugging Face transformers (`configuration_<family>.py`) or, for Qwen and InternLM, of
the model's own repository. Only what decides a size is read. Sizes of the language model have no
default here: a file that leaves them out is cut short rather than terse.
"""

from triptych.spec.hf_families import gpt, llama, norms, qwen
from triptych.spec.hf_families.common import Family, VisionFamily

__all__ = ["FAMILIES", "Family", "VisionFamily"]

FAMILIES: dict[str, Family] = {**gpt.FAMILIES, **llama.FAMILIES, **qwen.FAMILIES, **norms.FAMILIES}
"""By `model_type`."""
