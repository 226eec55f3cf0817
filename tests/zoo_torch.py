"""The model zoo in PyTorch: the oracle of tests/test_models.c.

    zoo_torch.py keys                       every network's state_dict: lines "network key dim dim ..."
    zoo_torch.py forward DIR NAME:SIZE...   random weights, two images, logits and feature taps into DIR/NAME
    zoo_torch.py compare NAME FILE          FILE (safetensors) loads strictly and equals weights.pth beside it, but for
                                            num_batches_tracked, which is printed
"""

import collections
import os
import sys

import torch
from torch import nn
from torch.nn import functional

MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)


def conv(c_in, c_out, kernel, stride=1, bias=False):
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=bias)


def shortcut(c_in, c_out, stride):
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


class Basic(nn.Module):
    expansion = 1

    def __init__(self, c_in, width, stride):
        super().__init__()
        self.conv1 = conv(c_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(c_in, width, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, c_in, width, stride):
        super().__init__()
        self.conv1 = conv(c_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(c_in, 4 * width, stride)

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    """Both kinds: a 3x3 stem, or ImageNet's 7x7 stem of stride 2 with its max-pool."""

    def __init__(self, block, counts, stem, widths, classes, imagenet):
        super().__init__()
        self.imagenet = imagenet
        self.conv1 = conv(3, stem, 7, 2) if imagenet else conv(3, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        c = stem
        for stage, (count, width) in enumerate(zip(counts, widths)):
            blocks = []
            for i in range(count):
                blocks.append(block(c, width, 2 if stage and i == 0 else 1))
                c = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(widths)
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        taps = [x]
        if self.imagenet:
            x = functional.max_pool2d(x, 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
            taps.append(x)
        x = x.mean((2, 3))
        return self.fc(x), taps + [x]


class Preact(nn.Module):
    def __init__(self, c_in, width, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv(c_in, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        if c_in != width:
            self.convShortcut = conv(c_in, width, 1, stride)

    def forward(self, x):
        active = functional.relu(self.bn1(x))
        y = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return y + (self.convShortcut(active) if hasattr(self, "convShortcut") else x)


class WideResNet(nn.Module):
    def __init__(self, depth, widen, classes):
        super().__init__()
        self.conv1 = conv(3, 16, 3)
        c = 16
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            blocks = []
            for i in range((depth - 4) // 6):
                blocks.append(Preact(c, width, 2 if stage and i == 0 else 1))
                c = width
            outer = nn.Module()
            outer.layer = nn.Sequential(*blocks)
            setattr(self, f"block{stage + 1}", outer)
        self.bn1 = nn.BatchNorm2d(c)
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        x = self.conv1(x)
        taps = [x]
        for outer in (self.block1, self.block2, self.block3):
            x = outer.layer(x)
            taps.append(x)
        x = functional.relu(self.bn1(x)).mean((2, 3))
        return self.fc(x), taps + [x]


class Vgg(nn.Module):
    def __init__(self, counts, classes):
        super().__init__()
        c = 3
        for block, (count, width) in enumerate(zip(counts, (64, 128, 256, 512, 512))):
            layers = []
            for _ in range(count):
                layers += [conv(c, width, 3, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
                c = width
            setattr(self, f"block{block}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        pools = 4 if x.shape[2] == 64 else 3
        taps = []
        for block in range(5):
            x = functional.relu(getattr(self, f"block{block}")(x))
            taps.append(x)
            if block < pools:
                x = functional.max_pool2d(x, 2)
        x = x.mean((2, 3))
        return self.classifier(x), taps + [x]


def cifar_resnet(blocks, stem, *widths):
    return lambda: ResNet(Basic, (blocks,) * 3, stem, widths, 100, False)


def imagenet_resnet(block, *counts):
    return lambda: ResNet(block, counts, 64, (64, 128, 256, 512), 1000, True)


ZOO = {
    **{f"resnet{6 * n + 2}": cifar_resnet(n, 16, 16, 32, 64) for n in (1, 2, 3, 5, 7, 9, 18)},
    "resnet8x4": cifar_resnet(1, 32, 64, 128, 256),
    "resnet32x4": cifar_resnet(5, 32, 64, 128, 256),
    **{f"wrn_{d}_{k}": (lambda d=d, k=k: WideResNet(d, k, 100)) for d in (16, 40) for k in (1, 2)},
    "vgg8": lambda: Vgg((1, 1, 1, 1, 1), 100),
    "vgg11": lambda: Vgg((1, 1, 2, 2, 2), 100),
    "vgg13": lambda: Vgg((2, 2, 2, 2, 2), 100),
    "vgg16": lambda: Vgg((2, 2, 3, 3, 3), 100),
    "vgg19": lambda: Vgg((2, 2, 4, 4, 4), 100),
    "resnet18": imagenet_resnet(Basic, 2, 2, 2, 2),
    "resnet34": imagenet_resnet(Basic, 3, 4, 6, 3),
    "resnet50": imagenet_resnet(Bottleneck, 3, 4, 6, 3),
    "resnet101": imagenet_resnet(Bottleneck, 3, 4, 23, 3),
    "resnet152": imagenet_resnet(Bottleneck, 3, 8, 36, 3),
}


def keys():
    with torch.device("meta"):
        for name, make in ZOO.items():
            for key, value in make().state_dict().items():
                print(name, key, *value.shape)


def forward(folder, name, size):
    folder = os.path.join(folder, name)
    os.mkdir(folder)
    torch.manual_seed(len(name) + size)
    net = ZOO[name]().eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
        x = (images.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        logits, taps = net(x.permute(0, 3, 1, 2))
    torch.save(collections.OrderedDict(net.state_dict()), os.path.join(folder, "weights.pth"))

    def dump(tensor, file):
        if tensor.dim() == 4:
            tensor = tensor.permute(0, 2, 3, 1)
        with open(os.path.join(folder, file), "wb") as out:
            out.write(tensor.contiguous().numpy().tobytes())

    with open(os.path.join(folder, "images.bin"), "wb") as out:
        out.write(images.numpy().tobytes())
    dump(logits, "logits.bin")
    for i, tap in enumerate(taps):
        dump(tap, f"tap{i}.bin")


def compare(name, file):
    import safetensors.torch

    got = safetensors.torch.load_file(file)
    want = torch.load(os.path.join(os.path.dirname(file), "weights.pth"))
    ZOO[name]().load_state_dict(got, strict=True)
    for key, value in want.items():
        if got[key].dtype != value.dtype:
            sys.exit(f"{key}: {got[key].dtype} is not {value.dtype}")
        if not key.endswith("num_batches_tracked") and not torch.equal(got[key], value):
            sys.exit(f"{key}: values differ")
    print("batches", int(got[next(k for k in got if k.endswith("num_batches_tracked"))]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "keys":
        keys()
    elif sys.argv[1] == "forward":
        for case in sys.argv[3:]:
            network, side = case.split(":")
            forward(sys.argv[2], network, int(side))
    else:
        compare(sys.argv[2], sys.argv[3])
