"""What exports have as the model's folder has it: indexers of sparse attention, and a layer that is not trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.tensors import carried_tensors, expected_tensors
from rlscale.families.weight_files import SUMS
from rlscale.platform.weight_checksums import checksum
from rlscale.weights.exported_mtp import kept_tensors, look_at_kept
from tests.unit.families.folders import TINY, weights_of, write

LAYER = "model.layers.2."
CONFIG = TINY["glm_moe_dsa"]


def test_a_module_of_its_own_is_kept_unless_it_is_trained(tmp_path: Path) -> None:
    config = complete(TINY["qwen3_next"])
    expected = expected_tensors(config, Head.language, mtp=True)
    module = {name: np.ones(shape, np.float32) for name, (shape, _) in expected.items() if name.startswith("mtp.")}
    assert {"mtp.fc.weight", "mtp.norm.weight", "mtp.layers.0.self_attn.q_proj.weight"} < module.keys()
    folder = write(tmp_path / "model", TINY["qwen3_next"], weights_of(TINY["qwen3_next"]) | module)
    frozen, trained = (dict(kept_tensors(folder, config, mtp=mtp)) for mtp in (False, True))
    assert frozen.keys() == module.keys()
    assert trained == {}


def test_a_kept_tensor_that_is_not_what_was_written_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    config = complete(TINY["qwen3_next"])
    module = {"mtp.norm.weight": np.ones(4, np.float32)}
    folder = write(tmp_path / "model", TINY["qwen3_next"], weights_of(TINY["qwen3_next"]) | module)
    look_at_kept(folder, config, mtp=False)  # no checksums
    (folder / SUMS).write_text(json.dumps({"mtp.norm.weight": checksum(module["mtp.norm.weight"].tobytes())}))
    look_at_kept(folder, config, mtp=False)
    (folder / SUMS).write_text(json.dumps({"mtp.norm.weight": checksum(b"other")}))
    with pytest.raises(UserError, match=r"mtp\.norm\.weight is not what was written"):
        look_at_kept(folder, config, mtp=False)


def test_indexers_are_kept_also_those_of_a_layer_that_is_trained(tmp_path: Path) -> None:
    own, joined = LAYER + "self_attn.indexer.wk.weight", LAYER + "eh_proj.weight"
    weights = weights_of(CONFIG) | {name: np.ones((2, 3), np.float32) for name in (own, joined)}
    folder, config = write(tmp_path / "model", CONFIG, weights), complete(CONFIG)
    frozen, trained = (dict(kept_tensors(folder, config, mtp=mtp)) for mtp in (False, True))
    assert frozen.keys() == {*carried_tensors(config), own, joined}
    assert trained.keys() == {*carried_tensors(config), own}
    for name, tensor in trained.items():
        np.testing.assert_array_equal(tensor.numpy(), weights[name], err_msg=name)
