# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes models convert` and `plan`: language models as blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_nodes.cli import figures
from edge_nodes.errors import ParameterError
from edge_nodes.paging.plan import Plan, Profile
from edge_nodes.paging.plan import plan as plan_blocks
from edge_nodes.paging.window import huge_page_budget, smallest_budget, whole_pages

SHARES = (0.1, 0.25, 0.5, 0.75)  # of the blocks' bytes, beside the smallest budget and all


@dataclass(frozen=True)
class Split:
    """How a model is to be cut; numbers as words of the command line.

    Attributes:
        boards: how many.
        shares: share of the work of each; equal if there are none.
        speeds: speed of each, instead of shares.
        memory_mb: room of each for weights, MiB, with `speeds`; no limit if there are none.
    """

    boards: int = 1
    shares: Sequence[str] = ()
    speeds: Sequence[str] = ()
    memory_mb: Sequence[str] = ()

    def resolve(self, source: str) -> list[float]:
        """Return the share of each board; none for one board.

        Raises:
            EdgeNodesError: numbers that are not positive, or not one a board; boards that do not hold the model.
        """
        if self.boards == 1 and not (self.shares or self.speeds):
            return []
        if not self.speeds:
            return self._numbers("--shares", self.shares or ["1"] * self.boards)
        from edge_nodes.language.blocks.convert import weight_bytes
        from edge_nodes.language.blocks.shards import balanced_shares

        size, groups = weight_bytes(source)
        unit = -(-size // groups)
        rooms = [int(mb * 2**20) for mb in self._numbers("--memory-mb", self.memory_mb)] if self.memory_mb else []
        speeds = self._numbers("--speeds", self.speeds)
        return [
            float(n)
            for n in balanced_shares(speeds, rooms or [size + unit] * self.boards, units=groups, unit_bytes=unit)
        ]

    def _numbers(self, option: str, words: Sequence[str]) -> list[float]:
        try:
            found = [float(word) for word in words]
        except ValueError:
            found = []
        if len(found) != self.boards or min(found) <= 0.0:
            raise ParameterError(f"{option} must be a positive number for each board", got=",".join(words))
        return found


def convert(console: Console, model: str, out: Path, split: Split, *, dense: bool) -> None:
    """Write block directories and say where.

    Raises:
        EdgeNodesError: the model cannot be used, the directory exists, or the shares are not possible.
    """
    from edge_nodes.language.blocks.convert import convert as write

    with console.status(f"converting {model}") as status:
        folders = write(model, out, shares=split.resolve(model), dense=dense, progress=status.update)
    for folder in folders:
        console.print(f"blocks: {folder}", highlight=False, soft_wrap=True)


def plan(
    console: Console, model: str, *, budget_mb: int, context_tokens: int, threads: int, fresh: bool
) -> dict[str, Any]:
    """Return the figures of a range of budgets.

    Raises:
        EdgeNodesError: the model cannot be used, or `budget_mb` is too small.
    """
    from edge_nodes.language.blocks.directory import BlockDirectory
    from edge_nodes.language.blocks.profile import profile
    from edge_nodes.language.blocks.streamed_model import reserve
    from edge_nodes.language.blocks.streaming import block_directory, blocks_budget, context_limit
    from edge_nodes.language.engine import make_model

    with console.status(f"measuring {model}") as status:
        directory = BlockDirectory(block_directory(model, status.update))
        context = int(min(context_tokens, context_limit(directory.metadata)))
        native = make_model(directory.sizes, context, slots=1, kv_cache="f16", threads=threads, kernel="auto")
        reserve(native, directory)
        measured = profile(native, directory, status.update, fresh=fresh)
    fixed = int(native.cache_bytes) + int(native.work_bytes)
    budgets = grid(measured)
    if budget_mb:
        budgets = sorted({*budgets, blocks_budget(native, measured.sizes, budget_mb)})
    rows = [row(plan_blocks(measured, budget), fixed) for budget in budgets]
    config = {"model": directory.name, "context_tokens": context, "threads": int(native.threads)}
    rates = {m: round(rate / 1e6, 1) for m, rate in measured.bytes_per_s.items()}
    results: dict[str, Any] = {"budgets": rows, "read_mb_s": rates, "compute_ms": round(1e3 * sum(measured.use_s), 3)}
    results["smallest_mb"] = -(-(smallest_budget(measured.sizes) + fixed) >> 20)
    return figures.result("plan", config, {**results, "asked_mb": budget_mb}, [])


def grid(profile: Profile) -> list[int]:
    """Return budgets of blocks in bytes: the least of which all is read fast, some shares, all."""
    least, total = huge_page_budget(profile.sizes), sum(map(whole_pages, profile.sizes))
    return sorted({least, total, *(int(share * total) for share in SHARES if share * total > least)})


def row(found: Plan, fixed_bytes: int) -> dict[str, Any]:
    """Return what is said of a plan; `fixed_bytes` is the memory beside the blocks."""
    return {
        "budget_mb": -(-(found.budget_bytes + fixed_bytes) >> 20),
        "blocks_mb": round(found.budget_bytes / 2**20, 1),
        "pinned": len(found.pinned),
        "readers": found.readers,
        "token_ms": round(1e3 * found.run.pass_s, 2),
        "stall_ms": round(1e3 * found.run.stall_s, 2),
        "peak_mb": round((found.run.peak_bytes + fixed_bytes) / 2**20, 1),
    }


def show_plan(console: Console, result: dict[str, Any]) -> None:
    """Print the table."""
    found = result["results"]
    columns = ("budget_mb", "blocks_mb", "pinned", "readers", "token_ms", "stall_ms", "peak_mb")
    title = f"{result['config']['model']}: predicted per token, by memory budget (MiB)"
    figures.show_table(console, title, columns, ([r[c] for c in columns] for r in found["budgets"]))
    console.print(
        "blocks: weights in memory; pinned: blocks that stay; stall: the token's wait for the disk", highlight=False
    )
    console.print(f"smallest budget: {found['smallest_mb']} MiB", highlight=False)
    reading = ", ".join(f"{m}: {rate:g}" for m, rate in found["read_mb_s"].items())
    console.print(f"computing {found['compute_ms']} ms; reading MB/s by readers: {reading}", highlight=False)
