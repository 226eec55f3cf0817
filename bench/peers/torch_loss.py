#!/usr/bin/env python3
"""The fused loss of libcudistill_cuda.so against PyTorch eager, torch.compile and the usual Triton KL kernel, in one run.

The loss is Energy KD as a user would write it: the teacher's energy chooses one of three temperatures for each row, then
0.9 T^2 KL(teacher || student) + 0.1 cross entropy, averaged, and its gradient with respect to the student's logits. The
Triton peer fuses KL and its gradient over probabilities that PyTorch's softmaxes made, as the known Triton losses do.

Before it is timed, ours is compared with the loss in double. Timing: CUDA events around one replay of a CUDA graph
(`graph`) or one call (`call`); several sets of buffers in turn, so that what is wider than the second-level cache is cold
as in training. Floor: z and t read once, dz written once, at the copy bandwidth measured in this run. One JSON line for
each figure, then a table.
"""
import argparse
import ctypes
import json
import os
import statistics
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("skip: no PyTorch here")
    sys.exit(77)
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

SHAPES = [(64, 100), (256, 1000), (1024, 1000), (4096, 1000), (8192, 21843), (4096, 32000)]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CODES = {"fp32": 0, "bf16": 1, "fp16": 2}
BANDS = (6.0, 4.0, 2.0)
WEIGHT, CE_WEIGHT, ENERGY_TEMPERATURE = 0.9, 0.1, 4.0
ROW_FIELDS, SUM_FIELDS, SUM_LOSS = 32, 20, 1


class Loss(ctypes.Structure):
    """CudistillLoss of include/cudistill.h."""
    P, I, L, R = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float
    _fields_ = [("size", ctypes.c_size_t), ("n", I), ("classes", I), ("type", I), ("dz_type", I), ("z", P), ("t", P),
                ("ldz", L), ("ldt", L), ("lddz", L), ("labels", P), ("rows_valid", P), ("scale", P),
                ("dz", P), ("dz_add", I), ("rows", P), ("sums", P), ("workspace", P),
                ("form", I), ("t_squared", I), ("temperature", R), ("teacher_temperature", R), ("weight", R),
                ("ce_weight", R), ("label_smoothing", R), ("alpha", R), ("beta", R), ("gamma", R), ("zscore", I),
                ("topk", I), ("topk_renorm", I), ("edit", I), ("edit_delta", R),
                ("row_values", P), ("row_columns", I), ("temperature_column", I), ("teacher_temperature_column", I),
                ("weight_column", I), ("ce_weight_column", I), ("wsl", I),
                ("use_bands", I), ("bands", R * 3), ("thresholds", P), ("energy_temperature", R)]


def open_library(path):
    library = ctypes.CDLL(path)
    library.cudistill_workspace.restype = ctypes.c_size_t
    library.cudistill_status_text.restype = ctypes.c_char_p
    library.cudistill_loss_init.argtypes = [ctypes.POINTER(Loss), ctypes.c_size_t]
    library.cudistill_loss.argtypes = [ctypes.POINTER(Loss), ctypes.c_void_p]
    return library


class Problem:
    """One set of buffers."""

    def __init__(self, rows, classes, dtype, thresholds=None):
        self.z = (torch.randn(rows, classes, device="cuda") * 3).to(dtype)
        self.t = (torch.randn(rows, classes, device="cuda") * 4).to(dtype)
        self.labels = torch.randint(0, classes, (rows,), device="cuda")
        self.labels32 = self.labels.int()
        self.dz = torch.empty_like(self.z)
        if thresholds is None:
            thresholds = torch.quantile(energy(self.t.float()), torch.tensor([0.2, 0.8], device="cuda"))
        self.thresholds = thresholds.float().contiguous()


def energy(t):
    return -ENERGY_TEMPERATURE * torch.logsumexp(t / ENERGY_TEMPERATURE, dim=1)


def temperatures(t, thresholds):
    e = energy(t)
    chosen = torch.where(e < thresholds[0], BANDS[0], torch.where(e > thresholds[1], BANDS[2], BANDS[1]))
    return chosen.to(t.dtype).unsqueeze(1)


def loss_composite(z, t, labels, thresholds):
    z = z.float() if z.dtype != torch.float64 else z
    t = t.to(z.dtype)
    temperature = temperatures(t, thresholds)
    kl = F.kl_div(F.log_softmax(z / temperature, 1), F.softmax(t / temperature, 1), reduction="none").sum(1)
    kd = (kl * temperature.squeeze(1) ** 2).mean()
    return WEIGHT * kd + CE_WEIGHT * F.cross_entropy(z, labels)


def step_composite(function):
    def step(p):
        z = p.z.detach().requires_grad_(True)
        loss = function(z, p.t, p.labels, p.thresholds)
        (p.grad,) = torch.autograd.grad(loss, z)
        p.loss = loss.detach()
    return step


def step_ours(library, type_code):
    keep = {}

    def step(p):
        if id(p) not in keep:
            loss = Loss()
            library.cudistill_loss_init(ctypes.byref(loss), ctypes.sizeof(Loss))
            n, classes = p.z.shape
            p.scale = torch.full((1,), 1.0 / n, device="cuda")
            p.sums = torch.zeros(SUM_FIELDS, device="cuda")
            p.workspace = torch.zeros(max(16, library.cudistill_workspace(n, classes)), dtype=torch.uint8, device="cuda")
            loss.n, loss.classes, loss.type = n, classes, type_code
            loss.z, loss.t, loss.labels = p.z.data_ptr(), p.t.data_ptr(), p.labels32.data_ptr()
            loss.scale, loss.dz, loss.sums = p.scale.data_ptr(), p.dz.data_ptr(), p.sums.data_ptr()
            loss.workspace = p.workspace.data_ptr()
            loss.weight, loss.ce_weight, loss.use_bands = WEIGHT, CE_WEIGHT, 1
            loss.bands[:] = BANDS
            loss.thresholds, loss.energy_temperature = p.thresholds.data_ptr(), ENERGY_TEMPERATURE
            keep[id(p)] = loss
        status = library.cudistill_loss(ctypes.byref(keep[id(p)]), torch.cuda.current_stream().cuda_stream)
        if status != 0:
            raise RuntimeError(library.cudistill_status_text(status).decode())
    return step


if triton is not None:
    @triton.jit
    def kl_kernel(log_p, q, grad, row_loss, weight, columns, stride, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        scale = tl.load(weight + row)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for begin in range(0, columns, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            inside = at < columns
            lp = tl.load(log_p + row * stride + at, mask=inside, other=0.0).to(tl.float32)
            target = tl.load(q + row * stride + at, mask=inside, other=0.0).to(tl.float32)
            total += tl.where(target > 0, target * (tl.log(tl.maximum(target, 1e-30)) - lp), 0.0)
            tl.store(grad + row * stride + at, -target * scale, mask=inside)
        tl.store(row_loss + row, tl.sum(total, 0) * scale)

    class TritonKl(torch.autograd.Function):
        """Row-weighted KL over log-probabilities: loss and gradient in one kernel, as Triton losses do it."""

        @staticmethod
        def forward(ctx, log_p, q, weight):
            rows, columns = log_p.shape
            grad = torch.empty_like(log_p)
            row_loss = torch.empty(rows, device=log_p.device)
            block = min(65536 // 4, triton.next_power_of_2(columns))
            kl_kernel[(rows,)](log_p, q, grad, row_loss, weight, columns, log_p.stride(0), BLOCK=block,
                               num_warps=16 if block > 2048 else 4)
            ctx.save_for_backward(grad)
            return row_loss.sum()

        @staticmethod
        def backward(ctx, upstream):
            (grad,) = ctx.saved_tensors
            return grad * upstream, None, None


def loss_triton(z, t, labels, thresholds):
    z = z.float()
    t = t.float()
    temperature = temperatures(t, thresholds)
    weight = (temperature.squeeze(1) ** 2 / z.shape[0]).contiguous()
    kd = TritonKl.apply(F.log_softmax(z / temperature, 1), F.softmax(t / temperature, 1), weight)
    return WEIGHT * kd + CE_WEIGHT * F.cross_entropy(z, labels)


def check(p, library, dtype_name):
    """Ours against autograd in double on the same stored logits. Returns errors relative to the largest gradient."""
    step_ours(library, CODES[dtype_name])(p)
    z = p.z.double().requires_grad_(True)
    loss = loss_composite(z, p.t.double(), p.labels, p.thresholds.double())
    (grad,) = torch.autograd.grad(loss, z)
    ours = p.sums[SUM_LOSS].double() / p.z.shape[0]
    error_loss = ((ours - loss) / loss).abs().item()
    error_grad = ((p.dz.double() - grad).norm() / grad.norm()).item()
    limit = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1e-2}[dtype_name]
    if not (error_loss < 1e-4 and error_grad < limit):
        raise SystemExit(f"ours is wrong at {tuple(p.z.shape)} {dtype_name}: loss {error_loss:.2e}, gradient {error_grad:.2e}")
    return error_loss, error_grad


def capture(step, p):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(p)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(p)
    return graph


def timed(calls, repeat):
    """Microseconds of one call, by events around rounds over all buffer sets: median, 10th and 90th percentile."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    rounds = max(1, 2000 // max(1, len(calls) * 10))
    times = []
    for _ in range(repeat):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(rounds):
            for call in calls:
                call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / (rounds * len(calls)))
    times.sort()
    return statistics.median(times), times[len(times) // 10], times[len(times) * 9 // 10]


def copy_bandwidth():
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    median, _, _ = timed([lambda: target.copy_(source)], 20)
    return 2 * source.numel() / (median * 1e-6)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--library", default=os.environ.get("CUDISTILL_CUDA_LIBRARY",
                                                            os.path.join(here, "../../build/libcudistill_cuda.so")))
    parser.add_argument("--dtype", action="append", choices=list(TYPES))
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", help="append the JSON lines to this file too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skip: PyTorch sees no GPU")
        return 77
    library = open_library(arguments.library)
    bandwidth = copy_bandwidth()
    common = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
              "triton": triton.__version__ if triton else None, "cudistill": library.cudistill_version(),
              "copy_gb_per_s": round(bandwidth / 1e9, 1)}
    compiled = torch.compile(step_composite(loss_composite), mode="max-autotune-no-cudagraphs", dynamic=False)
    table = []
    for dtype_name in arguments.dtype or list(TYPES):
        for rows, classes in SHAPES:
            torch.manual_seed(rows + classes)
            dtype = TYPES[dtype_name]
            element = torch.empty(0, dtype=dtype).element_size()
            bytes_min = 3 * rows * classes * element
            sets = max(1, min(16, (256 << 20) // bytes_min + 1))
            problems = [Problem(rows, classes, dtype) for _ in range(sets)]
            errors = check(problems[0], library, dtype_name)
            floor_us = bytes_min / bandwidth * 1e6
            peers = {"cudistill": step_ours(library, CODES[dtype_name]), "eager": step_composite(loss_composite),
                     "compile": compiled}
            if triton is not None:
                peers["triton kl"] = step_composite(loss_triton)
            row = {}
            for name, step in peers.items():
                for how in ("graph", "call"):
                    try:
                        calls = ([capture(step, p).replay for p in problems] if how == "graph"
                                 else [lambda p=p, step=step: step(p) for p in problems])
                        median, low, high = timed(calls, arguments.repeat)
                    except RuntimeError as error:
                        print(json.dumps({"bench": "loss", "peer": name, "how": how, "error": str(error)[:200]}))
                        continue
                    row[name, how] = median
                    line = {"bench": "loss", "peer": name, "how": how, "dtype": dtype_name, "rows": rows,
                            "classes": classes, "us": round(median, 3), "us_p10": round(low, 3), "us_p90": round(high, 3),
                            "bytes_min": bytes_min, "floor_us": round(floor_us, 3),
                            "share_of_floor": round(floor_us / median, 4), "buffer_sets": sets, **common}
                    if name == "cudistill":
                        line["error_loss"], line["error_gradient"] = errors
                    print(json.dumps(line), flush=True)
                    if arguments.json:
                        with open(arguments.json, "a", encoding="utf-8") as file:
                            file.write(json.dumps(line) + "\n")
            table.append((dtype_name, rows, classes, floor_us, row))
            del problems
            torch.cuda.empty_cache()
    print("\nmicroseconds in graph replay (in brackets: times ours); floor = bytes at the measured copy bandwidth")
    print(f"{'':5} {'shape':>14} {'floor':>8} {'ours':>8} {'share':>6} {'eager':>16} {'compile':>16} {'triton kl':>16}")
    for dtype_name, rows, classes, floor_us, row in table:
        ours = row[("cudistill", "graph")]
        cells = []
        for name in ("eager", "compile", "triton kl"):
            value = row.get((name, "graph"), row.get((name, "call")))
            cells.append(f"{value:8.1f} ({value / ours:4.1f}x)" if value else f"{'-':>16}")
        print(f"{dtype_name:5} {rows:6}x{classes:<7} {floor_us:8.2f} {ours:8.2f} {100 * floor_us / ours:5.1f}% " + " ".join(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
