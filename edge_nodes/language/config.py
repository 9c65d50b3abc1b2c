# SPDX-License-Identifier: Apache-2.0
"""Parameters of the language node."""

from __future__ import annotations

from dataclasses import dataclass

from edge_nodes.parameters import group, parameter


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen from the model's distribution."""

    temperature: float = parameter(
        0.0, "Divides the logits; 0 always takes the most probable token.", minimum=0.0, maximum=5.0
    )
    top_k: int = parameter(40, "Only the k most probable tokens may be drawn; 0 for all.", minimum=0)
    top_p: float = parameter(
        0.95, "Only the smallest set of tokens of this total probability may be drawn.", minimum=0.0, maximum=1.0
    )
    min_p: float = parameter(
        0.0,
        "Only tokens of at least this share of the most probable token's probability may be drawn.",
        minimum=0.0,
        maximum=1.0,
    )
    repetition_penalty: float = parameter(
        1.0, "Divides the odds of tokens already in the answer; 1 for none.", minimum=1.0, maximum=3.0
    )
    logit_bias: str = parameter(
        "", 'JSON list of pairs of a token (its text or id) and what is added to its logit: [[" yes", 2], [7, false]].'
    )
    seed: int = parameter(0, "Seed of the random draws; the same seed gives the same answer.", minimum=0)


@dataclass(frozen=True)
class FusionConfig:
    """The loop that all requests share."""

    slots: int = parameter(
        4, "Requests that are answered at once; each has its own keys and values.", minimum=1, maximum=64, fixed=True
    )
    queue: int = parameter(16, "Requests that may wait; one more is refused.", minimum=0, maximum=10000, fixed=True)
    prefill_tokens: int = parameter(
        32, "Prompt tokens read between two tokens of running answers.", minimum=1, maximum=4096, fixed=True
    )
    latency_slack: float = parameter(
        1.2,
        "Times as long as alone that the request which came first may take for the sake of others: they get the rows "
        "of an iteration that this allows, until it has ended. 0: all share every iteration from the start.",
        minimum=0.0,
        maximum=100.0,
        fixed=True,
    )
    alarm_alone: bool = parameter(True, "Other answers pause while an alarm is told.", fixed=True)
    arrangement: str = parameter(
        "index",
        "Where requests lie in memory: a list of slots, or adjacent by filling gaps (window, swap).",
        choices=("index", "window", "window_fixed", "swap"),
        fixed=True,
    )


@dataclass(frozen=True)
class ReasoningConfig:
    """How often a question is answered before the answer is given."""

    mode: str = parameter(
        "single",
        "One attempt, several side by side, or several of which each sees the earlier ones.",
        choices=("single", "parallel", "sequential"),
    )
    attempts: int = parameter(3, "Attempts at each question, unless the mode is single.", minimum=1, maximum=32)
    max_new_tokens: int = parameter(
        128, "Longest attempt in tokens, unless the mode is single.", minimum=1, maximum=4096
    )
    temperature: float = parameter(
        0.7, "In place of sampling.temperature, unless the mode is single.", minimum=0.0, maximum=5.0
    )
    answer: str = parameter(
        "text",
        "What attempts are compared by: a number, a choice, or their words.",
        choices=("number", "choice", "text"),
    )
    vote: str = parameter(
        "inverse_entropy",
        "How the attempts elect the answer.",
        choices=(
            "inverse_entropy",
            "inverse_entropy_bare",
            "exp_entropy",
            "lowest_entropy",
            "majority",
            "last",
            "first",
            "linear_recency",
            "exponential_recency",
            "inverse_rank",
        ),
    )
    entropy: str = parameter(
        "top", "Entropy of the 20 most probable tokens, or of the whole vocabulary.", choices=("top", "full")
    )
    earlier: str = parameter("all", "Which earlier attempts the next one sees.", choices=("all", "last"))
    earlier_tokens: int = parameter(256, "How much of each earlier attempt it sees.", minimum=1, maximum=4096)
    early_stop: bool = parameter(True, "End as soon as no attempt to come could change the vote.")
    deadline_s: float = parameter(
        0.0,
        "An answer takes no longer than this; the best so far is given then. 0 for no limit.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )


@dataclass(frozen=True)
class PromptConfig:
    """What the model is told before a question."""

    template: str = parameter("", "Path of a jinja template to use instead of the package's prompt.jinja.")
    scene_max_age_s: float = parameter(
        5.0, "An older scene is not used for answers.", unit="s", minimum=0.1, maximum=3600.0
    )
    history: int = parameter(
        5, "Earlier scenes that are kept for questions about what was before; 0 for none.", minimum=0, maximum=100
    )
    history_step_s: float = parameter(
        2.0, "Shortest time between two scenes that are kept.", unit="s", minimum=0.1, maximum=3600.0
    )


@dataclass(frozen=True)
class BoardsConfig:
    """Several boards that share the model."""

    enabled: bool = parameter(
        False, "Share the model with other boards: it is a directory of shards, this is rank 0.", fixed=True
    )
    address: str = parameter("0.0.0.0", "Address that workers find this board's store at.", fixed=True)
    port: int = parameter(29500, "Port of the store.", minimum=1, maximum=65535, fixed=True)
    join_s: float = parameter(
        60.0, "Longest wait for the boards at the start.", unit="s", minimum=1.0, maximum=86400.0, fixed=True
    )
    deadline_s: float = parameter(
        5.0, "Longest wait for a board within a step.", unit="s", minimum=0.1, maximum=600.0, fixed=True
    )
    alone: str = parameter(
        "",
        "Whole model to carry on with, within memory_budget_mb, when a board is lost; empty: wait.",
        fixed=True,
    )
    allreduce: str = parameter(
        "auto",
        "How shares of a result are added up; auto: the fastest for its size when the boards joined.",
        choices=("auto", "direct", "star", "split", "ring"),
        fixed=True,
    )
    backend: str = parameter(
        "gloo",
        "Backend of torch.distributed; nccl (not tried yet) where every board has a GPU.",
        choices=("gloo", "nccl"),
        fixed=True,
    )


@dataclass(frozen=True)
class DeltaConfig:
    """Delta attention: keys are coded as changes, those that are small are left out."""

    theta: float = parameter(
        0.6,
        "Changes of a key's element up to this are left out; in place of a calibration.",
        minimum=0.0,
        maximum=1000.0,
    )
    calibration: str = parameter(
        "auto",
        "Thresholds of `edge-nodes models calibrate`: a file; auto: those kept for the model, if any; none: theta.",
    )
    window_scale: float = parameter(
        0.05,
        "Share of the prompt, or of what is cached, whose newest keys are exact; a calibration has its own.",
        minimum=0.0,
        maximum=1.0,
    )
    sink: int = parameter(1, "First keys that are exact; a calibration has its own.", minimum=0, maximum=4096)
    dense_below: int = parameter(
        256, "Tokens: shorter contexts use exact keys, which are faster there.", minimum=0, maximum=1_000_000
    )


@dataclass(frozen=True)
class LanguageConfig:
    """Parameters of the language node."""

    model: str = parameter("smollm2-135m", "Name of an installed model, or path of a GGUF file.", fixed=True)
    kernel: str = parameter(
        "auto",
        "Instruction set of the matrix products; lut and dot force how ternary weights are multiplied, which is "
        "otherwise measured; reference is plain C++. The result is the same.",
        choices=(
            "auto",
            "lut",
            "dot",
            "reference",
            "avx512vnni",
            "avxvnni",
            "avx2",
            "neondot",
            "neon",
            "portable",
        ),
        fixed=True,
    )
    threads: int = parameter(
        0,
        "Threads of the engine; 0 for half of the processors, which leaves the rest to the other nodes.",
        minimum=0,
        maximum=256,
        fixed=True,
    )
    context_tokens: int = parameter(
        2048, "Tokens that prompt and answer may hold together.", minimum=128, maximum=131072, fixed=True
    )
    kv_cache: str = parameter(
        "f16",
        "What keys and values are kept as; f32 takes twice the memory, i8 half of it.",
        choices=("f16", "f32", "i8"),
        fixed=True,
    )
    attention: str = parameter(
        "dense",
        "Scores of all keys, or of those that change (delta); the next request has it.",
        choices=("dense", "delta"),
    )
    delta: DeltaConfig = group(DeltaConfig)
    memory_budget_mb: int = parameter(
        0,
        "Most memory of weights, keys, values and work space; weights beyond it are streamed from disk. 0: no limit.",
        unit="MiB",
        minimum=0,
        maximum=1048576,
        fixed=True,
    )
    max_new_tokens: int = parameter(64, "Longest answer in tokens.", minimum=1, maximum=4096)
    boards: BoardsConfig = group(BoardsConfig)
    sampling: SamplingConfig = group(SamplingConfig)
    fusion: FusionConfig = group(FusionConfig)
    reasoning: ReasoningConfig = group(ReasoningConfig)
    prompt: PromptConfig = group(PromptConfig)
    reply_grammar: str = parameter(
        "", "Path of a JSON schema (.json) or a grammar in Lark's notation (.lark) that every answer follows."
    )
    narrate: str = parameter("off", "Whether the model speaks up without being asked.", choices=("off", "alarms"))
    narrate_interval_s: float = parameter(
        5.0, "Shortest time between two narrations.", unit="s", minimum=0.0, maximum=3600.0
    )
    barge_in: bool = parameter(True, "Speech that starts stops the running answers, alarms apart.")
