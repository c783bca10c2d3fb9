"""Folders of quantised weights are read as the numbers that their codes and scales say, and copied so for engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.families import FolderError
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.fit import check_weights
from rlscale.families.quantisation import Quantisation, quantisation_of
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.weights.dequantise import dequantised
from rlscale.weights.encode import encoding_of
from rlscale.weights.exported_mtp import kept_tensors
from rlscale.weights.load import WeightFolder
from rlscale.weights.served_copy import write_served
from tests.unit.families.folders import TINY, weights_of
from tests.unit.weights.quantised_folders import FORMS, compressed, fp8, is_matrix, write_quantised

CONFIG = TINY["qwen3"]
QUERY = "model.layers.1.self_attn.q_proj"


def tensors(config: dict[str, Any] = CONFIG) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in weights_of(config).items()}


def test_codes_times_scales_by_hand() -> None:
    codes = torch.tensor([[1.0, -2.0, 0.5], [448.0, 0.0, 4.0], [3.0, 1.5, -1.0]]).to(torch.float8_e4m3fn)
    scales = torch.tensor([[2.0, 10.0], [0.5, 100.0]])
    blocks = Quantisation(None, 2, 2)
    expected = torch.tensor([[2.0, -4.0, 5.0], [896.0, 0.0, 40.0], [1.5, 0.75, -100.0]])
    assert torch.equal(dequantised(codes, scales, blocks, (3, 3)), expected)
    rows = torch.tensor([1.0, 2.0, 4.0])
    assert torch.equal(dequantised(codes, rows, Quantisation(None, 1, 0), (3, 3)), codes.float() * rows[:, None])
    assert torch.equal(dequantised(codes, torch.tensor(3.0), Quantisation(None, 0, 0), (3, 3)), codes.float() * 3)


def test_packed_codes_by_hand() -> None:
    """0x7 is -1, 0x8 is 0, 0x9 is 1, 0xf is 7, 0x0 is -8; the first number is in the lowest bits."""
    codes = torch.tensor([[0x0F987F98]], dtype=torch.int32)
    halves = Quantisation(4, 1, 4)
    expected = torch.tensor([[0.0, 0.5, 3.5, -0.5, 0.0, 2.0, 14.0, -16.0]])
    assert torch.equal(dequantised(codes, torch.tensor([[0.5, 2.0]]).bfloat16(), halves, (1, 8)), expected)
    negative = torch.tensor([[-1]], dtype=torch.int32)  # the sign of the word is a bit like the others
    assert torch.equal(dequantised(negative, torch.ones(1, 2), halves, (1, 8)), torch.full((1, 8), 7.0))
    eight = dequantised(torch.tensor([[0x7F8001FF]], dtype=torch.int32), torch.ones(1), Quantisation(8, 0, 0), (1, 4))
    assert eight.tolist() == [[127.0, -127.0, 0.0, -1.0]]


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_is_that_of_an_independent_reference(form: str, tmp_path: Path) -> None:
    numbers = write_quantised(tmp_path, CONFIG, tensors(), FORMS[form])
    check_weights(tmp_path, complete(CONFIG), Head.language)
    with WeightFolder(tmp_path) as folder:
        assert sorted(folder.names()) == sorted(numbers)
        for name, expected in numbers.items():
            assert folder.is_quantised(name) is is_matrix(name)
            np.testing.assert_allclose(folder.read(name).numpy(), expected, rtol=1e-7, err_msg=name)
            error = np.abs(expected - tensors()[name].numpy()).max()
            assert bool(error > 1e-4) is is_matrix(name)  # or the codes would be the numbers


def test_codes_of_compressed_tensors_are_read_as_it_reads_them() -> None:
    from compressed_tensors.compressors import FloatQuantizationCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    for bits, group in ((4, 32), (8, 16)):
        args = QuantizationArgs(num_bits=bits, type="int", strategy="group", group_size=group, symmetric=True)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        scale = weight.view(24, -1, group).abs().amax(-1) / (2 ** (bits - 1) - 1)
        stored = PackedQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
        theirs = PackedQuantizationCompressor.decompress(stored, scheme)["weight"]
        said = quantisation_of({"quantization_config": compressed("pack-quantized", **args.model_dump())})
        assert said == Quantisation(bits, 1, group)
        assert torch.equal(dequantised(stored["weight_packed"], scale, said, (24, 64)).bfloat16(), theirs)
    args = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scale = weight.float().abs().amax(-1, keepdim=True) / 448
    stored = FloatQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    theirs = FloatQuantizationCompressor.decompress(stored, scheme)["weight"]
    assert torch.equal(dequantised(stored["weight"], scale, Quantisation(None, 1, 0), (24, 64)), theirs.float())


def test_blocks_of_fp8_are_read_as_transformers_reads_them() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(0))
    parts, _ = fp8(weight, 128, 128, "weight_scale_inv")
    theirs = Fp8Dequantize(None)._dequantize_one(parts["weight"], parts["weight_scale_inv"], torch.float32)
    said = quantisation_of({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})
    assert said is not None
    assert torch.equal(dequantised(parts["weight"], parts["weight_scale_inv"], said, (256, 384)), theirs)


@pytest.mark.parametrize("form", ["blocks of FP8", "packed in four bits"])
def test_a_copy_for_engines_holds_numbers_of_the_models_type(form: str, tmp_path: Path) -> None:
    numbers = write_quantised(tmp_path / "model", CONFIG, tensors(), FORMS[form])
    (tmp_path / "copy").mkdir()
    write_served(tmp_path / "model", tmp_path / "copy", "bfloat16", ServedForm())
    plain = {key: value for key, value in CONFIG.items() if key != "architectures"}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(plain))
    files = {file.name: load_file(file) for file in (tmp_path / "copy").glob("*.safetensors")}
    assert len(files) == 3
    written = {name: tensor for one in files.values() for name, tensor in one.items()}
    assert written.keys() == numbers.keys()
    for name, tensor in written.items():
        assert tensor.dtype is (torch.bfloat16 if is_matrix(name) else torch.float32)
        assert torch.equal(tensor.float(), torch.from_numpy(numbers[name]).to(tensor.dtype).float()), name
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.bfloat16)
    assert torch.equal(model.state_dict()[f"{QUERY}.weight"], written[f"{QUERY}.weight"])


def test_a_layer_that_is_kept_is_rounded_to_bfloat16_where_it_is_quantised(tmp_path: Path) -> None:
    config = {**TINY["deepseek_v3"], "num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 1}
    two = {**config, "num_hidden_layers": 2}
    numbers = write_quantised(tmp_path, config, tensors(two), FORMS["blocks of FP8"])
    kept = dict(kept_tensors(tmp_path, complete(config)))
    assert kept.keys() == {name for name in numbers if name.startswith("model.layers.1.")}
    query = kept["model.layers.1.self_attn.q_b_proj.weight"]
    assert torch.equal(query, torch.from_numpy(numbers["model.layers.1.self_attn.q_b_proj.weight"]).bfloat16())
    assert kept["model.layers.1.input_layernorm.weight"].dtype is torch.float32


def changed(folder: Path, form: str, change: dict[str, Tensor | None]) -> None:
    """A folder with one file more, or a tensor less."""
    write_quantised(folder, CONFIG, tensors(), FORMS[form])
    (folder / "model.safetensors.index.json").unlink()
    whole = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for file in folder.glob("*.safetensors"):
        file.unlink()
    from safetensors.torch import save_file

    whole |= {name: tensor for name, tensor in change.items() if tensor is not None}
    save_file({n: t for n, t in whole.items() if change.get(n, t) is not None}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        (
            "blocks of FP8",
            {f"{QUERY}.weight_scale_inv": None},
            f"{QUERY}.weight is quantised, and its scale {QUERY}.weight_scale_inv is in none of the folder's files",
        ),
        ("blocks of FP8", {f"{QUERY}.weight_scale_inv": torch.ones(4, 3)}, "has shape [4, 3] where"),
        ("blocks of FP8", {f"{QUERY}.weight_scale_inv": torch.ones(3, 4).to(torch.uint8)}, "is of type U8"),
        ("blocks of FP8", {"model.norm.weight_scale_inv": torch.ones(1)}, "1 of 26 tensors have no place"),
        ("packed in four bits", {f"{QUERY}.weight_shape": None}, "is packed, and"),
        ("packed in four bits", {f"{QUERY}.weight": torch.ones(24, 16)}, f"{QUERY}.weight is there as it is and as"),
        (
            "packed in four bits",
            {f"{QUERY}.weight_g_idx": torch.ones(16)},
            "tensors have no place in a qwen3",
        ),
        ("packed in four bits", {f"{QUERY}.weight_packed": torch.ones(24, 3).int()}, "weight_scale has shape"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    form: str, change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    changed(tmp_path, form, change)
    with pytest.raises(FolderError) as raised:
        check_weights(tmp_path, complete(CONFIG), Head.language)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_scales_of_activations_are_left_out(tmp_path: Path) -> None:
    changed(tmp_path, "one scale for each matrix", {f"{QUERY}.input_scale": torch.ones(1)})
    check_weights(tmp_path, complete(CONFIG), Head.language)


def test_a_shape_that_the_packed_codes_do_not_have_is_named_when_they_are_read(tmp_path: Path) -> None:
    changed(tmp_path, "packed in four bits", {f"{QUERY}.weight_shape": torch.tensor([24, 15])})
    with (
        WeightFolder(tmp_path) as folder,
        pytest.raises(UserError, match=r"weight_shape is not the shape"),
    ):
        folder.read(f"{QUERY}.weight")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "are quantised (gptq);"),
        ({"quant_method": "awq", "bits": 4}, "are quantised (awq);"),
        ({"quant_method": "mxfp8"}, "are quantised (mxfp8);"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt=e5m2 is not supported"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size=[128]: must be two"),
        ({"quant_method": "compressed-tensors"}, "config_groups does not say"),
        (compressed("nvfp4-pack-quantized", num_bits=4, type="float"), "nvfp4-pack-quantized with 4 bits (float)"),
        (compressed("pack-quantized", num_bits=3, strategy="channel"), "with 3 bits (int)"),
        (compressed("pack-quantized", num_bits=4, strategy="channel", symmetric=False), "with zero points"),
        (compressed("pack-quantized", num_bits=4, strategy="channel", actorder="group"), "actorder=group"),
        (compressed("pack-quantized", num_bits=4, strategy="tensor_group"), "strategy=tensor_group"),
    ],
)
def test_other_forms_are_refused_by_name(section: dict[str, Any], message: str) -> None:
    with pytest.raises(FolderError) as raised:
        quantisation_of({"quantization_config": section})
    assert message in str(raised.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantised_folder_is_written_anew_in_the_form_of_the_engines(dtype: str, tmp_path: Path) -> None:
    """As a trainer would send it: read, rounded to the model's type, encoded. What is no matrix stays as it is."""
    config = {**CONFIG, "hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    numbers = write_quantised(tmp_path / "model", config, tensors(config), FORMS["blocks of FP8"])
    form = ServedForm(WeightForm.int4)
    (tmp_path / "served").mkdir()
    write_served(tmp_path / "model", tmp_path / "served", dtype, form)
    said = {**config, "quantization_config": form.section(complete(config))}
    (tmp_path / "served" / "config.json").write_text(json.dumps(said))
    check_weights(tmp_path / "served", complete(config), Head.language)
    with WeightFolder(tmp_path / "served") as served, WeightFolder(tmp_path / "model") as model:
        assert set(served.names()) == numbers.keys()
        for name in numbers:
            read = model.read(name)
            assert served.is_quantised(name) == form.quantises(name)
            if form.quantises(name):
                trained = read.to(getattr(torch, dtype))
                assert torch.equal(served.read(name).to(trained.dtype), encoding_of(form).rounded(trained)), name
