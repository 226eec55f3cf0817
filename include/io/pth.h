/* `.pth` / `.pt` files of torch.save, read as data: the pickles inside are interpreted by io/pickle.h, which builds
 * values and runs nothing. Two forms, told apart by the first bytes: the zip archive (torch >= 1.6) and the sequence of
 * pickles before it (`_use_new_zipfile_serialization=False` still writes it; Python 2 pickles included).
 *
 * The state dict is the file's object itself or what stands under `model`, `state_dict`, `state_dict_ema`, `net` or
 * `student`, also of one another; other members (optimizer, arguments, epoch) are skipped unread. Entries come in the
 * state dict's order, under their names as saved; a name that is not UTF-8 is taken for Latin-1. Values that are not
 * tensors are skipped. Strides are honoured: entries are dense.
 *
 * Every size is checked against the bytes that hold the data; a zip entry's CRC is checked too. Refused, with the cure:
 * the tar form of torch 0.1, TorchScript archives, pickled module objects, big-endian files, quantised and complex
 * tensors, tensors that are expanded views. All with EXIT_BAD_DATA; *out is then NULL.
 *
 * Source: torch/serialization.py and torch/_utils.py of PyTorch describe both forms. */
#ifndef CUDISTILL_IO_PTH_H
#define CUDISTILL_IO_PTH_H

#include "io/weights.h"

Err *pth_open(const char *path, WeightsFile **out);
/* The same from memory, which must live as long as the result: entries of the older form point into it. `name` stands
 * for the file in messages. */
Err *pth_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out);

#endif
