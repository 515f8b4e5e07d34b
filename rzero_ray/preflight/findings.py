"""What the rehearsal says of the base model: whether it can start the loop, else what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from rzero_ray.config.config import Config
from rzero_ray.method.selection import MAJORITY_SHARES, Band, band_reason
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import Candidate, ChallengerSample, SolverSample, Step

_FEW: Final = 0.05
"""Share of well-formed questions below which the Challenger has too little to learn from."""
_MANY_CUT: Final = 0.2
"""Share of texts that reach their limit from which on it is told."""
_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Findings:
    """Counts of texts, and shares from 0 to 1."""

    num_questions: int
    num_well_formed: int
    num_questions_cut: int
    """Of those sampled, that are as long as they may be."""
    answered: float
    """Share of the votes that hold an answer."""
    histogram: tuple[int, ...]
    """Well-formed questions by the majority's share of their votes, in ten equal parts."""
    num_in_band: int
    num_candidates: int
    num_kept: int
    """Of the candidates: in the band, and neither repeated nor held out."""
    num_answers: int
    """The Solver's, to the questions that were kept."""
    num_answers_cut: int


def findings(config: Config, run: StoredRun) -> Findings:
    """Return what the finished rehearsal `run` of `config` says."""
    posed = _posed(config, run)
    candidates = run.read_steps("curriculum", 1, "candidates", Candidate)
    answers = solver_answers(run)
    well_formed = [p for p in posed if p.is_well_formed]
    taken = sum(p.num_taken for p in well_formed)
    shares = Counter(min(_BINS - 1, int(p.agreement * _BINS)) for p in well_formed if p.num_taken)
    return Findings(
        num_questions=len(posed),
        num_well_formed=len(well_formed),
        num_questions_cut=sum(p.is_cut for p in posed),
        answered=sum(p.num_answered for p in well_formed) / taken if taken else 0.0,
        histogram=tuple(shares[part] for part in range(_BINS)),
        num_in_band=sum(p.is_in_band for p in well_formed),
        num_candidates=len(candidates),
        num_kept=sum(c.dropped is None for c in candidates),
        num_answers=len(answers),
        num_answers_cut=sum(len(a.token_ids) >= config.solver.sampling.max_tokens for a in answers),
    )


@dataclass(frozen=True, slots=True)
class _Posed:
    """A question of the base model's, or of the frozen Challenger's among the candidates."""

    is_well_formed: bool
    is_cut: bool
    num_taken: int
    num_answered: int
    agreement: float
    is_in_band: bool


def _posed(config: Config, run: StoredRun) -> list[_Posed]:
    steps: Sequence[Step] = run.sampled_steps("challenger", 1)
    if steps:
        samples = run.read(f"{steps[0].key}/rollouts", ChallengerSample)
        limit, votes = config.challenger.sampling.max_tokens, config.challenger.num_votes
        return [_judge(s, len(s.token_ids) >= limit, config, votes) for s in samples]
    limit, votes = config.curriculum.sampling.max_tokens, config.curriculum.num_votes
    candidates = run.read_steps("curriculum", 1, "candidates", Candidate)
    return [_judge(c, c.num_tokens >= limit, config, votes) for c in candidates]


def _judge(
    sample: ChallengerSample | Candidate, is_cut: bool, config: Config, num_votes: int
) -> _Posed:
    band = replace(Band.of(config.curriculum, config.voting), num_votes=num_votes)
    share = MAJORITY_SHARES[band.share](sample.num_agree, sample.num_votes, num_votes)
    reason = band_reason(sample.num_agree, sample.num_votes, band)
    return _Posed(
        is_well_formed=sample.question is not None,
        is_cut=is_cut,
        num_taken=len(sample.answers),
        num_answered=sample.num_votes,
        agreement=share,
        is_in_band=sample.question is not None and reason is None,
    )


def solver_answers(run: StoredRun) -> list[SolverSample]:
    """Return the Solver's answers in the rehearsal, of all steps."""
    return [
        sample
        for step in run.sampled_steps("solver", 1)
        for sample in run.read(f"{step.key}/rollouts", SolverSample)
    ]


def obstacles(config: Config, found: Findings) -> list[str]:
    """Return why the loop cannot start from this model, each with what to change."""
    if found.num_well_formed < _FEW * found.num_questions:
        cut = (
            f"; {found.num_questions_cut} of them end at challenger.sampling.max_tokens="
            f"{config.challenger.sampling.max_tokens}: raise it"
            if found.num_questions_cut
            else ""
        )
        return [
            f"{found.num_well_formed} of {found.num_questions} questions are well formed, and the "
            "Challenger is paid for nothing else: take a model that follows instructions better, "
            f"or teach it the format first (method=labelled_sft){cut}"
        ]
    if not sum(found.histogram) or found.answered == 0:
        return [
            "no vote holds an answer, so there is no majority: take a model that boxes its "
            f"answers, or raise voting.sampling.max_tokens={config.voting.sampling.max_tokens}, if "
            "they are cut before it"
        ]
    if not found.num_in_band and not found.num_kept:
        low, high = config.curriculum.min_agreement, config.curriculum.max_agreement
        is_easy = found.histogram[-1] > sum(found.histogram) / 2
        advice = (
            "the model agrees with itself on nearly everything; a higher "
            "voting.sampling.temperature or curriculum.max_agreement, or a Challenger that asks "
            "harder questions, is needed"
            if is_easy
            else "the model hardly agrees with itself; a stronger model, or a lower "
            "curriculum.min_agreement, is needed"
        )
        return [f"no question lies in the band of {low:g} to {high:g}: {advice}"]
    return []


def warnings(config: Config, found: Findings) -> list[str]:
    """Return what makes the loop slow or poor without keeping it from starting."""
    lines = []
    if found.num_questions_cut > _MANY_CUT * found.num_questions:
        lines.append(
            f"{found.num_questions_cut} of {found.num_questions} questions are cut: raise "
            f"challenger.sampling.max_tokens={config.challenger.sampling.max_tokens}"
        )
    if found.num_answers_cut > _MANY_CUT * found.num_answers:
        lines.append(
            f"{found.num_answers_cut} of {found.num_answers} answers are cut: raise "
            f"solver.sampling.max_tokens={config.solver.sampling.max_tokens}"
        )
    if not found.num_kept:
        lines.append(
            f"none of {found.num_candidates} candidates was kept, so the Solver's phase was not "
            "rehearsed: its time and tokens are those of votes"
        )
    return lines
