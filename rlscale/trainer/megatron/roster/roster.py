"""The named models of a rank: policy, and where used critic, reference and teacher; one at a time has the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.errors import UserError
from rlscale.families.served_form import WeightForm
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.disk.checkpoint_writer import CheckpointWriter, Writing
from rlscale.trainer.megatron.disk.distributed_checkpoint import (
    checkpoint_of,
    holds_checkpoint,
    load_checkpoint,
    load_weights_of,
)
from rlscale.trainer.megatron.model.expert_router import routed_layers
from rlscale.trainer.megatron.model.model import Model, Role
from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.roster.device_residency import DeviceResidency
from rlscale.trainer.megatron.roster.frozen_weights import FrozenWeights
from rlscale.trainer.megatron.roster.kept_versions import KeptVersions
from rlscale.trainer.megatron.roster.offload import Offload
from rlscale.trainer.megatron.roster.served_weights import ServedWeights
from rlscale.trainer.megatron.roster.state_copy import Arrays, Share, copy_of, put_copy
from rlscale.trainer.megatron.roster.teacher import build_teacher
from rlscale.trainer.megatron.roster.trained_model import TrainedModel
from rlscale.trainer.trainer_spec import TrainerSpec


class Roster:
    """Builds the models that a run needs, and hands out one, which then has the device. The policy begins."""

    def __init__(self, spec: TrainerSpec, ranks: Ranks, platform: Platform, *, moves: bool) -> None:
        """`moves`: whether the others leave the device. UserError for what cannot be built."""
        self.residency = DeviceResidency(moves)
        policy = TrainedModel(spec.of_policy(), Role.policy, ranks, platform)
        self._trained = {"policy": policy}
        self._kept = KeptVersions(policy.model, spec.kept_versions)
        self._frozen: dict[str, FrozenWeights] = {}
        self._teacher: Model | None = None
        self._writing = Writing()
        self._served_form = spec.served
        if AlgoNeeds.of_algo(spec.algo).reference and policy.model.adapters is None:
            self._frozen["reference"] = FrozenWeights(policy.model)
        self.residency.join("policy", policy.offload)
        if spec.teacher_path is not None:
            self._add_teacher(spec, policy.model, platform)
        if spec.critic is not None:
            critic = TrainedModel(spec.of_critic(), Role.critic, ranks, platform)
            self._trained["critic"] = critic
            self.residency.join("critic", critic.offload)
        self.attends_in_batches = any(model.attends_in_batches for model in self._models())
        """Whether micro-batches, which all models share, must have the batches of torch's attention."""
        self.residency.take("policy")

    def _add_teacher(self, spec: TrainerSpec, policy: Model, platform: Platform) -> None:
        self.residency.take("policy")
        teacher = build_teacher(spec, policy, platform, make_room=self.residency.rest_all)
        if isinstance(teacher, FrozenWeights):
            self._frozen["teacher"] = teacher
            self.residency.rest("policy")
        else:
            self._teacher = teacher
            self.residency.join("teacher", Offload(teacher))

    def _models(self) -> list[Model]:
        """Every model that has parameters of its own on this rank."""
        return [*(trained.model for trained in self._trained.values()), *([self._teacher] if self._teacher else [])]

    @property
    def has_critic(self) -> bool:
        """Whether a critic is trained."""
        return "critic" in self._trained

    @property
    def steps(self) -> int:
        """The policy's optimizer steps taken so far, skipped ones included."""
        return self._trained["policy"].optimizer.steps

    @property
    def steps_begun(self) -> int:
        """Of all models that are trained, how many steps were begun."""
        return sum(model.steps_begun for model in self._trained.values())

    @property
    def skipped_in_a_row(self) -> int:
        """Steps skipped since the last one that was made, of the model that has skipped more."""
        return max(model.skipped_in_a_row for model in self._trained.values())

    def trained(self, name: str) -> TrainedModel:
        """The policy or the critic, which then has the device. ValueError if there is no such model."""
        if name not in self._trained:
            raise ValueError(f"this trainer trains no model {name!r}, only {', '.join(self._trained)}")
        self.residency.take(name)
        return self._trained[name]

    def kept(self) -> KeptVersions:
        """The policy's weights of earlier versions; the policy has the device then."""
        self.residency.take("policy")
        return self._kept

    def keep(self, version: int) -> None:
        """Remember the policy's weights as those of `version`, where versions are kept, before they change."""
        if self._kept.limit:
            self.kept().keep(version)

    @contextmanager
    def with_logits(self, name: str) -> Iterator[Model]:
        """Policy, reference, teacher, or the policy as quantised engines hold it (served), for passes within the block.

        ValueError if there is no such model.
        """
        if name == "teacher" and self._teacher is not None:
            self.residency.take(name)
            try:
                yield self._teacher
            finally:
                self.residency.rest(name)
        elif name in self._frozen:
            model = self.trained("policy").model
            with self._frozen[name].in_place(), model.without_adapters():
                yield model
        elif name == "reference" and self._trained["policy"].model.adapters is not None:
            model = self.trained("policy").model  # the base is what the policy started from, in the same memory
            with model.without_adapters():
                yield model
        elif name == "policy":
            policy = self.trained("policy")
            with policy.computing():
                yield policy.model
        elif name == "served" and self._served_form.kind is not WeightForm.as_trained:
            model = self.trained("policy").model
            with ServedWeights(model, self._served_form).in_place():
                yield model
        else:
            known = ["policy", *self._frozen, *(["teacher"] if self._teacher is not None else [])]
            raise ValueError(f"this trainer has no model {name!r} with log-probs, only {', '.join(known)}")

    def close(self) -> None:
        """Let go of what would keep the models, and with them all process groups, alive for ever."""
        for chunk in (chunk for model in self._models() for chunk in model.bare):
            for module in chunk.modules():
                # Rotary embeddings of Megatron's are themselves keys of a cache of their class.
                if hasattr(type(module).forward, "cache_clear"):
                    type(module).forward.cache_clear()
            for layer in routed_layers(chunk, mtp=True):
                # It keeps the last pass's graph, whose nodes hold on to the model where Python's collector cannot see.
                layer.mlp.token_dispatcher = None

    def begin_save(self, folder: str | Path, *, copy: bool) -> None:
        """Save the policy into the folder and a critic into its subfolder `critic`; whole only after `finish_save`.

        The weights of each kept version are in a subfolder of `versions`.

        With `copy` the state is copied to host memory and written by a thread, else it is written here and now.
        UserError when the folder cannot be made.
        """
        self._writing = Writing()

        def begin(writer: CheckpointWriter) -> None:
            if not copy:
                writer.write()
            self._writing.add(writer)

        for version in self._kept.versions:
            with self.kept().in_place(version):
                begin(checkpoint_of(_versions(folder) / str(version), self._trained["policy"].model, copy=copy))
        for name in self._trained:
            model = self.trained(name)
            begin(checkpoint_of(_place(folder, name), model.model, model.optimizer, copy=copy))
        if copy:
            self._writing.start()

    @property
    def saved(self) -> bool:
        """Whether this rank has written its part of the last `begin_save`."""
        return self._writing.done

    def finish_save(self) -> None:
        """Wait for the writing and make the checkpoint whole. UserError, on every rank, when the disk refused."""
        writing, self._writing = self._writing, Writing()
        writing.close()

    def load(self, folder: str | Path, *, resumed: bool = True) -> None:
        """Continue from what `save` wrote. UserError if it does not fit, or has a critic where this run has none.

        `resumed`: whether a run is continued by it.
        """
        saved = holds_checkpoint(_place(folder, "critic"))
        if holds_checkpoint(folder) and saved != self.has_critic:
            has, needs = ("a critic", "has none") if saved else ("no critic", "has one")
            raise UserError(
                f"{folder} holds {has}, but this run {needs}; resume with the algo it was made with, or start a new run"
            )
        self._load_versions(folder)  # before the policy, in whose model they are read
        for name in self._trained:
            model = self.trained(name)
            load_checkpoint(_place(folder, name), model.model, model.optimizer)
            if resumed:
                model.resumed()

    def copy_state(self, share: Share | None) -> tuple[bytes, Arrays]:
        """See `state_copy.copy_of`."""
        return copy_of(self._in_turn(), self._kept, share)

    def put_state(self, own: bytes, parts: Sequence[Arrays]) -> None:
        """See `state_copy.put_copy`."""
        put_copy(own, parts, self._in_turn(), self.kept())

    def _in_turn(self) -> Iterator[tuple[str, TrainedModel]]:
        """Each trained model, which then has the device."""
        for name in self._trained:
            yield name, self.trained(name)

    def _load_versions(self, folder: str | Path) -> None:
        """Keep the versions that the folder has, as far as this run keeps any; the policy has other weights then."""
        kept, policy = self.kept(), self._trained["policy"].model
        kept.forget()
        if not kept.limit or not _versions(folder).is_dir():
            return
        saved = sorted(int(place.name) for place in _versions(folder).iterdir())
        for version in saved[-kept.limit :]:
            load_weights_of(_versions(folder) / str(version), policy)
            kept.keep(version)


def _place(folder: str | Path, name: str) -> Path:
    return Path(folder) if name == "policy" else Path(folder) / name


def _versions(folder: str | Path) -> Path:
    return Path(folder) / "versions"
