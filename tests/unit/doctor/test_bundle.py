"""The bundle of a report: what is needed, and no key of any kind."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.doctor.bundle import HIDDEN, Hiding, write_bundle

KEY = "0123456789abcdefSECRET"


@pytest.mark.parametrize(
    "text",
    [
        "token hf_AbCdEfGhIjKlMnOpQr and so on",
        "Authorization: Bearer abcdef.ghijkl-123",
        "https://user:hunter22@host/path",
        '"api_key": "abcdefgh"',
        "secret=abcdefgh",
        "Authorization: Basic dXNlcjpodW50ZXIyMg==",
        "github_pat_11ABCDEFG0abcdef and ghs_abcdef0123456789",
        "password=trueabcdefblue9",
        "AWS_SECRET_ACCESS_KEY=abcdefgh/ijk and private_key: 'abcdefgh'",
        "https://abcdef0123456789@host/path and ?sig=abcdefgh%3D&X-Amz-Signature=abcdefgh",
        "dashboard: http://127.0.0.1:8000/?key=abcdefgh",
        "eyJabcdefghijkl.eyJabcdef.abcdef-abcdef",
        "-----BEGIN RSA PRIVATE KEY-----\nabcdef\nabcdef\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0F\n\nabcdef\n-----END",
        "cut off: -----BEGIN PRIVATE KEY-----\nabcdef\nabc-abcdef",
        "secret_key: abcdefgh",
        "SECRET_KEY=abcdefgh",
        "AccountName=me;AccountKey=abcdefgh/ijk==;EndpointSuffix=core",
        "passphrase: abcdefgh",
        "https://user:p/ss-abcdef@host/path and ftp://user:p@ss:abcdef@host",
        "password: 'so many, abcdef words'",
        '{"line": "{\\"password\\": \\"one abcdef\\"}"}',
        "signing-key = abcdefgh",
        "Cookie: session-abcdefgh",
        "machine example.org login me password abcdefgh",
        "machine example.org\n  login me\n  password abcdefgh\n",
        "default password abcdefgh",
        "curl --password abcdefgh --token=abcdefgh",
        "mount -o --api-key abcdefgh",
        "password hunter22hunter22",
        "the passphrase is abcdef99, the secret abcdef12",
        "registry token 0123abcdef4567890123",
        f"said by the shell: {KEY}",
    ],
)
def test_what_looks_like_a_key_is_hidden(text: str) -> None:
    hidden = Hiding({"MY_TOKEN": KEY}).text(text)
    assert HIDDEN in hidden
    for secret in ("hf_AbC", "abcdef", "hunter22", "dXNl", KEY):
        assert secret not in hidden


@pytest.mark.parametrize("name", ["GPG_PASSPHRASE", "DB_PASS", "ACCOUNT_KEY"])
def test_of_a_variable_that_is_called_like_a_key_only_its_name_is_told(name: str) -> None:
    assert Hiding({}).variables({name: "abcdefgh"}) == f"{name}={HIDDEN}\n"


def test_a_key_that_is_too_long_for_a_files_name_is_hidden_too() -> None:
    assert Hiding({"MY_TOKEN": "k" * 400}).text("k" * 400) == HIDDEN


def test_a_path_and_a_number_stay() -> None:
    text = (
        "model.path=/data/model, tokens=12345678, api_key: null, 3 tokens: all\n"
        'rollout.engine_key_file=/home/me/engines, data.prompt_key=question\n{"url":"http://127.0.0.1:80","eval/pass@1":0.5}\n'
        "{'token': '', 'text': 'all of it'}, http://127.0.0.1:8000/generate, https://example.org/a:b@c"
    )
    assert Hiding({}).text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "password 3 attempts left, password 123456789 times, password incorrect, Password authentication failed",
        "wrong password for me@host, secret not found, no credentials given",
        "token 151643 is not in the vocabulary, next token probabilities, token qwen3-0.6b",
        "login failed; the passphrase is needed, --token is an option, --password",
        "tokens 0123abcdef4567890123 per second",
    ],
)
def test_ordinary_text_about_passwords_and_tokens_stays(text: str) -> None:
    assert Hiding({}).text(text) == text


@pytest.mark.parametrize("where", ["logs/engine.txt", "logs/hang/rank-0.txt", "metrics.jsonl", "logs"])
def test_a_link_that_leads_out_of_the_runs_folder_is_not_packed(tmp_path: Path, where: str) -> None:
    elsewhere, run = tmp_path / "home", tmp_path / "run"
    elsewhere.mkdir()
    (elsewhere / "netrc.txt").write_text("private")
    (run / where).parent.mkdir(parents=True)
    (run / where).symlink_to(elsewhere if where == "logs" else elsewhere / "netrc.txt")
    write_bundle(tmp_path / "b.zip", {}, {}, run)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    name = "run/logs/netrc.txt" if where == "logs" else f"run/{where}"
    assert texts[name] == "(left out: a link leads out of the run's folder)\n"


def test_a_link_inside_is_packed_and_a_pipe_is_not(tmp_path: Path) -> None:
    logs = tmp_path / "run" / "logs"
    logs.mkdir(parents=True)
    (logs / "rank-0.log").write_text("in loss")
    (logs / "newest.log").symlink_to("rank-0.log")
    os.mkfifo(logs / "pipe.log")
    (tmp_path / "given").symlink_to(tmp_path / "run")
    write_bundle(tmp_path / "b.zip", {}, {}, tmp_path / "given")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert texts["run/logs/newest.log"] == texts["run/logs/rank-0.log"] == "in loss"
    assert texts["run/logs/pipe.log"] == "(left out: no regular file)\n"


def test_a_bundle_holds_the_command_the_findings_and_the_runs_logs_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", KEY)
    run = tmp_path / "run"
    (run / "logs" / "hang").mkdir(parents=True)
    (run / "run.json").write_text('{"state": "unfinished"}')
    (run / "logs" / "rank-0.log").write_text("x" * (1 << 19) + f"\nthe end, with {KEY}\n")
    (run / "logs" / "hang" / "rank-0.txt").write_text("in loss")
    code = main(["doctor", "--bundle", str(tmp_path / "b.zip"), f"run.output={run}", "optim.lr=0.5", "warm_start=null"])
    assert code == 0
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "optim.lr=0.5" in texts["command.txt"]
    assert "lr: 0.5" in texts["resolved.yaml"]
    assert texts["doctor.txt"].splitlines()[0].startswith("OK       versions: Python 3.")
    assert f"HF_TOKEN={HIDDEN}\n" in texts["environment.txt"]
    assert texts["run/logs/rank-0.log"].startswith("(the last 262144 of ")
    assert texts["run/logs/rank-0.log"].endswith(f"the end, with {HIDDEN}\n")
    assert texts["run/logs/hang/rank-0.txt"] == "in loss"
    assert not [name for name, text in texts.items() if KEY in text]
    assert f"{tmp_path / 'b.zip'}: {len(texts)} files" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--bundle"], ["--bundle", "optim.lr=1"], ["--bundle="]])
def test_a_bundle_without_a_file_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    assert capsys.readouterr().err.startswith("error: --bundle needs a file: ")


def test_a_machine_that_is_not_ready_ends_the_command_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "cluster.host=192.0.2.1", "warm_start=null"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("problem  ports: cluster.host=192.0.2.1 is not an address of this machine; ") for line in out
    )
    assert out[-1] == "not ready"
