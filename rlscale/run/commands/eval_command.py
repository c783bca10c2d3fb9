"""`python -m rlscale eval`: measure a run's model, or any other, on any evaluation set, without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlscale.config.checks import check
from rlscale.config.composition.command_words import help_is_shown
from rlscale.config.errors import UserError
from rlscale.config.machine import check_machine
from rlscale.config.schema import Config
from rlscale.config.schema.weights_config import SyncedLora
from rlscale.config.shown import say
from rlscale.observe import jsonl
from rlscale.run.commands.recipe_of_run import TRUST_RUN, compose_of_run, trusted
from rlscale.run.commands.recomposed import recompose, taken_apart
from rlscale.run.disk.resume import checkpoint_of
from rlscale.run.disk.run_folder import read_mark, write_json
from rlscale.run.preflight import preflight

if TYPE_CHECKING:
    from rlscale.rollout.evaluation import EvalResult

USAGE = (
    "usage: python -m rlscale eval run.output=FOLDER [iteration=N] [to=FOLDER] [--trust-run] [key=value ...]\n"
    "       python -m rlscale eval model.path=FOLDER|NAME [recipe=NAME|PATH.yaml] [to=FOLDER] [key=value ...]\n"
    "  run.output  folder of a run: its final model, or else its newest whole checkpoint, with the run's options\n"
    "  iteration   the checkpoint of that iteration instead\n"
    "  model.path  any Hugging Face folder or name, with the options of a recipe (by default of the default one)\n"
    "  to          folder for result.json and samples.jsonl; by default a new one in the run's, or in run.root/eval\n"
    "  --trust-run run what the run's own recipe names: code and commands, programs without a sandbox\n"
    "  key=value   what to measure and how: data@eval.data=jsonl eval.data.path=rows.jsonl reward=math eval.prompts=9\n"
    "              eval.samples_per_prompt=8 eval.pass_k=[1,8] eval.temperature=0.6, and any other key of a run"
)
_OWN = ("run.output", "iteration", "to", "recipe")
_MEASURED = ("data@eval.data", "reward")
"""Groups that may be chosen otherwise than the run's recipe does; its values inside them are then left out."""

_TRAINING = ("algo", "critic", "data", "loop", "teacher", "tracker")
"""Sections of which an evaluation runs nothing."""


def evaluate(arguments: Sequence[str]) -> int:
    """Start engines with the model, let them answer and score the answers; prints a line for each k of pass@k."""
    if help_is_shown(arguments, USAGE):
        return 0
    trust, words = trusted(arguments)
    own, overrides = taken_apart("eval", words, _OWN)
    run = Path(own["run.output"]).expanduser().resolve() if "run.output" in own else None
    config, checkpoint = _subject(run, own, overrides, trust=trust)
    for note in check(config):  # whose code runs is said before any of it is built
        say(f"note: {note}")
    for note in (*check_machine(config), *preflight(config, trains=False)):
        say(f"note: {note}")
    target = _target(own.get("to"), run, config)
    from rlscale.run.commands.model_evaluation import measure
    from rlscale.run.processes.stop_signal import StopRequested

    try:
        result = measure(config, checkpoint, target / "logs")
    except StopRequested:
        return 130
    _write(target, config, str(checkpoint or config.model.path), result)
    for k, share in result.pass_at_k.items():
        say(f"pass@{k} {share:.4f}")
    say(
        f"reward {result.mean_reward:.3f}, {result.mean_length:.1f} tokens, {result.samples} samples of "
        f"{result.prompts} prompts, {result.failures} failed, {result.dropped} prompts left out  {target}"
    )
    return 0


def _subject(
    run: Path | None, own: dict[str, str], overrides: list[str], *, trust: bool = False
) -> tuple[Config, Path | None]:
    """The configuration to measure with, whose `model.path` is the model, or else the checkpoint that holds it."""
    if run is None:
        if trust:
            raise UserError(f"{TRUST_RUN} belongs to run.output=FOLDER, the folder of a run; leave it out")
        if "iteration" in own:
            raise UserError("iteration=... belongs to run.output=FOLDER, the folder of a run")
        config = recompose(own.get("recipe"), overrides, _MEASURED)
        if config.model.path is None:
            raise UserError("eval needs run.output=FOLDER, the folder of a run, or model.path=FOLDER, a model")
        if config.model.init is not None:
            raise UserError(f"model.init={config.model.init}: eval measures model.path; give that folder as model.path")
        if config.model.lora is not None:
            raise UserError("model.lora: eval measures model.path; export the adapter merged, and give that folder")
        return _for_measuring(config, config.model.path), None
    if "recipe" in own:
        raise UserError("recipe=... does not go with run.output=..., which has a recipe of its own")
    facts = read_mark(run)
    if facts is None:
        raise UserError(f"run.output={run} does not contain a run")
    config = compose_of_run(run, overrides, _MEASURED, _is_run, trust=trust)
    final = run / "hf"
    if "iteration" not in own and facts.get("state") == "finished" and (final / "config.json").is_file():
        # The run's tokenizer and template are in there, also where the files that it was given are gone by now.
        inside = [key for key in ("tokenizer", "chat_template") if not _is_given(overrides, f"model.{key}")]
        return _for_measuring(config, str(final), inside), None
    return _for_measuring(config, None), checkpoint_of(run, own.get("iteration"))


def _is_run(key: str) -> bool:
    """Of a run's configuration, all but what belongs to training alone."""
    return key.partition(".")[0] not in _TRAINING


def _is_given(overrides: list[str], key: str) -> bool:
    return any(word.lstrip("+").startswith(f"{key}=") for word in overrides)


def _for_measuring(config: Config, model: str | None, inside: Sequence[str] = ()) -> Config:
    """Nothing but the evaluation is left, on engines with the model in that folder (None: the configuration's own).

    `inside`: keys of `model` whose files are taken from that folder, too.
    """
    evaluation = dataclasses.replace(config.eval, enabled=True, engines=0, allow_overlap=True)
    changed = dataclasses.replace(
        config,
        eval=evaluation,
        data=config.data if evaluation.data is None else evaluation.data,  # nothing is trained on
        warm_start=None,
        weights=dataclasses.replace(config.weights, lora=SyncedLora.merged),  # as the exported model is
        teacher=dataclasses.replace(config.teacher, recipe=None),
    )
    if model is not None:
        nowhere_else: dict[str, Any] = {"create": None, "init": None, **dict.fromkeys(inside)}
        own = dataclasses.replace(config.model, path=model, **nowhere_else)
        follows = config.critic.model == config.model
        critic = dataclasses.replace(config.critic, model=own) if follows else config.critic
        changed = dataclasses.replace(changed, model=own, critic=critic)
    if config.rollout.engine_urls:
        raise UserError("rollout.engine_urls: eval starts engines of its own; leave it out")
    changed.freeze()
    return changed


def _target(given: str | None, run: Path | None, config: Config) -> Path:
    """The folder of the results, made now. UserError for one that is in use or cannot be made."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    root = Path(config.run.root) if run is None else run
    target = Path(given).expanduser() if given is not None else root / "eval" / now
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise UserError(f"to={target} is not empty; choose another folder")
    except OSError as error:
        raise UserError(f"to={target} cannot be made a folder ({error.strerror}); choose another") from error
    return target.resolve()


def _write(target: Path, config: Config, model: str, result: EvalResult) -> None:
    """result.json, and samples.jsonl with every sample."""
    evaluation = config.eval
    write_json(
        target / "result.json",
        {
            "model": model,
            "recipe": config.run.recipe,
            "pass_at_k": {str(k): share for k, share in result.pass_at_k.items()},
            "reward": result.mean_reward,
            "response_length": result.mean_length,
            "truncated": result.truncated_share,
            "prompts": result.prompts,
            "samples": result.samples,
            "failures": result.failures,
            "prompts_left_out": result.dropped,
            "temperature": evaluation.temperature,
            "samples_per_prompt": evaluation.samples_per_prompt,
            "seed": config.run.seed,
        },
    )
    records = [
        {
            "id": group.prompt.id,
            "prompt": group.prompt.text,
            "label": group.prompt.label,
            "response": sample.text,
            "reward": sample.reward,
            "solved": sample.reward >= evaluation.success_reward,
            "tokens": sample.response_length,
            "truncated": sample.truncated,
        }
        for group in result.groups
        for sample in group.samples
    ]
    jsonl.rewrite(target / "samples.jsonl", records)
