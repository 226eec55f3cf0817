"""Learning rates of PyTorch's schedulers, one a line, in the order of the cases of test_schedule.c."""
import warnings

import torch
from torch.optim import lr_scheduler

warnings.simplefilter("ignore")


def show(make, count, lr):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    for _ in range(count):
        print("%.17g" % optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def warmup_then_cosine(optimizer):
    warmup = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 10)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 30, 0.0)
    return lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [10])


show(lambda o: lr_scheduler.MultiStepLR(o, [150, 180, 210], 0.1), 240, 0.05)
show(lambda o: lr_scheduler.CosineAnnealingLR(o, 40, 0.001), 40, 0.1)
show(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.01, 50), 50, 0.2)
show(lambda o: lr_scheduler.CosineAnnealingLR(o, 3 * 7, 0.0), 21, 0.1)
show(warmup_then_cosine, 40, 0.4)
