"""The contract of a transport: every tensor reaches every engine once, as one version, or somebody hears of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from rlscale.trainer.hook_contract.findings import Finding, Report, reported
from rlscale.trainer.hook_contract.recording_receiver import RecordingReceiver
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import TransferError, Transport


def check_transport(build: Callable[[Route], Transport]) -> list[Finding]:
    """One finding per check of a transport that hands tensors over, tried from one rank to two engines on the CPU.

    A process group of one rank is made for it where there is none.
    """
    own_group = not dist.is_initialized()
    if own_group:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with reported() as report:
            transport = report.call("new", build, Route(timeout_s=30.0))
            try:
                _versions_arrive(report, transport)
                _failure_is_told(report, transport)
            finally:
                report.call("close", transport.close)
    finally:
        if own_group:
            dist.destroy_process_group()
    return report.findings


def _versions_arrive(report: Report, transport: Transport) -> None:
    for version in (3, 4):
        engines = [RecordingReceiver("http://one"), RecordingReceiver("http://other")]
        report.call("connect", transport.connect, engines)
        buckets = _buckets(version)
        for bucket in buckets:
            report.call("send", transport.send, bucket)
        report.call("commit", transport.commit, version)
        sent = dict(entry for bucket in buckets for entry in bucket.named)
        for engine in engines:
            missing = sorted(set(sent) - set(engine.tensors))
            report.add("whole", "every tensor arrives", not missing, ", ".join(missing) or "they do")
            report.add("once", "no tensor arrives twice", not engine.twice, ", ".join(engine.twice) or "none does")
            same = all(torch.equal(sent[name], tensor) for name, tensor in engine.tensors.items() if name in sent)
            report.add("bits", "the bits that were sent", same, "they are" if same else "others")
            given = {number for number, _ in engine.versions}
            report.add("version", "the version that was committed", given == {version}, f"{given} for {version}")
            lasts = [last for _, last in engine.versions]
            right = lasts == [False] * (len(lasts) - 1) + [True]
            report.add("last", "the last call, and only it, ends the version", right, f"{lasts}")


def _failure_is_told(report: Report, transport: Transport) -> None:
    transport.connect([RecordingReceiver("http://one"), RecordingReceiver("http://broken", fails=True)])
    try:
        for bucket in _buckets(5):
            transport.send(bucket)
        transport.commit(5)
        told = "nothing was said"
    except TransferError as error:
        told = str(error)
    named = "http://broken" in told
    report.add("failure", "TransferError that names the engine which did not take the weights", named, told)


def _buckets(version: int) -> list[Bucket]:
    """Tensors of several types and sizes, in two buckets."""
    random = torch.Generator().manual_seed(version)
    first = [("a", torch.randn(3, 5, generator=random)), ("b", torch.randn(7, generator=random).to(torch.bfloat16))]
    return [Bucket(first, version), Bucket([("c", torch.randn(100, generator=random))], version)]
