"""The options and the environment that a server specification turns into."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.engine_group_config import Role
from rlscale.rollout.engines import connection
from rlscale.serve.router import router_options
from rlscale.serve.secret import Secret
from rlscale.serve.served_adapters import ServedAdapters
from rlscale.serve.server_spec import (
    ServerSpec,
    base_environment,
    cache_tokens,
    read_at_import,
    server_environment,
    server_options,
)
from tests.unit.families.folders import TINY

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def test_a_cpu_engine_gets_the_options_under_which_sglang_runs_without_a_gpu(model: str) -> None:
    options = server_options(ServerSpec("engine-0", model, Device.cpu, seed=3), 1234)
    assert options["attention_backend"] == "torch_native"
    assert options["sleep_on_idle"] is True
    assert (options["port"], options["host"], options["random_seed"]) == (1234, "127.0.0.1", 3)
    assert "api_key" not in options


@pytest.mark.parametrize("device", Device)
def test_an_engine_reads_no_pickles_for_weights_unless_it_is_told_how_to_load_them(model: str, device: Device) -> None:
    assert server_options(ServerSpec("engine-0", model, device), 1)["load_format"] == "safetensors"
    told = ServerSpec("engine-0", model, device, options={"load_format": "dummy"})
    assert server_options(told, 1)["load_format"] == "dummy"


def test_a_cpu_engine_keeps_the_states_of_gated_delta_nets_without_kernels_of_a_gpu(model: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "qwen3_next"}))
    options = server_options(ServerSpec("engine-0", model, Device.cpu), 1)
    assert (options["mamba_radix_cache_strategy"], options["disable_overlap_schedule"]) == ("no_buffer", True)
    assert "mamba_radix_cache_strategy" not in server_options(ServerSpec("engine-0", model, Device.cuda), 1)
    for dtype in ("float32", "bfloat16"):
        environment = server_environment(ServerSpec("engine-0", model, Device.cuda, dtype), tmp_path)
        assert environment["SGLANG_MAMBA_CONV_DTYPE"] == dtype
        assert "SGLANG_MAMBA_CONV_DTYPE" not in read_at_import(environment)


def test_an_engine_of_dynamic_scaling_is_told_that_positions_are_plain_besides_what_the_user_says(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY["glm4"]))
    told = server_options(ServerSpec("engine-0", str(tmp_path), Device.cuda), 1)["json_model_override_args"]
    plain = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    assert json.loads(told) == {"rope_parameters": plain}
    given = {"json_model_override_args": '{"rms_norm_eps": 1e-4}'}
    told = server_options(ServerSpec("engine-0", str(tmp_path), Device.cuda, options=given), 1)
    assert json.loads(told["json_model_override_args"]) == {"rope_parameters": plain, "rms_norm_eps": 1e-4}
    (tmp_path / "config.json").write_text(json.dumps(TINY["qwen3"]))
    assert "json_model_override_args" not in server_options(ServerSpec("engine-0", str(tmp_path), Device.cuda), 1)


def test_an_engine_of_adapters_is_told_their_kind_which_nobody_else_says(model: str) -> None:
    adapters = ServedAdapters(8, ("q_proj", "v_proj"))
    options = server_options(ServerSpec("engine-0", model, Device.cpu, adapters=adapters), 1)
    assert (options["enable_lora"], options["max_lora_rank"]) == (True, 8)
    assert options["lora_target_modules"] == ["q_proj", "v_proj"]
    assert options["lora_backend"] == "torch_native"
    shared = server_options(ServerSpec("engine-0", model, Device.cuda, adapters=adapters, memory_saver=True), 1)
    assert shared["enable_weights_cpu_backup"] is True, "weights that it releases are sent by nobody"
    assert "lora_backend" not in shared
    given = ServerSpec("engine-0", model, Device.cpu, adapters=adapters, options={"max_lora_rank": 4})
    with pytest.raises(UserError, match=r"rollout\.sglang\.max_lora_rank is set by rlscale itself"):
        server_options(given, 1)


def test_an_engine_records_its_choice_of_experts_only_when_it_is_to_say_it(model: str, tmp_path: Path) -> None:
    for asked in (False, True):
        spec = ServerSpec("engine-0", model, Device.cpu, routed_experts=asked)
        assert server_options(spec, 1)["enable_return_routed_experts"] is asked
        # Heeded by every engine: what tokens were drawn from is asked for in a header, too.
        assert server_environment(spec, tmp_path)["SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES"] == "1"
    contradicted = ServerSpec("engine-0", model, Device.cpu, options={"enable_return_routed_experts": False})
    with pytest.raises(UserError, match=r"rollout\.sglang\.enable_return_routed_experts is set by rlscale itself"):
        server_options(contradicted, 1)


def test_an_engine_with_a_role_is_told_it_and_where_the_other_finds_it(model: str, tmp_path: Path) -> None:
    specs = {role: ServerSpec(role.value, model, Device.cpu, role=role) for role in Role}
    reads, writes = (server_options(specs[role], 1234) for role in (Role.prefill, Role.decode))
    assert (reads["disaggregation_mode"], writes["disaggregation_mode"]) == ("prefill", "decode")
    assert reads["disaggregation_bootstrap_port"] not in (0, 1234)
    assert "disaggregation_bootstrap_port" not in writes
    assert "disaggregation_mode" not in server_options(specs[Role.regular], 1234)
    usual, found = (server_environment(specs[role], tmp_path) for role in (Role.regular, Role.decode))
    more = {name for name in found if found[name] != usual.get(name)}
    assert more == {
        "SGLANG_HOST_IP",
        "SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX",
        "SGLANG_DISAGGREGATION_SAMPLING_MASK_MAX_TOKENS",
    }
    assert read_at_import(found) == read_at_import(usual)  # forked from the same process
    everywhere = ServerSpec("reads", model, Device.cpu, role=Role.prefill, host="0.0.0.0")
    assert "SGLANG_HOST_IP" not in server_environment(everywhere, tmp_path)


def test_a_users_option_wins_over_a_default(model: str) -> None:
    spec = ServerSpec("engine-0", model, Device.cpu, options={"max_running_requests": 7, "context_length": 64})
    options = server_options(spec, 1)
    assert (options["max_running_requests"], options["context_length"]) == (7, 64)


def test_an_option_that_rlscale_derives_is_refused_by_name(model: str) -> None:
    with pytest.raises(UserError, match=r"rollout\.sglang\.port is set by rlscale itself"):
        server_options(ServerSpec("engine-0", model, Device.cpu, options={"port": 1}), 2)
    with pytest.raises(UserError, match=r"rollout\.router\.host is set by rlscale itself"):
        router_options({"host": "0.0.0.0"}, "127.0.0.1", 1, 2)


def test_a_gpu_engine_gets_its_gpus_and_nothing_of_the_cpu(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    spec = ServerSpec("engine-1", model, Device.cuda, "bfloat16", tensor_parallel=2, gpus=(2, 3), memory_saver=True)
    options = server_options(spec, 1)
    assert (options["device"], options["tp_size"], options["enable_memory_saver"]) == ("cuda", 2, True)
    assert "attention_backend" not in options
    environment = server_environment(spec, tmp_path)
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "SGLANG_USE_CPU_ENGINE" not in environment


def test_gpus_count_within_those_that_the_run_may_use(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-5e,6,7")
    environment = server_environment(ServerSpec("engine-0", model, Device.cuda, gpus=(1, 3)), tmp_path)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-5e,7"
    with pytest.raises(UserError, match=r"engine-1 needs GPU 4 .* shows 4; lower cluster\.gpus_per_node"):
        server_environment(ServerSpec("engine-1", model, Device.cuda, gpus=(4,)), tmp_path)


def test_caches_of_a_server_are_below_the_scratch_folder(model: str, tmp_path: Path) -> None:
    environment = server_environment(ServerSpec("engine-0", model, Device.cpu), tmp_path / "scratch")
    for name in ("XDG_CACHE_HOME", "HF_HOME", "SGLANG_CACHE_DIR"):
        assert environment[name].startswith(str(tmp_path / "scratch"))
    assert environment["OMP_NUM_THREADS"] == "1"


def test_the_end_that_closes_an_unused_connection_is_the_one_that_sends(model: str, tmp_path: Path) -> None:
    """Closed by the engine just as a request is on its way, it breaks off: also of one that somebody else started."""
    engine = server_environment(ServerSpec("engine", model, Device.cpu), tmp_path)
    routers_s, shortest_of_an_engine_s = 100, 5
    assert float(engine["SGLANG_TIMEOUT_KEEP_ALIVE"]) > routers_s
    assert shortest_of_an_engine_s > connection._IDLE_S


def test_the_cache_holds_what_fits_into_its_memory() -> None:
    assert cache_tokens(CONFIG) == 65_536  # 2 KB a token: the cap on tokens comes first
    large = {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    assert cache_tokens(large) == 2**31 // (2 * 4 * 28 * 8 * 128)  # 9,362 tokens of 229 KB
    assert cache_tokens({"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 128}) == 65_536


def test_a_model_folder_without_config_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: the engine's model folder needs"):
        server_options(ServerSpec("engine-0", str(tmp_path), Device.cpu), 1)


def test_a_secret_hides_in_dumps_and_works_in_headers() -> None:
    key = Secret("abc")
    assert "abc" not in f"{ {'api_key': key} }" + repr([key])
    assert (f"Bearer {key}", key == "abc", json.dumps(key)) == ("Bearer abc", True, '"abc"')


def test_the_search_path_of_a_server_is_that_of_its_own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started with it starts others with the same: fork servers refuse another."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    first = base_environment()["PYTHONPATH"]
    assert first.split(os.pathsep)[0] == "/somewhere"
    monkeypatch.setenv("PYTHONPATH", first)
    assert base_environment()["PYTHONPATH"] == first
