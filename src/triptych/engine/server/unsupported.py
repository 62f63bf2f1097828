"""Fields of a request that would change its answer and that the engine has no means for.

They are those of OpenAI's API, and of what vLLM and SGLang add to it. A request is refused if one of them
asks for something. What only labels a request, or hints at how it might be served, is named nowhere, and
is ignored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from triptych.engine.server.errors import invalid

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "function_call": ("none",),
    "include_reasoning": (True,),
    "length_penalty": (1.0,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "tool_choice": ("none", "auto"),
    "verbosity": ("medium",),
}
"""Values of these fields that ask for nothing, beside those that are empty or false."""
_NEVER_NEUTRAL = {"length_penalty": (0,), "prompt_logprobs": (0,), "web_search_options": ({},)}
"""Empty values that ask for something all the same."""
_MEND = {
    "mm_processor_kwargs": "remove it: an image is resized as the model's own processor has it",
    "reasoning_effort": "remove it, and set what the model's chat template knows in chat_template_kwargs",
    "tools": "remove it, or set tool_choice to none, which only tells the model of them",
    "truncate_prompt_tokens": "remove it and shorten the prompt",
}


class Unsupported(msgspec.Struct, kw_only=True):
    """Fields that change the answer and that are not served."""

    add_generation_prompt: Any = None
    allowed_token_ids: Any = None
    audio: Any = None
    bad_words: Any = None
    best_of: Any = None
    cache_salt: Any = None
    chat_template: Any = None
    continue_final_message: Any = None
    custom_logit_processor: Any = None
    custom_params: Any = None
    documents: Any = None
    ebnf: Any = None
    echo: Any = None
    function_call: Any = None
    functions: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    include_reasoning: Any = None
    include_stop_str_in_output: Any = None
    json_schema: Any = None
    kv_transfer_params: Any = None
    length_penalty: Any = None
    logits_processors: Any = None
    lora_path: Any = None
    media_io_kwargs: Any = None
    mm_processor_kwargs: Any = None
    modalities: Any = None
    no_stop_trim: Any = None
    prediction: Any = None
    priority: Any = None
    prompt_embeds: Any = None
    prompt_logprobs: Any = None
    reasoning_effort: Any = None
    regex: Any = None
    response_format: Any = None
    return_hidden_states: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    session_params: Any = None
    skip_special_tokens: Any = None
    spaces_between_special_tokens: Any = None
    stop_regex: Any = None
    structured_outputs: Any = None
    suffix: Any = None
    thinking_token_budget: Any = None
    tool_choice: Any = None
    tools: Any = None
    truncate_prompt_tokens: Any = None
    use_beam_search: Any = None
    verbosity: Any = None
    vllm_xargs: Any = None
    web_search_options: Any = None

    def check_unsupported(self) -> None:
        """Refuses what is not served.

        Raises:
            ApiError: status 400, and which field it is.
        """
        for name in Unsupported.__struct_fields__:
            if name == "tools" and self.tool_choice == "none":
                continue  # the prompt lists tools that the model may not call: there is nothing to parse
            if _asks(name, getattr(self, name)):
                mend = _MEND.get(name, "remove it")
                raise invalid(f"{name} is not supported; {mend}", name, "unsupported_parameter")


def _asks(name: str, value: Any) -> bool:
    """Whether the value of a field that is not served asks for something."""
    neutral = _NEUTRAL.get(name, ())
    if value is None or value in neutral:
        return False
    if value is False:
        return True in neutral
    return bool(value) or value in _NEVER_NEUTRAL.get(name, ())
