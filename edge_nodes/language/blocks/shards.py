# SPDX-License-Identifier: Apache-2.0
"""Cutting packed blocks for tensor parallelism: whole groups of heads, and columns of the feed-forward part.

Query, key, value, gate and up lose rows, the two output projections lose columns (TPI-LLM, arXiv 2410.00531, section 3,
with unequal shares); the results of the latter are summed over the boards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_nodes.errors import State
from edge_nodes.language.blocks.sum_tree import SumTree
from edge_nodes.language.errors import LanguageError

TILE, GROUP, SCALE_BLOCK = 32, 32, 256
_BLOCKED = (2, 6)  # bits of weights whose scales, if there are any, hold for so many columns
_NONE = np.empty(0)


def split_units(total: int, shares: Sequence[float], *, minimum: int = 1, multiple: int = 1) -> list[int]:
    """Return whole numbers that sum to `total` in proportion to `shares`, by largest remainder.

    Args:
        total: what is to be shared out; a remainder of `multiple` goes to the last rank.
        shares: positive, of any sum; ties go to the lower rank.
        minimum: least that each gets.
        multiple: all but the last are multiples of it.

    Raises:
        LanguageError: BAD_INPUT, a share is not positive, or there is not enough for all.
    """
    units, least = total // multiple, -(-minimum // multiple)
    if not shares or min(shares) <= 0:
        raise LanguageError("shares must be positive", got=list(shares), expected="e.g. 1,1 or 2,1,1")
    if units < least * len(shares):
        raise LanguageError(
            f"rank {len(shares) - 1} would get nothing",
            got=f"{len(shares)} shares of {units} units of {multiple}",
            expected=f"at least {least} for each",
            remedy="Use fewer boards.",
        )
    exact = [units * share / sum(shares) for share in shares]
    found = [int(x) for x in exact]
    by_remainder = sorted(range(len(found)), key=lambda i: (found[i] - exact[i], i))
    for i in by_remainder[: units - sum(found)]:
        found[i] += 1
    while min(found) < least:
        giving = max((i for i in range(len(found)) if found[i] > least), key=lambda i: (found[i] - exact[i], i))
        found[giving] -= 1
        found[found.index(min(found))] += 1
    sizes = [n * multiple for n in found]
    sizes[-1] += total - sum(sizes)
    return sizes


def balanced_shares(speeds: Sequence[float], budgets: Sequence[int], *, units: int, unit_bytes: int) -> list[int]:
    """Return the units of each board that make the slowest as fast as can be, within the boards' memory.

    Each board gets one unit; one after the other goes to the board that would have done with it first.

    Args:
        speeds: of the boards, in any unit.
        budgets: bytes that each board has for its share.
        units: groups of heads, or whatever is shared out.
        unit_bytes: memory of a unit.

    Raises:
        LanguageError: OUT_OF_MEMORY, the boards do not hold the model together.
    """
    room = [int(budget // unit_bytes) for budget in budgets]
    if sum(room) < units or min(room) < 1:
        raise LanguageError(
            "the boards do not hold the model together",
            got=f"room for {sum(room)} of {units} parts",
            remedy="Stream it (memory_budget_mb), or add a board.",
            state=State.OUT_OF_MEMORY,
        )
    found = [1] * len(speeds)
    for _ in range(units - len(speeds)):
        free = [i for i in range(len(speeds)) if found[i] < room[i]]
        found[min(free, key=lambda i: ((found[i] + 1) / speeds[i], i))] += 1
    return found


@dataclass(frozen=True)
class Shares:
    """Who computes what.

    Attributes:
        kv_heads: key/value heads of each rank; the query heads of a group go with them.
        hidden: columns of the feed-forward part of each rank.
        unit: columns of the feed-forward part that are never cut.
    """

    kv_heads: tuple[int, ...]
    hidden: tuple[int, ...]
    unit: int

    @classmethod
    def of(cls, shares: Sequence[float], sizes: Mapping[str, Any]) -> Shares:
        """Return the split of a model.

        Args:
            shares: share of the work of each rank, of any sum.
            sizes: the whole model's sizes, `column_unit` among them.

        Raises:
            LanguageError: BAD_INPUT, more boards than groups of heads, or a share that is not positive.
        """
        heads, unit = split_units(int(sizes["kv_heads"]), shares), int(sizes["column_unit"])
        units = split_units(-(-int(sizes["hidden"]) // unit), shares)
        columns = [n * unit for n in units]
        columns[-1] += int(sizes["hidden"]) - sum(columns)
        return cls(tuple(heads), tuple(columns), unit)

    def sizes(self, rank: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the native model's sizes for a rank."""
        per_kv = int(sizes["heads"]) // int(sizes["kv_heads"])
        share = {"kv_heads": self.kv_heads[rank], "heads": self.kv_heads[rank] * per_kv, "hidden": self.hidden[rank]}
        whole = {"whole_heads": sizes["heads"], "whole_hidden": sizes["hidden"], "column_unit": self.unit}
        first = {"first_kv_head": sum(self.kv_heads[:rank]), "first_column": sum(self.hidden[:rank])}
        return {**sizes, **share, **whole, **first}

    def describe(self, rank: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Return what an index says of a shard; `table` is the same for all shards that fit together."""
        table = {"kv_heads": list(self.kv_heads), "hidden": list(self.hidden), "heads": sizes["heads"]}
        table["unit"] = self.unit
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
        return {"rank": rank, "ranks": len(self.kv_heads), **table, "table": digest}


def trees(shard: Mapping[str, Any]) -> dict[str, SumTree]:
    """Return how sums over heads and feed-forward columns are made, of what an index says of a shard."""
    columns = [-(-n // shard["unit"]) for n in shard["hidden"]]
    return {"heads": SumTree(tuple(shard["kv_heads"])), "columns": SumTree(tuple(columns))}


def column_unit(hidden: int, *, blocked: bool) -> int:
    """Return the feed-forward columns of a model that are never cut, so that each sum over them is one of whole units.

    Args:
        hidden: columns.
        blocked: whether 256 columns of a weight share a scale.
    """
    from edge_nodes.native import _kernels

    return int(_kernels.unit_of(hidden, SCALE_BLOCK if blocked else TILE))


def unit_columns(parts: Mapping[str, Any]) -> int:
    """Return the columns of a packed matrix that must stay together: 256 if a scale holds for these, else a tile."""
    return SCALE_BLOCK if parts["bits"] in _BLOCKED and parts.get("scales", _NONE).size else TILE


def cut_block(tensors: Mapping[str, Any], shares: Shares, rank: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rank's share of an attention or feed-forward block.

    Raises:
        LanguageError: BAD_INPUT, heads would be cut within the columns that share a scale.
    """
    heads_per_kv, dim = int(sizes["heads"]) // int(sizes["kv_heads"]), int(sizes["head_dim"])
    kv = (sum(shares.kv_heads[:rank]) * dim, sum(shares.kv_heads[: rank + 1]) * dim)
    query = (kv[0] * heads_per_kv, kv[1] * heads_per_kv)
    hidden = (sum(shares.hidden[:rank]), sum(shares.hidden[: rank + 1]))
    rows = {"attn_q": query, "attn_k": kv, "attn_v": kv, "ffn_gate": hidden, "ffn_up": hidden}
    cols = {"attn_output": query, "ffn_down": hidden}
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        if name in rows:
            found[name] = cut_rows(value, *rows[name])
        elif name in cols:
            found[name] = cut_cols(value, *cols[name])
        elif name == "sub_norm":
            begin, end = query if "attn_q" in tensors else hidden
            found[name] = value[begin:end]
        else:
            found[name] = value
    return found


def cut_rows(parts: Mapping[str, Any], begin: int, end: int) -> dict[str, Any]:
    """Return rows of a packed matrix; `begin` is a multiple of 32, and `end` too unless it is the last row."""
    tiles = -(-parts["rows"] // TILE)
    first, last = begin // TILE, -(-end // TILE)
    _require(begin % TILE == 0 and (end % TILE == 0 or end == parts["rows"]), "rows", begin, end, TILE)
    arrays = {part: parts[part].reshape(tiles, -1)[first:last].reshape(-1) for part in _present(parts)}
    return {**parts, **arrays, "rows": end - begin}


def cut_cols(parts: Mapping[str, Any], begin: int, end: int) -> dict[str, Any]:
    """Return columns of a packed matrix, copied; `begin` is a multiple of `unit_columns`, and `end` too unless last."""
    tiles, unit = -(-parts["rows"] // TILE), unit_columns(parts)
    _require(begin % unit == 0 and (end % unit == 0 or end == parts["cols"]), "columns", begin, end, unit)
    arrays = {}
    for part in _present(parts):
        per = SCALE_BLOCK if part == "scales" and parts["bits"] in _BLOCKED else GROUP
        cut = parts[part].reshape(tiles, -(-parts["cols"] // per), -1)[:, begin // per : -(-end // per)]
        arrays[part] = cut.reshape(-1)
    return {**parts, **arrays, "cols": end - begin}


def _present(parts: Mapping[str, Any]) -> list[str]:
    return [part for part in ("codes", "scales", "mins") if part in parts and parts[part].size]


def _require(holds: bool, what: str, begin: int, end: int, unit: int) -> None:
    if not holds:
        raise LanguageError(
            f"a share would cut {what} that are packed together",
            got=f"{what} {begin} to {end}",
            expected=f"multiples of {unit}",
            remedy="Use fewer boards, or other shares.",
        )
