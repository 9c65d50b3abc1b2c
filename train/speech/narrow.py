# SPDX-License-Identifier: Apache-2.0
"""Keep some of a prepared file's training items: python -m train.speech.narrow IN.pt OUT.pt SOURCE[:SECONDS] ...

SOURCE is the beginning of a source's name, SECONDS the longest item kept of it. Held-out items all stay.
"""

from __future__ import annotations

import sys

import torch

FRAMES_A_SECOND = 100


def keep(item: tuple, rules: list[tuple[str, float]]) -> bool:
    """Return whether (source, text, symbols, mel) fits one of the (prefix, seconds) rules."""
    source, frames = item[0], item[3].shape[1]
    return any(source.startswith(prefix) and frames < seconds * FRAMES_A_SECOND for prefix, seconds in rules)


def main() -> None:
    source, target, *wanted = sys.argv[1:]
    split = [rule.partition(":") for rule in wanted]
    rules = [(prefix, float(seconds or "inf")) for prefix, _, seconds in split]
    sets = torch.load(source)
    sets["train"] = [item for item in sets["train"] if keep(item, rules)]
    torch.save(sets, target)
    print(f"{len(sets['train'])} items kept")


if __name__ == "__main__":
    main()
