"""Companion of tests/test_pth.c: files made by torch, and what torch reads from them.

    test_pth.py DIR [FILE]    writes DIR/<case>.pth and DIR/<case>.txt for each case and their names to DIR/cases;
                              for FILE only DIR/published.txt. Status 77 without torch.

A .txt holds a line "name TYPE shape md5" for each tensor of the state dict, or "error TEXT" where the file must be
refused with TEXT in the message.
"""
import argparse
import collections
import hashlib
import sys

try:
    import torch
except ImportError:
    sys.exit(77)

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
         torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
         torch.bool: "BOOL"}
for short in ("uint16", "uint32", "uint64"):
    if hasattr(torch, short):
        TYPES[getattr(torch, short)] = "U" + short[4:]


def line(name, tensor):
    tensor = tensor.detach().contiguous()
    data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    shape = "x".join(str(d) for d in tensor.shape)
    return f"{name} {TYPES[tensor.dtype]} {shape} {hashlib.md5(data).hexdigest()}\n"


def listing(state):
    return "".join(line(name, value) for name, value in state.items() if isinstance(value, torch.Tensor))


def make(folder):
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5))
    state = net.state_dict()
    plain = listing(state)
    cases = {}

    def add(name, value, wanted, **how):
        cases[name] = wanted
        torch.save(value, f"{folder}/{name}.pth", **how)
        with open(f"{folder}/{name}.txt", "w") as out:
            out.write(wanted)

    add("plain", state, plain)
    add("wrapped_model", {"epoch": 3, "model": state, "optimizer": torch.optim.SGD(net.parameters(), 0.1).state_dict()},
        plain)
    add("wrapped_twice", {"state_dict": {"model": state}}, plain)
    add("best_beside", {"best_acc1": torch.tensor(76.0), "state_dict": state}, plain)
    add("namespace", {"args": argparse.Namespace(lr=0.1, names=["a", "b"], big=2**100, data=b"raw"), "net": state}, plain)
    add("counter", {"opt": collections.Counter("abc"), "student": state}, plain)
    add("parallel", torch.nn.DataParallel(net).state_dict(), plain)
    add("prefix_twice", {"module.model." + k: v for k, v in state.items()}, plain)
    add("prefix_partly", {"model." + k if k.startswith("0") else k: v for k, v in state.items()},
        listing({"model." + k if k.startswith("0") else k: v for k, v in state.items()}))
    whole = {"module.student." + k: v for k, v in state.items()}
    whole.update({"module.teacher." + k: v + 1 for k, v in state.items()})
    add("distiller", {"model": whole}, plain)
    add("compiled", {"_orig_mod." + k: v for k, v in state.items()}, plain)
    add("compiled_parallel", {"state_dict": {"module._orig_mod." + k: v for k, v in state.items()}}, plain)
    whole = {"student." + k: v for k, v in state.items()}
    add("student_alone", whole, plain)
    whole.update({"teacher." + k: v + 1 for k, v in state.items()})
    whole["connector.weight"] = torch.zeros(3)
    add("lightning", {"epoch": 1, "state_dict": whole}, plain)
    add("own_module", {"student_head.w": torch.ones(2), "teacher.x": torch.ones(1)},
        listing({"student_head.w": torch.ones(2), "teacher.x": torch.ones(1)}))
    weights = {"w": torch.nn.Parameter(torch.randn(3, 4)), "b": torch.randn(2)}
    add("parameters", weights, listing(weights))
    types = {TYPES[t]: (torch.arange(6) % 2 if t == torch.bool else torch.arange(6)).to(t).reshape(2, 3) for t in TYPES}
    add("types", types, listing(types))
    base = torch.randn(4, 6)
    views = {"channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
             "transposed": base.t(), "part": base[1:3, 2:5], "row": base[2], "every_second": base[:, ::2],
             "scalar": torch.tensor(7), "empty": torch.zeros(0, 3), "one": base[3:4, 5:6], "half": base.half().t()}
    add("views", views, listing(views))
    add("mixed_values", {"w": base, "step": 7, "name": "x", "none": None, "list": [base]}, listing({"w": base}))
    add("protocol4", state, plain, pickle_protocol=4)
    add("protocol5", state, plain, pickle_protocol=5)
    add("défini", state, plain)
    add("complex", {"w": torch.zeros(2, dtype=torch.complex64)}, "error ComplexFloatStorage")
    add("expanded", {"w": torch.zeros(1).expand(10)}, "error .contiguous()")
    add("module", net, "error save model.state_dict()")
    add("nothing", {"epoch": 3}, "error no tensors")
    add("old_form", state, plain, _use_new_zipfile_serialization=False)
    add("script", None, "error TorchScript")
    torch.jit.script(net).save(f"{folder}/script.pth")
    with open(f"{folder}/cases", "w") as out:
        out.write("\n".join(cases) + "\n")


def main():
    make(sys.argv[1])
    if len(sys.argv) > 2:
        loaded = torch.load(sys.argv[2], map_location="cpu", weights_only=False)
        with open(f"{sys.argv[1]}/published.txt", "w") as out:
            out.write(listing(loaded["model"]))


if __name__ == "__main__":
    main()
