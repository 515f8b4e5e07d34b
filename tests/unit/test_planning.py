"""Plans, with numbers that can be checked by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.learning.deepspeed_config import deepspeed_config
from actors.learning.options import LearnerOptions
from rzero_ray import driver
from rzero_ray.config.config import Config
from rzero_ray.config.layout import (
    REDUCE_BUCKET_ELEMENTS,
    disaggregated,
    engines_alone,
    resolve_layout,
)
from rzero_ray.config.load import load_config
from rzero_ray.method.logprobs import CHUNK_ELEMENTS
from rzero_ray.run.plan import (
    BUFFER_BYTES,
    CONTEXT_BYTES,
    GIB,
    LENGTH_SHARE,
    LOGITS_BYTES,
    LOGITS_COPIES,
    RANK_PARAMETERS,
    MemoryPlan,
    PhasePlan,
    assumptions,
    gpu_bytes,
    host_bytes,
    kept_weights,
    num_full_sequences,
    num_trained,
    phase_seconds,
    plan_iteration,
    plan_memory,
    rank_bytes,
    run_seconds,
)
from rzero_ray.run.retention import plan_disk
from rzero_ray.run.shape import KNOWN_MODELS, ModelShape, check_shape, find_shape, model_shape
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import UserError

BILLION = ModelShape(
    num_parameters=1_000_000_000,
    num_layers=10,
    hidden_size=100,
    vocab_size=1_000,
    kv_elements=5_000,
    linears={"q_proj": (100, 120), "k_proj": (100, 40), "gate_proj": (100, 300)},
)
LAYER = 16 * 100 + 10 * (120 + 40) + 8 * 300
"""Bytes that a layer of it keeps of a token in 16 bits."""
LOGITS = 3 * 4 * 6_144 * 1_000
"""Of a micro-batch of 6,144 tokens, which is less than a chunk."""


@pytest.fixture(scope="module")
def config() -> Config:
    """Four ranks, one and three engines, bfloat16, sequences of 6,144."""
    return load_config(["conf=qwen3_4b", "algorithm=official_code"])


def _memory(config: Config) -> list[MemoryPlan]:
    return plan_memory(config, BILLION, disaggregated(config))


def test_the_official_budget_is_the_one_its_users_count(config: Config):
    challenger, curriculum, solver, evaluation = plan_iteration(config, make_task("math"))
    # 5 steps of 512 x 4 questions with 10 votes each; 512 / 16 updates a step
    assert (challenger.samples, challenger.updates) == (10_240 + 102_400, 160)
    assert challenger.challenger_tokens == challenger.trained_tokens == 10_240 * 4096
    assert challenger.solver_tokens == 102_400 * 4096
    assert curriculum.samples == 8_000 + 72_000
    assert (solver.samples, solver.updates) == (15 * 512 * 5, 60)
    assert solver.max_tokens == solver.trained_tokens == 38_400 * 4096
    assert evaluation.samples == 0


def test_a_frozen_challenger_neither_samples_nor_learns_in_its_phase():
    config = load_config(["conf=tiny", "ablation=frozen_challenger"])
    challenger, curriculum, *_ = plan_iteration(config, make_task("arithmetic"))
    assert (challenger.samples, challenger.max_tokens, challenger.updates) == (0, 0, 0)
    assert curriculum.samples == 400 * 11


def test_known_models_have_their_published_sizes():
    """4.02B, 8.19B, and the 3.21B and 8.03B of Llama-3.2-3B and Llama-3.1-8B for OctoThinker."""
    counts = {
        "Qwen/Qwen3-4B-Base": 4_022_468_096,
        "Qwen/Qwen3-8B-Base": 8_190_735_360,
        "OctoThinker/OctoThinker-3B-Hybrid-Base": 3_212_749_824,
        "OctoThinker/OctoThinker-8B-Hybrid-Base": 8_030_261_248,
    }
    shapes = {name: find_shape(name, None) for name in KNOWN_MODELS}
    assert {name: shape and shape.num_parameters for name, shape in shapes.items()} == counts


def test_a_small_model_by_hand():
    settings = {
        "vocab_size": 10,
        "hidden_size": 4,
        "intermediate_size": 6,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    # Query and output 4x4, key and value 4x2; three 4x6; two norms of 4. Embedding and head 10x4.
    layer = 2 * 16 + 2 * 8 + 3 * 24 + 2 * 4
    shape = model_shape(settings)
    assert shape is not None
    assert shape.num_parameters == 2 * 40 + 2 * layer + 4
    assert shape.kv_elements == 2 * 2 * 2  # key and value, two layers, one head of 2
    assert model_shape(settings | {"num_experts": 8}) is None
    assert model_shape({"model_type": "gpt2"}) is None


def test_the_folder_says_more_than_the_name(tmp_path: Path):
    settings = KNOWN_MODELS["Qwen/Qwen3-8B-Base"] | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    shape = find_shape("Qwen/Qwen3-8B-Base", tmp_path)
    assert shape is not None and shape.num_layers == 1
    assert find_shape("someone/unknown", None) is None


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(0, 2.0, 4.0, 12.0), (1, 2.0, 4.0, 3.0), (2, 2.0, 1.0, 3.0), (3, 0.5, 1.0, 3.0)],
)
def test_zero_divides_what_its_stage_says_by_four_ranks(
    config: Config, stage: int, weights: float, gradients: float, optimizer: float
):
    learner_config = replace(
        config.learner, zero_stage=stage, reference="device", gradient_checkpointing=False
    )
    config = replace(config, learner=learner_config)
    *_, learner = _memory(config)
    parts = (learner.weights, learner.gradients, learner.optimizer)
    assert [part / 1e9 for part in parts] == [weights, gradients, optimizer]
    assert learner.reference == 2e9  # whole on every rank
    # Ten layers of each of 6,144 tokens; the logits, and the head's gradient.
    head = LOGITS + 6 * 1_000 * 100
    activations = 6_144 * LAYER * 10 + head + BUFFER_BYTES
    # Or a rank's gradients in one piece, by which the optimizer steps.
    assert learner.activations == max(activations, 1e9 if stage else 0)
    assert LOGITS_BYTES == 4 * CHUNK_ELEMENTS
    # As many gradients as travel between ranks at a time, twenty times over.
    assert learner.bucket == (4 * REDUCE_BUCKET_ELEMENTS if stage else 0)
    assert BILLION.num_parameters > REDUCE_BUCKET_ELEMENTS
    held = learner.reference + learner.activations + learner.bucket
    assert learner.total == sum(parts) + held


def test_the_bucket_is_no_larger_than_what_is_trained(config: Config):
    options = LearnerOptions(
        rank=0,
        world_size=1,
        device="cpu",
        dtype="float32",
        zero_stage=1,
        tokens_per_micro_batch=1,
        num_threads=1,
        weight_backend="object_store",
    )
    for trained, size in ((1_000, 1_000), (10**9, REDUCE_BUCKET_ELEMENTS)):
        settings = deepspeed_config(options, config.solver.optimizer, trained)
        assert settings["zero_optimization"]["reduce_bucket_size"] == size


def test_on_a_cpu_the_bucket_takes_memory_when_activations_have_given_theirs_back():
    config = load_config(["conf=tiny", "challenger.loss.kl_coefficient=0"])
    config = replace(config, learner=replace(config.learner, tokens_per_micro_batch=1))
    learner = _memory(config)[-1]
    assert (learner.bucket, learner.activations) == (0, 4e9 + 4 * REDUCE_BUCKET_ELEMENTS)
    offloading = replace(config, learner=replace(config.learner, offload="optimizer"))
    assert _memory(offloading)[-1].activations < 1e9


def test_recomputed_activations_and_a_visiting_reference_need_less(config: Config):
    saving = replace(config.learner, gradient_checkpointing=True, reference="cpu")
    *_, learner = _memory(replace(config, learner=saving))
    assert learner.reference == 0
    assert learner.activations == 2e9  # the visiting reference: larger than all activations
    wide = replace(saving, tokens_per_micro_batch=10_000_000)
    *_, learner = _memory(replace(config, learner=wide))
    # the inputs of 10 layers of 100 elements in 16 bits, and all of one layer
    head = LOGITS_COPIES * LOGITS_BYTES + 6 * 1_000 * 100
    assert learner.activations == 10_000_000 * (2 * 100 * 10 + LAYER) + head + BUFFER_BYTES


def test_an_engine_fills_its_gpu_unless_told_how_much(config: Config):
    challenger, solver, _ = _memory(config)
    assert (challenger.num_actors, solver.num_actors) == (1, 3)
    assert challenger.total == solver.total == int(0.85 * 80 * GIB)
    told = replace(config, sampler=replace(config.sampler, kv_cache_gib=2.0))
    engine = _memory(told)[0]
    assert (engine.weights, engine.kv_cache) == (2e9, 2 * GIB)
    # 2 GiB / (6,144 tokens x 5,000 elements x 2 bytes) = 34.95
    assert num_full_sequences(told, BILLION, disaggregated(told)) == 34
    wide = replace(told, model=replace(told.model, dtype="float32"))
    assert _memory(wide)[0].weights == 4e9


def phase_plan(name: str, challenger: int, solver: int, trained: int) -> PhasePlan:
    return PhasePlan(
        phase=name,
        samples=0,
        challenger_tokens=challenger,
        solver_tokens=solver,
        trained_tokens=trained,
        updates=0,
    )


def test_time_is_that_of_the_slower_role_and_then_the_learners(config: Config):
    shape, layout = replace(BILLION, num_parameters=2 * RANK_PARAMETERS), disaggregated(config)
    both = phase_plan("challenger", challenger=1_100 * 60, solver=3 * 1_100 * 100, trained=0)
    assert phase_seconds(config, shape, layout, both) == pytest.approx(LENGTH_SHARE * 100)
    # The Solver alone has all four engines: 100 s. Four ranks, twice the model: 50 x 2 x 5/3.
    alone = phase_plan("solver", 0, solver=4 * 1_100 * 100, trained=4 * 17_900 * 50)
    seconds = phase_seconds(config, shape, layout, alone)
    assert seconds == pytest.approx(LENGTH_SHARE * (100 + 500 / 3))
    evaluation = phase_plan("evaluation", 0, solver=4 * 1_100 * 8, trained=0)
    whole = run_seconds(config, shape, layout, [both, evaluation])  # 5 iterations, and the base's
    assert whole == pytest.approx(LENGTH_SHARE * (5 * (100 + 8) + 8))


def test_assumptions_are_stated_and_a_rank_that_is_too_large_is_named(config: Config):
    plan, layout = plan_iteration(config, make_task("math")), disaggregated(config)
    lines = assumptions(config, BILLION, plan, layout)
    assert "1.00B parameters, bfloat16; GPUs of 80 GiB" in lines[0]
    assert "completions of 25% of their limit, 1,100 tokens/s per engine" in lines[-1]
    assert len(lines) == 2
    huge = replace(BILLION, num_parameters=30_000_000_000)
    lines = assumptions(config, huge, plan, layout)
    assert any("learner/rank may not fit" in line for line in lines)
    tiny = load_config(["conf=tiny"])
    layout = disaggregated(tiny)
    assert assumptions(tiny, BILLION, plan, layout)[-1] == "time: not estimated on CPUs"
    assert "not known" in assumptions(tiny, None, plan, layout)[0]


def test_roles_that_share_a_gpu_fill_it_in_turns(config: Config):
    layout = resolve_layout(config, {"GPU": 1.0})
    challenger, solver, learner = plan_memory(config, BILLION, layout)
    assert challenger.total == solver.total == int(0.425 * 80 * GIB)
    # One rank holds all of it: 2 + 4 + 12 GB; its reference only visits.
    assert (learner.num_actors, learner.reference, learner.optimizer) == (1, 0, 12e9)
    turns = gpu_bytes(config, BILLION, layout)
    assert turns["the learner's turn"] == learner.total + CONTEXT_BYTES
    assert turns["the samplers' turn"] == 2 * int(0.425 * 80 * GIB) + CONTEXT_BYTES
    assert turns["the handover"] == 3 * 2e9 + CONTEXT_BYTES
    # The learner's 18 GB, and the weights of the reference and of both engines.
    assert host_bytes(config, BILLION, layout) == 18e9 + 3 * 2e9
    plan = plan_iteration(config, make_task("math"))
    lines = assumptions(config, BILLION, plan, layout)
    assert "memory of a shared GPU: the learner's turn" in lines[1]
    # Two engines of one GPU sample no faster than one.
    both = phase_plan("challenger", challenger=1_100 * 60, solver=1_100 * 100, trained=0)
    assert phase_seconds(config, BILLION, layout, both) == pytest.approx(LENGTH_SHARE * 160)


def test_a_rank_keeps_in_its_nodes_memory_what_is_not_on_a_gpu_of_its_own(config: Config):
    shared = resolve_layout(config, {"GPU": 1.0})
    assert rank_bytes(config, BILLION, shared) == host_bytes(config, BILLION, shared)
    own = disaggregated(config)
    on_device = replace(config, learner=replace(config.learner, reference="device"))
    assert rank_bytes(on_device, BILLION, own) == 2e9  # the model, loaded and saved
    away = replace(config, learner=replace(config.learner, reference="cpu"))
    assert rank_bytes(away, BILLION, own) == 4e9
    on_cpu = load_config(["conf=tiny"])
    layout = disaggregated(on_cpu)
    total = plan_memory(on_cpu, BILLION, layout)[-1].total
    assert rank_bytes(on_cpu, BILLION, layout) == total > 4 * 4e9


@pytest.mark.parametrize(
    ("offload", "of_each_parameter"), [("none", 0), ("optimizer", 12 + 4), ("all", 12 + 4 + 2)]
)
def test_what_is_offloaded_is_in_the_memory_of_the_node(config: Config, offload, of_each_parameter):
    learner = replace(config.learner, offload=offload, zero_stage=3, reference="device")
    offloading = replace(config, learner=learner)
    layout = disaggregated(offloading)
    part = of_each_parameter * 1e9 / layout.num_ranks
    assert rank_bytes(offloading, BILLION, layout) == 2e9 + part


def test_an_adapter_needs_its_own_optimizer_and_no_second_model():
    """Of Qwen3-4B, by hand: 36 layers, rank 16 times the widths into and out of seven layers."""
    config = load_config(["conf=qwen3_4b_lora"])
    shape = find_shape(config.model.path, None)
    assert shape is not None
    layout = resolve_layout(config, {"GPU": 1.0})
    widths = 2 * (2560 + 4096) + 2 * (2560 + 1024) + 3 * (2560 + 9728)
    trained = config.learner.lora.rank * 36 * widths
    assert num_trained(config, shape) == trained
    learner = plan_memory(config, shape, layout)[-1]
    assert (learner.reference, learner.gradients, learner.optimizer) == (
        0,
        4 * trained,
        12 * trained,
    )
    turns = gpu_bytes(config, shape, layout)
    assert turns["the handover"] == 2 * learner.weights + CONTEXT_BYTES
    assert max(turns.values()) <= 24 * GIB
    assert host_bytes(config, shape, layout) < 32 * GIB  # of 48, beside the processes themselves
    assert plan_disk(config, shape).checkpoints == 3 * 14 * trained
    # Held to the base model the phases after the first need it as a second model.
    held = load_config(["conf=qwen3_4b_lora", "recipe=kl_to_base"])
    learner = plan_memory(held, shape, layout)[-1]
    assert learner.activations == shape.num_parameters * 2


def test_an_engine_that_is_cut_holds_a_part_of_the_weights_on_each_gpu(config: Config):
    cut = replace(config, sampler=replace(config.sampler, tensor_parallel=4))
    whole_engine, cut_engine = (plan_memory(c, BILLION, disaggregated(c))[0] for c in (config, cut))
    assert cut_engine.weights == whole_engine.weights // 4
    assert cut_engine.total == whole_engine.total  # the cache takes what is left of each GPU
    layouts = [disaggregated(c) for c in (config, cut)]
    few, many = (
        num_full_sequences(c, BILLION, layout)
        for c, layout in zip((config, cut), layouts, strict=True)
    )
    assert many > 4 * few
    with pytest.raises(UserError, match="tensor_parallel=4 does not divide the 6 attention heads"):
        check_shape(cut, replace(BILLION, num_heads=6))
    check_shape(cut, replace(BILLION, num_heads=8, num_kv_heads=2))  # each is copied
    three = replace(config, sampler=replace(config.sampler, tensor_parallel=3))
    with pytest.raises(UserError, match="heads for keys and values"):
        check_shape(three, replace(BILLION, num_heads=24, num_kv_heads=8))


def test_a_model_that_has_to_be_made_first_is_held_against_the_configuration_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = tmp_path / "made"
    made.mkdir()
    settings = KNOWN_MODELS["Qwen/Qwen3-4B-Base"] | {"num_attention_heads": 8}
    (made / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(driver, "obtain_model", lambda model: made)
    layout = engines_alone(load_config(["conf=tiny"]).sampler)
    monkeypatch.setattr(driver, "join_cluster", lambda config: ("nowhere", layout))
    places = [f"run_dir={tmp_path / 'run'}", f"model.cache_dir={tmp_path / 'cache'}"]
    assert driver.main(["conf=tiny", *places, "sampler.tensor_parallel=3"]) == 2
    assert "sampler.tensor_parallel=3 does not divide the 8 attention" in capsys.readouterr().err


def test_an_adapter_of_what_is_no_linear_layer_is_refused_before_the_start():
    config = load_config(["conf=qwen3_4b_lora", "learner.lora.targets=q_proj,lm_head"])
    shape = find_shape(config.model.path, None)
    assert shape is not None
    with pytest.raises(UserError, match="lm_head is no linear layer"):
        check_shape(config, shape)


def test_the_larger_adapter_fits_one_gpu_of_80():
    config = load_config(["conf=qwen3_8b_lora"])
    shape = find_shape(config.model.path, None)
    assert shape is not None
    layout = resolve_layout(config, {"GPU": 1.0})
    assert layout.takes_turns
    assert max(gpu_bytes(config, shape, layout).values()) <= 80 * GIB


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "[" * 100_000,
        '{"vocab_size": "a", "hidden_size": "b", "intermediate_size": 1, '
        '"num_hidden_layers": 1, "num_attention_heads": 2}',
        '{"vocab_size": 9, "hidden_size": 8, "intermediate_size": 1, "num_hidden_layers": 1, '
        '"num_attention_heads": 0}',
        '{"vocab_size": 9, "hidden_size": 8, "intermediate_size": 1, "num_hidden_layers": 0, '
        '"num_attention_heads": 2}',
        '{"vocab_size": 9, "hidden_size": 8, "intermediate_size": 1, "num_hidden_layers": 1, '
        '"num_attention_heads": 1.5}',
    ],
)
def test_a_damaged_model_config_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config.json is damaged") as found:
        find_shape("m", tmp_path)
    assert "\n" not in str(found.value)


def test_a_dry_run_says_what_a_run_takes_of_its_disk(tmp_path, capsys):
    given = ["conf=qwen3_8b", f"run_dir={tmp_path / 'run'}", "--dry-run"]
    assert driver.main(given) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("disk: ")]
    shape = find_shape("Qwen/Qwen3-8B-Base", None)
    assert shape is not None
    plan = plan_disk(load_config(["conf=qwen3_8b"]), shape)
    assert f"up to {plan}, " in line and line.endswith(f"GiB free at {tmp_path / 'run'}")
    assert driver.main([*given, "checkpoint.keep=1"]) == 0
    fewer = plan.checkpoints * 2 / 3 / GIB
    assert f"{fewer:,.1f} GiB of checkpoints" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_disk_that_8_billion_parameters_take():
    shape = find_shape("Qwen/Qwen3-8B-Base", None)
    assert shape is not None
    plan = plan_disk(load_config(["conf=qwen3_8b"]), shape)
    weights = 2 * shape.num_parameters
    assert plan.models == 5 * weights  # two of each role, and the best Solver
    assert plan.checkpoints == 3 * 7 * weights  # 14 bytes a parameter
    every = load_config(["conf=qwen3_8b", "checkpoint.keep_models.every=1"])
    assert plan_disk(every, shape).models == 6 * weights
    frozen = load_config(["conf=qwen3_8b", "challenger.frozen=true"])
    assert plan_disk(frozen, shape).models == 3 * weights


def test_what_was_published_last_is_counted_where_it_stays_in_the_object_store():
    config = load_config(["conf=qwen3_8b", "weights.backend=object_store"])
    (kept,) = kept_weights(config, BILLION, disaggregated(config))
    assert kept.total == 2 * BILLION.num_parameters
    nccl = load_config(["conf=qwen3_8b"])
    assert kept_weights(nccl, BILLION, disaggregated(nccl)) == []
