"""The sections of what a run measures of itself: its accuracy, its labels, and its drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rzero_ray.config.rules import (
    HIGHEST_TEMPERATURE,
    LONGEST_S,
    LOWEST_TEMPERATURE,
    a_share,
    above,
    at_least,
    between,
    chat_address,
    count,
    limit,
    line,
    variable_name,
)


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation on the task's held-out problems, of the base and after each iteration."""

    num_samples: Annotated[int, count()] = 8
    """How many answers to a problem are sampled: the k of mean@k and maj@k."""
    temperature: Annotated[float, between(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)] = 1.0
    """The temperature of the sampled answers; the greedy one has none."""
    max_tokens: Annotated[int, count()] = 4096
    """The length of the longest answer, in tokens."""
    num_requests: Annotated[int, count()] = 128
    """How many requests of the Challenger are measured where no exact answer exists
    (`method=judged`)."""


@dataclass(frozen=True)
class EndpointConfig:
    """A chat endpoint like OpenAI's (`evaluation.endpoint`): a hosted model, or vLLM's server."""

    url: Annotated[str, chat_address()] = ""
    """The address, which ends with the version: `http://127.0.0.1:8000/v1`."""
    model: Annotated[str, line()] = ""
    """The name by which the endpoint knows the model."""
    key_env: Annotated[str, variable_name()] = "RZERO_ENDPOINT_KEY"
    """The environment variable that holds the key. The key itself is in no configuration; an
    endpoint that asks for none needs no variable."""
    temperature: Annotated[float, between(0, HIGHEST_TEMPERATURE)] = 0.0
    """The temperature at which the model answers; 0 is greedy."""
    max_tokens: Annotated[int, count()] = 1024
    """The length of the longest answer, in tokens."""
    timeout: Annotated[float, above(0, LONGEST_S)] = 120.0
    """How many seconds one attempt may take."""
    max_retries: Annotated[int, count(0, 100)] = 3
    """How many attempts follow one that failed, with growing pauses between them."""
    concurrency: Annotated[int, count(1, 10_000)] = 16
    """How many requests are under way at once."""


@dataclass(frozen=True)
class AuditConfig:
    """The label audit of each iteration: an oracle answers a sample of the kept questions."""

    oracle: Literal["none", "exact", "openai", "human"] = "none"
    """Who judges: nobody, the task's own solver (`task=arithmetic` and `task=ladder` have one), the
    model behind `endpoint`, or a person who fills in `iteration-NN/audit-human.csv`; `python -m
    rzero_ray audit` reads it back."""
    num_questions: Annotated[int, count()] = 200
    """The size of the sample; 200 is what the paper asked GPT-4o about."""
    min_accuracy: Annotated[float, a_share()] = 0.6
    """The label accuracy below which the run warns. The paper reports 79, 69 and 63 % over its
    three iterations: at .6 two labels in five teach the Solver a wrong answer."""
    stop: bool = False
    """Whether the run ends there instead of warning."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """The model that `oracle=openai` asks."""


@dataclass(frozen=True)
class DriftConfig:
    """The drift monitors of each iteration (`evaluation/drift/`): what is measured, when to warn.

    The thresholds are reasoned, not fitted: each marks where a person should look, not where a run
    is lost. Shares and ratios of answers compare with the answers of the first Solver step, which
    the base model gave; those of questions compare with the first curriculum.
    """

    num_sequences: Annotated[int, count(0)] = 64
    """How many rollouts of a role the base model scores for the KL; 0 leaves the KL out."""
    num_questions: Annotated[int, count()] = 500
    """How many questions are measured for their diversity; BLEU compares all pairs of them."""
    max_kl: Annotated[float, limit()] = 0.5
    """The largest KL(policy || base), in nats per token. Updates hold the KL to the start of their
    own phase near .01; half a nat means that the base model would rarely write such a text."""
    min_length_ratio: Annotated[float, at_least(0)] = 0.5
    """The smallest mean length of an answer, relative to the base model's."""
    max_length_ratio: Annotated[float, limit()] = 2.0
    """The largest mean length of an answer, relative to the base model's."""
    max_unanswered: Annotated[float, a_share()] = 0.2
    """The largest share of answers without a box."""
    max_truncated: Annotated[float, a_share()] = 0.1
    """The largest share of answers that the length limit cut."""
    max_script_change: Annotated[float, a_share()] = 0.1
    """The largest total variation distance between the scripts of the letters now and at first."""
    max_refusals: Annotated[float, a_share()] = 0.02
    """The largest share of answers with a phrase of `drift.figures.REFUSALS`."""
    max_degenerate: Annotated[float, a_share()] = 0.05
    """The largest share of answers that repeat themselves (`drift.figures.is_degenerate`)."""
    min_distinct_ratio: Annotated[float, at_least(0)] = 0.5
    """The smallest share of distinct 2-grams in the questions, relative to the first curriculum."""
    min_clusters: Annotated[float, a_share()] = 0.2
    """The smallest number of BLEU clusters per question; at 1 all questions are different."""
    max_gini: Annotated[float, a_share()] = 0.6
    """The largest Gini coefficient of the clusters' sizes; at 0 all are of one size."""
    stop: bool = False
    """Whether the run ends where a threshold is crossed instead of warning."""
