"""Companion of tests/test_pth_legacy.c: files in the form before torch 1.6, and what torch reads from them.

    test_pth_legacy.py DIR    writes DIR/<case>.pth and DIR/<case>.txt for each case and their names to DIR/cases, and
                              DIR/canary.pth, whose pickle would make DIR/canary. Status 77 without torch.

A .txt is what tests/weights_rig.h says. Files of Python 2 are written by Python's own pickler, taught the op-codes for
text and the layout of OrderedDict of that time, and are read back by torch for the listing.
"""
import argparse
import collections
import io
import os
import pickle
import struct
import sys

try:
    import torch
except ImportError:
    sys.exit(77)

from test_pth import TYPES, listing

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: byte strings in Latin-1, OrderedDict as a call with a list of lists."""
    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, storages=None, views=None):
        super().__init__(file, protocol=2)
        self.storages = {} if storages is None else storages
        self.views = views or {}

    def save_str(self, text):
        data = text.encode("latin-1")
        if len(data) < 256:
            self.write(b"U" + bytes([len(data)]) + data)
        else:
            self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = save_str

    def reducer_override(self, value):
        if isinstance(value, collections.OrderedDict):
            return collections.OrderedDict, ([[k, v] for k, v in value.items()],)
        if isinstance(value, torch.Tensor):
            storage = value._typed_storage()
            return torch._utils._rebuild_tensor, (storage, value.storage_offset(), tuple(value.size()), value.stride())
        return NotImplemented

    def persistent_id(self, value):
        if not isinstance(value, torch.storage.TypedStorage):
            return None
        key = str(value._cdata)
        self.storages[key] = value
        kind = getattr(torch, {torch.float32: "FloatStorage", torch.int64: "LongStorage"}[value.dtype])
        return ("storage", kind, key, "cpu", value._size(), self.views.get(key))


def python2(obj, little_endian=True, views=None):
    out = io.BytesIO()
    for head in (MAGIC, VERSION, {"protocol_version": VERSION, "little_endian": little_endian,
                                  "type_sizes": {"short": 2, "int": 4, "long": 4}}):
        Python2Pickler(out).dump(head)
    storages = {}
    Python2Pickler(out, storages, views).dump(obj)
    keys = sorted(storages)
    Python2Pickler(out).dump(keys)
    for key in keys:
        data = torch.tensor([], dtype=storages[key].dtype).set_(storages[key]._untyped_storage).numpy()
        out.write(struct.pack("<q", len(data)) + data.tobytes())
    return out.getvalue()


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def make(folder):
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5))
    state = net.state_dict()
    plain = listing(state)
    cases = []

    def note(name, wanted):
        cases.append(name)
        with open(f"{folder}/{name}.txt", "w") as out:
            out.write(wanted)

    def add(name, value, wanted, **how):
        torch.save(value, f"{folder}/{name}.pth", _use_new_zipfile_serialization=False, **how)
        note(name, wanted)

    def add_bytes(name, data, wanted=None):
        path = f"{folder}/{name}.pth"
        with open(path, "wb") as out:
            out.write(data)
        if wanted is None:
            wanted = listing(torch.load(path, weights_only=False, encoding="latin1"))
        note(name, wanted)

    add("plain", state, plain)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    optimizer.step()
    plain = listing(net.state_dict())
    add("wrapped", {"epoch": 3, "model": net.state_dict(), "optimizer": optimizer.state_dict(), "best_acc": 76.5}, plain)
    add("wrapped_twice", {"model": {"state_dict": state}}, plain)
    add("namespace", {"opt": argparse.Namespace(lr=0.1, names=["a", "b"], big=2**100, data=b"raw"), "net": state}, plain)
    add("parallel", torch.nn.DataParallel(net).state_dict(), plain)
    add("protocol4", state, plain, pickle_protocol=4)
    weights = {"w": torch.nn.Parameter(torch.randn(3, 4)), "b": torch.randn(2)}
    add("parameters", weights, listing(weights))
    typed = [t for t in TYPES if TYPES[t][0] != "U" or TYPES[t] == "U8"]
    types = {TYPES[t]: (torch.arange(6) % 2 if t == torch.bool else torch.arange(6)).to(t).reshape(2, 3) for t in typed}
    add("types", types, listing(types))
    base = torch.randn(4, 6)
    views = {"channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
             "whole": base, "transposed": base.t(), "part": base[1:3, 2:5], "row": base[2], "every_second": base[:, ::2],
             "scalar": torch.tensor(7), "empty": torch.zeros(0, 3), "one": base[3:4, 5:6], "half": base.half().t()}
    add("views", views, listing(views))
    add("mixed_values", {"w": base, "step": 7, "name": "x", "none": None, "list": [base]}, listing({"w": base}))
    add("complex_beside", {"model": {"w": base}, "spectrum": torch.zeros(3, dtype=torch.complex64)}, listing({"w": base}))
    add("complex", {"w": torch.zeros(2, dtype=torch.complex64)}, "error ComplexFloatStorage")
    add("expanded", {"w": torch.zeros(1).expand(10)}, "error .contiguous()")
    add("module", net, "error save model.state_dict()")
    add("nothing", {"epoch": 3}, "error no tensors")

    ordered = collections.OrderedDict((k, v.clone()) for k, v in state.items())
    add_bytes("python2", python2(ordered))
    add_bytes("python2_plain_dict", python2({"w": torch.randn(2, 3), "long" * 70: torch.arange(3)}))
    add_bytes("python2_latin1", python2({"caf\xe9": torch.randn(3), "\xff": torch.randn(1), "10\xb5m\x80": torch.randn(2)}))
    part = torch.randn(3)
    root = torch.randn(10)
    # A storage that is elements 4 to 6 of another: written as the root, with the part in the id's last member.
    views = {str(root._typed_storage()._cdata): ("v", 4, 3)}
    add_bytes("storage_view", python2({"w": root.as_strided((3,), (1,), 0)}, views=views))
    views = {str(root._typed_storage()._cdata): ("v", 4, 2)}
    add_bytes("storage_view_short", python2({"w": root.as_strided((3,), (1,), 0)}, views=views), "error reaches beyond")
    views = {str(root._typed_storage()._cdata): ("v", 8, 3)}
    add_bytes("storage_view_outside", python2({"w": root.as_strided((3,), (1,), 0)}, views=views),
              "error no storage in the form")
    add_bytes("big_endian", python2({"w": part}, little_endian=False), "error big-endian")

    torch.save({"model": state, "x": Canary(f"{folder}/canary")}, f"{folder}/canary.pth",
               _use_new_zipfile_serialization=False)
    note("canary", plain)
    with open(f"{folder}/cases", "w") as out:
        out.write("\n".join(cases) + "\n")


if __name__ == "__main__":
    make(sys.argv[1])
