"""Weight broadcast against a bare broadcast: how many bytes a second reach one and two engine processes.

    python benchmarks/weight_sync.py --out benchmarks/results

For random models of 10 M, 100 M and 1 B parameters a learner process sends all weights to engine processes on this machine
through gloo: as harmonyray does (`WeightGroup`, the transformers engine's exchange of tensors), the same and then the
checksums of both ends, and as one bare torch.distributed broadcast of one flat tensor of the same bytes. The three alternate,
round after round, in the same processes; a round ends when every engine holds and has loaded everything, and where they are part
of it, when both ends have summed it up. In a run engines generate as soon as they hold the weights, checksums come beside that.
CPU-seconds are those of all processes together. A size for which the machine has not enough free memory is left out with a word.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from reporting import give_out

from harmonyray.engines.hf_weights import ReceivesWeights
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.weight_group import WeightGroup
from harmonyray.engines.weights import checksum, lay_out, named_weights, specs

SIZES = {  # parameters: hidden size, layers, vocabulary, type
    "10M": (256, 8, 8_192, torch.float32),
    "100M": (768, 12, 16_384, torch.float32),
    "1B": (2048, 18, 32_000, torch.bfloat16),
}
BUCKET_BYTES = 16 << 20
TIMEOUT_S = 300.0
KINDS = ("bare", "ours", "ours, then checksums")


def make_model(size: str) -> torch.nn.Module:
    """A stack with the tensors of a Llama: embedding, head, and per layer seven matrices and two norms."""
    width, layers, vocabulary, dtype = SIZES[size]

    def layer() -> torch.nn.Module:
        shapes = {"q": (width, width), "k": (width // 4, width), "v": (width // 4, width), "o": (width, width)}
        shapes |= {
            "gate": (4 * width, width),
            "up": (4 * width, width),
            "down": (width, 4 * width),
            "n1": (width,),
            "n2": (width,),
        }
        return torch.nn.ParameterDict({name: torch.empty(shape, dtype=dtype).normal_(0, 0.02) for name, shape in shapes.items()})

    table = {name: torch.empty(vocabulary, width, dtype=dtype).normal_(0, 0.02) for name in ("embed", "head")}
    return torch.nn.ModuleList([torch.nn.ParameterDict(table), *(layer() for _ in range(layers))])


class Engine(ReceivesWeights):
    """The transformers engine, as far as it takes part in a broadcast."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.policy_version, self.lock = model, 0, nullcontext()


def member(rank: int, size: str, num_engines: int, rounds: int, port: int, results: Any) -> None:
    """One process: the learner (rank 0) or an engine. The learner puts what it measured into `results`."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    store = dist.TCPStore("127.0.0.1", port, is_master=rank == 0, wait_for_workers=False, timeout=timedelta(seconds=TIMEOUT_S))
    pg = dist.ProcessGroupGloo(dist.PrefixStore("bare", store), rank, num_engines + 1, timedelta(seconds=TIMEOUT_S))
    members = ("learner", *(f"engine {i}" for i in range(num_engines)))
    spec = GroupSpec("127.0.0.1", port, "ours", members, "gloo", TIMEOUT_S)
    model = make_model(size)
    weights = named_weights(model)
    sent = specs(weights)
    flat = torch.zeros(sum(s.num_bytes for s in sent), dtype=torch.uint8)
    engine, learner = Engine(model), None
    if rank == 0:
        lay_out(model)
        weights = named_weights(model)
        learner = WeightGroup(spec, 0, store)
    else:
        weights = {}  # an engine lets go of the tensors that it began with
        engine.join_weights(spec, rank)

    def bare() -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        pg.broadcast([flat], options).wait()

    def ours() -> None:
        if learner is not None:
            learner.send(weights, sent, BUCKET_BYTES)
        else:
            engine.receive_weights(sent, BUCKET_BYTES, 1)

    def verified() -> int:
        ours()
        return checksum(weights) if learner is not None else engine.held_checksum()

    runs: dict[str, Callable[[], Any]] = dict(zip(KINDS, (bare, ours, verified), strict=True))

    sums, cpu_s = torch.zeros(num_engines + 1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu_seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for i in range(rounds + 2):  # the first two warm up the memory that both sides keep
        for kind in KINDS:
            pg.barrier().wait()
            start, cpu_start = time.perf_counter(), time.process_time()
            held = runs[kind]()
            pg.barrier().wait()
            took_s, cpu_s[0] = time.perf_counter() - start, time.process_time() - cpu_start
            pg.allreduce([cpu_s]).wait()
            if i >= 2:
                seconds[kind].append(took_s)
                cpu_seconds[kind].append(cpu_s.item())
            if held is not None:
                sums.zero_()[rank] = held
                pg.allreduce([sums]).wait()
                assert sums.unique().numel() == 1, "an engine holds other weights than were sent"
    if rank == 0:
        results.put(
            {
                "bytes": len(flat),
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
            }
        )
    pg.barrier().wait()


def need_gib(size: str, num_engines: int) -> float:
    """Memory of all processes: weights and the flat tensor everywhere, and in an engine a place for the next weights."""
    width, layers, vocabulary, dtype = SIZES[size]
    parameters = 2 * vocabulary * width + layers * (14.5 * width * width + 2 * width)
    return parameters * dtype.itemsize * (2 + 3 * num_engines) / 2**30 + 0.4 * (num_engines + 1)


def measure(size: str, num_engines: int, rounds: int) -> dict[str, Any] | None:
    free = psutil.virtual_memory().available / 2**30
    need = need_gib(size, num_engines)
    if need > free - 2:
        print(f"{size}, {num_engines} engine(s): left out, needs {need:.1f} GiB of the {free:.1f} GiB that are free", flush=True)
        return None
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    port = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port
    mp.spawn(member, args=(size, num_engines, rounds, port, results), nprocs=num_engines + 1)
    got = results.get()
    medians = {kind: statistics.median(s) for kind, s in got["seconds"].items()}
    cpu = {kind: statistics.median(s) for kind, s in got["cpu_seconds"].items()}
    ratios = [b / o for b, o in zip(got["seconds"]["bare"], got["seconds"]["ours"], strict=True)]
    out = {
        "size": size,
        "dtype": str(SIZES[size][3]).removeprefix("torch."),
        "engines": num_engines,
        "megabytes": got["bytes"] / 1e6,
    }
    out |= {"gb_per_s": {kind: got["bytes"] / 1e9 / s for kind, s in medians.items()}, "ratio": medians["bare"] / medians["ours"]}
    out |= {"cpu_s_per_gb": {kind: s / got["bytes"] * 1e9 for kind, s in cpu.items()}, "cpu_ratio": cpu["bare"] / cpu["ours"]}
    out["verified_ratio"] = medians["bare"] / medians[KINDS[2]]
    return out | {"ratios": ratios, "seconds": got["seconds"], "cpu_seconds": got["cpu_seconds"]}


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = ["| model | engines | MB | bare GB/s | ours | then checksums | ratio (rounds) | with checksums | CPU-s/GB | ratio |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for r in results:
        speed = " | ".join(f"{r['gb_per_s'][kind]:.2f}" for kind in KINDS)
        spread = f"{r['ratio']:.2f} ({min(r['ratios']):.2f}-{max(r['ratios']):.2f})"
        cpu = ", ".join(f"{r['cpu_s_per_gb'][kind]:.2f}" for kind in KINDS) + f" | {r['cpu_ratio']:.2f}"
        start = f"| {r['size']} {r['dtype']} | {r['engines']} | {r['megabytes']:.0f} | {speed} | {spread} "
        lines.append(f"{start}| {r['verified_ratio']:.2f} | {cpu} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder for weight_sync.{json,md}")
    args = parser.parse_args()
    results = []
    for size in args.sizes:
        for num in args.engines:
            if (result := measure(size, num, args.rounds)) is not None:
                results.append(result)
                print(table(results[-1:]).splitlines()[-1], flush=True)
    brief = {f"{r['size']}, {r['engines']}": round(r["ratio"], 3) for r in results}
    give_out(args.out, "weight_sync", table(results), brief, torch=torch.__version__, results=results)


if __name__ == "__main__":
    main()
