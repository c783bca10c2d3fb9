"""Options passed through to Megatron, SGLang and the router: known, not derived by rlscale, and of the right type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlscale.config.checks import refused_options
from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.moe import JUDGED
from rlscale.config.derived.derived_options import DERIVED
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.passthrough import KINDS, Option, known_options

_WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
_JUDGED = {
    "transformer": JUDGED | set(refused_options.TRANSFORMER),
    "ddp": set(refused_options.DDP),
    "optimizer": set(refused_options.OPTIMIZER),
}
"""By kind, the options of which another check names every value that is not fine, also one of a wrong type."""
_NAMES_CODE = {
    "server": {
        "forward_hooks",
        "custom_weight_loader",
        "custom_sigquit_handler",
        "sidecar",
        "hicache_storage_backend_extra_config",
    },
    "router": {"mcp_config_path"},
}
"""By kind, options that hold names of functions or modules, or commands, which the package imports, calls or starts."""
_LETS_IN = {
    "router": {
        *("control_plane_api_keys", "jwt_issuer", "jwt_audience", "jwt_jwks_uri", "jwt_role_mapping"),
        "service_discovery",
    }
}
"""By kind, options that name others who may change what it does."""
_PICKLED = {"load_format": ("pt", "npcache"), "speculative_draft_load_format": ("pt", "npcache")}
"""Options of SGLang's server, and those of their values by which it reads weights that may hold code."""
_RUNS = {"server": "every engine", "router": "the router"}
_LISTENS = {
    "server": {
        *("grpc_port", "grpc_mode", "smg_grpc_mode", "kv_events_config", "load_publish_endpoint"),
        *("decoupled_spec_bind_endpoint", "remote_instance_weight_loader_start_seed_via_transfer_engine"),
        "gated_launch_port",
    }
}
"""By kind, options with which it listens besides, without the run's key: it hands out what it computes with, or waits
for whoever sends a request."""


def options_are_known(context: CheckContext) -> Iterator[str]:
    """Every option of every pass-through node."""
    nodes = {one.name: one for one in context.keys if one.about.options is not None}
    cache = Path(context.config.run.scratch) / "cache"
    for name, node in nodes.items():
        policy = nodes[name.removeprefix("critic.")]
        # The critic's start as the policy's, whose problems are named already.
        if node is policy or (context.needs.critic and node.value != policy.value):
            yield from check_options(name, str(node.about.options), node.value, cache, context.notes)


def check_options(key: str, kind: str, given: Mapping[str, Any], cache: Path, notes: list[str]) -> Iterator[str]:
    """Problems of one pass-through node; a note where the package is not installed."""
    if not given:
        return
    known = known_options(kind, cache)
    if known is None:
        notes.append(f"{key}: {KINDS[kind].distribution} is not installed here, so its options were not checked")
        known = {}
    for name, value in given.items():
        setter = DERIVED[kind].get(name)
        if name in _NAMES_CODE.get(kind, ()) and value:
            yield f"{key}.{name}: names code that {_RUNS[kind]} would run, which rlscale does not pass on"
        elif kind == "server" and value in _PICKLED.get(name, ()):
            yield f"{key}.{name}={value}: engines would read weights that may hold code; use safetensors"
        elif name in _LETS_IN.get(kind, ()) and value:
            yield f"{key}.{name}: lets others than this run change what the router does; leave it out"
        elif name in _LISTENS.get(kind, ()) and value:
            yield f"{key}.{name}: engines would listen for it and ask nobody for a key, which rlscale does not pass on"
        elif setter is not None:
            yield f"{key}.{name}: is set by {setter} and cannot be given here too"
        elif known and name not in known:
            spelled = name.replace("-", "_")
            guess = spelled if spelled in known else nearest(name, [n for n in known if n not in DERIVED[kind]])
            version = KINDS[kind].distribution
            yield f"{key}.{name}: {KINDS[kind].cls} of the installed {version} has no such option{did_you_mean(guess)}"
        elif known and name not in _JUDGED.get(kind, ()) and not _suits(value, known[name]):
            words = " or ".join(_WORDS[kind] for kind in known[name].types)
            yield f"{key}.{name}={value}: must be {words}"


def _suits(value: Any, option: Option) -> bool:
    """Whether a value may go where the annotation names plain types only; other annotations take anything."""
    if not option.types:
        return True
    types = set(option.types) | ({"int"} if "float" in option.types else set())
    return ("None" if value is None else type(value).__name__) in types


OPTION_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (options_are_known,)
