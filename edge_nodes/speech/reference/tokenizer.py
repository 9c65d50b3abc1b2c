# SPDX-License-Identifier: Apache-2.0
"""The pieces that the reference's symbols stand for: a SentencePiece model file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_nodes.errors import State
from edge_nodes.speech.errors import SpeechError

BLANK = 0
BLANK_PIECE = "@"


class Tokenizer:
    """Text to pieces and back, with the package sentencepiece. The published models know upper case only.

    Args:
        path: SentencePiece model whose piece 0 is "@", the CTC blank.

    Raises:
        SpeechError: sentencepiece is not installed; there is no such file (MODEL_MISSING); it is not a SentencePiece
            model, or not one with that blank (MODEL_BAD).
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path).expanduser()
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise SpeechError(
                "the reference's tokenizer needs the package sentencepiece, which is not installed",
                remedy="Install it: pip install 'edge_nodes[reference]', or pip install sentencepiece.",
                state=State.MODEL_MISSING,
            ) from error
        if not path.is_file():
            raise SpeechError(
                "there is no such tokenizer",
                got=path,
                expected="a SentencePiece model such as libri.bpe-256.model",
                state=State.MODEL_MISSING,
            )
        try:
            data = path.read_bytes()
            if not data:
                raise _bad(path, "an empty file")
            self._pieces = SentencePieceProcessor(model_proto=data)
        except (RuntimeError, OSError) as error:
            raise _bad(path, str(error).splitlines()[0]) from error
        blank = self._pieces.id_to_piece(BLANK) if len(self) else "nothing"
        if blank != BLANK_PIECE:
            raise _bad(path, f"{blank!r} as piece 0")

    def __len__(self) -> int:
        """Return the number of pieces, with the blank."""
        return int(self._pieces.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's pieces, without <s> and </s>; the text is taken in upper case."""
        return [int(i) for i in self._pieces.encode(text.upper())]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of pieces; blanks, <s>, </s>, <pad> and <unk> say nothing.

        Raises:
            SpeechError: an id that no piece has.
        """
        pieces = self._pieces
        if any(not 0 <= i < len(self) for i in ids):
            raise SpeechError("no piece has this id", got=list(ids), expected=f"0 to {len(self) - 1}")
        spoken = [i for i in ids if i != BLANK and not pieces.is_control(i) and not pieces.is_unknown(i)]
        return str(pieces.decode(spoken))

    def read(self, best: NDArray[np.integer[Any]]) -> str:
        """Return the text of the best piece of each frame, (T,) integer, in lower case (greedy CTC decoding)."""
        return " ".join(self.decode([int(i) for i, _ in groupby(best.tolist())]).lower().split())


def beside(checkpoint: str | Path) -> Path:
    """Return the SentencePiece model in a checkpoint's folder.

    Raises:
        SpeechError: there is none, or more than one (MODEL_MISSING).
    """
    folder = Path(checkpoint).expanduser().parent
    found = sorted(folder.glob("*.model"))
    if len(found) != 1:
        raise SpeechError(
            "the reference's tokenizer is not named",
            got=f"{len(found)} files *.model in {folder}",
            expected="one",
            remedy="Put its file (such as libri.bpe-256.model) there, or set the parameter reference.tokenizer.",
            state=State.MODEL_MISSING,
        )
    return found[0]


def _bad(path: Path, got: str) -> SpeechError:
    return SpeechError(
        f"{path} is not the tokenizer of a reference model",
        got=got,
        expected=f"a SentencePiece model with {BLANK_PIECE!r} as piece 0",
        remedy="Take the file that the checkpoint was trained with.",
        state=State.MODEL_BAD,
    )
