"""The engines of a run and the router before them: started on their machines, watched, and mended when one dies."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster import Device, Placement
from rlscale.run.actors import LauncherActor
from rlscale.run.calls import Calls, RunFailed
from rlscale.run.placement import Layout
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import RouterClient
from rlscale.serve.server import ServerSpec


@dataclass
class _Engine:
    spec: ServerSpec | None  # None: somebody else started it
    launcher: Any
    url: str = ""
    starting: Any = None


@dataclass
class Engines:
    """The fleet that serves the policy. `launch` starts it without waiting, `ready` waits."""

    config: Config
    layout: Layout
    nodes: list[str]
    calls: Calls
    logs: Path
    scratch: Path
    note: Callable[[str], None]
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    router_url: str = ""
    restarts: int = 0
    _engines: list[_Engine] = field(default_factory=list)
    _launchers: dict[int, Any] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        """Addresses of the engines themselves (weights and control go there; generation goes through the router)."""
        return [engine.url for engine in self._engines]

    def launch(self, model_path: str) -> None:
        """Begin to start every engine and the router."""
        rollout, cluster = self.config.rollout, self.config.cluster
        if rollout.engine_key_file is not None:
            self.api_key = _read_key(rollout.engine_key_file)
        elif rollout.engine_urls:
            self.api_key = ""
        home = self._launcher(0)
        if rollout.engine_urls:
            self._engines = [_Engine(None, home, url.rstrip("/")) for url in rollout.engine_urls]
        for number, slot in enumerate(() if rollout.engine_urls else self.layout.engines):
            spec = ServerSpec(
                name=f"engine-{number}",
                model_path=model_path,
                device=cluster.device,
                dtype=self.config.model.dtype.value,
                host=cluster.host,
                options=dict(rollout.sglang),
                tensor_parallel=rollout.gpus_per_engine if cluster.device is Device.cuda else 1,
                gpus=slot.gpus,
                seed=self.config.run.seed,
                memory_saver=cluster.device is Device.cuda and cluster.placement is Placement.colocated,
                start_timeout_s=cluster.start_timeout_s,
            )
            launcher = self._launcher(slot.node)
            self._engines.append(_Engine(spec, launcher, starting=launcher.call.remote("start_engine", spec)))
        self._router = home.call.remote("start_router", dict(rollout.router))

    def ready(self) -> None:
        """Wait until all engines are healthy and the router knows them."""
        timeout = self.config.cluster.start_timeout_s
        started = [engine for engine in self._engines if engine.starting is not None]
        urls = self.calls.wait(
            [engine.starting for engine in started], "engine start", timeout_s=timeout + 10, heed_stop=True
        )
        for engine, url in zip(started, urls, strict=True):
            engine.url, engine.starting = url, None
        for engine in self._engines:
            if engine.spec is None and not self._receiver(engine.url).health():
                raise UserError(f"rollout.engine_urls: no engine answers at {engine.url} (or it refuses the key)")
        self.router_url = self.calls.one(self._router, "router start", timeout_s=timeout, heed_stop=True)
        for url in self.urls:
            self._add_to_router(url)

    def heal(self, give_weights: Callable[[list[str]], None]) -> None:
        """Restart dead engines and the router; `give_weights(urls)` gives new engines the current weights first.

        Raises RunFailed when more than `cluster.engine_restarts` restarts were needed.
        """
        for number, launcher in self._launchers.items():
            for name in self.calls.one(launcher.call.remote("dead"), "engine check"):
                self.restarts += 1
                if self.restarts > self.config.cluster.engine_restarts:
                    raise RunFailed(
                        f"{name} died and cluster.engine_restarts={self.config.cluster.engine_restarts} restarts are "
                        f"used up; see {self.logs / f'{name}.log'}"
                    )
                self.note(f"{name} died (machine {number}); restarting it")
                restart = launcher.call.remote("restart", name)
                url = self.calls.one(restart, f"restart of {name}", heed_stop=True)
                self._replace(name, url, give_weights)

    def release_memory(self) -> None:
        """Let the engines give their device memory to the trainer (GPU, colocated)."""
        for url in self.urls:
            self._receiver(url).release_memory()

    def resume_memory(self, tags: Sequence[str]) -> None:
        """Let the engines take device memory back: that of "weights" or of the "kv_cache"."""
        for url in self.urls:
            self._receiver(url).resume_memory(tags)

    def close(self) -> None:
        """End every server that this run started."""
        stops = [launcher.call.remote("stop") for launcher in self._launchers.values()]
        ray.wait(stops, num_returns=len(stops), timeout=8.0) if stops else None
        for launcher in self._launchers.values():
            ray.kill(launcher)  # whatever did not stop ends with its supervisor
        self._launchers = {}

    def _launcher(self, node: int) -> Any:
        if node not in self._launchers:
            cluster = self.config.cluster
            actor: Any = ray.remote(LauncherActor)
            options = {
                "num_cpus": 0,
                "num_gpus": cluster.gpus_per_node,  # reserves the machine's GPUs against the cluster's other jobs
                "max_concurrency": 8,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(self.nodes[node], soft=False),
                "runtime_env": {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}},
            }
            self._launchers[node] = actor.options(**options).remote(
                str(self.logs), str(self.scratch), self.api_key, cluster.host
            )
        return self._launchers[node]

    def _replace(self, name: str, url: str, give_weights: Callable[[list[str]], None]) -> None:
        if name == "router":
            self.router_url = url
            for engine in self._engines:
                self._add_to_router(engine.url)
            return
        engine = next(e for e in self._engines if e.spec is not None and e.spec.name == name)
        old, engine.url = engine.url, url
        give_weights([url])
        router = RouterClient(self.router_url, self.api_key or None)
        if old != url:
            router.remove(old)
        router.add(url)
        self.note(f"{name} is back with the current weights")

    def _add_to_router(self, url: str) -> None:
        RouterClient(self.router_url, self.api_key or None).add(url)

    def _receiver(self, url: str) -> EngineReceiver:
        return EngineReceiver(url, self.api_key or None, self.config.weights.timeout_s)


def _read_key(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise UserError(f"rollout.engine_key_file={path} cannot be read ({error.strerror})") from error
