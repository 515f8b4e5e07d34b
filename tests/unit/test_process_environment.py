"""What the processes of actors find in their environment, and that it is decided in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from actors.process import engine_environment, judge_environment, learner_environment

ACTORS = Path(__file__).resolve().parents[2] / "actors"
SETS_OTHERS = {"process.py", "learning/deepspeed_rank.py", "cluster.py"}
"""The settings; the ranks' addresses, which DeepSpeed reads; and where Ray's are put in place."""


def test_weights_by_cuda_ipc_come_from_memory_that_opens_at_once():
    environment = learner_environment(4, on_cpu=False, backend="cuda_ipc")
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:False"
    for backend in ("nccl", "object_store"):
        environment = learner_environment(4, on_cpu=False, backend=backend)
        assert environment == {"OMP_NUM_THREADS": "4"}


def test_only_weights_by_cuda_ipc_are_passed_pickled():
    name = "VLLM_ALLOW_INSECURE_SERIALIZATION"
    assert name in engine_environment(1, on_cpu=False, backend="cuda_ipc")
    assert name not in engine_environment(1, on_cpu=False, backend="nccl")
    assert name not in engine_environment(1, on_cpu=True, backend="object_store")


def test_a_rank_on_a_cpu_takes_no_accelerator():
    environment = learner_environment(2, on_cpu=True, backend="object_store")
    assert environment == {"OMP_NUM_THREADS": "2", "DS_ACCELERATOR": "cpu"}
    assert judge_environment() == {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "module",
    sorted(str(p.relative_to(ACTORS)) for p in ACTORS.rglob("*.py")),
)
def test_no_other_module_sets_the_environment_of_a_process(module: str):
    """Neither by `os.environ` nor by a dictionary that is given to an actor."""
    if module in SETS_OTHERS:
        return
    tree = ast.parse((ACTORS / module).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            assert (owner, node.func.attr) not in {
                ("os.environ", "update"),
                ("os.environ", "setdefault"),
                ("os", "putenv"),
            }, ast.unparse(node)
        if isinstance(node, ast.Assign):
            assert not any("os.environ" in ast.unparse(target) for target in node.targets)
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            assert not any(str(key).endswith("_THREADS") for key in keys), keys
