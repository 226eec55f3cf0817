"""Companion of tests/test_onnx.c: test_onnx.py zoo FOLDER | published FOLDER | images FOLDER CIFAR100 COUNT

Every FOLDER/MODEL.VARIANT.onnx must pass ONNX's checker with strict shape inference, and ONNX Runtime must give MODEL.logits
for MODEL.images (uint8, NHWC). images: writes the first COUNT test images of the mosaics in CIFAR100.
"""
import glob
import os
import sys

import numpy as np

TOLERANCE = 1e-3


def write_images(folder, cifar100, count):
    from PIL import Image
    side, tiles = 32, 100
    with Image.open(os.path.join(cifar100, "test-0.webp")) as mosaic:
        pixels = np.asarray(mosaic.convert("RGB"))
    images = pixels.reshape(tiles, side, tiles, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    images[:count].tofile(os.path.join(folder, "wrn_16_2.images"))
    labels = np.fromfile(os.path.join(cifar100, "test.labels"), np.uint8).reshape(-1, 2)[:, 1]
    labels[:count].tofile(os.path.join(folder, "labels"))


def check_structure(model, variant, batch):
    import onnx
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert {v.name for v in inferred.graph.value_info} == {v.name for v in model.graph.value_info}
    made = {name for node in model.graph.node for name in node.output}
    listed = {v.name for v in model.graph.value_info} | {v.name for v in model.graph.output}
    assert made == listed, made ^ listed
    assert [v.name for v in model.graph.input] == ["images"] and [v.name for v in model.graph.output] == ["logits"]
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert (first.dim_param == "batch") if batch is None else (first.dim_value == batch)
    kinds = {node.op_type for node in model.graph.node}
    leaves = {tensor.name.rsplit(".", 1)[1] for tensor in model.graph.initializer}
    normalised = {"Cast", "Div", "Sub"}
    assert (kinds & normalised == normalised) == (variant == "bytes")
    if variant == "float":
        assert leaves == {"weight", "bias", "running_mean", "running_var"}, leaves
    else:
        assert {"image.mean", "image.std", "image.range"} < {tensor.name for tensor in model.graph.initializer}
    return kinds


def metadata_of(model):
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata["source_hash"] == "00ff" and metadata["weights"] == "caf\ufffd.safetensors"
    mean, std = (np.array([float(v) for v in metadata[key].split(",")], np.float32) for key in ("mean", "std"))
    assert (mean == np.array([0.5071, 0.4867, 0.4408], np.float32)).all()
    assert (std == np.array([0.2675, 0.2565, 0.2761], np.float32)).all()
    return metadata["model"], int(metadata["classes"]), mean, std


def check_file(path, folder):
    import onnx
    import onnxruntime
    name, variant = os.path.basename(path).split(".")[:2]
    model = onnx.load(path)
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    kinds = check_structure(model, variant, fixed if fixed else None)
    given, classes, mean, std = metadata_of(model)
    assert given == name
    expected = np.fromfile(os.path.join(folder, name + ".logits"), np.float32).reshape(-1, classes)
    images = np.fromfile(os.path.join(folder, name + ".images"), np.uint8)
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    images = np.ascontiguousarray(images.reshape(len(expected), side, side, 3).transpose(0, 3, 1, 2))
    if variant == "float":
        images = (images / np.float32(255) - mean[:, None, None]) / std[:, None, None]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows in sorted({1, len(expected)}):
        logits = session.run(["logits"], {"images": images[:rows]})[0]
        assert logits.shape == (rows, classes)
        worst = max(worst, float(np.abs(logits - expected[:rows]).max()))
    # Logits that hardly differ between classes would agree whatever the file says.
    spread = float(expected.std(axis=1).mean())
    assert worst < TOLERANCE and spread > 100 * TOLERANCE, (name, variant, worst, spread)
    return name, variant, kinds, worst, spread, logits


def main():
    if sys.argv[1] == "images":
        write_images(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    folder = sys.argv[2]
    paths = sorted(glob.glob(os.path.join(folder, "*.onnx")))
    assert paths
    for path in paths:
        name, variant, kinds, worst, spread, logits = check_file(path, folder)
        folded = "" if "BatchNormalization" in kinds else ", all batch norm folded"
        print(f"{name:10} {variant}: largest difference {worst:.1e}, deviation of the logits {spread:.2f}{folded}")
        if sys.argv[1] == "published":
            labels = np.fromfile(os.path.join(folder, "labels"), np.uint8)
            right = int((logits.argmax(1) == labels).sum())
            print(f"{right} of {len(labels)} test images right in ONNX Runtime")
            assert right > 0.65 * len(labels)


main()
