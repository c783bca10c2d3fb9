"""The classes and functions of rlscale itself that a `_target_` may name: its hooks and components, and nothing else.

A closed list, because everything else in these modules is there for its callers: it starts processes, reads and writes
files, and does so with whatever it is given. A new hook or component is put here; a test finds every `_target_` of
groups, recipes, documentation and examples, and asks for it. Nothing is imported here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

PACKAGE = "rlscale"

OWN_TARGETS: Mapping[str, tuple[str, ...]] = {
    "data.buffer": ("Buffer",),
    "data.prompts.calculator_examples": ("CalculatorExamples",),
    "envs.calculator": ("Calculator",),
    "envs.environment": ("SingleTurn",),
    "envs.games.text_arena_games": ("TextArenaGames",),
    "envs.games.text_game": ("TextGame",),
    "envs.kernels.c_kernel": ("CKernel",),
    "envs.kernels.kernel_tasks": ("KernelTasks",),
    "envs.problems.arithmetic_problems": ("ArithmeticProblems",),
    "envs.problems.problem_reward": ("ProblemReward",),
    "envs.problems.problem_source": ("ProblemSource",),
    "envs.problems.reasoning_gym_problems": ("ReasoningGymProblems",),
    "envs.problems.rlve_problems": ("RlveProblems",),
    "envs.rewards.code_tests": ("CodeTests",),
    "envs.rewards.exact": ("ExactAnswer",),
    "envs.rewards.exact_match": ("ExactMatch",),
    "envs.rewards.f1": ("F1",),
    "envs.rewards.instructions": ("InstructionsFollowed",),
    "envs.rewards.json_schema": ("JsonSchema",),
    "envs.rewards.judge": ("Judge",),
    "envs.rewards.length": ("LengthPenalty",),
    "envs.rewards.math": ("MathAnswer",),
    "envs.rewards.multiple_choice": ("ChoiceAnswer",),
    "envs.rewards.none": ("no_reward",),
    "envs.rewards.pair_judge": ("ModelPairJudge",),
    "envs.rewards.pattern": ("Pattern",),
    "envs.rewards.quantity": ("Quantity",),
    "envs.rewards.remote": ("RemoteReward",),
    "envs.rewards.reward_model": ("RewardModel",),
    "envs.rewards.weighted": ("WeightedSum",),
    "envs.search": ("Search",),
    "envs.tool_environment": ("ToolEnvironment",),
    "envs.tournament": ("Tournament",),
    "observe.mlflow_tracker": ("MlflowTracker",),
    "observe.prometheus_tracker": ("PrometheusTracker",),
    "observe.trackers": ("TensorBoardTracker", "WandbTracker"),
    "rollout.endpoint.command_agent": ("CommandAgent",),
    "rollout.filters": ("LengthBetween", "keep_all", "varied_rewards"),
    "rollout.replay": ("ReplayService",),
    "rollout.service": ("RolloutService",),
    "run.loops": ("by_placement", "colocated", "disaggregated", "supervised"),
    "run.simulation.simulated_workload": ("SimulatedEnvironment", "SimulatedPrompts"),
    "serve.engine_launcher": ("SglangLauncher",),
    "serve.simulator.simulated_launcher": ("SimulatedLauncher",),
    "trainer.megatron.trainer": ("MegatronTrainer",),
    "weights.transports.broadcast": ("BroadcastTransport",),
    "weights.transports.choice": ("auto",),
    "weights.transports.cuda_ipc": ("IpcTransport",),
    "weights.transports.delta": ("DeltaTransport",),
    "weights.transports.disk": ("DiskTransport",),
    "weights.transports.recording": ("RecordingTransport",),
    "weights.transports.shared_memory": ("SharedMemoryTransport",),
}
"""By module inside rlscale."""


def own_refusal(target: str) -> str | None:
    """Why a dotted path into rlscale may not be a `_target_`; None where it is a hook or a component."""
    module, _, name = target.removeprefix(f"{PACKAGE}.").rpartition(".")
    names = OWN_TARGETS.get(module)
    if names is None:
        return "this part of rlscale has no hooks; see docs/hooks.md and docs/components.md"
    if name in names:
        return None
    close = difflib.get_close_matches(name, names, 1, cutoff=0.8)
    if close:
        return f"{PACKAGE}.{module} has no {name}; did you mean {close[0]}?"
    return f"{name} of {PACKAGE}.{module} is no hook or component; name {' or '.join(names)}"
