"""The folders of a run's models (policy, critic, teacher), fetched or made before anything needs them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.named_models import has_critic, has_teacher
from rlscale.config.schema import Config
from rlscale.data.model_folder import ensure_model_folder, find_model


@dataclass(frozen=True)
class ModelFolders:
    """Hugging Face folders; None for a model that the algorithm does not use."""

    policy: Path
    critic: Path | None = None
    teacher: Path | None = None

    @classmethod
    def of(cls, config: Config, scratch: Path | None = None) -> ModelFolders:
        """Folders of policy and critic; makes (in `scratch`, or that of the run) and downloads what is missing.

        UserError where that fails.
        """
        scratch = scratch or Path(config.run.scratch).resolve()
        policy = ensure_model_folder(config.model, scratch)
        critic = None
        if has_critic(config.algo):
            critic = ensure_model_folder(config.critic.model, scratch, "critic.model")
        return cls(policy, critic)

    def taught_by(self, config: Config) -> ModelFolders:
        """The same with the teacher of `config`, if it is known yet. UserError for one with other tokens."""
        path = config.teacher.path
        if path is None or not has_teacher(config.algo):
            return self
        teacher = find_model(path, "teacher.path")
        ours, theirs = _vocabulary(self.policy), _vocabulary(teacher)
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(f"teacher.path={path}: has another vocabulary than the policy's model {self.policy}")
        return dataclasses.replace(self, teacher=teacher)


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Token ids by text, of a tokenizer in the format of the tokenizers library; None for any other."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        known = tokenizer["model"]["vocab"]
        texts = known if isinstance(known, dict) else {text: number for number, (text, _) in enumerate(known)}
        return {**texts, **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}}
    except (OSError, ValueError, KeyError, TypeError):
        return None
