"""What the processes of actors find in their environment, and that it is decided in one place."""

from __future__ import annotations

import ast
import ctypes
import subprocess
import sys
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


_ALLOCATES = """
import ctypes, sys
from actors.process import return_freed_memory

names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.mallinfo2.restype = Info
return_freed_memory(int(sys.argv[1]))
libc.free(libc.malloc(16 << 20))  # after which glibc keeps pieces up to this size
before = libc.mallinfo2().hblkhd
libc.malloc(4 << 20)
print(libc.mallinfo2().hblkhd - before >= 4 << 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="of glibc")
@pytest.mark.parametrize(("model_bytes", "is_returned"), [(1 << 20, False), (1 << 30, True)])
def test_beside_a_large_model_freed_tensors_go_back_to_the_system(model_bytes, is_returned):
    said = subprocess.run(
        [sys.executable, "-c", _ALLOCATES, str(model_bytes)],
        cwd=ACTORS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == [str(is_returned)]


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
