"""
The paper's model: how long a map takes, by every way that the package knows, against the network run as its authors
run it (`reference`: eager attention, float32, one window per call).

    python benchmarks/paper_model.py --threads 2 --output paper_model.json

The ways take turns, and of each the fastest run counts. Prints one table and writes it as JSON:

- ms per map, maps per second, and the ratio to the reference;
- difference: of the map from the reference's (values in 0…1), and correlation with it;
- of the rate: operations per second, over those of the fastest large matrix product in the same dtype;
- memory: what one call needs at its peak beyond weights and inputs, MiB.

Without `--model` the weights are random, and maps are scaled to logits of standard deviation 1 before they are
compared.
"""

import argparse
import copy
import json
import platform
import time
from itertools import chain
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from salfom_hf import SalFoMConfig, SalFoMForVideoSaliencyPrediction, UMTConfig
from salfom_hf.acceleration import onednn_linear, prepare_for_inference

COLUMNS = {
    "variant": "{}",
    "dtype": "{}",
    "batch": "{}",
    "ms per map": "{:.1f}",
    "maps per second": "{:.3f}",
    "ratio": "{:.2f}",
    "difference": "{:.1e}",
    "correlation": "{:.6f}",
    "of the rate": "{:.0%}",
    "memory": "{:.0f}",
}


def variant_of(model: SalFoMForVideoSaliencyPrediction, attention: str) -> SalFoMForVideoSaliencyPrediction:
    """The same weights, not copied, in a network of its own with this attention."""
    weights = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    variant = copy.deepcopy(model, weights)
    variant.salfom.encoder.set_attn_implementation(attention)
    return variant


def variants(
    model: SalFoMForVideoSaliencyPrediction, batches: list[int]
) -> dict[tuple[str, str, int], torch.nn.Module]:
    """(name, dtype, batch size) to network; the reference comes first."""
    found = {("reference", "float32", 1): variant_of(model, "eager")}
    for dtype in (torch.float32, torch.bfloat16):
        weights = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        ways = {"fused attention": variant_of(weights, "sdpa")}
        if model.device.type == "cpu":
            ways["prepared"] = prepare_for_inference(variant_of(weights, "sdpa"))
        else:
            # One graph of kernels, recorded once: nothing is launched from Python any more.
            ways["compiled"] = torch.compile(variant_of(weights, "sdpa"), mode="max-autotune")
        name = str(dtype).removeprefix("torch.")
        found |= {(way, name, batch): network for way, network in ways.items() for batch in batches}
    return found


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fastest_product(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest large matrix product."""
    tokens, inputs, outputs = (3136, 1024, 4096) if device.type == "cpu" else (8192, 8192, 8192)
    left = torch.randn(tokens, inputs, device=device, dtype=dtype)
    right = torch.randn(outputs, inputs, device=device, dtype=dtype)
    seconds = []
    for multiply in (F.linear, onednn_linear) if device.type == "cpu" else (F.linear,):
        for _ in range(5):
            begin = clock(device)
            multiply(left, right)
            seconds.append(clock(device) - begin)
    return 2 * tokens * inputs * outputs / min(seconds)


def operations(config: SalFoMConfig) -> int:
    """Multiplications and additions per map."""
    with torch.device("meta"):
        model = SalFoMForVideoSaliencyPrediction._from_config(config, attn_implementation="eager").eval()
        clip = torch.empty(1, config.num_frames, 3, *config.image_height_width)
    with FlopCounterMode(display=False) as counter:
        model(clip)
    return counter.get_total_flops()


def memory_status(name: str) -> float:
    """A line of this process's status in MiB: `VmRSS` is what it holds, `VmHWM` its peak. Linux only."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def working_memory(device: torch.device, run) -> float | None:
    """MiB that a run needs beyond what there was; `None` where that cannot be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Sets the peak back to what is held now.
        before = memory_status("VmRSS")
    except OSError:
        run()
        return None
    run()
    return memory_status("VmHWM") - before


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("--model", help="folder or Hub name; default: random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; default: PyTorch's")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="windows per call; default: 1")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--layers", type=int, help="of the encoder, for a quick look; default: all")
    parser.add_argument("--profile", action="store_true", help="print where the time of each way goes")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    # The float32 of this table is float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    device = torch.device(args.device)
    if args.model:
        model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32)
    else:
        encoder = UMTConfig(**({"num_hidden_layers": args.layers} if args.layers else {}))
        model = SalFoMForVideoSaliencyPrediction(SalFoMConfig(encoder_config=encoder))
    model = model.eval().to(device)
    config = model.config
    clips = torch.randn(max(args.batches), config.num_frames, 3, *config.image_height_width, device=device)
    networks = variants(model, args.batches)
    seconds = {key: float("inf") for key in networks}
    memory, maps, scale = {}, {}, 1.0
    for repeat in range(args.repeats):
        for key, network in networks.items():
            _, dtype, batch = key
            pixels = clips[:batch].to(getattr(torch, dtype))

            def run(key=key, network=network, pixels=pixels):
                begin = clock(device)
                logits = network(pixels).logits
                seconds[key] = min(seconds[key], clock(device) - begin)
                maps.setdefault(key, logits[0].double().cpu())

            peak = working_memory(device, run)
            memory[key] = peak if repeat == 0 or peak is None else max(memory[key], peak)
            print(f"{repeat + 1}/{args.repeats} {' '.join(map(str, key))}: {seconds[key]:.3f} s", flush=True)

    reference = next(iter(networks))
    if not args.model:
        scale = maps[reference].std()
    maps = {key: (logits / scale).sigmoid() for key, logits in maps.items()}
    total = operations(config)
    rates = {name: fastest_product(device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    rows = []
    for key, taken in seconds.items():
        per_map = taken / key[2]
        correlation = torch.corrcoef(torch.stack([maps[key].flatten(), maps[reference].flatten()]))[0, 1]
        values = (*key, 1000 * per_map, 1 / per_map, seconds[reference] / per_map)
        values += ((maps[key] - maps[reference]).abs().max().item(), correlation.item())
        values += (total / per_map / rates[key[1]], memory[key])
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    report = {
        "machine": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "operations per map": total,
        "product GFLOP/s": {name: rate / 1e9 for name, rate in rates.items()},
        "rows": rows,
    }
    print({name: value for name, value in report.items() if name != "rows"})
    print(" | ".join(COLUMNS))
    for row in rows:
        print(" | ".join("–" if row[name] is None else form.format(row[name]) for name, form in COLUMNS.items()))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    if args.profile:
        for key, network in networks.items():
            with profile() as recorded:
                network(clips[: key[2]].to(getattr(torch, key[1])))
            by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
            print(*key, recorded.key_averages(group_by_input_shape=False).table(sort_by=by, row_limit=10), sep="\n")


if __name__ == "__main__":
    main()
