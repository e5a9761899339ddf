"""Rows laid end to end as one sequence instead of being padded to the longest.

Positions start again at each row, and that is how transformers tells that rows must not attend to each other. Whether a model
keeps to it is found out once for each; rows of others are padded.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from harmonyray.learners.token_logprobs import NextTokens, next_token_logprobs, padded_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHECKED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # why a model's rows must be padded; "" if they need not


def packed_rows(model: PreTrainedModel, ids: Tensor, mask: Tensor, lengths: Tensor, temperatures: Tensor) -> NextTokens:
    """What `padded_rows` gives for the same rows padded: their response tokens, row by row.

    `ids` int[S] and `mask` bool[S] are the rows end to end, `lengths` int[B] their lengths, all on the model's device;
    `temperatures` float[B]. A model that cannot keep rows apart gets them padded (see `packs`).
    """
    if not packs(model):
        rows = [pad_sequence(list(flat.split(lengths.tolist())), batch_first=True) for flat in (ids, mask)]
        return padded_rows(rows[0], rows[1], temperatures)
    row = torch.repeat_interleave(lengths)
    position = torch.arange(len(ids), device=ids.device) - (lengths.cumsum(0) - lengths)[row]
    # Every token but a row's last is an input, every token but a row's first is what one of these should say.
    inputs, targets = position < lengths[row] - 1, position > 0
    assert not mask[~targets].any(), "a response needs a prompt before it"
    wanted = mask[targets]
    return NextTokens(
        {"input_ids": ids[inputs][None], "position_ids": position[inputs][None]},
        wanted[None],
        ids[targets][wanted],
        temperatures[row][targets][wanted],
    )


def packed_token_logprobs(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, lengths: Tensor, temperatures: Tensor, *, entropy_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """`next_token_logprobs` of `packed_rows`."""
    return next_token_logprobs(model, packed_rows(model, ids, mask, lengths, temperatures), entropy_grad)


def packs(model: PreTrainedModel) -> bool:
    """Whether the model keeps rows apart that lie end to end; a warning in the log if not.

    Checked at the first call for a model, by running it on a few tokens.
    """
    if model not in _CHECKED:
        with torch.no_grad():
            _CHECKED[model] = _why_not(model)
        if _CHECKED[model]:
            logging.getLogger(__name__).warning(
                "%s: rows are padded instead of packed, because %s", type(model).__name__, _CHECKED[model]
            )
    return not _CHECKED[model]


def _why_not(model: PreTrainedModel) -> str:
    """What keeps a model from packed rows, in words; empty if nothing does."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "it takes no position ids"
    if getattr(model.config.get_text_config(), "attention_chunk_size", None) is not None:
        return "it attends in chunks, which are counted from the beginning of all rows"  # few tokens would not show that
    row = torch.tensor([5, 1, 4], device=model.device)
    alone = _last_logits(model, [row])
    # A row before it that says something else must not change a bit of it, and no row before it hardly more.
    packed = [_last_logits(model, [row.new_tensor(before), row]) for before in ([1, 2, 3, 0, 4], [4, 0, 2, 2, 1])]
    if not torch.equal(packed[0], packed[1]):
        return "a row's logits depend on the row before it"
    rounding = torch.finfo(alone.dtype).eps ** 0.5 * alone.abs().max()
    if not (packed[0] - alone).abs().max() <= rounding:
        return "a row's logits depend on its place among the rows"
    return ""


def _last_logits(model: PreTrainedModel, rows: list[Tensor]) -> Tensor:
    """The last row's logits, [its tokens, vocabulary]."""
    ids = torch.cat(rows)
    positions = torch.cat([torch.arange(len(row), device=ids.device) for row in rows])
    logits: Tensor = model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits
    return logits[0, -len(rows[-1]) :]
