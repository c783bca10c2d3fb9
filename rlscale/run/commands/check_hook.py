"""`python -m rlscale check-hook`: the contract test of a user's own function, one line per check."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from rlscale.algo.protocols import AdvantageInputs, CorrectionInputs, LossInputs, ReductionInputs, ScoreInputs
from rlscale.config.composition.command_words import help_is_shown
from rlscale.config.composition.overrides import parse_one
from rlscale.config.derived.needs import COLUMNS
from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.shown import say
from rlscale.data.target import build_target, current_folder_importable, import_target
from rlscale.envs.configured_environment import configured_environment
from rlscale.envs.configured_group_rewards import build_group_reward
from rlscale.envs.reward import Reward, build_reward, extras_of
from rlscale.envs.score import score_of
from rlscale.rollout.endpoint.configured_agent import agent_of
from rlscale.run.components import look_at, prepare_imports
from rlscale.run.contracts.kinds import COMPONENTS
from rlscale.trainer.hook_contract import CHECKS, Finding, Status, check_advantage, check_loss, failed
from rlscale.trainer.hook_contract.findings import Report, reported
from rlscale.trainer.hooks import HookKind, build_hook

INPUTS: dict[str, type] = {
    "score": ScoreInputs,
    "advantage": AdvantageInputs,
    "loss": LossInputs,
    "correction": CorrectionInputs,
    "reduction": ReductionInputs,
}
"""What a hook is called with, by its kind: the annotation of its parameter tells the kind."""

PARAMETERS = {
    "reward": ("response", "label", "info"),
    "group_reward": ("prompt", "responses"),
    "filter": ("group",),
    "loop": ("run",),
}
"""The parameters whose names tell what a function is."""

METHODS = {
    "environment": ("reset", "step", "close"),
    "source": ("next", "state_dict", "load_state_dict"),
    "agent": ("run",),
    **{kind: component.methods for kind, component in COMPONENTS.items() if component.methods},
}
"""The methods by which the kind of a class is told that is not called; see rlscale.envs.environment,
rlscale.data.prompts.sources and rlscale.run.contracts."""
KINDS = (*INPUTS, *PARAMETERS, *METHODS)

USAGE = (
    "usage: python -m rlscale check-hook path.to.fn [kind=KIND] [argument=value ...]\n"
    "  path.to.fn  your function or class; the current folder is searched too\n"
    f"  kind        {', '.join(KINDS)}; by default told from the annotation of its inputs\n"
    "              (`inputs: LossInputs`), from the names of its parameters, or from a class's methods\n"
    "  argument    arguments of your own, as you would give them beside the _target_\n"
    "  reads       of an advantage or a loss, as in its section: reads=[ref_logprobs]; by default it is given all\n"
    "  row         of an environment or a group reward, the row of the data: 'row={prompt: 2+2=, label: 4}'\n"
    "Prints one line per check and ends with 0, or with 1 where the contract is broken. See docs/hooks.md"
)

_RESPONSES = ("42", " 42\n", "", "The answer is \\boxed{42}.", "no number", "größer ∑ 數 \U0001f600", "7 " * 5000)


def check_hook(arguments: Sequence[str]) -> int:
    """Check one hook and print what was found; the exit code. UserError where the hook cannot be built at all."""
    if help_is_shown(arguments, USAGE):
        return 0
    path, kind, node = _read(arguments)
    prepare_imports(Device.cpu)
    with current_folder_importable():
        target = import_target(path, path)
        findings = _findings(kind := kind or kind_of(target, path), node)
    say(f"{path} as {kind}:")
    for finding in findings:
        say(finding)
    broken = failed(findings)
    warned = sum(finding.status is Status.warned for finding in findings)
    checks = sum(finding.status is not Status.noted for finding in findings)
    say(f"{checks} checks, {len(broken)} failed, {warned} with a warning")
    return 1 if broken else 0


def kind_of(target: Callable[..., Any], path: str) -> str:
    """The kind of a function, or of a class's instances, from its parameters. UserError if they do not tell it."""
    called: Any = target
    if inspect.isclass(target):
        for kind, methods in METHODS.items():
            if all(callable(getattr(target, method, None)) for method in methods):
                return kind
        called = next((vars(base)["__call__"] for base in target.__mro__ if "__call__" in vars(base)), None)
        if called is None:
            raise UserError(
                f"{path}: instances of this class cannot be called; give it a __call__, or the methods of a component "
                f"(see docs/components.md){_nearly(target)}"
            )
    try:
        parameters = dict(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        parameters = {}
    for kind, names_of_it in PARAMETERS.items():
        if set(names_of_it) <= set(parameters):
            return kind
    # By name: an annotation is a text where annotations are postponed.
    annotated = [getattr(given.annotation, "__name__", str(given.annotation)) for given in parameters.values()]
    names = {name.rpartition(".")[2] for name in annotated}
    fitting = [kind for kind, inputs in INPUTS.items() if inputs.__name__ in names]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(sorted(set(parameters) - {"self"})) or "none"
    raise UserError(
        f"{path}: what it is cannot be told from its parameters ({shown}); annotate its inputs, such as "
        f"`inputs: LossInputs`, or add kind={'|'.join(KINDS)}"
    )


def _nearly(target: type) -> str:
    """The kind of component of which a class has most of the methods, and what it lacks; empty where it has none."""
    lacking = {kind: [name for name in names if not hasattr(target, name)] for kind, names in METHODS.items()}
    kind = min(METHODS, key=lambda one: len(lacking[one]) / len(METHODS[one]))
    if len(lacking[kind]) == len(METHODS[kind]):
        return ""
    return f"; to be a {kind}, it lacks {', '.join(lacking[kind])}"


def check_reward(reward: Reward) -> list[Finding]:
    """One finding per check of a reward: what it returns, whether it is the same again, what it does to `info`.

    Raising is allowed, if it is not SystemExit: it drops the sample. A reward that asks a service or a model may well
    give other numbers.
    """
    with reported() as report:
        raised, ends = [], False
        for response in _RESPONSES:
            where = repr(response if len(response) < 40 else response[:20] + "...")
            try:
                _check_response(report, reward, response, where)
            except (Exception, SystemExit) as error:
                ends = ends or isinstance(error, SystemExit)
                raised.append(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}")
        text = f"it raised for {len(raised)} of {len(_RESPONSES)} responses{f', as for {raised[0]}' if raised else ''}"
        some, status = len(raised) < len(_RESPONSES), Status.failed if ends else Status.warned
        report.add("call", "a score (raising drops the sample)", some and not ends, text, otherwise=status)
    return report.findings


def _extras(response: str) -> dict[str, Any]:
    """What a reward may ask for by name, for a response of one token per character and an end."""
    prompt = "What is 6 times 7?"
    return {
        "raw_response": f"{response}<|im_end|>",
        "prompt": f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        "messages": [{"role": "user", "content": prompt}],
        "tokens": [ord(character) % 1000 + 1 for character in response] + [0],
    }


def _check_response(report: Report, reward: Reward, response: str, where: str) -> None:
    extras = {name: value for name, value in _extras(response).items() if name in extras_of(reward)}
    info: dict[str, Any] = {"index": 0, "tags": ["x"]}
    given = copy.deepcopy(info)
    value, problem = _score(reward, response, given, extras)
    text = "it is" if problem is None else f"{problem} for {where}"
    report.add("finite", "a finite number", problem is None, text)
    report.add(
        "arguments", "`info` stays as it was", given == info, "it did" if given == info else f"{given} for {where}"
    )
    again, _ = _score(reward, response, copy.deepcopy(info), extras)
    same = repr(value) == repr(again)
    text = "it is" if same else f"{value!r}, then {again!r} for {where}"
    report.add("deterministic", "the same number again", same, text, otherwise=Status.warned)


def _score(
    reward: Reward, response: str, info: dict[str, Any], extras: dict[str, Any]
) -> tuple[float | None, str | None]:
    """The reward of one response, awaited if it is `async def`, or what is wrong with what it returned."""
    value: Any = reward(response, "42", info, **copy.deepcopy(extras))
    if inspect.isawaitable(value):
        value = asyncio.run(_finished(value))
    try:
        return score_of(value), None
    except ValueError as error:
        return None, str(error)


async def _finished(value: Any) -> Any:
    return await value


def _read(arguments: Sequence[str]) -> tuple[str, str | None, dict[str, Any]]:
    """Path, kind if it is given, and the node of the hook."""
    paths = [word for word in arguments if "=" not in word]
    if len(paths) != 1:
        what = f"not {' and '.join(paths)}" if paths else "such as my_module.my_loss"
        raise UserError(f"check-hook takes one path of a function or class, {what}")
    node: dict[str, Any] = {"_target_": paths[0]}
    kind = None
    problems: list[str] = []
    for word in arguments:
        if word == paths[0]:
            continue
        override = parse_one(word, problems)
        if override is None:
            continue
        if override.is_sweep_override() or override.is_delete():
            problems.append(f"{word}: give one value, key=value")
        elif override.key_or_group == "kind":
            kind = str(override.value())
        else:
            node[override.key_or_group] = override.value()
    if problems:
        raise UserError("\n".join(problems))
    if kind is not None and kind not in KINDS:
        hint = did_you_mean(nearest(kind, KINDS)) or f"; known: {', '.join(KINDS)}"
        raise UserError(f"kind={kind}: no such kind{hint}")
    return paths[0], kind, node


def _findings(kind: str, node: dict[str, Any]) -> list[Finding]:
    """Build the hook and test it. UserError if it cannot be built."""
    if kind in COMPONENTS:
        look_at(COMPONENTS[kind].key, node)
        return COMPONENTS[kind].check(node, COMPONENTS[kind].key)
    if kind == "reward":
        return check_reward(build_reward(RewardConfig(function=node)))
    if kind in ("environment", "group_reward", "agent"):
        return _findings_with_row(kind, dict(node))
    if kind == "source":
        from rlscale.run.contracts.source_contract import check_source

        return check_source(lambda: build_target(node, "source"))
    asking: dict[str, Callable[..., list[Finding]]] = {"advantage": check_advantage, "loss": check_loss}
    if kind not in asking or "reads" not in node:
        return CHECKS[kind](build_hook(cast(HookKind, kind), node))
    own = dict(node)
    reads = _reads(own.pop("reads"))
    return asking[kind](build_hook(cast(HookKind, kind), own), reads=reads)


def _findings_with_row(kind: str, node: dict[str, Any]) -> list[Finding]:
    """Of a hook that is shown a row of the data."""
    row = node.pop("row", None)
    if row is not None and not isinstance(row, dict):
        raise UserError(f"row={row}: must be a mapping such as {{prompt: 2+2=, label: 4}}")
    if kind == "environment":
        from rlscale.run.contracts.environment_contract import ExactScorer, check_environment

        return check_environment(configured_environment(node, ExactScorer()), row)
    if kind == "agent":
        from rlscale.run.contracts.agent_contract import check_agent

        return check_agent(agent_of(node), row)
    from rlscale.run.contracts.group_reward_contract import check_group_reward

    reward = build_group_reward(RewardConfig(group_function=node))
    assert reward is not None  # it was named
    return check_group_reward(reward, row)


def _reads(value: Any) -> list[str]:
    """The columns of reads=[...]. UserError for another value or another name."""
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in COLUMNS:
            hint = did_you_mean(nearest(str(name), COLUMNS)) or f"; known: {', '.join(COLUMNS)}"
            raise UserError(f"reads: no such column as {name}{hint}")
    return names
