"""What policy and critic have in common: a model that is trained, its optimizer, and its place on the device."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rlscale.platform.device import Platform
from rlscale.trainer.megatron import passes
from rlscale.trainer.megatron.microbatch import MicroBatch
from rlscale.trainer.megatron.model import Role, build_model
from rlscale.trainer.megatron.offload import Offload
from rlscale.trainer.megatron.optimizer import Optimizer, build_optimizer
from rlscale.trainer.megatron.parallel import Ranks
from rlscale.trainer.megatron.step_metrics import IterationMetrics
from rlscale.trainer.spec import TrainerSpec
from rlscale.weights.source import MegatronWeights

_LOG = logging.getLogger(__name__)


class TrainedModel:
    """A model and its optimizer on this rank. Every method that computes is collective."""

    def __init__(self, spec: TrainerSpec, role: Role, ranks: Ranks, platform: Platform) -> None:
        """Build both. UserError for what cannot be built."""
        self.role = role
        self.folder = spec.model_path
        """Hugging Face folder of the architecture."""
        self.model = build_model(spec, platform, role)
        self.optimizer: Optimizer = build_optimizer(self.model, spec)
        self.offload = Offload(self.model, self.optimizer)
        self.skipped_in_a_row = 0
        """Steps skipped since the last one that was made."""
        self._ranks, self._platform, self._bucket_bytes = ranks, platform, spec.weights.bucket_mb * 2**20
        passes.configure_schedule(self.model, self.optimizer.megatron.scale_loss)
        self.model.train()

    def train(
        self,
        steps: Sequence[Sequence[MicroBatch]],
        epochs: int,
        loss: passes.Finish,
        *,
        mismatch_drifts: bool = False,
    ) -> dict[str, float]:
        """Make every step, `epochs` times; the same metrics on every rank."""
        metrics = IterationMetrics(self._ranks, self._platform.device, mismatch_drifts=mismatch_drifts)
        for _ in range(epochs):
            for microbatches in steps:
                self._step(microbatches, loss, metrics)
        return metrics.reduce()

    def weights(self) -> MegatronWeights:
        """The weights as they are, in Hugging Face's form."""
        self.model.finish_gathering()
        return MegatronWeights(self.model.bare, self.model.weights, self.model.groups, self._bucket_bytes)

    def _step(self, microbatches: Sequence[MicroBatch], loss: passes.Finish, metrics: IterationMetrics) -> None:
        self.optimizer.zero_grad(self.model)
        shares = passes.forward_backward(self.model, microbatches, loss)
        result = self.optimizer.step()
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if result.skipped else 0
        if result.skipped:
            number, norm = self.optimizer.steps, result.grad_norm
            _LOG.warning("step %d of the %s skipped: the gradient norm is %s", number, self.role.value, norm)
        metrics.add(shares, result)
