"""What all engines do alike around generation: prompts to tokens, tokens to a response's text, and refusing stale weights."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

from harmonyray.errors import ModelError, StaleWeightsError
from harmonyray.types import IntArray, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_KNOWN = 16_384  # prompts; a step's that are encoded ahead have to fit in


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The prompt's token ids. Plain text gets the special tokens that the model is used to (a leading bos, for some).

    Raises ModelError for chat messages where the tokenizer has no chat template.
    """
    if prompt.text is not None:  # lengths are checked by `build.fitting_parts`
        return tokenizer(prompt.text + prompt.response_prefix, verbose=False)["input_ids"]
    if tokenizer.chat_template is None:
        raise ModelError(
            f"view {prompt.view!r} asks with chat messages, but the model's tokenizer has no chat template: "
            "set the view's option 'chat' to false, or use a model that has one"
        )
    chat = [dict(m) for m in prompt.messages]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **prompt.template_options)
    return tokenizer(str(text) + prompt.response_prefix, add_special_tokens=False, verbose=False)["input_ids"]


class PromptTokens:
    """`encode_prompt` with a memory of the latest prompts: those of the next step are encoded before they are needed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self._turn = Lock()  # a tokenizer that two threads encode with at once raises "Already borrowed"

    def __call__(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids. Raises ModelError."""
        key = repr((prompt.text, prompt.messages, prompt.template_options, prompt.response_prefix))
        with self._turn:
            ids = self._known.pop(key, None)
            if ids is None:
                ids = array("i", encode_prompt(self.tokenizer, prompt))
            self._known[key] = ids  # the latest comes last
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
            return ids.tolist()


def end_tokens(tokenizer: PreTrainedTokenizerBase, configured: int | list[int] | None) -> list[int]:
    """The tokens that end a response: the tokenizer's, and those of the model's generation config."""
    more = configured if isinstance(configured, list) else [] if configured is None else [configured]
    return sorted({tokenizer.eos_token_id, *more})


def response_text(tokenizer: PreTrainedTokenizerBase, token_ids: IntArray, ended_by: str, stops: Sequence[str]) -> str:
    """What a response int[T] says, without the stop token that `ended_by` "token" left at its end, up to the first of `stops`."""
    spoken = token_ids[:-1] if ended_by == "token" else token_ids  # a stop token may be one that decoding would show
    text = str(tokenizer.decode(spoken, skip_special_tokens=True))
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def refuse_stale(asked: int | None, held: int) -> None:
    """Raises StaleWeightsError if the policy version that was asked for (None: any) is not the one that the engine holds."""
    if asked is not None and asked != held:
        raise StaleWeightsError(
            f"asked to generate with policy version {asked}, but this engine holds {held}: broadcast the weights first"
        )
