/* What is left of a run that gives up because its gradient is not finite: RUN/nonfinite-step-N/batch.json.
 *
 * {"step", "epoch": from 1, "position": of the batch's first sample in the epoch, "rows", "loss", "ce", "terms": [sums of
 * the rows as OP_DISTILL gave them, weights included, per row], "rows_not_finite", "gradients_not_finite", "hyper": {"lr",
 * "momentum", "weight_decay", "clip_norm", "loss_scale"}, "first": the first tensor that is not finite, in the order
 * parameters, forward pass, loss, gradient, or null: {"what": "parameter" | "tensor", "name", "node", "op", "pass":
 * "parameters" | "forward" | "loss" | "backward", "net": "teacher" | "student", "elements", "not_finite"}, "samples":
 * [{"sample", "label", "dx", "dy", "flip", and "policy" with a policy: as samples.json}]}. Numbers that are not finite are null.
 *
 * The batch runs once more, node by node, on the weights as they are now; none of them changed while updates were
 * skipped. */
#ifndef CUDISTILL_TRAIN_NONFINITE_H
#define CUDISTILL_TRAIN_NONFINITE_H

#include "train/run.h"

/* Of the step of `flight`, whose batch is still held. Waits for the device; overwrites activations and gradients. What
 * cannot be written is a warning. */
void nonfinite_dump(Run *run, const Flight *flight);

#endif
