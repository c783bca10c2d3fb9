"""One rank of the trainer: makes steps, hands out log-probs, values and weights, saves and loads.

Every method is collective: all ranks call it with the same arguments (shards: each data-parallel rank its own).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from rlscale.config.schema.weights_config import SyncedLora
from rlscale.data.batches.rank_shard import RankShard
from rlscale.data.target import instantiate
from rlscale.platform.device import Platform
from rlscale.trainer.checksums import damaged
from rlscale.trainer.megatron.batch.microbatch import MicroBatch, build_steps
from rlscale.trainer.megatron.disk.adapter_folder import AdapterFolder
from rlscale.trainer.megatron.disk.export import critic_config, export_folder
from rlscale.trainer.megatron.disk.sent_adapter import SentAdapter
from rlscale.trainer.megatron.model.architecture import Architecture
from rlscale.trainer.megatron.ranks import parallel
from rlscale.trainer.megatron.ranks.determinism import ask_for_determinism
from rlscale.trainer.megatron.roster.roster import Roster
from rlscale.trainer.megatron.roster.state_copy import Arrays, Share, state_key
from rlscale.trainer.megatron.steps import passes, speed
from rlscale.trainer.megatron.steps.routing_replay import PolicyRouting
from rlscale.trainer.objective import Objective
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.trainer.value_objective import ValueObjective
from rlscale.weights.encode.encoded_weights import served_weights
from rlscale.weights.exported_mtp import of_policy
from rlscale.weights.megatron_weights import MegatronWeights
from rlscale.weights.transfer import transfer
from rlscale.weights.transports.adapter import AdapterTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, Transport
from rlscale.weights.transports.verified import VerifiedTransport


class MegatronTrainer:
    """A trainer rank. `start` before anything else."""

    def __init__(
        self, spec: TrainerSpec, rank: int, world_size: int, local_rank: int = 0, moves: bool | None = None
    ) -> None:
        """`local_rank` counts the ranks of one machine and picks the GPU.

        `moves`: whether models leave the device while another has it; by default they do on a GPU.
        """
        self._spec, self._rank, self._world_size = spec, rank, world_size
        self._platform = Platform.of(spec.device, local_rank)
        self._moves = self._platform.is_cuda if moves is None else moves
        self._objective = Objective.of(spec.algo)
        self._transport: Transport | None = None
        self._route: Route | None = None
        self._receivers: Sequence[Receiver] = ()
        self._begun_before: int | None = None  # steps of all iterations but the last

    def start(self, address: str, port: int) -> None:
        """Meet the other ranks at rank 0's address:port, build models and optimizers. UserError for what cannot be."""
        spec = self._spec
        if spec.trainer.deterministic:
            ask_for_determinism(self._platform)
        self._ranks = parallel.join(spec, self._platform, self._rank, self._world_size, address, port)
        self._roster = Roster(spec, self._ranks, self._platform, moves=self._moves)
        policy = self._roster.trained("policy").model
        self._routing = PolicyRouting(spec.trainer.routing_replay, policy, self._ranks, self._platform.device)

    @property
    def steps(self) -> int:
        """The policy's optimizer steps taken so far, skipped ones included."""
        return self._roster.steps

    def part_made(self) -> bool:
        """Whether a step of the last iteration was begun, of which nobody may have heard. Not collective."""
        return self._begun_before is not None and self._roster.steps_begun > self._begun_before

    def data_parallel_rank(self) -> int:
        """Which shard of a batch this rank computes."""
        return self._ranks.data_rank

    # -- passes -------------------------------------------------------------------------------------------------------

    def train_shard(
        self, shard: RankShard, version: int, force_old: bool = False, policy: bool = True
    ) -> dict[str, float]:
        """All optimizer steps and epochs of one iteration on this rank's shard; the same metrics on every rank.

        The shard has the columns `loss_weight` and, unless supervised, `advantages`. The columns `old_logprobs` and
        `ref_logprobs` are computed first where the objective needs them and the shard does not bring them; `force_old`
        asks for the former in any case. `version` is the trainer's weight version, before these steps.

        A shard with `returns` (and `values`, `value_weight`) trains the critic first, in the same steps and epochs; its
        metrics begin with `critic_`. Without `policy` nothing else is trained. ValueError if nothing is to be trained.
        """
        began, self._begun_before = time.perf_counter(), self._roster.steps_begun
        steps = self._steps(shard)
        everything = [microbatch for step in steps for microbatch in step]
        metrics: dict[str, float] = {}
        if not policy and "returns" not in shard.batch:
            raise ValueError("neither policy nor critic is to be trained: the shard has no returns")
        if "returns" in shard.batch:
            metrics |= self._train_critic(steps)
        if policy:
            if (force_old or self._objective.needs_old) and "old_logprobs" not in shard.batch:
                metrics |= self._compute(everything, "old_logprobs", self._objective.needs.old_model, version)
            if self._objective.reads_reference and "ref_logprobs" not in shard.batch:
                metrics |= self._compute(everything, "ref_logprobs", "reference", version)
            if self._objective.needs.old_model == "behaviour":
                metrics["old_version_missing"] = self._roster.kept().missing
        self._roster.keep(version)
        if policy:
            metrics |= self._train_policy(steps, version)
        metrics["skipped_in_a_row"] = float(self._roster.skipped_in_a_row)
        self._platform.spare_host()
        made, seconds = len(everything) * self._spec.algo.epochs_per_iteration, time.perf_counter() - began
        return metrics | speed.sizes(shard.batch, made, self._spec.algo, seconds, self._ranks, self._platform)

    def logprobs(
        self, shard: RankShard, model: str = "policy", temperature: float | None = None
    ) -> NDArray[np.float32] | None:
        """Log-probs of a shard's trainable tokens, float32 in the order of its batch's rows; 0 for all other tokens.

        `model` is policy, served (the policy as engines of quantised weights hold it), behaviour (the policy as it was
        when it sampled the token, by the shard's columns `versions` and `version`), reference or teacher; `temperature`
        is the sampling temperature unless given. Only one rank of each data-parallel shard returns them, the others
        None.
        """
        temperature = self._spec.temperature if temperature is None else temperature
        version = int(shard.batch.column("version")) if model == "behaviour" else 0
        return self._column(shard, lambda batches: self._forward_logprobs(batches, model, temperature, version))

    def values(self, shard: RankShard) -> NDArray[np.float32] | None:
        """The critic's values, read at the positions that predict a shard's tokens; shape and order as of `logprobs`.

        Not divided by a temperature. ValueError without a critic.
        """
        critic = self._roster.trained("critic").model
        return self._column(shard, lambda batches: passes.forward_values(critic, self._ranks, batches))

    def _train_critic(self, steps: Sequence[Sequence[MicroBatch]]) -> dict[str, float]:
        critic = self._roster.trained("critic")
        assert self._spec.critic is not None  # it has just been found
        loss = passes.value_loss(ValueObjective(self._spec.critic))
        metrics = critic.make_steps(steps, self._spec.algo.epochs_per_iteration, loss)
        metrics.pop("value_loss", None)  # per token of the iteration; `loss`, per step, is what was minimised
        return {f"critic_{name.removeprefix('value_')}": value for name, value in metrics.items()}

    def _train_policy(self, steps: Sequence[Sequence[MicroBatch]], version: int) -> dict[str, float]:
        policy, objective = self._roster.trained("policy"), self._objective
        scale = self._spec.trainer.mtp_loss_scale
        loss = passes.policy_loss(policy.model, self._ranks, objective, self._spec.temperature, version, scale)
        epochs = self._spec.algo.epochs_per_iteration
        with self._routing.training([microbatch for step in steps for microbatch in step]) as routed:
            metrics = policy.make_steps(steps, epochs, loss, mismatch_drifts=objective.mismatch_drifts)
        return metrics | (routed.reduce() if routed is not None else {})

    def _compute(self, microbatches: Sequence[MicroBatch], name: str, model: str, version: int) -> dict[str, float]:
        """Add a column of log-probs to micro-batches, on the ranks that hold the logits; the seconds of the pass."""
        began = time.perf_counter()
        values = self._forward_logprobs(microbatches, model, self._spec.temperature, version)
        for microbatch, value in zip(microbatches, values or [], strict=False):
            microbatch.computed[name] = value
        self._platform.synchronize()
        return {f"seconds_{name}": time.perf_counter() - began}

    def _forward_logprobs(
        self, microbatches: Sequence[MicroBatch], model: str, temperature: float, version: int
    ) -> list[Tensor] | None:
        """See passes.forward_logprobs. `version` is the trainer's weight version."""

        def forward() -> list[Tensor] | None:
            name = "policy" if model == "behaviour" else model
            with self._roster.with_logits(name) as computing:
                return passes.forward_logprobs(computing, self._ranks, microbatches, temperature)

        if model not in ("policy", "behaviour"):
            return forward()
        with self._routing.scoring(microbatches):
            if model == "policy":
                return forward()
            return self._roster.kept().logprobs(microbatches, version, self._ranks, forward)

    def _column(
        self, shard: RankShard, forward: Callable[[Sequence[MicroBatch]], list[Tensor] | None]
    ) -> NDArray[np.float32] | None:
        """What a forward pass gives for each token of a shard, on the rank that hands it out."""
        microbatches = [microbatch for step in self._steps(shard) for microbatch in step]
        values = forward(microbatches)
        if values is None:
            return None
        column = np.zeros(shard.batch.tokens_total, np.float32)
        for microbatch, value in zip(microbatches, values, strict=True):
            own = np.concatenate([_tokens_of(shard, row) for row in microbatch.rows] or [np.zeros(0, np.int64)])
            column[own] = microbatch.column(value)
        if self._ranks.context_group.size() > 1:
            together = torch.from_numpy(column).to(self._platform.device)
            dist.all_reduce(together, group=self._ranks.context_group)
            column = together.cpu().numpy()
        return column if self._ranks.outputs else None

    def _steps(self, shard: RankShard) -> list[list[MicroBatch]]:
        stages = self._spec.parallel.pipeline
        interleaved = stages > 1 and self._spec.parallel.virtual_pipeline is not None
        return build_steps(
            shard,
            self._ranks.slicing,
            self._platform.device,
            attend=self._roster.attends_in_batches,
            multiple=stages if interleaved else 1,
        )

    # -- weights ------------------------------------------------------------------------------------------------------

    def weights(self) -> MegatronWeights:
        """The policy's weights as they are, in Hugging Face's form."""
        return self._roster.trained("policy").weights()

    def connect_engines(self, route: Route, receivers: Sequence[Receiver]) -> None:
        """Say who gets the weights, and which way they go there. TransferError when somebody cannot be reached."""
        if self._transport is None or route != self._route:
            if self._transport is not None:
                self._transport.close()
            self._transport, self._route = self._transport_by(route), route
        self._receivers = receivers
        self._transport.connect(receivers)  # to others than before: it keeps what it has of the same way

    def _transport_by(self, route: Route) -> Transport:
        if (adapter := self._sent_adapter()) is not None:
            return AdapterTransport(route, adapter.config(self._spec.init_path))
        transport: Transport = instantiate(self._spec.weights.transport, "weights.transport", route)
        if every := self._spec.weights.verify_tensors:
            return VerifiedTransport(transport, every, route.timeout_s)
        return transport

    def send_weights(self, version: int) -> dict[str, float]:
        """Send the weights to the engines as `version`; see `transfer`. TransferError if one did not load."""
        if self._transport is None:
            raise ValueError("send_weights before connect_engines: there is no engine to send the weights to")
        sent = self._sent_adapter() or served_weights(self.weights(), self._spec.served)
        return transfer(sent, self._transport, self._receivers, version)

    def _sent_adapter(self) -> SentAdapter | None:
        """What engines get in the place of weights, with `weights.lora=adapter`."""
        policy = self._roster.trained("policy").model
        if policy.adapters is None or self._spec.weights.lora is not SyncedLora.adapter:
            return None
        return SentAdapter(policy.adapters, policy.groups, policy.weights.config)

    # -- state --------------------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Give the device's memory up for the engines; on the CPU only what is kept for the next step's activations."""
        self._platform.synchronize()
        self._roster.residency.rest_all()
        self._platform.empty_cache()

    def wake(self) -> None:
        """Take the device's memory again, for the policy; another model takes it when it is needed."""
        self._roster.residency.take("policy")

    def save(self, folder: str | Path) -> None:
        """Write models, optimizers, schedules and random state. UserError, on every rank, when the disk refuses."""
        self.begin_save(folder, copy=False)
        self.finish_save()

    def begin_save(self, folder: str | Path, copy: bool = True) -> None:
        """Save this moment: copy it to host memory, write it in a thread. Not a checkpoint before `finish_save`.

        Without `copy` it is written before the call returns. UserError when the folder cannot be made.
        """
        self._roster.begin_save(folder, copy=copy)

    def saved(self) -> bool:
        """Whether this rank has written its part, so that `finish_save` need not wait for it. Not collective."""
        return self._roster.saved

    def finish_save(self) -> None:
        """Wait for every rank's part and make the checkpoint whole. UserError, on every rank, if the disk refused."""
        self._roster.finish_save()
        self._platform.settle_host()

    def damaged(self, folder: str | Path, sums: dict[str, str]) -> list[str]:
        """The files in a folder, of this rank's share of `sums`, whose checksum is another one. Not collective."""
        return damaged(folder, sums, self._rank, self._world_size)

    def load(self, folder: str | Path, resumed: bool = True) -> None:
        """Continue from what `save` wrote; the reference stays as it started. UserError if it does not fit.

        `resumed`: whether a run is continued by it, of which `optim.reset_on_resume` speaks.
        """
        self._roster.load(folder, resumed=resumed)

    def state_key(self) -> tuple[int, ...]:
        """Equal on ranks whose states are, but for what `copy_state` calls its own. Not collective."""
        return state_key(distributed=self._spec.shards_optimizer)

    def copy_state(self, share: Share | None) -> tuple[bytes, Arrays]:
        """A copy of this moment in host memory, see `state_copy.copy_of`. Not collective."""
        return self._roster.copy_state(share)

    def put_state(self, own: bytes, *parts: Arrays) -> None:
        """Go on from copies of another process, see `state_copy.put_copy`. Not collective."""
        self._roster.put_state(own, parts)

    def export(self, folder: str | Path, model: str = "policy") -> None:
        """Write the policy or the critic as a Hugging Face folder. OSError when the disk refuses.

        Adapters are merged into the weights, and by themselves in the subfolder `adapter`, in peft's form.

        The critic's folder is one for transformers' AutoModelForTokenClassification, and a critic can start from it.
        """
        exported = self._roster.trained(model)
        hf = Architecture.read(exported.folder).hf
        if model == "critic":
            export_folder(exported.weights(), exported.beside, folder, critic_config(hf))
        else:
            policy = exported.model
            source, kept = of_policy(exported.weights(), exported.folder, hf, mtp=policy.mtp)
            adapter = AdapterFolder.of(policy, self._spec.init_path) if policy.adapters is not None else None
            export_folder(source, exported.beside, folder, kept=kept, adapter=adapter)

    def close(self) -> None:
        """Leave the other ranks."""
        if self._transport is not None:
            self._transport.close()
        self._roster.close()
        parallel.leave()


def _tokens_of(shard: RankShard, row: int) -> NDArray[np.int64]:
    """Where a row's tokens are in the columns of a shard's batch."""
    return np.arange(shard.batch.offsets[row], shard.batch.offsets[row + 1])
