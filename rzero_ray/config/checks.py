"""What must hold between the keys of a configuration; `rules` is about each alone."""

from __future__ import annotations

from rzero_ray.config.cluster import BUILT_IN_MODELS
from rzero_ray.config.config import OPEN_TASKS, Config
from rzero_ray.config.layout import attention_of, backend_of, uses_gpus
from rzero_ray.config.rules import check_rules
from rzero_ray.types import UserError


def check_config(config: Config) -> None:
    """Raise UserError for a value out of its range, or for keys that do not fit together."""
    check_rules(config)
    _check_task(config)
    is_labelled = config.method in ("labelled_grpo", "labelled_sft")
    if is_labelled != bool(config.labelled.path):
        raise UserError(
            f"method={config.method} and labelled.path={config.labelled.path!r} do not fit: "
            "labelled_grpo and labelled_sft need labelled problems, the others read none"
        )
    if config.challenger.frozen and config.shared_weights:
        raise UserError(
            "challenger.frozen and shared_weights contradict each other: a shared model learns as "
            "the Solver; set one of them to false"
        )
    _check_rollback(config)
    _check_recipe(config)
    if config.method == "judged":
        _check_judged(config)
    else:
        _check_no_referee(config)
    _check_layout(config)
    for role, loss in (("challenger", config.challenger.loss), ("solver", config.solver.loss)):
        if config.pipeline.staleness and loss.importance_cap == 0:
            raise UserError(
                f"pipeline.staleness={config.pipeline.staleness} needs the importance correction; "
                f"set {role}.loss.importance_cap above 0 (2.0 is usual)"
            )
    low, high = config.curriculum.min_agreement, config.curriculum.max_agreement
    if low > high:
        raise UserError(
            f"curriculum.min_agreement={low} is above curriculum.max_agreement={high}: no question "
            "would be kept"
        )
    _check_groups(config)
    longest = max(
        config.challenger.sampling.max_tokens,
        config.curriculum.sampling.max_tokens,
        config.voting.sampling.max_tokens,
        config.solver.sampling.max_tokens,
        config.referee.sampling.max_tokens,
        config.eval.max_tokens,
    )
    if longest >= config.model.max_model_len:
        raise UserError(
            f"a completion of max_tokens={longest} does not fit model.max_model_len="
            f"{config.model.max_model_len}; raise the latter above it, with room for the prompt"
        )
    path = config.model.path
    if BUILT_IN_MODELS.get(path, config.task) != config.task:
        raise UserError(
            f"model.path={path} knows only task={BUILT_IN_MODELS[path]}, not {config.task}"
        )


def _check_rollback(config: Config) -> None:
    if config.rollback_fall == 1.0:  # it never goes back
        return
    if config.shared_weights:
        raise UserError(
            f"rollback_fall={config.rollback_fall} and shared_weights contradict each other: there "
            "is no model of a role to go back to; set rollback_fall=1"
        )
    if config.eval.num_samples < 2:
        raise UserError(
            f"rollback_fall={config.rollback_fall} compares how much answers to one problem agree, "
            f"and eval.num_samples={config.eval.num_samples} samples one answer, which agrees with "
            "itself; raise eval.num_samples, or set rollback_fall=1"
        )


def _check_recipe(config: Config) -> None:
    """What does not fit together in the slots of a recipe."""
    challenger, curriculum = config.challenger, config.curriculum
    needs_memory = challenger.novelty != "none" or challenger.reward == "pasodoble"
    if needs_memory and not challenger.memory:
        raise UserError(
            f"challenger.novelty={challenger.novelty} and reward={challenger.reward} need a memory "
            "of earlier questions; set challenger.memory (1000 is usual)"
        )
    if challenger.memory and config.pipeline.staleness:
        raise UserError(
            f"challenger.memory={challenger.memory} needs the step before to be finished; set "
            "pipeline.staleness=0"
        )
    if challenger.reward == "pace" and challenger.reward_floor >= challenger.reward_peak:
        raise UserError(
            f"challenger.reward_floor={challenger.reward_floor} is not below reward_peak="
            f"{challenger.reward_peak}; lower it"
        )
    if challenger.start_from != "own" and config.shared_weights:
        raise UserError(
            f"challenger.start_from={challenger.start_from} and shared_weights contradict each "
            "other: both roles are one model; set one of them back"
        )
    if config.solver.reward == "restrain" and (
        curriculum.labels == "oracle" or config.method != "coevolution"
    ):
        raise UserError(
            f"solver.reward=restrain reads no labels, which curriculum.labels={curriculum.labels} "
            f"and method={config.method} give; set solver.reward=paper"
        )
    if config.verifier.learns != "always" and config.verifier.negatives == "none":
        raise UserError(
            f"verifier.learns={config.verifier.learns} changes nothing without a verifier; add "
            "recipe=verifier or recipe=structure_verifier"
        )
    if curriculum.questions_of and curriculum.labels != "oracle":
        raise UserError(
            "curriculum.questions_of takes another run's questions with their true answers; set "
            "curriculum.labels=oracle"
        )


def _check_task(config: Config) -> None:
    """Refuse a method that does not go with the task: an open task has no label to vote on, and
    any other no referee."""
    is_open = config.task in OPEN_TASKS
    if is_open != (config.method == "judged"):
        usual = "judged" if is_open else "coevolution"
        raise UserError(
            f"method={config.method} does not go with task={config.task}, whose requests have "
            f"{'no exact answer' if is_open else 'an exact answer'}; use method={usual}"
            + ("" if is_open else f" or task={' or '.join(OPEN_TASKS)}")
        )


def _check_no_referee(config: Config) -> None:
    """Refuse what is set of a referee in a run that has none."""
    referee = {
        "sampler.num_referee": config.sampler.num_referee != 0,
        "referee.frozen": config.referee.frozen,
        "referee.opinion": config.referee.opinion != "asked",
    }
    for key in (key for key, is_set in referee.items() if is_set):
        raise UserError(
            f"{key} is of another method than method={config.method}: use method=judged, or leave "
            "it out"
        )


def _check_judged(config: Config) -> None:
    """What a run with a referee needs, and what it has no use for: it counts no votes."""
    if config.sampler.num_referee < 1:
        raise UserError(
            "sampler.num_referee=0: method=judged asks the referee while the others learn, and "
            "needs an engine for it; set it to 1 or more"
        )
    if "question_and_answer" in (
        config.challenger.question_format,
        config.curriculum.question_format,
    ):
        raise UserError(
            "method=judged poses requests without answers; set challenger.question_format=question "
            "and curriculum.question_format=as_trained"
        )
    unread = {
        "voting.ema_decay": config.voting.ema_decay != 0,
        "verifier.negatives": config.verifier.negatives != "none",
        "curriculum.check": config.curriculum.check != "none",
        "curriculum.labels": config.curriculum.labels != "majority",
        "curriculum.replay_share": config.curriculum.replay_share != 0,
        "curriculum.questions_of": config.curriculum.questions_of != "",
        "challenger.memory": config.challenger.memory != 0,
        "challenger.novelty": config.challenger.novelty != "none",
        "challenger.vocabulary_keep": config.challenger.vocabulary_keep != 1,
        "rollback_fall": config.rollback_fall != 1,
        "recipe": config.recipe != "",
    }
    for key in (key for key, is_set in unread.items() if is_set):
        raise UserError(f"{key} is about votes, of which method=judged takes none; leave it out")
    if config.challenger.num_votes < 2:
        raise UserError(
            f"challenger.num_votes={config.challenger.num_votes} leaves nothing to compare: a "
            "request is paid for how its answers compare; set it to 2 or more"
        )


def _check_groups(config: Config) -> None:
    """Refuse groups of samples in which nothing can differ."""
    votes = {
        "challenger.num_votes": config.challenger.num_votes,
        "curriculum.num_votes": config.curriculum.num_votes,
    }
    several = [key for key, number in votes.items() if number > 1]
    if config.voting.sampling.temperature == 0 and several:
        raise UserError(
            f"voting.sampling.temperature=0 gives the same vote each time, but {several[0]}="
            f"{votes[several[0]]}; set it to 1, or the temperature above 0"
        )
    if config.method != "labelled_sft" and config.solver.samples_per_prompt < 2:
        raise UserError(
            "solver.samples_per_prompt=1 leaves the Solver nothing to learn from: advantages "
            "compare the samples of one question; set it to 2 or more"
        )


def _check_layout(config: Config) -> None:
    """What is wrong whatever the cluster has; `layout.resolve_layout` checks the rest."""
    learner, sampler = config.learner, config.sampler
    if sampler.num_solver.max < sampler.num_solver.min:
        raise UserError(
            f"sampler.num_solver.max={sampler.num_solver.max} is below sampler.num_solver.min="
            f"{sampler.num_solver.min}; a plain sampler.num_solver=N sets both"
        )
    if sampler.tensor_parallel > 1 and sampler.gpus_per_engine not in (0, 1):
        raise UserError(
            f"sampler.tensor_parallel={sampler.tensor_parallel} takes a whole GPU for each part of "
            f"an engine, but sampler.gpus_per_engine={sampler.gpus_per_engine:g}; set it to 1, or "
            "to 0 for CPUs"
        )
    if sampler.num_challenger < 1:
        raise UserError("sampler.num_challenger=0: each role needs an engine; set it to 1 or more")
    if config.layout == "colocated" and (learner.gpus_per_rank > 0) != (
        sampler.gpus_per_engine > 0
    ):
        raise UserError(
            f"layout=colocated shares devices, but learner.gpus_per_rank={learner.gpus_per_rank:g} "
            f"and sampler.gpus_per_engine={sampler.gpus_per_engine:g}; set both above 0, or both "
            "to 0 for CPUs"
        )
    attention_of(config)
    _check_offload(config)
    kind = config.layout
    if kind == "auto":  # CUDA IPC fits where the roles share GPUs, which the cluster decides
        is_ipc = config.weights.backend == "cuda_ipc" and uses_gpus(config)
        kind = "colocated" if is_ipc else "disaggregated"
    backend_of(config, kind)


def _check_offload(config: Config) -> None:
    learner = config.learner
    if learner.offload == "none":
        return
    needed = 3 if learner.offload == "all" else 1
    if learner.zero_stage < needed:
        raise UserError(
            f"learner.offload={learner.offload} needs learner.zero_stage={needed} or more, not "
            f"{learner.zero_stage}"
        )
    if learner.gpus_per_rank == 0:
        raise UserError(
            f"learner.offload={learner.offload} moves states off a GPU, but "
            "learner.gpus_per_rank=0: on CPUs they are in the host's memory already; set it to none"
        )
