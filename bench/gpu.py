"""What a GPU has to show, in a few minutes and on a machine that has only PyTorch and NumPy.

    python dev.py bench gpu --out DIR                   where ComfyUI's environment is
    python dev.py bench gpu --out DIR --make-kit KIT    there: gathers in KIT what the other machine needs, a few MB
    python bench/gpu.py --out DIR --kit KIT             on the other machine, from this repository's root

Networks of the size of SD1.5, SDXL and SD3 with random weights (bfloat16, 512 and 1024 pixels, batches of 1 and 4; on a
CPU small ones of the same build): time over that of the network's own calls, peak memory over plain sampling, the
same with backpropagation, milliseconds a picture, and how often a call makes the host wait for the device. Then how far
runs on the small eps network in float32, float16 and bfloat16 are from the CPU's in float32, as the rms of the
difference over the rms of the latent; and a network of which only a half fits on the GPU (`--offloaded`, in a process
of its own).

Cases that have not begun after --seconds are left out and named. gpu.json and gpu.md are written after every case.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

if "--kit" in sys.argv:
    from only_torch import use_kit

    use_kit(Path(sys.argv[sys.argv.index("--kit") + 1]))

from measured_runs import CUDA, DEVICE, FAST, KINDS, NEWTON, Bench, backpropagated, host_modules, ours, plain
from pack import ROOT, sampler
from torch import Tensor

SIDES, BATCHES = ((64, 128), (1, 4)) if CUDA else ((8, 16), (1, 2))  # latent cells
READS = ("aten::_local_scalar_dense", "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def waits_per_call(bench: Bench, batch: int, side: int) -> dict[str, float]:
    """Synchronisations and reads of single values by the profiler, ours and plain."""
    found = {}
    for name, function in (("ours", ours(batch, side, NEWTON, bench.channels)), ("plain", plain)):
        with torch.inference_mode(), torch.profiler.profile() as profile:
            bench.sample(function, batch, side)
        calls = bench.levels * (2 if name == "ours" else 1)
        found[name] = sum(e.count for e in profile.key_averages() if e.key in READS) / calls
    return found


def run_case(bench: Bench, batch: int, side: int, backward: bool) -> list[dict[str, Any]]:
    """Plain sampling, ours and backpropagation at one size."""
    functions = {
        ("plain", "euler_ancestral"): plain,
        ("ours", "fast"): ours(batch, side, FAST, bench.channels),
        ("ours", "newton"): ours(batch, side, NEWTON, bench.channels),
    } | ({("gradient", ""): backpropagated(batch, side, bench.channels)} if backward else {})
    rows, base = [], None
    for (method, preset), function in functions.items():
        row = {"task": "cost", "model": bench.name, "method": method, "preset": preset, "side": 8 * side,
               "batch": batch, "levels": bench.levels, "device": DEVICE.type}  # fmt: skip
        try:
            f = bench.measure(function, batch, side, grad=method == "gradient")
        except torch.OutOfMemoryError:
            rows.append(row | {"error": "out of memory"})
            continue
        base = base or f
        rows.append(row | {
            "calls": f["calls"], "overhead_ratio": f["time"] / (f["calls"] * f["raw"]),
            "memory_ratio": f["peak_bytes"] / base["peak_bytes"], "peak_bytes": f["peak_bytes"],
            "milliseconds": 1000 * f["time"] / batch,
        })  # fmt: skip
    waits = waits_per_call(bench, batch, side)
    for row in rows:
        if row["method"] == "plain" or row["preset"] == "newton":
            row["waits_per_call"] = waits["plain" if row["method"] == "plain" else "ours"]
    return rows


def demo_network(dtype: torch.dtype, device: torch.device) -> Any:
    """The small eps checkpoint's network as a MODEL, without the host's loader of checkpoints."""
    host_modules()
    import comfy.model_detection
    import comfy.model_patcher

    state = read_safetensors(ROOT / "demo" / "ncs_emoji.safetensors")
    config = comfy.model_detection.model_config_from_unet(state, "model.diffusion_model.")
    config.set_inference_dtype(dtype, None)
    base = config.get_model(state, "model.diffusion_model.", device=device)
    base.load_model_weights(dict(state), "model.diffusion_model.")
    return comfy.model_patcher.ModelPatcher(base, device, torch.device("cpu"))


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Half-precision tensors of a file, without the package."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    dtypes = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16}
    return {
        name: torch.frombuffer(
            bytearray(data[start + t["data_offsets"][0] : start + t["data_offsets"][1]]), dtype=dtypes[t["dtype"]]
        ).reshape(t["shape"])
        for name, t in header.items()
        if name != "__metadata__"
    }


def sampled(dtype: torch.dtype, device: torch.device, settings: sampler.NewtonSettings, levels: int) -> Tensor:
    """A run of the demo network under a mask of a half, from the same noise whatever device and dtype."""
    import comfy.sample
    import comfy.samplers
    from newton_pack.nodes.comfy_adapter import make_sampler
    from newton_pack.nodes.latent_mask import LatentMaskSpec

    model, weights = demo_network(dtype, device), torch.zeros(1, 1, 16, 16)
    weights[..., :8] = 1
    noise, y = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    prompt = [[torch.zeros(1, 77, 768), {}]]
    return comfy.sample.sample_custom(
        model, noise, 1.0, make_sampler(LatentMaskSpec(2 * y, weights), settings),
        comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", levels), prompt, prompt,
        torch.zeros_like(noise), disable_pbar=True, seed=0,
    ).float().cpu()  # fmt: skip


def agreement(levels: int) -> list[dict[str, Any]]:
    """How far each precision on this device is from float32 on the CPU."""
    rows = []
    for preset, settings in (("fast", FAST), ("newton", NEWTON)):
        with torch.inference_mode():
            truth = sampled(torch.float32, torch.device("cpu"), settings, levels)
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                off = sampled(dtype, DEVICE, settings, levels) - truth
                rows.append({
                    "task": "agreement", "model": "demo", "method": "ours", "preset": preset, "levels": levels,
                    "dtype": str(dtype).removeprefix("torch."), "value": (off.norm() / truth.norm()).item(),
                    "device": DEVICE.type,
                })  # fmt: skip
    return rows


def offloaded(opts: argparse.Namespace) -> list[dict[str, Any]]:
    """A network of which half has to stay in the host's memory: this file again, told to leave the rest of the GPU."""
    size = sum(p.nbytes for p in Bench(opts.kinds[0], 1, 1).model.model.parameters())
    keep = torch.cuda.get_device_properties(0).total_memory - size / 2 - 2**30
    command = [sys.executable, __file__, *sys.argv[1:], "--offloaded", str(keep / 2**30)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [{"task": "offload", "error": done.stderr.strip().splitlines()[-1]}]
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_offloaded(opts: argparse.Namespace) -> None:
    """Inside that process: prints its rows."""
    host_modules()
    from comfy.cli_args import args

    args.reserve_vram = opts.offloaded
    bench = Bench(opts.kinds[0], opts.levels, 1, held_on=torch.device("cpu"))
    rows = run_case(bench, 1, SIDES[0], backward=False)
    there = bench.model.loaded_size() / bench.model.model_size()
    print(json.dumps([row | {"task": "offload", "loaded_share": there} for row in rows]))


def table(rows: list[dict[str, Any]]) -> str:
    """One for each task."""
    parts = []
    for task in dict.fromkeys(r["task"] for r in rows):
        part = [r for r in rows if r["task"] == task]
        columns = [k for k in dict.fromkeys(k for r in part for k in r) if k not in ("task", "device")]
        lines = ["| " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|" + "---|" * len(columns)]
        for row in part:
            cells = [row.get(c, "") for c in columns]
            lines.append("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |")
        parts.append(f"## {task}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def write(opts: argparse.Namespace, rows: list[dict[str, Any]], left: list[str]) -> None:
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads; no GPU was used"
    head = {"versions": {"torch": torch.__version__, "device": device}, "command": "dev.py bench gpu",
            "date": time.strftime("%Y-%m-%d"), "left_out": left}  # fmt: skip
    lines = ",\n".join(json.dumps(r) for r in rows)
    (opts.out / "gpu.json").write_text(json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n' + lines + "\n]}\n")
    body = f"{device}, torch {torch.__version__}, {head['date']}\n\n{table(rows)}\n"
    body += f"\nLeft out for want of time: {', '.join(left)}\n" if left else ""
    (opts.out / "gpu.md").write_text(body)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--make-kit", type=Path, metavar="KIT")
    parser.add_argument("--kit", type=Path, metavar="KIT")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--levels", type=int, default=8 if CUDA else 3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--offloaded", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    opts = parse()
    opts.out.mkdir(parents=True, exist_ok=True)
    if opts.make_kit:
        from only_torch import make_kit

        print(f"{make_kit(opts.make_kit)}: on the other machine\n  python bench/gpu.py --out DIR --kit {opts.make_kit}")
        return
    if opts.offloaded:
        return measure_offloaded(opts)
    host_modules()
    begin, left = time.monotonic(), []
    rows = agreement(20 if CUDA else 2) + (offloaded(opts) if CUDA else [])
    for kind in opts.kinds:
        bench = Bench(kind, opts.levels, opts.repeats)
        for side, batch in itertools.product(SIDES, BATCHES):
            case = f"{kind} at {8 * side} pixels, batch {batch}"
            if time.monotonic() - begin > opts.seconds:
                left.append(case)
                continue
            rows += run_case(bench, batch, side, backward=True)
            write(opts, rows, left)
            print(f"{time.monotonic() - begin:5.0f} s  {case}", flush=True)
        del bench
    write(opts, rows, left)
    print((opts.out / "gpu.md").read_text())


if __name__ == "__main__":
    main()
