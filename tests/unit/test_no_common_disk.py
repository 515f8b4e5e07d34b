"""What a node is shown, and what an engine without its model's folder is started from."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.nodes import Disk, Node, marked, of_model
from actors.placement import check_room, demands, sampling_demands
from actors.process import hub_environment
from actors.sampling.small_files import SmallFiles
from rzero_ray.config.config import sampling_settings
from rzero_ray.config.layout import disaggregated, engines_alone
from rzero_ray.config.load import load_config
from rzero_ray.tasks.base_model import is_hub_name, is_of_hub, where_it_is
from rzero_ray.types import UserError

SNAPSHOT = "/hub/models--Qwen--Qwen3-4B-Base/snapshots/" + "0f" * 20


def _model(folder: Path) -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(bytes(100))
    (folder / "model.safetensors.index.json").write_text("{}")
    return folder


def test_a_model_is_seen_where_its_configuration_and_its_weights_are(tmp_path: Path):
    evidence = of_model(_model(tmp_path / "model"))
    assert evidence.is_seen()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    assert not evidence.is_seen()


@pytest.mark.parametrize("change", ["gone", "cut", "no folder"])
def test_a_folder_of_the_same_name_with_other_weights_is_another_one(tmp_path: Path, change: str):
    folder = _model(tmp_path / "model")
    evidence = of_model(folder)
    if change == "gone":
        (folder / "model.safetensors").unlink()
    elif change == "cut":
        (folder / "model.safetensors").write_bytes(bytes(99))
    else:
        folder.rename(tmp_path / "moved")
    assert not evidence.is_seen()


def test_a_run_directory_is_seen_by_a_marker_that_is_gone_afterwards(tmp_path: Path):
    with marked(tmp_path / "runs" / "first") as evidence:
        assert evidence.folder == tmp_path  # where it will be made
        assert evidence.is_seen()
        (marker,) = tmp_path.iterdir()
        marker.write_text("of another run")
        assert not evidence.is_seen()
    assert list(tmp_path.iterdir()) == []


def test_an_engine_s_folder_has_all_but_the_weights_and_goes_again(tmp_path: Path):
    folder = _model(tmp_path / "model")
    with SmallFiles.read(folder).unpacked() as unpacked:
        names = sorted(path.name for path in unpacked.iterdir())
        assert names == ["chat_template.jinja", "config.json", "tokenizer.json"]
        assert (unpacked / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert not unpacked.exists()


def test_what_is_wrong_with_the_files_is_said_of_the_model_s_own_folder(tmp_path: Path):
    folder = _model(tmp_path / "model")
    with (
        pytest.raises(UserError, match=f"^the tokenizer of {folder} is odd$"),
        SmallFiles.read(folder).unpacked() as unpacked,
    ):
        raise UserError(f"the tokenizer of {unpacked} is odd")


@pytest.mark.parametrize("num_cpus", [2, 3])
def test_a_learner_has_to_find_room_where_its_disk_is(tmp_path: Path, num_cpus: int):
    config = load_config(["conf=tiny", "learner.num_ranks=3", "learner.cpus_per_rank=1"])
    needed = demands(config, disaggregated(config))
    has = {"CPU": float(num_cpus), "memory": 2.0**40}
    disk = Disk(Path("/data/run"), [Node("a", "10.0.0.1", has)])
    if num_cpus == 3:
        return check_room(needed, disk)
    with pytest.raises(UserError) as caught:
        check_room(needed, disk)
    assert str(caught.value).startswith(
        "learner/rank-0 to learner/rank-2 need /data/run, which only node 10.0.0.1 sees, without "
        "room for 3 CPU, 3.0 GiB; share that folder"
    )


def test_engines_need_the_disk_only_where_nothing_learns():
    config = load_config(["conf=tiny"])
    bound = {d.actor for d in demands(config, disaggregated(config)) if d.needs_disk}
    assert bound == {"learner/rank-0"}
    settings = sampling_settings(config)
    alone = sampling_demands(settings, engines_alone(settings.sampler))
    assert {d.actor for d in alone if d.needs_disk} == {"solver/sampler-0"}


def test_many_nodes_are_counted():
    nodes = [Node(str(k), f"10.0.0.{k}", {}) for k in range(5)]
    assert str(Disk(Path("/m"), nodes)) == (
        "/m, which only nodes 10.0.0.0, 10.0.0.1, 10.0.0.2, 2 more see"
    )


def test_a_folder_of_the_hub_s_cache_is_known_as_one(tmp_path: Path):
    assert is_of_hub(Path(SNAPSHOT))
    assert not is_of_hub(tmp_path) and where_it_is(tmp_path) == tmp_path


def test_a_model_of_the_hub_is_one_that_is_no_folder(tmp_path: Path):
    assert is_hub_name(load_config(["conf=tiny", "model.path=Qwen/Qwen3-4B-Base"]).model)
    assert not is_hub_name(load_config(["conf=tiny"]).model)
    assert not is_hub_name(load_config(["conf=tiny", f"model.path={tmp_path}"]).model)


def test_actors_are_told_of_the_hub_only_what_is_set(monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert hub_environment() == {"HF_TOKEN": "hf_x"}
