"""The adaptation of SGLang to the CPU: still written for the installed version, and every changed place as it was."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rlscale.platform import sglang_cpu, sglang_environment, sglang_stubs

PLACES = {
    "sglang/srt/managers/scheduler.py": [
        "    def flush_cache(self, empty_cache: bool = True):\n",
        "        if self.is_fully_idle():\n            self.cur_batch_for_debug = None\n",
        '        assert recv_req.mode in ("in_place", "retract")\n        self._engine_paused = True\n',
        "        self.waiting_queue: List[Req] = []\n",
        "            flush_cache=self.flush_cache,\n",
        "def run_scheduler_process(\n",
        "    PauseGenerationReqInput,\n",
        "return GetInternalStateReqOutput(internal_state=",
        "    def run_batch(\n        self,\n        batch: ScheduleBatch,\n",
        "        self.forward_ct += 1\n",
        "    def handle_generate_request(\n",
        "    def load_lora_adapter_from_tensors(\n",
        "    def collect_inflight_reqs(self) -> Set[Req]:\n",
    ],
    "sglang/srt/managers/scheduler_components/weight_updater.py": [
        "class SchedulerWeightUpdaterManager:",
        "    scheduler: Optional[Any] = None\n",
        "    def flush_cache_after_weight_update(self, recv_req) -> None:\n        if recv_req.flush_cache:\n"
        "            flush_cache_success = self.flush_cache(\n                empty_cache=recv_req.torch_empty_cache\n",
    ],
    "sglang/srt/managers/scheduler_components/output_streamer.py": [
        "class _GenerationStreamAccumulator:\n",
        "    def accept(self, *, req: Req) -> None:\n",
        "        else:\n            self.weight_versions.append(None)\n",
        "from sglang.srt.utils.weight_versions import compute_weight_version_spans\n",
        "                    len(req.output_ids) % stream_interval == 1\n",
    ],
    "sglang/srt/configs/model_config.py": [
        "def is_deepseek_dsa(config) -> bool:\n",
    ],
    "sglang/srt/models/qwen2_classification.py": [
        "        self.score = nn.Linear(config.hidden_size, config.num_labels)\n",
    ],
    "sglang/srt/models/qwen3_classification.py": [
        "        self.score = nn.Linear(config.hidden_size, config.num_labels)\n",
    ],
    "sglang/srt/models/deepseek_v2.py": ["        self.use_dsa = is_deepseek_dsa(config)\n"],
    "sglang/srt/models/deepseek_common/deepseek_weight_loader.py": [
        'if ".indexer." in name and (\n',
        'name.rsplit(".indexer.", 1)[0] not in indexer_present_prefixes\n',
    ],
    "sglang/srt/configs/update_config.py": [
        "def get_moe_padding_size(weight_block_size):\n",
        '), "Only weight_block_size[0] == weight_block_size[1] is supported"\n',
    ],
    "sglang/srt/layers/quantization/fp8.py": [
        "    def __init__(self, quant_config: Union[Fp8Config, W4AFp8Config]):\n",
        "            self.mxfp8_dense_backend = resolve_mxfp8_dense_gemm_backend()\n",
        "        layer.logical_widths = output_partition_sizes\n",
        '                layer.register_parameter("weight_scale_inv", scale)\n',
        '                layer.register_parameter("weight_scale", scale)\n',
        "        return [torch.bfloat16, torch.half]\n",
    ],
    "sglang/srt/layers/quantization/compressed_tensors/compressed_tensors.py": [
        "    def _check_scheme_supported(self, min_capability: int, error: bool = True) -> bool:\n",
        "    def get_supported_act_dtypes(cls) -> List[torch.dtype]:\n",
        "        layer.scheme.process_weights_after_loading(layer)\n",
    ],
    "sglang/srt/layers/quantization/compressed_tensors/schemes/compressed_tensors_wNa16.py": [
        "        self.pack_factor = 32 // num_bits\n",
        '        layer.register_parameter("weight_packed", weight)\n',
        "            x.data = gptq_marlin_repack(\n",
        "                    layer, name, torch.nn.Parameter(new_param.data, requires_grad=False)\n",
        "    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor,\n",
    ],
    "sglang/srt/layers/quantization/compressed_tensors/schemes/compressed_tensors_wNa16_moe.py": [
        "        self.packed_factor = 32 // config.num_bits\n",
        "class CompressedTensorsWNA16TritonMoE(CompressedTensorsWNA16MoE):\n",
        "            target_attr.resize_(new_t.shape)\n            target_attr.copy_(new_t)\n",
        "        layer.is_marlin_converted = True\n",
        "        layer.is_triton_converted = True\n",
        "    def apply_weights(\n        self,\n        layer: torch.nn.Module,\n        dispatch_output:",
    ],
    "sglang/srt/layers/moe/fused_moe_native.py": [
        "    len_experts = layer.num_experts\n",
        "        layer_w13_weight = layer.w13_weight[i]\n",
    ],
    "sglang/srt/model_executor/model_runner_components/weight_updater.py": [
        "class WeightUpdater:",
        "    def update_weights_from_disk(\n        self: WeightUpdater,\n        model_path: str,\n",
        "            return self._update_weights_from_flattened_bucket(\n"
        "                flattened_tensor_bucket_dict=named_tensors\n",
        'flattened_tensor = flattened_tensor_bucket_dict["flattened_tensor"]',
    ],
    "sglang/srt/utils/weight_checker.py": [
        "class WeightChecker:",
        "    def handle(self, action: str, allow_quant_error: bool = False) -> Optional[Dict]:\n",
        "        model = self._get_model()\n        yield from model.named_parameters()\n",
        "    def _parallelism_info(self) -> ParallelismInfo:\n",
        "    checksums: Dict[str, str]\n    per_gpu_checksum: str\n    parallelism_info: ParallelismInfo\n",
    ],
    "sglang/srt/layers/attention/torch_native_backend.py": [
        "def _run_sdpa_forward_extend(",
        "def _run_sdpa_forward_decode(",
        "            forward_batch.seq_lens,\n            forward_batch.extend_prefix_lens,\n"
        "            forward_batch.extend_seq_lens,\n            forward_batch.encoder_lens,\n            scaling=",
        "            forward_batch.seq_lens,\n            forward_batch.encoder_lens,\n            scaling=",
    ],
    "sglang/srt/models/deepseek_common/attention_backend_handler.py": [
        "def register(cls, backend_name, handler_func):",
        'AttentionBackendRegistry.register("triton", handle_attention_triton)',
    ],
    "sglang/srt/layers/rotary_embedding/factory.py": [
        "def get_rope_wrapper(",
        "    assert rope_scaling is not None\n",
    ],
    "sglang/kernels/ops/attention/fla/fused_norm_gate.py": [
        "_use_cpu = is_cpu() and cpu_has_amx_support()\n",
        "            return rms_norm_gated(\n                x,\n                g,\n                self.weight,\n",
    ],
    "sglang/kernels/ops/elementwise/elementwise.py": [
        "def _launch_fused_gate_sigmoid_mul(\n    hidden_states: torch.Tensor,\n    gate_weight: torch.Tensor,\n"
        "    shared_output: torch.Tensor,\n    output: torch.Tensor,\n    *,\n    do_add: bool,\n",
    ],
    "sglang/srt/layers/attention/linear/gdn_backend.py": [
        "from sgl_kernel.mamba import causal_conv1d_fn_cpu, causal_conv1d_update_cpu\n",
        "fused_gdn_gating = torch.ops.sgl_kernel.fused_gdn_gating_cpu\n",
        "                conv_states=conv_states_contig,\n                has_initial_state=has_initial_states,\n"
        "                cache_indices=state_cache_indices,\n                query_start_loc=query_start_loc,\n",
        "                layer.activation,\n                conv_state_indices=cache_indices,\n",
        "core_attn_out, last_recurrent_state, h = self.kernel_dispatcher.extend(\n",
    ],
    "sglang/srt/layers/attention/linear/kernels/gdn_triton.py": [
        "from sgl_kernel.mamba import chunk_gated_delta_rule_cpu\n",
        "torch.ops.sgl_kernel.fused_sigmoid_gating_delta_rule_update_cpu\n",
        "            head_first=False,\n            use_qk_l2norm_in_kernel=True,\n",
    ],
    "sglang/srt/configs/mamba_utils.py": [
        "temporal_state_shape = (divide(num_heads, tp_world_size), head_dim, state_size)\n",
        "conv_state_shape = divide(conv_dim, tp_world_size), conv_kernel - 1\n",
    ],
    "sglang/kernels/ops/sampling/murmur_hash.py": [
        "def murmur_hash32(seed, positions, col_indices):",
        "k = (k * c1) & 0xFFFFFFFF",
        "h ^= 16",
    ],
    "sglang/srt/layers/sampler.py": [
        "from sglang.kernels.ops.sampling.murmur_hash import murmur_hash32",
        "hashed = murmur_hash32(seed, positions, col_indices)",
        'sampling_seed is None\n        ), "With sampling seed, multinomial_with_seed will provide wrong results"',
    ],
    "sglang/srt/sampling/sampling_batch_info.py": [
        "def from_schedule_batch(cls, batch: ScheduleBatch, vocab_size: int):",
        "enable_deterministic = get_exec().deterministic.enable_deterministic_inference",
        "sampling_seed: Optional[torch.Tensor] = None",
    ],
    "sglang/srt/sampling/sampling_params.py": [
        "def verify(self, vocab_size):",
        "sampling_seed: Optional[int] = None",
    ],
    "sglang/srt/entrypoints/engine.py": [
        "def _set_envs_and_config(server_args: ServerArgs):",
        'mp.set_start_method("spawn", force=True)',
        "_set_envs_and_config(server_args)\n",
    ],
    "sglang/srt/managers/load_snapshot.py": [
        "def shm_path_for(ipc_name: str) -> str:",
        'return f"/dev/shm/sglang_loads_{safe_name}_{digest}.shm"',
    ],
    "sglang/srt/state_capturer/base.py": [
        "def __init__(self, num_tokens: int, num_layers: int, topk_size: int, name: str):",
        "pin_memory=True",
        "self.host_cache = BaseHostCache(num_tokens, num_layers, topk_size, name=name)",
    ],
    "sglang/srt/mem_cache/allocation.py": ["from sgl_kernel import assign_req_to_token_pool_cpu"],
    "sglang/srt/models/registry.py": ["envs.SGLANG_DISABLED_MODEL_ARCHS.get()"],
    "sglang/srt/managers/tokenizer_manager.py": [
        "envs.SGLANG_CUDA_COREDUMP_BEFORE_CRASH.get()",
        "    async def _resolve_lora_path(self, obj: Union[GenerateReqInput, EmbeddingReqInput]):\n",
        "        obj.lora_id = await self.lora_registry.acquire(obj.lora_path)\n",
        '        for i, sub_obj in obj.__dict__.get("_sub_obj_cache", {}).items():\n',
        "                await self.lora_registry.release(state.obj.lora_id)\n",
    ],
    "sglang/srt/managers/tokenizer_control_mixin.py": [
        "class TokenizerControlMixin:",
        "    async def load_lora_adapter_from_tensors(\n",
        "        lora_id = await self.lora_registry.unregister(obj.lora_name)\n        obj.lora_id = lora_id\n",
        "        await self.lora_registry.wait_for_unload(lora_id)\n",
        "            await self.update_lora_adapter_communicator(obj)\n",
        "                    self.lora_ref_cache[obj.lora_name] = new_adapter\n",
    ],
    "sglang/srt/managers/tp_worker.py": [
        "class BaseTpWorker(ABC):",
        "        data = self._deserialize_own_rank(recv_req.serialized_named_tensors)\n",
    ],
    "sglang/srt/lora/layers.py": ["            pin_memory=True,\n", ".cpu().pin_memory()\n"],
    "sglang/srt/lora/backend/torch_backend.py": [
        "            (len(seg_lens_cpu) + 1,), dtype=torch.int32, pin_memory=True\n",
        '            lora_ranks, dtype=torch.int32, pin_memory=True, device="cpu"\n',
    ],
}
"""File -> what the adaptation relies on in it."""


def site_packages() -> Path:
    return Path(str(importlib.metadata.distribution("sglang").locate_file("")))


def test_the_installed_sglang_is_the_version_that_the_adaptation_was_written_for() -> None:
    installed = importlib.metadata.version("sglang")
    assert installed == sglang_cpu.VERSION, (
        f"the adaptation of SGLang to the CPU was written for {sglang_cpu.VERSION}, installed is {installed}: run "
        "tests/unit/platform/test_sglang_cpu.py and tests/e2e/serve, compare the modules named in "
        "rlscale/platform/sglang_cpu.py (ADAPTATIONS) with the new version, then update its VERSION"
    )


@pytest.mark.parametrize("file", PLACES)
def test_the_places_that_the_adaptation_changes_look_as_they_did(file: str) -> None:
    text = (site_packages() / file).read_text()
    for snippet in PLACES[file]:
        assert snippet in text, (
            f"{file} no longer has {snippet!r}, which rlscale/platform/sglang_cpu.py or its neighbours adapt: "
            "read what it became and change the adaptation, then this list"
        )


def test_every_adapted_module_is_among_the_checked_places() -> None:
    files = {module.replace(".", "/") + ".py" for module in sglang_cpu.ADAPTATIONS}
    assert files <= set(PLACES)


def test_only_the_modules_of_known_architectures_stay_enabled() -> None:
    models = site_packages() / "sglang" / "srt" / "models"
    disabled = set(sglang_environment.cpu_environment()["SGLANG_DISABLED_MODEL_ARCHS"].split(","))
    enabled = {path.stem for path in models.glob("*.py")} - disabled
    assert enabled == set(sglang_environment.MODEL_MODULES.values())
    for architecture, module in sglang_environment.MODEL_MODULES.items():
        assert f"class {architecture}" in (models / f"{module}.py").read_text()
        assert sglang_environment.cpu_environment(architecture) == sglang_environment.cpu_environment()


def test_an_unknown_architecture_leaves_every_model_enabled() -> None:
    assert "SGLANG_DISABLED_MODEL_ARCHS" not in sglang_environment.cpu_environment("SomethingForCausalLM")


def run(code: str) -> str:
    """Run Python `code` in a process of its own, since import hooks stay; its output."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_missing_package_is_imported_as_a_stand_in_but_still_counts_as_missing() -> None:
    code = """
from importlib.util import find_spec
from rlscale.platform import sglang_stubs
sglang_stubs.install(); sglang_stubs.install()
assert find_spec("decord") is None
import decord.bridge
from decord import VideoReader
class Own(VideoReader, option=1): pass
@decord.jit
def kept(): return 1
@decord.jit(flag=1) if False else decord.jit
def kept_too(): return 2
try:
    decord.load(1)
except NotImplementedError as error:
    print(kept(), kept_too(), error)
"""
    assert run(code) == "1 2 decord.load is a stand-in: its package is not installed on this machine"


def test_a_package_that_is_installed_wins_over_its_stand_in() -> None:
    code = """
from rlscale.platform import sglang_stubs
sglang_stubs.STUBBED = ("json", "numpy")
sglang_stubs.install()
import numpy
print(numpy.arange(3).sum())
"""
    assert run(code) == "3"


def test_megatron_is_hidden_from_the_server() -> None:
    code = """
from rlscale.platform import sglang_stubs
sglang_stubs.install()
try:
    import megatron.core
except ImportError as error:
    print("hidden")
"""
    assert run(code) == "hidden"
    assert "megatron" in sglang_stubs.HIDDEN


def test_installing_after_sglang_was_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.meta_path)
    monkeypatch.setitem(sys.modules, "sglang", types.ModuleType("sglang"))
    with pytest.raises(RuntimeError, match="before its adaptation"):
        sglang_cpu.install()
    assert sys.meta_path == before
