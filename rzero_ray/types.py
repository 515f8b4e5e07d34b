"""Every record that crosses a boundary between roles, shapes first.

Shape suffixes used in the whole project: P prompts, G group, M votes, T tokens, B micro-batch,
V vocabulary. A record is immutable; arrays inside it are read-only by convention.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

Role = Literal["challenger", "verifier", "referee", "solver"]
PhaseName = Literal["challenger", "curriculum", "verifier", "audit", "referee", "solver", "drift"]
VotingRule = Literal["by_value", "official"]
"""How votes are counted; see `voting.VOTING_RULES`."""
RewardRule = Literal[
    "paper",
    "official",
    "discounted",
    "pace",
    "absolute_zero",
    "sqlm",
    "spell",
    "darc",
    "multi_agent_evolve",
    "proposer_solver",
    "pasodoble",
]
"""What a question earns; see `rewards.CHALLENGER_REWARDS`."""
SolverRewardRule = Literal["paper", "official", "restrain"]
"""What an answer earns; see `credit.SOLVER_CREDITS`."""
ShareRule = Literal["answered", "all"]
"""What the majority is a share of; see `voting.MAJORITY_SHARES`."""
TieRule = Literal["drop", "text"]
"""What becomes of a question on which two answers have the most votes; see `selection`."""
NoveltyRule = Literal["none", "similarity", "coverage"]
"""What a memory of earlier questions makes of a reward; see `novelty.NOVELTY_RULES`."""
CheckRule = Literal["none", "halves"]
"""A second opinion on labels; see `phases.checking.LABEL_CHECKS`."""
NegativeRule = Literal["none", "rarest", "structure"]
"""From what a verifier learns what is wrong; see `verification.NEGATIVES`."""
LearningRule = Literal["always", "once", "never"]
"""In which iterations a verifier learns; see `phases.verifier`."""
OpinionRule = Literal["asked", "tossed"]
"""Who says which of two answers is better; see `phases.comparing.OPINIONS`."""
UpdateRule = Literal["every", "with_gradient"]
"""Which mini-batches become an optimizer step; see `losses.UPDATE_RULES`."""
RepetitionRule = Literal["symmetric", "official", "skeleton"]
"""How repetition is measured; see `repetition.REPETITION_RULES`."""
GradingRule = Literal["math", "choice", "text"]
"""How an answer is held against its reference; see `answers.choices`."""
Activity = Literal[
    "sampling", "scoring", "grading", "learning", "loading", "saving", "weight sync", "moving"
]
"""What an actor may be at; `moving` is to leave a shared device, or to come back to it."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one line: what is wrong, where, and the fix.

    The driver prints it without a traceback and exits with code 2.
    """


class RunError(Exception):
    """The run cannot go on, for a reason that one line tells; the same command resumes it.

    The driver prints it without a traceback and exits with code 1.
    """


class BudgetSpentError(Exception):
    """The run has spent what it may, and has ended at a finished step; its text is one line.

    The driver prints it without a traceback and exits with code 3.
    """


class LearnerLostError(RunError):
    """The learner died and another one has taken its place, which holds nothing yet.

    A phase of learning goes on from what it has written (`phases.learning`).
    """


class TooLongError(RunError):
    """A prompt leaves the model no room for an answer; its text is one line.

    `Policy.sample` raises it. Where a model wrote the prompt's question, that question is dropped;
    elsewhere it ends the run.
    """


class Message(TypedDict):
    """One turn of a chat, in the form that `apply_chat_template` takes."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float
    """0.0 is greedy."""
    top_p: float
    top_k: int
    """-1 is off."""
    max_tokens: int
    """Longest completion, in tokens."""
    vocabulary: Vocabulary | None = None
    """The tokens that may be drawn; None is all of them. Log-probabilities are of these alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A part of a model's tokens, chosen by chance (`method.vocabulary`)."""

    keep: float
    """The probability of a token to be in it."""
    seed: int
    always: tuple[str, ...]
    """Texts whose tokens are in it whatever chance says, as are those that end an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """One prompt to be answered `num_samples` times."""

    messages: tuple[Message, ...]
    num_samples: int
    seed: int
    """Sample k of the request draws with `seed + k`, whichever engine serves it."""
    sampling: Sampling
    reads_tokens: bool = True
    """Whether token ids, their log-probabilities and weights are read, as of what is trained on.
    Where they are not, they are neither computed nor sent: `Completion` says what stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightVersion:
    """The weights of a role while it learns."""

    role: Role
    iteration: int
    num_steps: int
    """The steps of its phase that they have learned from."""

    @property
    def name(self) -> str:
        """Return the name by which logs, events and vLLM know them: `solver-01-003`."""
        return f"{self.role}-{self.iteration:02d}-{self.num_steps:03d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedModel:
    """The weights of a folder in Hugging Face format, which nothing trains now."""

    folder: Path

    @property
    def name(self) -> str:
        """Return the name by which logs, events and vLLM know them: that of the folder."""
        return self.folder.name


Weights = WeightVersion | FinishedModel
"""What is published into an engine; the name tells one from another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """One sampled answer.

    To a request that reads no tokens it has no more than text, length and end: the arrays and the
    spans are empty.
    """

    text: str
    """The completion as text, special tokens left out; `<think>` is in front where the prompt ends
    inside a thought."""
    num_tokens: int
    """T, at least 1."""
    finished: bool
    """False when the length limit cut it."""
    prompt_ids: NDArray[np.int32]
    """[prompt length] token ids of the rendered prompt."""
    token_ids: NDArray[np.int32]
    """[T] sampled token ids, the end-of-sequence token included."""
    logprobs: NDArray[np.float32]
    """[T] log-probability (nats) under the sampler of each sampled token."""
    weight_versions: tuple[tuple[Weights | None, int, int], ...]
    """(weights, start, end) spans over T: which weights sampled which tokens. None stands for those
    that an engine started with, before anything was published into it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """What the learner needs of one completion."""

    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    advantage: float
    prompt_index: int
    """Position of the prompt in the step, 0..P-1: mini-batches are cut by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """How weights have travelled into one or more engines."""

    num_bytes: int
    num_engines: int
    seconds: float
    seconds_engines_paused: float
    """Longest time that one engine stood still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """Log-probabilities of fixed prompts, engine against learner, after a sync."""

    max_difference: float
    """Largest absolute difference over probe tokens and engines, in nats."""
    mean_difference: float
    bound: float
    """What the sync was held to, in nats (`weights.max_probe_difference`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """One publication of weights: how they travelled, and that they arrived."""

    role: Role
    """Whose engines have got them."""
    version: Weights
    transfer: TransferReport
    probe: ProbeReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningReport:
    """What one step of learning did. Means are over completion tokens unless stated."""

    num_updates: int
    """Optimizer steps taken: one per mini-batch, or fewer (`OptimizerConfig.updates`)."""
    num_tokens: int
    """Completion tokens of all mini-batches."""
    loss: float
    """The loss with tokens weighed as `LossConfig.aggregation` says; mean over the
    mini-batches."""
    kl: float | None
    """k3 estimate of KL(policy || reference, `Phase.anchor`), nats per token; None where the
    loss has no KL term, because nothing then computes the reference's log-probabilities."""
    entropy: float
    """Entropy of the next-token distribution, nats per token."""
    grad_norm: float
    """Before clipping; mean over the mini-batches, of which one that is not learned from has 0."""
    clip_share: float
    """Share of tokens whose ratio the clip cut."""
    learning_rate: float
    """Of the last optimizer step of the phase; 0 before the first."""
    logprob_difference_mean: float
    """Trainer against sampler on the sampled tokens, mean absolute difference in nats."""
    logprob_difference_max: float
    importance_truncated_share: float
    """Share of tokens whose trainer/sampler probability ratio `importance_cap` cut."""
    importance_mean: float
    """Mean of the truncated ratio; 1 where trainer and sampler agree, or the cap is off."""
    mismatch_kl: float
    """k3 estimate of KL(sampler || trainer), nats per token; biased when top_p is below 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """One step of learning, and how its weights reached the engines."""

    learning: LearningReport
    sync: SyncReport
    saving: asyncio.Task[None] | None = None
    """The checkpoint of the step while it is being written; None where none is due, or it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with its known answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedPair:
    """Two answers to a request, of which one is better by the task's hidden quality."""

    request: str
    better: str
    worse: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledProblem:
    """A question with its known answer and, for imitation, how to get there."""

    question: str
    answer: str
    solution: str
    """What is imitated: ends with the boxed answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedText:
    """A text that a model will be given, and where it comes from."""

    where: str
    """The file and line, or what else names it to the user."""
    messages: tuple[Message, ...]
    """The prompt."""
    answer: str
    """What is imitated behind the prompt; empty where the model answers itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProblem:
    """A problem of a benchmark, whatever data set it comes from."""

    question: str
    """Without its options."""
    answer: str
    """The reference; of a multiple-choice problem the letter of the right option."""
    rule: GradingRule = "math"
    options: tuple[str, ...] = ()
    """Texts of the options A, B, C, ...; empty unless `rule` is `choice`."""
    category: str = ""
    """Subject or subtask, where the data set has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Responses to one problem, held against its reference."""

    answers: tuple[str | None, ...]
    """Per response the reference itself where it is right, the answer as read where it is wrong,
    None where there is none."""
    majority: str | None
    """The answer that most responses give, in the same form; None when nothing was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumItem:
    """A row of `curriculum.parquet`: a kept question with its majority pseudo-label."""

    question: str
    label: str
    agreement: float
    """Share of the votes taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """The Solver's answers to one question, counted."""

    answers: tuple[str | None, ...]
    """[M] parsed answers; None where a response holds none."""
    label: str | None
    """The majority answer, or None when nothing was answered: the pseudo-label."""
    num_agree: int
    """Votes equivalent to the label."""
    num_votes: int
    """Votes that hold an answer; M minus this are unanswered and, in the paper, no vote."""
    clusters: tuple[tuple[str, int], ...] = ()
    """(most frequent surface form, votes) of each distinct answer, the majority first."""
    form_counts: tuple[tuple[int, ...], ...] = ()
    """[clusters][surface forms] votes, in the order of `clusters`, the label's form first of its
    cluster. Empty under the official rule, which has no use for it."""
    may_move: bool = True
    """Whether further votes could take an answer out of its cluster: where a cluster holds several
    canonical forms, an answer may come that equals one of them only, and has more votes."""
    num_ambiguous: int = 0
    """Votes that are equivalent to an answer of another cluster as well (`5` beside `5 cm` and
    `5 m`). Under the official rule they are not looked for."""

    @property
    def agreement(self) -> float:
        """The paper's p (section 3.2): `num_agree / num_votes` in [0, 1], 0 without a vote.

        The share of the votes that hold an answer. The paper divides by all m votes:
        `voting.MAJORITY_SHARES` has both.
        """
        return self.num_agree / self.num_votes if self.num_votes else 0.0

    @property
    def answered(self) -> float:
        """Share of samples that hold an answer."""
        return self.num_votes / len(self.answers) if self.answers else 0.0

    @property
    def is_tied(self) -> bool:
        """Whether a second distinct answer has as many votes as the label."""
        return len(self.clusters) > 1 and self.clusters[0][1] == self.clusters[1][1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attempt:
    """A question as the Challenger wrote it, with the Solver's votes: a row of the parts in which a
    step is kept while it goes on."""

    prompt_index: int
    """Which of the step's prompts it answers."""
    prompt_ids: NDArray[np.int32]
    """Empty, as the next two, where nobody learns from it."""
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    text: str
    num_tokens: int
    """Tokens of the question as sampled."""
    weight_version: str
    """The name of the weights that sampled the last token."""
    weight_num_steps: int | None
    """The steps of the phase that these had learned from; None outside of one."""
    question: str | None
    """None when malformed or too long; then nobody voted."""
    too_long: bool
    """Whether the question was well-formed but leaves the Solver no room to answer."""
    answers: tuple[str | None, ...]
    """[M] the answers of the votes taken."""
    label: str | None
    num_agree: int
    num_votes: int
    num_ambiguous: int
    cluster_forms: tuple[str, ...]
    """`Ballot.clusters`: the form of each."""
    cluster_votes: NDArray[np.int32]
    """`Ballot.clusters`: the votes of each."""
    vote_tokens: int
    """Tokens of the votes."""
    vote_texts: tuple[str, ...] = ()
    """[M] what was sampled as votes, where somebody reads it (`verifier.negatives`)."""

    @property
    def ballot(self) -> Ballot:
        """The votes as they were counted, without what only decides how many more to take."""
        return Ballot(
            answers=self.answers,
            label=self.label,
            num_agree=self.num_agree,
            num_votes=self.num_votes,
            clusters=tuple(zip(self.cluster_forms, self.cluster_votes.tolist(), strict=True)),
            num_ambiguous=self.num_ambiguous,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChallengerSample:
    """A row of `rollouts.parquet` of the Challenger phase: one question with its votes."""

    prompt_index: int
    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    text: str
    weight_version: str
    """The name of the weights that sampled the last token."""
    weight_num_steps: int | None = None
    """The steps of the phase that these had learned from; None where that was not recorded."""
    question: str | None
    """None when malformed."""
    answers: tuple[str | None, ...]
    """[M] the Solver's answers; empty when the question is malformed."""
    label: str | None
    num_agree: int
    num_votes: int
    repetition_share: float
    """Share of the step's well-formed questions in this question's cluster."""
    reward: float
    advantage: float
    too_long: bool = False
    """Whether the question counts as malformed because it leaves the Solver no room to answer."""
    num_ambiguous: int = 0
    """Votes that equal an answer of another cluster as well (`Ballot.num_ambiguous`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolverSample:
    """A row of `rollouts.parquet` of the Solver phase: one answer to a curriculum question."""

    prompt_index: int
    question: str
    label: str
    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    text: str
    weight_version: str
    """The name of the weights that sampled the last token."""
    weight_num_steps: int | None = None
    """The steps of the phase that these had learned from; None where that was not recorded."""
    answer: str | None
    reward: float
    advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row of `candidates.parquet`: a question offered to the curriculum."""

    text: str
    """What the Challenger wrote."""
    question: str | None
    answers: tuple[str | None, ...]
    """The answers of the votes taken, the first in the order of their seeds: fewer than
    `curriculum.num_votes` where the rest could change nothing (`early_stopping`), and none at all
    where no vote could. A vote taken that holds no answer is None."""
    label: str | None
    num_agree: int
    num_votes: int
    num_tokens: int
    """Tokens of the question as sampled."""
    dropped: str | None
    """Why it is not in the curriculum; None for a kept question."""
    truth: str | None
    """The exact answer where the task has an oracle and the question has one."""
    vote_tokens: int = 0
    """Tokens of the votes taken."""
    tied: bool = False
    """Whether a second distinct answer has as many votes as the label."""
    num_ambiguous: int = 0
    """Votes that equal an answer of another cluster as well (`Ballot.num_ambiguous`)."""
    vote_texts: tuple[str, ...] = ()
    """What was sampled as votes, in the order of `answers`, where somebody reads it
    (`verifier.negatives`)."""
    check_votes: int = 0
    """Further votes that were taken to check the label (`curriculum.check`)."""

    @property
    def agreement(self) -> float:
        """Share of the votes taken that agree with the majority."""
        return self.num_agree / self.num_votes if self.num_votes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierExample:
    """A row of `iteration-NN/verifier-examples.parquet`: a solution that is held to be right, or
    wrong."""

    question: str
    solution: str
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A row of `iteration-NN/verdicts.parquet`: what the verifier says of a kept question."""

    question: str
    label: str
    num_judged: int
    """Solutions with the label as their answer that were judged."""
    num_right: int
    """Those that were judged right."""

    @property
    def is_confirmed(self) -> bool:
        """Whether more than half of the solutions were judged right."""
        return 2 * self.num_right > self.num_judged


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedRequest:
    """A row of `iteration-NN/requests.parquet`: a request that the Solver learns from."""

    request: str
    answers: tuple[str, ...]
    """What the Solver wrote to it before it learned, from which the referee's pairs are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedPair:
    """A row of `iteration-NN/referee-pairs.parquet`: an answer, and what became of it when
    something in it was spoilt. By this alone the first counts as the better one."""

    request: str
    better: str
    worse: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A row of `comparisons.parquet`: what a referee says of two answers to a request."""

    prompt_index: int
    """Which of the step's requests it is."""
    first_index: int
    """Which of the request's answers is the first one, from 0."""
    second_index: int
    request: str
    first: str
    second: str
    verdict: str | None
    """`1` or `2` for the first or the second answer, None for anything else that was said."""
    verdict_swapped: str | None
    """What was said when the answers were shown in the other order: `1` is the second one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseScore:
    """A row of `base-logprobs.parquet`: one rollout of a role's last step under the base model."""

    role: str
    row: int
    """The row of that step's `rollouts.parquet`, from 0."""
    policy_logprobs: NDArray[np.float32]
    """[T] as the sampler reported them; tokens that the engine cannot score are left out."""
    base_logprobs: NDArray[np.float32]
    """[T] of the same tokens under the base model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedLabel:
    """A row of `audit-ORACLE.parquet`: a pseudo-label, and what the oracle says of it."""

    question: str
    label: str
    answer: str | None
    """The oracle's own answer; None where it has none, or only judged the label."""
    verdict: str
    """`right`, `wrong`, or `unknown` where the oracle cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of learning, as the learner needs it."""

    iteration: int
    """From 1."""
    role: Role
    initial_model: Path
    """Hugging Face folder of the policy at the start of the phase."""
    checkpoint: Path | None
    """State after the last finished step, when the phase was interrupted."""
    num_finished_steps: int
    final_model: Path
    """Where the policy goes at the end of the phase."""
    anchor: Path | None = None
    """Hugging Face folder of the KL term's reference; None stands for `initial_model`."""

    def version(self, num_steps: int) -> WeightVersion:
        """Return the version of the weights after `num_steps` steps of this phase."""
        return WeightVersion(role=self.role, iteration=self.iteration, num_steps=num_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a phase."""

    iteration: int
    phase: PhaseName
    index: int
    """From 1."""
    checkpoint: Path | None = None
    """Where to save the learner after the update; None when this step saves none."""

    @property
    def key(self) -> str:
        """Path of the step inside the run directory, and its name in the manifest."""
        return f"{iteration_key(self.iteration)}/{self.phase}/step-{self.index:03d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The row of `iteration-NN/standing.parquet`: whether the models of an iteration stand."""

    iteration: int
    signal: float
    """What was measured (`method.rollback`)."""
    good: int
    """The iteration whose models the next one starts from: this one where they stand."""


def standing_key(iteration: int) -> str:
    """Return the key of an iteration's `Standing`."""
    return f"{iteration_key(iteration)}/standing"


def iteration_key(iteration: int) -> str:
    """Return the folder of an iteration inside the run directory, and its name in the manifest."""
    return f"iteration-{iteration:02d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRequest:
    """What `rzero scale` asks of a run: a role with so many engines at least and at most."""

    role: Role
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleChange:
    """How many engines a role has and is to have, told each time that this changes."""

    role: Role
    least: int
    most: int
    """It has at least the one and at most the other."""
    present: int
    """Those that sample, or are about to."""
    asked: int
    """Those that wait for a place or start."""
    reason: str
    """What has changed, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorChange:
    """How an actor is, told at a run's start and each time that it changes."""

    actor: str
    """Its name in the dashboard."""
    state: str
    """A value of `actors.fleet.member.State`."""
    life: int
    """Which actor of this name it is, counted from 1."""
    reason: str
    """Why it changed, in one line; empty at the start."""
    pid: int
    node: str
    """The address of its node."""
    gpus: tuple[str, ...]
    """Ray's ids of the GPUs of that node which it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusySpan:
    """A time in which an actor had work of one kind under way, but for pauses of a moment."""

    actor: str
    """Its name in the dashboard."""
    activity: Activity
    role: Role | None
    """For whom; None where it is for nobody in particular."""
    start_s: float
    """Seconds since 1970."""
    seconds: float
    """From the start to the end."""
    busy_s: float
    """Those of them in which there was work."""
