"""Oracle of test_distill_torch: losses of the distillation op by PyTorch in double, gradients by autograd.

usage: test_distill_torch.py FOLDER ROWS CLASSES
reads  z, t (float64), labels, t_rows (float64), writes one file of float64 per case: loss per row, then dz of the sum.
"""
import array
import sys

import torch
import torch.nn.functional as F

folder, n, c = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def read(name, *shape):
    values = array.array("d")
    with open(f"{folder}/{name}", "rb") as f:
        values.frombytes(f.read())
    return torch.tensor(values, dtype=torch.float64).reshape(*shape)


z = read("z", n, c).requires_grad_()
t = read("t", n, c)
y = read("labels", n).long()
t_rows = read("t_rows", n, 1)
target = F.one_hot(y, c).bool()


def kl(student, teacher, temperature):
    log_p = F.log_softmax(student / temperature, 1)
    q = F.softmax(teacher / temperature, 1)
    return F.kl_div(log_p, q, reduction="none").sum(1) * torch.as_tensor(temperature).reshape(-1) ** 2


def dkd(student, teacher, temperature, alpha, beta):
    def binary(x):
        prob = F.softmax(x / temperature, 1)
        on = prob[target]
        return torch.stack([on, (prob * ~target).sum(1)], 1)

    p, q = binary(student), binary(teacher)
    tckd = (q * (q.log() - p.log())).sum(1)
    others_p = student[~target].reshape(n, c - 1) / temperature
    others_q = teacher[~target].reshape(n, c - 1) / temperature
    nckd = F.kl_div(F.log_softmax(others_p, 1), F.softmax(others_q, 1), reduction="none").sum(1)
    return (alpha * tckd + beta * nckd) * temperature**2


def nkd(student, teacher, temperature, gamma):
    q1 = F.softmax(teacher, 1)[target]
    log_p1 = F.log_softmax(student, 1)[target]
    others_p = F.log_softmax(student[~target].reshape(n, c - 1) / temperature, 1)
    others_q = F.softmax(teacher[~target].reshape(n, c - 1) / temperature, 1)
    return -q1 * log_p1 - gamma * temperature**2 * (others_q * others_p).sum(1)


def standardise(x):
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-7)


def wsl(student, teacher):
    ratio = F.cross_entropy(student, y, reduction="none") / F.cross_entropy(teacher, y, reduction="none")
    return 2.25 * (1 - torch.exp(-ratio.detach())) * kl(student, teacher, 4.0)


ce = F.cross_entropy(z, y, reduction="none")
cases = {
    "kd": 0.1 * ce + 0.9 * kl(z, t, 4.0),
    "smoothing": F.cross_entropy(z, y, reduction="none", label_smoothing=0.125),
    "energy": 0.1 * ce + 0.9 * kl(z, t, t_rows),
    "dkd": ce + dkd(z, t, 4.0, 1.0, 8.0),
    "nkd": ce + nkd(z, t, 2.0, 1.5),
    "lskd": 0.1 * ce + 9.0 * kl(standardise(z), standardise(t), 2.0),
    "wsl": ce + wsl(z, t),
}
for name, loss in cases.items():
    (dz,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
    with open(f"{folder}/{name}", "wb") as f:
        array.array("d", torch.cat([loss.detach(), dz.reshape(-1)]).tolist()).tofile(f)
