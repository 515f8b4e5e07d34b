"""The import contract: which module imports which, and where Ray, vLLM and DeepSpeed may appear.

The algorithm stays free of the cluster, so that it can be read and tested without one. Every import
counts, also one inside a function or under TYPE_CHECKING. The rules are data at the top; a new
module needs a line in LEVELS.
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A module imports modules of its own level or lower ones, and no import cycles exist.
LEVELS = {
    # 0: records and configuration
    "rzero_ray.config.config": 0,
    "rzero_ray.config.evaluation": 0,
    "rzero_ray.types": 0,
    # 1: pure functions
    "rzero_ray.method.advantages": 1,
    "rzero_ray.evaluation.labels.agreement": 1,
    "rzero_ray.method.batching": 1,
    "rzero_ray.answers.choices": 1,
    "rzero_ray.method.selection": 1,
    "rzero_ray.evaluation.drift.figures": 1,
    "rzero_ray.evaluation.endpoint": 1,
    "rzero_ray.method.early_stopping": 1,
    "rzero_ray.answers.forms": 1,
    "rzero_ray.answers.closed_form": 1,
    "rzero_ray.answers.symbolic": 1,
    "rzero_ray.answers.equality": 1,
    "rzero_ray.answers.symbolic_child": 1,
    "rzero_ray.config.layout": 1,
    "rzero_ray.method.logprobs": 1,
    "rzero_ray.method.losses": 1,
    "rzero_ray.run.concurrency": 1,
    "rzero_ray.run.clock": 1,
    "rzero_ray.method.judging": 2,
    "rzero_ray.run.rows": 1,
    "rzero_ray.evaluation.statistics": 1,
    "rzero_ray.answers.parsing": 1,
    "rzero_ray.tasks.prompts": 1,
    "rzero_ray.evaluation.benchmarks.published": 1,
    "rzero_ray.method.repetition": 1,
    "rzero_ray.method.rewards": 1,
    "rzero_ray.run.seeds": 1,
    "rzero_ray.tasks.registry": 1,
    "rzero_ray.tasks.arithmetic": 1,
    "rzero_ray.tasks.tiny_model": 1,
    "rzero_ray.tasks.tiny_recipe": 1,
    "rzero_ray.answers.voting": 1,
    # 2: the seam between algorithm and cluster
    "rzero_ray.protocols": 2,
    # 3: the loop and what it writes
    "rzero_ray.evaluation.labels.command": 3,
    "rzero_ray.evaluation.labels.sheet": 3,
    "rzero_ray.run.display": 3,
    "rzero_ray.evaluation.answering": 3,
    "rzero_ray.evaluation.labels.audit": 3,
    "rzero_ray.config.command": 3,
    "rzero_ray.evaluation.benchmarks.scores": 3,
    "rzero_ray.evaluation.benchmarks.sources": 3,
    "rzero_ray.evaluation.benchmarks.tables": 3,
    "rzero_ray.evaluation.benchmarks.judge_model": 3,
    "rzero_ray.tasks.base_model": 3,
    "rzero_ray.evaluation.drift.monitor": 3,
    "rzero_ray.phases.metrics": 3,
    "rzero_ray.phases.challenger": 3,
    "rzero_ray.phases.labelled": 3,
    "rzero_ray.run.plan": 3,
    "rzero_ray.run.parquet": 3,
    "rzero_ray.run.report.page": 3,
    "rzero_ray.run.report.plots": 3,
    "rzero_ray.run.report.summary": 3,
    "rzero_ray.run.run": 3,
    "rzero_ray.run.tensorboard": 3,
    # 4: actors.* (see ACTORS_LEVEL)
    # 5: the program
    "rzero_ray.driver": 5,
    "rzero_ray.evaluation.compare": 5,
    "rzero_ray.evaluation.benchmarks.command": 5,
}
ACTORS_LEVEL = 4
ACTORS_MAY_IMPORT_UP_TO = 2  # actors serve the loop: they never see phases, runstate or driver
PROGRAMS = {"rzero_ray.driver", "rzero_ray.evaluation.benchmarks.command"}
DRIVER_MAY_IMPORT_ACTORS = {"actors.cluster"}

# Import names and the modules that may use them; a prefix ending in "." stands for a whole package.
ALLOWED_IN = {
    "ray": ("actors.",),
    "vllm": (
        "actors.weights.vllm_trainers",
        "actors.sampling.vllm_engine",
        "actors.weights.vllm_backend",
    ),
    "deepspeed": ("actors.learning.deepspeed_rank",),
    "torch.distributed": ("actors.",),
    "transformers": ("rzero_ray.tiny.", "actors."),
}


def module_name(path: Path) -> str:
    """`rzero_ray/tasks/arithmetic.py` -> `rzero_ray.tasks.arithmetic`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def is_package(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).is_dir()


def our_files() -> list[Path]:
    return sorted(path for top in ("rzero_ray", "actors") for path in (ROOT / top).rglob("*.py"))


SOURCES = {module_name(p): p.read_text() for p in our_files() if p.name != "__init__.py"}
MODULES = SOURCES.keys() | LEVELS.keys() | DRIVER_MAY_IMPORT_ACTORS


def imported_names(source: str, module: str) -> set[str]:
    """Every dotted name that `source` imports: `package.module` or `package.module.name`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                above = module.split(".")[: -node.level] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                names |= {f"{base}.{alias.name}" for alias in node.names}
            case ast.Attribute(value=ast.Name(id="torch"), attr="distributed"):
                names.add("torch.distributed")  # `import torch` alone reaches it
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def our_imports(source: str, module: str) -> set[str]:
    """Our modules that `source` imports; bare packages have empty inits and are left out."""
    found: set[str] = set()
    for name in imported_names(source, module):
        parent = name.rpartition(".")[0]
        if name in MODULES:
            found.add(name)
        elif parent in MODULES:
            found.add(parent)
        elif name.startswith(("rzero_ray.", "actors.")) and not is_package(name):
            found.add(name)  # no such module: it has no level, which is what gets reported
    return found


def level(module: str) -> int | None:
    return ACTORS_LEVEL if module.startswith("actors.") else LEVELS.get(module)


def violations(source: str, module: str) -> list[str]:
    """What in `source` breaks the contract if it were the file of `module`, one line each."""
    problems: list[str] = []
    for name in sorted(imported_names(source, module)):
        for library, owners in ALLOWED_IN.items():
            if (f"{name}.").startswith(f"{library}.") and not (f"{module}.").startswith(
                tuple(owner if owner.endswith(".") else f"{owner}." for owner in owners)
            ):
                problems.append(f"{module} imports {name}: only {', '.join(owners)} may")
    own = level(module)
    for target in sorted(our_imports(source, module)):
        theirs = level(target)
        if own is None or theirs is None:
            unknown = module if own is None else target
            problems.append(f"{module} imports {target}: {unknown} has no line in LEVELS")
        elif module in PROGRAMS and target.startswith("actors."):
            if target not in DRIVER_MAY_IMPORT_ACTORS:
                problems.append(f"{module} imports {target}: only actors.cluster is allowed")
        elif module.startswith("actors.") and not target.startswith("actors."):
            if theirs > ACTORS_MAY_IMPORT_UP_TO:
                problems.append(f"{module} imports {target} (level {theirs}): actors stop at 2")
        elif theirs > own:
            problems.append(f"{module} (level {own}) imports {target} (level {theirs})")
    return problems


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle in order, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_has_a_level():
    assert SOURCES, f"no modules found under {ROOT}"
    missing = [module for module in SOURCES if level(module) is None]
    where = Path(__file__).relative_to(ROOT)
    assert not missing, f"give each of these a line in LEVELS of {where}: {missing}"


@pytest.mark.parametrize("module", SOURCES)
def test_module_keeps_the_contract(module: str):
    problems = violations(SOURCES[module], module)
    assert not problems, "\n".join(problems)


def test_modules_import_without_cycles():
    graph = {module: our_imports(source, module) - {module} for module, source in SOURCES.items()}
    cycle = find_cycle(graph)
    assert not cycle, " -> ".join(cycle)


def test_init_files_are_empty():
    inits = [path for path in our_files() if path.name == "__init__.py"]
    full = [str(path.relative_to(ROOT)) for path in inits if path.read_text().strip()]
    assert not full, f"code in {full}: importing a package must import nothing else"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rzero_ray.method.losses", "import ray"),
        ("rzero_ray.method.losses", "def f():\n    from vllm import LLM"),
        ("rzero_ray.method.losses", "import torch.distributed as dist"),
        ("rzero_ray.method.losses", "from torch import distributed"),
        ("rzero_ray.method.losses", "import torch\ntorch.distributed.barrier()"),
        ("rzero_ray.method.losses", "import importlib\nimportlib.import_module('deepspeed')"),
        ("rzero_ray.method.losses", "from rzero_ray.phases.challenger import train_solver"),
        ("rzero_ray.method.losses", "from rzero_ray import phases"),
        ("rzero_ray.method.losses", "from . import phases"),
        ("rzero_ray.method.losses", "from transformers import AutoTokenizer"),
        ("rzero_ray.method.losses", "from rzero_ray.no_such_module import f"),
        ("rzero_ray.tasks.arithmetic", "from ..phases import train_solver"),
        ("rzero_ray.types", "from rzero_ray.method.rewards import f"),
        ("rzero_ray.phases.challenger", "from actors.cluster import open_cluster"),
        ("rzero_ray.phases.challenger", "from actors import cluster"),
        ("rzero_ray.driver", "import ray"),
        ("rzero_ray.driver", "from actors.sampling.sampler import Sampler"),
        ("rzero_ray.evaluation.benchmarks.command", "from actors.sampling.sampler import Sampler"),
        ("rzero_ray.unlisted", "from rzero_ray.types import Rollout"),
        ("actors.sampling.sampler", "from rzero_ray.run.run import Run"),
        ("actors.sampling.sampler", "import rzero_ray.driver"),
        ("actors.sampling.sampler", "from vllm import SamplingParams"),
        ("actors.sampling.vllm_engine", "import deepspeed"),
    ],
)
def test_checker_finds(module: str, source: str):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rzero_ray.method.losses", "import torch\nfrom rzero_ray.types import Rollout"),
        ("rzero_ray.method.losses", "from . import logprobs"),
        ("rzero_ray.tasks.tiny_model", "import transformers\nfrom .arithmetic import f"),
        ("rzero_ray.phases.challenger", "import rayon, vllm_notes\nfrom rzero_ray import tiny, types"),
        ("rzero_ray.driver", "from actors.cluster import f\nfrom rzero_ray import phases"),
        ("actors.sampling.vllm_engine", "import ray\nfrom vllm.config import VllmConfig"),
        ("actors.sampling.vllm_engine", "import actors.cluster\nfrom rzero_ray.protocols import Policy"),
        ("actors.learning.deepspeed_rank", "import deepspeed\nimport torch.distributed as dist"),
    ],
)
def test_checker_allows(module: str, source: str):
    assert violations(source, module) == []


def test_checker_finds_a_cycle():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not find_cycle({"a": {"b", "c"}, "b": {"c"}})
