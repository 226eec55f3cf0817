#!/usr/bin/env python3
"""PyTorch peer of a knowledge distillation training step, on a CPU or a GPU.

Student and teacher follow the CIFAR-100 definitions of the knowledge distillation literature
(resnetN, resnetNx4, wrn_d_k). One step is: teacher forward (evaluation mode, no gradient), student
forward, KD loss (temperature 4, 0.1 CE + 0.9 KD), backward, SGD with momentum 0.9 and decay 5e-4.
The images lie in memory, channels_last, and a different batch is used at each step. Convolutions run
in bf16 under autocast.

On a GPU the batches lie there; fp16 runs with a GradScaler. resnet50:resnet50 are torchvision's, at 224 pixels.

modes:
  eager    both nets as defined.
  compile  torch.compile of both nets; the teacher's batch norm is folded into its convolutions where a
           convolution is its only producer (elsewhere it is left as it is).

Prints one JSON line per pair and mode: median img/s over the timed steps, its 10th and 90th percentile,
processor time per step (all threads, waiting loops included), growth of the resident set after the imports, versions
and the load of the machine before the run.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pair", action="append",
                        choices=["resnet20:wrn_16_2", "resnet8x4:resnet32x4", "wrn_16_2:wrn_40_2", "resnet20:resnet56",
                                 "resnet32:resnet110", "resnet50:resnet50", "resnet50:none"],
                        help="student:teacher, may be repeated (default: the first two; on a GPU all)")
    parser.add_argument("--mode", action="append", choices=["eager", "compile"],
                        help="may be repeated (default: both)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=0, help="default 64, with resnet50 256")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--forward", action="store_true",
                        help="time the teacher's forward pass alone (evaluation mode, no gradient)")
    parser.add_argument("--profile", action="store_true",
                        help="print the operators of ten steps by time instead")
    return parser.parse_args()


ARGUMENTS = parse_arguments()
os.environ.setdefault("OMP_NUM_THREADS", str(ARGUMENTS.threads))

import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride),
                                            nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    def __init__(self, depth, widths, classes=100):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = conv(3, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        layers = []
        inputs = widths[0]
        for stage, width in enumerate(widths[1:]):
            for index in range(blocks):
                layers.append(BasicBlock(inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layers(x)
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x):
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.bn2(self.conv1(activated)))) + shortcut


class WideResNet(nn.Module):
    def __init__(self, depth, factor, classes=100):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv(3, 16, 3)
        layers = []
        inputs = 16
        for stage in range(3):
            width = 16 * factor * 2 ** stage
            for index in range(blocks):
                layers.append(WideBlock(inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.layers(self.conv1(x))))
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


def build(name):
    nets = {
        "resnet20": lambda: ResNet(20, [16, 16, 32, 64]),
        "resnet32": lambda: ResNet(32, [16, 16, 32, 64]),
        "resnet56": lambda: ResNet(56, [16, 16, 32, 64]),
        "resnet110": lambda: ResNet(110, [16, 16, 32, 64]),
        "resnet8x4": lambda: ResNet(8, [32, 64, 128, 256]),
        "resnet32x4": lambda: ResNet(32, [32, 64, 128, 256]),
        "wrn_16_2": lambda: WideResNet(16, 2),
        "wrn_40_2": lambda: WideResNet(40, 2),
    }
    if name == "resnet50":
        import torchvision
        return torchvision.models.resnet50(weights=None)
    return nets[name]()


def fold_batch_norm(net):
    """Replaces conv + bn by a convolution with bias where only that batch norm reads the convolution."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    if type(net).__module__.startswith("torchvision"):
        from torch.fx.experimental.optimization import fuse
        return fuse(net)
    for module in net.modules():
        if isinstance(module, (BasicBlock, ResNet)):
            module.conv1 = fuse_conv_bn_eval(module.conv1, module.bn1)
            module.bn1 = nn.Identity()
        if isinstance(module, BasicBlock):
            module.conv2 = fuse_conv_bn_eval(module.conv2, module.bn2)
            module.bn2 = nn.Identity()
            if module.downsample is not None:
                module.downsample = fuse_conv_bn_eval(module.downsample[0], module.downsample[1])
        if isinstance(module, WideBlock):
            module.conv1 = fuse_conv_bn_eval(module.conv1, module.bn2)
            module.bn2 = nn.Identity()
    return net


def kd_loss(student, teacher, labels, temperature=4.0, weight_ce=0.1, weight_kd=0.9):
    student = student.float()
    teacher = teacher.float()
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1),
                          F.softmax(teacher / temperature, dim=1), reduction="batchmean")
    return weight_ce * F.cross_entropy(student, labels) + weight_kd * temperature ** 2 * divergence


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def make_step(pair, mode, arguments):
    device = arguments.device
    dtype = DTYPES[arguments.precision]
    student_name, teacher_name = pair.split(":")
    student = build(student_name).to(device, memory_format=torch.channels_last).train()
    teacher = None
    if teacher_name != "none":
        teacher = build(teacher_name).to(device, memory_format=torch.channels_last).eval()
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=arguments.precision == "fp16")
    how = {"mode": "max-autotune"} if device == "cuda" else {}
    if mode == "compile":
        if teacher is not None:
            teacher = torch.compile(fold_batch_norm(teacher).to(memory_format=torch.channels_last), **how)
        student = torch.compile(student, **how)
    loss_function = torch.compile(kd_loss) if mode == "compile" else kd_loss

    def forward(images, _labels):
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=arguments.precision != "fp32"):
            return teacher(images)

    if arguments.forward:
        return forward

    def step(images, labels):
        with torch.autocast(device, dtype=dtype, enabled=arguments.precision != "fp32"):
            target = None
            if teacher is not None:
                with torch.no_grad():
                    target = teacher(images)
                target = target.clone() if mode == "compile" else target
            logits = student(images)
        loss = F.cross_entropy(logits.float(), labels) if target is None else loss_function(logits, target, labels)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


def synchronize(arguments):
    if arguments.device == "cuda":
        torch.cuda.synchronize()


def make_batches(pair, arguments, batches):
    size, classes = (224, 1000) if "resnet50" in pair else (32, 100)
    dtype = DTYPES[arguments.precision]
    images = [torch.randn(arguments.batch, 3, size, size).to(arguments.device, dtype, memory_format=torch.channels_last)
              for _ in range(batches)]
    labels = [torch.randint(0, classes, (arguments.batch,)).to(arguments.device) for _ in range(batches)]
    return images, labels


def print_profile(step, images, labels):
    with torch.profiler.profile(record_shapes=True) as profile:
        for index in range(10):
            step(images[index % len(images)], labels[index % len(images)])
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    by_shape = profile.key_averages(group_by_input_shape=True)
    print(by_shape.table(sort_by="self_cpu_time_total", row_limit=50))


def measure(pair, mode, arguments, base_bytes):
    load = os.getloadavg()[0]
    torch.manual_seed(1)
    arguments.batch = arguments.batch or (256 if "resnet50" in pair else 64)
    batches = 4 if "resnet50" in pair else 16
    images, labels = make_batches(pair, arguments, batches)
    step = make_step(pair, mode, arguments)
    begin = time.perf_counter()
    for index in range(arguments.warmup):
        step(images[index % batches], labels[index % batches])
    synchronize(arguments)
    warmup_s = time.perf_counter() - begin
    if arguments.profile:
        print_profile(step, images, labels)
        return
    # On a GPU several steps are timed together: waiting for each would not let them overlap.
    group = 10 if arguments.device == "cuda" else 1
    seconds = []
    used = time.process_time()
    for index in range(0, arguments.steps, group):
        begin = time.perf_counter()
        for inner in range(index, index + group):
            step(images[inner % batches], labels[inner % batches])
        synchronize(arguments)
        seconds.append((time.perf_counter() - begin) / group)
    used = (time.process_time() - used) / (len(seconds) * group)
    seconds.sort()
    rate = [arguments.batch / s for s in seconds]
    line = {
        "bench": "torch_forward" if arguments.forward else "torch_step",
        "pair": "none:" + pair.split(":")[1] if arguments.forward else pair, "mode": mode, "precision": arguments.precision,
        "batch": arguments.batch, "threads": arguments.threads, "steps": len(seconds) * group,
        "img_per_s": round(arguments.batch / statistics.median(seconds), 1),
        "img_per_s_p10": round(rate[int(len(rate) * 0.9)], 1),
        "img_per_s_p90": round(rate[int(len(rate) * 0.1)], 1),
        "cpu_ms_per_step": round(used * 1e3, 1),
        "warmup_s": round(warmup_s, 1),
        "rss_growth_mib": round((resident_bytes() - base_bytes) / 2 ** 20, 1),
        "rss_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "load_before": round(load, 2), "torch": torch.__version__, "python": sys.version.split()[0],
    }
    if arguments.device == "cuda":
        line["device"] = torch.cuda.get_device_name()
        line["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2 ** 20, 1)
    print(json.dumps(line), flush=True)


def main():
    base_bytes = resident_bytes()
    torch.set_num_threads(ARGUMENTS.threads)
    pairs = ARGUMENTS.pair or ["resnet20:wrn_16_2", "resnet8x4:resnet32x4"]
    if ARGUMENTS.device == "cuda":
        if not torch.cuda.is_available():
            print("skip: PyTorch sees no GPU")
            return 77
        pairs = ARGUMENTS.pair or pairs + ["wrn_16_2:wrn_40_2", "resnet20:resnet56", "resnet32:resnet110",
                                           "resnet50:resnet50", "resnet50:none"]
    modes = ARGUMENTS.mode or ["eager", "compile"]
    if len(pairs) * len(modes) == 1:
        measure(pairs[0], modes[0], ARGUMENTS, base_bytes)
        return 0
    # A fresh process for each combination: memory growth is then its own.
    import subprocess
    for pair in pairs:
        for mode in modes:
            command = [sys.executable, os.path.abspath(__file__), "--pair", pair, "--mode", mode,
                       "--device", ARGUMENTS.device, "--threads", str(ARGUMENTS.threads), "--batch", str(ARGUMENTS.batch),
                       "--steps", str(ARGUMENTS.steps), "--warmup", str(ARGUMENTS.warmup),
                       "--precision", ARGUMENTS.precision]
            if ARGUMENTS.forward:
                command.append("--forward")
            if ARGUMENTS.profile:
                command.append("--profile")
            subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
