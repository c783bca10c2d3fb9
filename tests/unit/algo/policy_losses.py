"""Every policy loss with one signature, that of `rlscale.algo.protocols.Loss`, at bounds that some tokens pass."""

from __future__ import annotations

from rlscale.algo import losses
from rlscale.algo.protocols import Loss

LOSSES: dict[str, Loss] = {
    "clip": lambda lp, old, adv, mask, total: losses.clip(lp, old, adv, eps_low=0.2, eps_high=0.3, dual_clip=1.7),
    "gspo": lambda lp, old, adv, mask, total: losses.gspo(lp, old, adv, mask, total, eps_low=0.1, eps_high=0.15),
    "gspo_token": lambda lp, old, adv, mask, total: losses.gspo_token(
        lp, old, adv, mask, total, eps_low=0.1, eps_high=0.15
    ),
    "cispo": lambda lp, old, adv, mask, total: losses.cispo(lp, old, adv, eps_low=0.2, eps_high=0.3),
    "sapo": lambda lp, old, adv, mask, total: losses.sapo(lp, old, adv, tau_positive=1.0, tau_negative=1.05),
    "sft": lambda lp, old, adv, mask, total: losses.sft(lp),
}
