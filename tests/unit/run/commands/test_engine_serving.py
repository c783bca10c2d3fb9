"""What `python -m rlscale engines serve` reads. The engine itself: tests/e2e/run/test_engine_serving.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.run.commands.engine_serving import read, serve


def test_the_words_become_the_engine_that_is_asked_for() -> None:
    request, options = read(["model=/m", "gpus=2,3", "port=31000", "sglang.mem_fraction_static=0.5"])
    spec = request.spec(options)
    assert (spec.model_path, spec.port, spec.dtype) == ("/m", 31000, "bfloat16")
    assert (spec.device, spec.gpus, spec.tensor_parallel) == (Device.cuda, (2, 3), 2)
    assert spec.options == {"mem_fraction_static": 0.5}
    assert read(["model=/m"])[0].spec({}).device is Device.cpu


@pytest.mark.parametrize(
    ("config", "given", "dtype"),
    [
        ('{"dtype": "float32"}', [], "float32"),
        ('{"torch_dtype": "float16"}', [], "float16"),
        ('{"dtype": null, "text_config": {"dtype": "float32"}}', [], "float32"),
        ("{}", [], "bfloat16"),
        ('{"dtype": "float8_e4m3fn"}', [], "bfloat16"),
        ('{"dtype": "float32"}', ["dtype=bfloat16"], "bfloat16"),
    ],
)
def test_weights_have_the_type_that_their_folder_says(
    config: str, given: list[str], dtype: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)
    assert read([f"model={tmp_path}", *given])[0].spec({}).dtype == dtype


def test_it_is_a_verb_of_the_command_for_engines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "serve", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m rlscale engines serve model=FOLDER")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["port=31000"], "engines serve: model=FOLDER is missing"),
        (["model=/m", "gpu=0"], "engines serve does not know 'gpu=0'; did you mean gpus?"),
        (["model=/m", "--fast"], "engines serve does not know '--fast'; see python -m rlscale engines serve --help"),
        (["model=/m", "port=31000,31001"], "engines serve: port=31000,31001 must be one number"),
        (["model=/m", "port=99999"], "engines serve: port=99999 must be between 1 and 65535"),
        (["model=/m", "port=0"], "engines serve: port=0 must be between 1 and 65535"),
        (["model=/m", "dtype=fp32"], "engines serve: dtype=fp32 must be one of float32, bfloat16, float16"),
        (["model=/m", "gpus=all"], "engines serve: gpus=all must be numbers of GPUs, as 0,1"),
        (["model=/m", "host=0.0.0.0"], "anybody could ask and change an engine on host=0.0.0.0; name a key_file"),
        (["model=/m", "key_file=/dev/null"], "key_file=/dev/null holds no key"),
        (["model=/m", "key_file=/nowhere"], r"key_file=/nowhere cannot be read \(No such file"),
        (["model=/m", "sglang.max_running_request=4"], "did you mean"),
        (["model=/m", "sglang.tp_size=2"], r"sglang\.tp_size: is set by"),
    ],
)
def test_what_nobody_understands_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        serve(words)


def test_a_folder_whose_weights_may_be_code_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (tmp_path / file).write_text("{}")
    serving = ["engines", "serve", f"model={tmp_path}", f"folder={tmp_path}/engine"]
    assert main(serving) == 2
    assert capsys.readouterr().err == (
        f"error: engines serve: model={tmp_path}: only .bin files; save it with transformers in safetensors form\n"
    )
    assert main([*serving, "sglang.load_format=pt"]) == 2
    assert "load_format=pt: engines would read weights that may hold code; use safetensors" in capsys.readouterr().err
    assert main([*serving[:2], f"model={tmp_path}/none"]) == 2
    assert "none: there is no such folder" in capsys.readouterr().err
