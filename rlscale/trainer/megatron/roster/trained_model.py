"""What policy and critic have in common: a model that is trained, its optimizer, and its place on the device."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from rlscale.platform.device import Platform
from rlscale.trainer.megatron.batch.microbatch import MicroBatch
from rlscale.trainer.megatron.disk.starting_weights import build_loaded
from rlscale.trainer.megatron.model.architecture import Architecture
from rlscale.trainer.megatron.model.balancing import Balancing
from rlscale.trainer.megatron.model.expert_router import routed_layers
from rlscale.trainer.megatron.model.model import Role
from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.roster.offload import Offload
from rlscale.trainer.megatron.roster.served_weights import ServedWeights
from rlscale.trainer.megatron.steps import passes, speed
from rlscale.trainer.megatron.steps.flops import ADAPTER_STEP, STEP, ModelFlops, peak_flops
from rlscale.trainer.megatron.steps.mtp_loss import bring_embedding
from rlscale.trainer.megatron.steps.optimizer import Optimizer, build_optimizer
from rlscale.trainer.megatron.steps.step_metrics import IterationMetrics
from rlscale.trainer.megatron.steps.stopwatch import Stopwatch
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.weights.megatron_weights import MegatronWeights

_LOG = logging.getLogger(__name__)


class TrainedModel:
    """A model and its optimizer on this rank. Every method that computes is collective."""

    def __init__(self, spec: TrainerSpec, role: Role, ranks: Ranks, platform: Platform) -> None:
        """Build both. UserError for what cannot be built."""
        self.role = role
        self.folder = spec.model_path
        """Hugging Face folder of the architecture."""
        self.beside = spec.beside
        """What is exported beside the weights."""
        self.model = build_loaded(spec, platform, role)
        section = "critic.optim" if role is Role.critic else "optim"
        self.optimizer: Optimizer = build_optimizer(self.model, spec, section)
        self.offload = Offload(self.model, self.optimizer)
        rounds = spec.trainer.fake_quant and role is Role.policy
        self._rounded = ServedWeights(self.model, spec.served) if rounds else None
        self.skipped_in_a_row = 0
        """Steps skipped since the last one that was made."""
        self.steps_begun = 0
        """Steps that the optimizer was told to make by this process, whatever became of them."""
        self._ranks, self._platform, self._bucket_bytes = ranks, platform, spec.weights.bucket_bytes(spec.device)
        self._reset_on_resume = spec.optim.reset_on_resume
        self._reset_steps = spec.optim.reset_every * spec.algo.steps_per_iteration * spec.algo.epochs_per_iteration
        self._flops = ModelFlops.of(Architecture.read(spec.model_path), role.head, mtp=self.model.mtp)
        self._peak = peak_flops(platform, spec.model.dtype, spec.trainer.peak_tflops)
        routers = (layer.mlp.router for chunk in self.model.bare for layer in routed_layers(chunk))
        self._balancing = Balancing(routers, self.model.config, ranks, platform.device)
        passes.configure_schedule(self.model, self.optimizer.scale_loss)
        self._watch = Stopwatch(platform)
        config = self.model.config
        config.finalize_model_grads_func = self._watch.around(speed.REDUCTION, config.finalize_model_grads_func)
        self.model.train()

    def make_steps(
        self,
        steps: Sequence[Sequence[MicroBatch]],
        epochs: int,
        loss: passes.Finish,
        *,
        mismatch_drifts: bool = False,
    ) -> dict[str, float]:
        """Make every step, `epochs` times; the same metrics on every rank."""
        if self._reset_steps and self.optimizer.steps % self._reset_steps == 0:
            self.optimizer.reset()
        metrics = IterationMetrics(self._ranks, self._platform.device, mismatch_drifts=mismatch_drifts)
        self._balancing.begin_iteration(steps)
        began = time.perf_counter()
        for _ in range(epochs):
            for number, microbatches in enumerate(steps):
                self._step(number, microbatches, loss, metrics)
        self._platform.synchronize()
        self.model.brought_embedding = None
        seconds = time.perf_counter() - began
        # Each rank's share: those of tensor- and pipeline-parallel ranks see the same micro-batches.
        forward = sum(self._flops.share(microbatches, self._ranks.slicing.context_size) for microbatches in steps)
        copies = self._ranks.tensor_group.size() * self._ranks.pipeline_group.size()
        step = STEP if self.model.adapters is None else ADAPTER_STEP
        flops = step * epochs * forward / copies
        of_speed = speed.speed_metrics(self._watch, seconds, flops, self._peak, self._platform.device)
        return metrics.reduce() | self._balancing.metrics(epochs) | of_speed

    def computing(self) -> AbstractContextManager[None]:
        """Within it the model computes as in training: with `trainer.fake_quant` its weights are rounded. Collective.

        Gradients are those of the rounded weights and are taken for the others' (straight through, arXiv 1308.3432).
        """
        return nullcontext() if self._rounded is None else self._rounded.in_place()

    def resumed(self) -> None:
        """The state is that of a checkpoint now."""
        if self._reset_on_resume:
            self.optimizer.reset()

    def weights(self) -> MegatronWeights:
        """The weights as they are, in Hugging Face's form; adapters are merged into them."""
        self.model.finish_gathering()
        model = self.model
        return MegatronWeights(model.bare, model.weights, model.groups, self._bucket_bytes, model.adapters)

    def _step(
        self, number: int, microbatches: Sequence[MicroBatch], loss: passes.Finish, metrics: IterationMetrics
    ) -> None:
        result = None
        while result is None:  # again only in float16, with a smaller factor of the loss
            self._balancing.begin_step(number)
            self.optimizer.zero_grad(self.model)
            if self.model.mtp:
                bring_embedding(self.model, self._ranks)
            with self._watch.span(speed.PASSES), self.computing():
                shares = passes.forward_backward(self.model, microbatches, loss)
            self.steps_begun += 1
            with self._watch.span(speed.OPTIMIZER):
                result = self.optimizer.step()
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if result.skipped else 0
        if result.skipped:
            made, norm = self.optimizer.steps, result.grad_norm
            _LOG.warning("step %d of the %s skipped: the gradient norm is %s", made, self.role.value, norm)
        metrics.add(shares, result)
