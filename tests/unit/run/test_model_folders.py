"""The folders of policy, critic and teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.run.assembly import trainer_spec
from rlscale.run.model_folders import ModelFolders
from tests.unit.families.folders import TINY, write


def folders(tmp_path: Path, *overrides: str) -> tuple[Config, ModelFolders]:
    config = compose(None, [f"run.scratch={tmp_path}", *overrides])
    found = ModelFolders.of(config).taught_by(config)
    found.check_start(config)
    return config, found


def test_only_the_models_that_an_algorithm_reads_are_looked_for(tmp_path: Path) -> None:
    config, found = folders(tmp_path, "teacher.path=/nowhere", "critic.model.path=/nowhere")
    assert (found.critic, found.teacher) == (None, None)
    spec = trainer_spec(config, found)
    assert (spec.critic, spec.teacher_path) == (None, None)


def test_the_critic_is_the_policys_model_until_it_is_given_another(tmp_path: Path) -> None:
    config, found = folders(tmp_path, "algo=ppo", "critic.optim.lr=3e-4")
    assert found.critic == found.policy
    spec = trainer_spec(config, found)
    assert (spec.critic_path, spec.critic_init_path) == (str(found.policy), str(found.policy))
    assert spec.critic is not None
    assert spec.critic.optim.lr == 3e-4
    shutil.copytree(found.policy, tmp_path / "other")
    config, other = folders(tmp_path, "algo=ppo", f"critic.model.path={tmp_path / 'other'}", "critic.model.create=null")
    assert other.critic == tmp_path / "other"
    assert trainer_spec(config, other).critic_init_path == str(tmp_path / "other")


def test_versions_are_kept_only_for_old_log_probs_by_what_sampled(tmp_path: Path) -> None:
    stale = ["rollout.max_staleness=1", "cluster.placement=disaggregated"]
    for old, kept in (("behaviour", 1), ("always", 0)):
        assert trainer_spec(*folders(tmp_path, f"algo.old_logprobs={old}", *stale)).kept_versions == kept


def test_a_critic_that_is_missing_is_named_by_its_own_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^critic\.model\.path=/nowhere"):
        folders(tmp_path, "algo=ppo", "critic.model.path=/nowhere", "critic.model.create=null")


def test_a_teacher_with_other_tokens_is_refused(tmp_path: Path) -> None:
    _, found = folders(tmp_path, "algo=opd")
    teacher = tmp_path / "teacher"
    shutil.copytree(found.policy, teacher)
    opd = compose(None, ["algo=opd", f"teacher.path={teacher}"])
    assert found.taught_by(opd).teacher == teacher
    assert trainer_spec(opd, found.taught_by(opd)).teacher_path == str(teacher)
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    *_, first, second = tokenizer["model"]["vocab"]
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"teacher\.path=.*different vocabulary"):
        found.taught_by(opd)


def edited(model: Path, target: Path, **changes: object) -> Path:
    """A copy of a model folder whose config.json says something else."""
    shutil.copytree(model, target)
    said = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**said, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_theta is 1000000.0 there and 10000.0"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05 there and 1e-06 here"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True there and False here"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters is {.*yarn.*} there and {.*default"),
        ({"partial_rotary_factor": 0.5}, "rope_parameters is {.*0.5} there and {'rope_type': 'default'} here"),
    ],
)
def test_starting_from_weights_of_another_model_is_refused_by_name(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    _, found = folders(tmp_path)
    init = edited(found.policy, tmp_path / "init", **changes)
    with pytest.raises(UserError, match=rf"^model\.init={init}: holds a different model: {said}"):
        folders(tmp_path, f"model.init={init}")
    same = edited(found.policy, tmp_path / "same", rope_theta=None, eos_token_id=1)
    assert folders(tmp_path, f"model.init={same}")[1].policy == found.policy


def test_weights_to_start_from_are_held_to_what_a_model_is_held_to(tmp_path: Path) -> None:
    _, found = folders(tmp_path)
    init = edited(found.policy, tmp_path / "init", quantization_config={"quant_method": "fp8"})
    with pytest.raises(UserError, match=rf"^model\.init={init}: quantization_config says"):
        folders(tmp_path, f"model.init={init}")


def test_a_teacher_has_the_tokens_of_the_tokenizer_that_the_run_encodes_with(tmp_path: Path) -> None:
    _, found = folders(tmp_path)
    other = edited(found.policy, tmp_path / "other")
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    *_, first, second = vocabulary
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tokenizer))
    taught = ["algo=opd", f"model.tokenizer={other}"]
    assert folders(tmp_path, *taught, f"teacher.path={other}")[1].teacher == other
    with pytest.raises(UserError, match=rf"^teacher\.path={found.policy}: .* from the policy's tokenizer in {other}$"):
        folders(tmp_path, *taught, f"teacher.path={found.policy}")


def test_a_critic_is_compared_with_its_own_weights_and_is_never_tied(tmp_path: Path) -> None:
    _, found = folders(tmp_path)
    other = edited(found.policy, tmp_path / "other", rms_norm_eps=1e-5)
    with pytest.raises(UserError, match=rf"^critic\.model\.init={other}: holds a different model: rms_norm_eps"):
        folders(tmp_path, "algo=ppo", f"critic.model.init={other}")
    untied = edited(found.policy, tmp_path / "untied", tie_word_embeddings=True)  # with a head of its own, never read
    assert folders(tmp_path, "algo=ppo", f"critic.model.init={untied}")[1].critic == found.policy


def test_a_tied_model_does_not_start_from_weights_with_another_head(tmp_path: Path) -> None:
    tied = "model.create.architecture.tie_word_embeddings=true"
    _, found = folders(tmp_path, tied)
    _, untied = folders(tmp_path)
    weights = (untied.policy / "model.safetensors").read_bytes()
    init = edited(found.policy, tmp_path / "init")
    (init / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"^model\.init=\S+: config\.json says tie_word_embeddings=true, but lm_head"):
        folders(tmp_path, tied, f"model.init={init}")


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused_before_anything_starts(tmp_path: Path) -> None:
    _, found = folders(tmp_path)
    other = edited(found.policy, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    rows = json.loads((found.policy / "config.json").read_text())["vocab_size"]
    tokenizer["added_tokens"].append({"id": rows, "content": "<think>", **special})
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"^model\.tokenizer=\S+: 1 tokens of the tokenizer .*, first '<think>'"):
        folders(tmp_path, f"model.tokenizer={other}")
    with pytest.raises(UserError, match=r"^model\.path=\S+: 1 tokens of the tokenizer are beyond"):
        folders(tmp_path, f"model.path={other}", "model.create=null")


def test_a_layer_that_is_to_be_trained_is_looked_for_before_anything_starts(tmp_path: Path) -> None:
    policy = write(tmp_path / "policy", TINY["qwen3_next"])
    (policy / "tokenizer.json").write_text("{}")
    words = [f"model={policy}", "trainer.mtp=trained"]
    with pytest.raises(UserError, match=r"^model\.path=.*: has no tensor mtp\.[\w.]+, .* set trainer\.mtp=frozen"):
        ModelFolders.of_policy(compose(None, words))
    with pytest.raises(UserError, match=r"^model\.init=.*: has no tensor mtp\."):  # whose weights it starts from
        ModelFolders(policy).check_start(compose(None, [*words, f"model.init={policy}"]))
