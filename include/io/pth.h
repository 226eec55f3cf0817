/* `.pth` / `.pt` files of torch.save (the zip form, torch >= 1.6), read as data: the pickle inside is interpreted by
 * io/pickle.h, which builds values and runs nothing.
 *
 * The state dict is the file's object itself or what stands under `model`, `state_dict`, `state_dict_ema`, `net` or
 * `student`; other members (optimizer, arguments, epoch) are skipped unread. Entries come in the state dict's order,
 * under their names as saved; values that are not tensors are skipped. Strides are honoured: entries are dense.
 *
 * Every size is checked against the zip entry that holds the data, whose CRC is checked too. Refused, with the cure:
 * the form before 1.6, TorchScript archives, pickled module objects, big-endian files, quantised and complex
 * tensors, tensors that are expanded views. */
#ifndef CUDISTILL_IO_PTH_H
#define CUDISTILL_IO_PTH_H

#include "io/weights.h"

Err *pth_open(const char *path, WeightsFile **out);

#endif
