"""Companion of tests/test_events.c: test_events.py FOLDER

FOLDER/all and FOLDER/resumed hold the event files that the C test wrote, histogram.f32 and picture.rgb what went into them.
TensorBoard's own readers must see the same values.
"""
import io
import logging
import os
import sys

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing import data_provider, event_accumulator, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

logging.getLogger("tensorboard").setLevel(logging.ERROR)
folder = sys.argv[1]


def load(name):
    accumulator = event_accumulator.EventAccumulator(
        os.path.join(folder, name),
        size_guidance={event_accumulator.SCALARS: 0, event_accumulator.IMAGES: 0, event_accumulator.HISTOGRAMS: 0})
    accumulator.Reload()
    return accumulator


def check_values():
    loaded = load("all")
    tags = loaded.Tags()
    # The accumulator shows the old form of values; the plugins migrate it.
    assert set(tags["scalars"]) == {"loss/total", "zero"}, tags
    loss = loaded.Scalars("loss/total")
    assert [event.step for event in loss] == list(range(10))
    assert [np.float32(event.value) for event in loss] == [np.float32(step * 0.1 + 1 / 3) for step in range(10)]
    assert [event.value for event in loaded.Scalars("zero")] == [0.0] * 10
    picture = loaded.Images("samples")[0]
    pixels = np.fromfile(os.path.join(folder, "picture.rgb"), np.uint8)
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        assert image.mode == "RGB" and image.size == (picture.width, picture.height)
        assert (np.asarray(image).ravel() == pixels).all()
    values = np.fromfile(os.path.join(folder, "histogram.f32"), np.float32).astype(np.float64)
    values = values[np.isfinite(values)]
    histogram = loaded.Histograms("energy")[0].histogram_value
    assert histogram.num == len(values) and histogram.min == values.min() and histogram.max == values.max()
    assert histogram.sum == np.cumsum(values)[-1]  # one after the other, as the writer adds
    assert histogram.sum_squares == np.cumsum(values ** 2)[-1]
    limits, counts = np.array(histogram.bucket_limit), np.array(histogram.bucket)
    assert (np.diff(limits) > 0).all() and limits[-1] == np.finfo(np.float64).max and counts[0] > 0
    below = np.searchsorted(np.sort(values), limits, side="left")  # values < limit
    assert (np.diff(np.concatenate([[0], below])) == counts).all()
    # Every limit belongs to the series +-1e-12 * 1.1^k, 0, +-DBL_MAX.
    power = np.log(np.abs(limits[:-1][limits[:-1] != 0]) / 1e-12) / np.log(1.1)
    assert np.allclose(power, np.round(power), atol=1e-6)
    assert loaded.Histograms("empty")[0].histogram_value.num == 0
    return len(limits)


def check_resumed():
    loss = load("resumed").Scalars("loss")
    got = [(event.step, event.value) for event in loss]
    assert got == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 106), (7, 107)], got
    early = [event.step for event in load("resumed").Scalars("only early")]
    assert early == [1, 2, 3, 4, 5], early  # nothing wrote it again: purged by the session's start alone


def check_plugin_histogram(provider, request_context):
    """Rows of left edge, right edge, count, as the page draws them."""
    tensors = provider.read_tensors(request_context, experiment_id="", plugin_name="histograms", downsample=100)["all"]
    rows = tensors["energy"][0].numpy
    assert (rows[:, 0] <= rows[:, 1]).all() and (rows[1:, 0] == rows[:-1, 1]).all(), rows
    assert rows[:, 2].sum() == 4997 and rows[0, 0] == np.float32(-1e25) and rows[-1, 1] == np.float32(1e25)
    assert tensors["empty"][0].numpy.shape == (0, 3)


def check_hparams():
    """As the HParams page sees it: through the data provider and the plugin's own handlers."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer(tensor_size_guidance={"scalars": 0})
    multiplexer.AddRunsFromDirectory(folder)
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, folder)
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=folder))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING])
    request_context = RequestContext()
    metadata = context.hparams_metadata(request_context, "")
    experiment = context.experiment_from_metadata(request_context, "", True, metadata, None)
    names = {info.name for info in experiment.hparam_infos}
    assert names == {"optim.lr", "model.student", "distill.limit", "run.notes"}, names
    groups = list_session_groups.Handler(request_context, context, "", request).run().session_groups
    by_name = {group.name: group for group in groups}
    assert set(by_name) == {"a run", "resumed"}, list(by_name)
    run = by_name["a run"]
    assert run.hparams["optim.lr"].number_value == 0.05
    assert run.hparams["model.student"].string_value == "wrn_16_2"
    assert run.hparams["distill.limit"].string_value == "inf"
    assert run.hparams["run.notes"].string_value == "caf\ufffd"
    assert [session.status for session in run.sessions] == [api_pb2.STATUS_SUCCESS]
    assert [session.status for session in by_name["resumed"].sessions] == [api_pb2.STATUS_FAILURE]
    check_plugin_histogram(provider, request_context)
    metrics = {value.name.tag: value.value for value in by_name["resumed"].sessions[0].metric_values}
    assert metrics["loss"] == 107, metrics


buckets = check_values()
check_resumed()
check_hparams()
print(f"TensorBoard reads scalars, image, histogram ({buckets} buckets), hparams; resumed steps replace the old ones")
