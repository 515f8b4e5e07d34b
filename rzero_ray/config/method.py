"""The sections of the method: what is sampled, rewarded, kept and learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rzero_ray.config.rules import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    a_share,
    above,
    at_least,
    below,
    between,
    count,
    either,
    optional_path,
    positive,
)
from rzero_ray.types import (
    CheckRule,
    LearningRule,
    NegativeRule,
    NoveltyRule,
    OpinionRule,
    RepetitionRule,
    RewardRule,
    ShareRule,
    SolverRewardRule,
    TieRule,
    UpdateRule,
    VotingRule,
)


@dataclass(frozen=True)
class SamplingConfig:
    """How a role draws tokens."""

    temperature: Annotated[float, between(0, HIGHEST_TEMPERATURE)] = 1.0
    top_p: Annotated[float, above(0, 1)] = 1.0
    """A value below 1 biases the trainer-sampler ratio, because the sampler renormalises."""
    top_k: Annotated[int, either(-1, count())] = -1
    max_tokens: Annotated[int, count()] = 4096


@dataclass(frozen=True)
class RolloutSamplingConfig(SamplingConfig):
    """How a role draws the tokens that it learns from.

    They need a distribution: the learner divides by the temperature that they were sampled at.
    """

    temperature: Annotated[float, between(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)] = 1.0


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, fresh at the start of each phase, as the official code's stages are."""

    learning_rate: Annotated[float, at_least(0)] = 1e-6
    weight_decay: Annotated[float, at_least(0)] = 1e-2
    beta1: Annotated[float, below(0, 1)] = 0.9
    beta2: Annotated[float, below(0, 1)] = 0.999
    epsilon: Annotated[float, positive()] = 1e-8
    warmup_updates: Annotated[int, count(0)] = 0
    """Linear warm-up, in optimizer steps; constant after."""
    max_grad_norm: Annotated[float, at_least(0)] = 1.0
    updates: UpdateRule = "every"
    """Which mini-batches become a step (`losses.UPDATE_RULES`): all, or those that have a gradient.
    Where the rewards of every group of a mini-batch are alike and there is no KL term, the
    gradient is 0, and AdamW moves the weights on all the same, by the momentum of the steps before.
    Not read where demonstrations are imitated, which always have a gradient."""


@dataclass(frozen=True)
class LossConfig:
    """The clipped policy-gradient loss with a KL term (`method.losses`)."""

    clip_low: Annotated[float, a_share()] = 0.2
    clip_high: Annotated[float, at_least(0)] = 0.3
    dual_clip: Annotated[float, either(0, at_least(1))] = 3.0
    """Bound on ratio x |advantage| for negative advantages; 0 is off."""
    kl_coefficient: Annotated[float, at_least(0)] = 1e-2
    """The weight of the KL term; 0 is off."""
    anchor: Literal["phase", "base"] = "phase"
    """The policy that the KL term holds to: the one at the start of the phase, as in the official
    code, which lets a run drift from phase to phase, or the base model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """The estimator of the KL term: the log-ratio (no gradient in expectation), half its square, or
    the official code's `low_var_kl`. The metric `kl` is k3 with each of them."""
    aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    """Mean over the tokens of the mini-batch (DAPO), mean over sequences of their token means
    (GRPO; also the official code with micro-batches of one sequence), or sum over tokens divided
    by sequences x sampling.max_tokens (Dr. GRPO). Exact over micro-batches and ranks."""
    importance_cap: Annotated[float, at_least(0)] = 2.0
    """Truncation of the trainer/sampler probability ratio; 0 is off."""


@dataclass(frozen=True)
class ChallengerConfig:
    """Training of the Challenger (paper, section 3.2)."""

    frozen: bool = False
    """The base Challenger poses all questions and never learns: the baseline `Base Challenger`."""
    num_steps: Annotated[int, count()] = 5
    num_prompts: Annotated[int, count()] = 128
    """Prompts of one step."""
    samples_per_prompt: Annotated[int, count()] = 4
    prompts_per_update: Annotated[int, count()] = 128
    """Prompts of one optimizer step."""
    advantage: Literal["per_prompt", "whole_batch"] = "per_prompt"
    """Normalise rewards over a prompt's samples, or over the whole step: all Challenger prompts
    are one text, so the second has the same expectation and less variance."""
    normalize_std: bool = True
    """Divide centred rewards by their standard deviation (GRPO), or only centre (Dr. GRPO)."""
    num_votes: Annotated[int, count()] = 10
    """Solver samples per question, m."""
    question_format: Literal["question_and_answer", "question"] = "question_and_answer"
    """What is well-formed, here and in the curriculum: a tagged question with a boxed answer after
    it (paper), or a tagged question (in effect the official code: `parsing.parse_question`)."""
    reward: RewardRule = "paper"
    """What a question earns from the votes on it (`rewards.CHALLENGER_REWARDS`)."""
    reward_floor: Annotated[float, a_share()] = 0.6
    """The agreement below which `reward=pace` pays nothing."""
    reward_peak: Annotated[float, between(0.01, 0.99)] = 0.85
    """The agreement at which `reward=pace` and `reward=darc` pay most."""
    novelty: NoveltyRule = "none"
    """What the memory of earlier questions makes of a reward (`novelty.NOVELTY_RULES`)."""
    memory: Annotated[int, count(0, 100_000)] = 0
    """How many of the last well-formed questions of earlier steps are remembered; 0 is no memory,
    which `novelty` and `reward=pasodoble` need."""
    start_from: Literal["own", "base", "solver"] = "own"
    """The model that the Challenger's phase of an iteration starts from: its own of the iteration
    before (R-Zero), the base model, or the current Solver (Prism)."""
    vocabulary_keep: Annotated[float, above(0, 1)] = 1.0
    """Share of the tokens that the Challenger may write in a step, others in each, also in the
    curriculum's (`method.vocabulary`); 1 is all."""
    repetition_rule: RepetitionRule = "symmetric"
    """`repetition.REPETITION_RULES`; `official` also counts malformed questions in the batch,
    `skeleton` counts the questions of one form and compares no words (`Task.skeleton`)."""
    repetition_threshold: Annotated[float, a_share()] = 0.5
    """Distance 1-BLEU below which questions join a cluster (average linkage)."""
    repetition_weight: Annotated[float, at_least(0)] = 1.0
    sampling: RolloutSamplingConfig = field(default_factory=RolloutSamplingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class CurriculumConfig:
    """Candidates, votes and the consistency band (paper, section 3.3)."""

    num_candidates: Annotated[int, count()] = 8000
    """Most candidates of an iteration; all of them unless `num_wanted` is reached before."""
    candidates_per_step: Annotated[int, count()] = 1000
    """Resume granularity: a step is sampled, voted on and written as one."""
    num_wanted: Annotated[int, count(0)] = 0
    """Kept questions after which no further step is sampled; 0 always spends `num_candidates`."""
    num_votes: Annotated[int, count()] = 10
    early_stopping: bool = False
    """Take no votes that can no longer change whether a question is kept, and with which label
    (`early_stopping.py`). Under `voting.rule=official` all votes are taken all the same."""
    min_agreement: Annotated[float, a_share()] = 0.25
    max_agreement: Annotated[float, a_share()] = 0.75
    """Questions whose majority share lies outside [min, max] are dropped."""
    question_format: Literal["as_trained", "question_and_answer", "question"] = "as_trained"
    """What is well-formed among the candidates: the same as in training
    (`challenger.question_format`), or one of its values."""
    filters: Literal["none", "official"] = "none"
    """Further reasons to drop a question; `official`: `selection.officially_refused`."""
    max_per_cluster: Annotated[int, count(0)] = 0
    """Most kept questions of one BLEU cluster of the iteration's kept questions; 0 is no limit."""
    cluster_threshold: Annotated[float, a_share()] = 0.5
    """Distance 1-BLEU below which questions join such a cluster."""
    max_voted: Annotated[int, count(0)] = 0
    """Questions with votes after which no further step is sampled, and then a repeat of an earlier
    step's question is not voted on; 0 is no limit. A frozen Challenger may so spend on rejection
    what a trained one spends on its rewards."""
    check: CheckRule = "none"
    """A second opinion on the kept questions' labels, for further votes
    (`phases.checking.LABEL_CHECKS`): `halves` solves a question in two parts."""
    replay_share: Annotated[float, below(0, 1)] = 0.0
    """Share of the Solver's questions that are of earlier iterations' curricula, with their labels
    of then."""
    questions_of: Annotated[str, optional_path()] = ""
    """Run directory of another run, whose kept questions the curriculum takes instead of asking the
    Challenger: each iteration its own (a yoked run). Needs `labels: oracle`."""
    labels: Literal["majority", "oracle"] = "majority"
    """What the Solver is taught: the majority's answers, or the true ones where the task has an
    oracle. `label_accuracy` is about the majority's answers in both cases."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the Challenger draws the candidates."""


@dataclass(frozen=True)
class VotingConfig:
    """How the Solver votes, in both phases that vote."""

    rule: VotingRule = "by_value"
    """How votes are counted (`voting.VOTING_RULES`). The evaluation's maj@k is always by value."""
    share: ShareRule = "answered"
    """What the majority is a share of, in the Challenger's reward and in the band: of the votes
    that hold an answer, or of all (`voting.MAJORITY_SHARES`)."""
    min_answered: Annotated[float, a_share()] = 0.5
    """Least share of votes that must hold an answer: below it a question is dropped from the
    curriculum, and earns nothing where `challenger.reward=discounted`."""
    ema_decay: Annotated[float, below(0, 1)] = 0.0
    """With a value above 0, an exponential moving average of the Solver's weights votes in place of
    the Solver: after each iteration decay x average + (1 - decay) x Solver, from the base model on.
    Source: Co-rewarding-II (arXiv 2508.00410), where it is taken after every step."""
    ties: TieRule = "text"
    """What becomes of a candidate on which two answers have the most votes: it is dropped, or
    labelled with the one that comes first in text order (first sampled, by the official rule)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class SolverConfig:
    """Training of the Solver on the curriculum (paper, section 3.4)."""

    num_steps: Annotated[int, count()] = 15
    num_prompts: Annotated[int, count()] = 128
    samples_per_prompt: Annotated[int, count()] = 5
    prompts_per_update: Annotated[int, count()] = 128
    normalize_std: bool = True
    """Divide centred rewards by their standard deviation (GRPO), or only centre (Dr. GRPO)."""
    reward: SolverRewardRule = "paper"
    """What an answer earns (`credit.SOLVER_CREDITS`): being the label, or under `restrain` a share
    of it for every answer, by how many of the same question's give it."""
    vote_spread: Annotated[float, between(0.01, 100)] = 0.5
    """Of `reward=restrain`: the spread of the weights over answers. The smaller, the more the
    largest answer has."""
    vote_floor: Annotated[float, a_share()] = 0.25
    """The same: where the largest answer has a smaller share of a question's, all are punished."""
    vote_penalty: Annotated[float, at_least(0)] = 1.0
    """The same: what is then taken from the advantages, which lie around 0 with a spread of 1."""
    sampling: RolloutSamplingConfig = field(default_factory=RolloutSamplingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class VerifierConfig:
    """A third policy from the base model, which learns to tell right solutions from wrong ones and
    confirms the curriculum's labels (`phases.verifier`)."""

    negatives: NegativeRule = "none"
    """From what it learns what is wrong (`verification.NEGATIVES`); `none` is no verifier."""
    learns: LearningRule = "always"
    """In every iteration, in the first that has examples enough, or never: the base model says then
    which labels it believes."""
    num_steps: Annotated[int, count()] = 30
    num_prompts: Annotated[int, count()] = 64
    """Examples of one step, half of them right."""
    prompts_per_update: Annotated[int, count()] = 64
    memory: Annotated[int, count(8, 10**7)] = 2000
    """The last examples, of all iterations, that it is taught."""
    max_judged: Annotated[int, count()] = 8
    """Most solutions of a kept question that it judges."""
    sampling: RolloutSamplingConfig = field(
        default_factory=lambda: RolloutSamplingConfig(max_tokens=16)
    )
    """Its verdicts are drawn greedily; the temperature is that of the learner's metrics."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    """Not read: it learns by cross-entropy."""


@dataclass(frozen=True)
class RefereeConfig:
    """A third policy from the base model, which says which of two answers is the better one, where
    a task knows no exact answers (`method=judged`, `phases.referee`)."""

    frozen: bool = False
    """The base model's referee compares all answers and never learns."""
    opinion: OpinionRule = "asked"
    """Who says which answer is better: the referee, or a coin (`phases.comparing.OPINIONS`), in a
    run that shows what the rest of the method does without one."""
    max_comparisons: Annotated[int, count(1, 100_000)] = 12
    """Most pairs of answers to one request that are compared, each in both orders."""
    num_steps: Annotated[int, count()] = 30
    num_prompts: Annotated[int, count()] = 32
    """Pairs of one step, each of which it is taught in both orders."""
    prompts_per_update: Annotated[int, count()] = 64
    """Demonstrations of one optimizer step: two are a pair's."""
    pairs_per_answer: Annotated[int, count(1, 1_000)] = 1
    """Spoilt forms that are made of each answer."""
    memory: Annotated[int, count(8, 10**7)] = 2000
    """The last pairs, of all iterations, that it is taught."""
    sampling: RolloutSamplingConfig = field(
        default_factory=lambda: RolloutSamplingConfig(max_tokens=16)
    )
    """Its verdicts are drawn greedily; the temperature is that of the learner's metrics."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    """Not read: it learns by cross-entropy."""

    @property
    def is_taught(self) -> bool:
        """Whether there is a referee that learns."""
        return self.opinion == "asked" and not self.frozen


LearningConfig = ChallengerConfig | SolverConfig | VerifierConfig | RefereeConfig
"""The settings of a role that learns."""


@dataclass(frozen=True)
class LabelledConfig:
    """Labelled data, for the methods that learn from it."""

    path: Annotated[str, optional_path()] = ""
    """JSON lines with `question`, `answer` and, for imitation, `solution`; or `tiny`, problems of
    task=arithmetic made here."""


@dataclass(frozen=True)
class PipelineConfig:
    """Overlap of sampling and learning."""

    staleness: Annotated[int, count(0, 1_000)] = 0
    """Steps by which rollouts may be behind the policy. 0 is strictly on-policy: sampling and
    learning take turns. With k, the next k steps are sampled while the learner updates, and
    `loss.importance_cap` corrects for the weights that sampled them."""
