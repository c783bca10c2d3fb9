"""Builds the parts of a run from its configuration: slow starters first, so that they start beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlscale.config.checks import check
from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.config.schema.run_config import Recover
from rlscale.data.configured_source import training_source
from rlscale.data.folders.companions import companions_of
from rlscale.data.folders.model_folder import ensure_tokenizer_folder, read_chat_template
from rlscale.data.supervised import SupervisedGroups
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.run.disk.checkpoint import Progress, groups_of
from rlscale.run.disk.membership_orders import EngineOrders
from rlscale.run.disk.records import Records
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.model_folders import ModelFolders
from rlscale.run.processes.actor_host import ActorHost
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.placement import lay_out_run, shares_devices
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sessions.evaluations import Evaluations, Measure
from rlscale.run.sessions.evaluations_beside_training import EvaluationsBesideTraining
from rlscale.run.sessions.generating_session import GeneratingSession
from rlscale.run.sessions.reinforcement_session import ReinforcementSession
from rlscale.run.sessions.session import Session, SessionParts
from rlscale.run.sessions.supervised_session import SupervisedSession
from rlscale.run.sides.engine_side import EngineSide, NoEngines, RunningEngines, SteadyEngines
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.evaluation_fleet import EvaluationFleet
from rlscale.run.sides.generate_only import VERSION, serving, starting_folder
from rlscale.run.sides.group_source import GroupSource, Rollout, SupervisedGroupSource
from rlscale.run.sides.membership import Membership
from rlscale.run.sides.models_beside import ModelsBeside, WithModelsBeside
from rlscale.run.sides.recovery import Recoveries
from rlscale.run.sides.run_context import RunContext
from rlscale.run.sides.served_folders import ServedFolders
from rlscale.run.sides.spare_machines import SpareMachines
from rlscale.run.sides.sync_folders import SyncFolders
from rlscale.run.sides.sync_waves import SyncWaves
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.run.sides.weight_sync import WeightSync
from rlscale.trainer.trainer_spec import TrainerSpec


class Assembly:
    """The parts of one run. `launch` starts processes without waiting, `session` waits and puts them together."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        stop: StopSignal,
        records: Records,
        forks: Forks,
        host: ActorHost | None = None,
    ) -> None:
        """`host`: who has the run's actors; by default Ray."""
        self._config, self._folder, self._stop, self._records = config, folder, stop, records
        self._forks = forks
        self._scratch = Path(config.run.scratch).resolve()
        cluster = config.cluster
        limits = cluster.call_timeout_s, str(folder.logs), cluster.answer_timeout_s
        # To be wrong about ranks that seem to hang would end a run in which no others come in their place.
        hang_factor = cluster.hang_factor if config.run.recover is Recover.trainer else None
        self._calls = Calls(stop, *limits, host, hang_factor)
        needs = Needs.of(config)
        self._supervised, self._trains, self._generates = needs.supervised, needs.trains, needs.engines
        self._served, self._syncs = ServedFolders(self._scratch), SyncFolders(folder.path)
        self._recoveries: Recoveries | None = None
        self._trainer: TrainerGroup | None = None
        self._engines: Engines | None = None
        self._rollout: Rollout | None = None
        self._evaluating: EvaluationFleet | None = None
        self._beside: ModelsBeside | None = None
        self._spare: SpareMachines | None = None

    @property
    def restarts(self) -> tuple[int, int]:
        """How often engines died and were started again, and how often the trainer's ranks were."""
        fleets = self._engines, self._evaluating, self._beside
        engines = sum(fleet.restarts for fleet in fleets if fleet is not None)
        return engines, 0 if self._recoveries is None else self._recoveries.count

    def launch(self, config: Config) -> None:
        """Make the models if they are not there, and begin to start ranks, engines and the rollout service.

        `config` holds what the stages before this run made, if they have run by now, as a run that only generates
        needs it.
        """
        self._make_models(config)
        layout = lay_out_run(config)
        machines = self._calls.host.machines(layout.nodes, config.cluster.gpus_per_node)
        logs, note = self._folder.logs, self._records.note
        context = RunContext(layout, machines, self._calls, logs, self._scratch, note, self._forks)
        if self._generates:
            self._engines = context.fleet(config if self._trains else serving(config))
            self._engines.launch(str(self._served_folder(config)))
        if layout.eval_engines:
            self._evaluating = EvaluationFleet(config, context, self._model, self._reserved)
            self._evaluating.launch(self._served_folder(config))
        if self._generates and config.rollout.models:
            self._beside = ModelsBeside(config, context, self._reserved)
            self._beside.launch(str(self._served_folder(config)))
        if self._trains:
            self._recoveries = Recoveries(config, self._calls, note)
            self._trainer = TrainerGroup(context.rank_places(config, self._recoveries))
        if self._generates or not self._supervised:
            self._rollout = context.rollout(self._rollout_spec(config))

    def _make_models(self, config: Config) -> None:
        """The folders that everything starts from."""
        self._models = ModelFolders.of(config).taught_by(config)
        self._models.check_start(config)
        self._model = self._models.policy
        if config.model.path is not None:  # perhaps only now downloaded: what the checks had to skip before
            check(config)
        self._tokenizer = ensure_tokenizer_folder(config.model, self._model)
        self._records.reads_with(self._tokenizer)
        self._companions = companions_of(config, self._model)

    @property
    def _reserved(self) -> frozenset[int]:
        """Machines whose GPUs fleets that were launched have reserved."""
        fleets = self._engines, self._evaluating
        return frozenset[int]().union(*(fleet.machines for fleet in fleets if fleet is not None))

    def session(self, config: Config, config_hash: str) -> Session:
        """Wait until everything runs; `config` holds by now what the stages before this run made."""
        if self._rollout is not None:
            self._records.phase("reading the data")
            self._rollout.prepared()
        if not self._trains:
            engines = self._steady_engines()
            return GeneratingSession(self._session_parts(config, config_hash), engines)
        trainer, side = self._started_trainer(config), self._with_models(self._engine_side(config))
        kind = SupervisedSession if self._supervised else ReinforcementSession
        return kind(self._session_parts(config, config_hash), trainer, side, self._evaluations(config))

    def _rollout_spec(self, config: Config) -> RolloutSpec:
        """The rollout's, and where it writes groups down as they finish."""
        spec = RolloutSpec.of(config, self._model)
        if not config.checkpoint.finished_groups or not self._trains:  # versions that never rise would prune nothing
            return spec
        # Log-probs by the weights that sampled a token take kept weights, and those of a lost course are nowhere.
        ahead = 0 if Needs.of(config).kept_versions else config.rollout.max_staleness
        return dataclasses.replace(spec, journal=str(groups_of(self._folder.checkpoints)), journal_ahead=ahead)

    def _session_parts(self, config: Config, config_hash: str) -> SessionParts:
        return SessionParts(
            config, config_hash, self._folder, self._calls, self._stop, self._group_source(), self._records
        )

    def _served_folder(self, config: Config) -> Path:
        """The folder that engines start from. What of the weights nobody gives them they read there."""
        companions = self._companions
        if not self._trains or config.serves_adapters:
            companions = companions_of(config, starting_folder(config, self._model))
        return self._served.of(config, companions)

    def _with_models(self, side: EngineSide) -> EngineSide:
        """The same, and the models beside the policy: ready, known to whoever asks them, and mended with it."""
        if (beside := self._ready_beside()) is None:
            return side
        if self._trainer is not None and (asks := self._rollout) is not None:
            beside.follow(self._trainer, asks, lambda own, engines: self._sync(own, engines, asks))
        return WithModelsBeside(side, beside)

    def _ready_beside(self) -> ModelsBeside | None:
        """The models beside the policy, if there are any: they serve, and who asks them knows where."""
        if (beside := self._beside) is None:
            return None
        self._records.phase(f"starting {', '.join(self._config.rollout.models)}")
        beside.ready()
        for asks in (self._rollout, None if self._evaluating is None else self._evaluating.rollout):
            if asks is not None:
                beside.tell(asks)
        return beside

    def _evaluations(self, config: Config) -> Callable[[Progress, Measure], Evaluations]:
        """Who measures the policy: engines that do nothing else, ready to be given weights, or the rollout's."""
        if self._evaluating is None:
            return partial(Evaluations, config.eval, self._records)
        assert self._trainer is not None
        engines = self._evaluating.ready(self._trainer, self._sync)
        return partial(EvaluationsBesideTraining, engines, config.eval, self._records)

    def _started_trainer(self, config: Config) -> TrainerGroup:
        """The ranks, once they have built their models."""
        assert self._trainer is not None
        if shares_devices(config.cluster) and self._engines is not None:
            # They start with all of the memory, which the trainer needs.
            self._wait_for_engines()
            self._engines.release_memory()
        self._records.phase("starting the trainer")
        spec = trainer_spec(config, self._models.taught_by(config))
        spec = dataclasses.replace(spec, companions=self._companions)
        self._trainer.start(spec, config.cluster.start_timeout_s)
        return self._trainer

    def _engine_side(self, config: Config) -> EngineSide:
        """The engines, ready and connected to the rollout service, or nobody."""
        if self._engines is None or self._rollout is None:
            return NoEngines()
        assert self._trainer is not None
        if not shares_devices(config.cluster):
            self._wait_for_engines()
        self._rollout.start(self._engines.router_url, self._engines.api_key)
        sync: WeightSync | SyncWaves
        sync = whole = self._sync(config, self._engines, self._rollout)
        if config.syncs_in_waves and (most := config.weights.max_engines_at_once) is not None:
            sync = SyncWaves(whole, self._engines, self._rollout.drain, most)
        if config.rollout.engines_on_spare_machines:
            self._spare = SpareMachines(self._engines, self._records.note)
        rollout = config.rollout
        others = rollout.engine_urls or rollout.engines_at_most is not None or rollout.engines_at_least is not None
        orders, note = EngineOrders(self._folder.path), self._records.note
        return RunningEngines(
            self._trainer,
            self._engines,
            self._rollout,
            sync,
            shares_devices=shares_devices(config.cluster),
            membership=Membership(self._engines, self._rollout, orders, note, self._spare) if others else None,
        )

    def _steady_engines(self) -> SteadyEngines:
        """The engines of a run without a trainer, ready and connected to the rollout service."""
        assert self._engines is not None
        assert self._rollout is not None
        self._wait_for_engines()
        self._rollout.start(self._engines.router_url, self._engines.api_key)
        beside = self._ready_beside()
        mend_beside = None if beside is None else partial(beside.mend, VERSION)
        return SteadyEngines(self._engines, self._rollout, mend_beside)

    def _sync(self, config: Config, engines: Engines, rollout: Rollout) -> WeightSync:
        """What gives a fleet the trainer's weights."""
        assert self._trainer is not None
        return self._syncs.sync(config, self._trainer, engines, rollout, self._model)

    def close(self) -> None:
        """End every process of this run. Safe to call at any moment, also after a failure half-way."""
        self._calls.processes.end_frozen()
        fleets = self._spare, self._engines, self._evaluating, self._beside
        for part in (self._rollout, self._trainer, *fleets, self._served, self._syncs):
            if part is not None:
                part.close()

    def _wait_for_engines(self) -> None:
        assert self._engines is not None
        self._records.phase("starting the engines")
        self._engines.ready()

    def _group_source(self) -> GroupSource:
        if not self._supervised:
            assert self._rollout is not None
            return self._rollout
        config = self._config
        source = training_source(config.data)
        encoder = PromptEncoder(
            str(self._tokenizer), config.data, config.rollout.max_prompt_tokens, read_chat_template(config.model)
        )
        groups, longest = config.rollout.groups_per_iteration, config.rollout.max_response_tokens
        return SupervisedGroupSource(SupervisedGroups(source, encoder, groups, longest, config.data.max_bad_rate))


def trainer_spec(config: Config, models: ModelFolders) -> TrainerSpec:
    """What the ranks need to know of a configuration and of where its models lie."""
    needs = Needs.of(config)
    steps = config.run.iterations * config.algo.steps_per_iteration * config.algo.epochs_per_iteration
    return TrainerSpec(
        model=config.model,
        model_path=str(models.policy),
        init_path=config.model.init or str(models.policy),
        parallel=config.parallel,
        optim=config.optim,
        trainer=config.trainer,
        algo=config.algo,
        weights=config.weights,
        served=config.rollout.served_form,
        device=config.cluster.device,
        temperature=needs.temperature,
        total_steps=steps,
        seed=config.run.seed,
        data_parallel=Sizes.of(config).data_parallel,
        critic=config.critic if models.critic is not None else None,
        critic_path=str(models.critic or ""),
        critic_init_path=str(config.critic.model.init or models.critic or ""),
        teacher_path=str(models.teacher) if models.teacher is not None else None,
        kept_versions=needs.kept_versions,
        batch_invariant=config.run.bitwise,
    )
