"""The sections of what a run measures of itself: accuracy, label audit, drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on the task's held-out problems after each iteration, and of the base."""

    num_samples: int = 8
    """k of mean@k and maj@k."""
    max_tokens: int = 4096



@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible chat endpoint (`endpoint.py`): a hosted model, or a vLLM server."""

    url: str = ""
    """Its base, with the version: `http://127.0.0.1:8000/v1`."""
    model: str = ""
    """The name by which the endpoint knows the model."""
    key_env: str = "RZERO_ENDPOINT_KEY"
    """The environment variable that holds the key. The key itself is in no configuration; an
    endpoint that asks for none needs no variable."""
    temperature: float = 0.0
    max_tokens: int = 1024
    timeout: float = 120.0
    """Seconds of one attempt."""
    max_retries: int = 3
    """Further attempts after one that failed, with growing pauses between them."""
    concurrency: int = 16
    """Requests under way at once."""



@dataclass(frozen=True)
class AuditConfig:
    """The label audit of each iteration: an oracle answers a sample of the kept questions."""

    oracle: Literal["none", "exact", "openai", "human"] = "none"
    """Nobody, the task's own solver (`task=arithmetic`), the model behind `endpoint`, or a person
    who fills in `iteration-NN/audit-human.csv` (`python -m rzero_ray audit` reads it back)."""
    num_questions: int = 200
    """Size of the sample; 200 is what the paper asked GPT-4o about."""
    min_accuracy: float = 0.6
    """Label accuracy below which the run warns. The paper reports 79, 69 and 63 % over its three
    iterations: at .6 two labels in five teach the Solver a wrong answer."""
    stop: bool = False
    """End the run there instead of warning."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)



@dataclass(frozen=True)
class DriftConfig:
    """The drift monitors of each iteration (`drift.py`): what is measured, and when to warn.

    The thresholds are reasoned, not fitted: each marks where a person should look, not where a run
    is lost. Shares and ratios of answers compare with the answers of the first Solver step, which
    the base model gave; those of questions compare with the first curriculum.
    """

    num_sequences: int = 64
    """Rollouts per role that the base model scores for the KL; 0 leaves the KL out."""
    num_questions: int = 500
    """Questions whose diversity is measured; BLEU compares all pairs of them."""
    max_kl: float = 0.5
    """Nats per token of KL(policy || base). Updates hold the KL to the start of their own phase
    near .01; half a nat means that the base model would rarely write such a text."""
    min_length_ratio: float = 0.5
    """Mean tokens of an answer, relative to the base model's."""
    max_length_ratio: float = 2.0
    max_unanswered: float = 0.2
    """Share of answers without a box."""
    max_truncated: float = 0.1
    """Share of answers that the length limit cut."""
    max_script_change: float = 0.1
    """Total variation distance between the Unicode scripts of the letters now and at first."""
    max_refusals: float = 0.02
    """Share of answers with a phrase of `drift.REFUSALS`."""
    max_degenerate: float = 0.05
    """Share of answers that repeat themselves (`drift.is_degenerate`)."""
    min_distinct_ratio: float = 0.5
    """Distinct 2-grams per 2-gram of the questions, relative to the first curriculum's."""
    min_clusters: float = 0.2
    """BLEU clusters per question; 1 is all different."""
    max_gini: float = 0.6
    """Of the sizes of the clusters: 0 is all of one size."""
    stop: bool = False
    """End the run where a threshold is crossed instead of warning."""
