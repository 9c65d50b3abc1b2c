# SPDX-License-Identifier: Apache-2.0
"""The models of Splitformer's authors: their checkpoints load and give their numbers.

`load` reads a checkpoint of the Splitformer (arXiv 2506.18035) or of the early-exit Conformer it is compared with
(arXiv 2309.09546), `features` computes what these networks take, `Tokenizer` turns their pieces into text, and
`ReferenceModel` puts the three behind the interface of `model.ExitModel`.
"""

from __future__ import annotations

from edge_nodes.speech.reference.checkpoint import load
from edge_nodes.speech.reference.mel import features
from edge_nodes.speech.reference.model import ReferenceModel
from edge_nodes.speech.reference.network import Network, Sizes
from edge_nodes.speech.reference.tokenizer import Tokenizer

__all__ = ["Network", "ReferenceModel", "Sizes", "Tokenizer", "features", "load"]
