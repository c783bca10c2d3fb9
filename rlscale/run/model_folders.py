"""The folders of a run's models (policy, critic, teacher), fetched or made before anything needs them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rlscale.config.derived.needs import Needs
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.trainer_config import Mtp
from rlscale.data.folders.model_folder import check_start, ensure_model_folder, ensure_tokenizer_folder, find_model
from rlscale.families.config_file import complete, read_config
from rlscale.families.family import Head
from rlscale.families.origin import CHECKPOINT
from rlscale.trainer.checksums import SUMS


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
        found = cls.of_policy(config, scratch)
        if not Needs.of(config).critic:
            return found
        critic = ensure_model_folder(config.critic.model, scratch or _scratch(config), "critic.model", Head.value)
        return dataclasses.replace(found, critic=critic)

    @classmethod
    def of_policy(cls, config: Config, scratch: Path | None = None) -> ModelFolders:
        """As `of`, without the critic."""
        mtp = config.model.init is None and config.trainer.mtp is Mtp.trained
        policy = ensure_model_folder(config.model, scratch or _scratch(config), mtp=mtp)
        _embeds_every_token(config, policy)
        return cls(policy)

    def check_start(self, config: Config) -> None:
        """Are the weights that policy and critic start from those of their own architectures. UserError if not."""
        if config.model.init is not None:
            mtp = config.trainer.mtp is Mtp.trained
            check_start(config.model.init, "model.init", self.policy, Head.language, mtp=mtp)
        model = config.critic.model
        if self.critic is not None and model.init is not None:
            key = "model.init" if model == config.model else "critic.model.init"
            check_start(model.init, key, self.critic, Head.value)

    def taught_by(self, config: Config) -> ModelFolders:
        """The same with the teacher of `config`, if it is known yet. UserError for one with other tokens."""
        path = config.teacher.path
        if path is None or not Needs.of(config).teacher:
            return self
        teacher = find_model(path, "teacher.path")
        tokenizer = ensure_tokenizer_folder(config.model, self.policy)
        ours, theirs = _vocabulary(tokenizer), _vocabulary(teacher)
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(
                f"teacher.path={path}: has a different vocabulary from the policy's tokenizer in {tokenizer}"
            )
        return dataclasses.replace(self, teacher=teacher)


def unsummed_starts(config: Config) -> list[str]:
    """A line for each checkpoint that a model starts from and that has no checksums: damage to it would go unseen."""
    starts = {"model.init": config.model.init}
    if Needs.of(config).critic:
        starts["critic.model.init"] = config.critic.model.init
    return [
        f"{key}={path} has no checksums ({SUMS}), so damage to its numbers would not be noticed"
        for key, path in starts.items()
        if path is not None and (Path(path) / CHECKPOINT).is_file() and not (Path(path) / SUMS).is_file()
    ]


def _scratch(config: Config) -> Path:
    return Path(config.run.scratch).resolve()


def _embeds_every_token(config: Config, model: Path) -> None:
    """Every token of the tokenizer has a row in the model's embedding; UserError if not."""
    folder = ensure_tokenizer_folder(config.model, model)
    ids = _vocabulary(folder)
    if ids is None:
        from rlscale.data.tokens.prompt_encoder import load_tokenizer

        ids = load_tokenizer(folder).get_vocab()
    rows = int(complete(read_config(model))["vocab_size"])
    beyond = {text: number for text, number in ids.items() if number >= rows}
    if beyond:
        text = min(beyond, key=beyond.__getitem__)
        key = "model.tokenizer" if config.model.tokenizer is not None else "model.path"
        raise UserError(
            f"{key}={folder}: {len(beyond)} tokens of the tokenizer are beyond the model's embedding of {rows} rows "
            f"(vocab_size), first {text!r} with id {beyond[text]}; give the tokenizer of this model"
        )


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Token ids by text, of a tokenizer in the format of the tokenizers library; None for any other."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        known = tokenizer["model"]["vocab"]
        texts = known if isinstance(known, dict) else {text: number for number, (text, _) in enumerate(known)}
        return {**texts, **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}}
    except (OSError, ValueError, KeyError, TypeError):
        return None
