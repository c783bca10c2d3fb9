"""Do the patterns that name parameters name any, and is anything left to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.trainer_config import Mtp
from rlscale.families import FAMILIES, FolderError
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.multi_token_prediction import why_not_trained
from rlscale.families.tensors import expected_tensors


def patterns_name_parameters(context: CheckContext) -> Iterator[str]:
    """Of what is frozen and of the optimizer's groups; needs the model's config, and for a critic that it has the same.

    Whether a pattern names a part of what Megatron keeps in one is left to the ranks.
    """
    if context.architecture is None:
        return
    try:
        config = complete(context.architecture)
    except FolderError:  # another check says what it lacks
        return
    yield from of_policy_and_critic(context.config, partial(_problems, context, config))


def _problems(context: CheckContext, config: Mapping[str, Any], sections: Sections, prefix: str) -> Iterator[str]:
    if sections.model != context.config.model:
        return
    patterns = {f"{prefix}trainer.frozen": sections.trainer.frozen}
    for name, group in sections.optim.groups.items():
        if isinstance(group, Mapping) and isinstance(group.get("pattern"), str):
            patterns[f"{prefix}optim.groups.{name}.pattern"] = [group["pattern"]]
    if not any(patterns.values()):  # a large mixture has a hundred thousand names
        return
    head, mtp = (Head.value, False) if prefix else (Head.language, sections.trainer.mtp is Mtp.trained)
    if mtp and why_not_trained(FAMILIES[str(config["model_type"])], config):  # another check says so
        return
    names = list(expected_tensors(config, head, mtp=mtp))
    for key, given in patterns.items():
        for pattern in given:
            if pattern and not any(fnmatchcase(name, pattern) for name in names):
                yield f"{key}={pattern}: matches no parameter of the model{did_you_mean(nearest(pattern, names))}"
    frozen = sections.trainer.frozen
    if frozen and all(any(fnmatchcase(name, pattern) for pattern in frozen) for name in names):
        yield f"{prefix}trainer.frozen={','.join(frozen)}: is every parameter, so that nothing would be trained"


PARAMETER_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (patterns_name_parameters,)
