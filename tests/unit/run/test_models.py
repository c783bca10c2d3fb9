"""The folders of policy, critic and teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlscale.config.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.run.assembly import trainer_spec
from rlscale.run.models import ModelFolders


def folders(tmp_path: Path, *overrides: str) -> tuple[Config, ModelFolders]:
    config = compose(None, [f"run.scratch={tmp_path}", *overrides])
    return config, ModelFolders.of(config).taught_by(config)


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
    with pytest.raises(UserError, match=r"teacher\.path=.*another vocabulary"):
        found.taught_by(opd)
