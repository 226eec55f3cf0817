#!/usr/bin/env python3
"""PyTorch peers of the optimizer, batch norm, augmentation and teacher-forward kernels on one GPU.

Each figure is the median over CUDA-event timings with the caches flushed before every run (cold) or not (warm), and the
bytes that the operation must move at least over that time, as a share of the device's copy bandwidth, which is measured in
the same run. One JSON line for each. Ours are measured by `cudistill bench op` in the same `bench_gpu` run.
"""
import argparse
import json
import statistics
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("skip: no PyTorch here")
    sys.exit(77)

FLUSH_BYTES = 512 << 20


def time_us(function, repeat, flush):
    """Median, 10th and 90th percentile of one call in microseconds."""
    for _ in range(5):
        function()
    times = []
    for _ in range(repeat):
        if flush is not None:
            flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    times.sort()
    return statistics.median(times), times[len(times) // 10], times[len(times) * 9 // 10]


def graphed(function):
    """The same work as one replay of a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def copy_bandwidth(repeat=30):
    """Bytes read plus bytes written of a 2 GiB device copy, a second."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    median, _, _ = time_us(lambda: target.copy_(source), repeat, None)
    return 2 * source.numel() / (median * 1e-6)


class Report:
    def __init__(self, bandwidth):
        self.bandwidth = bandwidth
        self.common = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                       "copy_gb_per_s": round(bandwidth / 1e9, 1)}

    def line(self, name, peer, dtype, bytes_min, timing):
        median, low, high = timing
        print(json.dumps({"bench": name, "peer": peer, "dtype": dtype, "us": round(median, 3), "us_p10": round(low, 3),
                          "us_p90": round(high, 3), "bytes_min": bytes_min,
                          "share_of_copy": round(bytes_min / (median * 1e-6) / self.bandwidth, 4),
                          **self.common}), flush=True)


def bench_sgd(report, repeat, flush):
    """ResNet-50's 25.6 million parameters in 161 tensors, momentum 0.9, weight decay; fp32."""
    shapes = [(64, 3, 7, 7), (64,), (64,), (1000, 2048), (1000,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            shapes += [(width,)] * 4 + [(4 * width,)] * 2
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    for kind in ("fused", "foreach"):
        parameters = [torch.nn.Parameter(torch.randn(s, device="cuda")) for s in shapes]
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4, **{kind: True})
        count = sum(p.numel() for p in parameters)
        report.line(f"sgd P={count}", f"torch {kind}", "fp32", 20 * count,
                    time_us(optimizer.step, repeat, flush))


def bench_batch_norm(report, repeat, flush):
    """Training forward with ReLU, and backward, of one 256x256x56x56 map, channels_last."""
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        x = torch.randn(256, 256, 56, 56, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        x.requires_grad_(True)
        norm = torch.nn.BatchNorm2d(256).cuda().train()
        size = x.numel() * x.element_size()
        report.line("bn forward B=256 H=56 C=256", "torch eager", name, 3 * size,
                    time_us(lambda: F.relu_(norm(x.detach())), repeat, flush))
        y = F.relu(norm(x))
        dy = torch.randn_like(y)
        report.line("bn backward B=256 H=56 C=256", "torch eager", name, 5 * size,
                    time_us(lambda: torch.autograd.grad(y, x, dy, retain_graph=True), repeat, flush))
        compiled = torch.compile(lambda v: F.relu(norm(v)))
        report.line("bn forward B=256 H=56 C=256", "torch compile", name, 3 * size,
                    time_us(lambda: compiled(x.detach()), repeat, flush))


def bench_augment(report, repeat, flush):
    """uint8 NHWC to normalised NHWC with flip: 256 images of 224 pixels; with crop and flip: 64 CIFAR images."""
    for n, size, pad in ((256, 224, 0), (64, 32, 4)):
        images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, device="cuda")
        images = images.to(memory_format=torch.channels_last)
        mean = torch.tensor([0.485, 0.456, 0.406], device="cuda").view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], device="cuda").view(1, 3, 1, 1)
        rows = torch.arange(n, device="cuda").view(n, 1, 1)

        def augment():
            x = images
            if pad:
                x = F.pad(x, (pad, pad, pad, pad))
                corner = torch.randint(0, 2 * pad + 1, (2, n, 1, 1), device="cuda")
                ys = torch.arange(size, device="cuda").view(1, size, 1) + corner[0]
                xs = torch.arange(size, device="cuda").view(1, 1, size) + corner[1]
                x = x.permute(0, 2, 3, 1)[rows, ys, xs].permute(0, 3, 1, 2)
            flip = torch.rand(n, 1, 1, 1, device="cuda") < 0.5
            x = torch.where(flip, x.flip(3), x)
            return ((x.float() / 255 - mean) / std).to(torch.float16, memory_format=torch.channels_last)

        for peer, function in (("torch eager", augment), ("torch compile", torch.compile(augment))):
            report.line(f"augment B={n} H={size}", peer, "fp16", n * size * size * (3 + 3 * 2),
                        time_us(function, repeat, flush))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=50)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skip: PyTorch sees no GPU")
        return 77
    report = Report(copy_bandwidth())
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    bench_sgd(report, arguments.repeat, flush)
    bench_batch_norm(report, arguments.repeat, flush)
    bench_augment(report, arguments.repeat, flush)
    return 0


if __name__ == "__main__":
    sys.exit(main())
