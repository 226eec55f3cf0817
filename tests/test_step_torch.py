"""Oracle of test_step_torch: training steps of PyTorch in double, in fp32 and (the first one) under bf16 autocast.

usage: test_step_torch.py FOLDER
reads  from standard input a line "key=value ..." for each case (the keys are the fields of the test's Case), then
       FOLDER/student.safetensors and teacher.safetensors, loaded strictly into the modules of zoo_torch.py.

Standard output is a stream of records: name (128 bytes, NUL-padded), count (int64), the L2 distance of fp32 and of bf16
from double (2 float64; negative where there is none), then `count` float64 values of the double run, tensors in the
order of the arenas (convolutions O,Kh,Kw,I). A case begins with "theta" [2]. A step is "images" (bytes, N,H,W,C),
"labels", the outputs "loss", "z", "t", "energy" of each row, "grad P", "weight P", "moment P" of each parameter,
"state P" of each running statistic, and "end".

The derivative of ReLU and of max-pooling jumps where two values are equal: there one rounding decides about the gradient,
and two correct programs differ by far more than rounding. Batches are therefore drawn again until every such decision of
the double run has a margin of several times the rounding errors that the fp32 run shows at the same place.
"""
import copy
import struct
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import zoo_torch

MARGIN = 8.0  # of a decision, in standard deviations of the fp32 run's rounding error
DRAWS = 200


def single(x):
    """The double that an fp32 scalar of the program holds."""
    return struct.unpack("f", struct.pack("f", float(x)))[0]


class Recorder:
    """Stands for torch.nn.functional in the zoo's modules and keeps what decisions are made on."""

    def __init__(self):
        self.seen = None

    def relu(self, x):
        if self.seen is not None:
            self.seen.append(x.detach().double())
        return F.relu(x)

    def max_pool2d(self, x, kernel):
        if self.seen is not None:
            windows = F.unfold(x.detach().double().flatten(0, 1).unsqueeze(1), kernel, stride=kernel)
            top = windows.topk(2, 1).values
            self.seen.append(torch.where(top[:, 0] > 0, top[:, 0] - top[:, 1], torch.inf))
        return F.max_pool2d(x, kernel)


recorder = Recorder()
zoo_torch.functional = recorder


class Case:
    def __init__(self, folder, pairs):
        values = dict(pair.split("=", 1) for pair in pairs)
        self.folder, self.student, self.teacher, self.method = (
            folder,
            values.pop("student"),
            values.pop("teacher"),
            values.pop("method"),
        )
        for key, value in values.items():
            setattr(self, key, single(value))
        for key in ("size", "batch", "last", "steps", "nesterov", "decay_norm_bias"):
            setattr(self, key, int(getattr(self, key)))
        self.mean = torch.tensor(zoo_torch.MEAN, dtype=torch.float32)
        self.std = torch.tensor(zoo_torch.STD, dtype=torch.float32)

    def network(self, name, file):
        net = zoo_torch.ZOO[name]()
        net.load_state_dict(load_file(f"{self.folder}/{file}.safetensors"), strict=True)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = single(module.eps), single(module.momentum)
        return net


class Run:
    """Student, teacher and optimizer in one arithmetic."""

    def __init__(self, case, dtype, autocast=False):
        self.case, self.dtype, self.autocast = case, dtype, autocast
        self.student = case.network(case.student, "student").to(dtype).train()
        self.teacher = case.network(case.teacher, "teacher").to(dtype).eval() if case.teacher != "none" else None
        named = list(self.student.named_parameters())
        decays = [p for _, p in named if p.dim() > 1 or case.decay_norm_bias]
        others = [p for _, p in named if not (p.dim() > 1 or case.decay_norm_bias)]
        groups = [{"params": decays, "weight_decay": case.weight_decay}]
        if others:
            groups.append({"params": others, "weight_decay": 0.0})
        self.optimizer = torch.optim.SGD(
            groups, lr=case.lr, momentum=case.momentum, dampening=case.dampening, nesterov=bool(case.nesterov)
        )

    def normalise(self, images):
        x = images.to(self.dtype) / 255
        return ((x - self.case.mean.to(self.dtype)) / self.case.std.to(self.dtype)).permute(0, 3, 1, 2)

    def logits(self, net, images):
        """In the type of the arithmetic also where autocast gives bf16."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            return net(self.normalise(images))[0].to(self.dtype)

    @torch.no_grad()
    def teacher_logits(self, images):
        return self.logits(self.teacher, images) if self.teacher else None

    @torch.no_grad()
    def probe(self, images):
        """What the student's decisions are made on; nothing is changed."""
        before = copy.deepcopy(list(self.student.buffers()))
        recorder.seen = seen = []
        self.logits(self.student, images)
        recorder.seen = None
        for buffer, old in zip(self.student.buffers(), before):
            buffer.copy_(old)
        return seen

    def energy(self, t):
        te = self.case.energy_temperature
        return -te * torch.logsumexp(t / te, 1)

    def temperatures(self, t, theta):
        c = self.case
        if c.method == "kd":
            return torch.full((len(t),), c.temperature, dtype=t.dtype)
        e = self.energy(t)
        high = torch.where(e > theta[1], torch.full_like(e, c.t_high_energy), torch.full_like(e, c.t_mid))
        return torch.where(e < theta[0], torch.full_like(e, c.t_low_energy), high)

    def row_losses(self, z, t, labels, theta):
        c = self.case
        ce = F.cross_entropy(z, labels, reduction="none", label_smoothing=c.label_smoothing)
        if c.method == "none":
            return ce
        heat = self.temperatures(t, theta).unsqueeze(1)
        log_p, log_q = F.log_softmax(z / heat, 1), F.log_softmax(t / heat, 1)
        kl = (log_q.exp() * (log_q - log_p)).sum(1)
        return c.ce_weight * ce + c.kd_weight * heat.squeeze(1) ** 2 * kl

    def step(self, images, labels, theta):
        """One training step; what it yields, by name."""
        c = self.case
        z, t = self.logits(self.student, images), self.teacher_logits(images)
        loss = self.row_losses(z, t, labels, theta)
        self.optimizer.zero_grad(set_to_none=True)
        (loss.sum() * single(1.0 / single(len(images)))).backward()
        out = {"loss": loss.detach(), "z": z.detach()}
        if t is not None:
            out["t"], out["energy"] = t, self.energy(t)
        for name, p in self.student.named_parameters():
            out[f"grad {name}"] = p.grad.clone()
        if c.clip > 0:
            norm = nn.utils.clip_grad_norm_(self.student.parameters(), c.clip)
            assert norm > 1.1 * c.clip, f"clipping at {c.clip} does nothing: the norm is {norm}"
        self.optimizer.step()
        for name, p in self.student.named_parameters():
            out[f"weight {name}"] = p.detach().clone()
            out[f"moment {name}"] = self.optimizer.state[p]["momentum_buffer"].clone()
        for name, b in self.student.named_buffers():
            if not name.endswith("num_batches_tracked"):
                out[f"state {name}"] = b.clone()
        return out


class Oracle:
    def __init__(self, case):
        self.case = case
        self.generator = torch.Generator().manual_seed(len(case.student) + int(case.batch))
        self.double, self.float = Run(case, torch.float64), Run(case, torch.float32)
        self.half = Run(case, torch.float32, autocast=True)
        self.theta = (0.0, 0.0)
        self.first = self.choose_theta() if case.method == "energy_kd" else self.clear_batch(case.batch)

    def draw(self, rows):
        size = (rows, self.case.size, self.case.size, 3)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=self.generator)

    def choose_theta(self):
        """A first batch, and thresholds in wide gaps of its energies with about a third of the rows in each band."""
        n = self.case.batch
        for _ in range(DRAWS):
            images = self.clear_batch(n)
            energies, rounded = (run.energy(run.teacher_logits(images)).double() for run in (self.double, self.half))
            rounding = (rounded - energies).abs().max()
            energies = energies.sort().values
            gaps = energies.diff()
            low = n // 4 + int(gaps[n // 4 : n // 2].argmax())
            high = n // 2 + int(gaps[n // 2 : 3 * n // 4].argmax())
            if min(gaps[low], gaps[high]) > 4 * rounding:
                self.theta = tuple(single((energies[i] + energies[i + 1]) / 2) for i in (low, high))
                return images
        sys.exit(f"no batch of {n} images with energies far enough apart in {DRAWS} draws")

    def is_clear(self, images):
        for x, y in zip(self.double.probe(images), self.float.probe(images)):
            finite = x.isfinite() & y.isfinite()
            sigma = (x - y)[finite].square().mean().sqrt()
            if x.abs().min() < MARGIN * sigma:
                return False
        if self.theta == (0.0, 0.0):
            return True
        energies, rounded = (run.energy(run.teacher_logits(images)).double() for run in (self.double, self.float))
        rounding = (rounded - energies).square().mean().sqrt()
        return min((energies - theta).abs().min() for theta in self.theta) > MARGIN * rounding

    def clear_batch(self, rows):
        for _ in range(DRAWS):
            images = self.draw(rows)
            if self.is_clear(images):
                return images
        sys.exit(f"no batch of {rows} images with clear decisions in {DRAWS} draws")

    def write(self, name, values, e32=-1.0, e16=-1.0):
        values = values.detach().double()
        if values.dim() == 4 and name != "images":
            values = values.permute(0, 2, 3, 1)
        data = values.contiguous().numpy().tobytes()
        out = sys.stdout.buffer
        out.write(struct.pack("128sqdd", name.encode(), values.numel(), float(e32), float(e16)))
        out.write(data)

    def run(self):
        self.write("theta", torch.tensor(self.theta))
        for step in range(self.case.steps):
            rows = self.case.last if step == self.case.steps - 2 else self.case.batch
            images = self.first if step == 0 else self.clear_batch(rows)
            labels = torch.randint(0, 100, (rows,), generator=self.generator)
            self.write("images", images)
            self.write("labels", labels)
            sys.stdout.buffer.flush()
            want = self.double.step(images, labels, self.theta)
            single_run = self.float.step(images, labels, self.theta)
            half_run = self.half.step(images, labels, self.theta) if step == 0 else None
            for name, value in want.items():
                e32 = (single_run[name].double() - value).norm()
                e16 = (half_run[name].double() - value).norm() if half_run else -1.0
                self.write(name, value, e32, e16)
            self.write("end", torch.zeros(1))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        Oracle(Case(sys.argv[1], line.split())).run()
